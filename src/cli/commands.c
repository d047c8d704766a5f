/* What commands there are. */
#include "cli/cli_int.h"

#define READ_OPTS                                                                                  \
    (CLI_HAS(OPT_FROM) | CLI_HAS(OPT_BACKWARDS) | CLI_HAS(OPT_LIMIT) | CLI_HAS(OPT_FOLLOW) |       \
     CLI_HAS(OPT_TYPE) | CLI_HAS(OPT_PREFIX) | CLI_HAS(OPT_CATEGORY) | CLI_HAS(OPT_AT) |           \
     CLI_HAS(OPT_KEYS) | CLI_HAS(OPT_RESOLVE) | CLI_HAS(OPT_FOLLOW_MOVES) | CLI_HAS(OPT_MOVED) |   \
     CLI_HAS(OPT_LINKS) | CLI_HAS(OPT_START) | CLI_HAS(OPT_RAW))

#define SURGERY_OPTS                                                                               \
    (CLI_HAS(OPT_TO) | CLI_HAS(OPT_TRANSFORM) | CLI_HAS(OPT_WHERE) | CLI_HAS(OPT_NAME) |           \
     CLI_HAS(OPT_MODE) | CLI_HAS(OPT_REASON) | CLI_HAS(OPT_KEEP) | CLI_HAS(OPT_P99) |              \
     CLI_HAS(OPT_KEYS) | CLI_HAS(OPT_OLD) | CLI_HAS(OPT_PACE))

#define SELECT                                                                                     \
    "SELECT is a stream, 'CATEGORY-*', or 'PREFIX*'. Each stream moves in one commit, so nobody\n" \
    "ever sees half of it, and writers are not held up. The new names tell where it went.\n"

#define SOURCE_NAMES                                                                               \
    "NAME is a source of the configuration (-c FILE), or MIGRATION.old or MIGRATION.new."

#define SETTINGS                                                                                   \
    "STREAM is a stream, $all, $ce-CATEGORY or $et-TYPE. Settings, and what they are if not "      \
    "given:\n"                                                                                     \
    "  strategy=round-robin|single|pinned|pinned-by-correlation\n"                                 \
    "  from=end|beginning|N  message_timeout_ms=30000  max_retry_count=10  park_behind=false\n"    \
    "  links=ignore  moved=deliver  max_subscriber_count=0  checkpoint_after_ms=2000\n"            \
    "  min_checkpoint_count=10  max_checkpoint_count=1000  live_buffer_size=500\n"                 \
    "  history_buffer_size=500  read_batch_size=20  extra_statistics=false\n"                      \
    "and for $all filter.prefix, .category, .type, .type_prefix, .stream_regex, .type_regex,\n"    \
    ".system."

#define WORDS_MAX 1000

