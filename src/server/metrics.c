/* GET /metrics in the text format of Prometheus. */
#include "log/log.h"
#include "server/server_int.h"

static void
put(struct buf *out, const char *name, const char *type, const char *help, uint64_t v)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name,
               (unsigned long long)v);
}

static void
put_latency(struct buf *out, const struct stats *stats)
{
    static const char name[] = "oxbow_append_seconds";
    uint64_t          sum = 0;

    buf_printf(out, "# HELP %s From the request to the answer of the log.\n# TYPE %s histogram\n",
               name, name);
    for (int i = 0; i < SERVERI_LATENCY_BUCKETS; i++) {
        sum += stats->latency[i];
        buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, serveri_latency_us[i] / 1e6,
                   (unsigned long long)sum);
    }
    sum += stats->latency[SERVERI_LATENCY_BUCKETS];
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
               (unsigned long long)sum, name, (double)stats->latency_us_sum / 1e6, name,
               (unsigned long long)sum);
}

static void
put_answers(struct buf *out, const struct stats *stats)
{
    static const char name[] = "oxbow_http_answers_total";

    buf_printf(out, "# HELP %s Answers by status.\n# TYPE %s counter\n", name, name);
    for (int i = 0; i < SERVERI_STATUS_MAX; i++)
        if (stats->answers[i] != 0)
            buf_printf(out, "%s{status=\"%d\"} %llu\n", name, i,
                       (unsigned long long)stats->answers[i]);
}

static void
put_server(struct buf *out, const struct server *s)
{
    const struct stats *stats = &s->stats;

    put(out, "oxbow_connections", "gauge", "Open connections.", s->conn_count);
    put(out, "oxbow_connections_total", "counter", "Connections since the start.",
        stats->connections_all);
    put(out, "oxbow_connections_refused_total", "counter", "Connections over the limit.",
        stats->connections_refused);
    put(out, "oxbow_requests_total", "counter", "Requests since the start.", stats->requests);
    put(out, "oxbow_received_bytes_total", "counter", "Bytes from clients.", stats->bytes_in);
    put(out, "oxbow_sent_bytes_total", "counter", "Bytes to clients.", stats->bytes_out);
    put(out, "oxbow_buffer_bytes", "gauge", "Memory of large requests and answers.", s->charged);
    put(out, "oxbow_readers", "gauge", "Reads and subscriptions under way.", s->feed_count);
    put(out, "oxbow_events_sent_total", "counter", "Events given to readers.", stats->events_out);
    put(out, "oxbow_streams_cut_total", "counter", "Event streams whose client was too slow.",
        stats->streams_cut);
    put(out, "oxbow_appends_waiting", "gauge", "Appends that the log has not answered.",
        s->in_flight);
    put(out, "oxbow_appends_total", "counter", "Appends answered by the log.", stats->appends);
    put(out, "oxbow_append_events_total", "counter", "Events in successful appends.",
        stats->append_events);
    put(out, "oxbow_append_bytes_total", "counter", "Bytes of the bodies of appends.",
        stats->append_bytes);
    put(out, "oxbow_append_quota_refused_total", "counter", "Appends over a quota.",
        stats->quota_refused);
    put_latency(out, stats);
    put_answers(out, stats);
}

static void
put_log(struct buf *out, const struct log_info *info)
{
    put(out, "oxbow_log_failed", "gauge", "1: the log takes no writes any more.", info->failed);
    put(out, "oxbow_log_end_position", "gauge", "First position after the last commit.",
        info->end.v);
    put(out, "oxbow_log_index_lag_bytes", "gauge", "Bytes of the log that are not indexed yet.",
        info->end.v > info->indexed.v ? info->end.v - info->indexed.v : 0);
    put(out, "oxbow_log_unindexed_memory_bytes", "gauge", "Memory of what is not indexed yet.",
        info->memory_bytes);
    put(out, "oxbow_log_segments", "gauge", "Segment files.", info->segments);
    put(out, "oxbow_log_disk_bytes", "gauge", "Bytes on disk.", info->disk_bytes);
    put(out, "oxbow_log_streams", "gauge", "Streams that ever were.", info->streams);
    put(out, "oxbow_log_commits_total", "counter", "Commits since the start.", info->commits);
    put(out, "oxbow_log_events_total", "counter", "Events since the start.", info->events);
    put(out, "oxbow_log_groups_total", "counter",
        "Groups since the start: commits over groups is the mean size of a group.", info->groups);
    put(out, "oxbow_log_syncs_total", "counter", "Syncs since the start.", info->syncs);
    put(out, "oxbow_log_appended_bytes_total", "counter", "Bytes appended since the start.",
        info->appended_bytes);
}

static void
put_scavenge(struct buf *out, struct log *log)
{
    struct log_scavenge s;

    log_scavenge_status(log, &s);
    put(out, "oxbow_scavenge_running", "gauge", "1: a scavenge is running.",
        s.state == LOG_SCAVENGE_RUNNING);
    put(out, "oxbow_scavenge_failed", "gauge", "1: the last scavenge failed.",
        s.state == LOG_SCAVENGE_FAILED);
    put(out, "oxbow_scavenge_runs_total", "counter", "Scavenges since the start.", s.run);
    put(out, "oxbow_scavenge_all_bytes", "gauge", "Bytes that this or the last scavenge looks at.",
        s.all_bytes);
    put(out, "oxbow_scavenge_examined_bytes", "gauge", "… of which it has looked at.",
        s.examined_bytes);
    put(out, "oxbow_scavenge_freed_bytes", "gauge", "Bytes that this or the last scavenge freed.",
        s.dry_run ? 0 : s.freed_bytes);
}

void
serveri_get_metrics(struct call *call, void *arg)
{
    struct server  *s = call->conn->server;
    struct log_info info;

    log_get_info(s->log, &info);
    buf_clear(&s->scratch);
    put_server(&s->scratch, s);
    put_log(&s->scratch, &info);
    for (struct server_extra *x = s->extras; x != NULL; x = x->next)
        x->metrics(x, &s->scratch);
    put_scavenge(&s->scratch, s->log);
    call_answer(call, 200, "text/plain; version=0.0.4", buf_slice(&s->scratch));
}
