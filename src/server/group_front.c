/*
 * Members over HTTP: a stream of server-sent events, or requests that pull.
 *
 * The groups' task writes what a member is given as text into the consumer's
 * buffer and posts one message; the loop sends it. Consumers live and die on
 * the loop. One whose connection goes away gives its work back, one that pulls
 * when its lease is over.
 */
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "core/upcast.h"
#include "server/feed_int.h"
#include "server/group_int.h"
#include "server/grpc_int.h"

#define UNSENT_MAX (1U << 20) /* bytes that wait for the client; then no more is asked for */
#define PULLED_MAX (8U << 20) /* bytes of one answer, give or take an event */
#define TICK_MS 50
#define WAIT_MS_MAX 60000
#define LEASE_MS 60000
#define LEASE_MS_MIN 1000
#define LEASE_MS_MAX 600000
#define PULL_BUFFER 10

struct consumer {
    struct message       message; /* first */
    struct front        *front;
    struct consumer     *prev, *next;
    struct group_member *member; /* NULL: it has left */
    struct later        *later;  /* pull: who waits */
    char                 token[ID_TEXT_LEN + 1];
    struct buf           source, name;
    bool                 pull;
    uint64_t             lease_ms, until_ms, wait_until_ms;
    struct buf           sending;

    pthread_mutex_t lock; /* what follows */
    struct buf      text;
    uint32_t        events;
    size_t          unsent; /* at the last look */
    bool            posted, ended;
    struct err      why;
};

/* parameters */

int
serveri_group_number(const struct call *call, const char *name, uint64_t least, uint64_t most,
                     uint64_t *out, struct err *err)
{
    struct slice text;

    if (!call_query(call, name, &text))
        return 0;
    if (!json_uint64(text, out) || *out < least || *out > most)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: must be a number from %llu to %llu", name,
                   (unsigned long long)least, (unsigned long long)most);
    return 0;
}

int
serveri_group_query(const struct call *call, const char *const *names, struct err *err)
{
    for (unsigned i = 0; i < call->uri.param_count; i++) {
        const char *const *name = names;

        while (*name != NULL && !slice_is(call->uri.params[i].name, *name))
            name++;
        if (*name == NULL)
            RETURN_ERR(err, E_INVALID, ERR_DATA, "a parameter that this request does not take");
    }
    return 0;
}

/* from the groups' task */

static void on_message(struct message *m);

/* With the consumer's lock. */
static void
post(struct consumer *k)
{
    if (k->posted)
        return;
    k->posted = true;
    k->message.fn = on_message;
    serveri_post(k->front->server, &k->message);
}

static void
put_event(struct buf *out, const struct log_event *event)
{
    struct event_out o;

    serveri_event_begin(&o, event);
    (void)serveri_event_write(&o, out, SIZE_MAX);
}

int
serveri_group_cast(struct front *f, struct log_event *event, struct err *err)
{
    bool changed;
    int  rc = 0;

    (void)pthread_mutex_lock(&f->cast_lock);
    if (!upcast_wants(f->server->upcasts, event))
        return 0;
    if (f->upcast == NULL)
        TRY(upcast_new(f->server->upcasts, &f->upcast, err));
    TRY(upcast_apply(f->upcast, event, &changed, err));
out:
    return rc;
}

void
serveri_group_cast_end(struct front *f)
{
    (void)pthread_mutex_unlock(&f->cast_lock);
}

/* As it is read now. What fails to be is given as it is stored, with why: the member decides. */
static void
put_upcast(struct front *f, struct buf *out, const struct log_event *event)
{
    struct log_event now = *event;
    struct err       err;
    int              rc = serveri_group_cast(f, &now, &err);

    put_event(out, &now);
    serveri_group_cast_end(f);
    if (rc == 0 || out->failed)
        return;
    out->len--;
    buf_add_str(out, ",\"upcast_error\":");
    json_put_str(out, err.text);
    buf_add_byte(out, '}');
}

