#include "broker/rabbitmq.h"

#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/url.h"

#define FRAME_MAX 131072

const char *const broker_rabbitmq_schemes[] = {"amqp", "amqps", NULL};

int
broker_rabbitmq_def_open(const struct conf *conf, const char *part, struct broker_rabbitmq_def *def,
                         struct err *err)
{
    struct url url;
    int        rc = url_parse(slice_str(conf_str(conf, "url")), &url, err);

    if (rc != 0)
        return rc;
    if (url.host.len == 0 || url.host.len >= sizeof def->host || url.path.len > 1)
        return conf_fail(conf_child(conf, "url"), err, "must be amqp://HOST:PORT");
    *def = (struct broker_rabbitmq_def){.user = conf_str(conf, "user"),
                                        .password = conf_str(conf, "password"),
                                        .vhost = conf_str(conf, "vhost"),
                                        .ca_file = conf_str(conf, "ca_file"),
                                        .connect_us = conf_duration_us(conf, "connect_timeout")};
    (void)snprintf(def->name, sizeof def->name, "oxbow %s", part);
    memcpy(def->host, url.host.data, url.host.len);
    def->tls = slice_is(url.scheme, "amqps");
    def->port = url.port != 0 ? url.port : def->tls ? 5671 : 5672;
    if (def->tls && def->ca_file == NULL)
        return conf_fail(conf_child(conf, "url"), err, "amqps needs ca_file");
    return 0;
}

static struct timeval
timeval_of(uint64_t us)
{
    return (struct timeval){(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
}

int
broker_rabbitmq_reply(amqp_rpc_reply_t r, const char *what, struct err *err)
{
    switch (r.reply_type) {
    case AMQP_RESPONSE_NORMAL:
        return 0;
    case AMQP_RESPONSE_SERVER_EXCEPTION:
        if (r.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
            const amqp_channel_close_t *m = r.reply.decoded;
            int code = m->reply_code == AMQP_NOT_FOUND ? E_NOTFOUND : E_REMOTE;

            RETURN_ERR(err, code, ERR_RETRY, "RabbitMQ: %s: %.*s", what, (int)m->reply_text.len,
                       (const char *)m->reply_text.bytes);
        }
        if (r.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
            const amqp_connection_close_t *m = r.reply.decoded;
            int code = m->reply_code == AMQP_ACCESS_REFUSED ? E_AUTH : E_REMOTE;

            RETURN_ERR(err, code, ERR_RETRY, "RabbitMQ: %s: %.*s", what, (int)m->reply_text.len,
                       (const char *)m->reply_text.bytes);
        }
        break;
    case AMQP_RESPONSE_LIBRARY_EXCEPTION:
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: %s: %s", what,
                   amqp_error_string2(r.library_error));
    case AMQP_RESPONSE_NONE:
        break;
    }
    RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: %s: no answer", what);
}

static int
open_socket(const struct broker_rabbitmq_def *def, amqp_connection_state_t conn, struct err *err)
{
    struct timeval limit = timeval_of(def->connect_us);
    amqp_socket_t *socket = def->tls ? amqp_ssl_socket_new(conn) : amqp_tcp_socket_new(conn);
    int            on = 1, rc;

    if (socket == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    if (def->tls && amqp_ssl_socket_set_cacert(socket, def->ca_file) != AMQP_STATUS_OK)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "ca_file: its certificates cannot be read");
    if (def->tls) {
        amqp_ssl_socket_set_verify_peer(socket, 1);
        amqp_ssl_socket_set_verify_hostname(socket, 1);
    }
    rc = amqp_socket_open_noblock(socket, def->host, def->port, &limit);
    if (rc != AMQP_STATUS_OK)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "no connection to RabbitMQ: %s",
                   amqp_error_string2(rc));
    /* Without heartbeats nobody may be reading while there is nothing to send. */
    (void)setsockopt(amqp_get_sockfd(conn), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return 0;
}

static amqp_table_entry_t
entry(const char *name, amqp_field_value_t value)
{
    return (amqp_table_entry_t){amqp_cstring_bytes(name), value};
}

static int
log_in(const struct broker_rabbitmq_def *def, amqp_connection_state_t conn, struct err *err)
{
    amqp_field_value_t yes = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1};
    amqp_field_value_t name = {.kind = AMQP_FIELD_KIND_UTF8,
                               .value.bytes = amqp_cstring_bytes(def->name)};
    amqp_table_entry_t able[3] = {entry("connection.blocked", yes),
                                  entry("consumer_cancel_notify", yes),
                                  entry("authentication_failure_close", yes)};
    amqp_field_value_t table = {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {3, able}};
    amqp_table_entry_t entries[2] = {entry("capabilities", table), entry("connection_name", name)};
    amqp_table_t       properties = {2, entries};

    return broker_rabbitmq_reply(
        amqp_login_with_properties(conn, def->vhost, 0, FRAME_MAX, def->heartbeat_s, &properties,
                                   AMQP_SASL_METHOD_PLAIN, def->user, def->password),
        "login", err);
}

int
broker_rabbitmq_connect(const struct broker_rabbitmq_def *def, amqp_connection_state_t *out,
                        struct err *err)
{
    amqp_connection_state_t conn = amqp_new_connection();
    struct timeval          limit = timeval_of(def->connect_us);
    int                     rc;

    *out = NULL;
    if (conn == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a connection");
    (void)amqp_set_handshake_timeout(conn, &limit);
    (void)amqp_set_rpc_timeout(conn, &limit);
    TRY(open_socket(def, conn, err));
    TRY(log_in(def, conn, err));
    *out = conn;
    conn = NULL;
out:
    broker_rabbitmq_disconnect(conn);
    return rc;
}

void
broker_rabbitmq_disconnect(amqp_connection_state_t conn)
{
    if (conn != NULL)
        (void)amqp_destroy_connection(conn);
}

int
broker_rabbitmq_open_channel(amqp_connection_state_t conn, amqp_channel_t channel, struct err *err)
{
    (void)amqp_channel_open(conn, channel);
    return broker_rabbitmq_reply(amqp_get_rpc_reply(conn), "channel", err);
}

int
broker_rabbitmq_reopen_channel(amqp_connection_state_t conn, amqp_channel_t channel,
                               struct err *err)
{
    amqp_channel_close_ok_t ok = {0};

    if (amqp_send_method(conn, channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok) != AMQP_STATUS_OK)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "RabbitMQ: the connection was lost");
    return broker_rabbitmq_open_channel(conn, channel, err);
}

bool
broker_rabbitmq_is_writable(amqp_connection_state_t conn)
{
    struct pollfd p = {.fd = amqp_get_sockfd(conn), .events = POLLOUT};

    return poll(&p, 1, 0) == 1;
}
