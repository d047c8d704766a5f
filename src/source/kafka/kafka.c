/*
 * The queue `kafka`. The offset of each partition stands in the checkpoint, in the commit that has
 * the records up to it: after any crash each partition is read on from there, and nothing comes
 * twice, however old the offsets are that the group knows.
 *
 * An offset that the broker no longer has is a gap, and said to be one.
 */
#include "source/kafka/kafka.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "broker/kafka.h"
#include "source/kafka/kafka_int.h"

#define COMMIT_US UINT64_C(1000000)

static const char *const      froms[] = {"first", "new", NULL};
static const char *const      key_forms[] = {"text", "hex", NULL};
static const struct conf_type topic_type = {
    .kind = CONF_STRING, .min = 1, .max = 249, .chars = "a-zA-Z0-9._-"};

static const struct conf_field fields[] = {
    BROKER_KAFKA_FIELDS,
    {.name = "topics",
     .type = {.kind = CONF_LIST, .of = &topic_type, .min = 1, .max = 1000},
     .required = true,
     .doc = "what is consumed"},
    {.name = "group",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .doc = "the consumer group; oxbow-NAME when not given"},
    {.name = "member",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .doc = "group.instance.id: a restart keeps its partitions"},
    {.name = "from",
     .type = {.kind = CONF_ENUM, .values = froms},
     .preset = "first",
     .doc = "where a topic is begun that neither the log nor the group knows: first or new"},
    {.name = "key_form",
     .type = {.kind = CONF_ENUM, .values = key_forms},
     .preset = "text",
     .doc = "text, or hex for keys that are none"},
    {.name = "session_timeout",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = 300000000},
     .preset = "10s",
     .doc = "after it the group gives up a member that died"},
    {.name = "buffer",
     .type = {.kind = CONF_SIZE, .min = 1 << 20, .max = 1 << 30},
     .preset = "16MiB",
     .doc = "of records that were fetched ahead"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 100000, .max = 60000000},
     .preset = "5s",
     .doc = "to wait for an answer"},
    QUEUE_FIELDS,
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct kafkai_source *
mine(struct queue_reader *q)
{
    return (struct kafkai_source *)q;
}

static uint64_t
now_us(const struct kafkai_source *s)
{
    return s->base.env->ops->mono_us(s->base.env);
}

static void
stop(struct queue_reader *q)
{
    struct kafkai_source *s = mine(q);

    kafkai_batch_clear(s);
    kafkai_leave(s);
    s->handed_count = 0;
}

static void
close_source(struct queue_reader *q)
{
    struct kafkai_source *s = mine(q);

    stop(q);
    kafkai_places_fini(&s->places);
    free(s->handed);
    free(s->messages);
    free(s->headers);
    buf_fini(&s->text);
    buf_fini(&s->checkpoint);
}

static int
open_source(struct queue_reader *q, const struct conf *conf, struct err *err)
{
    struct kafkai_source *s = mine(q);

    s->conf = conf;
    s->group = conf_str(conf, "group");
    s->from_new = conf_enum(conf, "from") == 1;
    s->hex = conf_enum(conf, "key_form") == 1;
    s->timeout_us = conf_duration_us(conf, "timeout");
    if (s->group == NULL) {
        (void)snprintf(s->own_group, sizeof s->own_group, "oxbow-%s", q->instance);
        s->group = s->own_group;
    }
    s->messages = calloc(KAFKAI_BATCH_MAX, sizeof s->messages[0]);
    if (s->messages == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a source");
    return 0;
}

static int
start(struct queue_reader *q, struct slice checkpoint, bool gap, struct err *err)
{
    struct kafkai_source *s = mine(q);
    int                   rc;

    kafkai_batch_clear(s);
    s->handed_count = 0;
    s->first_tag = 1;
    s->failing = s->tell = false;
    s->go_on = gap;
    TRY(kafkai_places_get(&s->places, checkpoint, err));
    if (s->broken)
        kafkai_leave(s);
    rc = s->consumer == NULL ? kafkai_join(s, err) : kafkai_assign(s, err);
out:
    return rc;
}

/* polling */

/* Of the consumer, not of a record. */
static int
take_error(struct kafkai_source *s, const rd_kafka_message_t *m, struct err *err)
{
    const char          *topic = m->rkt == NULL ? s->group : rd_kafka_topic_name(m->rkt);
    struct kafkai_place *place;

    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF ||
        m->err == RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED) /* it joins again */
        return 0;
    if (m->err == RD_KAFKA_RESP_ERR__FATAL)
        s->broken = true;
    if (m->err != RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET || m->rkt == NULL)
        return kafkai_error(s, m->err, topic, err);
    place = kafkai_place(&s->places, topic, m->partition);
    RETURN_ERR(err, E_GONE, ERR_FATAL,
               "Kafka: gap: partition %d of topic %s does not have offset %" PRId64
               ", where the log goes on: records were removed before they were read, or the topic "
               "was made anew; to go on without them: oxbow source snapshot %s --gap",
               (int)m->partition, topic, place == NULL ? -1 : place->next, s->base.instance);
}

static int
take(struct kafkai_source *s, rd_kafka_message_t *m, uint64_t *bytes, struct err *err)
{
    int rc;

    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        *bytes += m->len;
        return kafkai_batch_add(s, m, err);
    }
    rc = take_error(s, m, err);
    rd_kafka_message_destroy(m);
    return rc;
}

