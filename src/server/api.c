/* Small documents: what there is in the log, and how the server does. */
#include "base/json.h"
#include "base/must.h"
#include "log/log.h"
#include "server/access_int.h"
#include "server/grpc_int.h"
#include "server/server_int.h"

static void
answer_text(struct call *call, int status, const char *text)
{
    call_answer(call, status, CALL_JSON, slice_str(text));
}

static void
get_root(struct call *call, void *arg)
{
    answer_text(call, 200,
                "{\"name\":\"oxbow\",\"streams\":\"/v1/streams\",\"all\":\"/v1/all\","
                "\"commits\":\"/v1/commits\",\"stats\":\"/v1/stats\",\"metrics\":\"/metrics\","
                "\"health\":\"/health/ready\"}\n");
}

static void
get_live(struct call *call, void *arg)
{
    answer_text(call, 200, "{\"status\":\"live\"}\n");
}

static void
get_ready(struct call *call, void *arg)
{
    struct server  *s = call->conn->server;
    struct log_info info;

    log_get_info(s->log, &info);
    if (info.failed)
        call_refuse(call, 503, "log-failed", info.failed_text);
    else if (s->conf.read_only)
        call_refuse(call, 503, "read-only", "the log was opened for reading only");
    else if (s->draining)
        call_refuse(call, 503, "stopping", "the server is stopping");
    else
        answer_text(call, 200, "{\"status\":\"ready\"}\n");
}

/* GET /v1/stats */

