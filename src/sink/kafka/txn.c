/*
 * Transactions: the records and the checkpoint, a record of its own in the topic of positions, are
 * written together. A consumer with isolation.level=read_committed sees all of it or nothing, and
 * each event once.
 *
 * The producer's first act is to fence those before it of its id (init_transactions), which also
 * ends what they left open; only then is the checkpoint read.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "broker/kafka.h"
#include "sink/kafka/kafka_int.h"

#define SAID_MAX 256
#define TRIES_MAX 2

const struct conf_field sinki_kafka_txn_fields[] = {
    {.name = "positions",
     .type = {.kind = CONF_STRING, .min = 1, .max = 249, .chars = "a-zA-Z0-9._-"},
     .preset = "oxbow_positions",
     .doc = "the topic of the checkpoints: one partition, compacted"},
    {.name = "id",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .doc = "transactional.id; oxbow-NAME when not given"},
    {.name = NULL},
};

int
sinki_kafka_txn_open(struct sinki_kafka_sink *s, const struct conf *conf, struct err *err)
{
    const struct conf *txn = conf_child(conf, "transactions");

    if (txn == NULL)
        return 0;
    s->positions = conf_str(txn, "positions");
    s->id = conf_str(txn, "id");
    if (s->id == NULL) {
        (void)snprintf(s->own_id, sizeof s->own_id, "oxbow-%s", s->base.instance);
        s->id = s->own_id;
    }
    s->base.transactional = true;
    s->taken = calloc((size_t)conf_int(conf, "in_flight"), sizeof(struct sink_slot *));
    if (s->taken == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a transaction");
    return 0;
}

int
sinki_kafka_txn_set(struct sinki_kafka_sink *s, rd_kafka_conf_t *to, struct err *err)
{
    char text[32];
    int  rc;

    (void)snprintf(text, sizeof text, "%" PRIu64, s->out.timeout_us / 1000);
    TRY(broker_kafka_set(to, "transactional.id", s->id, err));
    rc = broker_kafka_set(to, "transaction.timeout.ms", text, err);
out:
    return rc;
}

/* Takes the error; the producer is given up where it can go on no more. */
static int
fail(struct sinki_kafka_sink *s, rd_kafka_error_t *wrong, const char *what, enum err_kind kind,
     struct err *err)
{
    bool fenced = rd_kafka_error_code(wrong) == RD_KAFKA_RESP_ERR__FENCED ||
                  rd_kafka_error_code(wrong) == RD_KAFKA_RESP_ERR_PRODUCER_FENCED;

    (void)err_set(err, __FILE__, __LINE__, fenced ? E_FENCED : E_REMOTE, kind, "Kafka: %s: %s%s",
                  what, rd_kafka_err2str(rd_kafka_error_code(wrong)),
                  fenced ? " (another producer has the same transactional.id)" : "");
    if (rd_kafka_error_is_fatal(wrong))
        s->broken = true;
    rd_kafka_error_destroy(wrong);
    return err->code;
}

static int
need_ready(struct sinki_kafka_sink *s, struct err *err)
{
    rd_kafka_error_t *wrong;
    int               rc;

    TRY(sinki_kafka_need_producer(s, err));
    if (s->ready)
        return 0;
    wrong = rd_kafka_init_transactions(s->producer, (int)(s->out.timeout_us / 1000));
    if (wrong != NULL) {
        rc = fail(s, wrong, "init_transactions", ERR_RETRY, err);
        sinki_kafka_drop_producer(s);
        goto out;
    }
    s->ready = true;
out:
    return rc;
}

/* the checkpoint */