/* {…the event…,"ack":P,"retry_count":N} */
static void
put_delivery(struct front *f, struct buf *out, const struct group_event *ge)
{
    const struct log_event *known = ge->link != NULL ? ge->link : ge->event;

    put_upcast(f, out, ge->event);
    if (!out->failed)
        out->len--; /* the bracket */
    if (ge->link != NULL) {
        buf_add_str(out, ",\"link\":");
        put_event(out, ge->link);
    }
    buf_printf(out, ",\"ack\":%llu,\"retry_count\":%u}", (unsigned long long)known->pos.v,
               ge->retry_count);
}

static bool
on_deliver(void *arg, const struct group_event *ge)
{
    struct consumer *k = arg;
    bool             more;

    (void)pthread_mutex_lock(&k->lock);
    if (k->pull) {
        if (k->events > 0)
            buf_add_byte(&k->text, ',');
    } else {
        buf_add_str(&k->text, "id: ");
        buf_add_u64(&k->text, ge->link != NULL ? ge->link->pos.v : ge->event->pos.v);
        buf_add_str(&k->text, "\ndata: ");
    }
    put_delivery(k->front, &k->text, ge);
    if (!k->pull)
        buf_add_str(&k->text, "\n\n");
    k->events++;
    more = k->text.len + k->unsent < (k->pull ? PULLED_MAX : UNSENT_MAX);
    (void)pthread_mutex_unlock(&k->lock);
    return more;
}

static void
on_flush(void *arg)
{
    struct consumer *k = arg;

    (void)pthread_mutex_lock(&k->lock);
    post(k);
    (void)pthread_mutex_unlock(&k->lock);
}

static void
on_ended(void *arg, const struct err *why)
{
    struct consumer *k = arg;

    (void)pthread_mutex_lock(&k->lock);
    k->ended = true;
    err_copy(&k->why, why);
    post(k);
    (void)pthread_mutex_unlock(&k->lock);
}

/* on the loop */

static void
consumer_free(struct consumer *k)
{
    (void)pthread_mutex_destroy(&k->lock);
    buf_fini(&k->source);
    buf_fini(&k->name);
    buf_fini(&k->text);
    buf_fini(&k->sending);
    free(k);
}

/* Gives its work back. It is freed now, or when its message comes. */
static void
leave(struct consumer *k)
{
    struct front *f = k->front;
    bool          posted;

    if (k->member == NULL)
        return;
    group_leave(k->member); /* no callback comes after this */
    k->member = NULL;
    if (k->later != NULL) {
        serveri_later_hook(k->later, NULL, NULL, NULL);
        later_drop(k->later);
        k->later = NULL;
    }
    if (k->prev == NULL)
        f->consumers = k->next;
    else
        k->prev->next = k->next;
    if (k->next != NULL)
        k->next->prev = k->prev;
    (void)pthread_mutex_lock(&k->lock);
    posted = k->posted;
    (void)pthread_mutex_unlock(&k->lock);
    if (!posted)
        consumer_free(k);
}

static void
on_gone(void *arg)
{
    struct consumer *k = arg;

    if (!k->pull) {
        leave(k);
        return;
    }
    /* What was written for it comes with its next request. */
    group_want(k->member, 0);
    later_drop(k->later);
    k->later = NULL;
}

static void
on_drained(void *arg)
{
    struct consumer *k = arg;
    bool             stalled;

    (void)pthread_mutex_lock(&k->lock);
    stalled = k->unsent > 0;
    k->unsent = 0;
    (void)pthread_mutex_unlock(&k->lock);
    if (stalled)
        group_want(k->member, 0);
}

/* Takes what was written so far into `sending`. */
static uint32_t
take_text(struct consumer *k)
{
    struct buf swap;
    uint32_t   events;

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
    return events;
}

