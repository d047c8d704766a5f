/* What there is over HTTP of sources, sinks and migrations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "cli/engine_int.h"
#include "core/capture.h"
#include "core/deliver.h"
#include "log/log.h"
#include "server/call.h"
#include "server/server.h"

/* The longest that a switch may take, with the slack of its lease. */
#define COMMAND_MS_MAX 600000
#define UNVERIFIED_BYTES_MAX (UINT64_C(32) << 20)

static void
lock(struct engine *e)
{
    (void)pthread_mutex_lock(&e->lock);
}

static void
unlock(struct engine *e)
{
    (void)pthread_mutex_unlock(&e->lock);
}

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_str(struct json_out *o, const char *key, const char *text)
{
    json_out_key(o, key);
    json_out_str(o, text);
}

static void
put_capture(struct json_out *o, struct capture *capture)
{
    struct capture_status *s = malloc(sizeof *s);

    if (s == NULL)
        return;
    capture_get_status(capture, s);
    put_str(o, "state", capture_state_name(s->state));
    json_out_key(o, "caught_up");
    json_out_bool(o, s->caught_up);
    put_u64(o, "batches", s->batches);
    put_u64(o, "changes", s->changes);
    put_u64(o, "parked", s->parked);
    put_u64(o, "position", s->last.v);
    json_out_key(o, "checkpoint");
    if (json_check(slice_str(s->checkpoint), NULL) == 0)
        json_out_raw(o, slice_str(s->checkpoint));
    else
        json_out_str(o, s->checkpoint[0] == '\0' ? NULL : s->checkpoint);
    json_out_key(o, "source");
    if (json_check(slice_str(s->detail), NULL) == 0)
        json_out_raw(o, slice_str(s->detail));
    else
        json_out_null(o);
    put_str(o, "error", s->error[0] == '\0' ? NULL : s->error);
    free(s);
}

static void
put_deliver(struct json_out *o, struct deliver *deliver)
{
    struct deliver_status s;

    deliver_get_status(deliver, &s);
    put_str(o, "state", deliver_state_name(s.state));
    json_out_key(o, "caught_up");
    json_out_bool(o, s.caught_up);
    put_u64(o, "done", s.done.v);
    put_u64(o, "checkpoint", s.checkpoint.v);
    put_u64(o, "lag_positions", s.lag_positions);
    put_u64(o, "behind_estimate", s.behind_estimate);
    put_u64(o, "delivered", s.delivered);
    put_u64(o, "retries", s.retries);
    put_u64(o, "erased", s.erased);
    put_u64(o, "filtered", s.filtered);
    put_u64(o, "scheduled", s.scheduled);
    if (s.replay_to.v > 0) {
        json_out_key(o, "replay");
        json_out_object(o);
        put_u64(o, "at", s.replay_at.v);
        put_u64(o, "to", s.replay_to.v);
        put_u64(o, "run", s.runs);
        json_out_object_end(o);
    }
    put_u64(o, "parked", s.parked);
    put_u64(o, "parked_streams", s.parked_streams);
    put_u64(o, "in_flight", s.in_flight);
    put_u64(o, "oldest_ms", s.oldest_ms);
    put_str(o, "error", s.error[0] == '\0' ? NULL : s.error);
}

/* The members of one object into another that is open. */
static void
put_members(struct json_out *o, struct slice object)
{
    struct json_iter it;
    struct slice     key, value;

    if (json_object_iter(&it, object, NULL) != 0)
        return;
    while (json_iter_next(&it, &key, &value, NULL) == 0) {
        if (slice_is(key, "name"))
            continue;
        json_out_key_slice(o, key);
        json_out_raw(o, value);
    }
}

static void
put_part(struct json_out *o, const struct part *p, bool whole)
{
    struct buf text = {0};

    json_out_object(o);
    put_str(o, "name", p->name);
    if (p->capture != NULL) {
        put_capture(o, p->capture);
    } else if (p->verify != NULL) {
        enginei_put_verify(o, p->verify);
    } else if (p->queue != NULL) {
        enginei_put_queue(o, p->queue);
    } else if (p->deliver != NULL) {
        put_deliver(o, p->deliver);
    } else if (p->tracer != NULL) {
        tracer_status_json(p->tracer, &text);
        put_members(o, buf_slice(&text));
    } else {
        put_str(o, p->kind == PART_MIGRATION ? "phase" : "state", "not-open");
        put_str(o, "error", p->error);
    }
    if (whole) {
        json_out_key(o, "config");
        json_out_raw(o, buf_slice(&p->shown));
    }
    json_out_object_end(o);
    buf_fini(&text);
}

