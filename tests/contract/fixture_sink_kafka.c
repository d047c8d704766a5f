/* The sink kafka, with librdkafka's mock cluster: each world is a topic of its own. */
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "contract.h"
#include "env/env_real.h"
#include "kafka_read.h"
#include "sink/kafka/kafka.h"

struct world {
    char         name[32];
    const char  *brokers;
    struct conf *conf;
};

static void *
setup(void)
{
    static unsigned made;
    struct world   *w = calloc(1, sizeof *w);

    assert_non_null(w);
    w->brokers = contract_server("KAFKA_BROKERS");
    (void)snprintf(w->name, sizeof w->name, "contract%u", made++);
    w->conf = contract_conf(sink_kafka_ops.schema,
                            "brokers: '%s'\ntopic: %s\nkey: '{key}'\nmessage_max: 64KiB\n"
                            "linger: 0\n",
                            w->brokers, w->name);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    conf_free(w->conf);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_kafka_ops, "out", w->conf, &s, &err), &err);
    return s;
}

static void
take(void *arg, const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers;
    const void         *type;
    size_t              len;

    assert_int_equal(rd_kafka_message_headers(m, &headers), RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_int_equal(rd_kafka_header_get_last(headers, "ce_type", &type, &len),
                     RD_KAFKA_RESP_ERR_NO_ERROR);
    contract_fold_message(arg, slice_of(m->key, m->key_len), slice_of(type, len),
                          slice_of(m->payload, m->len));
}

static void
state(void *world, struct fold *out)
{
    struct world *w = world;
    const char   *wrong = kafka_read(w->brokers, w->name, 4, take, out); /* the mock makes 4 */

    if (wrong != NULL)
        fail_msg("%s", wrong);
}

const struct sink_fixture sink_fixture_kafka = {
    .name = "kafka", .setup = setup, .teardown = teardown, .open = open_one, .state = state};