/* False: the consumer is no more. */
static bool
send_stream(struct consumer *k)
{
    size_t unsent;

    (void)take_text(k);
    if (k->sending.failed) { /* something was left out: the client must not go on as if not */
        leave(k);
        return false;
    }
    if (k->sending.len == 0)
        return true;
    unsent = serveri_later_put(k->later, buf_slice(&k->sending));
    k->front->server->stats.events_out++;
    (void)pthread_mutex_lock(&k->lock);
    k->unsent = unsent;
    (void)pthread_mutex_unlock(&k->lock);
    return true;
}

/* {"member":…,"events":[…]} for who waits. */
static void
answer_pull(struct consumer *k)
{
    struct later *later = k->later;
    struct buf    body = {0};

    group_want(k->member, 0); /* nothing is written from here on */
    (void)take_text(k);
    k->later = NULL;
    k->until_ms = serveri_now_ms(k->front->server) + k->lease_ms;
    serveri_later_hook(later, NULL, NULL, NULL);
    buf_printf(&body, "{\"member\":\"%s\",\"events\":[", k->token);
    buf_add_slice(&body, buf_slice(&k->sending));
    buf_add_str(&body, "]}\n");
    if (k->sending.failed || body.failed) {
        later_drop(later);
        leave(k);
    } else {
        later_answer(later, 200, CALL_JSON, buf_slice(&body));
    }
    buf_fini(&body);
}

static void
say_end(struct consumer *k)
{
    struct buf text = {0};

    if (k->later != NULL && k->pull) {
        struct later *later = k->later;

        k->later = NULL;
        serveri_later_hook(later, NULL, NULL, NULL);
        later_fail(later, &k->why);
    } else if (k->later != NULL) {
        buf_add_str(&text, "event: ended\ndata: ");
        serveri_error_json(&text, err_name(k->why.code), k->why.text);
        buf_add_byte(&text, '\n');
        (void)serveri_later_put(k->later, buf_slice(&text));
        buf_fini(&text);
    }
    leave(k);
}

static void
on_message(struct message *m)
{
    struct consumer *k = (struct consumer *)m;
    bool             ended;

    (void)pthread_mutex_lock(&k->lock);
    k->posted = false;
    ended = k->ended;
    (void)pthread_mutex_unlock(&k->lock);
    if (k->member == NULL) {
        consumer_free(k);
        return;
    }
    if (!k->pull && !send_stream(k))
        return;
    if (k->pull && k->later != NULL && !ended)
        answer_pull(k);
    if (ended && k->member != NULL)
        say_end(k);
}

static void
on_timer(uv_timer_t *timer)
{
    struct front *f = timer->data;
    uint64_t      now = serveri_now_ms(f->server);
    bool          left = false;

    for (struct consumer *k = f->consumers, *next; k != NULL; k = next) {
        next = k->next;
        if (!k->pull)
            continue;
        left = true;
        if (k->later != NULL && (now >= k->wait_until_ms || f->server->draining))
            answer_pull(k);
        else if (k->later == NULL && now >= k->until_ms)
            leave(k);
    }
    if (!left)
        (void)uv_timer_stop(timer);
}

/* joining */

static int
consumer_new(struct front *f, struct call *call, uint32_t buffer, bool pull, struct consumer **out,
             struct err *err)
{
    struct consumer         *k = calloc(1, sizeof *k);
    struct ox_id             id = id_new(f->server->env);
    struct group_member_conf conf = {.buffer = buffer,
                                     .pull = pull,
                                     .arg = k,
                                     .deliver = on_deliver,
                                     .flush = on_flush,
                                     .ended = on_ended};
    int                      rc;