static int
open_consumer(struct sinki_kafka_sink *s, rd_kafka_t **out, struct err *err)
{
    rd_kafka_conf_t *to = rd_kafka_conf_new();
    char             why[SAID_MAX];
    int              rc;

    *out = NULL;
    TRY(broker_kafka_set_client(s->conf, s->out.timeout_us, to, err));
    TRY(broker_kafka_set(to, "group.id", s->id, err));
    TRY(broker_kafka_set(to, "isolation.level", "read_committed", err));
    TRY(broker_kafka_set(to, "enable.auto.commit", "false", err));
    TRY(broker_kafka_set(to, "enable.partition.eof", "true", err));
    TRY(broker_kafka_set(to, "allow.auto.create.topics", "true", err));
    TRY(broker_kafka_set(to, "auto.offset.reset", "earliest", err));
    *out = rd_kafka_new(RD_KAFKA_CONSUMER, to, why, sizeof why);
    if (*out == NULL)
        FAIL(err, E_INVALID, ERR_FATAL, "Kafka: no consumer: %s", why);
    to = NULL;
out:
    if (to != NULL)
        rd_kafka_conf_destroy(to);
    return rc;
}

static int
take_position(const struct sinki_kafka_sink *s, const rd_kafka_message_t *m, struct log_pos *pos,
              struct err *err)
{
    if (!slice_is(slice_of(m->key, m->key_len), s->base.instance))
        return 0;
    if (!json_uint64(slice_of(m->payload, m->len), &pos->v))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
                   "Kafka: topic %s: the record of this sink is no "
                   "position",
                   s->positions);
    return 0;
}

/* The last record of this sink, up to what is the topic's end. */
static int
read_positions(struct sinki_kafka_sink *s, rd_kafka_t *consumer, struct log_pos *pos,
               struct err *err)
{
    uint64_t            end = s->base.env->ops->mono_us(s->base.env) + s->out.timeout_us;
    rd_kafka_message_t *m;
    bool                done = false;
    int                 rc = 0;

    while (!done && rc == 0) {
        if (s->base.env->ops->mono_us(s->base.env) >= end)
            RETURN_ERR(err, E_TIMEOUT, ERR_RETRY, "Kafka: topic %s is not read in time",
                       s->positions);
        m = rd_kafka_consumer_poll(consumer, 100);
        if (m == NULL)
            continue;
        if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
            rc = take_position(s, m, pos, err);
        else if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF ||
                 m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
                 m->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
                 m->err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
            done = true; /* without the topic nothing was ever delivered */
        rd_kafka_message_destroy(m);
    }
    return rc;
}

int
sinki_kafka_txn_checkpoint(struct sinki_kafka_sink *s, struct log_pos *pos, struct err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_t                      *consumer = NULL;
    rd_kafka_resp_err_t              assigned;
    int                              rc;

    pos->v = 0;
    TRY(need_ready(s, err));
    TRY(open_consumer(s, &consumer, err));
    (void)rd_kafka_poll_set_consumer(consumer);
    rd_kafka_topic_partition_list_add(list, s->positions, 0)->offset = RD_KAFKA_OFFSET_BEGINNING;
    assigned = rd_kafka_assign(consumer, list);
    if (assigned != RD_KAFKA_RESP_ERR_NO_ERROR)
        FAIL(err, E_REMOTE, ERR_RETRY, "Kafka: %s", rd_kafka_err2str(assigned));
    rc = read_positions(s, consumer, pos, err);
out:
    rd_kafka_topic_partition_list_destroy(list);
    if (consumer != NULL) {
        (void)rd_kafka_consumer_close(consumer);
        rd_kafka_destroy(consumer);
    }
    return rc;
}

/* a transaction */

static int
put_position(struct sinki_kafka_sink *s, struct log_pos upto, struct err *err)
{
    char              text[32];
    int               len = snprintf(text, sizeof text, "%" PRIu64, upto.v);
    rd_kafka_error_t *wrong;
    rd_kafka_vu_t     v[] = {{.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = s->positions},
                             {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = 0},
                             {.vtype = RD_KAFKA_VTYPE_KEY,
                              .u.mem = {(void *)(uintptr_t)s->base.instance, strlen(s->base.instance)}},
                             {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {text, (size_t)len}},
                             {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY}};

    wrong = rd_kafka_produceva(s->producer, v, sizeof v / sizeof v[0]);
    return wrong == NULL ? 0 : fail(s, wrong, "the checkpoint", ERR_RETRY, err);
}

