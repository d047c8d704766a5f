/*
 * PersistentSubscriptions.Read: a member of a consumer group for each call. The groups' task writes
 * what a member is given into its buffer and posts one message; the loop sends it.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/must.h"
#include "base/say.h"
#include "server/access_int.h"
#include "server/group_int.h"
#include "server/grpc_group_int.h"

#define UNSENT_MAX (1U << 20) /* bytes that wait for the client; then no more is asked for */

struct member_call {
    struct message       message; /* first */
    struct rpc          *rpc;     /* NULL: gone */
    struct server       *server;
    struct group_member *member; /* NULL: it has left, or is not there yet */
    struct group_target  target;
    bool                 text_ids;
    struct buf           sending;

    pthread_mutex_t lock; /* what follows */
    struct buf      text; /* messages, each with its length before it */
    uint32_t        events;
    size_t          unsent;
    bool            posted, ended, cast_failed;
    struct err      why;
};

/* On the groups' task. */

static void on_message(struct message *m);

/* With the lock. */
static void
post(struct member_call *k)
{
    if (k->posted)
        return;
    k->posted = true;
    k->message.fn = on_message;
    serveri_post(k->server, &k->message);
}

/* As it is read now; what fails to be, as it is stored: the protocol has no place for why. */
static void
put_event(struct member_call *k, const struct group_event *ge)
{
    struct buf          *out = &k->text;
    bool                 text_ids = k->text_ids;
    struct log_event     now = *ge->event;
    struct err           err;
    struct pb_mark       mark = pb_begin(out, 1, ge->event->data.len + ge->event->meta.len + 250);
    struct grpc_recorded event;

    if (serveri_group_cast(k->server->front, &now, &err) != 0 && !k->cast_failed) {
        k->cast_failed = true; /* once for a member */
        say(SAY_WARN, "an upcaster failed: a group has events as they are stored", "group",
            k->target.name.text, NULL);
    }
    grpci_recorded_of(&now, &event);
    grpci_put_recorded(out, 1, &event, text_ids);
    serveri_group_cast_end(k->server->front);
    if (ge->link != NULL) {
        grpci_recorded_of(ge->link, &event);
        grpci_put_recorded(out, 2, &event, text_ids);
    }
    pb_put_varint(out, 3, event.pos);
    pb_put_varint(out, 5, ge->retry_count);
    pb_end(out, mark);
}

static bool
on_deliver(void *arg, const struct group_event *ge)
{
    struct member_call *k = arg;
    size_t              at, len = 0;
    bool                more;

    (void)pthread_mutex_lock(&k->lock);
    at = k->text.len;
    buf_add(&k->text, &len, sizeof len);
    put_event(k, ge);
    if (!k->text.failed) {
        len = k->text.len - at - sizeof len;
        memcpy(k->text.data + at, &len, sizeof len);
    }
    k->events++;
    more = k->text.len + k->unsent < UNSENT_MAX;
    (void)pthread_mutex_unlock(&k->lock);
    return more;
}

static void
on_flush(void *arg)
{
    struct member_call *k = arg;

    (void)pthread_mutex_lock(&k->lock);
    post(k);
    (void)pthread_mutex_unlock(&k->lock);
}

static void
on_ended(void *arg, const struct err *why)
{
    struct member_call *k = arg;

    (void)pthread_mutex_lock(&k->lock);
    k->ended = true;
    err_copy(&k->why, why);
    post(k);
    (void)pthread_mutex_unlock(&k->lock);
}

/* On the loop. */

static void
member_free(struct member_call *k)
{
    (void)pthread_mutex_destroy(&k->lock);
    buf_fini(&k->text);
    buf_fini(&k->sending);
    free(k);
}

/* Gives its work back. It is freed now, or when its message comes. */
static void
on_gone(struct rpc *r)
{
    struct member_call *k = rpc_state(r);
    bool                posted;

    if (k == NULL)
        return;
    k->rpc = NULL;
    group_leave(k->member); /* no callback comes after this */
    k->member = NULL;
    (void)pthread_mutex_lock(&k->lock);
    posted = k->posted;
    (void)pthread_mutex_unlock(&k->lock);
    if (!posted)
        member_free(k);
}

