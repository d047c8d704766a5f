/* Consumer groups over HTTP: making and changing them, their state, what is parked. */
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "server/group_int.h"

#define COMMAND_MS 30000
#define SETTINGS_BYTES 16384
#define ACK_BYTES (256 << 10)
#define PARKED_PAGE 100
#define PARKED_MAX 1000

static void
put_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_slice(struct json_out *o, const char *key, struct slice text)
{
    json_out_key(o, key);
    json_out_string(o, text);
}

/* showing */

static void
show_whole(void *arg, const struct group_info *g)
{
    group_info_write(g, true, arg);
}

static void
show_short(void *arg, const struct group_info *g)
{
    group_info_write(g, false, arg);
}

static void
answer_scratch(struct call *call)
{
    struct buf *body = &call->conn->server->scratch;

    buf_add_byte(body, '\n');
    if (body->failed)
        call_refuse(call, 503, "out-of-memory", "no memory for the answer");
    else
        call_answer(call, 200, CALL_JSON, buf_slice(body));
}

static void
begin_body(struct call *call, struct json_out *o)
{
    struct buf *body = &call->conn->server->scratch;

    buf_clear(body);
    json_out_init(o, body);
}

static void
list_groups(struct call *call, void *arg)
{
    static const char *const names[] = {"stream", NULL};
    struct front            *f = arg;
    struct slice             source = {0};
    struct json_out          o;
    struct err               err;

    if (serveri_group_query(call, names, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    (void)call_query(call, "stream", &source);
    begin_body(call, &o);
    json_out_object(&o);
    json_out_key(&o, "groups");
    json_out_array(&o);
    group_each(f->groups, source, show_short, &o);
    json_out_array_end(&o);
    json_out_object_end(&o);
    answer_scratch(call);
}

static void
show_group(struct call *call, void *arg)
{
    struct front   *f = arg;
    struct json_out o;
    struct err      err;

    begin_body(call, &o);
    if (group_get(f->groups, call_param(call, "stream"), call_param(call, "group"), show_whole, &o,
                  &err) != 0)
        call_fail(call, &err);
    else
        answer_scratch(call);
}

/* commands */

struct order {
    struct group_command  command;
    struct group_settings settings;
    struct buf            source, name, texts;
    struct later         *later;
    int                   status;
};

static void
order_free(struct order *r)
{
    if (r == NULL)
        return;
    buf_fini(&r->source);
    buf_fini(&r->name);
    buf_fini(&r->texts);
    free(r);
}

/* On the groups' task. */
static void
on_done(struct group_command *c)
{
    struct order   *r = c->arg;
    struct buf      body = {0};
    struct json_out o;

    if (c->rc != 0) {
        later_fail(r->later, &c->err);
        order_free(r);
        return;
    }
    json_out_init(&o, &body);
    json_out_object(&o);
    put_slice(&o, "stream", c->source);
    put_slice(&o, "group", c->name);
    if (c->verb == GROUP_REPLAY || c->verb == GROUP_SKIP)
        put_u64(&o, "events", c->count);
    if (c->verb == GROUP_CREATE || c->verb == GROUP_UPDATE) {
        json_out_key(&o, "settings");
        json_out_object(&o);
        group_settings_write(&r->settings, &o);
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    buf_add_byte(&body, '\n');
    later_answer(r->later, r->status, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
    order_free(r);
}

/* An update goes on from what is; the texts are the order's own. */
static void
take_settings(void *arg, const struct group_info *g)
{
    struct order *r = arg;
    struct slice *slots[6];

    r->settings = *g->settings;
    slots[0] = &r->settings.prefix;
    slots[1] = &r->settings.category;
    slots[2] = &r->settings.type;
    slots[3] = &r->settings.type_prefix;
    slots[4] = &r->settings.stream_regex;
    slots[5] = &r->settings.type_regex;
    for (int i = 0; i < 6; i++) {
        size_t at = r->texts.len;

        buf_add_slice(&r->texts, *slots[i]);
        *slots[i] = slice_of(r->texts.data + at, slots[i]->len);
    }
}

static int
read_order(struct front *f, struct call *call, enum group_verb verb, struct order *r,
           struct err *err)
{
    static const char *const none[] = {NULL}, *const limit[] = {"limit", NULL};
    struct slice body = call_body(call);
    bool         settings = verb == GROUP_CREATE || verb == GROUP_UPDATE;
    int          rc = 0;

    TRY(serveri_group_query(call, settings || verb == GROUP_DELETE ? none : limit, err));
    TRY(serveri_group_number(call, "limit", 1, UINT64_MAX, &r->command.limit, err));
    buf_add_slice(&r->source, call_param(call, "stream"));
    buf_add_slice(&r->name, call_param(call, "group"));
    group_settings_init(&r->settings);
    /* What points into it must stay where it is. */
    if (!buf_reserve(&r->texts, 8 * SETTINGS_BYTES) || r->source.failed || r->name.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the request");
    if (verb == GROUP_UPDATE)
        TRY(group_get(f->groups, buf_slice(&r->source), buf_slice(&r->name), take_settings, r,
                      err));
    if (settings && body.len > 0)
        TRY(group_settings_read(body, &r->settings, &r->texts, err));
    else if (!settings && body.len > 0 && !slice_is(body, "{}"))
        FAIL(err, E_INVALID, ERR_DATA, "this request takes no body");
out:
    return rc;
}

static void
give_order(struct call *call, struct front *f, enum group_verb verb, int status)
{
    struct order *r = calloc(1, sizeof *r);
    struct err    err;

    if (r == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the request");
        return;
    }
    if (read_order(f, call, verb, r, &err) != 0) {
        call_fail(call, &err);
        order_free(r);
        return;
    }
    r->status = status;
    r->command.verb = verb;
    r->command.source = buf_slice(&r->source);
    r->command.name = buf_slice(&r->name);
    r->command.settings = &r->settings;
    r->command.done = on_done;
    r->command.arg = r;
    r->later = call_later(call, COMMAND_MS);
    if (r->later == NULL)
        order_free(r);
    else
        group_submit(f->groups, &r->command);
}

static void
create_group(struct call *call, void *arg)
{
    give_order(call, arg, GROUP_CREATE, 201);
}

static void
update_group(struct call *call, void *arg)
{
    give_order(call, arg, GROUP_UPDATE, 200);
}

static void
delete_group(struct call *call, void *arg)
{
    give_order(call, arg, GROUP_DELETE, 200);
}

static void
replay_parked(struct call *call, void *arg)
{
    give_order(call, arg, GROUP_REPLAY, 202);
}

static void
skip_parked(struct call *call, void *arg)
{
    give_order(call, arg, GROUP_SKIP, 200);
}

/* what is parked */

static int
put_parked(void *arg, const struct log_event *link, struct err *err)
{
    group_parked_write(link, arg);
    return 0;
}

static int
read_parked(struct front *f, struct call *call, struct json_out *o, struct err *err)
{
    static const char *const names[] = {"from", "limit", NULL};
    uint64_t                 from = 0, limit = PARKED_PAGE, next = 0;
    int                      rc = 0;

    TRY(serveri_group_query(call, names, err));
    TRY(serveri_group_number(call, "from", 0, UINT64_MAX, &from, err));
    TRY(serveri_group_number(call, "limit", 1, PARKED_MAX, &limit, err));
    json_out_object(o);
    json_out_key(o, "parked");
    json_out_array(o);
    TRY(group_parked(f->groups, call_param(call, "stream"), call_param(call, "group"), from,
                     (uint32_t)limit, put_parked, o, &next, err));
    json_out_array_end(o);
    json_out_key(o, "next");
    if (next != 0)
        json_out_u64(o, next);
    else
        json_out_null(o);
    json_out_object_end(o);
out:
    return rc;
}

static void
list_parked(struct call *call, void *arg)
{
    struct json_out o;
    struct err      err;

    begin_body(call, &o);
    if (read_parked(arg, call, &o, &err) != 0)
        call_fail(call, &err);
    else
        answer_scratch(call);
}

/* figures */

static void
put_label(struct buf *out, struct slice text)
{
    const char *p = text.data;

    for (size_t i = 0; i < text.len; i++) {
        if (p[i] == '\\' || p[i] == '"')
            buf_add_byte(out, '\\');
        buf_add_byte(out, p[i] == '\n' ? ' ' : (uint8_t)p[i]);
    }
}

struct figure {
    const char *name, *type, *help;
    uint64_t (*value)(const struct group_info *);
};

struct figures {
    struct buf          *out;
    const struct figure *figure;
};

#define VALUE(field)                                                                               \
    static uint64_t value_##field(const struct group_info *g)                                      \
    {                                                                                              \
        return g->field;                                                                           \
    }
VALUE(lag_events)
VALUE(lag_positions)
VALUE(lag_ms)
VALUE(in_flight)
VALUE(member_count)
VALUE(parked)
VALUE(delivered)
VALUE(acked)
VALUE(retries)
VALUE(timeouts)
#undef VALUE

static uint64_t
value_failed(const struct group_info *g)
{
    return g->state == GROUP_FAILED;
}

static const struct figure all_figures[] = {
    {"oxbow_group_failed", "gauge", "1: hands nothing out.", value_failed},
    {"oxbow_group_lag_events", "gauge", "Events that are not settled.", value_lag_events},
    {"oxbow_group_lag_bytes", "gauge", "Positions to the end of the log.", value_lag_positions},
    {"oxbow_group_lag_ms", "gauge", "Age of the oldest event read and not settled.", value_lag_ms},
    {"oxbow_group_in_flight", "gauge", "Events with members.", value_in_flight},
    {"oxbow_group_members", "gauge", "Members.", value_member_count},
    {"oxbow_group_parked", "gauge", "Parked events.", value_parked},
    {"oxbow_group_delivered_total", "counter", "Handed out.", value_delivered},
    {"oxbow_group_acked_total", "counter", "Acknowledged.", value_acked},
    {"oxbow_group_retries_total", "counter", "Handed out again.", value_retries},
    {"oxbow_group_timeouts_total", "counter", "Not acknowledged in time.", value_timeouts},
};

static void
put_figure(void *arg, const struct group_info *g)
{
    const struct figures *f = arg;

    buf_printf(f->out, "%s{stream=\"", f->figure->name);
    put_label(f->out, g->source);
    buf_add_str(f->out, "\",group=\"");
    put_label(f->out, g->name);
    buf_printf(f->out, "\"} %llu\n", (unsigned long long)f->figure->value(g));
}

void
serveri_group_metrics(struct server_extra *extra, struct buf *out)
{
    const struct front *f = (const struct front *)extra;

    for (size_t i = 0; i < sizeof all_figures / sizeof all_figures[0]; i++) {
        struct figures figures = {out, &all_figures[i]};

        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", all_figures[i].name, all_figures[i].help,
                   all_figures[i].name, all_figures[i].type);
        group_each(f->groups, (struct slice){0}, put_figure, &figures);
    }
}

#define PATH "/v1/groups/{stream}/{group}"

const struct server_route serveri_group_routes[] = {
    {"GET", "/v1/groups", list_groups, 0},
    {"PUT", PATH, create_group, SETTINGS_BYTES},
    {"PATCH", PATH, update_group, SETTINGS_BYTES},
    {"GET", PATH, show_group, 0},
    {"DELETE", PATH, delete_group, 0},
    {"GET", PATH "/events", serveri_group_events, 0},
    {"POST", PATH "/ack", serveri_group_ack, ACK_BYTES},
    {"POST", PATH "/nack", serveri_group_nack, ACK_BYTES},
    {"DELETE", PATH "/members/{member}", serveri_group_leave, 0},
    {"GET", PATH "/parked", list_parked, 0},
    {"POST", PATH "/replay", replay_parked, 1024},
    {"POST", PATH "/skip", skip_parked, 1024},
};
const size_t serveri_group_route_count =
    sizeof serveri_group_routes / sizeof serveri_group_routes[0];
