/* What the core calls: it checks the order of calls, the driver does the work. */
#include "source/source.h"

#include <stdlib.h>

int
source_new(struct ox_env *env, const struct source_ops *ops, const char *instance,
           const struct conf *conf, struct source **out, struct err *err)
{
    struct source *s;
    int            rc;

    must(ops->size >= sizeof *s);
    *out = NULL;
    s = calloc(1, ops->size);
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->ops = ops;
    s->env = env;
    s->instance = instance;
    rc = ops->open(s, conf, err);
    if (rc != 0) {
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void
source_free(struct source *s)
{
    if (s == NULL)
        return;
    s->ops->close(s);
    free(s);
}

int
source_start(struct source *s, struct slice checkpoint, struct err *err)
{
    int rc = s->ops->start(s, checkpoint, err);

    s->started = rc == 0;
    return rc;
}

int
source_poll(struct source *s, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    int rc;

    must(s->started);
    must(max > 0);
    *batch = (struct source_batch){0};
    rc = s->ops->poll(s, max, wait_ms, batch, err);
    if (rc != 0)
        return rc;
    must(batch->count <= max);
    must(batch->count == 0 || batch->checkpoint.len > 0);
    for (uint32_t i = 0; i < batch->count; i++) {
        must(batch->changes[i].position.len > 0);
        must((batch->changes[i].op == CHANGE_EVENT) == (batch->changes[i].event != NULL));
        must_slow(batch->changes[i].event != NULL || batch->changes[i].table.len > 0);
    }
    return 0;
}

int
source_confirm(struct source *s, struct slice checkpoint, struct err *err)
{
    must(s->started);
    must(checkpoint.len > 0);
    return s->ops->confirm(s, checkpoint, err);
}

int
source_again(struct source *s, const struct source_again *what, struct source_batch *batch,
             struct err *err)
{
    int rc;

    must(s->started);
    *batch = (struct source_batch){0};
    if (s->ops->again == NULL)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "source %s: sources of type %s read no table again",
                   s->instance, s->ops->name);
    rc = s->ops->again(s, what, batch, err);
    if (rc == 0) {
        must(batch->count == 0);
        must(batch->checkpoint.len > 0);
    }
    return rc;
}
