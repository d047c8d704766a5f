/*
 * The queue `nats`. Messages are handed out in the order of the stream, which is the order of each
 * subject: a message that is to come again holds back those after it. What was handed out is
 * acknowledged when the log has it; what a crash leaves is sent again by the server, and dropped
 * where the checkpoint says that the log has it.
 */
#include "source/nats/nats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/utf8.h"
#include "broker/nats.h"
#include "source/nats/nats_int.h"

#define TOUCH_PARTS 3      /* of ack_wait: how often what waits for the log says so */
#define UNSURE_WAIT_MS 20u /* at most, while what is missing is to come */
#define FLUSH_MS 1000

static const char *const froms[] = {"first", "new", NULL};

static const struct conf_field fields[] = {
    BROKER_NATS_FIELDS,
    {.name = "jetstream",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200, .chars = "a-zA-Z0-9_-"},
     .required = true,
     .doc = "the JetStream stream to consume"},
    {.name = "consumer",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200, .chars = "a-zA-Z0-9_-"},
     .doc = "the durable consumer, of this source alone; oxbow-NAME when not given"},
    {.name = "filter",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .doc = "only messages of this subject, with wildcards"},
    {.name = "from",
     .type = {.kind = CONF_ENUM, .values = froms},
     .preset = "first",
     .doc = "where a first start begins: first or new"},
    {.name = "ack_wait",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = INT64_C(3600000000)},
     .preset = "30s",
     .doc = "of a consumer that is made: after it the server sends again"},
    {.name = "in_flight",
     .type = {.kind = CONF_INT, .min = 1, .max = 65536},
     .preset = "4096",
     .doc = "messages that are not acknowledged, at most"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 10000, .max = 60000000},
     .preset = "5s",
     .doc = "to wait for an answer"},
    QUEUE_FIELDS,
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct natsi_source *
mine(struct queue_reader *q)
{
    return (struct natsi_source *)q;
}

/* opening */

static void
close_source(struct queue_reader *q)
{
    struct natsi_source *s = mine(q);

    natsi_disconnect(s);
    natsOptions_Destroy(s->options);
    natsi_hold_fini(&s->hold);
    free(s->messages);
    free(s->headers);
    buf_fini(&s->pull_subject);
    buf_fini(&s->pull_body);
    buf_fini(&s->text);
    buf_fini(&s->checkpoint);
}

static int
open_source(struct queue_reader *q, const struct conf *conf, struct err *err)
{
    struct natsi_source *s = mine(q);
    char                 who[128];
    int                  rc;

    s->conf = conf;
    s->stream = conf_str(conf, "jetstream");
    s->consumer = conf_str(conf, "consumer");
    s->filter = conf_str(conf, "filter");
    s->from_new = conf_enum(conf, "from") == 1;
    s->timeout_us = conf_duration_us(conf, "timeout");
    s->in_flight = (uint64_t)conf_int(conf, "in_flight");
    if (s->consumer == NULL) {
        (void)snprintf(s->own_consumer, sizeof s->own_consumer, "oxbow-%s", q->instance);
        s->consumer = s->own_consumer;
    }
    (void)snprintf(who, sizeof who, "source %s", q->instance);
    TRY(broker_nats_options(conf, who, s->timeout_us, &s->options, err));
out:
    if (rc != 0)
        close_source(q);
    return rc;
}

/* the checkpoint: {"stream":"NAME","created":NS,"sequence":N} */

static int
put_checkpoint(struct natsi_source *s, uint64_t sequence, struct err *err)
{
    struct json_out o;

    buf_clear(&s->checkpoint);
    json_out_init(&o, &s->checkpoint);
    json_out_object(&o);
    json_out_key(&o, "stream");
    json_out_str(&o, s->stream);
    json_out_key(&o, "created");
    json_out_i64(&o, s->created_ns);
    json_out_key(&o, "sequence");
    json_out_u64(&o, sequence);
    json_out_object_end(&o);
    if (s->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    return 0;
}

static int
get_checkpoint(struct natsi_source *s, struct slice text, struct err *err)
{
    struct slice stream, created, sequence;

    s->known = text.len > 0;
    s->durable = 0;
    if (!s->known)
        return 0;
    if (!json_get(text, "stream", &stream) || !json_get(text, "created", &created) ||
        !json_get(text, "sequence", &sequence) || !json_int64(created, &s->created_ns) ||
        !json_uint64(sequence, &s->durable))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "the checkpoint is not one of a source nats");
    if (stream.len < 2 ||
        !json_key_is(slice_of((const char *)stream.data + 1, stream.len - 2), slice_str(s->stream)))
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "source %s was of another stream: a stream needs a source of its own",
                   s->base.instance);
    return 0;
}

