#include "kafka_read.h"

#include <stddef.h>

#define WAIT_MS 60000
#define WHY_MAX 256

static const char *
read_partition(rd_kafka_t *c, const char *topic, int partition, kafka_read_fn *fn, void *arg)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_message_t              *m;
    const char                      *why = NULL;

    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = RD_KAFKA_OFFSET_BEGINNING;
    if (rd_kafka_assign(c, list) != RD_KAFKA_RESP_ERR_NO_ERROR)
        why = "not assigned";
    while (why == NULL) {
        m = rd_kafka_consumer_poll(c, WAIT_MS);
        if (m == NULL) {
            why = "nothing came";
            break;
        }
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            rd_kafka_message_destroy(m);
            break;
        }
        if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
            fn(arg, m);
        rd_kafka_message_destroy(m);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return why;
}

const char *
kafka_read(const char *brokers, const char *topic, int partitions, kafka_read_fn *fn, void *arg)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_t      *c;
    const char      *why = NULL;
    char             text[WHY_MAX];

    if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, text, sizeof text) != 0 ||
        rd_kafka_conf_set(conf, "group.id", "tests", text, sizeof text) != 0 ||
        rd_kafka_conf_set(conf, "enable.auto.commit", "false", text, sizeof text) != 0 ||
        rd_kafka_conf_set(conf, "enable.partition.eof", "true", text, sizeof text) != 0)
        return "a setting is not taken";
    c = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (c == NULL) {
        rd_kafka_conf_destroy(conf);
        return "no consumer";
    }
    (void)rd_kafka_poll_set_consumer(c);
    for (int p = 0; p < partitions && why == NULL; p++)
        why = read_partition(c, topic, p, fn, arg);
    (void)rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);
    return why;
}
