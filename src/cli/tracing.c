/*
 * The exporter. What the collector does not take is dropped and counted: nothing here holds up
 * anybody, and while the collector is away the queue fills and drops by itself.
 */
#include "cli/tracing_int.h"

#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "base/say.h"
#include "base/trace.h"
#include "net/http.h"

#define ROOM 4096u
#define BATCH_MAX 512u
#define EVERY_US UINT64_C(500000)
#define BACKOFF_MAX_US UINT64_C(30000000)
#define HEADERS_MAX 16
#define ANSWER_MAX 65536

struct tracing {
    struct ox_env      *env;
    struct trace_queue *queue;
    struct ox_task     *task;
    struct net_client  *client;
    struct buf          url, service, texts, body;
    struct net_header   headers[HEADERS_MAX + 1];
    uint32_t            header_count;
    uint64_t            backoff_us;
    bool                away; /* as the last attempt said */
    struct trace_span   batch[BATCH_MAX];
};

/* JSON of OTLP: ids in hex, 64-bit numbers as texts. */

static void
put_id(struct json_out *o, const char *key, const struct trace_context *c, bool span)
{
    char text[TRACE_TEXT_LEN + 1];

    trace_write(c, text);
    json_out_key(o, key);
    json_out_string(o, span ? slice_of(text + 36, 16) : slice_of(text + 3, 32));
}

static void
put_number(struct json_out *o, const char *key, uint64_t number)
{
    struct say_num text;

    json_out_key(o, key);
    json_out_str(o, say_u64(&text, number));
}

static void
put_attr(struct json_out *o, const char *key, struct slice text, uint64_t number)
{
    json_out_object(o);
    json_out_key(o, "key");
    json_out_str(o, key);
    json_out_key(o, "value");
    json_out_object(o);
    if (text.len > 0) {
        json_out_key(o, "stringValue");
        json_out_string(o, text);
    } else {
        put_number(o, "intValue", number);
    }
    json_out_object_end(o);
    json_out_object_end(o);
}

static void
put_links(struct json_out *o, const struct trace_context *link)
{
    json_out_key(o, "links");
    json_out_array(o);
    json_out_object(o);
    put_id(o, "traceId", link, false);
    put_id(o, "spanId", link, true);
    json_out_object_end(o);
    json_out_array_end(o);
}

static void
put_span(struct json_out *o, const struct trace_span *s)
{
    json_out_object(o);
    put_id(o, "traceId", &s->context, false);
    put_id(o, "spanId", &s->context, true);
    if (s->has_parent)
        put_id(o, "parentSpanId", &s->parent, true);
    json_out_key(o, "name");
    json_out_str(o, s->name);
    json_out_key(o, "kind");
    json_out_u64(o, s->kind);
    put_number(o, "startTimeUnixNano", (uint64_t)s->begin_us * 1000);
    put_number(o, "endTimeUnixNano", (uint64_t)s->end_us * 1000);
    json_out_key(o, "attributes");
    json_out_array(o);
    for (unsigned i = 0; i < s->attr_count; i++)
        put_attr(o, s->attrs[i].key, slice_str(s->attrs[i].text), s->attrs[i].number);
    json_out_array_end(o);
    if (s->has_link)
        put_links(o, &s->link);
    if (s->failed) {
        json_out_key(o, "status");
        json_out_object(o);
        json_out_key(o, "code");
        json_out_u64(o, 2);
        json_out_key(o, "message");
        json_out_str(o, s->why);
        json_out_object_end(o);
    }
    json_out_object_end(o);
}

static void
put_resource(struct json_out *o, const struct tracing *t)
{
    json_out_key(o, "resource");
    json_out_object(o);
    json_out_key(o, "attributes");
    json_out_array(o);
    put_attr(o, "service.name", buf_slice(&t->service), 0);
    put_attr(o, "service.version", slice_str(OX_VERSION), 0);
    json_out_array_end(o);
    json_out_object_end(o);
}

static void
put_request(struct tracing *t, uint32_t count)
{
    struct json_out o;

    buf_clear(&t->body);
    json_out_init(&o, &t->body);
    json_out_object(&o);
    json_out_key(&o, "resourceSpans");
    json_out_array(&o);
    json_out_object(&o);
    put_resource(&o, t);
    json_out_key(&o, "scopeSpans");
    json_out_array(&o);
    json_out_object(&o);
    json_out_key(&o, "scope");
    json_out_object(&o);
    json_out_key(&o, "name");
    json_out_str(&o, "oxbow");
    json_out_object_end(&o);
    json_out_key(&o, "spans");
    json_out_array(&o);
    for (uint32_t i = 0; i < count; i++)
        put_span(&o, &t->batch[i]);
    json_out_array_end(&o);
    json_out_object_end(&o);
    json_out_array_end(&o);
    json_out_object_end(&o);
    json_out_array_end(&o);
    json_out_object_end(&o);
}

