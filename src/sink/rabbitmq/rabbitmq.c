/*
 * The sink `rabbitmq`. Every message is persistent, mandatory and confirmed. What no queue takes
 * comes back before it is confirmed: returned and confirmed is not arrived. Confirms may come out
 * of order and for many at once.
 *
 * Anything that ends the channel or the connection decides all in flight as unsure; the next
 * message makes a new connection. A message to an exchange that is not there would end the channel,
 * and all others with it: so an exchange is asked after, once a connection, before its first
 * message.
 */
#include "sink/rabbitmq/rabbitmq.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "broker/rabbitmq.h"
#include "sink/broker.h"
#include "sink/fill.h"

#define WRITTEN_MAX 32768 /* bytes that a socket with room takes in any case, about */
#define OVERHEAD 512      /* of a message, with its properties */
#define CHANNEL 1         /* messages, with confirms */
#define LOOK_CHANNEL 2    /* questions that close their channel when the answer is no */
#define EXCHANGES_MAX 64  /* known to be there */
#define WHY_MAX 128

/* A message that came back; its content follows in frames of its own. */
struct returned {
    bool     pending; /* its header is not here yet */
    uint64_t body;    /* bytes to come */
    int      code;
    char exchange[BROKER_RABBITMQ_SHORT_MAX + 1], key[BROKER_RABBITMQ_SHORT_MAX + 1], why[WHY_MAX];
};

enum way { EXCHANGE, KEY };

struct rabbitmq_sink {
    struct sink                base;
    struct broker_rabbitmq_def def;
    amqp_connection_state_t    conn;
    struct sink_broker         out;
    bool                       park_unroutable, exchange_varies;
    uint64_t                   next_tag, low_tag; /* all below low_tag are confirmed */
    size_t                     written;           /* bytes, about, since there was room for more */
    struct returned            ret;
    bool                       blocked;
    char                      *known[EXCHANGES_MAX];
    uint32_t                   known_count;
};

static const char *const unroutable[] = {"park", "retry", NULL};

static const struct conf_field fields[] = {
    BROKER_RABBITMQ_FIELDS,
    {.name = "exchange",
     .type = {.kind = CONF_STRING, .max = 1024},
     .preset = "",
     .doc = "with placeholders; empty: the default one, whose keys are names of queues"},
    {.name = "routing_key",
     .type = {.kind = CONF_STRING, .max = 1024},
     .required = true,
     .doc = "with placeholders"},
    {.name = "unroutable",
     .type = {.kind = CONF_ENUM, .values = unroutable},
     .preset = "park",
     .doc = "what becomes of a message that no queue takes"},
    SINK_FORM_FIELDS,
    {.name = "in_flight",
     .type = {.kind = CONF_INT, .min = 1, .max = SINK_SLOTS_TAGGED_MAX},
     .preset = "256",
     .doc = "messages at a time, each of another stream"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 10000, .max = 600000000},
     .preset = "30s",
     .doc = "to wait for a confirm"},
    {.name = "message_max",
     .type = {.kind = CONF_SIZE, .min = 1024, .max = 512 << 20},
     .preset = "16MiB",
     .doc = "a larger message is parked; set it no higher than the broker's max_message_size"},
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct rabbitmq_sink *
mine(struct sink *s)
{
    return (struct rabbitmq_sink *)s;
}

/* opening */

static void
forget_exchanges(struct rabbitmq_sink *s)
{
    while (s->known_count > 0)
        free(s->known[--s->known_count]);
}

static void
disconnect(struct rabbitmq_sink *s)
{
    broker_rabbitmq_disconnect(s->conn);
    s->conn = NULL;
    s->blocked = false;
    s->ret = (struct returned){0};
    forget_exchanges(s);
}

