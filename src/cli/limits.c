/* retention, quotas and limits of the configuration: to the log and to the server. */
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "cli/engine_int.h"
#include "log/log.h"
#include "server/server.h"

int
enginei_retention(const struct conf *root, struct log_retention **list, uint32_t *count,
                  struct err *err)
{
    const struct conf *all = conf_child(root, "retention");

    *count = 0;
    *list = calloc(conf_count(all) + 1, sizeof **list);
    if (*list == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (const struct conf *x = conf_first(all); x != NULL; x = conf_next(x)) {
        struct log_retention *r = &(*list)[(*count)++];

        r->category = slice_str(conf_key(x));
        if (conf_has(x, "max_count"))
            r->max_count = (uint64_t)conf_int(x, "max_count");
        if (conf_has(x, "max_age"))
            r->max_age_us = (int64_t)conf_duration_us(x, "max_age");
    }
    return 0;
}

int
enginei_quotas(const struct conf *root, struct server *server, struct err *err)
{
    const struct conf   *all = conf_child(root, "quotas");
    struct server_quota *list = calloc(conf_count(all) + 1, sizeof *list);
    uint32_t             count = 0;
    int                  rc;

    if (list == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (const struct conf *x = conf_first(all); x != NULL; x = conf_next(x)) {
        struct server_quota *q = &list[count++];

        q->category = slice_str(conf_key(x));
        if (conf_has(x, "events_per_s"))
            q->events_per_s = (uint64_t)conf_int(x, "events_per_s");
        if (conf_has(x, "bytes_per_s"))
            q->bytes_per_s = conf_size(x, "bytes_per_s");
    }
    rc = server_set_quotas(server, list, count, err);
    free(list);
    return rc;
}

/* The names of a list, each with a NUL behind it. */
static struct slice
put_names(const struct conf *list, struct buf *texts, size_t *at)
{
    size_t from = *at;

    for (const struct conf *x = conf_first(list); x != NULL; x = conf_next(x)) {
        const char *name = conf_text(x);

        buf_add(texts, name, strlen(name) + 1);
        *at += strlen(name) + 1;
    }
    return slice_of(NULL, *at - from);
}

int
enginei_permissions(const struct conf *root, struct server *server, struct err *err)
{
    const struct conf        *all = conf_child(root, "permissions");
    struct server_permission *list = calloc(conf_count(all) + 1, sizeof *list);
    struct buf                texts = {0};
    uint32_t                  count = 0;
    size_t                    at = 0;
    int                       rc = 0;

    if (list == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (const struct conf *x = conf_first(all); x != NULL; x = conf_next(x)) {
        struct server_permission *p = &list[count++];

        p->category = slice_str(conf_key(x));
        p->has_read = conf_has(x, "read");
        p->has_write = conf_has(x, "write");
        p->read = put_names(conf_child(x, "read"), &texts, &at);
        p->write = put_names(conf_child(x, "write"), &texts, &at);
    }
    if (texts.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    at = 0; /* only now do the texts stay where they are */
    for (uint32_t i = 0; i < count; i++) {
        list[i].read.data = texts.data + at;
        at += list[i].read.len;
        list[i].write.data = texts.data + at;
        at += list[i].write.len;
    }
    TRY(server_set_permissions(server, list, count, err));
out:
    buf_fini(&texts);
    free(list);
    return rc;
}

int
enginei_limits_apply(struct engine *e, const struct conf *root, struct err *err)
{
    struct log_retention *list = NULL;
    uint32_t              count;
    int                   rc = 0;

    TRY(enginei_retention(root, &list, &count, err));
    TRY(log_set_retention(e->log, list, count, err));
    if (e->server != NULL) {
        TRY(enginei_quotas(root, e->server, err));
        TRY(enginei_permissions(root, e->server, err));
    }
out:
    free(list);
    return rc;
}