/* What was handed out last lives until the next call, confirmed or not. */
static void
drop_confirmed(struct natsi_source *s)
{
    natsi_hold_drop(&s->hold, 0, s->confirmed);
    s->first_tag += s->confirmed;
    s->confirmed = 0;
}

static int
start(struct queue_reader *q, struct slice checkpoint, bool gap, struct err *err)
{
    struct natsi_source *s = mine(q);
    int                  rc;

    drop_confirmed(s);
    s->hold.out = 0;
    s->first_tag = 1;
    TRY(get_checkpoint(s, checkpoint, err));
    for (uint32_t i = s->hold.count; i-- > 0;)
        if (s->hold.at[i].sequence <= s->durable) {
            natsi_answer(s, s->hold.at[i].msg, "+ACK");
            natsi_hold_drop(&s->hold, i, 1);
        }
    if (s->conn == NULL || natsConnection_IsClosed(s->conn) || gap)
        TRY(natsi_connect(s, gap, err));
out:
    return rc;
}

static void
stop(struct queue_reader *q)
{
    struct natsi_source *s = mine(q);

    drop_confirmed(s);
    for (uint32_t i = 0; i < s->hold.count; i++)
        natsi_answer(s, s->hold.at[i].msg, "-NAK");
    if (s->conn != NULL)
        (void)natsConnection_FlushTimeout(s->conn, FLUSH_MS);
    natsi_disconnect(s);
    natsi_hold_drop(&s->hold, 0, s->hold.count);
}

/* taking */

static int
take_status(struct natsi_source *s, natsMsg *msg, struct err *err)
{
    const char *status = NULL, *left = NULL;
    uint64_t    n;

    if (natsMsgHeader_Get(msg, "Status", &status) != NATS_OK)
        return 0; /* no delivery, and no word of the server's: nobody else knows the subject */
    if (natsMsgHeader_Get(msg, "Nats-Pending-Messages", &left) == NATS_OK) {
        n = strtoull(left, NULL, 10);
        s->asked -= n < s->asked ? n : s->asked;
    } else {
        s->asked = 0;
    }
    if (strcmp(status, "503") == 0)
        RETURN_ERR(err, E_NOTFOUND, ERR_RETRY, "NATS: consumer %s does not answer", s->consumer);
    if (strcmp(status, "409") == 0) {
        s->asked = 0;
        s->sure = false; /* looks whether it is still there */
    }
    return 0;
}

static int
take(struct natsi_source *s, natsMsg *msg, struct err *err)
{
    struct natsi_place place;
    bool               added;
    int                rc;

    if (!natsi_place_parse(natsMsg_GetReply(msg), &place)) {
        rc = take_status(s, msg, err);
        natsMsg_Destroy(msg);
        return rc;
    }
    s->asked -= s->asked > 0;
    s->again += place.delivered > 1;
    s->pending = place.pending;
    s->average += (uint64_t)natsMsg_GetDataLength(msg) / 8 + 32;
    s->average -= s->average / 8;
    if (s->next_delivery != place.delivery)
        s->sure = false;
    s->next_delivery = place.delivery + 1;
    if (place.sequence <= s->durable) {
        natsi_answer(s, msg, "+ACK");
        natsMsg_Destroy(msg);
        s->doubled++;
        return 0;
    }
    TRY(natsi_hold_put(&s->hold, &place, natsi_now_us(s), msg, &added, err));
    if (added)
        s->progress_us = natsi_now_us(s);
out:
    return rc;
}

static int
receive(struct natsi_source *s, uint32_t wait_ms, struct err *err)
{
    natsMsg   *msg;
    natsStatus st;
    int        rc = 0;

    do {
        msg = NULL;
        st = natsSubscription_NextMsg(&msg, s->sub, wait_ms);
        wait_ms = 0;
        if (st == NATS_OK)
            rc = take(s, msg, err);
    } while (rc == 0 && (st == NATS_OK || st == NATS_SLOW_CONSUMER) &&
             s->hold.count < 2 * s->in_flight + 1024);
    if (rc != 0 || st == NATS_OK || st == NATS_TIMEOUT || st == NATS_SLOW_CONSUMER)
        return rc;
    if (st == NATS_NO_RESPONDERS)
        RETURN_ERR(err, E_NOTFOUND, ERR_RETRY, "NATS: there is no consumer %s", s->consumer);
    return natsi_fail(st, 0, s->stream, err);
}

/* What waits for the log for long is said to be worked on. */
static void
touch(struct natsi_source *s)
{
    uint64_t now = natsi_now_us(s), every = (uint64_t)s->ack_wait_ns / 1000 / TOUCH_PARTS;

    for (uint32_t i = 0; i < s->hold.count && s->sure; i++)
        if (now - s->hold.at[i].touched_us > every) {
            natsi_answer(s, s->hold.at[i].msg, "+WPI");
            s->hold.at[i].touched_us = now;
        }
}

