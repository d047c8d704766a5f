/* Operations and Monitoring, as far as one node has them. */
#include <stdlib.h>

#include "base/bytes.h"
#include "base/rfc3339.h"
#include "server/grpc_int.h"

#define OPERATIONS "/event_store.client.operations.Operations/"
#define PERIOD_MS_MIN 1000
#define PERIOD_MS_MAX 3600000

/* Operations. */

enum scavenge_result {
    SCAVENGE_STARTED = 0,
    SCAVENGE_IN_PROGRESS = 1,
    SCAVENGE_STOPPED = 2,
};

/* Of one run of this log, whatever ran before the server was started again. */
static void
scavenge_id(struct server *s, const struct log_scavenge *run, char out[ID_TEXT_LEN + 1])
{
    struct log_info info;
    struct ox_id    id;
    uint8_t         seed[sizeof info.id.b + 8];

    log_get_info(s->log, &info);
    memcpy(seed, info.id.b, sizeof info.id.b);
    put_u64(seed + sizeof info.id.b, (uint64_t)run->started_us);
    id = id_of_bytes(slice_of(seed, sizeof seed));
    id_format(&id, out);
}

static void
answer_scavenge(struct rpc *r, const char *id, enum scavenge_result result)
{
    size_t      mark;
    struct buf *out = rpc_begin(r, &mark);

    pb_put_str(out, 1, id);
    pb_put_varint(out, 2, result);
    rpc_commit(r, mark);
    rpc_end(r, RPC_OK, NULL);
}

static void
start_scavenge(struct rpc *r, struct slice message)
{
    struct server           *s = grpci_server(r);
    struct log_scavenge_conf conf = {0};
    struct log_scavenge      run;
    struct slice             options;
    struct pb_in             in;
    struct pb_field          f;
    struct err               err;
    char                     id[ID_TEXT_LEN + 1];
    bool                     ok = grpci_options(message, &options), from_start = true;
    int                      rc;

    pb_in_init(&in, options);
    while (pb_next(&in, &f))
        if (f.key == PB_VARINT(2))
            from_start = f.value == 0;
    if (!ok || in.bad || !from_start) {
        grpci_bad(r, from_start ? "the request is malformed"
                                : "start_from_chunk: a scavenge begins where the last one ended");
        return;
    }
    rc = log_scavenge_start(s->log, &conf, &err);
    if (rc != 0 && rc != E_STATE) {
        rpc_end(r, grpci_status(&err), err.text);
        return;
    }
    log_scavenge_status(s->log, &run);
    scavenge_id(s, &run, id);
    answer_scavenge(r, id, rc == 0 ? SCAVENGE_STARTED : SCAVENGE_IN_PROGRESS);
}

static void
stop_scavenge(struct rpc *r, struct slice message)
{
    struct server      *s = grpci_server(r);
    struct log_scavenge run;
    struct slice        options, wanted = {0};
    struct pb_in        in;
    struct pb_field     f;
    char                id[ID_TEXT_LEN + 1];

    if (!grpci_options(message, &options)) {
        grpci_bad(r, "the request is malformed");
        return;
    }
    pb_in_init(&in, options);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(1))
            wanted = f.bytes;
    log_scavenge_status(s->log, &run);
    scavenge_id(s, &run, id);
    if (run.state != LOG_SCAVENGE_RUNNING || !slice_is(wanted, id)) {
        rpc_trailer(r, "exception", slice_str("scavenge-not-found"));
        rpc_trailer(r, "scavenge-id", wanted);
        rpc_end(r, RPC_NOT_FOUND, "no scavenge of this id is running");
        return;
    }
    log_scavenge_stop(s->log);
    answer_scavenge(r, id, SCAVENGE_STOPPED);
}

/* Whoever can reach the port is not whoever runs the service. */
static void
shut_down(struct rpc *r, struct slice message)
{
    grpci_refuse(r, RPC_PERMISSION_DENIED, "access-denied", (struct slice){0},
                 "the server is stopped by SIGTERM or its service manager");
}

/* What one node with a derived index has no use for. */
static void
do_nothing(struct rpc *r, struct slice message)
{
    grpci_answer(r, (struct slice){0});
}

/* Monitoring: figures again and again until the client has enough. */