    *out = NULL;
    if (k == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for a member");
    (void)pthread_mutex_init(&k->lock, NULL);
    k->front = f;
    k->pull = pull;
    id_format(&id, k->token);
    buf_add_slice(&k->source, call_param(call, "stream"));
    buf_add_slice(&k->name, call_param(call, "group"));
    (void)call_query(call, "name", &conf.name);
    rc = group_join(f->groups, call_param(call, "stream"), call_param(call, "group"), &conf,
                    &k->member, err);
    if (rc != 0) {
        consumer_free(k);
        return rc;
    }
    k->next = f->consumers;
    if (f->consumers != NULL)
        f->consumers->prev = k;
    f->consumers = k;
    *out = k;
    return 0;
}

static struct consumer *
find(struct front *f, struct call *call, struct slice token)
{
    for (struct consumer *k = f->consumers; k != NULL; k = k->next)
        if (slice_is(token, k->token) &&
            slice_eq(call_param(call, "stream"), buf_slice(&k->source)) &&
            slice_eq(call_param(call, "group"), buf_slice(&k->name)))
            return k;
    return NULL;
}

static int
not_there(struct err *err)
{
    RETURN_ERR(err, E_NOTFOUND, ERR_DATA,
               "the group has no such member: its connection ended, its lease ran out, or it was "
               "ended");
}

static int
begin_stream(struct front *f, struct call *call, struct err *err)
{
    static const char *const names[] = {"buffer", "name", NULL};
    struct consumer         *k;
    struct buf               text = {0};
    uint64_t                 buffer = 0;
    int                      rc = 0;

    TRY(serveri_group_query(call, names, err));
    TRY(serveri_group_number(call, "buffer", 1, GROUP_BUFFER_MAX, &buffer, err));
    TRY(consumer_new(f, call, (uint32_t)buffer, false, &k, err));
    k->later = call_stream(call);
    if (k->later == NULL) {
        leave(k);
        goto out;
    }
    serveri_later_hook(k->later, on_gone, on_drained, k);
    buf_printf(&text, "event: member\ndata: {\"member\":\"%s\"}\n\n", k->token);
    (void)serveri_later_put(k->later, buf_slice(&text));
    buf_fini(&text);
out:
    return rc;
}

static int
pull_member(struct front *f, struct call *call, uint64_t most, struct consumer **out,
            struct err *err)
{
    struct slice token;
    uint64_t     buffer = most > PULL_BUFFER ? most : PULL_BUFFER;
    int          rc = 0;