/* handing out */

static bool
need_room(struct natsi_source *s, uint32_t messages, uint32_t headers)
{
    void *p;

    if (messages > s->message_room) {
        p = realloc(s->messages, messages * sizeof s->messages[0]);
        if (p == NULL)
            return false;
        s->messages = p;
        s->message_room = messages;
    }
    if (headers > s->header_room) {
        p = realloc(s->headers, (size_t)headers * 2 * sizeof s->headers[0]);
        if (p == NULL)
            return false;
        s->headers = p;
        s->header_room = headers * 2;
    }
    return true;
}

static int
add_headers(struct natsi_source *s, natsMsg *msg, struct queue_message *m, struct err *err)
{
    const char **keys = NULL, *value;
    int          count = 0;

    if (natsMsgHeader_Keys(msg, &keys, &count) != NATS_OK)
        return 0; /* it has none */
    if (count > QUEUE_HEADERS_MAX)
        count = QUEUE_HEADERS_MAX;
    if (!need_room(s, 0, s->header_count + (uint32_t)count)) {
        free(keys);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for headers");
    }
    for (int i = 0; i < count; i++) {
        struct queue_header *h = &s->headers[s->header_count];

        if (natsMsgHeader_Get(msg, keys[i], &value) != NATS_OK)
            continue;
        *h = (struct queue_header){slice_str(keys[i]), slice_str(value)};
        if (!utf8_valid(h->name) || !utf8_valid(h->value))
            continue;
        s->header_count++;
        m->header_count++;
        if (slice_is(h->name, "Nats-Msg-Id"))
            m->id = h->value;
        else if (slice_is(h->name, "Content-Type"))
            m->content_type = h->value;
        else if (slice_is(h->name, "ce-type"))
            m->type = h->value;
    }
    free(keys);
    return 0;
}

static int
add_message(struct natsi_source *s, uint32_t i, struct natsi_held *held, struct err *err)
{
    struct queue_message *m = &s->messages[i];
    size_t                at = s->text.len;

    *m = (struct queue_message){
        .tag = s->first_tag + s->hold.out + i,
        .queue = slice_str(s->stream),
        .key = slice_str(natsMsg_GetSubject(held->msg)),
        .body = slice_of(natsMsg_GetData(held->msg), (size_t)natsMsg_GetDataLength(held->msg)),
        .redelivered = held->place.delivered > 1,
        .time_us = held->place.time_us};
    buf_printf(&s->text, "%s@%" PRId64 "/%" PRIu64, s->stream, s->created_ns, held->sequence);
    m->position.len = s->text.len - at;
    return add_headers(s, held->msg, m, err);
}

static int
hand_out(struct natsi_source *s, uint32_t max, uint64_t bytes, struct queue_batch *batch,
         struct err *err)
{
    uint32_t ready = s->hold.count - s->hold.out, n = 0, header = 0;
    uint64_t sum = 0, highest = s->durable;
    size_t   at = 0;
    int      rc = 0;