const struct cli_command clii_commands[] = {
    {"append", "STREAM", "Append events to a stream",
     "Reads events from stdin, a line of JSON each:\n"
     "  {\"type\":\"Deposited\",\"data\":{\"amount\":100},\"metadata\":{…},\"id\":\"UUID\"}\n"
     "metadata and id may be left out; data_base64 and metadata_base64 take other bytes.\n"
     "\"subject\":\"NAME\" keeps the data under that subject's key (oxbow subject erase).\n"
     "Up to --batch events (and 8 MiB) become one commit, all or nothing. What was\n"
     "committed before a bad line stays; the error says how far that is.",
     1, 1, CLI_HAS(OPT_EXPECT) | CLI_HAS(OPT_BATCH) | CLI_HAS(OPT_KEYS) | CLI_HAS(OPT_FOLLOW_MOVES),
     clii_append},
    {"read", "STREAM|'$all'", "Read events",
     "On a terminal a table, otherwise or with --json a line of JSON for each event.\n"
     "'$ce-NAME' has the events of a category, '$et-TYPE' those of a type, '$streams' a\n"
     "link to the first event of each stream; --from counts positions there, as for '$all'.",
     1, 1, READ_OPTS, clii_read},
    {"stream list", "[PREFIX]", "List streams", NULL, 0, 1, CLI_HAS(OPT_LIMIT), clii_stream_list},
    {"stream info", "STREAM", "Show what a stream has", NULL, 1, 1, 0, clii_stream_info},
    {"stream delete", "STREAM", "Delete a stream; the next append brings it back",
     "Its events are hidden at once. A stream that comes back goes on with its numbers.", 1, 1,
     CLI_HAS(OPT_EXPECT), clii_stream_delete},
    {"stream tombstone", "STREAM", "Delete a stream for good",
     "Nothing can be appended to it ever again.", 1, 1, CLI_HAS(OPT_EXPECT), clii_stream_tombstone},
    {"stream truncate", "STREAM BEFORE", "Hide the events below a version",
     "Beyond the stream's end BEFORE means its end. What is hidden does not come back.", 2, 2,
     CLI_HAS(OPT_EXPECT), clii_stream_truncate},
    {"stream close", "STREAM", "Let a stream be read only", NULL, 1, 1, CLI_HAS(OPT_EXPECT),
     clii_stream_close},
    {"stream open", "STREAM", "Let a closed stream be written again", NULL, 1, 1,
     CLI_HAS(OPT_EXPECT), clii_stream_open},
    {"stream metadata", "STREAM [JSON]", "Show a stream's metadata, or replace it",
     "  oxbow stream metadata account-7 '{\"$maxCount\":100,\"owner\":\"billing\"}'\n"
     "$maxCount and $maxAge (seconds) limit what can be read, $tb hides the versions below\n"
     "it; other members are kept. --expect is the version of the metadata.",
     1, 2, CLI_HAS(OPT_EXPECT), clii_stream_metadata},
    {"stream link", "SELECT… --to NAME | STREAM VERSION@STREAM…",
     "Close streams, with links to their events in new ones; or append links",
     SELECT "The originals stay, and take no more events. A transform may route.\n"
            "  oxbow stream link 'order-*' --to 'purchase-{key}'\n"
            "Without --to and --transform links are appended to a stream. oxbow read --resolve\n"
            "shows the events that links lead to.",
     1, WORDS_MAX, SURGERY_OPTS | CLI_HAS(OPT_EXPECT), clii_stream_link},
    {"stream copy", "SELECT…", "Move streams to new ones, changed by a transform or as they are",
     SELECT "  oxbow stream copy 'order-*' --to 'purchase-{key}' --transform upcast.yaml", 1,
     WORDS_MAX, SURGERY_OPTS, clii_surgery_begin},
    {"stream rewrite", "SELECT…", "Change streams' events in place, by a transform",
     SELECT "The new events stand in the same stream, and hide the old ones.", 1, WORDS_MAX,
     SURGERY_OPTS, clii_surgery_begin},
    {"stream split", "SELECT…", "Move each stream's events to several streams",
     SELECT "The transform's rules route; what they do not name goes to --to.\n"
            "  oxbow stream split 'truck-*' --to 'vehicle-{key}' --transform engines.yaml",
     1, WORDS_MAX, SURGERY_OPTS, clii_surgery_begin},
    {"stream join", "SELECT…", "Move several streams' events into one, in the log's order",
     SELECT "  oxbow stream join 'vehicle-*' 'engine-*' --to 'truck-{key}'", 1, WORDS_MAX,
     SURGERY_OPTS, clii_surgery_begin},
    {"stream plan", "copy|rewrite|split|join|link SELECT…", "Say what a surgery would do", SELECT,
     2, WORDS_MAX, SURGERY_OPTS | CLI_HAS(OPT_SAMPLE) | CLI_HAS(OPT_THEN), clii_surgery_plan},
    {"stream surgeries", "", "List surgeries", NULL, 0, 0, 0, clii_surgery_list},
    {"stream surgery", "NAME", "Show how far a surgery is", NULL, 1, 1, 0, clii_surgery_show},
    {"stream audit", "NAME", "Prove a surgery: derive its targets again, and compare", NULL, 1, 1,
     CLI_HAS(OPT_KEYS), clii_surgery_audit},
    {"stream pause", "NAME", "Let a surgery rest", NULL, 1, 1, 0, clii_surgery_command},
    {"stream resume", "NAME", "Go on with a surgery that was paused, cut off or failed", NULL, 1, 1,
     CLI_HAS(OPT_KEYS), clii_surgery_command},
    {"stream cancel", "NAME", "End a surgery; what was moved stays moved", NULL, 1, 1, 0,
     clii_surgery_command},
    {"stream rollback", "NAME", "Move back what a surgery moved",
     "Events that the new streams got since go along.", 1, 1, CLI_HAS(OPT_KEYS),
     clii_surgery_command},
    {"stream unroute", "NAME", "End a surgery's routing: its old streams take no more events",
     "For one begun with --old-writers route, when the old software is gone.", 1, 1,
     CLI_HAS(OPT_KEYS), clii_surgery_command},
    {"stream drop", "NAME", "Give the originals of a surgery up",
     "They are hidden but for the event that says where they went; oxbow log scavenge gives the\n"
     "disk back.",
     1, 1, 0, clii_surgery_command},
    {"log info", "", "Show what the log has", NULL, 0, 0, 0, clii_log_info},
    {"log verify", "", "Read all of the log and hold its index against it", NULL, 0, 0, 0,
     clii_log_verify},
    {"log backup", "DIR", "Copy what is new in the log into a backup folder",
     "Works on a data folder, and with --server in a running one: then DIR is on the server's\n"
     "machine. What was copied before is not copied again; every checksum is verified. The keys "
     "of\n"
     "subjects are not part of it.",
     1, 1, CLI_HAS(OPT_RATE), clii_log_backup},
    {"log restore", "DIR", "Make a data folder out of a backup",
     "The folder of --data must be empty or not be there. Every checksum is verified.", 1, 1,
     CLI_HAS(OPT_RATE) | CLI_HAS(OPT_VERIFY_ONLY), clii_log_restore},
    {"log reindex", "", "Make the index again from the log", NULL, 0, 0, 0, clii_log_reindex},
    {"log scavenge", "", "Give the disk back that hidden events take",
     "Writes segments anew without what no read can show any more: truncated events and\n"
     "those of deleted streams. Positions stay. What has been done when it is interrupted\n"
     "stays done; another run goes on. With --server the server does it, and goes on when\n"
     "this command is interrupted.",
     0, 0, CLI_HAS(OPT_DRY_RUN) | CLI_HAS(OPT_RATE) | CLI_HAS(OPT_MIN_SHARE) | CLI_HAS(OPT_STOP),
     clii_log_scavenge},
    {"log export", "", "Write the whole log as lines of JSON",
     "All streams, with the commits that the events are of, what is hidden and still on the\n"
     "disk too, and then what is deleted, truncated or closed; oxbow log import takes it.",
     0, 0, CLI_HAS(OPT_KEYS), clii_log_export},
    {"log import", "", "Put an exported log into this one",
     "Reads stdin. Each commit is taken over whole, where every stream is just before it.\n"
     "Positions are new; streams, versions, ids, times, bytes and what is hidden stay. A\n"
     "stream whose first events were scavenged cannot be imported: oxbow log backup keeps it.",
     0, 0, CLI_HAS(OPT_KEYS), clii_log_import},
    {"subject list", "", "List the subjects whose data is under keys", NULL, 0, 0,
     CLI_HAS(OPT_KEYS), clii_subject_list},
    {"subject show", "NAME", "Show a subject's keys and what is under them", "Reads the whole log.",
     1, 1, CLI_HAS(OPT_KEYS), clii_subject_show},
    {"subject erase", "NAME", "Shred a subject's key: its data is unreadable from then on",
     "Everywhere, in copies and backups too: only the keystore can read it, and the keystore has\n"
     "no copy of the key. Says what is touched, and writes an event to $subjects. --streams\n"
     "deletes streams as well, for what was never under a key.",
     1, 1, CLI_HAS(OPT_KEYS) | CLI_HAS(OPT_STREAMS), clii_subject_erase},
    {"serve", "", "Serve the log over HTTP",
     "Listens on 127.0.0.1:2113 unless told otherwise. SIGTERM stops it when what is in\n"
     "flight is done; SIGHUP reads the configuration again. An address that other machines reach\n"
     "needs TLS, and users: where there is none, admin and ops are made with a password each\n"
     "($OXBOW_ADMIN_PASSWORD and $OXBOW_OPS_PASSWORD, else generated and said once).",
     0, 0, CLI_HAS(OPT_LISTEN) | CLI_HAS(OPT_KEYS) | CLI_HAS(OPT_INSECURE), clii_serve},
    {"top", "", "Watch what a running server does",
     "On a terminal until interrupted, else one page; -n says how many.", 0, 0,
     CLI_HAS(OPT_LIMIT) | CLI_HAS(OPT_EVERY), clii_top},
    {"check", "", "Check a configuration and probe every system it names", NULL, 0, 0, 0,
     clii_check},
    {"transform test", "FILE", "Show what a transform makes of events",
     "  oxbow read orders-42 --raw | oxbow transform test rules.yaml\n"
     "FILE is YAML, or a script whose name ends with .lua. Reads events from stdin, a line of "
     "JSON\n"
     "each. Below each event stands what comes out: = as it was, ~ changed, - nothing.",
     1, 1, 0, clii_transform_test},
    {"source list", "", "List a server's sources", NULL, 0, 0, 0, clii_source_list},
    {"source show", "NAME", "Show a source's state", NULL, 1, 1, 0, clii_source_show},
    {"source check", "NAME", "Probe a source", SOURCE_NAMES, 1, 1, 0, clii_source_check},
    {"source prepare", "NAME", "Set up what capture needs at a source", SOURCE_NAMES, 1, 1,
     CLI_HAS(OPT_DRY_RUN), clii_source_prepare},
    {"source unprepare", "NAME", "Take away what prepare made", SOURCE_NAMES, 1, 1, 0,
     clii_source_unprepare},
    {"outbox sql", "", "Write the schema of an outbox, and its insert, to be copied",
     "With the table and the function that messages need which are verified after they were\n"
     "published. docs/outbox.md says which source reads what.",
     0, 0, CLI_HAS(OPT_FOR), clii_outbox_sql},
    {"source pause", "NAME", "Capture nothing until resume, over restarts too", NULL, 1, 1, 0,
     clii_source_command},
    {"source resume", "NAME", "Go on after a pause, a drop or a failure", NULL, 1, 1, 0,
     clii_source_command},
    {"source snapshot", "NAME [TABLE]", "Read a table's rows again while streaming goes on",
     "--differences: only rows that are not as they were captured last, and Deleted for those\n"
     "that are gone. --gap is the way out where the source lost what was not captured yet (a\n"
     "slot, a binary log): after `source prepare`, it goes on from where the source is now, with\n"
     "the differences of every table.",
     1, 2, CLI_HAS(OPT_DIFFERENCES) | CLI_HAS(OPT_GAP), clii_source_command},
    {"source drop", "NAME", "Forget a source's place, and take away what prepare made",
     "What was captured stays. After `source prepare`, `source resume` begins anew.", 1, 1, 0,
     clii_source_command},
    {"source parked", "list|show|replay|drop NAME …", "Look after what is parked, and why",
     "  list NAME               a line of JSON for each: the version of its record, the reason,\n"
     "                          and what is known of it but its content\n"
     "  show NAME VERSION       all of the record\n"
     "  replay NAME [VERSION]   make events of them by the settings as they are now (queues)\n"
     "  drop NAME VERSION|all   give them up (queues)",
     2, 3, 0, clii_source_parked},
    {"sink list", "", "List a server's sinks", NULL, 0, 0, 0, clii_sink_list},
    {"sink show", "NAME", "Show a sink's state", NULL, 1, 1, 0, clii_sink_show},
    {"sink replay", "NAME", "Deliver a range of the log to a sink once more",
     "From --from on, up to --to, or to what is the log's end now. A place is beginning, end, a\n"
     "position or a time. The delivery stands still meanwhile, and goes on where it was. The\n"
     "events keep their ids; --from cancel ends a replay where it is.",
     1, 1, CLI_HAS(OPT_FROM) | CLI_HAS(OPT_TO), clii_sink_replay},
    {"sink parked", "list|show|replay|skip|drop NAME …", "Look after what is parked, and why",
     "  list NAME [STREAM]     a line of JSON for each: its position, stream, version, id, type,\n"
     "                         the reason and the number of attempts\n"
     "  show NAME POSITION     the event itself, and why it is parked\n"
     "  replay NAME [STREAM]   deliver them again, each stream's oldest first\n"
     "  skip NAME [STREAM]     give the oldest one of a stream up and replay the rest\n"
     "  drop NAME STREAM       give all of a stream up",
     2, 3, 0, clii_sink_parked},
    {"sink pause", "NAME", "Deliver nothing until resume, over restarts too", NULL, 1, 1, 0,
     clii_sink_command},
    {"sink resume", "NAME", "Go on after a pause", NULL, 1, 1, 0, clii_sink_command},
    {"sink seek", "NAME beginning|end|POSITION|TIME", "Go on from another position",
     "Backwards delivers again, under the same ids; forwards leaves out. Parked events stay\n"
     "parked. A sink with transactions has its checkpoint on its far side.",
     2, 2, 0, clii_sink_command},
    {"group list", "[STREAM]", "List consumer groups", NULL, 0, 1, 0, clii_group_list},
    {"group show", "STREAM GROUP", "Show a group's state, members and settings", NULL, 2, 2, 0,
     clii_group_show},
    {"group create", "STREAM GROUP [SETTING=VALUE …]", "Make a consumer group", SETTINGS, 2, 40, 0,
     clii_group_create},
    {"group update", "STREAM GROUP SETTING=VALUE …", "Change a group's settings", SETTINGS, 3, 40,
     0, clii_group_update},
    {"group delete", "STREAM GROUP", "Delete a group; its members are ended", NULL, 2, 2, 0,
     clii_group_delete},
    {"group consume", "STREAM GROUP", "Write a group's events and acknowledge what was written",
     "A line of JSON for each event, until interrupted or --limit is reached.", 2, 2,
     CLI_HAS(OPT_LIMIT), clii_group_consume},
    {"group pull", "STREAM GROUP [MEMBER]", "Take events as a member, for scripts",
     "Answers with the member's name: for the next pull, for ack and for nack. A member that\n"
     "says nothing for a minute is gone, and its events go to others.",
     2, 3, CLI_HAS(OPT_LIMIT), clii_group_pull},
    {"group ack", "STREAM GROUP MEMBER POSITION …", "Acknowledge events of a pull", NULL, 4,
     WORDS_MAX, 0, clii_group_ack},
    {"group nack", "STREAM GROUP MEMBER park|retry|skip|stop POSITION …",
     "Say that events of a pull were not done", NULL, 5, WORDS_MAX, 0, clii_group_nack},
    {"group parked", "STREAM GROUP", "List parked events, a line of JSON each", NULL, 2, 2, 0,
     clii_group_parked},
    {"group replay", "STREAM GROUP", "Hand parked events out again", NULL, 2, 2, CLI_HAS(OPT_LIMIT),
     clii_group_replay},
    {"group skip", "STREAM GROUP", "Give parked events up, the oldest first", NULL, 2, 2,
     CLI_HAS(OPT_LIMIT), clii_group_skip},
    {"index create", "NAME", "Make an index on a field of events",
     "  oxbow index create orders_by_customer --category orders --path customer.id\n"
     "Indexes the value at --path of the data, or with --metadata of the metadata; an array's\n"
     "elements each. In a folder it is built at once, at a server in the background.",
     1, 1,
     CLI_HAS(OPT_PATH) | CLI_HAS(OPT_METADATA) | CLI_HAS(OPT_CATEGORY) | CLI_HAS(OPT_PREFIX) |
         CLI_HAS(OPT_TYPE),
     clii_index_create},
    {"index list", "", "List indexes with their state", NULL, 0, 0, 0, clii_index_list},
    {"index show", "NAME", "Show an index and how far it is", NULL, 1, 1, 0, clii_index_show},
    {"index drop", "NAME", "Drop an index; events stay", NULL, 1, 1, 0, clii_index_drop},
    {"index rebuild", "NAME", "Throw an index's entries away and build it again", NULL, 1, 1, 0,
     clii_index_rebuild},
    {"index read", "NAME VALUE", "Read the events that have a value, by position",
     "VALUE is JSON where it is a number, true, false, null or a quoted string; else it is a\n"
     "string as it stands. A line of JSON for each event.",
     2, 2, CLI_HAS(OPT_FROM) | CLI_HAS(OPT_BACKWARDS) | CLI_HAS(OPT_LIMIT) | CLI_HAS(OPT_KEYS),
     clii_index_read},
    {"index values", "NAME", "List an index's values with their counts, a line of JSON each", NULL,
     1, 1, CLI_HAS(OPT_LIMIT), clii_index_values},
    {"migrate list", "", "List a server's migrations", NULL, 0, 0, 0, clii_migrate_list},
    {"migrate show", "NAME", "Show a migration's state", NULL, 1, 1, CLI_HAS(OPT_WATCH),
     clii_migrate_show},
    {"migrate report", "NAME", "Show the last verification", NULL, 1, 1, 0, clii_migrate_report},
    {"migrate start", "NAME", "Begin: preflight, sync, backfill, verify", NULL, 1, 1,
     CLI_HAS(OPT_WATCH), clii_migrate_command},
    {"migrate pause", "NAME", "Stop where it is", NULL, 1, 1, 0, clii_migrate_command},
    {"migrate resume", "NAME", "Go on after a pause or a halt", NULL, 1, 1, CLI_HAS(OPT_WATCH),
     clii_migrate_command},
    {"migrate verify", "NAME", "Compare both sides now", NULL, 1, 1, CLI_HAS(OPT_WATCH),
     clii_migrate_command},
    {"migrate repair", "NAME", "Write the authority's rows over those that differ", NULL, 1, 1,
     CLI_HAS(OPT_WATCH), clii_migrate_command},
    {"migrate switch", "NAME", "Make the new side the authority", NULL, 1, 1, 0,
     clii_migrate_command},
    {"migrate reverse", "NAME", "Make the old side the authority again", NULL, 1, 1, 0,
     clii_migrate_command},
    {"migrate complete", "NAME fallback|retire", "End it: keep the old side up to date, or not",
     NULL, 2, 2, 0, clii_migrate_command},
    {"migrate backfill", "NAME on|off", "Let the backfill run, or hold it", NULL, 2, 2, 0,
     clii_migrate_command},
    {"migrate cancel", "NAME", "Give it up while the old side has authority", NULL, 1, 1, 0,
     clii_migrate_command},
    {"user list", "", "List users", NULL, 0, 0, 0, clii_user_list},
    {"user show", "NAME", "Show a user, with the tokens", NULL, 1, 1, 0, clii_user_show},
    {"user add", "NAME", "Make a user",
     "The password comes from $OXBOW_NEW_PASSWORD, else from the first line of stdin; a terminal\n"
     "is asked. Roles: admin may do everything, ops what keeps the server going, read and write\n"
     "are for streams that no $acl and no permission of the configuration decides about.",
     1, 1, CLI_HAS(OPT_ROLE) | CLI_HAS(OPT_GROUP) | CLI_HAS(OPT_FULL_NAME) | CLI_HAS(OPT_GENERATE),
     clii_user_add},
    {"user change", "NAME", "Change a user's roles, groups or full name",
     "What is not given stays. The user's open reads end, and begin anew with the new rights.", 1,
     1, CLI_HAS(OPT_ROLE) | CLI_HAS(OPT_GROUP) | CLI_HAS(OPT_FULL_NAME), clii_user_change},
    {"user passwd", "NAME", "Give a user another password",
     "As for user add. Who is no admin gives the present one in $OXBOW_PASSWORD.", 1, 1,
     CLI_HAS(OPT_GENERATE), clii_user_passwd},
    {"user disable", "NAME", "Let a user do nothing until user enable", NULL, 1, 1, 0,
     clii_user_command},
    {"user enable", "NAME", "Let a disabled user in again", NULL, 1, 1, 0, clii_user_command},
    {"user delete", "NAME", "Delete a user, with the tokens", NULL, 1, 1, 0, clii_user_command},
    {"user token", "add|list|revoke NAME [ID]", "Make, list or revoke a user's tokens",
     "  OXBOW_TOKEN=$(oxbow user token add billing --label nightly --expires 90d)\n"
     "add writes the token, which is kept nowhere and shown once; with --json its id too.",
     2, 3, CLI_HAS(OPT_LABEL) | CLI_HAS(OPT_EXPIRES), clii_user_token},
    {"completion", "bash|zsh", "Write a completion script for a shell",
     "bash: source <(oxbow completion bash)\nzsh:  source <(oxbow completion zsh)", 1, 1, 0,
     clii_completion},
    {"manual", "", "Write the manual page", "man -l <(oxbow manual)", 0, 0, 0, clii_manual},
    {0},
};