    if (call_query(call, "member", &token)) {
        *out = find(f, call, token);
        return *out == NULL || !(*out)->pull ? not_there(err) : 0;
    }
    TRY(serveri_group_number(call, "buffer", 1, GROUP_BUFFER_MAX, &buffer, err));
    TRY(consumer_new(f, call, (uint32_t)buffer, true, out, err));
    (*out)->lease_ms = LEASE_MS;
out:
    return rc;
}

static int
begin_pull(struct front *f, struct call *call, struct err *err)
{
    static const char *const names[] = {"buffer",  "name",     "member", "max",
                                        "wait_ms", "lease_ms", NULL};
    struct consumer         *k;
    uint64_t                 most = PULL_BUFFER, wait = 0, lease = 0;
    uint64_t                 now = serveri_now_ms(f->server);
    int                      rc = 0;

    TRY(serveri_group_query(call, names, err));
    TRY(serveri_group_number(call, "max", 1, GROUP_BUFFER_MAX, &most, err));
    TRY(serveri_group_number(call, "wait_ms", 0, WAIT_MS_MAX, &wait, err));
    TRY(serveri_group_number(call, "lease_ms", LEASE_MS_MIN, LEASE_MS_MAX, &lease, err));
    TRY(pull_member(f, call, most, &k, err));
    if (k->later != NULL)
        FAIL(err, E_STATE, ERR_DATA, "the member waits for another request already");
    if (lease != 0)
        k->lease_ms = lease;
    k->until_ms = now + k->lease_ms;
    /* What is there is given even to who does not wait: the groups' task is asked for it. */
    k->wait_until_ms = now + (wait > TICK_MS ? wait : TICK_MS);
    k->later = call_later(call, (uint32_t)wait + 10000);
    if (k->later == NULL)
        goto out;
    serveri_later_hook(k->later, on_gone, NULL, k);
    if (!uv_is_active((uv_handle_t *)&f->timer))
        (void)uv_timer_start(&f->timer, on_timer, TICK_MS, TICK_MS);
    (void)pthread_mutex_lock(&k->lock);
    if (k->events > 0)
        post(k); /* of an answer that did not get through */
    (void)pthread_mutex_unlock(&k->lock);
    group_want(k->member, (uint32_t)most);
out:
    return rc;
}

void
serveri_group_events(struct call *call, void *arg)
{
    struct front *f = arg;
    struct slice  accept;
    struct err    err;
    bool          sse = call_header(call, "accept", &accept) &&
               memmem(accept.data, accept.len, "text/event-stream", 17) != NULL;

    if (call->head_only)
        call_refuse(call, 405, "method-not-allowed", "members come with GET");
    else if (sse ? begin_stream(f, call, &err) != 0 : begin_pull(f, call, &err) != 0)
        call_fail(call, &err);
}

/* what members say */

struct said {
    struct consumer  *consumer;
    struct group_ref *refs;
    uint32_t          count, ids; /* the first `ids` are given by id */
    enum group_action action;
    struct slice      reason;
    struct buf        text;
};

static int
read_refs(struct said *s, struct slice list, bool by_id, struct err *err)
{
    struct json_iter it;
    struct slice     raw;
    int              rc;

    if (list.data == NULL)
        return 0;
    rc = json_array_iter(&it, list, err);
    if (rc != 0)
        err_prefix(err, by_id ? "ids" : "positions");
    while (rc == 0 && (rc = json_iter_next(&it, NULL, &raw, err)) == 0) {
        struct group_ref *ref = &s->refs[s->count];

        if (s->count == SERVERI_ACKS_MAX)
            RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %d events at once", SERVERI_ACKS_MAX);
        *ref = (struct group_ref){0};
        if (by_id ? raw.len != ID_TEXT_LEN + 2 ||
                        !id_parse(slice_of((const char *)raw.data + 1, ID_TEXT_LEN), &ref->id)
                  : !json_uint64(raw, &ref->pos.v) || ref->pos.v == 0)
            RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: one of them is none",
                       by_id ? "ids" : "positions");
        s->count++;
        s->ids += by_id;
    }
    return rc == E_END ? 0 : rc;
}

static int
read_action(struct said *s, struct slice raw, struct err *err)
{
    static const char *const names[] = {[GROUP_PARK] = "\"park\"",
                                        [GROUP_RETRY] = "\"retry\"",
                                        [GROUP_DROP] = "\"skip\"",
                                        [GROUP_STOP] = "\"stop\""};

    for (int i = 0; raw.data != NULL && i < 4; i++) {
        if (!slice_is(raw, names[i]))
            continue;
        s->action = (enum group_action)i;
        return 0;
    }
    RETURN_ERR(err, E_INVALID, ERR_DATA, "action: must be park, retry, skip or stop");
}

