/*
 * The source `rabbitmq`. One channel consumes with acknowledgements by hand and a
 * limit of what is out at once; another one asks how much is ready. Every start
 * is a new connection: what was not acknowledged comes again, in its order.
 *
 * Delivery tags count a channel's messages from 1, as the core counts what it was handed: the two
 * are the same number, which is checked with each message.
 */
#include "source/rabbitmq/rabbitmq.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "broker/rabbitmq.h"
#include "source/rabbitmq/rabbitmq_int.h"

#define CHANNEL 1
#define LOOK_CHANNEL 2 /* questions that close their channel when the answer is no */
#define HEARTBEAT_S 10
#define FAREWELL_US 1000000
#define BODY_MAX (UINT64_C(128) << 20)
#define LOOK_US UINT64_C(1000000)

struct rabbitmq_source {
    struct queue_reader        base;
    struct broker_rabbitmq_def def;
    const char                *queue;
    bool                       exclusive;
    uint16_t                   prefetch;
    uint32_t                   window;
    amqp_connection_state_t    conn;
    struct rabbitmqi_slot     *slots; /* those that are out, then the one that comes in */
    struct queue_message      *messages;
    uint32_t                   room, count;
    enum { WANT_METHOD, WANT_HEADER, WANT_BODY } want;
    uint64_t delivered, confirmed; /* tags, since the start */
    uint64_t looked_us, ready, consumers;
    bool     can_look;
};

static const struct conf_field fields[] = {
    BROKER_RABBITMQ_FIELDS,
    {.name = "queue",
     .type = {.kind = CONF_STRING, .min = 1, .max = BROKER_RABBITMQ_SHORT_MAX},
     .required = true,
     .doc = "the queue that is consumed; it has to be there"},
    {.name = "prefetch",
     .type = {.kind = CONF_INT, .min = 1, .max = 65535},
     .preset = "1000",
     .doc = "messages that are out and not acknowledged"},
    {.name = "exclusive",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "no other consumer of the queue beside this one"},
    QUEUE_FIELDS,
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct rabbitmq_source *
mine(struct queue_reader *q)
{
    return (struct rabbitmq_source *)q;
}

static int
open_source(struct queue_reader *base, const struct conf *conf, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    char                    part[72];
    int                     rc;

    (void)snprintf(part, sizeof part, "source %s", base->instance);
    rc = broker_rabbitmq_def_open(conf, part, &s->def, err);
    s->def.heartbeat_s = HEARTBEAT_S;
    s->queue = conf_str(conf, "queue");
    s->prefetch = (uint16_t)conf_int(conf, "prefetch");
    s->exclusive = conf_bool(conf, "exclusive");
    s->window = (uint32_t)conf_int(conf, "window");
    return rc;
}

/* The farewell makes sure that the broker has seen the last acknowledgements. */
static void
stop(struct queue_reader *base)
{
    struct rabbitmq_source *s = mine(base);
    struct timeval          limit = {FAREWELL_US / 1000000, FAREWELL_US % 1000000};

    if (s->conn != NULL) {
        (void)amqp_set_rpc_timeout(s->conn, &limit);
        (void)amqp_connection_close(s->conn, AMQP_REPLY_SUCCESS);
    }
    broker_rabbitmq_disconnect(s->conn);
    s->conn = NULL;
    s->count = 0;
    s->want = WANT_METHOD;
}

/* The connection is of no more use: no farewell. */
static int
lose(struct rabbitmq_source *s, int code, const char *why, int len, struct err *err)
{
    broker_rabbitmq_disconnect(s->conn);
    s->conn = NULL;
    RETURN_ERR(err, code, ERR_RETRY, "RabbitMQ: %.*s", len, why);
}

static void
close_source(struct queue_reader *base)
{
    struct rabbitmq_source *s = mine(base);

    for (uint32_t i = 0; i < s->room; i++)
        rabbitmqi_slot_fini(&s->slots[i]);
    free(s->slots);
    free(s->messages);
}

/* asking for the queue */

/* E_NOTFOUND: it is not there. Any error ends the connection but that one. */
static int
look(struct rabbitmq_source *s, amqp_connection_state_t conn, struct err *err)
{
    amqp_queue_declare_ok_t *ok = amqp_queue_declare(
        conn, LOOK_CHANNEL, amqp_cstring_bytes(s->queue), 1, 0, 0, 0, amqp_empty_table);
    int rc = broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "queue", err);

    if (rc == 0 && ok != NULL) {
        s->ready = ok->message_count;
        s->consumers = ok->consumer_count;
    }
    return rc;
}

