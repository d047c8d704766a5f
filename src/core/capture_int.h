/* What the files of capture share. */
#ifndef OX_CORE_CAPTURE_INT_H
#define OX_CORE_CAPTURE_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "core/capture.h"

#define CAPTUREI_MAGIC 0x43617074u

struct import;
struct outbox;

struct capture {
    uint32_t              magic;
    struct ox_env        *env;
    struct log           *log;
    struct source        *source;
    char                 *name, *category;
    struct outbox        *outbox;               /* NULL: none */
    uint32_t              batch_max, batch_now; /* now: less after a commit that was too large */
    struct ox_task       *task;
    struct ox_lock        lock; /* status */
    struct capture_status status;

    /* The task's. */
    bool       started; /* the source was given its checkpoint */
    bool       looking; /* rows of the outbox are in the log already: the next batch is looked up */
    int64_t    version; /* of the checkpoint's stream; LOG_NO_STREAM */
    uint64_t   backoff_us, detail_us;
    struct buf checkpoint;      /* the last durable one */
    struct buf next_checkpoint; /* of the batch in flight */
    struct buf text;            /* names, metadata, parked records of the batch */

    /* The commit in flight. */
    _Atomic bool          done, stopping;
    struct ox_gate        stopped;
    bool                  in_flight, caught_up;
    struct log_req        req;
    struct log_write     *writes;
    struct log_new_event *events; /* ordered by write */
    uint32_t             *order, *write_of;
    struct change        *completed; /* the batch, where values were filled in … */
    struct buf           *whole;     /* … and the rows with them */
    uint32_t              changes, parked;

    /* Import (capture_import.c). */
    struct source_batch pending; /* events that are not all in a commit yet; count 0: none */
    bool                filling; /* the commit in flight fills a gap, and no more */
    struct import      *import;  /* what that commit points at */
};

/* Puts the record of what cannot be an event behind c->text, its stream's name first. */
struct capture_record {
    size_t name_at, name_len, data_at, data_len;
};
void capturei_record(struct capture *c, const char *reason, const char *type, struct slice table,
                     struct slice key, struct slice position, struct capture_record *out);

/* The last write of the commit and its event, whose texts go behind c->text: reserve before. */
void capturei_checkpoint(struct capture *c, struct log_write *write, struct log_new_event *event);
/* Makes c->text large enough for it, and takes the batch's checkpoint over. */
int capturei_take_checkpoint(struct capture *c, const struct source_batch *batch, struct err *err);
/* Hands c->req over. */
void capturei_submit(struct capture *c, uint32_t flags);

/* The next commit of c->pending: all of it, or what fills the gaps before it. */
int  capturei_import(struct capture *c, struct err *err);
void capturei_import_free(struct capture *c);

#endif