/* *bad: the one that is at fault, or taken_count. */
static int
produce_all(struct sinki_kafka_sink *s, struct log_pos upto, uint32_t *bad, struct err *err)
{
    int rc = 0;

    *bad = s->taken_count;
    for (uint32_t i = 0; i < s->taken_count; i++) {
        rc = sinki_kafka_fill(s, s->taken[i]->item, err);
        if (rc == 0)
            rc = sinki_kafka_produce(s, s->taken[i], err);
        if (rc != 0 && err->kind == ERR_DATA)
            *bad = i;
        TRY(rc);
        (void)rd_kafka_poll(s->producer, 0);
    }
    rc = put_position(s, upto, err);
out:
    return rc;
}

/* What is asked again may have been done: only a new producer's first act settles it. */
static int
commit(struct sinki_kafka_sink *s, struct err *err)
{
    rd_kafka_error_t *wrong = NULL;
    bool              again = true, abortable = false;

    for (int i = 0; i < TRIES_MAX && again; i++) {
        if (wrong != NULL)
            rd_kafka_error_destroy(wrong);
        wrong = rd_kafka_commit_transaction(s->producer, (int)(s->out.timeout_us / 1000));
        if (wrong == NULL)
            return 0;
        abortable = rd_kafka_error_txn_requires_abort(wrong) != 0;
        again = rd_kafka_error_is_retriable(wrong) != 0;
    }
    (void)fail(s, wrong, "commit_transaction", abortable ? ERR_RETRY : ERR_UNSURE, err);
    if (!abortable)
        s->broken = true;
    return err->code;
}

static void
undo(struct sinki_kafka_sink *s)
{
    rd_kafka_error_t *wrong =
        s->broken ? NULL : rd_kafka_abort_transaction(s->producer, (int)(s->out.timeout_us / 1000));

    if (wrong != NULL) {
        s->broken = true;
        rd_kafka_error_destroy(wrong);
    }
    if (s->broken)
        sinki_kafka_drop_producer(s);
}

static int
run(struct sinki_kafka_sink *s, struct log_pos upto, uint32_t *bad, struct err *err)
{
    rd_kafka_error_t *wrong;
    int               rc;

    *bad = s->taken_count;
    s->refused = NULL;
    TRY(need_ready(s, err));
    wrong = rd_kafka_begin_transaction(s->producer);
    if (wrong != NULL) {
        rc = fail(s, wrong, "begin_transaction", ERR_RETRY, err);
        if (s->broken)
            sinki_kafka_drop_producer(s);
        return rc;
    }
    rc = produce_all(s, upto, bad, err);
    if (rc == 0)
        rc = commit(s, err);
    if (rc == 0)
        return 0;
    undo(s);
    for (uint32_t i = 0; i < s->taken_count && s->refused != NULL; i++)
        if (s->taken[i] == s->refused) {
            *bad = i;
            err_copy(err, sink_slot_err(&s->out.slots, s->refused));
            rc = err->code;
        }
out:
    return rc;
}

int
sinki_kafka_txn_poll(struct sinki_kafka_sink *s, struct log_pos upto, struct err *err)
{
    uint32_t   bad, count = s->taken_count;
    struct err own, back;
    int        rc = run(s, upto, &bad, &own);

    s->taken_count = 0;
    (void)err_set(&back, __FILE__, __LINE__, E_INTERRUPTED, ERR_RETRY, "handed back");
    for (uint32_t i = 0; i < count; i++)
        sink_slot_end(&s->out.slots, s->taken[i], rc == 0 ? NULL : i == bad ? &own : &back);
    if (rc == 0 || bad < count)
        return 0;
    if (own.kind == ERR_DATA)
        own.kind = ERR_RETRY;
    err_copy(err, &own);
    return rc;
}