static void
answer_buf(struct call *call, struct buf *body)
{
    buf_add_byte(body, '\n');
    if (body->failed)
        call_refuse(call, 503, "out-of-memory", "no memory for the answer");
    else
        call_answer(call, 200, CALL_JSON, buf_slice(body));
    buf_fini(body);
}

static void
answer_list(struct call *call, struct engine *e, enum part_kind kind, const char *name)
{
    struct json_out o;
    struct buf      body = {0};

    json_out_init(&o, &body);
    json_out_object(&o);
    json_out_key(&o, name);
    json_out_array(&o);
    lock(e);
    for (const struct part *p = e->parts; p != NULL; p = p->next)
        if (p->kind == kind)
            put_part(&o, p, false);
    unlock(e);
    json_out_array_end(&o);
    json_out_object_end(&o);
    answer_buf(call, &body);
}

/* The part that the path names, locked; NULL: the call was answered, nothing is locked. */
static struct part *
find(struct call *call, struct engine *e, enum part_kind kind)
{
    static const char *const kinds[] = {"source", "sink", "migration"};
    char                     text[160];
    struct slice             name = call_param(call, "name");
    struct part             *p;

    lock(e);
    p = enginei_find(e, kind, name);
    if (p != NULL)
        return p;
    unlock(e);
    (void)snprintf(text, sizeof text, "no %s \"%.*s\" is in the configuration", kinds[kind],
                   name.len > 64 ? 64 : (int)name.len, (const char *)name.data);
    call_refuse(call, 404, "not-found", text);
    return NULL;
}

static void
answer_one(struct call *call, struct engine *e, enum part_kind kind)
{
    struct json_out o;
    struct buf      body = {0};
    struct part    *p = find(call, e, kind);

    if (p == NULL)
        return;
    json_out_init(&o, &body);
    put_part(&o, p, true);
    unlock(e);
    answer_buf(call, &body);
}

static void
get_sources(struct call *call, void *arg)
{
    answer_list(call, arg, PART_SOURCE, "sources");
}

static void
get_source(struct call *call, void *arg)
{
    answer_one(call, arg, PART_SOURCE);
}

/* commands of sources */

struct source_order {
    struct capture_call call;
    struct later       *later;
    char                table[LOG_NAME_MAX + 1];
};

/* On the capture's task. */
static void
on_taken(struct capture_call *done)
{
    struct source_order *x = done->arg;

    if (done->rc != 0)
        later_fail(x->later, &done->err);
    else
        later_answer(x->later, 200, CALL_JSON, slice_str("{\"done\":true}\n"));
    free(x);
}

static bool
is_true(struct call *call, const char *name)
{
    struct slice value = {0};

    return call_query(call, name, &value) && slice_is(value, "true");
}

static bool
order_parse(struct call *call, struct source_order *x)
{
    static const char *const words[] = {[CAPTURE_PAUSE] = "pause",
                                        [CAPTURE_RESUME] = "resume",
                                        [CAPTURE_DROP] = "drop",
                                        [CAPTURE_SNAPSHOT] = "snapshot"};
    struct slice             word = call_param(call, "command"), table = {0};
    unsigned                 i = 0;

    while (i < sizeof words / sizeof words[0] && !slice_is(word, words[i]))
        i++;
    (void)call_query(call, "table", &table);
    if (i == sizeof words / sizeof words[0]) {
        call_refuse(call, 404, "not-found",
                    "no such command; there are pause, resume, drop and "
                    "snapshot?table=T&differences=true or ?gap=true");
        return false;
    }
    x->call.command = (enum capture_command)i;
    x->call.again.gap = is_true(call, "gap");
    x->call.again.differences = x->call.again.gap || is_true(call, "differences");
    if (table.len >= sizeof x->table ||
        (i == CAPTURE_SNAPSHOT && (table.len == 0) != x->call.again.gap)) {
        call_refuse(call, 400, "invalid", "a snapshot is of one table=T, or of all with gap=true");
        return false;
    }
    if (table.len > 0)
        memcpy(x->table, table.data, table.len);
    x->call.again.table = slice_of(x->table, table.len);
    return true;
}

