/*
 * Inside the command line only: what a command is, what it was given, and
 * where it does its work: in a folder of its own or at a server.
 *
 * One thread. Results go to stdout through clii_put_*, which stop for good
 * when nobody reads any more; everything else goes to stderr.
 */
#ifndef OX_CLI_CLI_INT_H
#define OX_CLI_CLI_INT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

/* What the program ends with. */
enum cli_exit {
    CLI_DONE = 0,
    CLI_REFUSED = 1,
    CLI_USAGE = 2,
    CLI_UNREACHABLE = 3, /* a folder or a server that cannot be opened or reached */
};

enum cli_opt {
    OPT_DATA,
    OPT_SERVER,
    OPT_CONF,
    OPT_JSON,
    OPT_HELP,
    OPT_VERSION,
    OPT_EXPECT,
    OPT_BATCH,
    OPT_FROM,
    OPT_BACKWARDS,
    OPT_LIMIT,
    OPT_FOLLOW,
    OPT_TYPE,
    OPT_PREFIX,
    OPT_CATEGORY,
    OPT_AT,
    OPT_LISTEN,
    OPT_DRY_RUN,
    OPT_WATCH,
    OPT_RATE,
    OPT_VERIFY_ONLY,
    OPT_KEYS,
    OPT_STREAMS,
    OPT_RESOLVE,
    OPT_RAW,
    OPT_MIN_SHARE,
    OPT_STOP,
    OPT_PATH,
    OPT_METADATA,
    OPT_DIFFERENCES,
    OPT_GAP,
    OPT_EVERY,
    OPT_INSECURE,
    OPT_FOLLOW_MOVES,
    OPT_MOVED,
    OPT_LINKS,
    OPT_START,
    OPT_TO,
    OPT_TRANSFORM,
    OPT_WHERE,
    OPT_NAME,
    OPT_MODE,
    OPT_REASON,
    OPT_KEEP,
    OPT_P99,
    OPT_PACE,
    OPT_SAMPLE,
    OPT_OLD,
    OPT_THEN,
    OPT_FOR,
    OPT_USER,
    OPT_ROLE,
    OPT_GROUP,
    OPT_FULL_NAME,
    OPT_GENERATE,
    OPT_LABEL,
    OPT_EXPIRES,
    OPT_COUNT
};

_Static_assert(OPT_COUNT <= 64, "a command's options are the bits of a number");
#define CLI_HAS(opt) (UINT64_C(1) << (opt))
/* Every command takes these. */
#define CLI_COMMON                                                                                 \
    (CLI_HAS(OPT_DATA) | CLI_HAS(OPT_SERVER) | CLI_HAS(OPT_CONF) | CLI_HAS(OPT_JSON) |             \
     CLI_HAS(OPT_HELP) | CLI_HAS(OPT_VERSION) | CLI_HAS(OPT_USER))

struct cli;

struct cli_option {
    const char *name;
    char        letter; /* 0: none */
    const char *value;  /* what it takes; NULL: nothing */
    const char *doc;
};

struct cli_command {
    const char *name; /* one word, or two: "log info" */
    const char *args; /* as in the usage line */
    const char *doc;  /* one line */
    const char *more; /* what else --help says; may be NULL */
    unsigned    args_min, args_max;
    uint64_t    opts; /* beyond CLI_COMMON */
    int (*run)(struct cli *, struct err *);
};

struct cli {
    const struct cli_command *command;
    const char               *opt[OPT_COUNT]; /* as given; NULL: not given */
    const char *const        *args;
    unsigned                  arg_count;
    bool                      out_tty, err_tty;
    bool                      opening;      /* a failure now is CLI_UNREACHABLE */
    bool                      without_keys; /* clii_log_open: no keystore is needed */
    struct ox_subjects       *subjects;     /* of the log that is open */
    struct stream_router     *router;       /* the same */
    struct buf                out;
    bool                      out_closed; /* nobody reads stdout any more */
};

extern const struct cli_option  clii_options[OPT_COUNT];
extern const struct cli_command clii_commands[]; /* ends with a name of NULL */