static int
connect_to(struct rabbitmq_source *s, amqp_connection_state_t *conn, struct err *err)
{
    int rc;

    TRY(broker_rabbitmq_connect(&s->def, conn, err));
    TRY(broker_rabbitmq_open_channel(*conn, LOOK_CHANNEL, err));
out:
    if (rc != 0) {
        broker_rabbitmq_disconnect(*conn);
        *conn = NULL;
    }
    return rc;
}

static int
check(struct queue_reader *base, finding_fn *say, void *arg, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    amqp_connection_state_t conn = NULL;
    char                    text[256];
    int                     rc;

    TRY(connect_to(s, &conn, err));
    say(arg, FINDING_OK, "RabbitMQ answers");
    rc = look(s, conn, err);
    if (rc == E_NOTFOUND) {
        say(arg, FINDING_MISSING, "the queue is not there: declare it, or oxbow source prepare");
        rc = 0;
        goto out;
    }
    if (rc != 0)
        goto out;
    (void)snprintf(text, sizeof text, "the queue is there: %" PRIu64 " messages are ready",
                   s->ready);
    say(arg, FINDING_OK, text);
    if (s->consumers > 0) {
        (void)snprintf(text, sizeof text,
                       "the queue has %" PRIu64 " consumers: order holds with one only",
                       s->consumers);
        say(arg, FINDING_WARN, text);
    }
    if (s->window < s->prefetch)
        say(arg, FINDING_WARN,
            "window is smaller than prefetch: what comes again after a crash may be appended "
            "twice");
out:
    broker_rabbitmq_disconnect(conn);
    return rc;
}

static int
prepare(struct queue_reader *base, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    amqp_connection_state_t conn = NULL;
    int                     rc;

    TRY(connect_to(s, &conn, err));
    rc = look(s, conn, err);
    if (rc == 0) {
        say(arg, FINDING_OK, "the queue is there");
        goto out;
    }
    if (rc != E_NOTFOUND)
        goto out;
    rc = 0;
    if (dry_run) {
        say(arg, FINDING_MISSING, "a durable queue would be declared; it needs bindings too");
        goto out;
    }
    TRY(broker_rabbitmq_reopen_channel(conn, LOOK_CHANNEL, err));
    (void)amqp_queue_declare(conn, LOOK_CHANNEL, amqp_cstring_bytes(s->queue), 0, 1, 0, 0,
                             amqp_empty_table);
    TRY(broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "queue", err));
    say(arg, FINDING_OK, "a durable queue was declared; bind it where it has to be");
out:
    broker_rabbitmq_disconnect(conn);
    return rc;
}

static int
unprepare(struct queue_reader *base, finding_fn *say, void *arg, struct err *err)
{
    (void)base;
    (void)err;
    say(arg, FINDING_OK, "the queue stays as it is, with its messages");
    return 0;
}

/* consuming */

static int
start(struct queue_reader *base, struct slice checkpoint, bool gap, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    amqp_connection_state_t conn = NULL;
    struct timeval          limit = {1, 0}; /* of a question while it consumes */
    int                     rc;

    (void)checkpoint;
    (void)gap;
    stop(base);
    s->delivered = s->confirmed = 0;
    s->looked_us = s->ready = 0;
    s->can_look = true;
    TRY(connect_to(s, &conn, err));
    TRY(broker_rabbitmq_open_channel(conn, CHANNEL, err));
    (void)amqp_basic_qos(conn, CHANNEL, 0, s->prefetch, 0);
    TRY(broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "prefetch", err));
    (void)amqp_basic_consume(conn, CHANNEL, amqp_cstring_bytes(s->queue), amqp_empty_bytes, 0, 0,
                             s->exclusive, amqp_empty_table);
    TRY(broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "consume", err));
    (void)amqp_set_rpc_timeout(conn, &limit);
    s->conn = conn;
    conn = NULL;