struct watch {
    uint64_t period_ms, due_ms;
};

static void
put_figure(struct buf *out, const char *name, uint64_t value)
{
    struct buf text = {0};

    buf_add_u64(&text, value);
    grpci_put_pair(out, 1, name, buf_slice(&text));
    out->failed = out->failed || text.failed;
    buf_fini(&text);
}

static void
put_stats(struct rpc *r)
{
    struct server      *s = grpci_server(r);
    const struct stats *stats = &s->stats;
    struct log_info     info;
    size_t              mark, rss = 0;
    struct buf         *out = rpc_begin(r, &mark);
    char                started[TIME_TEXT_MAX];

    log_get_info(s->log, &info);
    time_format(s->started_s * 1000000, started);
    (void)uv_resident_set_memory(&rss);
    grpci_put_pair(out, 1, "proc-startTime", slice_str(started));
    put_figure(out, "proc-id", (uint64_t)uv_os_getpid());
    put_figure(out, "proc-mem", rss);
    put_figure(out, "proc-tcp-connections", s->conn_count);
    put_figure(out, "proc-tcp-receivedBytesTotal", stats->bytes_in);
    put_figure(out, "proc-tcp-sentBytesTotal", stats->bytes_out);
    put_figure(out, "es-checksum", info.end.v);
    put_figure(out, "es-checksumNonFlushed", info.end.v);
    put_figure(out, "oxbow-streams", info.streams);
    put_figure(out, "oxbow-commits", info.commits);
    put_figure(out, "oxbow-events", info.events);
    put_figure(out, "oxbow-segments", info.segments);
    put_figure(out, "oxbow-diskBytes", info.disk_bytes);
    put_figure(out, "oxbow-indexBehindBytes", info.end.v - info.indexed.v);
    put_figure(out, "oxbow-requests", stats->requests);
    put_figure(out, "oxbow-appends", stats->appends);
    put_figure(out, "oxbow-appendsWaiting", s->in_flight);
    put_figure(out, "oxbow-eventsSent", stats->events_out);
    rpc_commit(r, mark);
}

static void
watch_tick(struct rpc *r, uint64_t now_ms)
{
    struct watch *w = rpc_state(r);

    if (w == NULL || now_ms < w->due_ms || rpc_pending(r) >= H2_OUT_HIGH)
        return;
    w->due_ms = now_ms + w->period_ms;
    put_stats(r);
}

static void
watch_begin(struct rpc *r, struct slice message)
{
    struct watch   *w = calloc(1, sizeof *w);
    struct pb_in    in;
    struct pb_field f;

    if (w == NULL) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "no memory for the request");
        return;
    }
    rpc_set_state(r, w);
    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_VARINT(4))
            w->period_ms = f.value > PERIOD_MS_MAX ? PERIOD_MS_MAX : f.value;
    if (in.bad) {
        grpci_bad(r, "the request is malformed");
        return;
    }
    if (w->period_ms < PERIOD_MS_MIN)
        w->period_ms = PERIOD_MS_MIN;
    watch_tick(r, serveri_now_ms(grpci_server(r)));
}

static void
watch_drain(struct rpc *r)
{
    rpc_end(r, RPC_UNAVAILABLE, "the server is stopping");
}

static void
watch_gone(struct rpc *r)
{
    free(rpc_state(r));
}

static const struct rpc_method table[] = {
    {.path = OPERATIONS "StartScavenge", .message = start_scavenge},
    {.path = OPERATIONS "StopScavenge", .message = stop_scavenge},
    {.path = OPERATIONS "Shutdown", .message = shut_down},
    {.path = OPERATIONS "MergeIndexes", .message = do_nothing},
    {.path = OPERATIONS "ResignNode", .message = do_nothing},
    {.path = OPERATIONS "SetNodePriority", .message = do_nothing},
    {.path = OPERATIONS "RestartPersistentSubscriptions", .message = do_nothing},
    {.path = "/event_store.client.monitoring.Monitoring/Stats",
     .message = watch_begin,
     .tick = watch_tick,
     .drain = watch_drain,
     .gone = watch_gone},
};
const struct rpc_table grpci_admin = {table, sizeof table / sizeof table[0]};
