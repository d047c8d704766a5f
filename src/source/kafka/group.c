/*
 * The consumer and its group. Which partitions are this source's is the group's word; where to go
 * on in each is the log's. What the group is told of offsets is for those who look at its lag, and
 * for a source that begins anew.
 *
 * A partition that is taken away keeps its place: what was handed out of it is on its way into the
 * log, and if it comes back it goes on behind that.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/kafka.h"
#include "source/kafka/kafka_int.h"

#define SAID_MAX 256
#define COMMIT_WAIT_MS 1000
#define ANSWER_MS 1000
#define CLOSE_US UINT64_C(5000000)
#define CLOSE_STEP_MS 100

static int
timeout_ms(const struct kafkai_source *s)
{
    return (int)(s->timeout_us / 1000);
}

int
kafkai_error(struct kafkai_source *s, rd_kafka_resp_err_t code, const char *what, struct err *err)
{
    enum err_code kind = E_REMOTE;

    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
        code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
        kind = E_NOTFOUND;
    else if (code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
             code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
             code == RD_KAFKA_RESP_ERR__AUTHENTICATION)
        kind = E_AUTH;
    RETURN_ERR(err, (int)kind, ERR_RETRY, "Kafka: %s: %s", what, rd_kafka_err2str(code));
}

static void
note_failure(struct kafkai_source *s, const struct err *err)
{
    if (s->failing && s->failure.kind == ERR_FATAL)
        return;
    s->failing = true;
    err_copy(&s->failure, err);
}

/* where to go on */

/* A place that is no more: the first that there is, or the end of what is there. */
static int
move_over_gap(struct kafkai_source *s, rd_kafka_topic_partition_t *p, struct kafkai_place *place,
              struct err *err)
{
    int64_t             low = 0, high = 0;
    rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(s->consumer, p->topic, p->partition,
                                                                &low, &high, timeout_ms(s));

    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return kafkai_error(s, code, p->topic, err);
    if (place->next >= low && place->next <= high)
        return 0;
    s->places.epoch += place->next > high; /* the same offsets come again */
    place->next = p->offset = low;
    s->tell = true;
    return 0;
}

/* What the log does not say. */
static int
find_place(struct kafkai_source *s, rd_kafka_topic_partition_t *p, struct kafkai_place *place,
           int64_t committed, struct err *err)
{
    int64_t             low = 0, high = 0;
    rd_kafka_resp_err_t code;

    if (committed >= 0) {
        place->next = p->offset = committed;
        s->tell = true;
        return 0;
    }
    if (p->offset != RD_KAFKA_OFFSET_END)
        return 0;
    code = rd_kafka_query_watermark_offsets(s->consumer, p->topic, p->partition, &low, &high,
                                            timeout_ms(s));
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return kafkai_error(s, code, p->topic, err);
    place->next = p->offset = high;
    s->tell = true;
    return 0;
}

/* A partition that came later to a topic is read from its beginning. */
static int64_t
begin_at(const struct kafkai_source *s, const struct kafkai_place *place)
{
    if (place->next != KAFKAI_UNKNOWN)
        return place->next;
    return s->from_new && !kafkai_places_know(&s->places, place->topic) ? RD_KAFKA_OFFSET_END
                                                                        : RD_KAFKA_OFFSET_BEGINNING;
}

static int
find_places(struct kafkai_source *s, rd_kafka_topic_partition_list_t *list, struct err *err)
{
    rd_kafka_topic_partition_list_t *ask = rd_kafka_topic_partition_list_new(list->cnt);
    struct kafkai_place             *place;
    rd_kafka_resp_err_t              code;
    int                              rc = 0;

    for (int i = 0; i < list->cnt; i++) {
        place = kafkai_place(&s->places, list->elems[i].topic, list->elems[i].partition);
        if (place == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a partition");
        list->elems[i].offset = begin_at(s, place);
        if (list->elems[i].offset < 0)
            (void)rd_kafka_topic_partition_list_add(ask, place->topic, place->partition);
    }
    code = ask->cnt == 0 ? RD_KAFKA_RESP_ERR_NO_ERROR
                         : rd_kafka_committed(s->consumer, ask, timeout_ms(s));
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        TRY(kafkai_error(s, code, "the offsets of the group", err));
    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_topic_partition_t *p = &list->elems[i], *asked;

        place = kafkai_place(&s->places, p->topic, p->partition);
        asked = rd_kafka_topic_partition_list_find(ask, p->topic, p->partition);
        place->assigned = true;
        if (asked != NULL)
            TRY(find_place(s, p, place, asked->offset, err));
        if (s->go_on && p->offset >= 0)
            TRY(move_over_gap(s, p, place, err));
    }
    s->go_on = false;
out:
    rd_kafka_topic_partition_list_destroy(ask);
    return rc;
}