/* The command line into c; `words` has room for all of argv. */
int  clii_parse(struct cli *c, int argc, char **argv, const char **words, struct err *err);
void clii_help(struct cli *c); /* of the command, or of all of them */

bool        clii_json(const struct cli *c);
const char *clii_data(const struct cli *c);   /* the folder */
const char *clii_server(const struct cli *c); /* NULL: no server */

/* A number from 0 to max; E_USAGE. Absent: `preset`. */
int
clii_number(const struct cli *c, enum cli_opt opt, uint64_t preset, uint64_t *out, struct err *err);

/* "30d", "12h", "90m", "45s": E_USAGE for anything else. The option has to be there. */
int clii_seconds(const struct cli *c, enum cli_opt opt, uint64_t *seconds, struct err *err);

/* The nearest of the words, or NULL where none is near; `words` ends with NULL. */
const char *clii_nearest(const char *word, const char *const *words);

/* output */

void clii_put(struct cli *c, const void *data, size_t len);
void clii_put_str(struct cli *c, const char *text);
void clii_put_buf(struct cli *c, struct buf *b); /* and empties it */
void clii_printf(struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* E_INTERRUPTED where stdout is closed. */
int clii_flush(struct cli *c, struct err *err);

/* Text that may hold anything, for a terminal: control characters become "?". */
void clii_add_plain(struct buf *out, struct slice text);

/* A JSON object as lines of "key: value". */
void clii_put_table(struct cli *c, struct slice object);

/* A line on stderr that the next one overwrites; only on a terminal. */
void clii_progress(struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void clii_progress_end(struct cli *c);

/*
 * Long work over bytes: on a terminal a bar with the rate and the time that is left; with --json
 * a line {"progress":…,"done":…,"all":…,"per_second":…,"left_s":…} each second.
 */
struct cli_bar {
    struct cli *cli;
    const char *what;
    uint64_t    began_us, drawn_us, said_us;
};

void clii_bar_init(struct cli_bar *bar, struct cli *c, const char *what);
void clii_bar(struct cli_bar *bar, uint64_t done, uint64_t all);
/* "1.5 GiB" */
void clii_bytes_text(double bytes, char *out, size_t room);
/* For log_progress_fn, with the bar as `arg`: E_INTERRUPTED where a signal came. */
int clii_bar_step(void *bar, uint64_t done, uint64_t all);

/* signals */

void clii_catch(void);         /* SIGINT and SIGTERM are noted, SIGPIPE is ignored */
int  clii_caught(void);        /* the signal, or 0 */
void clii_reraise(int signum); /* dies of it, as whoever started us expects */
/* 0, or E_INTERRUPTED where a signal came. */
int clii_go_on(struct err *err);

/* Each line of stdin to its end, at most `longest` bytes of one. Stops by a non-zero return. */
typedef int clii_line_fn(void *arg, struct slice line, uint64_t number, struct err *err);
int         clii_each_line(size_t longest, clii_line_fn *take, void *arg, struct err *err);

/* events */

struct log_event;
struct log_new_event;

/* One event as a line of JSON, without its end: as the server writes it. */
void clii_event_line(struct buf *out, const struct log_event *event);

/*
 * An event out of a raw JSON object of the caller's, which is overwritten where
 * its strings are decoded and has to stay as long as the event.
 */
int clii_event_read(struct slice raw, struct log_new_event *event, struct err *err);

/* "any", "no-stream", "exists", or a number. */
bool clii_expected_read(struct slice text, int64_t *out);
void clii_expected_write(struct buf *out, int64_t expected);

/* where the work is done */

struct cli_read {
    const char *stream; /* NULL: $all */
    const char *from;   /* NULL: the start, or backwards the end */
    const char *at;     /* a position or a time; NULL: now */
    const char *prefix, *category, *type;
    const char *moved, *links, *start; /* "skip", "ignore"; NULL: deliver, as --from */
    bool        backwards, follow, resolve, follow_moves;
    bool        raw;   /* past the upcasters */
    uint64_t    limit; /* 0: none; a hint: more may come */
};

struct cli_appended {
    uint64_t position, first_version, last_version;
    bool     idempotent;
};

/* Events of one commit, parsed and as they came. */
struct cli_batch {
    const struct log_new_event *events;
    uint32_t                    count;
    struct slice                lines; /* NDJSON */
    bool                        follow_moves;
};

/* As struct log_change, of one stream. */
struct cli_change {
    const char *stream;
    int64_t     expected;
    uint32_t    what;
    uint64_t    truncate;
    bool        unnamed_version; /* none was given: it has to be there */
};

/* One line of JSON; non-zero stops and is returned. */
typedef int cli_line_fn(void *arg, struct slice line, struct err *err);

struct cli_place;

struct cli_place_ops {
    size_t size;
    int (*open)(struct cli_place *, bool write, struct err *);
    void (*close)(struct cli_place *);
    int (*append)(struct cli_place *, const char *stream, int64_t expected,
                  const struct cli_batch *, struct cli_appended *, struct err *);
    int (*read)(struct cli_place *, const struct cli_read *, cli_line_fn *, void *arg,
                struct err *);
    int (*streams)(struct cli_place *, const char *prefix, cli_line_fn *, void *arg, struct err *);
    int (*stream)(struct cli_place *, const char *stream, struct buf *out, struct err *);
    int (*info)(struct cli_place *, struct buf *out, struct err *);
    int (*change)(struct cli_place *, const struct cli_change *, uint64_t *position, struct err *);
    /* {"stream":…,"version":…,"metadata":{…}} */
    int (*metadata)(struct cli_place *, const char *stream, struct buf *out, struct err *);
    int (*set_metadata)(struct cli_place *, const char *stream, int64_t expected, struct slice json,
                        struct cli_appended *, struct err *);
};

struct cli_place {
    const struct cli_place_ops *ops;
    struct cli                 *cli;
};

extern const struct cli_place_ops clii_local_ops, clii_remote_ops;

/* The names of reads that the log serves by position: $ce-…, $et-…, $streams. */
bool clii_is_native(const char *stream);

/* A folder, or with --server a server. */
int  clii_place_open(struct cli *c, bool write, struct cli_place **out, struct err *err);
void clii_place_close(struct cli_place *place); /* NULL is fine */

/* For commands that know no server. */
int clii_need_folder(const struct cli *c, struct err *err);

/* Is there a log in the folder? */
bool clii_has_log(const struct cli *c);

/* The log of the folder, for commands that need all of it. */
struct log;
int  clii_log_open(struct cli *c, bool write, struct log **out, struct err *err);
void clii_log_close(struct cli *c, struct log *log); /* and the keystore; NULL is fine */

/*
 * The keystore of --keys, $OXBOW_KEYS, or what the configuration says (either may be NULL), or
 * FOLDER/keys. The caller closes it, after the log.
 */
struct ox_subjects;
int clii_keys_open(const struct cli *c, bool write, const char *dir, const char *master,
                   struct ox_subjects **out, struct err *err);

/* The indexes of an open log; `eager`: nobody else is at work here. */
struct fields;
int
clii_fields_open(struct cli *c, struct log *log, bool eager, struct fields **out, struct err *err);

/* A request to the server of --server; `out` has the answer's body, which may be an error's. */
int clii_request(struct cli *c, const char *method, const char *path, struct slice body,
                 struct buf *out, struct err *err);

/*
 * Long work at the server: POST /v1/NAME with the body, then its progress until it has ended.
 * `out` has the object of its result.
 */
int clii_job(struct cli *c, const char *name, struct slice body, struct cli_bar *bar,
             struct buf *out, struct err *err);

/* One object of results: as JSON, or on a terminal as a table. Takes the buffer's bytes. */
void clii_put_result(struct cli *c, struct buf *object);

struct json_out;
struct log_backup_report;
struct log_counts;
struct subject_key;
void clii_subject_json(struct json_out *o, const struct subject_key *key);
void clii_backup_json(struct buf *out, const struct log_backup_report *report);
void clii_counts_json(struct buf *out, const struct log_counts *counts);

/* the commands */

int clii_append(struct cli *c, struct err *err);
int clii_read(struct cli *c, struct err *err);
int clii_stream_list(struct cli *c, struct err *err);
int clii_stream_info(struct cli *c, struct err *err);
int clii_stream_delete(struct cli *c, struct err *err);
int clii_stream_tombstone(struct cli *c, struct err *err);
int clii_stream_truncate(struct cli *c, struct err *err);
int clii_stream_close(struct cli *c, struct err *err);
int clii_stream_open(struct cli *c, struct err *err);
int clii_stream_metadata(struct cli *c, struct err *err);
int clii_stream_link(struct cli *c, struct err *err);
int clii_surgery_begin(struct cli *c, struct err *err);
int clii_surgery_plan(struct cli *c, struct err *err);
int clii_surgery_audit(struct cli *c, struct err *err);
int clii_surgery_command(struct cli *c, struct err *err);
int clii_surgery_show(struct cli *c, struct err *err);
int clii_surgery_list(struct cli *c, struct err *err);
int clii_log_info(struct cli *c, struct err *err);
int clii_log_verify(struct cli *c, struct err *err);
int clii_log_reindex(struct cli *c, struct err *err);
int clii_log_backup(struct cli *c, struct err *err);
int clii_log_restore(struct cli *c, struct err *err);
int clii_log_scavenge(struct cli *c, struct err *err);
int clii_log_export(struct cli *c, struct err *err);
int clii_log_import(struct cli *c, struct err *err);
int clii_subject_list(struct cli *c, struct err *err);
int clii_subject_show(struct cli *c, struct err *err);
int clii_subject_erase(struct cli *c, struct err *err);
int clii_serve(struct cli *c, struct err *err);
int clii_check(struct cli *c, struct err *err);
int clii_transform_test(struct cli *c, struct err *err);
int clii_source_list(struct cli *c, struct err *err);
int clii_source_show(struct cli *c, struct err *err);
int clii_source_check(struct cli *c, struct err *err);
int clii_source_prepare(struct cli *c, struct err *err);
int clii_source_unprepare(struct cli *c, struct err *err);
int clii_outbox_sql(struct cli *c, struct err *err);
int clii_source_command(struct cli *c, struct err *err);
int clii_sink_list(struct cli *c, struct err *err);
int clii_sink_show(struct cli *c, struct err *err);
int clii_sink_replay(struct cli *c, struct err *err);
int clii_sink_command(struct cli *c, struct err *err);
int clii_sink_parked(struct cli *c, struct err *err);
int clii_source_parked(struct cli *c, struct err *err);
int clii_migrate_list(struct cli *c, struct err *err);
int clii_migrate_show(struct cli *c, struct err *err);
int clii_migrate_report(struct cli *c, struct err *err);
int clii_migrate_command(struct cli *c, struct err *err);
int clii_group_list(struct cli *c, struct err *err);
int clii_group_show(struct cli *c, struct err *err);
int clii_group_create(struct cli *c, struct err *err);
int clii_group_update(struct cli *c, struct err *err);
int clii_group_delete(struct cli *c, struct err *err);
int clii_group_consume(struct cli *c, struct err *err);
int clii_group_pull(struct cli *c, struct err *err);
int clii_group_ack(struct cli *c, struct err *err);
int clii_group_nack(struct cli *c, struct err *err);
int clii_group_parked(struct cli *c, struct err *err);
int clii_group_replay(struct cli *c, struct err *err);
int clii_group_skip(struct cli *c, struct err *err);
int clii_index_create(struct cli *c, struct err *err);
int clii_index_list(struct cli *c, struct err *err);
int clii_index_show(struct cli *c, struct err *err);
int clii_index_drop(struct cli *c, struct err *err);
int clii_index_rebuild(struct cli *c, struct err *err);
int clii_index_read(struct cli *c, struct err *err);
int clii_index_values(struct cli *c, struct err *err);
int clii_user_list(struct cli *c, struct err *err);
int clii_user_show(struct cli *c, struct err *err);
int clii_user_add(struct cli *c, struct err *err);
int clii_user_change(struct cli *c, struct err *err);
int clii_user_passwd(struct cli *c, struct err *err);
int clii_user_command(struct cli *c, struct err *err);
int clii_user_token(struct cli *c, struct err *err);
int clii_top(struct cli *c, struct err *err);
int clii_completion(struct cli *c, struct err *err);
int clii_manual(struct cli *c, struct err *err);

#endif