    s->header_count = 0;
    buf_clear(&s->text);
    ready = !s->sure ? 0 : ready < max ? ready : max;
    if (!need_room(s, ready, 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    for (; n < ready && (n == 0 || sum < bytes); n++) {
        TRY(add_message(s, n, &s->hold.at[s->hold.out + n], err));
        sum += s->messages[n].body.len;
    }
    if (s->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    for (uint32_t i = 0; i < n; i++) { /* both have stopped growing */
        s->messages[i].position.data = s->text.data + at;
        at += s->messages[i].position.len;
        s->messages[i].headers = s->headers + header;
        header += s->messages[i].header_count;
    }
    s->hold.out += n;
    for (uint32_t i = 0; i < s->hold.out; i++)
        if (s->hold.at[i].sequence > highest)
            highest = s->hold.at[i].sequence;
    *batch = (struct queue_batch){.messages = s->messages, .count = n};
    TRY(put_checkpoint(s, highest, err));
    batch->checkpoint = buf_slice(&s->checkpoint);
    s->tell = false;
out:
    return rc;
}

static int
poll_source(struct queue_reader *q, uint32_t max, uint64_t bytes, uint32_t wait_ms,
            struct queue_batch *batch, struct err *err)
{
    struct natsi_source *s = mine(q);
    bool                 ready = s->hold.count > s->hold.out && s->sure;
    int                  rc = 0;

    drop_confirmed(s);
    if (s->conn == NULL || natsConnection_IsClosed(s->conn))
        TRY(natsi_fail(NATS_CONNECTION_CLOSED, 0, s->stream, err));
    TRY(natsi_pull(s, err));
    if (ready)
        wait_ms = 0;
    else if (!s->sure && wait_ms > UNSURE_WAIT_MS)
        wait_ms = UNSURE_WAIT_MS;
    TRY(receive(s, wait_ms, err));
    if (!s->sure)
        TRY(natsi_look(s, err));
    touch(s);
    if (s->tell || (s->sure && s->hold.count > s->hold.out))
        TRY(hand_out(s, max, bytes, batch, err));
out:
    if (rc != 0)
        natsi_disconnect(s);
    return rc;
}

static int
confirm(struct queue_reader *q, uint64_t tag, struct err *err)
{
    struct natsi_source *s = mine(q);
    uint32_t             n = (uint32_t)(tag + 1 - s->first_tag);

    must(tag + 1 >= s->first_tag);
    must(n <= s->hold.out && n >= s->confirmed);
    for (uint32_t i = s->confirmed; i < n; i++) {
        natsi_answer(s, s->hold.at[i].msg, "+ACK");
        if (s->hold.at[i].sequence > s->durable)
            s->durable = s->hold.at[i].sequence;
    }
    s->known = s->known || n > 0;
    s->confirmed = n;
    return 0;
}

static int
status(struct queue_reader *q, struct buf *out, struct err *err)
{
    struct natsi_source *s = mine(q);
    struct json_out      o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "connected");
    json_out_bool(&o, s->conn != NULL && !natsConnection_IsClosed(s->conn));
    json_out_key(&o, "stream");
    json_out_str(&o, s->stream);
    json_out_key(&o, "consumer");
    json_out_str(&o, s->consumer);
    json_out_key(&o, "sequence");
    json_out_u64(&o, s->durable);
    json_out_key(&o, "pending");
    json_out_u64(&o, s->pending);
    json_out_key(&o, "unacknowledged");
    json_out_u64(&o, s->hold.count);
    json_out_key(&o, "missing");
    json_out_u64(&o, s->sure ? 0 : s->missing);
    json_out_key(&o, "redelivered");
    json_out_u64(&o, s->again);
    json_out_key(&o, "known");
    json_out_u64(&o, s->doubled);
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a status");
    return 0;
}

/* setting up */

static int
look_around(struct natsi_source *s, bool make, finding_fn *report, void *arg, struct err *err)
{
    jsStreamInfo   *stream = NULL;
    jsConsumerInfo *info = NULL;
    char            text[400];
    int             rc;

    TRY(natsi_dial(s, err));
    report(arg, FINDING_OK, "NATS answers and JetStream is on");
    rc = natsi_stream_info(s, &stream, err);
    if (rc == E_NOTFOUND) {
        (void)snprintf(text, sizeof text, "there is no stream %s: somebody has to make it",
                       s->stream);
        report(arg, FINDING_MISSING, text);
        rc = 0;
        goto out;
    }
    TRY(rc);
    (void)snprintf(text, sizeof text, "stream %s has %" PRIu64 " messages", s->stream,
                   stream->State.Msgs);
    report(arg, FINDING_OK, text);
    rc = natsi_consumer_info(s, &info, err);
    if (rc == E_NOTFOUND) {
        rc = make ? natsi_consumer_make(s, stream, err) : 0;
        (void)snprintf(text, sizeof text, make ? "consumer %s is made" : "consumer %s will be made",
                       s->consumer);
        if (rc == 0)
            report(arg, FINDING_OK, text);
        goto out;
    }
    TRY(rc);
    TRY(natsi_consumer_fits(s, info, err));
    (void)snprintf(text, sizeof text, "consumer %s is there", s->consumer);
    report(arg, FINDING_OK, text);
    if (info->Config->MaxDeliver > 0)
        report(arg, FINDING_WARN,
               "the consumer has max_deliver: what was delivered so often and not yet "
               "acknowledged is never sent again, and lost");
out:
    jsStreamInfo_Destroy(stream);
    jsConsumerInfo_Destroy(info);
    natsi_disconnect(s);
    return rc;
}

static int
check(struct queue_reader *q, finding_fn *report, void *arg, struct err *err)
{
    if (q->started)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "the source is being polled");
    return look_around(mine(q), false, report, arg, err);
}

static int
prepare(struct queue_reader *q, bool dry_run, finding_fn *report, void *arg, struct err *err)
{
    return look_around(mine(q), !dry_run, report, arg, err);
}

static int
unprepare(struct queue_reader *q, finding_fn *report, void *arg, struct err *err)
{
    struct natsi_source *s = mine(q);
    char                 text[300];
    int                  rc;

    TRY(natsi_dial(s, err));
    TRY(natsi_consumer_delete(s, err));
    (void)snprintf(text, sizeof text, "consumer %s is deleted", s->consumer);
    report(arg, FINDING_OK, text);
out:
    natsi_disconnect(s);
    return rc;
}

const struct queue_ops source_nats_ops = {
    .name = "nats",
    .size = sizeof(struct natsi_source),
    .schema = &schema,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .stop = stop,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};
