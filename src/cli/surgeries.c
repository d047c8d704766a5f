/* Surgeries of a server: one task takes the commands, another what reads for long. */
#include "cli/surgeries_int.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/say.h"
#include "migrate/stream/stream.h"
#include "server/call.h"
#include "server/server.h"

#define BEGIN_MS 60000
#define LONG_MS 3600000
#define QUEUE_MAX 100

enum verb {
    VERB_BEGIN,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_CANCEL,
    VERB_ROLLBACK,
    VERB_DROP,
    VERB_UNROUTE,
    VERB_THROTTLE,
    VERB_AUDIT, /* this one and what follows take their time */
    VERB_PLAN,
    VERB_COUNT
};

static const char *const verbs[VERB_COUNT] = {"",     "pause",   "resume",   "cancel", "rollback",
                                              "drop", "unroute", "throttle", "audit",  "plan"};

struct order {
    struct order *next;
    struct later *later;
    enum verb     verb;
    uint64_t      number; /* of throttle and plan */
    uint64_t      rate;
    struct buf    name, body;
};

struct entry {
    struct entry   *next;
    char            name[STREAM_NAME_MAX + 1];
    struct surgery *surgery;
};

struct desk {
    struct surgeries *list;
    struct ox_task   *task;
    struct order     *orders, **tail;
    unsigned          count;
};

struct surgeries {
    struct ox_env  *env;
    struct log     *log;
    atomic_bool     stop;
    pthread_mutex_t lock; /* the entries, which stay, and the orders */
    struct entry   *entries;
    struct desk     desks[2]; /* for commands, and for what takes its time */
};

static struct surgery *
find(struct surgeries *l, struct slice name)
{
    struct surgery *found = NULL;

    (void)pthread_mutex_lock(&l->lock);
    for (struct entry *e = l->entries; e != NULL && found == NULL; e = e->next)
        if (slice_is(name, e->name))
            found = e->surgery;
    (void)pthread_mutex_unlock(&l->lock);
    return found;
}

/* Takes the surgery over. */
static int
add(struct surgeries *l, struct slice name, struct surgery *s, struct err *err)
{
    struct entry *e = calloc(1, sizeof *e);

    if (e == NULL) {
        stream_close(s);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    }
    memcpy(e->name, name.data, name.len);
    e->surgery = s;
    (void)pthread_mutex_lock(&l->lock);
    e->next = l->entries;
    l->entries = e;
    (void)pthread_mutex_unlock(&l->lock);
    return 0;
}

/* orders */

static void
order_free(struct order *o)
{
    buf_fini(&o->name);
    buf_fini(&o->body);
    free(o);
}

static int
begin(struct surgeries *l, const struct order *o, struct err *err)
{
    struct surgery *s;
    int             rc;

    TRY(stream_begin(l->env, l->log, buf_slice(&o->name), buf_slice(&o->body), &s, err));
    rc = add(l, buf_slice(&o->name), s, err);
out:
    return rc;
}

