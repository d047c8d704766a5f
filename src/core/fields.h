/*
 * Indexes on fields: which events have this value in that field of their data
 * or metadata (docs/indexes.md has the rules).
 *
 * Definitions are in the log: each event of `$indexes` is one change of the set.
 * Entries are derived and lie beside the log (log/values.h): a task reads the log
 * and writes them in bounded transactions that say what they cover, so that a
 * crash costs nothing but the work since the last one. What is not covered yet a
 * reader scans: reads are complete and in the log's order, also while an index
 * follows the log. An index that was never at the end of the log is refused.
 *
 * An index's number is the version of the event that made it, or that had it
 * made anew: entries of another number are nobody's and are thrown away.
 *
 * Threads: everything from any thread, but for fields_close, which comes last,
 * and a reader, which belongs to one thread at a time.
 */
#ifndef OX_CORE_FIELDS_H
#define OX_CORE_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/json.h"
#include "base/pos.h"
#include "base/slice.h"
#include "log/log.h"
#include "log/values.h"

struct fields;
struct fields_read;

#define FIELDS_MAX VALUES_MARKS_MAX       /* indexes of a log */
#define FIELDS_NAME_MAX 64                /* bytes of an index's name */
#define FIELDS_PATH_MAX 512               /* bytes of a path */
#define FIELDS_DEPTH_MAX 16               /* steps of a path */
#define FIELDS_EACH_MAX 100               /* values of one event */
#define FIELDS_VALUE_MAX VALUES_BYTES_MAX /* bytes of a value's canonical JSON */
#define FIELDS_CONFIG_STREAM "$indexes"

/* What an index is; texts are the caller's in calls and the set's in answers. */
struct fields_def {
    struct slice name, path;
    struct slice category, prefix, type; /* which events; every part that is given must hold */
    bool         metadata;               /* the path is in the metadata */
};

/* E_INVALID with what is wrong. */
int fields_def_check(const struct fields_def *def, struct err *err);

/*
 * What a JSON object says (path, in, category, prefix, type) into `def`; its texts into `texts`.
 * E_SCHEMA, E_INVALID.
 */
int fields_def_read(struct slice json, struct fields_def *def, struct buf *texts, struct err *err);

/*
 * A value as a user writes it, in its canonical form: JSON where it is a scalar of JSON, else a
 * string. E_INVALID: an array or an object; E_LIMIT: longer than what is indexed.
 */
int fields_value(struct slice text, struct buf *out, struct err *err);

/* the set */

struct fields_conf {
    const char                 *dir;    /* of the entries; made if missing */
    const struct ox_values_ops *values; /* required */
    bool                        eager;  /* nobody else is at work here: builds without pauses */
};

/* Reads what indexes there are and starts their task. */
int fields_open(struct ox_env *env, struct log *log, const struct fields_conf *conf,
                struct fields **out, struct err *err);

/* Every reader must be closed. NULL is fine. */
void fields_close(struct fields *);

enum fields_verb {
    FIELDS_CREATE,  /* E_EXISTS, E_LIMIT */
    FIELDS_DROP,    /* E_NOTFOUND */
    FIELDS_REBUILD, /* E_NOTFOUND; throws the entries away and begins anew */
};

/* The caller's, and what it points at, until `done` was called. */
struct fields_command {
    enum fields_verb  verb;
    struct fields_def def;                 /* drop, rebuild: the name alone */
    void (*done)(struct fields_command *); /* on the set's task, without the lock */
    void *arg;
    /* results; durable where rc is 0 */
    int        rc;
    struct err err;
    /* the set's own */
    struct fields_command *next;
    struct ox_gate        *gate;
};

/* Never blocks; `done` may come before this returns. */
void fields_submit(struct fields *, struct fields_command *);

/* The same, waiting; `done` must be NULL. Returns rc. */
int fields_command(struct fields *, struct fields_command *);

/* looking */

struct fields_info {
    const struct fields_def *def;
    bool                     live;  /* was at the end of the log: can be read */
    const char              *error; /* why it does not go on; NULL: it does */
    struct log_pos           covers, end;
    uint64_t                 entries;
    uint64_t                 skipped; /* values that were not taken */
    uint64_t                 bytes;   /* on the disk, of all indexes together */
};

typedef void fields_info_fn(void *arg, const struct fields_info *);

/* As a JSON object. */
void fields_info_write(const struct fields_info *, struct json_out *o);

void fields_each(struct fields *, fields_info_fn *, void *arg);

/* E_NOTFOUND. */
int fields_get(struct fields *, struct slice name, fields_info_fn *, void *arg, struct err *err);

/* reading */

struct fields_query {
    struct slice name;
    struct slice value; /* as fields_value has it */
    uint64_t     from;  /* a position; backwards UINT64_MAX: the end */
    bool         backwards;
    uint64_t     patience; /* about so many bytes in one call before E_MORE; 0: as it takes */
};

/* E_NOTFOUND: no such index; E_STATE: it is being built, the text says how far. */
int fields_read_open(struct fields *, const struct fields_query *, struct fields_read **out,
                     struct err *err);

/*
 * By position, as log_iter_next: E_END may be asked again forwards, E_MORE, and E_GONE where the
 * index was dropped or begun anew meanwhile.
 */
int fields_read_next(struct fields_read *, struct log_event *out, struct err *err);

/* Forwards: the position to read on from. */
struct log_pos fields_read_pos(const struct fields_read *);
void           fields_read_close(struct fields_read *); /* NULL is fine */

/*
 * The values that are there, as canonical JSON in byte order, those after `after` (empty: all),
 * with how many entries each has: of what the index covers, hidden events included. The function
 * must only note what it is told. E_NOTFOUND, E_STATE.
 */
int fields_values(struct fields *, struct slice name, struct slice after, values_fn *, void *arg,
                  struct err *err);

#endif