static int
read_said(struct front *f, struct call *call, bool nack, struct said *s, struct err *err)
{
    struct json_field fields[] = {{.name = "member", .required = true},
                                  {.name = "ids"},
                                  {.name = "positions"},
                                  {.name = "action"},
                                  {.name = "reason"}};
    struct slice      token;
    int               rc = 0;

    TRY(json_pick(call_body(call), fields, nack ? 5 : 3, JSON_PICK_ONLY, err));
    if (json_type(fields[0].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "member: must be a string");
    token = slice_of((const char *)fields[0].value.data + 1, fields[0].value.len - 2);
    s->refs = calloc(SERVERI_ACKS_MAX, sizeof *s->refs);
    if (s->refs == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the request");
    TRY(read_refs(s, fields[1].value, true, err));
    TRY(read_refs(s, fields[2].value, false, err));
    if (s->count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "neither ids nor positions are given");
    if (nack)
        TRY(read_action(s, fields[3].value, err));
    if (fields[4].value.data != NULL && json_type(fields[4].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "reason: must be a string");
    if (fields[4].value.data != NULL)
        TRY(json_string_view(fields[4].value, &s->text, &s->reason, err));
    s->consumer = find(f, call, token);
    if (s->consumer == NULL)
        rc = not_there(err);
out:
    return rc;
}

/* {"settled":N,"unknown":[…]} */
static void
answer_said(struct call *call, const struct said *s)
{
    struct buf     *body = &call->conn->server->scratch;
    struct json_out o;
    uint32_t        known = 0;
    char            id[ID_TEXT_LEN + 1];

    for (uint32_t i = 0; i < s->count; i++)
        known += s->refs[i].known;
    buf_clear(body);
    json_out_init(&o, body);
    json_out_object(&o);
    json_out_key(&o, "taken");
    json_out_u64(&o, known);
    json_out_key(&o, "unknown");
    json_out_array(&o);
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->refs[i].known)
            continue;
        id_format(&s->refs[i].id, id);
        if (i < s->ids)
            json_out_str(&o, id);
        else
            json_out_u64(&o, s->refs[i].pos.v);
    }
    json_out_array_end(&o);
    json_out_object_end(&o);
    buf_add_byte(body, '\n');
    call_answer(call, 200, CALL_JSON, buf_slice(body));
}

static void
take_said(struct call *call, struct front *f, bool nack)
{
    struct said s = {0};
    struct err  err;
    int         rc = read_said(f, call, nack, &s, &err);

    if (rc == 0)
        s.consumer->until_ms = serveri_now_ms(f->server) + s.consumer->lease_ms;
    if (rc == 0 && nack)
        rc = group_nack(s.consumer->member, s.refs, s.count, s.action, s.reason, &err);
    else if (rc == 0)
        rc = group_ack(s.consumer->member, s.refs, s.count, &err);
    if (rc != 0)
        call_fail(call, &err);
    else
        answer_said(call, &s);
    free(s.refs);
    buf_fini(&s.text);
}

void
serveri_group_ack(struct call *call, void *arg)
{
    take_said(call, arg, false);
}

void
serveri_group_nack(struct call *call, void *arg)
{
    take_said(call, arg, true);
}

void
serveri_group_leave(struct call *call, void *arg)
{
    struct consumer *k = find(arg, call, call_param(call, "member"));
    struct err       err;

    if (k == NULL) {
        (void)not_there(&err);
        call_fail(call, &err);
        return;
    }
    leave(k);
    call_answer(call, 204, NULL, (struct slice){0});
}

/* the server's end */

static void
on_stop(struct server_extra *extra)
{
    struct front    *f = (struct front *)extra;
    struct consumer *next;

    for (struct consumer *k = f->consumers; k != NULL; k = next) {
        next = k->next;
        leave(k);
    }
    must(f->consumers == NULL);
}

static void
on_free(struct server_extra *extra)
{
    struct front *f = (struct front *)extra;

    upcast_free(f->upcast);
    (void)pthread_mutex_destroy(&f->cast_lock);
    free(extra);
}

int
server_add_groups(struct server *s, struct groups *groups, struct err *err)
{
    struct front *f = calloc(1, sizeof *f);
    int           rc = 0;

    if (f == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the groups' routes");
    f->extra = (struct server_extra){on_stop, on_free, serveri_group_metrics, NULL};
    f->server = s;
    f->groups = groups;
    (void)pthread_mutex_init(&f->cast_lock, NULL);
    s->groups = groups;
    s->front = f;
    s->group_methods = grpci_group_methods;
    s->group_method_count = grpci_group_method_count;
    serveri_extra_add(s, &f->extra);
    (void)uv_timer_init(&s->loop, &f->timer);
    f->timer.data = f;
    uv_unref((uv_handle_t *)&f->timer);
    TRY(server_add_routes(s, serveri_group_routes, serveri_group_route_count, f, err));
out:
    return rc;
}
