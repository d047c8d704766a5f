/*
 * Many events in one request: lines of JSON, or one array. They gather until a poll, which decides
 * them all. Where the service refuses a batch for good, its events are sent by themselves, so that
 * the one at fault shows; what stands behind that one is handed back.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "sink/http/http_int.h"

static const char *const batch_formats[] = {"ndjson", "array", NULL};

const struct conf_field sinki_http_batch_fields[] = {
    {.name = "events",
     .type = {.kind = CONF_INT, .min = 1, .max = HTTPI_BATCH_MAX},
     .preset = "500",
     .doc = "of one request at most"},
    {.name = "bytes",
     .type = {.kind = CONF_SIZE, .min = 1024, .max = 256 << 20},
     .preset = "4MiB",
     .doc = "of one request, or one event that is larger"},
    {.name = "format",
     .type = {.kind = CONF_ENUM, .values = batch_formats},
     .preset = "ndjson",
     .doc = "a line each, or one JSON array"},
    {.name = "wait",
     .type = {.kind = CONF_DURATION, .max = 60000000},
     .preset = "0",
     .doc = "from a request that was not full to the next one"},
    {.name = NULL},
};

int
sinki_http_batch_open(struct httpi_sink *s, const struct conf *conf, struct err *err)
{
    const struct conf *batch = conf_child(conf, "batch");

    if (batch == NULL)
        return 0;
    if (s->rule_count != 1 || template_count(s->rules[0].url) > 0 || s->rules[0].bare ||
        s->format == SINK_BINARY)
        return conf_fail(batch, err,
                         "needs one rule, whose url has no placeholders and whose method has a "
                         "body, and no cloudevents: binary");
    s->batch = true;
    s->sink.whole = true;
    s->credit = (uint32_t)conf_int(batch, "events");
    s->batch_bytes = (size_t)conf_size(batch, "bytes");
    s->batch_array = conf_enum(batch, "format") == 1;
    s->batch_wait_us = conf_duration_us(batch, "wait");
    s->items = calloc(s->credit, sizeof(struct sink_item *));
    if (s->items == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    return 0;
}

/* One event at the end of the body; ERR_DATA: it cannot be there. */
static int
add_item(struct httpi_sink *s, struct sink_item *item, struct buf *body, struct err *err)
{
    const struct httpi_rule *r = &s->rules[0];
    struct sink_message      m;
    struct buf               one = {0};
    int                      rc = 0;

    if (r->body != NULL) {
        TRY(template_expand(r->body, sink_fill, item, &s->scratch, &one, err));
    } else if (s->format == SINK_STRUCTURED) {
        TRY(sink_form_fill(s->form, item, &m, err));
        buf_add_slice(&one, m.body);
    } else {
        if (!item->json)
            FAIL(err, E_SCHEMA, ERR_DATA, "its data is no JSON");
        buf_add_slice(&one, item->data);
    }
    /* On one line: what is between the values of JSON may be line ends. */
    for (size_t i = 0; i < one.len; i++)
        if (one.data[i] == '\n' || one.data[i] == '\r')
            one.data[i] = ' ';
    buf_add_slice(body, buf_slice(&one));
    if (one.failed || body->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a request");
out:
    buf_fini(&one);
    return rc;
}

/* As many as fit into s->body; *to is the first one that is not in it. `err` says why. */
static int
fill_body(struct httpi_sink *s, uint32_t from, uint32_t *to, struct err *err)
{
    int rc = 0;

    buf_clear(&s->body);
    if (s->batch_array)
        buf_add_byte(&s->body, '[');
    for (*to = from; *to < s->count && (*to == from || s->body.len < s->batch_bytes); ++*to) {
        size_t before = s->body.len;

        if (*to > from)
            buf_add_byte(&s->body, s->batch_array ? ',' : '\n');
        rc = add_item(s, s->items[*to], &s->body, err);
        if (rc != 0) {
            s->body.len = before;
            break;
        }
    }
    buf_add_byte(&s->body, s->batch_array ? ']' : '\n');
    return rc;
}

static struct ox_id
key_of(const struct httpi_sink *s, uint32_t from, uint32_t to)
{
    struct buf   ids = {0};
    struct ox_id id = s->items[from]->id;

    for (uint32_t i = from; to - from > 1 && i < to; i++)
        buf_add(&ids, s->items[i]->id.b, sizeof s->items[i]->id.b);
    if (ids.len > 0 && !ids.failed)
        id = id_of_bytes(buf_slice(&ids));
    buf_fini(&ids);
    return id;
}

/* The items from `from` on, before `to`, whose texts are in s->body. */
static int
send_body(struct httpi_sink *s, uint32_t from, uint32_t to, struct err *err)
{
    struct net_header  headers[NET_HEADERS_MAX + HTTPI_RULE_HEADERS_MAX + 8];
    struct ox_id       id = key_of(s, from, to);
    struct net_answer  answer = {0};
    struct net_request r = {.method = s->rules[0].method,
                            .headers = headers,
                            .label = s->rules[0].label,
                            .body = buf_slice(&s->body),
                            .changes = true,
                            .head_only = true};
    char               key[ID_TEXT_LEN + 1];
    uint32_t           count = net_service_headers(s->service, headers);
    int                rc;

    buf_clear(&s->url);
    TRY(template_expand(s->rules[0].url, sink_fill, s->items[from], &s->scratch, &s->url, err));
    TRY(sinki_http_rule_headers(s, &s->rules[0], s->items[from], headers, &count, err));
    headers[count++] = (struct net_header){slice_str("Content-Type"),
                                           slice_str(!s->batch_array ? "application/x-ndjson"
                                                     : s->format == SINK_STRUCTURED
                                                         ? "application/cloudevents-batch+json"
                                                         : "application/json")};
    id_format(&id, key);
    headers[count++] = (struct net_header){slice_str("Idempotency-Key"), slice_str(key)};
    TRY(sinki_http_auth_headers(s->auth, s->sink.env->ops->wall_us(s->sink.env), r.body,
                                &s->signature, headers, &count, err));
    r.url = buf_slice(&s->url);
    r.header_count = count;
    rc = net_call(net_service_client(s->service), &r, &answer, err);
    if (rc == 0)
        rc = sinki_http_judge(s, &s->rules[0], &answer, err);
    sinki_http_breaker_count(s, rc, err);
out:
    return rc;
}

static void
done_upto(struct httpi_sink *s, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        sink_done(&s->sink, s->items[i], 0, NULL);
}

/* Each by itself, from `from` on; *at: the first one that is not done. */
static int
send_singly(struct httpi_sink *s, uint32_t from, uint32_t to, uint32_t *at, struct err *err)
{
    int rc = 0;

    for (*at = from; *at < to; ++*at) {
        uint32_t count = s->count, next;

        s->count = *at + 1;
        rc = fill_body(s, *at, &next, err);
        s->count = count;
        if (rc == 0)
            rc = send_body(s, *at, *at + 1, err);
        if (rc != 0)
            return rc;
        sink_done(&s->sink, s->items[*at], 0, NULL);
    }
    return 0;
}

/* *at: the first item that is not decided; with ERR_DATA the one at fault. */
static int
send_all(struct httpi_sink *s, uint32_t *at, struct err *err)
{
    struct err fault;
    int        rc = 0;

    for (*at = 0; *at < s->count && rc == 0;) {
        uint32_t to;
        int      bad = fill_body(s, *at, &to, &fault);

        if (to > *at) {
            rc = send_body(s, *at, to, err);
            if (rc != 0 && err->kind == ERR_DATA && to - *at > 1) {
                rc = send_singly(s, *at, to, at, err);
            } else if (rc == 0) {
                done_upto(s, *at, to);
                *at = to;
            }
        }
        if (rc == 0 && bad != 0) {
            err_copy(err, &fault);
            rc = bad;
        }
    }
    return rc;
}

int
sinki_http_batch_poll(struct httpi_sink *s, struct err *err)
{
    uint64_t   now = s->sink.env->ops->mono_us(s->sink.env);
    uint32_t   at = 0, count = s->count, next;
    struct err own;
    int        rc = 0;

    if (count == 0)
        return 0;
    if (sinki_http_auth_is_stale(s->auth, now))
        rc = sinki_http_auth_renew(s->auth, now, &own);
    if (rc == 0)
        rc = send_all(s, &at, &own);
    next = at;
    if (rc != 0 && own.kind == ERR_DATA && at < count)
        sink_done(&s->sink, s->items[next++], rc, &own);
    s->count = 0;
    for (uint32_t i = next; i < count; i++)
        sink_back(&s->sink, s->items[i]);
    if (rc == 0 && count < s->credit && s->sink.not_before_us < now + s->batch_wait_us)
        s->sink.not_before_us = now + s->batch_wait_us;
    if (rc == 0 || (own.kind == ERR_DATA && next > at))
        return 0;
    err_copy(err, &own);
    return rc;
}
