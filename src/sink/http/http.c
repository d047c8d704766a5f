/*
 * A sink that is an HTTP service. Every event becomes one request with the
 * event's id as its Idempotency-Key; what the service does not know by that
 * key it gets at least once. Requests of different streams overlap, those of
 * one stream do not: the core hands over one at a time.
 */
#include "sink/http/http.h"

#include <stdio.h>

#include "base/must.h"
#include "sink/http/http_int.h"

#define KEEP_MAX 262144 /* bytes of a buffer that stay for the next event */

static struct httpi_sink *
self(struct sink *s)
{
    return (struct httpi_sink *)s;
}

static void
close_sink(struct sink *sink)
{
    struct httpi_sink *s = self(sink);

    sinki_http_conf_free(s);
    buf_fini(&s->url);
    buf_fini(&s->body);
    buf_fini(&s->scratch);
    buf_fini(&s->signature);
    for (uint32_t i = 0; i < HTTPI_RULE_HEADERS_MAX; i++)
        buf_fini(&s->values[i]);
}

static int
open_sink(struct sink *sink, const struct conf *conf, struct err *err)
{
    struct httpi_sink *s = self(sink);
    int                rc = sinki_http_conf(s, conf, err);

    if (rc != 0)
        close_sink(sink);
    else
        sink->credit = s->credit;
    return rc;
}

static void
clear_buf(struct buf *b)
{
    if (b->cap > KEEP_MAX)
        buf_fini(b);
    else
        buf_clear(b);
}

int
sinki_http_rule_headers(struct httpi_sink *s, const struct httpi_rule *r, struct sink_item *item,
                        struct net_header *headers, uint32_t *count, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < r->header_count; i++) {
        buf_clear(&s->values[i]);
        TRY(template_expand(r->headers[i], sink_fill, item, &s->scratch, &s->values[i], err));
        headers[*count].name = slice_str(r->header_names[i]);
        headers[*count].value = buf_slice(&s->values[i]);
        (*count)++;
    }
out:
    return rc;
}

/* Everything that the event itself can be at fault for. */
static int
start_request(struct httpi_sink *s, const struct httpi_rule *r, struct sink_item *item,
              struct httpi_slot *slot, struct err *err)
{
    struct net_header   headers[NET_HEADERS_MAX + HTTPI_RULE_HEADERS_MAX + SINK_HEADERS_MAX + 4];
    struct net_request  request = {.method = r->method,
                                   .headers = headers,
                                   .label = r->label,
                                   .changes = true,
                                   .head_only = true};
    uint32_t            count = net_service_headers(s->service, headers);
    struct sink_message m;
    const char         *content_type = "application/json";
    char                id[ID_TEXT_LEN + 1];
    int                 rc = 0;

    clear_buf(&s->url);
    clear_buf(&s->body);
    clear_buf(&s->scratch);
    TRY(template_expand(r->url, sink_fill, item, &s->scratch, &s->url, err));
    TRY(sinki_http_rule_headers(s, r, item, headers, &count, err));
    TRY(sink_form_fill(s->form, item, &m, err));
    for (uint32_t i = 0; i < m.count; i++)
        headers[count++] = (struct net_header){slice_str(m.headers[i].name), m.headers[i].value};
    if (r->body != NULL) {
        TRY(template_expand(r->body, sink_fill, item, &s->scratch, &s->body, err));
        request.body =
            slice_of(s->body.data == NULL ? (const void *)"" : s->body.data, s->body.len);
    } else if (!r->bare && s->format != SINK_RAW && m.body.data != NULL) {
        request.body = m.body;
        content_type = m.content_type;
    } else if (!r->bare) {
        request.body = slice_of(item->data.data == NULL ? "" : item->data.data, item->data.len);
    }
    if (request.body.data != NULL) {
        headers[count].name = slice_str("Content-Type");
        headers[count++].value = slice_str(content_type);
    }
    id_format(&item->id, id);
    headers[count].name = slice_str("Idempotency-Key");
    headers[count++].value = slice_str(id);
    TRY(sinki_http_auth_headers(s->auth, s->sink.env->ops->wall_us(s->sink.env), request.body,
                                &s->signature, headers, &count, err));
    request.url = buf_slice(&s->url);
    request.header_count = count;
    TRY(net_start(net_service_client(s->service), &request, slot, err));
out:
    return rc;
}

static void
start_slot(struct httpi_sink *s, struct httpi_slot *slot)
{
    slot->waiting = false;
    slot->rc = start_request(s, slot->rule, slot->item, slot, &slot->err);
    slot->decided = slot->rc != 0;
    s->decided += slot->decided;
}

/* Those that waited for a token go, or are told why not. */
static void
start_waiting(struct httpi_sink *s)
{
    struct err err = {0};
    int        rc = sinki_http_auth_renew(s->auth, sink_now_us(&s->sink), &err);

    sinki_http_breaker_count(s, rc, &err);
    for (uint32_t i = 0; s->waiting > 0 && i < s->credit; i++) {
        struct httpi_slot *slot = &s->slots[i];

        if (slot->item == NULL || !slot->waiting)
            continue;
        s->waiting--;
        if (rc == 0) {
            start_slot(s, slot);
            continue;
        }
        slot->waiting = false;
        slot->rc = rc;
        err_copy(&slot->err, &err);
        slot->decided = true;
        s->decided++;
    }
}

/* the breaker */

