/*
 * librdkafka's mock cluster as a process of its own, told what to do on stdin, a line each:
 *
 *   create TOPIC PARTITIONS   down BROKER   up BROKER   error API CODE TIMES
 *   dump TOPIC PARTITIONS     put TOPIC PARTITION KEY VALUE [NAME=VALUE …]
 *   fill TOPIC KEYS EACH FIRST SIZE   (numbers from FIRST on under each key, padded to SIZE)
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
#define FLUSH_MS 60000

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
produce(rd_kafka_t *producer, const char *topic, int partition, const char *key, const char *value,
        rd_kafka_headers_t *headers)
{
    rd_kafka_vu_t v[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = partition},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {(void *)(uintptr_t)key, strlen(key)}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {(void *)(uintptr_t)value, strlen(value)}},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers}};
    size_t            n = sizeof v / sizeof v[0] - (headers == NULL);
    rd_kafka_error_t *wrong;
    const char       *why = NULL;

    while (why == NULL && (wrong = rd_kafka_produceva(producer, v, n)) != NULL) {
        if (rd_kafka_error_code(wrong) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
            (void)rd_kafka_poll(producer, 100);
        else
            why = rd_kafka_err2name(rd_kafka_error_code(wrong));
        rd_kafka_error_destroy(wrong);
    }
    (void)rd_kafka_poll(producer, 0);
    return why;
}

static const char *
put(rd_kafka_t *producer, const char *topic, int partition, char *rest)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(4);
    char               *save, *key = strtok_r(rest, " \n", &save);
    char               *value = strtok_r(NULL, " \n", &save), *one;
    const char         *wrong;

    while ((one = strtok_r(NULL, " \n", &save)) != NULL) {
        char *is = strchr(one, '=');

        *is = '\0';
        (void)rd_kafka_header_add(headers, one, -1, is + 1, -1);
    }
    wrong = produce(producer, topic, partition, key, value, headers);
    (void)rd_kafka_flush(producer, FLUSH_MS);
    return wrong;
}

static const char *
fill(rd_kafka_t *producer, const char *topic, int keys, int each, int first, size_t size)
{
    const char *wrong = NULL;
    char       *value = malloc(size + 64), key[32];
    size_t      len;

    for (int n = first; n < first + each && wrong == NULL; n++)
        for (int k = 0; k < keys && wrong == NULL; k++) {
            len = (size_t)sprintf(value, "{\"n\":%d,\"pad\":\"", n);
            memset(value + len, 'x', size);
            memcpy(value + len + size, "\"}", 3);
            (void)snprintf(key, sizeof key, "k%d", k);
            wrong = produce(producer, topic, RD_KAFKA_PARTITION_UA, key, value, NULL);
        }
    (void)rd_kafka_flush(producer, FLUSH_MS);
    free(value);
    return wrong;
}

static const char *
obey(rd_kafka_mock_cluster_t *cluster, rd_kafka_t *producer, char *line)
{
    rd_kafka_resp_err_t codes[ERRORS_MAX];
    char                topic[256];
    int                 a, b, c, d;

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
    if (sscanf(line, "put %255s %d %n", topic, &a, &b) == 2)
        return put(producer, topic, a, line + b);
    if (sscanf(line, "fill %255s %d %d %d %d", topic, &a, &b, &c, &d) == 5)
        return fill(producer, topic, a, b, c, (size_t)d);
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
    rd_kafka_t              *producer = NULL;

    conf = rd_kafka_conf_new();
    if (cluster != NULL &&
        rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), why,
                          sizeof why) == RD_KAFKA_CONF_OK &&
        rd_kafka_conf_set(conf, "message.timeout.ms", "60000", why, sizeof why) == RD_KAFKA_CONF_OK)
        producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (producer == NULL) {
        (void)fprintf(stderr, "kafka_mock: %s\n", why);
        return 1;
    }
    (void)printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *wrong = obey(cluster, producer, line);

        (void)printf("%s\n", wrong == NULL ? "ok" : wrong);
        (void)fflush(stdout);
    }
    rd_kafka_destroy(producer);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(rk);
    return 0;
}