/* POST /v1/sources/{name}/pause|resume|drop, snapshot?table=T&differences=true, ?gap=true */
static void
post_source(struct call *call, void *arg)
{
    struct engine       *e = arg;
    struct source_order *x = calloc(1, sizeof *x);
    struct part         *p = NULL;

    if (x == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the command");
        return;
    }
    lock(e);
    p = enginei_find(e, PART_SOURCE, call_param(call, "name"));
    if (p != NULL && p->queue != NULL) {
        enginei_queue_command(call, p->queue);
        unlock(e);
        free(x);
        return;
    }
    unlock(e);
    p = NULL;
    if (order_parse(call, x))
        p = find(call, e, PART_SOURCE);
    if (p != NULL && p->capture == NULL)
        call_refuse(call, 503, "not-open", p->error);
    else if (p != NULL)
        x->later = call_later(call, COMMAND_MS_MAX);
    if (x->later == NULL) {
        free(x);
    } else {
        must(p != NULL);
        x->call.done = on_taken;
        x->call.arg = x;
        capture_submit(p->capture, &x->call);
    }
    if (p != NULL)
        unlock(e);
}

static void
get_sinks(struct call *call, void *arg)
{
    answer_list(call, arg, PART_SINK, "sinks");
}

static void
get_sink(struct call *call, void *arg)
{
    answer_one(call, arg, PART_SINK);
}

static void
get_migrations(struct call *call, void *arg)
{
    answer_list(call, arg, PART_MIGRATION, "migrations");
}

static void
get_migration(struct call *call, void *arg)
{
    answer_one(call, arg, PART_MIGRATION);
}

/* beginning, end, now, a position, or a time: the first position that is not before it */
static int
place(struct engine *e, struct slice word, struct log_pos *pos, struct err *err)
{
    int64_t us;
    int     rc = 0;

    *pos = LOG_POS(0);
    if (slice_is(word, "beginning") || json_uint64(word, &pos->v))
        return 0;
    if (slice_is(word, "end") || slice_is(word, "now")) {
        *pos = log_end(e->log);
        return 0;
    }
    if (!time_parse(word, &us))
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "\"%.*s\" is no place in the log: beginning, end, a position or a time",
                   word.len > 64 ? 64 : (int)word.len, (const char *)word.data);
    TRY(log_pos_of_time(e->log, us - 1, pos, err));
    pos->v++;
out:
    return rc;
}

/* commands of sinks */

#define SINK_ORDER_MS 5000
#define SINK_ORDER_LATE                                                                            \
    "{\"taken\":true,\"durable\":false,\"message\":\"taken, but not durable yet: the sink is "     \
    "busy "                                                                                        \
    "with its far side, and a crash before it lets go may lose the order; its status shows what "  \
    "comes of it\"}\n"

struct sink_order {
    struct deliver_call call;
    struct later       *later;
    char                stream[LOG_NAME_MAX + 1];
};

/* On the delivery's task, or on the loop. */
static void
on_ordered(struct deliver_call *done)
{
    struct sink_order *x = done->arg;

    if (done->rc != 0)
        later_fail(x->later, &done->err);
    else
        later_answer(x->later, 200, CALL_JSON, slice_str("{\"taken\":true,\"durable\":true}\n"));
    free(x);
}

/* from=… to=…, or from=cancel */
static int
range(struct engine *e, struct slice from, struct slice to, struct deliver_call *out,
      struct err *err)
{
    int rc = 0;

    out->command = DELIVER_RANGE;
    out->from = LOG_POS(2);
    out->to = LOG_POS(1);
    if (slice_is(from, "cancel"))
        return 0;
    TRY(place(e, from, &out->from, err));
    TRY(place(e, to.len == 0 ? slice_str("end") : to, &out->to, err));
    if (out->to.v <= out->from.v)
        FAIL(err, E_INVALID, ERR_DATA, "to: must come after from");
out:
    return rc;
}

static int
sink_order_parse(struct call *call, struct engine *e, struct sink_order *x, struct err *err)
{
    struct slice command = call_param(call, "command"), stream = {0}, rest = {0}, to = {0};
    struct slice from = {0};

    (void)call_query(call, "stream", &stream);
    (void)call_query(call, "rest", &rest);
    (void)call_query(call, "to", &to);
    (void)call_query(call, "from", &from);
    if (stream.len >= sizeof x->stream)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "no stream has such a long name");
    if (stream.len > 0)
        memcpy(x->stream, stream.data, stream.len);
    x->call.stream = slice_of(x->stream, stream.len);
    if (slice_is(command, "replay") && from.len > 0)
        return range(e, from, to, &x->call, err);
    if (slice_is(command, "replay"))
        x->call.command = DELIVER_REPLAY;
    else if (slice_is(command, "skip"))
        x->call.command = slice_is(rest, "true") ? DELIVER_DROP : DELIVER_SKIP;
    else if (slice_is(command, "pause"))
        x->call.command = DELIVER_PAUSE;
    else if (slice_is(command, "resume"))
        x->call.command = DELIVER_RESUME;
    else if (slice_is(command, "seek"))
        x->call.command = DELIVER_SEEK;
    else
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA,
                   "no such command; there are replay, skip, pause, resume and seek");
    return x->call.command == DELIVER_SEEK ? place(e, to, &x->call.from, err) : 0;
}

