#include "kafka_read.h"

#include <stdbool.h>
#include <stddef.h>

#define WAIT_MS 60000
#define WHY_MAX 256

static const char *
read_all(rd_kafka_t *c, int partitions, kafka_read_fn *fn, void *arg)
{
    for (int ended = 0; ended < partitions;) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(c, WAIT_MS);

        if (m == NULL)
            return "nothing came";
        ended += m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
        if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
            fn(arg, m);
        rd_kafka_message_destroy(m);
    }
    return NULL;
}

static bool
set_all(rd_kafka_conf_t *conf, const char *brokers)
{
    const char *const all[][2] = {
        {"bootstrap.servers", brokers},    {"group.id", "tests"},
        {"enable.auto.commit", "false"},   {"enable.partition.eof", "true"},
        {"auto.offset.reset", "earliest"}, {"fetch.wait.max.ms", "10"}};
    char text[WHY_MAX];

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (rd_kafka_conf_set(conf, all[i][0], all[i][1], text, sizeof text) != RD_KAFKA_CONF_OK)
            return false;
    return true;
}

const char *
kafka_read(const char *brokers, const char *topic, int partitions, kafka_read_fn *fn, void *arg)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    rd_kafka_conf_t                 *conf = rd_kafka_conf_new();
    rd_kafka_t                      *c = NULL;
    const char                      *why = NULL;
    char                             text[WHY_MAX];

    if (set_all(conf, brokers))
        c = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (c == NULL) {
        rd_kafka_conf_destroy(conf);
        rd_kafka_topic_partition_list_destroy(list);
        return "no consumer";
    }
    (void)rd_kafka_poll_set_consumer(c);
    for (int p = 0; p < partitions; p++)
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = 0;
    if (rd_kafka_assign(c, list) != RD_KAFKA_RESP_ERR_NO_ERROR)
        why = "not assigned";
    if (why == NULL)
        why = read_all(c, partitions, fn, arg);
    rd_kafka_topic_partition_list_destroy(list);
    (void)rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);
    return why;
}
