/* Sources that consume a queue: opening them, what they show, and their commands. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "cli/engine_int.h"
#include "core/queue.h"
#include "server/call.h"

#define COMMAND_MS_MAX 600000

/* opening */

/* The stream in which `verify-…` holds messages, in `name` or of the tree. */
static int
find_verify(const struct conf *root, const struct conf *conf, struct buf *name, const char **out,
            struct err *err)
{
    const char        *wanted = conf_str(conf, "verify");
    const struct conf *x = conf_first(conf_child(root, "sources"));

    *out = NULL;
    if (wanted == NULL)
        return 0;
    while (x != NULL && strcmp(conf_key(x), wanted) != 0)
        x = conf_next(x);
    if (x == NULL || enginei_proof(conf_str(x, "type")) == NULL)
        return conf_fail(conf_child(conf, "verify"), err,
                         "must name a source of a type verify-…, which \"%s\" does not", wanted);
    *out = conf_str(x, "stream");
    if (*out != NULL)
        return 0;
    buf_printf(name, "$unverified-%s", wanted);
    buf_add_byte(name, 0);
    if (name->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    *out = (const char *)name->data;
    return 0;
}

static int
read_conf(const struct conf *root, const struct conf *conf, struct buf *name,
          struct queue_conf *out, struct err *err)
{
    *out = (struct queue_conf){
        .name = conf_key(conf),
        .category = conf_str(conf, "category"),
        .stream = conf_str(conf, "stream"),
        .type = conf_str(conf, "event"),
        .id = conf_str(conf, "id"),
        .park_no_id = conf_enum(conf, "no_id") == 1,
        .payload = (enum queue_payload)conf_enum(conf, "payload"),
        .window = (uint32_t)conf_int(conf, "window"),
        .window_us = conf_duration_us(conf, "window_time"),
        .parked_max = (uint32_t)conf_int(conf, "parked_max"),
        .batch_max = (uint32_t)conf_int(conf, "batch"),
    };
    if (conf_has(conf, "outbox"))
        return conf_fail(conf_child(conf, "outbox"), err, "is not for a queue");
    return find_verify(root, conf, name, &out->verify_stream, err);
}

int
enginei_queue_check(const struct conf *root, const struct conf *conf, struct err *err)
{
    struct queue_conf q;
    struct buf        name = {0};
    struct err        why;
    int               rc;

    TRY(read_conf(root, conf, &name, &q, err));
    if (queue_check(&q, &why) != 0)
        rc = conf_fail(conf, err, "%s", why.text);
out:
    buf_fini(&name);
    return rc;
}

int
enginei_queue_open(struct engine *e, struct part *p, const struct queue_ops *ops, struct err *err)
{
    struct queue_conf    conf;
    struct queue_reader *reader = NULL;
    struct queue        *queue = NULL;
    struct buf           name = {0};
    int                  rc;

    TRY(read_conf(p->tree->root, p->conf, &name, &conf, err));
    TRY(source_queue_new(e->env, ops, p->name, p->conf, &reader, err));
    TRY(queue_new(e->env, e->log, &conf, &reader, &queue, err));
    TRY(queue_start(queue, err));
    (void)pthread_mutex_lock(&e->lock);
    p->queue = queue;
    (void)pthread_mutex_unlock(&e->lock);
    queue = NULL;
out:
    queue_free(queue);
    source_queue_free(reader);
    buf_fini(&name);
    return rc;
}

bool
enginei_queue_failed(struct queue *queue)
{
    struct queue_status s;

    queue_get_status(queue, &s);
    return s.state == QUEUE_FAILED;
}

/* what is shown */

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

void
enginei_put_queue(struct json_out *o, struct queue *queue)
{
    struct queue_status s;

    queue_get_status(queue, &s);
    json_out_key(o, "state");
    json_out_str(o, queue_state_name(s.state));
    json_out_key(o, "caught_up");
    json_out_bool(o, s.caught_up);
    put_u64(o, "batches", s.batches);
    put_u64(o, "changes", s.messages);
    put_u64(o, "appended", s.appended);
    put_u64(o, "duplicates", s.duplicates);
    put_u64(o, "parked", s.parked_open);
    put_u64(o, "without_id", s.without_id);
    put_u64(o, "redelivered", s.redelivered);
    put_u64(o, "window", s.window);
    put_u64(o, "position", s.last.v);
    json_out_key(o, "source");
    if (json_check(slice_str(s.detail), NULL) == 0)
        json_out_raw(o, slice_str(s.detail));
    else
        json_out_null(o);
    json_out_key(o, "error");
    json_out_str(o, s.error[0] == '\0' ? NULL : s.error);
}

struct figure {
    const char *name, *type, *help;
    size_t      at; /* in struct queue_status, an uint64_t */
};

#define FIGURE(name, type, member, help)                                                           \
    {                                                                                              \
        (name), (type), (help), offsetof(struct queue_status, member)                              \
    }

static const struct figure figures[] = {
    FIGURE("oxbow_queue_messages_total", "counter", messages,
           "Messages of a queue that are durable since the start."),
    FIGURE("oxbow_queue_appended_total", "counter", appended, "Of these, those that are events."),
    FIGURE("oxbow_queue_duplicates_total", "counter", duplicates,
           "Of these, those whose ids were known."),
    FIGURE("oxbow_queue_parked_total", "counter", parked, "Of these, those that were parked."),
    FIGURE("oxbow_queue_without_id_total", "counter", without_id,
           "Of these, those that had neither an id nor a place."),
    FIGURE("oxbow_queue_redelivered_total", "counter", redelivered,
           "Of these, those that the broker said to have handed out before."),
    FIGURE("oxbow_queue_parked", "gauge", parked_open, "Messages that are parked now."),
    FIGURE("oxbow_queue_window", "gauge", window, "Ids that are remembered."),
};

/* Names of parts need no escapes. */
void
enginei_put_queue_metrics(struct engine *e, struct buf *out)
{
    struct queue_status s;

    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        const struct figure *f = &figures[i];

        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, f->type);
        for (const struct part *p = e->parts; p != NULL; p = p->next) {
            uint64_t value;

            if (p->queue == NULL)
                continue;
            queue_get_status(p->queue, &s);
            memcpy(&value, (const char *)&s + f->at, sizeof value);
            buf_printf(out, "%s{source=\"%s\"} %llu\n", f->name, p->name,
                       (unsigned long long)value);
        }
    }
    buf_add_str(out, "# HELP oxbow_queue_running 1: it runs and tries nothing again.\n"
                     "# TYPE oxbow_queue_running gauge\n");
    for (const struct part *p = e->parts; p != NULL; p = p->next) {
        if (p->queue == NULL)
            continue;
        queue_get_status(p->queue, &s);
        buf_printf(out, "oxbow_queue_running{source=\"%s\"} %d\n", p->name,
                   s.state == QUEUE_RUNNING);
    }
}