int
kafkai_assign(struct kafkai_source *s, struct err *err)
{
    rd_kafka_topic_partition_list_t *list;
    rd_kafka_resp_err_t              code;
    int                              rc;

    if (s->assigned == NULL)
        return 0;
    list = rd_kafka_topic_partition_list_copy(s->assigned);
    TRY(find_places(s, list, err));
    code = rd_kafka_assign(s->consumer, list);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        TRY(kafkai_error(s, code, "its partitions", err));
    err_clear(&s->failure);
out:
    rd_kafka_topic_partition_list_destroy(list);
    return rc;
}

/* on the thread that polls */

static void
let_go(struct kafkai_source *s)
{
    for (uint32_t i = 0; i < s->places.count; i++)
        s->places.at[i].assigned = false;
    if (s->assigned != NULL)
        rd_kafka_topic_partition_list_destroy(s->assigned);
    s->assigned = NULL;
}

static void
on_rebalance(rd_kafka_t *consumer, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t *list,
             void *arg)
{
    struct kafkai_source *s = arg;
    struct err            err;

    if (code != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        if (code == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS)
            kafkai_commit(s, true);
        let_go(s);
        (void)rd_kafka_assign(consumer, NULL);
        return;
    }
    let_go(s);
    s->assigned = rd_kafka_topic_partition_list_copy(list);
    if (kafkai_assign(s, &err) != 0) {
        note_failure(s, &err);
        (void)rd_kafka_assign(consumer, NULL); /* until it is started again */
    }
}

static void
on_error(rd_kafka_t *consumer, int code, const char *why, void *arg)
{
    struct kafkai_source *s = arg;
    struct err            err;

    if (code == RD_KAFKA_RESP_ERR__FATAL)
        s->broken = true;
    else if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN &&
             code != RD_KAFKA_RESP_ERR__AUTHENTICATION && code != RD_KAFKA_RESP_ERR__SSL)
        return; /* it is tried again */
    s->down = !s->broken;
    (void)kafkai_error(s, (rd_kafka_resp_err_t)code, conf_str(s->conf, "brokers"), &err);
    note_failure(s, &err);
}