static int
poll_source(struct queue_reader *q, uint32_t max, uint64_t bytes, uint32_t wait_ms,
            struct queue_batch *batch, struct err *err)
{
    struct kafkai_source *s = mine(q);
    rd_kafka_message_t   *m;
    uint64_t              sum = 0;
    int                   rc = 0;

    kafkai_batch_clear(s);
    max = max < KAFKAI_BATCH_MAX ? max : KAFKAI_BATCH_MAX;
    if (s->consumer == NULL)
        FAIL(err, E_REMOTE, ERR_RETRY, "Kafka: not connected");
    if (now_us(s) >= s->commit_at_us) {
        kafkai_commit(s, false);
        s->commit_at_us = now_us(s) + COMMIT_US;
    }
    while (!s->failing && s->count < max && sum < bytes) {
        m = rd_kafka_consumer_poll(s->consumer, s->count > 0 || s->tell ? 0 : (int)wait_ms);
        if (m == NULL)
            break;
        s->failing = s->failing || take(s, m, &sum, &s->failure) != 0;
    }
    /* What came before the failure is whole; it is told with the next call. */
    if (s->count > 0 || s->tell)
        return kafkai_batch_give(s, batch, err);
    if (s->down && !s->failing)
        s->down = !kafkai_answers(s);
    if (s->down && !s->failing)
        TRY(kafkai_error(s, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, conf_str(s->conf, "brokers"),
                         err));
    /* A topic that is not there is said to be so once in a while only. */
    if (s->failing || (s->assigned == NULL && s->failure.code == E_NOTFOUND)) {
        s->failing = false;
        err_copy(err, &s->failure);
        rc = s->failure.code;
    }
out:
    return rc;
}

static int
confirm(struct queue_reader *q, uint64_t tag, struct err *err)
{
    struct kafkai_source *s = mine(q);
    uint32_t              n = (uint32_t)(tag + 1 - s->first_tag);

    must(tag + 1 >= s->first_tag);
    must(n <= s->handed_count);
    for (uint32_t i = 0; i < n; i++)
        s->places.at[s->handed[i].place].durable = s->handed[i].next;
    memmove(s->handed, s->handed + n, (s->handed_count - n) * sizeof s->handed[0]);
    s->handed_count -= n;
    s->first_tag += n;
    return 0; /* the group hears of it with a poll, once a second */
}

static int
status(struct queue_reader *q, struct buf *out, struct err *err)
{
    struct kafkai_source *s = mine(q);
    struct json_out       o;
    uint64_t              assigned = 0, pending = 0;
    int64_t               low, high;

    for (uint32_t i = 0; i < s->places.count && s->consumer != NULL; i++) {
        const struct kafkai_place *p = &s->places.at[i];

        if (!p->assigned)
            continue;
        assigned++;
        if (rd_kafka_get_watermark_offsets(s->consumer, p->topic, p->partition, &low, &high) ==
                RD_KAFKA_RESP_ERR_NO_ERROR &&
            high > p->next && p->next >= 0)
            pending += (uint64_t)(high - p->next);
    }
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "connected");
    json_out_bool(&o, s->consumer != NULL && s->assigned != NULL);
    json_out_key(&o, "group");
    json_out_str(&o, s->group);
    json_out_key(&o, "partitions");
    json_out_u64(&o, assigned);
    json_out_key(&o, "pending");
    json_out_u64(&o, pending);
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a status");
    return 0;
}

/* setting up */

static int
report_topic(struct kafkai_source *s, rd_kafka_t *client, const char *topic, finding_fn *report,
             void *arg, struct err *err)
{
    const struct rd_kafka_metadata *m = NULL;
    rd_kafka_topic_t               *t = rd_kafka_topic_new(client, topic, NULL);
    rd_kafka_resp_err_t             code;
    char                            text[400];
    int                             rc = 0;

    code = rd_kafka_metadata(client, 0, t, &m, (int)(s->timeout_us / 1000));
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        TRY(kafkai_error(s, code, topic, err));
    if (m->topic_cnt == 1 && m->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR &&
        m->topics[0].partition_cnt > 0) {
        (void)snprintf(text, sizeof text, "topic %s has %d partitions", topic,
                       m->topics[0].partition_cnt);
        report(arg, FINDING_OK, text);
    } else {
        (void)snprintf(text, sizeof text,
                       "there is no topic %s that may be read: somebody has to "
                       "make it, or to allow it",
                       topic);
        report(arg, FINDING_MISSING, text);
    }
out:
    rd_kafka_metadata_destroy(m);
    rd_kafka_topic_destroy(t);
    return rc;
}

static int
check(struct queue_reader *q, finding_fn *report, void *arg, struct err *err)
{
    struct kafkai_source *s = mine(q);
    rd_kafka_t           *client = NULL;
    int                   rc;

    TRY(kafkai_client(s, &client, err));
    for (const struct conf *t = conf_first(conf_child(s->conf, "topics")); t != NULL;
         t = conf_next(t))
        TRY(report_topic(s, client, conf_text(t), report, arg, err));
out:
    if (client != NULL)
        rd_kafka_destroy(client);
    return rc;
}

static int
prepare(struct queue_reader *q, bool dry_run, finding_fn *report, void *arg, struct err *err)
{
    return check(q, report, arg, err); /* a group is made by joining it */
}

static int
unprepare(struct queue_reader *q, finding_fn *report, void *arg, struct err *err)
{
    report(arg, FINDING_OK, "the group's offsets stay with the broker, until they expire there");
    return 0;
}

const struct queue_ops source_kafka_ops = {
    .name = "kafka",
    .size = sizeof(struct kafkai_source),
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
