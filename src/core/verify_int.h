/* What the files of the verification share. */
#ifndef OX_CORE_VERIFY_INT_H
#define OX_CORE_VERIFY_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "core/verify.h"

#define VERIFYI_BATCH 500 /* verdicts of a commit */

enum verify_decision {
    VERIFYI_OPEN,
    VERIFYI_RELEASE,
    VERIFYI_DISCARD,
    VERIFYI_PARK,
};

/* A held message; its slices are of `bytes`. */
struct verify_held {
    uint64_t             version;
    struct ox_id         id;
    int64_t              created_us, came_us;
    uint32_t             flags;
    uint64_t             hash; /* of the stream's name */
    struct buf           bytes;
    struct slice         key, stream, token, type, data, meta, event;
    enum verify_decision decision;
    bool                 running;
    const char          *by;
    char                 why[160];
    uint64_t             ask_at_us;
};

struct verify {
    uint32_t             magic;
    struct ox_env       *env;
    struct log          *log;
    struct proof        *proof;
    char                *name, *stream;
    bool                 own_stream, discard;
    uint64_t             delay_us, deadline_us;
    uint32_t             window;
    struct ox_task      *task;
    struct log_listener  listener;
    struct ox_lock       lock; /* status */
    struct verify_status status;

    /* The task's. */
    bool                 started, single;
    int64_t              version; /* of the checkpoint's stream */
    uint64_t             low;     /* all below are decided */
    uint64_t             next;    /* version to read on from */
    uint64_t             truncated, backoff_us;
    struct log_iter     *it;
    struct verify_held **open; /* by version */
    uint32_t             count;
    size_t               bytes;
    struct proof_item   *items;
    uint64_t            *blocked;
    uint32_t             blocked_mask;
    uint64_t            *done; /* versions beyond low that are decided, of the checkpoint */
    uint32_t             done_count, done_room;

    /* The commit in flight. */
    _Atomic bool          done_flag, stopping;
    struct ox_gate        stopped;
    bool                  in_flight;
    struct log_req        req;
    struct log_write     *writes;
    struct log_new_event *events;
    struct log_change     change;
    struct verify_held  **batch;
    uint32_t              batch_count;
    struct buf            text;
};

/* verify_read.c */
int verifyi_read_checkpoint(struct verify *v, struct err *err);
/* Reads on in the held stream until the window is full. */
int  verifyi_fill(struct verify *v, struct err *err);
void verifyi_held_free(struct verify_held *h);
void verifyi_forget(struct verify *v); /* all that is in memory */

#endif
