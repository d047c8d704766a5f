/*
 * The sink `kafka`. An idempotent producer (acks=all) that is asked for nothing but a report for
 * each record; reports come while it is polled, on this thread. What it gives up it says it gave
 * up: not written, or perhaps written.
 *
 * A fatal error of the producer (its sequence is broken) is the end of that producer, not of the
 * sink: it is purged and replaced, and what it had is sent again by the core.
 */
#include "sink/kafka/kafka.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "broker/kafka.h"
#include "sink/kafka/kafka_int.h"

#define FLUSH_MS 500
#define CHECK_MS 5000
#define SAID_MAX 256
#define REQUEST_COPY_MAX 65535 /* message.copy.max.bytes, which is set */

static const char *const codecs[] = {"none", "gzip", "snappy", "lz4", "zstd", NULL};

static const struct conf_field fields[] = {
    BROKER_KAFKA_FIELDS,
    {.name = "topic",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .required = true,
     .doc = "with placeholders"},
    {.name = "key",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .preset = "{stream}",
     .doc = "with placeholders: records of one key keep their order"},
    SINK_FORM_FIELDS,
    {.name = "compression",
     .type = {.kind = CONF_ENUM, .values = codecs},
     .preset = "none",
     .doc = "of batches of records"},
    {.name = "linger",
     .type = {.kind = CONF_DURATION, .max = 10000000},
     .preset = "2ms",
     .doc = "how long records gather into a batch"},
    {.name = "in_flight",
     .type = {.kind = CONF_INT, .min = 1, .max = SINK_SLOTS_MAX},
     .preset = "4096",
     .doc = "records at a time, each of another stream"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = 600000000},
     .preset = "30s",
     .doc = "how long a record is tried before it counts as failed"},
    {.name = "transactions",
     .type = {.kind = CONF_OBJECT, .fields = sinki_kafka_txn_fields},
     .doc = "records and checkpoint in one transaction"},
    {.name = "message_max",
     .type = {.kind = CONF_SIZE, .min = 1024, .max = 512 << 20},
     .preset = "1000000",
     .doc = "a larger record is parked; the topic's own limit holds too"},
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

enum way { TOPIC, KEY };

static struct sinki_kafka_sink *
mine(struct sink *s)
{
    return (struct sinki_kafka_sink *)s;
}

/* topics */

static void
drop_topics(struct sinki_kafka_sink *s)
{
    for (int i = 0; i < SINKI_KAFKA_TOPICS; i++) {
        if (s->topics[i].handle != NULL)
            rd_kafka_topic_destroy(s->topics[i].handle);
        s->topics[i].handle = NULL;
    }
    s->topic = NULL;
}

/* reports */

static enum err_kind
kind_of(const rd_kafka_message_t *m)
{
    switch (m->err) {
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
        return ERR_DATA;
    default:
        return rd_kafka_message_status(m) == RD_KAFKA_MSG_STATUS_NOT_PERSISTED ? ERR_RETRY
                                                                               : ERR_UNSURE;
    }
}

static void
on_report(rd_kafka_t *producer, const rd_kafka_message_t *m, void *arg)
{
    struct sinki_kafka_sink *s = arg;
    struct sink_slot        *slot = m->_private;
    struct err               err;
    enum err_kind            kind;

    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        drop_topics(s); /* a new handle asks anew whether the topic is there */
    if (s->closing || slot == NULL)
        return;
    if (s->positions != NULL) { /* the transaction says what became of it, unless it is at fault */
        if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR && kind_of(m) == ERR_DATA && s->refused == NULL) {
            s->refused = slot;
            (void)err_set(sink_slot_err(&s->out.slots, slot), __FILE__, __LINE__, E_REJECTED,
                          ERR_DATA, "Kafka: %s", rd_kafka_err2str(m->err));
        }
        return;
    }
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        sink_slot_end(&s->out.slots, slot, NULL);
        return;
    }
    kind = kind_of(m);
    (void)err_set(&err, __FILE__, __LINE__, kind == ERR_DATA ? E_REJECTED : E_REMOTE, kind,
                  "Kafka: %s", rd_kafka_err2str(m->err));
    sink_slot_end(&s->out.slots, slot, &err);
}

static void
on_error(rd_kafka_t *producer, int code, const char *why, void *arg)
{
    struct sinki_kafka_sink *s = arg;

    if (code == RD_KAFKA_RESP_ERR__FATAL)
        s->broken = true;
}

/* the producer */

static int
set_producer(struct sinki_kafka_sink *s, rd_kafka_conf_t *to, struct err *err)
{
    const struct conf *conf = s->conf;
    char               text[32];
    int                rc;

    TRY(broker_kafka_set_client(conf, s->out.timeout_us, to, err));
    TRY(broker_kafka_set(to, "enable.idempotence", "true", err));
    TRY(broker_kafka_set(to, "partitioner", "murmur2_random", err)); /* as the Java client's */
    TRY(broker_kafka_set(to, "compression.codec", codecs[conf_enum(conf, "compression")], err));
    (void)snprintf(text, sizeof text, "%d", REQUEST_COPY_MAX);
    TRY(broker_kafka_set(to, "message.copy.max.bytes", text, err));
    TRY(broker_kafka_set_ms(to, "linger.ms", conf_duration_us(conf, "linger"), err));
    if (s->positions != NULL)
        TRY(sinki_kafka_txn_set(s, to, err));
    TRY(broker_kafka_set_ms(to, "message.timeout.ms", s->out.timeout_us, err));
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)s->out.message_max + 65536);
    rc = broker_kafka_set(to, "message.max.bytes", text, err);