static int
post(struct tracing *t, struct err *err)
{
    struct net_request request = {
        .method = "POST",
        .url = buf_slice(&t->url),
        .headers = t->headers,
        .header_count = t->header_count,
        .body = buf_slice(&t->body),
        .label = "POST traces",
        .head_only = true,
    };
    struct net_answer answer;
    int               rc = 0;

    if (t->body.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for spans");
    TRY(net_call(t->client, &request, &answer, err));
    TRY(net_status(&answer, "POST traces", false, err));
out:
    return rc;
}

/* One batch; false: there was none, or it was not taken. */
static bool
send_some(struct tracing *t)
{
    uint32_t   n = trace_take(t->queue, t->batch, BATCH_MAX);
    struct err err;

    if (n == 0)
        return false;
    put_request(t, n);
    if (post(t, &err) == 0) {
        trace_note(t->queue, n, 0);
        t->away = false;
        t->backoff_us = 0;
        return true;
    }
    trace_note(t->queue, 0, n);
    if (!t->away)
        say(SAY_WARN, "spans are dropped: the collector does not take them", "error", err.text,
            NULL);
    t->away = true;
    t->backoff_us = t->backoff_us == 0 ? EVERY_US : t->backoff_us * 2;
    if (t->backoff_us > BACKOFF_MAX_US)
        t->backoff_us = BACKOFF_MAX_US;
    return false;
}

static uint64_t
step(void *arg)
{
    struct tracing *t = arg;

    if (send_some(t))
        return ENV_STEP_NOW;
    return t->backoff_us > EVERY_US ? t->backoff_us : EVERY_US;
}

/* configuration */

/* "0.25" in millionths. */
static int
read_sample(const struct conf *conf, uint32_t *out, struct err *err)
{
    const char *text = conf_str(conf, "sample");
    char       *end;
    double      share = strtod(text, &end);

    if (*end != '\0' || !(share >= 0) || share > 1)
        return conf_fail(conf_child(conf, "sample"), err, "must be from 0 to 1");
    *out = (uint32_t)(share * 1e6 + 0.5);
    return 0;
}

static int
read_headers(struct tracing *t, const struct conf *list, struct err *err)
{
    size_t at = 0;

    t->headers[t->header_count++] =
        (struct net_header){slice_str("Content-Type"), slice_str("application/json")};
    /* The texts first: they do not move when slices are taken. */
    for (const struct conf *h = conf_first(list); h != NULL; h = conf_next(h)) {
        buf_add_str(&t->texts, conf_key(h));
        buf_add_str(&t->texts, conf_text(h));
    }
    if (t->texts.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    for (const struct conf *h = conf_first(list); h != NULL; h = conf_next(h)) {
        size_t name = strlen(conf_key(h)), value = strlen(conf_text(h));

        t->headers[t->header_count++] = (struct net_header){
            slice_of(t->texts.data + at, name), slice_of(t->texts.data + at + name, value)};
        at += name + value;
    }
    return 0;
}

int
tracingi_new(struct ox_env *env, const struct conf *root, struct tracing **out, struct err *err)
{
    struct net_def def = {
        .connect_ms = 2000, .total_ms = 5000, .in_flight_max = 1, .answer_max = ANSWER_MAX};
    struct ox_task_def task = {.name = "ox-tracing", .step = step, .background = true};
    const struct conf *conf;
    struct tracing    *t = NULL;
    uint32_t           sample = 0;
    int                rc = 0;

    *out = NULL;
    if (!conf_has(root, "tracing"))
        return 0;
    conf = conf_child(root, "tracing");
    TRY(read_sample(conf, &sample, err));
    t = calloc(1, sizeof *t);
    if (t == NULL || (t->queue = trace_new(env, ROOM, sample)) == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for tracing");
    t->env = env;
    buf_add_str(&t->url, conf_str(conf, "endpoint"));
    while (t->url.len > 0 && t->url.data[t->url.len - 1] == '/')
        t->url.len--;
    buf_add_str(&t->url, "/v1/traces");
    buf_add_str(&t->service, conf_str(conf, "service"));
    if (t->url.failed || t->service.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for tracing");
    TRY(read_headers(t, conf_child(conf, "headers"), err));
    def.ca_file = conf_str(conf, "ca_file");
    TRY(net_client_new(env, &def, &t->client, err));
    task.arg = t;
    TRY(env->ops->task_start(env, &task, &t->task, err));
    *out = t;
    t = NULL;
out:
    tracingi_free(t);
    return rc;
}

void
tracingi_free(struct tracing *t)
{
    if (t == NULL)
        return;
    if (t->task != NULL)
        t->env->ops->task_stop(t->env, t->task);
    while (!t->away && t->client != NULL && send_some(t))
        ;
    net_client_free(t->client);
    trace_free(t->queue);
    buf_fini(&t->url);
    buf_fini(&t->service);
    buf_fini(&t->texts);
    buf_fini(&t->body);
    free(t);
}

struct trace_queue *
tracingi_queue(struct tracing *t)
{
    return t == NULL ? NULL : t->queue;
}
