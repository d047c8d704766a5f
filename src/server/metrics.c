/* GET /metrics in the text format of Prometheus. */
#include <sys/resource.h>

#include "log/log.h"
#include "server/server_int.h"

static void
put(struct buf *out, const char *name, const char *type, const char *help, uint64_t v)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name,
               (unsigned long long)v);
}

/* Bounds below the bucket `from` are of no use to anybody; values count in units of 1 / scale. */
static void
put_hist(struct buf *out, const char *name, const char *help, const struct hist_view *h,
         unsigned from, double scale)
{
    uint64_t sum = 0;

    buf_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        sum += h->count[i];
        if (i >= from && i < HIST_BUCKETS - 1)
            buf_printf(out, "%s_bucket{le=\"%.10g\"} %llu\n", name, (double)hist_bound(i) / scale,
                       (unsigned long long)sum);
    }
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", name,
               (unsigned long long)sum, name, (double)h->sum / scale, name,
               (unsigned long long)sum);
}

static void
put_reasons(struct buf *out, const struct stats *stats)
{
    static const char name[] = "oxbow_refusals_total";

    buf_printf(out, "# HELP %s Requests refused, by the error's name.\n# TYPE %s counter\n", name,
               name);
    for (unsigned i = 0; i < SERVERI_REASONS_MAX && stats->reasons[i].name != NULL; i++)
        buf_printf(out, "%s{reason=\"%s\"} %llu\n", name, stats->reasons[i].name,
                   (unsigned long long)stats->reasons[i].count);
}

/* Under the names that Prometheus' own clients give them. */
static void
put_process(struct buf *out, struct server *s)
{
    struct rusage used;
    size_t        rss = 0;
    double        cpu;

    if (getrusage(RUSAGE_SELF, &used) == 0) {
        cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
              (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
        buf_printf(out,
                   "# HELP process_cpu_seconds_total CPU time of all threads.\n"
                   "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %.6f\n",
                   cpu);
    }
    if (uv_resident_set_memory(&rss) == 0)
        put(out, "process_resident_memory_bytes", "gauge",
            "Memory in use, pages of mapped files included.", rss);
    put(out, "process_start_time_seconds", "gauge", "When it was started, since 1970.",
        (uint64_t)s->started_s);
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
    struct hist_view    h;
    uint64_t            count, behind;

    put(out, "oxbow_connections", "gauge", "Open connections.", s->conn_count);
    put(out, "oxbow_connections_total", "counter", "Connections since the start.",
        stats->connections_all);
    put(out, "oxbow_connections_refused_total", "counter", "Connections over the limit.",
        stats->connections_refused);
    put(out, "oxbow_tls_failed_total", "counter", "Handshakes and records that were refused.",
        stats->tls_failed);
    put(out, "oxbow_logins_failed_total", "counter", "Passwords and tokens that did not hold.",
        stats->logins_failed);
    put(out, "oxbow_access_denied_total", "counter", "What a user asked for and may not.",
        stats->access_denied);
    put(out, "oxbow_rate_refused_total", "counter", "Requests over limits.requests_per_s.",
        stats->rate_refused);
    put(out, "oxbow_requests_total", "counter", "Requests since the start.", stats->requests);
    put(out, "oxbow_received_bytes_total", "counter", "Bytes from clients.", stats->bytes_in);
    put(out, "oxbow_sent_bytes_total", "counter", "Bytes to clients.", stats->bytes_out);
    put(out, "oxbow_buffer_bytes", "gauge", "Memory of large requests and answers.", s->charged);
    put(out, "oxbow_calls", "gauge", "Open calls over gRPC.", serveri_h2_calls(s));
    put(out, "oxbow_readers", "gauge", "Reads and subscriptions under way.", s->feed_count);
    serveri_live_look(s, &count, &behind);
    put(out, "oxbow_subscriptions_live", "gauge", "Subscribers at the end of the log.", count);
    put(out, "oxbow_subscriptions_lag_bytes", "gauge", "How far these are behind it.", behind);
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
    hist_read(&stats->append_us, &h);
    put_hist(out, "oxbow_append_seconds", "From the request to the answer of the log.", &h, 4, 1e6);
    put_answers(out, stats);
    put_reasons(out, stats);
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
    put_hist(out, "oxbow_log_sync_seconds", "The commit point of each group: write and sync.",
             &info->sync_us, 4, 1e6);
    put_hist(out, "oxbow_log_group_commits", "Commits of each group.", &info->group_commits, 0, 1);
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

static void
put_traces(struct buf *out, struct trace_queue *queue)
{
    struct trace_counts c;

    trace_look(queue, &c);
    put(out, "oxbow_trace_spans_total", "counter", "Spans that were made.", c.spans);
    put(out, "oxbow_trace_sent_total", "counter", "Spans that the collector took.", c.sent);
    put(out, "oxbow_trace_dropped_total", "counter",
        "Spans that were dropped: the collector is away, or too slow.", c.dropped);
}

void
server_set_metrics(struct server *server, server_metrics_fn *fn, void *arg)
{
    server->metrics = fn;
    server->metrics_arg = arg;
}

void
serveri_get_metrics(struct call *call, void *arg)
{
    struct server  *s = call->conn->server;
    struct log_info info;

    log_get_info(s->log, &info);
    buf_clear(&s->scratch);
    put_process(&s->scratch, s);
    put_server(&s->scratch, s);
    put_log(&s->scratch, &info);
    for (struct server_extra *x = s->extras; x != NULL; x = x->next)
        x->metrics(x, &s->scratch);
    if (s->metrics != NULL)
        s->metrics(s->metrics_arg, &s->scratch);
    put_scavenge(&s->scratch, s->log);
    if (s->traces != NULL)
        put_traces(&s->scratch, s->traces);
    call_answer(call, 200, "text/plain; version=0.0.4", buf_slice(&s->scratch));
}