static void
put_number(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

/* {"sum":…,"le":[…],"count":[…]}: how many were at most so much, and above the one before. */
static void
put_hist(struct json_out *o, const char *key, const struct hist_view *h)
{
    json_out_key(o, key);
    json_out_object(o);
    put_number(o, "sum", h->sum);
    json_out_key(o, "le");
    json_out_array(o);
    for (unsigned i = 0; i < HIST_BUCKETS - 1; i++)
        json_out_u64(o, hist_bound(i));
    json_out_null(o);
    json_out_array_end(o);
    json_out_key(o, "count");
    json_out_array(o);
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        json_out_u64(o, h->count[i]);
    json_out_array_end(o);
    json_out_object_end(o);
}

static void
put_server(struct json_out *o, const struct server *s)
{
    const struct stats *stats = &s->stats;
    uint64_t            count, behind;

    json_out_key(o, "server");
    json_out_object(o);
    put_number(o, "started_s", (uint64_t)s->started_s);
    put_number(o, "connections", s->conn_count);
    put_number(o, "calls", serveri_h2_calls(s));
    put_number(o, "readers", s->feed_count);
    serveri_live_look(s, &count, &behind);
    put_number(o, "subscriptions_live", count);
    put_number(o, "subscriptions_lag_bytes", behind);
    put_number(o, "requests", stats->requests);
    put_number(o, "appends", stats->appends);
    put_number(o, "append_events", stats->append_events);
    put_number(o, "appends_waiting", s->in_flight);
    put_number(o, "events_sent", stats->events_out);
    put_number(o, "received_bytes", stats->bytes_in);
    put_number(o, "sent_bytes", stats->bytes_out);
    put_number(o, "buffer_bytes", s->charged);
    json_out_key(o, "refusals");
    json_out_object(o);
    for (unsigned i = 0; i < SERVERI_REASONS_MAX && stats->reasons[i].name != NULL; i++)
        put_number(o, stats->reasons[i].name, stats->reasons[i].count);
    json_out_object_end(o);
    json_out_object_end(o);
}

static void
put_log(struct json_out *o, const struct log_info *info)
{
    char id[ID_TEXT_LEN + 1];

    id_format(&info->id, id);
    json_out_key(o, "log");
    json_out_object(o);
    json_out_key(o, "id");
    json_out_str(o, id);
    put_number(o, "format", info->format);
    put_number(o, "segment_bytes", info->segment_bytes);
    put_number(o, "segments", info->segments);
    put_number(o, "disk_bytes", info->disk_bytes);
    put_number(o, "first", info->first.v);
    put_number(o, "end", info->end.v);
    put_number(o, "indexed", info->indexed.v);
    put_number(o, "streams", info->streams);
    put_number(o, "commits", info->commits);
    put_number(o, "events", info->events);
    put_number(o, "groups", info->groups);
    put_number(o, "syncs", info->syncs);
    put_number(o, "appended_bytes", info->appended_bytes);
    put_number(o, "memory_bytes", info->memory_bytes);
    json_out_key(o, "failed");
    json_out_str(o, info->failed ? info->failed_text : NULL);
    json_out_object_end(o);
}

static void
get_stats(struct call *call, void *arg)
{
    struct server   *s = call->conn->server;
    struct hist_view append_us;
    struct json_out  o;
    struct log_info  info;

    log_get_info(s->log, &info);
    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    json_out_object(&o);
    put_log(&o, &info);
    put_server(&o, s);
    hist_read(&s->stats.append_us, &append_us);
    json_out_key(&o, "histograms");
    json_out_object(&o);
    put_hist(&o, "append_us", &append_us);
    put_hist(&o, "sync_us", &info.sync_us);
    put_hist(&o, "group_commits", &info.group_commits);
    json_out_object_end(&o);
    json_out_object_end(&o);
    call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
}

/* What KurrentDB's clients and their tools ask of a node. */

static void
get_ping(struct call *call, void *arg)
{
    answer_text(call, 200, "{\"text\":\"Ping request successfully handled\"}\n");
}

static void
get_info(struct call *call, void *arg)
{
    struct server *s = call->conn->server;

    buf_clear(&s->scratch);
    buf_printf(&s->scratch,
               "{\"dbVersion\":\"%s\",\"esVersion\":\"%s\",\"state\":\"leader\","
               "\"features\":{\"projections\":false,\"userManagement\":%s,\"atomPub\":false},"
               "\"authentication\":{\"type\":\"%s\",\"properties\":{}}}\n",
               GRPCI_VERSION, GRPCI_VERSION, s->users == NULL ? "false" : "true",
               serveri_access_on(s) ? "basic" : "insecure");
    call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
}

/* The node's address is the one that the client used. */
static void
get_gossip(struct call *call, void *arg)
{
    struct server  *s = call->conn->server;
    struct json_out o;
    struct log_info info;
    struct slice    host;
    char            id[ID_TEXT_LEN + 1];

    log_get_info(s->log, &info);
    id_format(&info.id, id);
    if (!call_header(call, "host", &host))
        host = slice_str(s->conf.host);
    for (size_t i = host.len; i > 0 && ((const char *)host.data)[i - 1] != ']'; i--)
        if (((const char *)host.data)[i - 1] == ':')
            host.len = i - 1;
    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    json_out_object(&o);
    json_out_key(&o, "members");
    json_out_array(&o);
    json_out_object(&o);
    json_out_key(&o, "instanceId");
    json_out_str(&o, id);
    json_out_key(&o, "state");
    json_out_str(&o, "Leader");
    json_out_key(&o, "isAlive");
    json_out_bool(&o, true);
    json_out_key(&o, "httpEndPointIp");
    json_out_string(&o, host);
    put_number(&o, "httpEndPointPort", s->port);
    json_out_object_end(&o);
    json_out_array_end(&o);
    json_out_key(&o, "serverIp");
    json_out_string(&o, host);
    put_number(&o, "serverPort", s->port);
    json_out_object_end(&o);
    buf_add_byte(&s->scratch, '\n');
    call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
}

static const struct server_route routes[] = {
    {"GET", "/ping", get_ping, 0},        {"GET", "/info", get_info, 0},
    {"GET", "/gossip", get_gossip, 0},    {"GET", "/", get_root, 0},
    {"GET", "/health/live", get_live, 0}, {"GET", "/health/ready", get_ready, 0},
    {"GET", "/v1/stats", get_stats, 0},   {"GET", "/metrics", serveri_get_metrics, 0},
};

int
serveri_api_routes(struct server *s, struct err *err)
{
    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], NULL, err);
}
