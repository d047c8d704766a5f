/* oxbow top: what a running server does, again and again. */
#include <stdio.h>
#include <time.h>

#include "base/hist.h"
#include "base/json.h"
#include "base/must.h"
#include "cli/cli_int.h"
#include "env/env_real.h"

#define DEFAULT_SERVER "http://127.0.0.1:2113"
#define EVERY_MAX 3600
#define FLOWS_MAX 200 /* shown; what is beyond them is counted */

/* One look at GET /v1/stats. */
struct look {
    uint64_t         at_us, started_s, counts[8], gauges[9];
    struct hist_view append_us, sync_us, group_commits;
};

enum { C_REQUESTS, C_APPENDS, C_EVENTS, C_SENT_EVENTS, C_IN, C_OUT, C_REFUSED, C_LOG_EVENTS };
enum {
    G_CONNECTIONS,
    G_READERS,
    G_LIVE,
    G_LIVE_LAG,
    G_WAITING,
    G_END,
    G_INDEXED,
    G_DISK,
    G_STREAMS
};

static const char *const count_paths[] = {
    "server.requests",
    "server.appends",
    "server.append_events",
    "server.events_sent",
    "server.received_bytes",
    "server.sent_bytes",
    NULL /* the sum of all refusals */,
    "log.events",
};
static const char *const gauge_paths[] = {
    "server.connections",
    "server.readers",
    "server.subscriptions_live",
    "server.subscriptions_lag_bytes",
    "server.appends_waiting",
    "log.end",
    "log.indexed",
    "log.disk_bytes",
    "log.streams",
};

struct top {
    struct cli *cli;
    struct look last, now;
    struct buf  body, page, cell;
    uint64_t    every_us, left; /* looks to come; UINT64_MAX: until interrupted */
    unsigned    flows;
};

/* What is shown of what moves events: where its list is, and the paths in its objects. */
static const struct flow_kind {
    const char *what, *name, *group, *state, *behind, *parked;
} flow_kinds[] = {
    {"sources", "name", NULL, "state", NULL, "parked"},
    {"sinks", "name", NULL, "state", "behind_estimate", "parked"},
    {"groups", "stream", "group", "state", "lag_events", "parked"},
    {"migrations", "name", NULL, "phase", NULL, NULL},
};

/* reading */

static uint64_t
number_at(struct slice object, const char *path)
{
    struct slice value;
    uint64_t     n;

    return json_get_path(object, slice_str(path), &value) && json_uint64(value, &n) ? n : 0;
}

static void
read_hist(struct slice stats, const char *path, struct hist_view *out)
{
    struct json_iter it;
    struct slice     hist, counts, value;
    unsigned         i = 0;

    *out = (struct hist_view){0};
    if (!json_get_path(stats, slice_str(path), &hist) || !json_get(hist, "count", &counts) ||
        json_array_iter(&it, counts, NULL) != 0)
        return;
    out->sum = number_at(hist, "sum");
    while (i < HIST_BUCKETS && json_iter_next(&it, NULL, &value, NULL) == 0)
        (void)json_uint64(value, &out->count[i++]);
}

static uint64_t
sum_of(struct slice stats, const char *path)
{
    struct json_iter it;
    struct slice     object, key, value;
    uint64_t         n, sum = 0;

    if (!json_get_path(stats, slice_str(path), &object) || json_object_iter(&it, object, NULL) != 0)
        return 0;
    while (json_iter_next(&it, &key, &value, NULL) == 0)
        sum += json_uint64(value, &n) ? n : 0;
    return sum;
}

