/* What the files of the capture share. */
#ifndef OX_CORE_CAPTURE_INT_H
#define OX_CORE_CAPTURE_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "core/capture.h"
#include "core/outbox.h"
#include "core/writes.h"

#define CAPTUREI_MAGIC 0x43617074u
/* Commits under way at once: while one is being synced the source is asked for the next. */
#define CAPTUREI_FLIGHTS 8
/* … of which so many may be small: one is being synced, the other is in the next group. More of
 * them would only cost; what comes meanwhile is gathered. */
#define CAPTUREI_SMALL_FLIGHTS 2
/* … and not so many that those together have more than this and another one: the log takes in so
 * much at once only, and nobody has memory for parts of a large transaction that wait. */
#define CAPTUREI_FLYING_BYTES ((size_t)16 << 20)
#define CAPTUREI_ROOM_KEPT 8192u /* changes; a flight with room for more gives it back */

/* A commit on its way; it owns all that it is made of. */
struct capture_flight {
    struct capture       *capture;
    _Atomic bool          done;
    struct log_req        req;
    struct writes         writes;
    struct capture_build *builds;
    uint32_t              room;  /* builds */
    struct buf            text;  /* names, metadata, rows, parked records */
    size_t                bytes; /* of it, as counted in flying_bytes */
    struct buf            checkpoint;
    bool                  caught_up;
    uint32_t              changes, parked;
    struct capture_call  *call; /* answered when it is durable */
};

struct import;

enum capture_rest { /* as the last checkpoint has it */
                    CAPTUREI_AWAKE,
                    CAPTUREI_PAUSED,
                    CAPTUREI_DROPPED,
};

struct capture {
    uint32_t              magic;
    struct ox_env        *env;
    struct log           *log;
    struct source        *source;
    char                 *name, *category;
    struct outbox        *outbox; /* NULL: none */
    bool                  transactions;
    uint32_t              batch_max, batch_now; /* now: less after a commit that was too large */
    struct ox_task       *task;
    struct ox_lock        lock; /* status, calls */
    struct capture_status status;
    struct capture_call  *calls; /* oldest first */
    _Atomic bool          stopping;
    struct ox_gate        stopped;

    /* The task's. */
    bool                  known;   /* the checkpoint was read */
    bool                  started; /* the source was given it */
    bool                  small;   /* the last batch was far from what a commit may have */
    bool                  looking; /* rows of the outbox are in the log already: looked up */
    enum capture_rest     rest;
    int64_t               version, sent_version; /* of the checkpoint's stream; LOG_NO_STREAM */
    uint64_t              backoff_us, detail_us;
    struct buf            checkpoint; /* the last durable one; empty: none */
    struct buf            sent;       /* … and the last that was sent to the log */
    struct buf            text, scratch;
    struct buf            meta_head, meta_table; /* how metadata begins, of which table */
    struct capture_flight flights[CAPTUREI_FLIGHTS];
    uint32_t              first_flight, flying;
    size_t                flying_bytes;              /* of their texts */
    struct source_batch   held;                      /* waits until nothing is under way */
    bool                  holding, failing, restart; /* restart: the source, after the failure */
    bool                  again;     /* it is no failure: the source is asked again at once */
    struct err            failure;   /* of the first commit that failed, with its … */
    uint32_t              too_large; /* … changes, where there were too many; 0: not that */
    struct capture_call  *dropping;  /* waits for the source to let go of its slot */
    uint64_t              drop_by_us;
    struct change        *completed; /* the batch, where values were filled in … */
    struct buf           *whole;     /* … and the rows with them */
    uint32_t              completed_room;

    /* Import (capture_import.c): one commit at a time, nothing else beside it. */
    struct source_batch pending; /* events that are not all in a commit yet; count 0: none */
    bool                filling; /* the commit in flight fills a gap, and no more */
    struct import      *import;  /* what that commit points at */
    struct log_req      req;
    _Atomic bool        done;
    bool                in_flight, caught_up;
    uint32_t            changes, parked;
    struct buf          next_checkpoint; /* of the commit in flight */
};

/* capture_commit.c */

/*
 * Sends a batch to the log, with what is said of the capture besides (NULL: nothing); there must
 * be a free flight. It is copied. `call` (may be NULL) is answered with it.
 */
int  capturei_commit(struct capture *c, const struct source_batch *batch, const char *state,
                     struct capture_call *call, struct err *err);
void capturei_flight_fini(struct capture_flight *f);

/* What import needs of it. */

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

/* capture_import.c */
/* The next commit of c->pending: all of it, or what fills the gaps before it. */
int  capturei_import(struct capture *c, struct err *err);
void capturei_import_free(struct capture *c);

/* capture_known.c: what the log has already */

/* The stream of a change is put behind `out`. */
void capturei_add_name(const struct capture *c, const struct change *ch, struct buf *out);
/* Whether the batch has changes that the log has to be asked about. */
bool capturei_asks(const struct capture *c, const struct source_batch *batch);
/*
 * The batch with the values filled in that the source did not say again, and without rows of
 * which only differences are wanted and there is none. Nothing may be under way. The changes are
 * valid until capturei_forget.
 */
int  capturei_complete(struct capture *c, struct source_batch *batch, struct err *err);
void capturei_forget(struct capture *c);
/* For source.keys. */
int capturei_keys(void *arg, struct slice table, struct slice after, uint32_t max, struct buf *keys,
                  struct buf *last, struct err *err);

#endif
