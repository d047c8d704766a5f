/* The sink rabbitmq: each world is a queue of its own, read to its end by librabbitmq. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/url.h"
#include "contract.h"
#include "env/env_real.h"
#include "sink/rabbitmq/rabbitmq.h"

struct world {
    char                    name[32];
    struct conf            *conf;
    amqp_connection_state_t conn;
};

static void
ok(amqp_connection_state_t conn)
{
    amqp_rpc_reply_t r = amqp_get_rpc_reply(conn);

    assert_int_equal(r.reply_type, AMQP_RESPONSE_NORMAL);
}

static amqp_connection_state_t
connect_to(const char *text)
{
    amqp_connection_state_t conn = amqp_new_connection();
    amqp_socket_t          *socket = amqp_tcp_socket_new(conn);
    struct url              url;
    struct err              err;

    contract_ok(url_parse(slice_str(text), &url, &err), &err);
    assert_int_equal(amqp_socket_open(socket, "127.0.0.1", url.port), AMQP_STATUS_OK);
    assert_int_equal(
        amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type,
        AMQP_RESPONSE_NORMAL);
    (void)amqp_channel_open(conn, 1);
    ok(conn);
    return conn;
}

static void *
setup(void)
{
    static unsigned made;
    struct world   *w = calloc(1, sizeof *w);
    const char     *url = contract_server("AMQP_URL");

    assert_non_null(w);
    (void)snprintf(w->name, sizeof w->name, "contract%u", made++);
    w->conn = connect_to(url);
    (void)amqp_queue_declare(w->conn, 1, amqp_cstring_bytes(w->name), 0, 1, 0, 0, amqp_empty_table);
    ok(w->conn);
    w->conf = contract_conf(sink_rabbitmq_ops.schema,
                            "url: %s\nrouting_key: %s\nheaders: {key: '{key}'}\n"
                            "message_max: 64KiB\n",
                            url, w->name);
    return w;
}

static void
teardown(void *world)
{
    struct world *w = world;

    (void)amqp_destroy_connection(w->conn);
    conf_free(w->conf);
    free(w);
}

static struct sink *
open_one(void *world)
{
    struct world *w = world;
    struct sink  *s;
    struct err    err;

    contract_ok(sink_new(env_real(), &sink_rabbitmq_ops, "out", w->conf, &s, &err), &err);
    return s;
}

static struct slice
key_of(const amqp_basic_properties_t *p)
{
    for (int i = 0; i < p->headers.num_entries; i++) {
        const amqp_table_entry_t *e = &p->headers.entries[i];

        if (e->key.len == 3 && memcmp(e->key.bytes, "key", 3) == 0)
            return slice_of(e->value.value.bytes.bytes, e->value.value.bytes.len);
    }
    fail_msg("a message has no header \"key\"");
    return slice_of(NULL, 0);
}

static void
state(void *world, struct fold *out)
{
    struct world  *w = world;
    amqp_message_t m;

    for (;;) {
        amqp_rpc_reply_t r = amqp_basic_get(w->conn, 1, amqp_cstring_bytes(w->name), 1);

        assert_int_equal(r.reply_type, AMQP_RESPONSE_NORMAL);
        if (r.reply.id == AMQP_BASIC_GET_EMPTY_METHOD)
            return;
        assert_int_equal(amqp_read_message(w->conn, 1, &m, 0).reply_type, AMQP_RESPONSE_NORMAL);
        assert_int_equal(m.properties.delivery_mode, 2);
        contract_fold_message(out, key_of(&m.properties),
                              slice_of(m.properties.type.bytes, m.properties.type.len),
                              slice_of(m.body.bytes, m.body.len));
        amqp_destroy_message(&m);
        amqp_maybe_release_buffers(w->conn);
    }
}

const struct sink_fixture sink_fixture_rabbitmq = {
    .name = "rabbitmq", .setup = setup, .teardown = teardown, .open = open_one, .state = state};