static int
take_look(struct top *t, struct err *err)
{
    struct slice stats, server;
    int          rc = 0;

    t->last = t->now;
    buf_clear(&t->body);
    TRY(clii_request(t->cli, "GET", "/v1/stats", (struct slice){0}, &t->body, err));
    stats = buf_slice(&t->body);
    if (!json_get(stats, "server", &server))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    t->now.at_us = env_real()->ops->mono_us(env_real());
    t->now.started_s = number_at(stats, "server.started_s");
    for (unsigned i = 0; i < sizeof count_paths / sizeof count_paths[0]; i++)
        t->now.counts[i] = count_paths[i] == NULL ? sum_of(stats, "server.refusals")
                                                  : number_at(stats, count_paths[i]);
    for (unsigned i = 0; i < sizeof gauge_paths / sizeof gauge_paths[0]; i++)
        t->now.gauges[i] = number_at(stats, gauge_paths[i]);
    read_hist(stats, "histograms.append_us", &t->now.append_us);
    read_hist(stats, "histograms.sync_us", &t->now.sync_us);
    read_hist(stats, "histograms.group_commits", &t->now.group_commits);
    /* Another run of the server counts from nothing. */
    if (t->last.started_s != t->now.started_s)
        t->last = (struct look){.at_us = t->last.at_us, .started_s = t->now.started_s};
out:
    return rc;
}

/* between two looks */

static double
rate(const struct top *t, unsigned count)
{
    double seconds = (double)(t->now.at_us - t->last.at_us) / 1e6;

    return seconds <= 0 ? 0 : (double)(t->now.counts[count] - t->last.counts[count]) / seconds;
}

/* The value that `share` of those since the last look are not above; 0 where there were none. */
static double
quantile(const struct hist_view *last, const struct hist_view *now, double share)
{
    double all = (double)(hist_count(now) - hist_count(last)), below = 0;

    for (unsigned i = 0; i < HIST_BUCKETS && all > 0; i++) {
        double here = (double)(now->count[i] - last->count[i]);
        double low = i == 0 ? 0 : (double)hist_bound(i - 1);

        if (here > 0 && below + here >= all * share)
            return i == HIST_BUCKETS - 1
                       ? low
                       : low + ((double)hist_bound(i) - low) * (all * share - below) / here;
        below += here;
    }
    return 0;
}

static double
mean(const struct hist_view *last, const struct hist_view *now)
{
    uint64_t n = hist_count(now) - hist_count(last);

    return n == 0 ? 0 : (double)(now->sum - last->sum) / (double)n;
}

static uint64_t
index_lag(const struct look *l)
{
    return l->gauges[G_END] > l->gauges[G_INDEXED] ? l->gauges[G_END] - l->gauges[G_INDEXED] : 0;
}

/* what moves events */

static void
put_text(struct top *t, struct slice object, const char *path)
{
    struct slice value;

    if (path == NULL || !json_get_path(object, slice_str(path), &value) || json_is_null(value))
        return;
    if (json_type(value) == JSON_STRING)
        (void)json_string_decode(value, &t->cell, NULL);
    else
        buf_add_slice(&t->cell, value);
}

static void
put_cell(struct top *t, size_t width)
{
    size_t from = t->page.len;

    clii_add_plain(&t->page, t->cell.len == 0 ? slice_str("-") : buf_slice(&t->cell));
    while (t->page.len - from < width)
        buf_add_byte(&t->page, ' ');
    buf_add_str(&t->page, "  ");
    buf_clear(&t->cell);
}

static void
put_flow(struct top *t, const struct flow_kind *k, struct slice object)
{
    buf_add(&t->cell, k->what, strlen(k->what) - 1);
    put_cell(t, 9);
    put_text(t, object, k->name);
    if (k->group != NULL)
        buf_add_byte(&t->cell, '/');
    put_text(t, object, k->group);
    put_cell(t, 28);
    put_text(t, object, k->state);
    put_cell(t, 14);
    put_text(t, object, k->behind);
    put_cell(t, 10);
    put_text(t, object, k->parked);
    put_cell(t, 7);
    put_text(t, object, "error");
    put_cell(t, 0);
    buf_add_byte(&t->page, '\n');
}