static void
say_end(struct member_call *k)
{
    const struct err *why = &k->why;

    if (why->code == E_CLOSED)
        rpc_end(k->rpc, RPC_UNAVAILABLE, why->text);
    else if (why->code == E_INTERRUPTED || why->code == E_STATE)
        grpci_group_refuse(k->rpc, RPC_CANCELLED, "persistent-subscription-dropped", &k->target,
                           why->text);
    else
        grpci_group_refuse(k->rpc, RPC_NOT_FOUND, "persistent-subscription-does-not-exist",
                           &k->target, why->text);
}

/* False: something was left out for want of memory, so that nothing may follow. */
static bool
send_events(struct member_call *k)
{
    struct buf swap;
    uint32_t   events;
    size_t     len, mark;

    buf_clear(&k->sending);
    if (k->sending.cap > UNSENT_MAX)
        buf_fini(&k->sending);
    (void)pthread_mutex_lock(&k->lock);
    swap = k->text;
    k->text = k->sending;
    k->sending = swap;
    events = k->events;
    k->events = 0;
    (void)pthread_mutex_unlock(&k->lock);
    if (k->sending.failed)
        return false;
    for (size_t at = 0; at < k->sending.len; at += len) {
        struct buf *out = rpc_begin(k->rpc, &mark);

        memcpy(&len, k->sending.data + at, sizeof len);
        at += sizeof len;
        buf_add(out, k->sending.data + at, len);
        rpc_commit(k->rpc, mark);
    }
    k->server->stats.events_out += events;
    (void)pthread_mutex_lock(&k->lock);
    k->unsent = rpc_pending(k->rpc);
    (void)pthread_mutex_unlock(&k->lock);
    return true;
}

static void
on_message(struct message *m)
{
    struct member_call *k = (struct member_call *)m;
    bool                ended;

    (void)pthread_mutex_lock(&k->lock);
    k->posted = false;
    ended = k->ended;
    (void)pthread_mutex_unlock(&k->lock);
    if (k->rpc == NULL) {
        member_free(k);
        return;
    }
    if (!send_events(k))
        rpc_end(k->rpc, RPC_RESOURCE_EXHAUSTED, "no memory for an event");
    else if (ended)
        say_end(k);
    else if (rpc_pending(k->rpc) < H2_OUT_HIGH)
        grpci_member_go_on(k->rpc);
}

/* The client has taken what kept it waiting. */
void
grpci_member_go_on(struct rpc *r)
{
    struct member_call *k = rpc_state(r);
    bool                stalled;

    if (k == NULL || k->member == NULL)
        return;
    (void)pthread_mutex_lock(&k->lock);
    k->unsent = rpc_pending(r);
    stalled = k->unsent < UNSENT_MAX / 2;
    (void)pthread_mutex_unlock(&k->lock);
    if (stalled)
        group_want(k->member, 0);
}

/* The request. */

static bool
read_options(struct slice message, struct member_call *k, uint64_t *buffer)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            ok = grpci_read_name(f.bytes, &k->target.source);
        else if (f.key == PB_BYTES(5))
            grpci_set_name(&k->target.source, slice_str("$all"));
        else if (f.key == PB_BYTES(2))
            grpci_set_name(&k->target.name, f.bytes);
        else if (f.key == PB_VARINT(3))
            *buffer = f.value;
        else if (f.key == PB_BYTES(4))
            ok = grpci_read_uuid_option(f.bytes, &k->text_ids);
    }
    return ok && !in.bad;
}

static void
put_confirmation(struct member_call *k)
{
    size_t         mark;
    struct buf    *out = rpc_begin(k->rpc, &mark);
    struct pb_mark within = pb_begin(out, 2, 0), id;

    id = pb_begin(out, 1, 0);
    buf_add_slice(out, grpci_name(&k->target.source));
    buf_add_str(out, "::");
    buf_add_slice(out, grpci_name(&k->target.name));
    pb_end(out, id);
    pb_end(out, within);
    rpc_commit(k->rpc, mark);
}

