/* Upcasters on the loop: one set of runs for all readers, whose outputs are copied. */
#include "core/upcast.h"
#include "server/feed_int.h"

int
server_set_upcasts(struct server *s, const struct upcasts *set, struct err *err)
{
    int rc;

    upcast_free(s->upcast);
    s->upcasts = set;
    rc = upcast_new(set, &s->upcast, err);
    if (rc != 0)
        s->upcasts = NULL;
    return rc;
}

void
serveri_upcast_free(struct server *s)
{
    upcast_free(s->upcast);
    s->upcast = NULL;
}

static struct slice
copy(struct buf *keep, struct slice text)
{
    uint8_t *to = keep->data + keep->len;

    buf_add_slice(keep, text);
    return slice_of(to, text.len);
}

int
serveri_upcast(struct server *s, struct log_event *event, struct buf *keep, struct err *err)
{
    bool changed;
    int  rc;

    if (!upcast_wants(s->upcasts, event))
        return 0;
    TRY(upcast_apply(s->upcast, event, &changed, err));
    if (!changed)
        goto out;
    buf_clear(keep);
    if (!buf_reserve(keep, event->type.len + event->data.len + event->meta.len + 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for an event");
    event->type = copy(keep, event->type);
    event->data = copy(keep, event->data);
    event->meta = copy(keep, event->meta);
out:
    return rc;
}