static int
carry_out(struct surgeries *l, const struct order *o, struct buf *out, struct err *err)
{
    struct surgery      *s = NULL;
    struct stream_audit  audit;
    struct stream_status status;
    int                  rc = 0;

    if (o->verb == VERB_PLAN)
        return stream_plan(l->env, l->log, buf_slice(&o->name), buf_slice(&o->body), o->number,
                           &l->stop, out, err);
    if (o->verb == VERB_BEGIN)
        TRY(begin(l, o, err));
    s = find(l, buf_slice(&o->name));
    if (s == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no such surgery");
    if (o->verb == VERB_AUDIT) {
        TRY(stream_audit_run(s, &l->stop, &audit, err));
        stream_audit_json(&audit, out);
        goto out;
    }
    if (o->verb == VERB_PAUSE)
        TRY(stream_pause(s, err));
    else if (o->verb == VERB_RESUME)
        TRY(stream_resume(s, err));
    else if (o->verb == VERB_CANCEL)
        TRY(stream_cancel(s, err));
    else if (o->verb == VERB_ROLLBACK)
        TRY(stream_rollback(s, err));
    else if (o->verb == VERB_DROP)
        TRY(stream_drop(s, err));
    else if (o->verb == VERB_UNROUTE)
        TRY(stream_end_routing(s, err));
    else if (o->verb == VERB_THROTTLE)
        stream_throttle(s, o->number, o->rate);
    stream_get_status(s, &status);
    stream_status_json(&status, out);
out:
    return rc;
}

static uint64_t
step(void *arg)
{
    struct desk      *d = arg;
    struct surgeries *l = d->list;
    struct order     *o;
    struct buf        out = {0};
    struct err        err;

    (void)pthread_mutex_lock(&l->lock);
    o = d->orders;
    if (o != NULL) {
        d->orders = o->next;
        if (d->orders == NULL)
            d->tail = &d->orders;
        d->count--;
    }
    (void)pthread_mutex_unlock(&l->lock);
    if (o == NULL)
        return ENV_STEP_WAIT;
    if (carry_out(l, o, &out, &err) != 0) {
        later_fail(o->later, &err);
    } else {
        buf_add_byte(&out, '\n');
        later_answer(o->later, o->verb == VERB_BEGIN ? 201 : 200, CALL_JSON, buf_slice(&out));
    }
    buf_fini(&out);
    order_free(o);
    return ENV_STEP_NOW;
}

static void
take_order(struct call *call, struct surgeries *l, enum verb verb, uint64_t number, uint64_t rate)
{
    struct desk  *d = &l->desks[verb >= VERB_AUDIT];
    struct order *o = calloc(1, sizeof *o);
    bool          full;

    if (o == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the command");
        return;
    }
    buf_add_slice(&o->name, call_param(call, "name"));
    buf_add_slice(&o->body, call_body(call));
    o->verb = verb;
    o->number = number;
    o->rate = rate;
    (void)pthread_mutex_lock(&l->lock);
    full = d->count >= QUEUE_MAX || o->name.failed || o->body.failed;
    (void)pthread_mutex_unlock(&l->lock);
    if (full)
        call_refuse(call, 503, "busy", "too many commands wait: try again later");
    else
        o->later = call_later(call, verb >= VERB_AUDIT ? LONG_MS : BEGIN_MS);
    if (o->later == NULL) {
        order_free(o);
        return;
    }
    (void)pthread_mutex_lock(&l->lock);
    *d->tail = o;
    d->tail = &o->next;
    d->count++;
    (void)pthread_mutex_unlock(&l->lock);
    l->env->ops->task_wake(l->env, d->task);
}

/* routes */

static void
post_surgery(struct call *call, void *arg)
{
    struct err err;

    if (stream_spec_check(call_param(call, "name"), call_body(call), NULL, &err) != 0)
        call_fail(call, &err);
    else
        take_order(call, arg, VERB_BEGIN, 0, 0);
}

/* A number of the query, or the preset; false: it was refused. */
static bool
read_query(struct call *call, const char *name, uint64_t preset, uint64_t *out)
{
    struct slice text;

    *out = preset;
    if (!call_query(call, name, &text) || json_uint64(text, out))
        return true;
    call_refuse(call, 400, "invalid",
                "max_foreground_p99_ms, max_events_per_s, sample: must be a "
                "number");
    return false;
}

/*
 * POST /v1/surgeries/NAME/COMMAND; throttle?max_foreground_p99_ms=N, throttle?max_events_per_s=N,
 * plan?sample=N
 */
static void
post_command(struct call *call, void *arg)
{
    struct slice word = call_param(call, "command");
    uint64_t     number, rate;
    unsigned     verb = VERB_PAUSE;

    while (verb < VERB_COUNT && !slice_is(word, verbs[verb]))
        verb++;
    if (verb == VERB_COUNT) {
        call_refuse(call, 404, "not-found",
                    "no such command; there are pause, resume, cancel, rollback, drop, unroute, "
                    "throttle, audit and plan");
        return;
    }
    if (!read_query(call, "max_events_per_s", UINT64_MAX, &rate) ||
        (verb == VERB_PLAN ? !read_query(call, "sample", 0, &number)
                           : !read_query(call, "max_foreground_p99_ms",
                                         rate == UINT64_MAX ? 0 : UINT64_MAX, &number)))
        return;
    take_order(call, arg, (enum verb)verb, number, rate);
}

static void
put_status(struct surgery *s, struct buf *out)
{
    struct stream_status status;

    stream_get_status(s, &status);
    stream_status_json(&status, out);
}

static void
get_surgery(struct call *call, void *arg)
{
    struct surgery *s = find(arg, call_param(call, "name"));
    struct buf      out = {0};

    if (s == NULL) {
        call_refuse(call, 404, "not-found", "there is no such surgery");
        return;
    }
    put_status(s, &out);
    buf_add_byte(&out, '\n');
    call_answer(call, 200, CALL_JSON, buf_slice(&out));
    buf_fini(&out);
}

static void
get_surgeries(struct call *call, void *arg)
{
    struct surgeries *l = arg;
    struct buf        out = {0};
    bool              first = true;

    buf_add_str(&out, "{\"surgeries\":[");
    (void)pthread_mutex_lock(&l->lock);
    for (struct entry *e = l->entries; e != NULL; e = e->next) {
        if (!first)
            buf_add_byte(&out, ',');
        first = false;
        put_status(e->surgery, &out);
    }
    (void)pthread_mutex_unlock(&l->lock);
    buf_add_str(&out, "]}\n");
    call_answer(call, 200, CALL_JSON, buf_slice(&out));
    buf_fini(&out);
}

int
surgeriesi_routes(struct surgeries *list, struct server *server, struct err *err)
{
    static const struct server_route routes[] = {
        {"GET", "/v1/surgeries", get_surgeries, 0},
        {"GET", "/v1/surgeries/{name}", get_surgery, 0},
        {"POST", "/v1/surgeries/{name}", post_surgery, STREAM_SPEC_MAX},
        {"POST", "/v1/surgeries/{name}/{command}", post_command, STREAM_SPEC_MAX},
    };

    return server_add_routes(server, routes, sizeof routes / sizeof routes[0], list, err);
}

/* One that cannot be opened must not keep the server from its work. */
static int
open_one(void *arg, struct slice name, struct err *err)
{
    struct surgeries *l = arg;
    struct surgery   *s;
    struct err        why;
    struct buf        text = {0};

    if (stream_open(l->env, l->log, name, &s, &why) == 0)
        return add(l, name, s, err);
    buf_add_slice(&text, name);
    buf_add_byte(&text, '\0');
    if (!text.failed)
        say(SAY_ERROR, "a surgery cannot go on", "surgery", (const char *)text.data, "why",
            why.text, NULL);
    buf_fini(&text);
    return 0;
}

int
surgeriesi_new(struct ox_env *env, struct log *log, struct surgeries **out, struct err *err)
{
    struct surgeries *l = calloc(1, sizeof *l);
    int               rc = 0;

    *out = NULL;
    if (l == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    (void)pthread_mutex_init(&l->lock, NULL);
    l->env = env;
    l->log = log;
    for (int i = 0; i < 2; i++) {
        l->desks[i].list = l;
        l->desks[i].tail = &l->desks[i].orders;
        TRY(env->ops->task_start(
            env, &(struct ox_task_def){.name = "surgeries", .step = step, .arg = &l->desks[i]},
            &l->desks[i].task, err));
    }
    TRY(stream_each(log, open_one, l, err));
    *out = l;
    l = NULL;
out:
    surgeriesi_free(l);
    return rc;
}

void
surgeriesi_free(struct surgeries *l)
{
    if (l == NULL)
        return;
    atomic_store(&l->stop, true);
    for (int i = 0; i < 2; i++) {
        l->env->ops->task_stop(l->env, l->desks[i].task);
        while (l->desks[i].orders != NULL) {
            struct order *o = l->desks[i].orders;

            l->desks[i].orders = o->next;
            later_fail(o->later, &(struct err){.code = E_CLOSED,
                                               .kind = ERR_RETRY,
                                               .text = "the server is being stopped"});
            order_free(o);
        }
    }
    while (l->entries != NULL) {
        struct entry *e = l->entries;

        l->entries = e->next;
        stream_close(e->surgery);
        free(e);
    }
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}
