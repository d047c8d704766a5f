/*
 * Every method of every service over gRPC, with a log and consumer groups behind them, given bytes
 * for messages. Whatever they are: the call ends, what it sent to the log is answered, and nothing
 * of it stays with its connection.
 *
 * The first byte says which method. Then messages: a byte of flags (1: sent as gzip; 2: the call is
 * cut off after it; 4: the loop turns first), two bytes of length, the bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "base/say.h"
#include "core/group.h"
#include "server/group_front.h"
#include "server/grpc_int.h"
#include "sim/env_sim.h"
#include "sim/index_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FLAG_GZIP 1
#define FLAG_CUT 2
#define FLAG_TURN 4
#define FRAME_MAX 16384
#define RUNS_MAX 1000   /* of one world: its log only grows */
#define STEPS 4         /* of the engine's tasks in one turn; 32 while the log has something */
#define TURNS_MAX 10000 /* until all is answered */

static struct sim        *sim;
static struct index_maps *maps;
static struct log        *the_log;
static struct groups     *groups;
static struct server     *server;
static unsigned           runs;

static void
close_all(void)
{
    if (server == NULL)
        return;
    server_free(server);
    group_close(groups);
    log_close(the_log);
    index_maps_free(maps);
    sim_free(sim);
    server = NULL;
}

/* One thread, no disk: a run is quick, and does the same each time. */
static void
open_all(void)
{
    struct log_conf    conf = {.index = &sim_index_map,
                               .segment_bytes = LOG_SEGMENT_MIN,
                               .free_bytes_min = 1,
                               .recent_events = 1000};
    struct server_conf server_conf = {.signals = false};
    struct ox_env     *env;
    struct err         err;

    say_init(NULL, SAY_ERROR);
    sim = sim_new(1);
    env = sim_env(sim);
    maps = index_maps_new(env, NULL, NULL);
    must(env->ops->dir_make(env, "/log", &err) == 0);
    must(env->ops->dir_sync(env, "/", &err) == 0);
    must(log_open(env, "/log", &conf, NULL, &the_log, &err) == 0);
    must(group_open(env, the_log, &groups, &err) == 0);
    must(server_new(env, the_log, &server_conf, &server, &err) == 0);
    must(server_add_groups(server, groups, &err) == 0);
    runs = 0;
}

/* A connection without a socket. */

static const struct rpc_method *
find(void *arg, struct slice path)
{
    return grpci_find(server, path);
}

static uint64_t
now_ms(void *arg)
{
    return serveri_now_ms(server);
}

static void
dirty(void *arg)
{
}

static bool
room(void *arg)
{
    return true;
}

static void
take_output(struct conn *c)
{
    struct buf out = {0};

    do
        buf_clear(&out);
    while (h2_output(c->h2, &out, 1 << 16) && out.len != 0);
    buf_fini(&out);
}

static void
turn(struct conn *c)
{
    serveri_grpc_submit(server);
    for (unsigned i = 0; i < STEPS || (i < 8 * STEPS && server->in_flight != 0); i++)
        (void)sim_step(sim);
    (void)uv_run(&server->loop, UV_RUN_NOWAIT);
    if (c->h2 != NULL)
        take_output(c);
}

static void
frame(struct buf *out, uint8_t type, uint8_t flags, struct slice payload)
{
    uint8_t head[9] = {(uint8_t)(payload.len >> 16),
                       (uint8_t)(payload.len >> 8),
                       (uint8_t)payload.len,
                       type,
                       flags,
                       0,
                       0,
                       0,
                       1};

    buf_add(out, head, sizeof head);
    buf_add_slice(out, payload);
}

static void
literal(struct buf *out, const char *name, const char *value)
{
    buf_add_byte(out, 0);
    buf_add_byte(out, (uint8_t)strlen(name));
    buf_add_str(out, name);
    buf_add_byte(out, (uint8_t)strlen(value));
    buf_add_str(out, value);
}

static void
begin_call(struct conn *c, const struct rpc_method *method)
{
    struct buf head = {0}, out = {0};

    literal(&head, ":method", "POST");
    literal(&head, ":scheme", "http");
    literal(&head, ":path", method->path);
    literal(&head, "content-type", "application/grpc");
    literal(&head, "grpc-encoding", "gzip");
    buf_add_str(&out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    buf_add(&out, "\0\0\0\4\0\0\0\0\0", 9); /* SETTINGS */
    frame(&out, 1, 4, buf_slice(&head));
    (void)h2_input(c->h2, buf_slice(&out));
    buf_fini(&head);
    buf_fini(&out);
}

/* One message, in as many frames as it takes; `last`: the client's side ends. */
static void
send_message(struct conn *c, uint8_t flag, struct slice message, bool last)
{
    struct buf whole = {0}, out = {0};
    uint8_t    prefix[5] = {flag, 0, 0, (uint8_t)(message.len >> 8), (uint8_t)message.len};

    buf_add(&whole, prefix, sizeof prefix);
    buf_add_slice(&whole, message);
    for (size_t at = 0; at < whole.len; at += FRAME_MAX) {
        size_t n = whole.len - at < FRAME_MAX ? whole.len - at : FRAME_MAX;

        frame(&out, 0, last && at + n == whole.len, slice_of(whole.data + at, n));
    }
    (void)h2_input(c->h2, buf_slice(&out));
    take_output(c);
    buf_fini(&whole);
    buf_fini(&out);
}

static void
send_all(struct conn *c, const uint8_t *data, size_t size)
{
    while (size >= 3) {
        uint8_t flags = data[0];
        size_t  len = (size_t)data[1] << 8 | data[2];

        data += 3;
        size -= 3;
        if (len > size)
            len = size;
        if ((flags & FLAG_TURN) != 0)
            turn(c);
        send_message(c, flags & FLAG_GZIP, slice_of(data, len), len == size);
        if ((flags & FLAG_CUT) != 0)
            return;
        data += len;
        size -= len;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static size_t            count;
    static bool              begun;
    unsigned                 turns = 0;
    const struct rpc_method *method;
    struct conn              c = {.users = 1};
    struct h2_host           host = {.find = find,
                                     .now_ms = now_ms,
                                     .dirty = dirty,
                                     .room = room,
                                     .arg = &c,
                                     .body_ms_max = 3000,
                                     .idle_ms_max = 3000};

    if (!begun)
        (void)atexit(close_all);
    begun = true;
    if (runs++ == RUNS_MAX)
        close_all();
    if (server == NULL)
        open_all();
    while (grpci_nth(server, count) != NULL)
        count++;
    if (size == 0)
        return 0;
    must(count > 0);
    c.server = server;
    method = grpci_nth(server, data[0] % count);
    c.h2 = h2_new(&host);
    must(c.h2 != NULL);
    begin_call(&c, method);
    send_all(&c, data + 1, size - 1);
    turn(&c);
    (void)h2_tick(c.h2);
    h2_drain(c.h2);
    while (server->in_flight != 0) {
        must(turns++ < TURNS_MAX);
        turn(&c);
    }
    turn(&c);
    h2_free(c.h2);
    c.h2 = NULL;
    while (c.users != 1) {
        must(turns++ < TURNS_MAX);
        turn(&c);
    }
    must(server->grpc_runnable == NULL);
    must(server->grpc_waiting == NULL);
    return 0;
}
