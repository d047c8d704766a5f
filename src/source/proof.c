#include "source/proof.h"

#include <stdlib.h>

const char *const source_proof_absent_words[] = {"park", "discard", NULL};

int
source_proof_new(struct ox_env *env, const struct proof_ops *ops, const char *instance,
                 const struct conf *conf, struct proof **out, struct err *err)
{
    struct proof *p;
    int           rc;

    must(ops->size >= sizeof *p);
    *out = NULL;
    p = calloc(1, ops->size);
    if (p == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    p->ops = ops;
    p->env = env;
    p->instance = instance;
    rc = ops->open(p, conf, err);
    if (rc != 0) {
        free(p);
        return rc;
    }
    *out = p;
    return 0;
}

void
source_proof_free(struct proof *p)
{
    if (p == NULL)
        return;
    p->ops->close(p);
    free(p);
}