bool
kafkai_answers(struct kafkai_source *s)
{
    const struct rd_kafka_metadata *m = NULL;

    if (rd_kafka_metadata(s->consumer, 0, NULL, &m, ANSWER_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return false;
    rd_kafka_metadata_destroy(m);
    return true;
}

void
kafkai_commit(struct kafkai_source *s, bool wait)
{
    rd_kafka_topic_partition_list_t *list =
        rd_kafka_topic_partition_list_new((int)s->places.count + 1);
    rd_kafka_queue_t *queue;
    rd_kafka_event_t *event;

    for (uint32_t i = 0; i < s->places.count; i++) {
        struct kafkai_place *p = &s->places.at[i];

        if (!p->assigned || p->durable == KAFKAI_UNKNOWN || p->durable == p->told)
            continue;
        rd_kafka_topic_partition_list_add(list, p->topic, p->partition)->offset = p->durable;
        p->told = p->durable;
    }
    if (list->cnt > 0 && !wait)
        (void)rd_kafka_commit(s->consumer, list, 1);
    if (list->cnt > 0 && wait) {
        queue = rd_kafka_queue_new(s->consumer);
        if (rd_kafka_commit_queue(s->consumer, list, queue, NULL, NULL) ==
            RD_KAFKA_RESP_ERR_NO_ERROR) {
            event = rd_kafka_queue_poll(queue, COMMIT_WAIT_MS);
            if (event != NULL)
                rd_kafka_event_destroy(event);
        }
        rd_kafka_queue_destroy(queue);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

/* joining */

static int
set_member(struct kafkai_source *s, rd_kafka_conf_t *to, struct err *err)
{
    const struct conf *conf = s->conf;
    char               kbytes[32];
    int                rc;

    TRY(broker_kafka_set_client(conf, s->timeout_us, to, err));
    TRY(broker_kafka_set(to, "group.id", s->group, err));
    TRY(broker_kafka_set(to, "group.instance.id", conf_str(conf, "member"), err));
    TRY(broker_kafka_set_ms(to, "session.timeout.ms", conf_duration_us(conf, "session_timeout"),
                            err));
    TRY(broker_kafka_set_ms(to, "heartbeat.interval.ms",
                            conf_duration_us(conf, "session_timeout") / 3, err));
    TRY(broker_kafka_set(to, "enable.auto.commit", "false", err));
    TRY(broker_kafka_set(to, "enable.auto.offset.store", "false", err));
    TRY(broker_kafka_set(to, "auto.offset.reset", "error", err));
    TRY(broker_kafka_set(to, "isolation.level", "read_committed", err));
    TRY(broker_kafka_set(to, "partition.assignment.strategy", "range,roundrobin", err));
    TRY(broker_kafka_set(to, "allow.auto.create.topics", "false", err));
    (void)snprintf(kbytes, sizeof kbytes, "%" PRIu64, (conf_size(conf, "buffer") + 1023) / 1024);
    rc = broker_kafka_set(to, "queued.max.messages.kbytes", kbytes, err);
out:
    return rc;
}

static int
make(struct kafkai_source *s, bool member, rd_kafka_t **out, struct err *err)
{
    rd_kafka_conf_t *to = rd_kafka_conf_new();
    char             why[SAID_MAX];
    int              rc;

    *out = NULL;
    if (member) {
        TRY(set_member(s, to, err));
        rd_kafka_conf_set_opaque(to, s);
        rd_kafka_conf_set_rebalance_cb(to, on_rebalance);
        rd_kafka_conf_set_error_cb(to, on_error);
    } else {
        TRY(broker_kafka_set_client(s->conf, s->timeout_us, to, err));
    }
    *out = rd_kafka_new(member ? RD_KAFKA_CONSUMER : RD_KAFKA_PRODUCER, to, why, sizeof why);
    if (*out == NULL)
        FAIL(err, E_INVALID, ERR_FATAL, "Kafka: no client: %s", why);
    to = NULL; /* the client's now */
out:
    if (to != NULL)
        rd_kafka_conf_destroy(to);
    return rc;
}

int
kafkai_client(struct kafkai_source *s, rd_kafka_t **out, struct err *err)
{
    return make(s, false, out, err);
}

int
kafkai_join(struct kafkai_source *s, struct err *err)
{
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(4);
    rd_kafka_resp_err_t              code;
    int                              rc;

    for (const struct conf *t = conf_first(conf_child(s->conf, "topics")); t != NULL;
         t = conf_next(t))
        (void)rd_kafka_topic_partition_list_add(topics, conf_text(t), RD_KAFKA_PARTITION_UA);
    TRY(make(s, true, &s->consumer, err));
    s->broken = false;
    (void)rd_kafka_poll_set_consumer(s->consumer);
    code = rd_kafka_subscribe(s->consumer, topics);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        TRY(kafkai_error(s, code, "its topics", err));
out:
    rd_kafka_topic_partition_list_destroy(topics);
    if (rc != 0)
        kafkai_leave(s);
    return rc;
}

/* While it is being closed. By events: records that were fetched ahead come here too, and a queue
 * that is served by callbacks takes none. */
static void
end_of(struct kafkai_source *s, rd_kafka_event_t *event)
{
    if (event == NULL)
        return;
    if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_REBALANCE)
        on_rebalance(s->consumer, rd_kafka_event_error(event),
                     rd_kafka_event_topic_partition_list(event), s);
    rd_kafka_event_destroy(event);
}

void
kafkai_leave(struct kafkai_source *s)
{
    rd_kafka_queue_t *queue;
    rd_kafka_error_t *wrong;
    uint64_t          end = s->base.env->ops->mono_us(s->base.env) + CLOSE_US;

    if (s->consumer == NULL)
        return;
    queue = rd_kafka_queue_new(s->consumer);
    wrong = rd_kafka_consumer_close_queue(s->consumer, queue);
    while (wrong == NULL && rd_kafka_consumer_closed(s->consumer) == 0 &&
           s->base.env->ops->mono_us(s->base.env) < end)
        end_of(s, rd_kafka_queue_poll(queue, CLOSE_STEP_MS));
    if (wrong != NULL)
        rd_kafka_error_destroy(wrong);
    rd_kafka_queue_destroy(queue);
    let_go(s);
    rd_kafka_destroy_flags(s->consumer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    s->consumer = NULL;
}
