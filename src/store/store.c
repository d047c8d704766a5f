/* Making and freeing stores, and the order of keys that both sides share. */
#include "store/store.h"

#include <stdlib.h>

int
store_new(struct ox_env *env, const struct store_ops *ops, const char *instance,
          const struct conf *conf, struct store **out, struct err *err)
{
    struct store *s;
    int           rc;

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
store_free(struct store *s)
{
    if (s == NULL)
        return;
    s->ops->close(s);
    free(s);
}

/* Splits a decimal number: its sign, and its digits without leading zeros. */
static bool
is_negative(struct slice text, struct slice *digits)
{
    const char *p = text.data;
    size_t      at = text.len > 0 && p[0] == '-';

    while (at + 1 < text.len && p[at] == '0')
        at++;
    *digits = slice_of(p + at, text.len - at);
    return at > 0 && p[0] == '-' && !slice_is(*digits, "0");
}

static int
cmp_numbers(struct slice a, struct slice b)
{
    struct slice da, db;
    bool         na = is_negative(a, &da), nb = is_negative(b, &db);
    int          order;

    if (na != nb)
        return na ? -1 : 1;
    if (da.len != db.len)
        order = da.len < db.len ? -1 : 1;
    else
        order = slice_cmp(da, db);
    return na ? -order : order;
}

int
store_key_cmp(enum store_key_order order, struct slice a, struct slice b)
{
    return order == STORE_KEY_INTEGER ? cmp_numbers(a, b) : slice_cmp(a, b);
}