void
sinki_http_breaker_count(struct httpi_sink *s, int rc, struct err *err)
{
    bool failed = rc != 0 && (err->kind == ERR_RETRY || err->kind == ERR_UNSURE);

    if (s->fail_max == 0)
        return;
    if (!failed) {
        s->fails = 0;
        if (s->tripped)
            s->sink.not_before_us = 0;
        s->tripped = false;
        return;
    }
    if (s->fails < UINT32_MAX)
        s->fails++;
    if (s->fails < s->fail_max)
        return;
    s->tripped = true;
    s->sink.not_before_us = sink_now_us(&s->sink) + s->fail_pause_us;
    err_prefix(err, "%u failures in a row, a pause", s->fails);
}

/* After a pause one goes, and what comes of it decides about the others. */
static void
hold_others(struct httpi_sink *s)
{
    if (s->tripped)
        s->sink.not_before_us = sink_now_us(&s->sink) +
                                (uint64_t)net_service_timeout_ms(s->service) * 1000 +
                                s->fail_pause_us;
}

static int
submit(struct sink *sink, struct sink_item *item, struct err *err)
{
    struct httpi_sink *s = self(sink);
    struct httpi_slot *slot = NULL;

    (void)err;
    hold_others(s);
    if (s->batch) {
        must(s->count < s->credit);
        s->items[s->count++] = item;
        return 0;
    }
    for (uint32_t i = 0; slot == NULL && i < s->credit; i++)
        if (s->slots[i].item == NULL)
            slot = &s->slots[i];
    must(slot != NULL);
    slot->item = item;
    slot->rule = sinki_http_match(s, item->type);
    slot->decided = slot->waiting = false;
    slot->rc = 0;
    err_clear(&slot->err);
    if (slot->rule != NULL && sinki_http_auth_is_stale(s->auth, sink_now_us(&s->sink))) {
        slot->waiting = true;
        s->waiting++;
        return 0;
    }
    if (slot->rule != NULL) {
        start_slot(s, slot);
        return 0;
    }
    if (!s->skip_others)
        slot->rc = err_set(&slot->err, __FILE__, __LINE__, E_SCHEMA, ERR_DATA,
                           "no rule of the sink fits the event's type");
    slot->decided = true;
    s->decided++;
    return 0;
}

static void
end_item(struct httpi_sink *s, struct httpi_slot *slot, int rc, const struct err *err)
{
    struct sink_item *item = slot->item;

    slot->item = NULL;
    sink_done(&s->sink, item, rc, err);
}

static bool
has_status(const int *list, uint32_t count, int status)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == status)
            return true;
    return false;
}

int
sinki_http_judge(struct httpi_sink *s, const struct httpi_rule *r, const struct net_answer *answer,
                 struct err *err)
{
    int status = answer->status, rc;

    if (has_status(r->done, r->done_count, status))
        return 0;
    if ((status == 404 || status == 410) && strcmp(r->method, "DELETE") == 0)
        return 0; /* gone already */
    if (status == 401)
        sinki_http_auth_refused(s->auth);
    rc = net_status(answer, r->label, true, err);
    if (rc != 0 && has_status(r->retry, r->retry_count, status)) {
        err->kind = ERR_RETRY;
        err->retry_ms = answer->retry_ms;
    }
    return rc;
}

static void
take_answer(void *arg, void *tag, int rc, const struct net_answer *answer, const struct err *err)
{
    struct httpi_sink *s = arg;
    struct httpi_slot *slot = tag;
    struct err         why = {0};

    if (rc == 0) {
        rc = sinki_http_judge(s, slot->rule, answer, &why);
    } else {
        err_copy(&why, err);
    }
    sinki_http_breaker_count(s, rc, &why);
    err = &why;
    end_item(s, slot, rc, err);
}

static void
end_decided(struct httpi_sink *s)
{
    for (uint32_t i = 0; s->decided > 0 && i < s->credit; i++) {
        struct httpi_slot *slot = &s->slots[i];
        struct err         err;

        if (slot->item == NULL || !slot->decided)
            continue;
        s->decided--;
        err = slot->err; /* the slot may be taken again at once */
        end_item(s, slot, slot->rc, &err);
    }
}

static int
poll_sink(struct sink *sink, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct httpi_sink *s = self(sink);

    (void)flush; /* what was submitted is on its way already */
    (void)upto;
    if (s->batch)
        return sinki_http_batch_poll(s, err);
    if (s->waiting > 0)
        start_waiting(s);
    if (s->decided > 0) {
        end_decided(s);
        wait_ms = 0;
    }
    return net_poll(net_service_client(s->service), wait_ms, take_answer, s, err);
}

/* Any answer will do: what the service does with a GET of its root is its own affair. */
static int
check(struct sink *sink, finding_line_fn *report, void *arg, struct err *err)
{
    struct httpi_sink *s = self(sink);
    struct net_header  headers[NET_HEADERS_MAX];
    struct net_answer  answer = {0};
    struct net_request r = {.method = "GET",
                            .url = net_service_url(s->service),
                            .headers = headers,
                            .header_count = net_service_headers(s->service, headers),
                            .label = "GET of its URL"};
    char               line[96];
    int                rc = 0;

    if (sink->in_flight > 0)
        FAIL(err, E_BUSY, ERR_RETRY, "the sink is at work");
    TRY(net_call(net_service_client(s->service), &r, &answer, err));
    (void)snprintf(line, sizeof line, "the service answers (status %d to a GET of its URL)",
                   answer.status);
    report(arg, answer.status == 401 || answer.status == 403, line);
out:
    return rc;
}

const struct sink_ops sink_http_ops = {
    .name = "http",
    .size = sizeof(struct httpi_sink),
    .schema = &sinki_http_schema,
    .transactional = false,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = sink_noop_checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
