/*
 * usage: amqp_publish PORT EXCHANGE [TYPE]
 * Lines "KEY\tID\tBODY" of stdin as messages, each persistent; an empty ID is none. Says "done"
 * once the broker has confirmed all of them.
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANNEL 1
#define UNCONFIRMED_MAX 1000

static amqp_connection_state_t conn;
static uint64_t                sent, confirmed;

static void
fail(const char *what)
{
    (void)fprintf(stderr, "amqp_publish: %s\n", what);
    exit(1);
}

static void
need(amqp_rpc_reply_t reply, const char *what)
{
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        fail(what);
}

static void
connect_to(int port)
{
    amqp_socket_t *socket;

    conn = amqp_new_connection();
    socket = amqp_tcp_socket_new(conn);
    if (socket == NULL || amqp_socket_open(socket, "127.0.0.1", port) != AMQP_STATUS_OK)
        fail("no connection");
    need(amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
    (void)amqp_channel_open(conn, CHANNEL);
    need(amqp_get_rpc_reply(conn), "channel");
    (void)amqp_confirm_select(conn, CHANNEL);
    need(amqp_get_rpc_reply(conn), "confirms");
}

static void
take_confirm(void)
{
    amqp_frame_t f;

    if (amqp_simple_wait_frame(conn, &f) != AMQP_STATUS_OK)
        fail("the connection was lost");
    if (f.frame_type == AMQP_FRAME_METHOD && f.payload.method.id == AMQP_BASIC_ACK_METHOD) {
        const amqp_basic_ack_t *ack = f.payload.method.decoded;

        if (ack->multiple)
            confirmed = ack->delivery_tag;
        else
            confirmed++;
    } else {
        fail("not what was expected");
    }
    amqp_maybe_release_buffers(conn);
}

static void
publish(const char *exchange, const char *key, const char *id, const char *body, const char *type)
{
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};

    if (id[0] != '\0') {
        p._flags |= AMQP_BASIC_MESSAGE_ID_FLAG;
        p.message_id = amqp_cstring_bytes(id);
    }
    if (type != NULL) {
        p._flags |= AMQP_BASIC_TYPE_FLAG;
        p.type = amqp_cstring_bytes(type);
    }
    if (amqp_basic_publish(conn, CHANNEL, amqp_cstring_bytes(exchange), amqp_cstring_bytes(key), 0,
                           0, &p, amqp_cstring_bytes(body)) != AMQP_STATUS_OK)
        fail("publish");
    sent++;
}

int
main(int argc, char **argv)
{
    char  *line = NULL;
    size_t room = 0;

    if (argc < 3)
        fail("usage: amqp_publish PORT EXCHANGE [TYPE]");
    connect_to((int)strtol(argv[1], NULL, 10));
    while (getline(&line, &room, stdin) > 0) {
        char *rest = line, *key = strsep(&rest, "\t"), *id = strsep(&rest, "\t");

        if (rest == NULL)
            fail("a line without three parts");
        rest[strcspn(rest, "\n")] = '\0';
        publish(argv[2], key, id, rest, argc > 3 ? argv[3] : NULL);
        while (sent - confirmed >= UNCONFIRMED_MAX)
            take_confirm();
    }
    while (confirmed < sent)
        take_confirm();
    free(line);
    need(amqp_connection_close(conn, AMQP_REPLY_SUCCESS), "farewell");
    (void)amqp_destroy_connection(conn);
    (void)puts("done");
    return 0;
}