static void
close_sink(struct sink *base)
{
    struct rabbitmq_sink *s = mine(base);

    disconnect(s);
    sink_broker_close(&s->out);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    static const struct sink_broker_def def = {
        .binding = SINK_AMQP, .kind = TEMPLATE_TEXT, .ways = {"exchange", "routing_key"}};
    struct rabbitmq_sink *s = mine(base);
    char                  part[72];
    int                   rc;

    (void)snprintf(part, sizeof part, "sink %s", base->instance);
    TRY(broker_rabbitmq_def_open(conf, part, &s->def, err));
    s->park_unroutable = conf_enum(conf, "unroutable") == 0;
    TRY(sink_broker_open(&s->out, base, conf, &def, err));
    s->exchange_varies = template_count(s->out.ways[EXCHANGE]) > 0;
out:
    if (rc != 0)
        close_sink(base);
    return rc;
}

/* the connection */

/* Connected, and its channel takes confirmed messages. */
static int
connect_to(const struct broker_rabbitmq_def *def, amqp_connection_state_t *out, struct err *err)
{
    amqp_connection_state_t conn = NULL;
    int                     rc;

    *out = NULL;
    TRY(broker_rabbitmq_connect(def, &conn, err));
    TRY(broker_rabbitmq_open_channel(conn, CHANNEL, err));
    (void)amqp_confirm_select(conn, CHANNEL);
    TRY(broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "confirms", err));
    TRY(broker_rabbitmq_open_channel(conn, LOOK_CHANNEL, err));
    *out = conn;
    conn = NULL;
out:
    broker_rabbitmq_disconnect(conn);
    return rc;
}

/* E_NOTFOUND, ERR_RETRY: there is none. Any other error: the connection is of no more use. */
static int
find_exchange(amqp_connection_state_t conn, const char *name, struct err *err)
{
    struct err again;
    int        rc;

    (void)amqp_exchange_declare(conn, LOOK_CHANNEL, amqp_cstring_bytes(name), amqp_empty_bytes, 1,
                                0, 0, 0, amqp_empty_table);
    rc = broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "exchange", err);
    if (rc == E_NOTFOUND && broker_rabbitmq_reopen_channel(conn, LOOK_CHANNEL, &again) != 0) {
        *err = again;
        return err->code == E_NOTFOUND ? E_REMOTE : err->code;
    }
    return rc;
}

static int
try_connect(struct sink *base, struct err *err)
{
    struct rabbitmq_sink *s = mine(base);

    s->next_tag = s->low_tag = 1;
    s->written = WRITTEN_MAX;
    return connect_to(&s->def, &s->conn, err);
}

/* Also while an item is being submitted: so nothing is told here. */
static void
lose_connection(struct rabbitmq_sink *s, const char *why, int len)
{
    struct err err;

    (void)err_set(&err, __FILE__, __LINE__, E_REMOTE, ERR_UNSURE,
                  "RabbitMQ: %.*s; whether it arrived is not known", len, why);
    disconnect(s);
    sink_slots_decide_all(&s->out.slots, &err);
}

static int
need_exchange(struct rabbitmq_sink *s, const char *name, struct err *err)
{
    int rc;

    if (name[0] == '\0')
        return 0;
    for (uint32_t i = 0; i < s->known_count; i++)
        if (strcmp(s->known[i], name) == 0)
            return 0;
    rc = find_exchange(s->conn, name, err);
    if (rc == E_NOTFOUND) {
        if (s->exchange_varies && s->park_unroutable)
            err->kind = ERR_DATA;
        return rc;
    }
    if (rc != 0) {
        lose_connection(s, err->text, (int)strlen(err->text));
        return rc;
    }
    if (s->known_count == EXCHANGES_MAX)
        forget_exchanges(s);
    s->known[s->known_count] = strdup(name);
    if (s->known[s->known_count] != NULL)
        s->known_count++;
    return 0;
}

/* frames */

