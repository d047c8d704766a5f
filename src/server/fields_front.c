/* Indexes on fields over HTTP: making and dropping them, their state, values and events. */
#include "server/fields_front.h"

#include <stdlib.h>

#include "base/json.h"
#include "core/fields.h"
#include "server/feed_int.h"

#define COMMAND_MS 30000
#define DEF_BYTES 8192
#define VALUES_PAGE 100
#define VALUES_MAX 1000

struct front {
    struct server_extra extra; /* first */
    struct fields      *fields;
};

static void
begin_body(struct call *call, struct json_out *o)
{
    struct buf *body = &call->conn->server->scratch;

    buf_clear(body);
    json_out_init(o, body);
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

static int
no_query(const struct call *call, struct err *err)
{
    if (call->uri.param_count > 0)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "this request takes no parameters");
    return 0;
}

/* looking */

static void
show(void *arg, const struct fields_info *i)
{
    fields_info_write(i, arg);
}

static void
list_indexes(struct call *call, void *arg)
{
    struct front   *f = arg;
    struct json_out o;
    struct err      err;

    if (no_query(call, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    begin_body(call, &o);
    json_out_object(&o);
    json_out_key(&o, "indexes");
    json_out_array(&o);
    fields_each(f->fields, show, &o);
    json_out_array_end(&o);
    json_out_object_end(&o);
    answer_scratch(call);
}

static void
show_index(struct call *call, void *arg)
{
    struct front   *f = arg;
    struct json_out o;
    struct err      err;

    begin_body(call, &o);
    if (no_query(call, &err) != 0 ||
        fields_get(f->fields, call_param(call, "name"), show, &o, &err) != 0)
        call_fail(call, &err);
    else
        answer_scratch(call);
}

/* commands */

struct order {
    struct fields_command command;
    struct fields        *fields;
    struct buf            name, texts;
    struct later         *later;
    int                   status;
};

static void
order_free(struct order *r)
{
    buf_fini(&r->name);
    buf_fini(&r->texts);
    free(r);
}

/* On the indexes' task. */
static void
on_done(struct fields_command *c)
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
    if (c->verb == FIELDS_DROP || fields_get(r->fields, c->def.name, show, &o, NULL) != 0) {
        json_out_object(&o);
        json_out_key(&o, "name");
        json_out_string(&o, c->def.name);
        json_out_object_end(&o);
    }
    buf_add_byte(&body, '\n');
    later_answer(r->later, r->status, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
    order_free(r);
}

static int
read_order(struct call *call, struct order *r, struct err *err)
{
    struct slice body = call_body(call), name = call_param(call, "name");
    int          rc = 0;

    TRY(no_query(call, err));
    if (r->command.verb == FIELDS_CREATE)
        TRY(fields_def_read(body, &r->command.def, &r->texts, err));
    else if (body.len > 0 && !slice_is(body, "{}"))
        FAIL(err, E_INVALID, ERR_DATA, "this request takes no body");
    if (r->command.def.name.len > 0 && !slice_eq(r->command.def.name, name))
        FAIL(err, E_INVALID, ERR_DATA, "name: is not that of the path");
    buf_add_slice(&r->name, name);
    if (r->name.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the request");
    r->command.def.name = buf_slice(&r->name);
out:
    return rc;
}

static void
give_order(struct call *call, struct front *f, enum fields_verb verb, int status)
{
    struct order *r = calloc(1, sizeof *r);
    struct err    err;

    if (r == NULL) {
        call_refuse(call, 503, "out-of-memory", "no memory for the request");
        return;
    }
    r->fields = f->fields;
    r->status = status;
    r->command.verb = verb;
    r->command.done = on_done;
    r->command.arg = r;
    if (read_order(call, r, &err) != 0) {
        call_fail(call, &err);
        order_free(r);
        return;
    }
    r->later = call_later(call, COMMAND_MS);
    if (r->later == NULL)
        order_free(r);
    else
        fields_submit(f->fields, &r->command);
}

static void
create_index(struct call *call, void *arg)
{
    give_order(call, arg, FIELDS_CREATE, 201);
}

static void
drop_index(struct call *call, void *arg)
{
    give_order(call, arg, FIELDS_DROP, 200);
}

static void
rebuild_index(struct call *call, void *arg)
{
    give_order(call, arg, FIELDS_REBUILD, 202);
}

/* values */

struct page {
    struct json_out o;
    struct buf      last;
    uint64_t        count, limit;
};

static int
put_value(void *arg, struct slice value, uint64_t count, struct err *err)
{
    struct page *p = arg;

    if (p->count == p->limit)
        return E_END;
    p->count++;
    json_out_object(&p->o);
    json_out_key(&p->o, "value");
    json_out_raw(&p->o, value);
    json_out_key(&p->o, "count");
    json_out_u64(&p->o, count);
    json_out_object_end(&p->o);
    buf_clear(&p->last);
    buf_add_slice(&p->last, value);
    return 0;
}

static int
read_values(struct front *f, struct call *call, struct page *p, struct err *err)
{
    struct slice text;
    struct buf   after = {0};
    bool         more;
    int          rc = 0;

    for (unsigned i = 0; i < call->uri.param_count; i++)
        if (!slice_is(call->uri.params[i].name, "after") &&
            !slice_is(call->uri.params[i].name, "limit"))
            FAIL(err, E_INVALID, ERR_DATA, "an unknown parameter; known are after, limit");
    if (call_query(call, "limit", &text) &&
        (!json_uint64(text, &p->limit) || p->limit == 0 || p->limit > VALUES_MAX))
        FAIL(err, E_INVALID, ERR_DATA, "limit: must be a number from 1 to %d", VALUES_MAX);
    if (call_query(call, "after", &text))
        TRY(fields_value(text, &after, err));
    json_out_object(&p->o);
    json_out_key(&p->o, "values");
    json_out_array(&p->o);
    rc = fields_values(f->fields, call_param(call, "name"), buf_slice(&after), put_value, p, err);
    more = rc == E_END;
    if (!more)
        TRY(rc);
    rc = 0;
    json_out_array_end(&p->o);
    json_out_key(&p->o, "next");
    if (more)
        json_out_string(&p->o, buf_slice(&p->last)); /* the text for `after` */
    else
        json_out_null(&p->o);
    json_out_object_end(&p->o);
out:
    buf_fini(&after);
    return rc;
}

static void
list_values(struct call *call, void *arg)
{
    struct page p = {.limit = VALUES_PAGE};
    struct err  err;

    begin_body(call, &p.o);
    if (read_values(arg, call, &p, &err) != 0)
        call_fail(call, &err);
    else
        answer_scratch(call);
    buf_fini(&p.last);
}

/* events */

static int
prepare(struct call *call, void *arg, struct feed_query *q, struct err *err)
{
    struct slice text;
    int          rc = 0;

    if (!call_query(call, "value", &text))
        FAIL(err, E_INVALID, ERR_DATA, "value: must be given");
    buf_add_slice(&q->key[0], call_param(call, "name"));
    TRY(fields_value(text, &q->key[1], err));
    if (q->key[0].failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the query");
out:
    return rc;
}

static int
open_reader(void *arg, const struct feed_query *q, void **reader, struct err *err)
{
    struct front       *f = arg;
    struct fields_query query = {.name = buf_slice(&q->key[0]),
                                 .value = buf_slice(&q->key[1]),
                                 .from = q->read.from,
                                 .backwards = q->read.backwards,
                                 .patience = q->read.patience};
    struct fields_read *r;
    int                 rc = fields_read_open(f->fields, &query, &r, err);

    *reader = r;
    return rc;
}

static int
next_event(void *reader, struct log_event *out, struct err *err)
{
    return fields_read_next(reader, out, err);
}

static struct log_pos
reader_pos(void *reader)
{
    return fields_read_pos(reader);
}

static void
close_reader(void *reader)
{
    fields_read_close(reader);
}

static const char *const params[] = {"value", NULL};

static const struct feed_reader_ops reader_ops = {
    .params = params,
    .prepare = prepare,
    .open = open_reader,
    .next = next_event,
    .pos = reader_pos,
    .close = close_reader,
};

static void
read_events(struct call *call, void *arg)
{
    serveri_feed_serve(call, &reader_ops, arg);
}

/* figures */

struct figure {
    const char *name, *help;
    uint64_t (*value)(const struct fields_info *);
};

struct figures {
    struct buf          *out;
    const struct figure *figure;
};

static uint64_t
value_lag(const struct fields_info *i)
{
    return i->end.v > i->covers.v ? i->end.v - i->covers.v : 0;
}

static uint64_t
value_entries(const struct fields_info *i)
{
    return i->entries;
}

static uint64_t
value_skipped(const struct fields_info *i)
{
    return i->skipped;
}

static uint64_t
value_live(const struct fields_info *i)
{
    return i->live;
}

static uint64_t
value_failed(const struct fields_info *i)
{
    return i->error != NULL;
}

static const struct figure all_figures[] = {
    {"oxbow_index_live", "1: was built once and can be read.", value_live},
    {"oxbow_index_failed", "1: does not go on.", value_failed},
    {"oxbow_index_lag_bytes", "Positions to the end of the log.", value_lag},
    {"oxbow_index_entries", "Values and positions.", value_entries},
    {"oxbow_index_skipped", "Values that were not taken.", value_skipped},
};

static void
put_figure(void *arg, const struct fields_info *i)
{
    const struct figures *f = arg;

    buf_printf(f->out, "%s{index=\"%.*s\"} %llu\n", f->figure->name, SLICE_FMT(i->def->name),
               (unsigned long long)f->figure->value(i));
}

static void
put_metrics(struct server_extra *extra, struct buf *out)
{
    const struct front *f = (const struct front *)extra;

    for (size_t i = 0; i < sizeof all_figures / sizeof all_figures[0]; i++) {
        struct figures figures = {out, &all_figures[i]};

        buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", all_figures[i].name, all_figures[i].help,
                   all_figures[i].name);
        fields_each(f->fields, put_figure, &figures);
    }
}

#define PATH "/v1/indexes/{name}"

static const struct server_route routes[] = {
    {"GET", "/v1/indexes", list_indexes, 0},
    {"PUT", PATH, create_index, DEF_BYTES},
    {"GET", PATH, show_index, 0},
    {"DELETE", PATH, drop_index, 0},
    {"POST", PATH "/rebuild", rebuild_index, 1024},
    {"GET", PATH "/values", list_values, 0},
    {"GET", PATH "/events", read_events, 0},
};

static void
on_stop(struct server_extra *extra)
{
    (void)extra;
}

static void
on_free(struct server_extra *extra)
{
    free(extra);
}

int
server_add_fields(struct server *s, struct fields *fields, struct err *err)
{
    struct front *f = calloc(1, sizeof *f);

    if (f == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the indexes' routes");
    f->extra = (struct server_extra){on_stop, on_free, put_metrics, NULL};
    f->fields = fields;
    serveri_extra_add(s, &f->extra);
    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], f, err);
}
