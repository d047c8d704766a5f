/*
 * What streams mean (docs/streams.md), in memory and as plainly as can be: the events in one list,
 * each stream with the numbers of its own. Nothing here is quick, durable or shared with the log
 * but the form of a commit (struct log_req) and of a read.
 */
#ifndef OX_TESTS_MODEL_H
#define OX_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/log.h"

#define MODEL_DAY_US INT64_C(86400000000)
/* Whatever is created then is older than a day, and younger than a thousand years. */
#define MODEL_LONG_AGO_US INT64_C(1000000000000000)

struct model_event {
    uint64_t     pos;
    uint64_t     version;
    uint32_t     stream; /* number */
    struct slice type, data, meta;
    struct ox_id id;         /* zero: the log made one, and nobody has said it yet */
    int64_t      created_us; /* 0: likewise */
    bool         quiet, link;
    bool         guessed; /* nobody has said `pos` yet: it is right in its order only */
    bool         gone;    /* a scavenge has taken it: nobody can know it again */
};

struct model_stream {
    char      name[LOG_NAME_MAX + 3];
    size_t    name_len;
    bool      known; /* the log has heard of it */
    bool      deleted, tombstone, closed;
    uint64_t  next, truncate, max_count;
    uint64_t  first; /* version of the first event that the index knows */
    int64_t   max_age_us;
    uint32_t *events; /* numbers, by version */
    uint32_t  room;
};

struct model {
    struct model_event   *events;
    uint32_t              count, room;
    struct model_stream **streams;
    uint32_t              stream_count, stream_room;
    struct log_retention  retention[4];
    uint32_t              retention_count;
    int64_t               now_us; /* any time that is not long ago */
};

void model_init(struct model *m);
void model_fini(struct model *m);

/* NULL where nobody has named it. */
struct model_stream *model_find(struct model *m, struct slice name);
/* The same, made where it is not there. */
struct model_stream *model_get(struct model *m, struct slice name);
struct slice         model_name(const struct model_stream *s);

/* What a commit is answered. */
struct model_answer {
    int          rc;
    bool         idempotent;
    uint64_t     first[8], last[8];       /* versions, of each write */
    uint32_t     first_event, last_event; /* numbers; UINT32_MAX: none */
    struct slice wrong_stream;
    int64_t      wrong_actual;
    bool         closed, tombstone; /* of the stream that is gone */
};

/* Does it, or says why not. The texts of the events are copied. */
void model_commit(struct model *m, const struct log_req *req, struct model_answer *out);

/* A scavenge has taken the event, and all before it in its stream are hidden for good. False: it
 * may not. */
bool model_take(struct model *m, uint32_t event);

/* The index was made again: it knows what is left. */
void model_index_anew(struct model *m);

/* The stream's readable versions begin at `low`. */
uint64_t model_low(const struct model *m, const struct model_stream *s);
/* The limits that hold, the category's included. */
void model_limits(const struct model *m, const struct model_stream *s, uint64_t *max_count,
                  int64_t *max_age_us);
/* 0, E_NOTFOUND or E_GONE: what opening the stream for reading gives. */
int  model_readable(const struct model_stream *s);
bool model_visible(const struct model *m, uint32_t event);

/* One event as a read gives it. */
struct model_item {
    uint32_t event; /* the one given; of $streams unresolved, version 0 */
    uint32_t link;  /* through which link; UINT32_MAX: none, or it is a $streams' */
    bool     dangling;
    bool     first; /* of $streams */
};

/* Where a read is: begun with `from` and direction, moved on by each step. */
struct model_cursor {
    const struct log_read *read;
    uint64_t               at; /* a version or a position, as the read has it */
    bool                   over;
};

void model_read_begin(struct model_cursor *c, const struct log_read *read);
/* 0, E_END, E_NOTFOUND, E_GONE. */
int model_read_next(struct model *m, struct model_cursor *c, struct model_item *out);
/* The item was given: by now its position may be known better. */
void
model_read_passed(const struct model *m, struct model_cursor *c, const struct model_item *item);

#endif