static void
end_tag(struct rabbitmq_sink *s, struct sink_slot *slot, bool nack)
{
    struct err err;

    if (slot->returned)
        (void)err_set(&err, __FILE__, __LINE__, E_REJECTED,
                      s->park_unroutable ? ERR_DATA : ERR_RETRY, "%s",
                      sink_slot_err(&s->out.slots, slot)->text);
    else if (nack)
        (void)err_set(&err, __FILE__, __LINE__, E_REMOTE, ERR_RETRY,
                      "RabbitMQ does not take it: a queue is full, or its broker fails");
    sink_slot_end(&s->out.slots, slot, slot->returned || nack ? &err : NULL);
}

/* Of a multiple confirm in the order of sending. */
static void
take_confirm(struct rabbitmq_sink *s, uint64_t tag, bool multiple, bool nack)
{
    struct sink_slot *slot;

    if (tag == 0 || tag >= s->next_tag) { /* 0: all there are */
        tag = s->next_tag - 1;
        multiple = true;
    }
    for (uint64_t t = multiple ? s->low_tag : tag; t <= tag; t++) {
        slot = sink_slot_find(&s->out.slots, t);
        if (slot != NULL)
            end_tag(s, slot, nack);
    }
    if (multiple && s->low_tag <= tag)
        s->low_tag = tag + 1;
}

static void
copy_short(char *to, size_t size, amqp_bytes_t from)
{
    size_t len = from.len < size - 1 ? from.len : size - 1;

    if (len > 0)
        memcpy(to, from.bytes, len);
    to[len] = '\0';
}

static void
take_return(struct rabbitmq_sink *s, const amqp_basic_return_t *m)
{
    s->ret = (struct returned){.pending = true, .code = m->reply_code};
    copy_short(s->ret.exchange, sizeof s->ret.exchange, m->exchange);
    copy_short(s->ret.key, sizeof s->ret.key, m->routing_key);
    copy_short(s->ret.why, sizeof s->ret.why, m->reply_text);
}

static int
fill_route(struct rabbitmq_sink *s, const struct sink_item *item, struct err *err)
{
    struct slice exchange;
    int          rc;

    TRY(sink_broker_ways(&s->out, item, err));
    exchange = sink_broker_way(&s->out, EXCHANGE);
    if (exchange.len > BROKER_RABBITMQ_SHORT_MAX ||
        sink_broker_way(&s->out, KEY).len > BROKER_RABBITMQ_SHORT_MAX ||
        memchr(exchange.data, 0, exchange.len) != NULL)
        FAIL(err, E_SCHEMA, ERR_DATA, "its exchange or routing key is longer than %d bytes",
             BROKER_RABBITMQ_SHORT_MAX);
out:
    return rc;
}

/* Two events of one id may be in flight, in two streams: the route tells them apart where it
 * matters. */
static bool
is_returned(struct rabbitmq_sink *s, const struct sink_slot *slot, const struct ox_id *id)
{
    struct err err;

    return slot->item != NULL && !slot->decided && !slot->returned && slot->tag != 0 &&
           id_eq(&slot->item->id, id) && fill_route(s, slot->item, &err) == 0 &&
           strcmp(sink_broker_text(&s->out, EXCHANGE), s->ret.exchange) == 0 &&
           strcmp(sink_broker_text(&s->out, KEY), s->ret.key) == 0;
}

static void
take_returned_header(struct rabbitmq_sink *s, const amqp_frame_t *f)
{
    const amqp_basic_properties_t *p = f->payload.properties.decoded;
    struct sink_slot              *found = NULL;
    struct ox_id                   id;

    s->ret.pending = false;
    s->ret.body = f->payload.properties.body_size;
    if ((p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) == 0 ||
        !id_parse(slice_of(p->message_id.bytes, p->message_id.len), &id))
        return;
    for (uint32_t i = 0; i < s->out.slots.count; i++) {
        struct sink_slot *slot = &s->out.slots.slot[i];

        if ((found == NULL || slot->tag < found->tag) && is_returned(s, slot, &id))
            found = slot;
    }
    if (found == NULL)
        return;
    found->returned = true;
    (void)snprintf(sink_slot_err(&s->out.slots, found)->text, ERR_TEXT_MAX,
                   "no queue takes it: %d %s", s->ret.code, s->ret.why);
}