out:
    broker_rabbitmq_disconnect(conn);
    return rc;
}

/* The slot that a message comes into, or NULL. */
static struct rabbitmqi_slot *
next_slot(struct rabbitmq_source *s)
{
    uint32_t               room = s->room == 0 ? 64 : s->room * 2;
    struct rabbitmqi_slot *slots;
    struct queue_message  *messages;

    if (s->count < s->room)
        return &s->slots[s->count];
    slots = reallocarray(s->slots, room, sizeof *slots);
    if (slots == NULL)
        return NULL;
    s->slots = slots;
    memset(slots + s->room, 0, (room - s->room) * sizeof *slots);
    messages = reallocarray(s->messages, room, sizeof *messages);
    if (messages == NULL)
        return NULL;
    s->messages = messages;
    s->room = room;
    return &s->slots[s->count];
}

static int
take_deliver(struct rabbitmq_source *s, const amqp_basic_deliver_t *m, struct err *err)
{
    struct rabbitmqi_slot *slot = next_slot(s);

    if (slot == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    if (m->delivery_tag != s->delivered + 1)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: a delivery tag is missing");
    rabbitmqi_slot_begin(slot, m);
    s->want = WANT_HEADER;
    return 0;
}

static int
take_method(struct rabbitmq_source *s, const amqp_frame_t *f, struct err *err)
{
    const void *m = f->payload.method.decoded;

    switch (f->payload.method.id) {
    case AMQP_BASIC_DELIVER_METHOD:
        return take_deliver(s, m, err);
    case AMQP_BASIC_CANCEL_METHOD:
        RETURN_ERR(err, E_REMOTE, ERR_RETRY,
                   "RabbitMQ cancelled the consumer: queue %s was deleted, or its node is down",
                   s->queue);
    case AMQP_CHANNEL_CLOSE_METHOD: {
        const amqp_channel_close_t *c = m;

        if (f->channel == LOOK_CHANNEL) {
            s->can_look = false;
            return 0;
        }
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: %.*s", (int)c->reply_text.len,
                   (const char *)c->reply_text.bytes);
    }
    case AMQP_CONNECTION_CLOSE_METHOD: {
        const amqp_connection_close_t *c = m;

        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: %.*s", (int)c->reply_text.len,
                   (const char *)c->reply_text.bytes);
    }
    default:
        return 0;
    }
}

