/*
 * Transforms: events in, events out. A transform is an ordered list of rules,
 * or a Lua script; docs/transforms.md has both. It makes no system calls, reads
 * no clock and no randomness: the same events give the same bytes, in every run
 * and on every machine.
 *
 * Numbers, key order and spacing of what a transform does not touch stay byte
 * for byte as they were.
 *
 * A compiled transform is read only and may be shared by threads; a run belongs
 * to one thread at a time and never to the log's.
 */
#ifndef OX_TRANSFORM_TRANSFORM_H
#define OX_TRANSFORM_TRANSFORM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/err.h"
#include "base/id.h"
#include "base/slice.h"

#define TRANSFORM_RULES_MAX 1000
#define TRANSFORM_TEXT_MAX ((size_t)1 << 20)   /* bytes of a transform as JSON, script included */
#define TRANSFORM_EVENT_MAX ((size_t)16 << 20) /* bytes of data plus metadata of an output */
#define TRANSFORM_NAME_MAX 255                 /* bytes of a stream's name, and of a type */

/* What a transform may do. An output beyond that fails the run (E_SCHEMA, ERR_DATA). */
enum transform_may {
    TRANSFORM_CHANGE = 1, /* an event's type, data or metadata */
    TRANSFORM_DROP = 2,   /* give no output for an input */
    TRANSFORM_ADD = 4,    /* give more than one */
    TRANSFORM_ROUTE = 8,  /* name a stream other than the default */
    TRANSFORM_STATE = 16, /* look at more than one event at a time: begin, finish, state */
};

struct transform;

/* Of CONF_ANY: a list of rules, or an object. What a schema of a configuration writes. */
extern const struct conf_type transform_conf_type;

struct transform_opts {
    const char *name; /* for messages: of a file, or "the upcaster x" */
    /* For `file: PATH`, a script in a file of its own. NULL: refused. */
    int (*read_file)(void *arg, const char *path, struct buf *out, struct err *err);
    void *arg;
};

/*
 * Compiles. Errors are ERR_FATAL and E_SYNTAX, E_SCHEMA or E_LIMIT:
 * "NAME:LINE:COLUMN: …" of the YAML or the JSON, "NAME:LINE: …" of a script. The name is
 * opts->name, of a node its file's. What they point at may go away afterwards.
 */
int transform_from_conf(const struct conf *node, const struct transform_opts *opts,
                        struct transform **out, struct err *err);
int transform_from_json(struct slice json, const struct transform_opts *opts,
                        struct transform **out, struct err *err);
/* Of a condition alone, as `when` has it: drops what does not meet it. */
int transform_filter_from_conf(const struct conf *node, const struct transform_opts *opts,
                               struct transform **out, struct err *err);
/* From the text of a file: YAML, of which JSON is a part. */
int  transform_from_yaml(struct slice yaml, const struct transform_opts *opts,
                         struct transform **out, struct err *err);
void transform_free(struct transform *t); /* NULL is fine; its runs are gone already */

/* All of it as one JSON value (scripts included), for transform_from_json. */
void transform_put_json(const struct transform *t, struct buf *out);

/* 16 bytes over what it does: equal after put_json and from_json. */
struct ox_id transform_fingerprint(const struct transform *t);

/* enum transform_may. Of rules it is exact; of a script what it says it `may`, else all. */
unsigned transform_may(const struct transform *t);

static inline bool
transform_changes(const struct transform *t)
{
    return (transform_may(t) & TRANSFORM_CHANGE) != 0;
}

static inline bool
transform_drops(const struct transform *t)
{
    return (transform_may(t) & TRANSFORM_DROP) != 0;
}

static inline bool
transform_routes(const struct transform *t)
{
    return (transform_may(t) & TRANSFORM_ROUTE) != 0;
}

static inline bool
transform_stateless(const struct transform *t)
{
    return (transform_may(t) & TRANSFORM_STATE) == 0;
}

/*
 * Whether it can stand at read time: one event in, one event out, of the same stream. E_SCHEMA,
 * ERR_FATAL with what it does beyond that. A script that does not say what it may do
 * passes, is then held to it at each event, and must have no begin and no finish.
 */
int transform_upcast_check(const struct transform *t, struct err *err);

/*
 * Whether it can stand before a delivery: each event by itself becomes one or none, perhaps of
 * another stream. As with upcasters a script that does not say what it may do is held to it.
 */
int transform_deliver_check(const struct transform *t, struct err *err);

struct transform_event {
    struct slice stream, type, data, meta; /* meta may be empty */
    struct ox_id id;
    uint64_t     version, position;
    int64_t      created_us;
    bool         json; /* data is JSON; other data can be dropped, renamed, routed */
};

/* Valid during the callback, or until the run's next call. */
struct transform_out {
    struct slice stream; /* .data NULL: the default, which the caller knows */
    struct slice type, data, meta;
    bool         json;
    bool         changed; /* its type, data or metadata are not those of its one origin */
    /* Which inputs it stands for: ordinals from 0 since transform_begin, ascending, each once. One
     * where nothing else is said; `finish`: all that gave nothing, unless the script names them. */
    const uint64_t *origins;
    size_t          origin_count;
};

/* 0, or an error which then is the run's. Must not call into the run. */
typedef int transform_emit_fn(void *arg, const struct transform_out *out, struct err *err);

struct transform_run;

/* `t` outlives the run. Memory of a script is bounded by the transform's own limit. */
int  transform_run_new(const struct transform *t, struct transform_run **out, struct err *err);
void transform_run_free(struct transform_run *run); /* NULL is fine */

/*
 * One stream from its start to its end: begin, then event for each, then end. `emit` is called
 * within these, in the order of the outputs. Errors that one event causes are ERR_DATA and name it,
 * by its stream and version; after an error the run takes only transform_begin, which
 * starts afresh. E_LIMIT: instructions, memory, outputs or bytes of an input.
 */
int transform_begin(struct transform_run *run, struct slice stream, transform_emit_fn *emit,
                    void *arg, struct err *err);
/*
 * After an error: whether it was a limit in which what an earlier stream left may have had a part
 * (memory that nobody uses any more counts until it is collected). Then the same stream from its
 * beginning, with nothing left, decides.
 */
bool transform_again(struct transform_run *run, int rc);
int  transform_event(struct transform_run *run, const struct transform_event *in, struct err *err);
int  transform_end(struct transform_run *run, struct err *err);

/* From another thread: the call that is under way, and every later one, is E_INTERRUPTED. */
void transform_interrupt(struct transform_run *run);

/*
 * At read time, without begin: the event as it is read now. Only of a transform that passes
 * transform_upcast_check. Slices are those of `in` where nothing was changed, else the run's
 * until its next call.
 */
int transform_upcast(struct transform_run *run, const struct transform_event *in,
                     struct transform_out *out, struct err *err);

/* The same of one that passes transform_deliver_check; *dropped: it gives nothing. */
int transform_one(struct transform_run *run, const struct transform_event *in,
                  struct transform_out *out, bool *dropped, struct err *err);

/* A condition as in a rule's `when` (docs/transforms.md), from a JSON object; errors as of
 * transform_from_json. Read only afterwards. */
struct transform_where;
int  transform_where_new(struct slice json, const char *name, struct transform_where **out,
                         struct err *err);
void transform_where_free(struct transform_where *w); /* NULL is fine */
/* `scratch` is the caller's, and used up. */
int transform_where_holds(const struct transform_where *w, const struct transform_event *e,
                          struct buf *scratch, bool *out, struct err *err);

#endif