/*
 * POST /v1/sinks/{name}/replay|skip?stream=S&rest=true, replay?from=PLACE&to=PLACE, pause, resume,
 * seek?to=PLACE
 */
static void
post_sink(struct call *call, void *arg)
{
    struct engine     *e = arg;
    struct sink_order *x = calloc(1, sizeof *x);
    struct part       *p = NULL;
    struct err         err = {0};

    if (x == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the command");
        return;
    }
    p = find(call, e, PART_SINK);
    if (p == NULL)
        goto out;
    if (p->deliver == NULL)
        (void)err_set(&err, __FILE__, __LINE__, E_STATE, ERR_RETRY, "the sink is not open: %s",
                      p->error);
    else if (sink_order_parse(call, e, x, &err) == 0)
        x->later = call_later(call, SINK_ORDER_MS);
    if (x->later != NULL) {
        later_if_late(x->later, 202, CALL_JSON, SINK_ORDER_LATE);
        x->call.done = on_ordered;
        x->call.arg = x;
        deliver_submit(p->deliver, &x->call);
        x = NULL; /* its answer frees it */
    }
    unlock(e);
    if (err.code != 0)
        call_fail(call, &err);
out:
    free(x);
}

/* migrations */

struct command {
    struct tracer_call call;
    struct later      *later;
};

/* On the controller's task. */
static void
on_decided(struct tracer_call *done)
{
    struct command *x = done->arg;
    char            body[96];

    if (done->rc != 0) {
        later_fail(x->later, &done->err);
    } else {
        (void)snprintf(body, sizeof body, "{\"command\":\"%s\",\"done\":true}\n",
                       tracer_command_name(done->command));
        later_answer(x->later, 200, CALL_JSON, slice_str(body));
    }
    free(x);
}

/* A word of a query as text; false where it is too long. */
static bool
word_of(struct slice from, char *to, size_t room)
{
    if (from.len >= room)
        return false;
    if (from.len > 0)
        memcpy(to, from.data, from.len);
    to[from.len] = '\0';
    return true;
}

static void
run_command(struct call *call, struct part *p, enum tracer_command command, bool force)
{
    struct command *x = calloc(1, sizeof *x);

    if (x == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the command");
        return;
    }
    x->later = call_later(call, COMMAND_MS_MAX);
    if (x->later == NULL) {
        free(x);
        return;
    }
    x->call =
        (struct tracer_call){.command = command, .force = force, .done = on_decided, .arg = x};
    tracer_submit(p->tracer, &x->call);
}

/* POST /v1/migrations/{name}/{command}?with=fallback|retire|on|off&force=true */
static void
post_migration(struct call *call, void *arg)
{
    struct engine      *e = arg;
    struct slice        with = {0}, force = {0};
    enum tracer_command command;
    char                word[16], more[16];
    struct part        *p;

    (void)call_query(call, "with", &with);
    (void)call_query(call, "force", &force);
    if (!word_of(call_param(call, "command"), word, sizeof word) ||
        !word_of(with, more, sizeof more) ||
        !tracer_command_parse(word, more[0] == '\0' ? NULL : more, &command)) {
        call_refuse(call, 404, "not-found",
                    "no such command; there are start, pause, resume, verify, repair, switch, "
                    "reverse, cancel, complete?with=fallback|retire and backfill?with=on|off");
        return;
    }
    p = find(call, e, PART_MIGRATION);
    if (p == NULL)
        return;
    if (p->tracer == NULL)
        call_refuse(call, 503, "not-open", p->error);
    else
        run_command(call, p, command, slice_is(force, "true"));
    unlock(e);
}

static void
get_report(struct call *call, void *arg)
{
    struct engine *e = arg;
    struct buf     body = {0};
    struct part   *p = find(call, e, PART_MIGRATION);

    if (p == NULL)
        return;
    if (p->tracer == NULL) {
        call_refuse(call, 503, "not-open", p->error);
        unlock(e);
        return;
    }
    tracer_report_json(p->tracer, &body);
    unlock(e);
    answer_buf(call, &body);
}