/* A server without some of these has none of them to show. */
static void
put_flows(struct top *t)
{
    char path[64];

    t->flows = 0;
    for (unsigned i = 0; i < sizeof flow_kinds / sizeof flow_kinds[0]; i++) {
        const struct flow_kind *k = &flow_kinds[i];
        struct json_iter        it;
        struct slice            all, object;

        buf_clear(&t->body);
        (void)snprintf(path, sizeof path, "/v1/%s", k->what);
        if (clii_request(t->cli, "GET", path, (struct slice){0}, &t->body, NULL) != 0 ||
            !json_get(buf_slice(&t->body), k->what, &all) || json_array_iter(&it, all, NULL) != 0)
            continue;
        while (json_iter_next(&it, NULL, &object, NULL) == 0) {
            if (t->flows++ == 0)
                buf_add_str(&t->page, "\nkind       name                          state           "
                                      "behind      parked   error\n");
            if (t->flows <= FLOWS_MAX)
                put_flow(t, k, object);
        }
    }
    if (t->flows > FLOWS_MAX)
        buf_printf(&t->page, "… and %u more\n", t->flows - FLOWS_MAX);
}

/* pages */

static void
put_page(struct top *t)
{
    const struct look *l = &t->last, *n = &t->now;
    const uint64_t    *g = n->gauges;
    char               in[16], out[16], disk[16], behind[16], lag[16];
    uint64_t           up = (uint64_t)time(NULL) - n->started_s;

    clii_bytes_text(rate(t, C_IN), in, sizeof in);
    clii_bytes_text(rate(t, C_OUT), out, sizeof out);
    clii_bytes_text((double)g[G_DISK], disk, sizeof disk);
    clii_bytes_text((double)index_lag(n), behind, sizeof behind);
    clii_bytes_text((double)g[G_LIVE_LAG], lag, sizeof lag);
    buf_printf(&t->page, "%s, up %llu:%02llu:%02llu\n\n", clii_server(t->cli),
               (unsigned long long)(up / 3600), (unsigned long long)(up / 60 % 60),
               (unsigned long long)(up % 60));
    buf_printf(&t->page, "appends  %.0f/s, %.0f events/s, %llu waiting; p50 %.2f ms, p99 %.2f ms\n",
               rate(t, C_APPENDS), rate(t, C_EVENTS), (unsigned long long)g[G_WAITING],
               quantile(&l->append_us, &n->append_us, 0.5) / 1e3,
               quantile(&l->append_us, &n->append_us, 0.99) / 1e3);
    buf_printf(&t->page, "disk     sync p50 %.2f ms, p99 %.2f ms; %.1f commits a group\n",
               quantile(&l->sync_us, &n->sync_us, 0.5) / 1e3,
               quantile(&l->sync_us, &n->sync_us, 0.99) / 1e3,
               mean(&l->group_commits, &n->group_commits));
    buf_printf(&t->page, "readers  %llu, %.0f events/s; %llu subscribers at the end, %s behind\n",
               (unsigned long long)g[G_READERS], rate(t, C_SENT_EVENTS),
               (unsigned long long)g[G_LIVE], lag);
    buf_printf(
        &t->page, "network  %llu connections, %.0f requests/s, %.0f refused/s; %s/s in, %s/s out\n",
        (unsigned long long)g[G_CONNECTIONS], rate(t, C_REQUESTS), rate(t, C_REFUSED), in, out);
    buf_printf(&t->page,
               "log      %llu streams, end at %llu, %.0f events/s; %s on disk, index %s behind\n",
               (unsigned long long)g[G_STREAMS], (unsigned long long)g[G_END],
               rate(t, C_LOG_EVENTS), disk, behind);
    put_flows(t);
}