static int
end_message(struct rabbitmq_source *s, struct rabbitmqi_slot *slot, struct err *err)
{
    if (slot->text.failed || slot->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    s->want = WANT_METHOD;
    s->count++;
    s->delivered++;
    return 0;
}

static int
take_frame(struct rabbitmq_source *s, const amqp_frame_t *f, struct err *err)
{
    struct rabbitmqi_slot *slot;

    if (f->frame_type == AMQP_FRAME_METHOD)
        return take_method(s, f, err);
    if (f->channel != CHANNEL || s->want == WANT_METHOD)
        return 0;
    slot = &s->slots[s->count];
    if (f->frame_type == AMQP_FRAME_HEADER && s->want == WANT_HEADER) {
        if (f->payload.properties.body_size > BODY_MAX)
            RETURN_ERR(err, E_LIMIT, ERR_FATAL,
                       "the next message of queue %s has %" PRIu64
                       " bytes, too many: take it out of the queue, then resume",
                       s->queue, f->payload.properties.body_size);
        rabbitmqi_slot_header(slot, f->payload.properties.decoded, f->payload.properties.body_size);
        s->want = WANT_BODY;
    } else if (f->frame_type == AMQP_FRAME_BODY && s->want == WANT_BODY) {
        rabbitmqi_slot_body(slot, f->payload.body_fragment);
    }
    return s->want == WANT_BODY && slot->body_left == 0 ? end_message(s, slot, err) : 0;
}

static int
read_frames(struct rabbitmq_source *s, uint32_t max, uint64_t bytes, uint32_t wait_ms,
            struct err *err)
{
    struct ox_env *env = s->base.env;
    uint64_t       end = env->ops->mono_us(env) + (uint64_t)wait_ms * 1000, got = 0;

    while (s->count < max && got < bytes) {
        uint64_t       now = env->ops->mono_us(env);
        uint64_t       left = s->count > 0 || now > end ? 0 : end - now;
        struct timeval wait = {(time_t)(left / 1000000), (suseconds_t)(left % 1000000)};
        uint32_t       before = s->count;
        amqp_frame_t   f;
        int            rc = amqp_simple_wait_frame_noblock(s->conn, &f, &wait);

        if (rc == AMQP_STATUS_TIMEOUT)
            return 0;
        if (rc != AMQP_STATUS_OK) {
            const char *why = amqp_error_string2(rc);

            return lose(s, E_REMOTE, why, (int)strlen(why), err);
        }
        rc = take_frame(s, &f, err);
        if (rc != 0)
            return rc;
        if (s->count > before)
            got += s->slots[before].body.len;
        amqp_maybe_release_buffers(s->conn);
    }
    return 0;
}

/* What came in before stays where it is; a message that is half here moves to the front. */
static void
make_space(struct rabbitmq_source *s)
{
    if (s->want != WANT_METHOD && s->count > 0) {
        struct rabbitmqi_slot half = s->slots[s->count];

        s->slots[s->count] = s->slots[0];
        s->slots[0] = half;
    }
    s->count = 0;
}

static int
poll_source(struct queue_reader *base, uint32_t max, uint64_t bytes, uint32_t wait_ms,
            struct queue_batch *batch, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    uint64_t                first = s->delivered + 1;
    int                     rc;

    if (s->conn == NULL)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: not connected");
    make_space(s);
    rc = read_frames(s, max, bytes, wait_ms, err);
    /* What was there before the failure is handed out: the next call says it again. */
    if (rc != 0 && s->count == 0)
        return rc;
    if (rc != 0 && s->conn != NULL) {
        broker_rabbitmq_disconnect(s->conn);
        s->conn = NULL;
    }
    for (uint32_t i = 0; i < s->count; i++)
        rabbitmqi_slot_message(&s->slots[i], s->queue, first + i, &s->messages[i]);
    *batch = (struct queue_batch){.messages = s->messages, .count = s->count};
    return 0;
}

static int
confirm(struct queue_reader *base, uint64_t tag, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    int                     rc;

    if (s->conn == NULL)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: not connected");
    must(tag <= s->delivered);
    rc = amqp_basic_ack(s->conn, CHANNEL, tag, 1);
    if (rc != AMQP_STATUS_OK)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: %s", amqp_error_string2(rc));
    s->confirmed = tag;
    return 0;
}

static int
status(struct queue_reader *base, struct buf *out, struct err *err)
{
    struct rabbitmq_source *s = mine(base);
    uint64_t                now = base->env->ops->mono_us(base->env);
    struct err              ignored;
    struct json_out         o;

    (void)err;
    if (s->conn != NULL && s->can_look && now - s->looked_us >= LOOK_US) {
        s->looked_us = now;
        s->can_look = look(s, s->conn, &ignored) == 0;
    }
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "connected");
    json_out_bool(&o, s->conn != NULL);
    json_out_key(&o, "queue");
    json_out_str(&o, s->queue);
    json_out_key(&o, "ready");
    json_out_u64(&o, s->ready);
    json_out_key(&o, "consumers");
    json_out_u64(&o, s->consumers);
    json_out_key(&o, "unconfirmed");
    json_out_u64(&o, s->delivered - s->confirmed);
    json_out_object_end(&o);
    return 0;
}

const struct queue_ops source_rabbitmq_ops = {
    .name = "rabbitmq",
    .size = sizeof(struct rabbitmq_source),
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
