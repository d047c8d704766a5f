/* Making and freeing sinks; the rest of what the core calls stands in the header. */
#include "sink/sink.h"

#include <stdlib.h>

int
sink_new(struct ox_env *env, const struct sink_ops *ops, const char *instance,
         const struct conf *conf, struct sink **out, struct err *err)
{
    struct sink *s;
    int          rc;

    must(ops->size >= sizeof *s);
    *out = NULL;
    s = calloc(1, ops->size);
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->ops = ops;
    s->env = env;
    s->instance = instance;
    s->transactional = ops->transactional;
    rc = ops->open(s, conf, err);
    if (rc != 0) {
        free(s);
        return rc;
    }
    must(s->credit > 0);
    *out = s;
    return 0;
}

void
sink_free(struct sink *s)
{
    if (s == NULL)
        return;
    s->ops->close(s);
    free(s);
}

int
sink_noop_checkpoint(struct sink *s, struct log_pos *pos, struct err *err)
{
    (void)s;
    (void)err;
    pos->v = 0;
    return 0;
}