/* False: the connection is of no more use. */
static bool
take_method(struct rabbitmq_sink *s, const amqp_frame_t *f)
{
    const void *m = f->payload.method.decoded;

    switch (f->payload.method.id) {
    case AMQP_BASIC_ACK_METHOD: {
        const amqp_basic_ack_t *ack = m;
        take_confirm(s, ack->delivery_tag, ack->multiple != 0, false);
        return true;
    }
    case AMQP_BASIC_NACK_METHOD: {
        const amqp_basic_nack_t *nack = m;
        take_confirm(s, nack->delivery_tag, nack->multiple != 0, true);
        return true;
    }
    case AMQP_BASIC_RETURN_METHOD:
        take_return(s, m);
        return true;
    case AMQP_CONNECTION_BLOCKED_METHOD:
        s->blocked = true;
        return true;
    case AMQP_CONNECTION_UNBLOCKED_METHOD:
        s->blocked = false;
        return true;
    case AMQP_CHANNEL_CLOSE_METHOD: {
        const amqp_channel_close_t *c = m;
        lose_connection(s, c->reply_text.bytes, (int)c->reply_text.len);
        return false;
    }
    case AMQP_CONNECTION_CLOSE_METHOD: {
        const amqp_connection_close_t *c = m;
        lose_connection(s, c->reply_text.bytes, (int)c->reply_text.len);
        return false;
    }
    default:
        return true;
    }
}

/* Works off what is there, and waits for the first for at most wait_ms. */
static void
read_frames(struct rabbitmq_sink *s, uint32_t wait_ms)
{
    struct timeval wait = {wait_ms / 1000, (suseconds_t)(wait_ms % 1000) * 1000};
    amqp_frame_t   f;

    for (;;) {
        int rc = amqp_simple_wait_frame_noblock(s->conn, &f, &wait);

        if (rc == AMQP_STATUS_TIMEOUT)
            break;
        if (rc != AMQP_STATUS_OK) {
            const char *why = amqp_error_string2(rc);

            lose_connection(s, why, (int)strlen(why));
            return;
        }
        wait = (struct timeval){0};
        if (f.frame_type == AMQP_FRAME_METHOD && !take_method(s, &f))
            return;
        if (f.frame_type == AMQP_FRAME_HEADER && s->ret.pending)
            take_returned_header(s, &f);
        amqp_maybe_release_buffers(s->conn);
    }
}

/* sending */

static amqp_bytes_t
bytes_of(struct slice s)
{
    return (amqp_bytes_t){s.len, (void *)(uintptr_t)s.data};
}

static int
publish(struct rabbitmq_sink *s, struct sink_slot *slot, struct err *err)
{
    const struct sink_message *m = &s->out.message;
    const struct sink_item    *item = slot->item;
    amqp_table_entry_t         entries[SINK_HEADERS_MAX];
    amqp_basic_properties_t    p = {0};
    char                       id[ID_TEXT_LEN + 1];
    int                        rc;

    for (uint32_t i = 0; i < m->count; i++)
        entries[i] = (amqp_table_entry_t){
            amqp_cstring_bytes(m->headers[i].name),
            {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = bytes_of(m->headers[i].value)}};
    id_format(&item->id, id);
    p._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
               AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_HEADERS_FLAG;
    p.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    p.message_id = amqp_cstring_bytes(id);
    p.timestamp = item->created_us < 0 ? 0 : (uint64_t)(item->created_us / 1000000);
    p.headers = (amqp_table_t){(int)m->count, entries};
    if (m->content_type != NULL) {
        p._flags |= AMQP_BASIC_CONTENT_TYPE_FLAG;
        p.content_type = amqp_cstring_bytes(m->content_type);
    }
    if (item->type.len <= BROKER_RABBITMQ_SHORT_MAX) {
        p._flags |= AMQP_BASIC_TYPE_FLAG;
        p.type = bytes_of(item->type);
    }
    sink_slot_sent(&s->out.slots, slot, s->next_tag++, sink_now_us(&s->base) + s->out.timeout_us);
    s->written += m->body.len + OVERHEAD;
    rc = amqp_basic_publish(
        s->conn, CHANNEL, amqp_cstring_bytes(sink_broker_text(&s->out, EXCHANGE)),
        amqp_cstring_bytes(sink_broker_text(&s->out, KEY)), 1, 0, &p, bytes_of(m->body));
    if (rc != AMQP_STATUS_OK)
        RETURN_ERR(err, E_REMOTE, ERR_UNSURE, "RabbitMQ: %s", amqp_error_string2(rc));
    return 0;
}

