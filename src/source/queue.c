/* What the core calls: it checks the order of calls, the driver does the work. */
#include "source/queue.h"

#include <stdlib.h>

const char *const source_queue_payloads[] = {"auto", "json", "bytes", NULL};
const char *const source_queue_no_ids[] = {"take", "park", NULL};

int
source_queue_new(struct ox_env *env, const struct queue_ops *ops, const char *instance,
                 const struct conf *conf, struct queue_reader **out, struct err *err)
{
    struct queue_reader *q;
    int                  rc;

    must(ops->size >= sizeof *q);
    *out = NULL;
    q = calloc(1, ops->size);
    if (q == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    q->ops = ops;
    q->env = env;
    q->instance = instance;
    rc = ops->open(q, conf, err);
    if (rc != 0) {
        free(q);
        return rc;
    }
    *out = q;
    return 0;
}

void
source_queue_free(struct queue_reader *q)
{
    if (q == NULL)
        return;
    source_queue_stop(q);
    q->ops->close(q);
    free(q);
}

int
source_queue_start(struct queue_reader *q, struct slice checkpoint, bool gap, struct err *err)
{
    int rc = q->ops->start(q, checkpoint, gap, err);

    q->started = rc == 0;
    q->handed = q->durable = q->confirmed = 0;
    return rc;
}

void
source_queue_stop(struct queue_reader *q)
{
    q->ops->stop(q);
    q->started = false;
}

int
source_queue_poll(struct queue_reader *q, uint32_t max, uint64_t bytes, uint32_t wait_ms,
                  struct queue_batch *batch, struct err *err)
{
    int rc;

    must(q->started);
    must(max > 0);
    *batch = (struct queue_batch){0};
    rc = q->ops->poll(q, max, bytes, wait_ms, batch, err);
    if (rc != 0)
        return rc;
    must(batch->count <= max);
    must(batch->checkpoint.len <= QUEUE_CHECKPOINT_MAX);
    for (uint32_t i = 0; i < batch->count; i++) {
        must(batch->messages[i].tag == q->handed + 1);
        must(batch->messages[i].header_count <= QUEUE_HEADERS_MAX);
        q->handed++;
    }
    return 0;
}

void
source_queue_durable(struct queue_reader *q, uint64_t tag)
{
    must(tag >= q->durable);
    must(tag <= q->handed);
    q->durable = tag;
}

/* The only place where a broker is told of a message: confirmed <= durable holds by this. */
int
source_queue_confirm(struct queue_reader *q, struct err *err)
{
    int rc;

    must(q->started);
    must(q->confirmed <= q->durable);
    if (q->confirmed == q->durable)
        return 0;
    rc = q->ops->confirm(q, q->durable, err);
    if (rc == 0)
        q->confirmed = q->durable;
    return rc;
}