/* commands */

struct queue_order {
    struct queue_call call;
    struct later     *later;
};

/* On the queue's task. */
static void
on_taken(struct queue_call *done)
{
    struct queue_order *x = done->arg;
    struct buf          body = {0};
    struct json_out     o;

    if (done->rc != 0) {
        later_fail(x->later, &done->err);
        free(x);
        return;
    }
    json_out_init(&o, &body);
    json_out_object(&o);
    json_out_key(&o, "done");
    json_out_bool(&o, true);
    if (done->command == QUEUE_REPLAY || done->command == QUEUE_SKIP) {
        put_u64(&o, "closed", done->closed);
        put_u64(&o, "refused", done->refused);
        json_out_key(&o, "reason");
        json_out_str(&o, done->refused > 0 ? done->err.text : NULL);
    }
    json_out_object_end(&o);
    buf_add_byte(&body, '\n');
    later_answer(x->later, 200, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
    free(x);
}

static bool
parse(struct call *call, struct queue_call *out)
{
    static const char *const words[] = {
        [QUEUE_PAUSE] = "pause",  [QUEUE_RESUME] = "resume", [QUEUE_DROP] = "drop",
        [QUEUE_GAP] = "snapshot", [QUEUE_REPLAY] = "replay", [QUEUE_SKIP] = "skip"};
    struct slice word = call_param(call, "command"), version = {0}, gap = {0}, all = {0};
    unsigned     i = 0;

    while (i < sizeof words / sizeof words[0] && !slice_is(word, words[i]))
        i++;
    (void)call_query(call, "version", &version);
    (void)call_query(call, "gap", &gap);
    (void)call_query(call, "all", &all);
    out->version = UINT64_MAX;
    if (i == sizeof words / sizeof words[0]) {
        call_refuse(call, 404, "not-found",
                    "no such command; there are pause, resume, drop, replay?version=N, "
                    "skip?version=N or ?all=true, and snapshot?gap=true");
        return false;
    }
    out->command = (enum queue_command)i;
    if (out->command == QUEUE_GAP && !slice_is(gap, "true")) {
        call_refuse(call, 400, "invalid", "a queue has no tables to read again: ?gap=true");
        return false;
    }
    if (version.len > 0 && !json_uint64(version, &out->version)) {
        call_refuse(call, 400, "invalid", "version: must be that of a record");
        return false;
    }
    if (out->command == QUEUE_SKIP && version.len == 0 && !slice_is(all, "true")) {
        call_refuse(call, 400, "invalid", "say which: version=N, or all=true");
        return false;
    }
    return true;
}

void
enginei_queue_command(struct call *call, struct queue *queue)
{
    struct queue_order *x = calloc(1, sizeof *x);

    if (x == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the command");
        return;
    }
    if (parse(call, &x->call))
        x->later = call_later(call, COMMAND_MS_MAX);
    if (x->later == NULL) {
        free(x);
        return;
    }
    x->call.done = on_taken;
    x->call.arg = x;
    queue_submit(queue, &x->call);
}