static void
put_line(struct top *t)
{
    static const char *const rates[] = {
        "requests_per_s",       "appends_per_s",    "append_events_per_s", "sent_events_per_s",
        "received_bytes_per_s", "sent_bytes_per_s", "refused_per_s",       "log_events_per_s",
    };
    static const char *const gauges[] = {
        "connections",
        "readers",
        "subscriptions_live",
        "subscriptions_lag_bytes",
        "appends_waiting",
        "end",
        "indexed",
        "disk_bytes",
        "streams",
    };
    const struct look *l = &t->last, *n = &t->now;
    struct json_out    o;

    json_out_init(&o, &t->page);
    json_out_object(&o);
    for (unsigned i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        json_out_key(&o, rates[i]);
        json_out_double(&o, rate(t, i));
    }
    for (unsigned i = 0; i < sizeof gauges / sizeof gauges[0]; i++) {
        json_out_key(&o, gauges[i]);
        json_out_u64(&o, n->gauges[i]);
    }
    json_out_key(&o, "append_p50_us");
    json_out_double(&o, quantile(&l->append_us, &n->append_us, 0.5));
    json_out_key(&o, "append_p99_us");
    json_out_double(&o, quantile(&l->append_us, &n->append_us, 0.99));
    json_out_key(&o, "sync_p50_us");
    json_out_double(&o, quantile(&l->sync_us, &n->sync_us, 0.5));
    json_out_key(&o, "sync_p99_us");
    json_out_double(&o, quantile(&l->sync_us, &n->sync_us, 0.99));
    json_out_key(&o, "commits_per_group");
    json_out_double(&o, mean(&l->group_commits, &n->group_commits));
    json_out_object_end(&o);
    buf_add_byte(&t->page, '\n');
}

static int
pause_between(const struct top *t, struct err *err)
{
    uint64_t end = env_real()->ops->mono_us(env_real()) + t->every_us, now;

    while ((now = env_real()->ops->mono_us(env_real())) < end && clii_caught() == 0) {
        uint64_t        us = end - now < 100000 ? end - now : 100000;
        struct timespec nap = {.tv_nsec = (long)us * 1000};

        (void)nanosleep(&nap, NULL);
    }
    return clii_go_on(err);
}

static int
run(struct top *t, struct err *err)
{
    int rc = 0;

    TRY(take_look(t, err));
    for (; t->left > 0; t->left--) {
        TRY(pause_between(t, err));
        TRY(take_look(t, err));
        if (clii_json(t->cli)) {
            put_line(t);
        } else {
            if (t->cli->out_tty) /* home, and what was there is gone */
                buf_add_str(&t->page, "\033[H\033[J");
            put_page(t);
            if (!t->cli->out_tty && t->left > 1)
                buf_add_byte(&t->page, '\n');
        }
        clii_put_buf(t->cli, &t->page);
        TRY(clii_flush(t->cli, err));
    }
out:
    return rc;
}

int
clii_top(struct cli *c, struct err *err)
{
    struct top t = {.cli = c};
    uint64_t   every_s;
    int        rc = 0;

    if (clii_server(c) == NULL)
        c->opt[OPT_SERVER] = DEFAULT_SERVER;
    TRY(clii_number(c, OPT_EVERY, 1, &every_s, err));
    if (every_s == 0 || every_s > EVERY_MAX)
        FAIL(err, E_USAGE, ERR_DATA, "--every %s: must be 1 to %d", c->opt[OPT_EVERY], EVERY_MAX);
    t.every_us = every_s * 1000000;
    /* Who does not look at a terminal wants one page, not a film. */
    TRY(clii_number(c, OPT_LIMIT, c->out_tty ? UINT64_MAX : 1, &t.left, err));
    clii_catch();
    rc = run(&t, err);
    if (rc == E_INTERRUPTED && clii_caught() != 0 && c->opt[OPT_LIMIT] == NULL && c->out_tty)
        rc = 0; /* that is how it ends */
out:
    buf_fini(&t.body);
    buf_fini(&t.page);
    buf_fini(&t.cell);
    return rc;
}
