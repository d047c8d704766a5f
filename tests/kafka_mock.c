/*
 * librdkafka's mock cluster as a process of its own, told what to do on stdin, a line each:
 *
 *   create TOPIC PARTITIONS   down BROKER   up BROKER   error API CODE TIMES   dump TOPIC
 * PARTITIONS
 *
 * Prints its address first. Answers "ok", or, to dump, a JSON object for each record and "ok". What
 * it cannot show: it neither fences old producers nor knows doubled sequences.
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kafka_read.h"

#define BROKERS 3
#define ERRORS_MAX 16

static void
print_record(void *arg, const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers;
    struct buf          b = {0};
    struct json_out     o;
    const char         *name;
    const void         *value;
    size_t              len;

    json_out_init(&o, &b);
    json_out_object(&o);
    json_out_key(&o, "partition");
    json_out_i64(&o, m->partition);
    json_out_key(&o, "key");
    json_out_string(&o, slice_of(m->key, m->key_len));
    json_out_key(&o, "value");
    if (m->payload == NULL)
        json_out_null(&o);
    else
        json_out_string(&o, slice_of(m->payload, m->len));
    json_out_key(&o, "headers");
    json_out_object(&o);
    if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
        for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &len) == 0; i++) {
            json_out_key(&o, name);
            json_out_string(&o, slice_of(value, len));
        }
    json_out_object_end(&o);
    json_out_object_end(&o);
    (void)printf("%.*s\n", (int)b.len, (const char *)b.data);
    buf_fini(&b);
}

static const char *
obey(rd_kafka_mock_cluster_t *cluster, const char *line)
{
    rd_kafka_resp_err_t codes[ERRORS_MAX];
    char                topic[256];
    int                 a, b, c;

    /* The test's own numbers. NOLINTBEGIN(cert-err34-c) */
    if (sscanf(line, "create %255s %d", topic, &a) == 2)
        return rd_kafka_mock_topic_create(cluster, topic, a, 1) == 0 ? NULL : "not created";
    if (sscanf(line, "down %d", &a) == 1)
        return rd_kafka_mock_broker_set_down(cluster, a) == 0 ? NULL : "no such broker";
    if (sscanf(line, "up %d", &a) == 1)
        return rd_kafka_mock_broker_set_up(cluster, a) == 0 ? NULL : "no such broker";
    if (sscanf(line, "error %d %d %d", &a, &b, &c) == 3 && c <= ERRORS_MAX) {
        for (int i = 0; i < c; i++)
            codes[i] = (rd_kafka_resp_err_t)b;
        rd_kafka_mock_push_request_errors_array(cluster, (int16_t)a, (size_t)c, codes);
        return NULL;
    }
    if (sscanf(line, "dump %255s %d", topic, &a) == 2)
        return kafka_read(rd_kafka_mock_cluster_bootstraps(cluster), topic, a, print_record, NULL);
    /* NOLINTEND(cert-err34-c) */
    return "what?";
}

int
main(void)
{
    char                line[512], why[256];
    rd_kafka_conf_t    *conf = rd_kafka_conf_new();
    rd_kafka_conf_res_t quiet = rd_kafka_conf_set(conf, "log_level", "3", why, sizeof why);
    rd_kafka_t         *rk =
        quiet != RD_KAFKA_CONF_OK ? NULL : rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    rd_kafka_mock_cluster_t *cluster = rk == NULL ? NULL : rd_kafka_mock_cluster_new(rk, BROKERS);

    if (cluster == NULL) {
        (void)fprintf(stderr, "kafka_mock: %s\n", why);
        return 1;
    }
    (void)printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *wrong = obey(cluster, line);

        (void)printf("%s\n", wrong == NULL ? "ok" : wrong);
        (void)fflush(stdout);
    }
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(rk);
    return 0;
}