/* A broker that takes no bytes must not hold up the thread; it says so when it can. */
static int
need_broker(struct rabbitmq_sink *s, struct err *err)
{
    int rc = 0;

    /* Nobody reads while nothing is in flight: it may have closed the connection. */
    if (s->conn != NULL && sink_slots_flying(&s->out.slots) == 1)
        read_frames(s, 0);
    if (s->conn == NULL)
        TRY(sink_broker_connect(&s->out, try_connect, err));
    TRY(need_exchange(s, sink_broker_text(&s->out, EXCHANGE), err));
    if (!s->blocked && s->written >= WRITTEN_MAX && broker_rabbitmq_is_writable(s->conn))
        s->written = 0;
    if (s->blocked || s->written >= WRITTEN_MAX)
        FAIL(err, E_BUSY, ERR_RETRY,
             "RabbitMQ takes no messages just now: its disk or memory is "
             "short");
out:
    return rc;
}

static int
give(struct sink *base, struct sink_slot *slot, struct err *err)
{
    struct rabbitmq_sink *s = mine(base);
    int                   rc;

    TRY(fill_route(s, slot->item, err));
    TRY(sink_broker_message(&s->out, slot->item, err));
    TRY(need_broker(s, err));
    if (publish(s, slot, err) != 0)
        lose_connection(s, err->text, (int)strlen(err->text)); /* this one with it */
out:
    return rc;
}

static int
submit(struct sink *base, struct sink_item *item, struct err *err)
{
    return sink_broker_submit(&mine(base)->out, item, give);
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct rabbitmq_sink *s = mine(base);

    if (sink_slots_tell(&s->out.slots))
        wait_ms = 0;
    if (s->conn == NULL || sink_slots_flying(&s->out.slots) == 0)
        return 0;
    read_frames(s, wait_ms);
    if (s->conn != NULL && sink_slots_overdue(&s->out.slots, sink_now_us(&s->base)))
        lose_connection(s, "no confirm in time", 18);
    (void)sink_slots_tell(&s->out.slots);
    return 0;
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    struct rabbitmq_sink *s = mine(base);
    struct sink_item      nothing = {0};
    int                   rc;

    TRY(connect_to(&s->def, &s->conn, err));
    say(arg, 0, "RabbitMQ answers and confirms messages");
    if (!s->exchange_varies) {
        struct buf *name = &s->out.text[EXCHANGE];

        buf_clear(name);
        TRY(template_expand(s->out.ways[EXCHANGE], sink_fill, &nothing, &s->out.scratch, name,
                            err));
        buf_add_byte(name, 0);
        if (name->len > 1)
            TRY(find_exchange(s->conn, (const char *)name->data, err));
        say(arg, 0, "the exchange is there");
    }
out:
    disconnect(s);
    return rc;
}

const struct sink_ops sink_rabbitmq_ops = {
    .name = "rabbitmq",
    .size = sizeof(struct rabbitmq_sink),
    .schema = &schema,
    .transactional = false,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = sink_noop_checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
