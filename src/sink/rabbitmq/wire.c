/* Connecting, and what is asked of the broker before a message can go. */
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "sink/rabbitmq/rabbitmq_int.h"

#define FRAME_MAX 131072
#define LOOK_CHANNEL 2 /* questions that close their channel when the answer is no */

static struct timeval
timeval_of(uint64_t us)
{
    return (struct timeval){(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
}

/* The broker's words are of names and rights, never of messages. */
static int
reply_error(amqp_rpc_reply_t r, const char *what, struct err *err)
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
open_socket(const struct rabbitmqi_def *def, amqp_connection_state_t conn, struct err *err)
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
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "no connection to RabbitMQ: %s",
                   amqp_error_string2(rc));
    /* There are no heartbeats: nobody would answer them while there is nothing to send. */
    (void)setsockopt(amqp_get_sockfd(conn), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return 0;
}

static amqp_table_entry_t
entry(const char *name, amqp_field_value_t value)
{
    return (amqp_table_entry_t){amqp_cstring_bytes(name), value};
}

static int
log_in(const struct rabbitmqi_def *def, amqp_connection_state_t conn, struct err *err)
{
    amqp_field_value_t yes = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1};
    amqp_field_value_t name = {.kind = AMQP_FIELD_KIND_UTF8,
                               .value.bytes = amqp_cstring_bytes(def->name)};
    amqp_table_entry_t able[2] = {entry("connection.blocked", yes),
                                  entry("authentication_failure_close", yes)};
    amqp_field_value_t table = {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {2, able}};
    amqp_table_entry_t entries[2] = {entry("capabilities", table), entry("connection_name", name)};
    amqp_table_t       properties = {2, entries};

    return reply_error(amqp_login_with_properties(conn, def->vhost, 0, FRAME_MAX, 0, &properties,
                                                  AMQP_SASL_METHOD_PLAIN, def->user, def->password),
                       "login", err);
}

int
rabbitmqi_connect(const struct rabbitmqi_def *def, amqp_connection_state_t *out, struct err *err)
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
    (void)amqp_channel_open(conn, RABBITMQI_CHANNEL);
    TRY(reply_error(amqp_get_rpc_reply(conn), "channel", err));
    (void)amqp_confirm_select(conn, RABBITMQI_CHANNEL);
    TRY(reply_error(amqp_get_rpc_reply(conn), "confirms", err));
    (void)amqp_channel_open(conn, LOOK_CHANNEL);
    TRY(reply_error(amqp_get_rpc_reply(conn), "channel", err));
    *out = conn;
    conn = NULL;
out:
    rabbitmqi_disconnect(conn);
    return rc;
}

void
rabbitmqi_disconnect(amqp_connection_state_t conn)
{
    if (conn != NULL)
        (void)amqp_destroy_connection(conn);
}

int
rabbitmqi_find_exchange(amqp_connection_state_t conn, const char *name, struct err *err)
{
    amqp_channel_close_ok_t ok = {0};
    struct err              ignored;
    int                     rc;

    (void)amqp_exchange_declare(conn, LOOK_CHANNEL, amqp_cstring_bytes(name), amqp_empty_bytes, 1,
                                0, 0, 0, amqp_empty_table);
    rc = reply_error(amqp_get_rpc_reply(conn), "exchange", err);
    if (rc != E_NOTFOUND)
        return rc;
    if (amqp_send_method(conn, LOOK_CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok) != AMQP_STATUS_OK)
        return E_REMOTE;
    (void)amqp_channel_open(conn, LOOK_CHANNEL);
    if (reply_error(amqp_get_rpc_reply(conn), "channel", &ignored) != 0) {
        *err = ignored;
        return err->code == E_NOTFOUND ? E_REMOTE : err->code;
    }
    return rc;
}

bool
rabbitmqi_is_writable(amqp_connection_state_t conn)
{
    struct pollfd p = {.fd = amqp_get_sockfd(conn), .events = POLLOUT};

    return poll(&p, 1, 0) == 1;
}
