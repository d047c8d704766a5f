/* Sources that verify messages: what they show, and the way in over HTTP. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "cli/engine_int.h"
#include "core/capture.h"
#include "core/verify.h"
#include "log/log.h"
#include "server/call.h"

#define MESSAGES_MAX 1000
#define APPEND_MS_MAX 60000

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

void
enginei_put_verify(struct json_out *o, struct verify *verify)
{
    struct verify_status s;

    verify_get_status(verify, &s);
    json_out_key(o, "state");
    json_out_str(o, verify_state_name(s.state));
    json_out_key(o, "stream");
    json_out_str(o, verify_stream(verify));
    put_u64(o, "unverified", s.held);
    put_u64(o, "running", s.running);
    put_u64(o, "oldest_ms", s.oldest_ms);
    put_u64(o, "released", s.released);
    put_u64(o, "discarded", s.discarded);
    put_u64(o, "parked", s.parked);
    json_out_key(o, "error");
    json_out_str(o, s.error[0] == '\0' ? NULL : s.error);
}

/* metrics */

struct figure {
    const char *name, *type, *help;
    size_t      at; /* in struct verify_status, an uint64_t */
};

#define FIGURE(name, type, member, help)                                                           \
    {                                                                                              \
        (name), (type), (help), offsetof(struct verify_status, member)                             \
    }

static const struct figure figures[] = {
    FIGURE("oxbow_source_unverified", "gauge", held, "Messages whose transactions are undecided."),
    FIGURE("oxbow_source_unverified_running", "gauge", running,
           "Of these, those whose transactions are known to go on."),
    FIGURE("oxbow_source_unverified_oldest_ms", "gauge", oldest_ms,
           "Age of the oldest undecided message."),
    FIGURE("oxbow_source_released_total", "counter", released,
           "Messages released since the start."),
    FIGURE("oxbow_source_discarded_total", "counter", discarded,
           "Messages discarded since the start."),
    FIGURE("oxbow_source_verify_parked_total", "counter", parked,
           "Messages parked since the start."),
};

/* Names of parts need no escapes. */
void
enginei_put_source_metrics(struct engine *e, struct buf *out)
{
    struct verify_status s;

    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        const struct figure *f = &figures[i];

        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, f->type);
        for (const struct part *p = e->parts; p != NULL; p = p->next) {
            uint64_t value;

            if (p->verify == NULL)
                continue;
            verify_get_status(p->verify, &s);
            memcpy(&value, (const char *)&s + f->at, sizeof value);
            buf_printf(out, "%s{source=\"%s\"} %llu\n", f->name, p->name,
                       (unsigned long long)value);
        }
    }
}

/* messages that come in */

/* One commit of them; it owns all that it points at. */
struct incoming {
    struct log_req        req;
    struct log_write      write;
    struct log_new_event *events;
    struct buf            body, stream, *text;
    uint32_t              count;
    struct later         *later;
};

static void
incoming_free(struct incoming *x)
{
    if (x == NULL)
        return;
    for (uint32_t i = 0; x->text != NULL && i < MESSAGES_MAX; i++)
        buf_fini(&x->text[i]);
    free(x->text);
    free(x->events);
    buf_fini(&x->body);
    buf_fini(&x->stream);
    free(x);
}

/* On one of the log's tasks. */
static void
on_held(struct log_req *req)
{
    struct incoming *x = req->arg;
    char             answer[96];

    if (req->rc != 0) {
        later_fail(x->later, &req->err);
    } else {
        (void)snprintf(answer, sizeof answer, "{\"held\":%u,\"position\":%llu}\n", x->count,
                       (unsigned long long)req->last.v);
        later_answer(x->later, 202, CALL_JSON, slice_str(answer));
    }
    incoming_free(x);
}

static int
take_message(struct call *call, struct incoming *x, struct slice raw, struct err *err)
{
    struct slice target = {0};
    int          rc;

    if (x->count == MESSAGES_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %d messages at once", MESSAGES_MAX);
    rc = verify_message(raw, &x->text[x->count], &x->events[x->count], &target, err);
    if (rc == 0 && !call_may_write(call, target))
        rc = err_set(err, __FILE__, __LINE__, E_AUTH, ERR_DATA,
                     "you may not append to the stream that it is for");
    if (rc != 0)
        err_prefix(err, "message %u", x->count);
    x->count++;
    return rc;
}

static int
take_messages(struct call *call, struct incoming *x, struct err *err)
{
    struct json_iter it;
    struct slice     raw, one;
    int              rc;

    TRY(json_value(buf_slice(&x->body), &raw, err));
    if (json_type(raw) != JSON_ARRAY)
        return take_message(call, x, raw, err);
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &one, err)) == 0)
        TRY(take_message(call, x, one, err));
    if (rc == E_END)
        rc = 0;
    if (rc == 0 && x->count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "there is no message");
out:
    return rc;
}

static int
incoming_new(struct call *call, struct verify *verify, struct incoming **out, struct err *err)
{
    struct incoming *x = calloc(1, sizeof *x);
    int              rc = 0;

    *out = NULL;
    if (x == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the messages");
    x->events = calloc(MESSAGES_MAX, sizeof x->events[0]);
    x->text = calloc(MESSAGES_MAX, sizeof x->text[0]);
    buf_add_slice(&x->body, call_body(call));
    buf_add_str(&x->stream, verify_stream(verify));
    if (x->events == NULL || x->text == NULL || x->body.failed || x->stream.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the messages");
    TRY(take_messages(call, x, err));
    x->write = (struct log_write){.stream = buf_slice(&x->stream),
                                  .expected = LOG_ANY,
                                  .events = x->events,
                                  .count = x->count};
    x->req = (struct log_req){
        .writes = &x->write, .write_count = 1, .flags = LOG_SYSTEM, .done = on_held, .arg = x};
    *out = x;
    x = NULL;
out:
    incoming_free(x);
    return rc;
}

/* One message or an array of them, in one commit; 202 once that is durable. */
void
enginei_post_unverified(struct call *call, void *arg)
{
    struct engine   *e = arg;
    struct incoming *x = NULL;
    struct part     *p;
    struct err       err;
    int              rc;

    (void)pthread_mutex_lock(&e->lock);
    p = enginei_find(e, PART_SOURCE, call_param(call, "name"));
    if (p == NULL)
        rc = err_set(&err, __FILE__, __LINE__, E_NOTFOUND, ERR_DATA,
                     "no such source is in the configuration");
    else if (p->verify == NULL)
        rc = err_set(&err, __FILE__, __LINE__, E_STATE, ERR_DATA,
                     "the source verifies no messages, or is not open");
    else
        rc = incoming_new(call, p->verify, &x, &err);
    (void)pthread_mutex_unlock(&e->lock);
    if (rc != 0) {
        call_fail(call, &err);
        return;
    }
    must(x != NULL);
    x->later = call_later(call, APPEND_MS_MAX);
    if (x->later == NULL) {
        incoming_free(x);
        return;
    }
    log_submit(e->log, &x->req);
}