static void
join(struct rpc *r, struct member_call *k, uint64_t buffer)
{
    struct group_member_conf conf = {.name = rpc_connection_name(r),
                                     .buffer = (uint32_t)buffer,
                                     .arg = k,
                                     .deliver = on_deliver,
                                     .flush = on_flush,
                                     .ended = on_ended};
    struct err               err;
    int                      rc;

    if (buffer > GROUP_BUFFER_MAX || k->target.source.too_long || k->target.name.too_long) {
        grpci_bad(r, "the buffer is larger than 5000 events, or a name is too long");
        return;
    }
    if (!serveri_may_follow(k->server, rpc_who(r), grpci_name(&k->target.source))) {
        (void)serveri_access_refuse(k->server, rpc_who(r), "read", grpci_name(&k->target.source),
                                    &err);
        grpci_group_refuse(r, RPC_PERMISSION_DENIED, "access-denied", &k->target, err.text);
        return;
    }
    if (conf.name.len == 0)
        conf.name = slice_str("<unknown>");
    if (conf.name.len > GROUP_MEMBER_NAME_MAX)
        conf.name.len = GROUP_MEMBER_NAME_MAX;
    rc = group_join(k->server->groups, grpci_name(&k->target.source), grpci_name(&k->target.name),
                    &conf, &k->member, &err);
    if (rc == 0)
        put_confirmation(k);
    else if (rc == E_LIMIT)
        grpci_group_refuse(r, RPC_FAILED_PRECONDITION, "maximum-subscribers-reached", &k->target,
                           err.text);
    else
        grpci_group_fail(r, &err, &k->target);
}

static void
begin(struct rpc *r, struct slice options)
{
    struct member_call *k = calloc(1, sizeof *k);
    uint64_t            buffer = 10;

    if (k == NULL) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for a member");
        return;
    }
    (void)pthread_mutex_init(&k->lock, NULL);
    k->rpc = r;
    k->server = grpci_server(r);
    k->text_ids = true;
    rpc_set_state(r, k);
    if (read_options(options, k, &buffer))
        join(r, k, buffer);
    else
        grpci_bad(r, "the options are malformed");
}

/* Ack {2 ids}, Nack {2 ids, 3 action, 4 reason}. What is not with the member any more is no error.
 */
static void
take_said(struct rpc *r, struct member_call *k, struct slice message, bool nack)
{
    static const enum group_action actions[] = {GROUP_RETRY, GROUP_PARK, GROUP_RETRY, GROUP_DROP,
                                                GROUP_STOP};
    struct pb_in                   in;
    struct pb_field                f;
    struct buf                     refs = {0};
    struct group_ref               ref;
    struct slice                   reason = {0};
    uint64_t                       action = 0;
    bool                           ok = true;

    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        ref = (struct group_ref){0};
        if (f.key == PB_BYTES(2)) {
            ok = grpci_read_uuid(f.bytes, &ref.id);
            buf_add(&refs, &ref, sizeof ref);
        } else if (f.key == PB_VARINT(3)) {
            action = f.value;
        } else if (f.key == PB_BYTES(4)) {
            reason = f.bytes;
        }
    }
    if (!ok || in.bad || refs.failed || refs.len / sizeof ref > GROUP_BUFFER_MAX || action > 4)
        grpci_bad(r, "the acknowledgement is malformed");
    else if (refs.len != 0 && nack)
        (void)group_nack(k->member, (struct group_ref *)(void *)refs.data,
                         (uint32_t)(refs.len / sizeof ref), actions[action], reason, NULL);
    else if (refs.len != 0)
        (void)group_ack(k->member, (struct group_ref *)(void *)refs.data,
                        (uint32_t)(refs.len / sizeof ref), NULL);
    buf_fini(&refs);
}

static void
member_message(struct rpc *r, struct slice message)
{
    struct pb_in    in;
    struct pb_field f;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        struct member_call *k = rpc_state(r);

        if (f.key == PB_BYTES(1) && k == NULL)
            begin(r, f.bytes);
        else if (f.key == PB_BYTES(1) || k == NULL)
            grpci_bad(r, "the options come first, and once");
        else if (f.key == PB_BYTES(2) || f.key == PB_BYTES(3))
            take_said(r, k, f.bytes, f.key == PB_BYTES(3));
        if (rpc_state(r) == NULL)
            return;
    }
    if (in.bad)
        grpci_bad(r, "a message is malformed");
}

/* A client that ends its side has no acknowledgements to give. */
static void
member_end(struct rpc *r)
{
    rpc_end(r, RPC_OK, NULL);
}

static void
member_drain(struct rpc *r)
{
    rpc_end(r, RPC_UNAVAILABLE, "the server is stopping");
}

const struct rpc_method grpci_group_read = {
    .path = GRPCI_GROUPS "Read",
    .many = true,
    .message = member_message,
    .half_closed = member_end,
    .drained = grpci_member_go_on,
    .drain = member_drain,
    .gone = on_gone,
};