out:
    return rc;
}

int
sinki_kafka_need_producer(struct sinki_kafka_sink *s, struct err *err)
{
    rd_kafka_conf_t *to;
    char             why[SAID_MAX];
    int              rc;

    if (s->producer != NULL)
        return 0;
    to = rd_kafka_conf_new();
    TRY(set_producer(s, to, err));
    rd_kafka_conf_set_opaque(to, s);
    rd_kafka_conf_set_dr_msg_cb(to, on_report);
    rd_kafka_conf_set_error_cb(to, on_error);
    s->producer = rd_kafka_new(RD_KAFKA_PRODUCER, to, why, sizeof why);
    if (s->producer == NULL)
        FAIL(err, E_INVALID, ERR_FATAL, "Kafka: no producer: %s", why);
    to = NULL; /* the producer's now */
    s->broken = s->ready = false;
out:
    if (to != NULL)
        rd_kafka_conf_destroy(to);
    return rc;
}

/* Everything it holds is reported on the way, unless the sink is being closed. */
void
sinki_kafka_drop_producer(struct sinki_kafka_sink *s)
{
    if (s->producer == NULL)
        return;
    drop_topics(s);
    (void)rd_kafka_purge(s->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    (void)rd_kafka_flush(s->producer, FLUSH_MS);
    if (!s->closing && s->positions == NULL && sink_slots_flying(&s->out.slots) > 0) {
        struct err err;

        (void)err_set(&err, __FILE__, __LINE__, E_REMOTE, ERR_UNSURE,
                      "Kafka: the producer failed; whether it was written is not known");
        s->closing = true; /* reports that come still are of what is decided here */
        rd_kafka_destroy(s->producer);
        sink_slots_end_all(&s->out.slots, &err); /* whose data it had */
        s->closing = false;
    } else {
        rd_kafka_destroy(s->producer);
    }
    s->producer = NULL;
}

static void
close_sink(struct sink *base)
{
    struct sinki_kafka_sink *s = mine(base);

    s->closing = true;
    sinki_kafka_drop_producer(s);
    sink_broker_close(&s->out);
    free(s->taken);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    static const struct sink_broker_def def = {
        .binding = SINK_KAFKA, .kind = TEMPLATE_TEXT, .ways = {"topic", "key"}};
    struct sinki_kafka_sink *s = mine(base);
    int                      rc;

    s->conf = conf;
    TRY(sinki_kafka_txn_open(s, conf, err));
    TRY(sink_broker_open(&s->out, base, conf, &def, err));
    rc = sinki_kafka_need_producer(s, err); /* what it does not like shows now */
out:
    if (rc != 0)
        close_sink(base);
    return rc;
}

/* sending */

static int
check_topic(struct slice t, struct err *err)
{
    const char *p = t.data;
    bool        fine =
        t.len > 0 && t.len <= SINKI_KAFKA_TOPIC_MAX && !slice_is(t, ".") && !slice_is(t, "..");

    for (size_t i = 0; fine && i < t.len; i++)
        fine = (p[i] >= 'a' && p[i] <= 'z') || (p[i] >= 'A' && p[i] <= 'Z') ||
               (p[i] >= '0' && p[i] <= '9') || p[i] == '.' || p[i] == '_' || p[i] == '-';
    if (!fine)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "the event makes no name of a topic: 1 to %d of a-z A-Z 0-9 . _ -",
                   SINKI_KAFKA_TOPIC_MAX);
    return 0;
}

static bool
is_topic(const struct sinki_kafka_topic *t, struct slice name)
{
    return t != NULL && t->handle != NULL && slice_eq(slice_of(t->name, t->len), name);
}

/* Into s->topic. */
static int
find_topic(struct sinki_kafka_sink *s, struct slice name, struct err *err)
{
    struct sinki_kafka_topic *t = s->topic;
    int                       rc = 0;

    if (!is_topic(t, name))
        t = &s->topics[crc32c(0, name.data, name.len) % SINKI_KAFKA_TOPICS];
    if (!is_topic(t, name)) {
        TRY(check_topic(name, err));
        if (t->handle != NULL)
            rd_kafka_topic_destroy(t->handle); /* records in flight have their own hold on it */
        memcpy(t->name, name.data, name.len);
        t->name[name.len] = '\0';
        t->len = name.len;
        t->handle = rd_kafka_topic_new(s->producer, t->name, NULL);
        if (t->handle == NULL)
            FAIL(err, E_REMOTE, ERR_RETRY, "Kafka: topic: %s",
                 rd_kafka_err2str(rd_kafka_last_error()));
    }
    s->topic = t;
out:
    return rc;
}

