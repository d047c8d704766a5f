/* What commands there are. */
#include "cli/cli_int.h"

#define READ_OPTS                                                                                  \
    (CLI_HAS(OPT_FROM) | CLI_HAS(OPT_BACKWARDS) | CLI_HAS(OPT_LIMIT) | CLI_HAS(OPT_FOLLOW) |       \
     CLI_HAS(OPT_TYPE) | CLI_HAS(OPT_PREFIX) | CLI_HAS(OPT_CATEGORY) | CLI_HAS(OPT_AT))

const struct cli_command clii_commands[] = {
    {"append", "STREAM", "Append events to a stream",
     "Reads events from stdin, a line of JSON each:\n"
     "  {\"type\":\"Deposited\",\"data\":{\"amount\":100},\"metadata\":{…},\"id\":\"UUID\"}\n"
     "metadata and id may be left out; data_base64 and metadata_base64 take other bytes.\n"
     "Up to --batch events (and 8 MiB) become one commit, all or nothing. What was\n"
     "committed before a bad line stays; the error says how far that is.",
     1, 1, CLI_HAS(OPT_EXPECT) | CLI_HAS(OPT_BATCH), clii_append},
    {"read", "STREAM|'$all'", "Read events",
     "On a terminal a table, otherwise or with --json a line of JSON for each event.", 1, 1,
     READ_OPTS, clii_read},
    {"stream list", "[PREFIX]", "List streams", NULL, 0, 1, CLI_HAS(OPT_LIMIT), clii_stream_list},
    {"stream info", "STREAM", "Show what a stream has", NULL, 1, 1, 0, clii_stream_info},
    {"log info", "", "Show what the log has", NULL, 0, 0, 0, clii_log_info},
    {"serve", "", "Serve the log over HTTP",
     "Listens on 127.0.0.1:2113 unless told otherwise. SIGTERM stops it when what is in\n"
     "flight is done; SIGHUP reads the configuration again.",
     0, 0, CLI_HAS(OPT_LISTEN), clii_serve},
    {0},
};