/* metrics */

struct figure {
    const char *name, *type, *help;
    uint64_t (*value)(const struct deliver_status *);
};

#define FIGURE(word, expression)                                                                   \
    static uint64_t figure_##word(const struct deliver_status *s)                                  \
    {                                                                                              \
        return expression;                                                                         \
    }

FIGURE(delivered, s->delivered)
FIGURE(retries, s->retries)
FIGURE(filtered, s->filtered)
FIGURE(scheduled, s->scheduled)
FIGURE(parked, s->parked)
FIGURE(parked_streams, s->parked_streams)
FIGURE(in_flight, s->in_flight)
FIGURE(waiting, s->waiting_retry)
FIGURE(window, s->window_bytes)
FIGURE(behind, s->behind_estimate)
FIGURE(lag, s->lag_positions)
FIGURE(oldest, s->oldest_ms / 1000)
FIGURE(up, s->state == DELIVER_RUNNING)

static const struct figure figures[] = {
    {"oxbow_sink_delivered_total", "counter", "Events delivered since the start.",
     figure_delivered},
    {"oxbow_sink_retries_total", "counter", "Attempts that were to be made again.", figure_retries},
    {"oxbow_sink_filtered_total", "counter", "Events that its filter or transform left out.",
     figure_filtered},
    {"oxbow_sink_scheduled", "gauge", "Events that are to be delivered later.", figure_scheduled},
    {"oxbow_sink_parked", "gauge", "Events that are parked now.", figure_parked},
    {"oxbow_sink_parked_streams", "gauge", "Streams of which something is parked.",
     figure_parked_streams},
    {"oxbow_sink_in_flight", "gauge", "Events that the far side has not confirmed.",
     figure_in_flight},
    {"oxbow_sink_waiting_retry", "gauge", "Events that wait for another attempt.", figure_waiting},
    {"oxbow_sink_window_bytes", "gauge", "Memory of events that are not done.", figure_window},
    {"oxbow_sink_lag_events", "gauge", "Events that are not done, about.", figure_behind},
    {"oxbow_sink_lag_positions", "gauge", "Bytes of the log behind its end.", figure_lag},
    {"oxbow_sink_oldest_seconds", "gauge", "Age in memory of the oldest that is not done.",
     figure_oldest},
    {"oxbow_sink_running", "gauge", "1: it runs and tries nothing again.", figure_up},
};

/* Names of parts need no escapes. */
static void
put_metrics(void *arg, struct buf *out)
{
    struct engine        *e = arg;
    struct deliver_status s;

    lock(e);
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        const struct figure *f = &figures[i];

        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, f->type);
        for (const struct part *p = e->parts; p != NULL; p = p->next) {
            if (p->kind != PART_SINK || p->deliver == NULL)
                continue;
            deliver_get_status(p->deliver, &s);
            buf_printf(out, "%s{sink=\"%s\"} %llu\n", f->name, p->name,
                       (unsigned long long)f->value(&s));
        }
    }
    enginei_put_source_metrics(e, out);
    enginei_put_queue_metrics(e, out);
    unlock(e);
}

int
enginei_routes(struct engine *e, struct server *server, struct err *err)
{
    static const struct server_route routes[] = {
        {"GET", "/v1/sources", get_sources, 0},
        {"GET", "/v1/sources/{name}", get_source, 0},
        {"POST", "/v1/sources/{name}/unverified", enginei_post_unverified, UNVERIFIED_BYTES_MAX},
        {"POST", "/v1/sources/{name}/{command}", post_source, 0},
        {"GET", "/v1/sinks", get_sinks, 0},
        {"GET", "/v1/sinks/{name}", get_sink, 0},
        {"POST", "/v1/sinks/{name}/{command}", post_sink, 0},
        {"GET", "/v1/migrations", get_migrations, 0},
        {"GET", "/v1/migrations/{name}", get_migration, 0},
        {"GET", "/v1/migrations/{name}/route", enginei_get_route, 0},
        {"GET", "/v1/migrations/{name}/report", get_report, 0},
        {"POST", "/v1/migrations/{name}/{command}", post_migration, 0},
    };

    e->server = server;
    server_set_metrics(server, put_metrics, e);
    return server_add_routes(server, routes, sizeof routes / sizeof routes[0], e, err);
}