int
sinki_kafka_fill(struct sinki_kafka_sink *s, const struct sink_item *item, struct err *err)
{
    int rc;

    must(s->producer != NULL);
    TRY(sink_broker_ways(&s->out, item, err));
    TRY(find_topic(s, sink_broker_way(&s->out, TOPIC), err));
    rc = sink_broker_message(&s->out, item, err);
out:
    return rc;
}

static rd_kafka_headers_t *
headers_of(const struct sink_message *m)
{
    rd_kafka_headers_t *h = rd_kafka_headers_new(m->count + 1);

    for (uint32_t i = 0; i < m->count; i++)
        (void)rd_kafka_header_add(h, m->headers[i].name, -1, m->headers[i].value.data,
                                  (ssize_t)m->headers[i].value.len);
    if (m->content_type != NULL)
        (void)rd_kafka_header_add(h, "content-type", -1, m->content_type, -1);
    return h;
}

/*
 * An item's own data stands until its report. What is longer than the library copies into a request
 * may be read by one that was given up.
 */
static int
copy_flag(const struct sinki_kafka_sink *s, const struct sink_item *item)
{
    struct slice body = s->out.message.body;

    return s->positions == NULL && body.data == item->data.data && body.len < REQUEST_COPY_MAX
               ? 0
               : RD_KAFKA_MSG_F_COPY;
}

int
sinki_kafka_produce(struct sinki_kafka_sink *s, struct sink_slot *slot, struct err *err)
{
    const struct sink_message *m = &s->out.message;
    struct slice               key = sink_broker_way(&s->out, KEY);
    const struct sink_item    *item = slot->item;
    rd_kafka_headers_t        *headers = headers_of(m);
    enum err_kind              kind = ERR_RETRY;
    rd_kafka_resp_err_t        rc;
    rd_kafka_error_t          *wrong;
    rd_kafka_vu_t              v[7] = {
                     {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = s->topic->handle},
                     {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)key.data, key.len}},
                     {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)m->body.data, m->body.len}},
                     {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = copy_flag(s, item)},
                     {.vtype = RD_KAFKA_VTYPE_TIMESTAMP,
                      .u.i64 = item->created_us < 0 ? 0 : item->created_us / 1000},
                     {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
                     {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = slot}};

    wrong = rd_kafka_produceva(s->producer, v, sizeof v / sizeof v[0]);
    if (wrong == NULL)
        return 0; /* it has the headers */
    rc = rd_kafka_error_code(wrong);
    rd_kafka_error_destroy(wrong);
    rd_kafka_headers_destroy(headers);
    drop_topics(s);
    if (rc == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
        kind = ERR_DATA;
    if (rc == RD_KAFKA_RESP_ERR__FATAL)
        s->broken = true;
    RETURN_ERR(err, kind == ERR_DATA ? E_LIMIT : E_REMOTE, kind, "Kafka: %s", rd_kafka_err2str(rc));
}

static int
give(struct sink *base, struct sink_slot *slot, struct err *err)
{
    struct sinki_kafka_sink *s = mine(base);
    int                      rc;

    TRY(sinki_kafka_need_producer(s, err));
    TRY(sinki_kafka_fill(s, slot->item, err));
    rc = sinki_kafka_produce(s, slot, err);
out:
    return rc;
}

static int
submit(struct sink *base, struct sink_item *item, struct err *err)
{
    struct sinki_kafka_sink *s = mine(base);

    if (s->positions == NULL)
        return sink_broker_submit(&s->out, item, give);
    s->taken[s->taken_count++] = sink_slot_take(&s->out.slots, item);
    return 0;
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct sinki_kafka_sink *s = mine(base);

    if (s->positions != NULL)
        return sinki_kafka_txn_poll(s, upto, err);
    if (sink_slots_tell(&s->out.slots))
        wait_ms = 0;
    if (s->producer == NULL)
        return 0;
    (void)rd_kafka_poll(s->producer, sink_slots_flying(&s->out.slots) == 0 ? 0 : (int)wait_ms);
    if (s->broken)
        sinki_kafka_drop_producer(s);
    return 0;
}

static int
checkpoint(struct sink *base, struct log_pos *pos, struct err *err)
{
    if (mine(base)->positions != NULL)
        return sinki_kafka_txn_checkpoint(mine(base), pos, err);
    return sink_noop_checkpoint(base, pos, err);
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    struct sinki_kafka_sink        *s = mine(base);
    const struct rd_kafka_metadata *m = NULL;
    rd_kafka_resp_err_t             rc;
    char                            line[96];

    rc = rd_kafka_metadata(s->producer, 0, NULL, &m, CHECK_MS);
    if (rc != RD_KAFKA_RESP_ERR_NO_ERROR)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "Kafka: %s", rd_kafka_err2str(rc));
    (void)snprintf(line, sizeof line, "Kafka answers: %d brokers", m->broker_cnt);
    rd_kafka_metadata_destroy(m);
    say(arg, 0, line);
    return 0;
}

const struct sink_ops sink_kafka_ops = {
    .name = "kafka",
    .size = sizeof(struct sinki_kafka_sink),
    .schema = &schema,
    .transactional = false,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
