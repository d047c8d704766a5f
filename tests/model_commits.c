/* Random commits: made up, foretold by the model, done, and their answers held against that. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "env/env_real.h"
#include "tests/model_world.h"

#define WRITES 3
#define EVENTS 4
#define NAME_ROOM (LOG_NAME_MAX + 4)
#define DATA_MAX 1200000

/* What the library is called with: its calls do less than the log's commits. */
enum shape { COMMIT, CHANGE, CHANGE_UNNAMED, METADATA };

struct batch {
    atomic_uint    left;
    struct ox_gate gate;
};

struct op {
    enum shape           shape;
    struct log_req       req;
    struct log_write     writes[WRITES];
    struct log_new_event events[WRITES][EVENTS];
    struct log_check     checks[2];
    struct log_change    changes[2];
    char                 names[8][NAME_ROOM];
    uint32_t             name_count;
    char                *texts[WRITES * EVENTS * 2];
    uint32_t             text_count;
    struct model_answer  want;
    struct batch        *batch;
};

/* making one up */

static struct slice
keep_name(struct op *op, const char *before, struct slice name)
{
    char *to = op->names[op->name_count++];

    must(op->name_count <= 8);
    return slice_of(to, (size_t)snprintf(to, NAME_ROOM, "%s%.*s", before, SLICE_FMT(name)));
}

static char *
text_room(struct op *op, size_t room)
{
    char *text = malloc(room);

    must(text != NULL && op->text_count < sizeof op->texts / sizeof op->texts[0]);
    op->texts[op->text_count++] = text;
    return text;
}

static int64_t
pick_expected(struct world *w, struct slice stream)
{
    const struct model_stream *s = model_find(&w->model, stream);
    uint64_t                   next = s == NULL ? 0 : s->next;

    switch (world_pick(w, 20)) {
    case 0:
        return LOG_NO_STREAM;
    case 1:
    case 2:
        return LOG_EXISTS;
    case 3:
        return (int64_t)world_pick(w, (uint32_t)next + 3);
    case 4:
        return world_pick(w, 10) == 0 ? -3 : LOG_ANY;
    case 5:
    case 6:
    case 7:
    case 8:
        return next == 0 ? LOG_NO_STREAM : (int64_t)next - 1;
    default:
        return LOG_ANY;
    }
}

static struct slice
pick_data(struct world *w, struct op *op)
{
    uint32_t kind = world_pick(w, 4000),
             longer = w->seed % 4 == 1 ? 800 : 60; /* to seal segments */
    size_t len = kind == 0 ? DATA_MAX : kind < 3 ? 70000 : kind < longer ? 3000 : 0;
    char  *text = text_room(op, len + 32);
    int    n;

    n = snprintf(text, 32, "{\"n\":%u}", w->tags);
    if (len > 0) { /* still JSON */
        memset(text + n, ' ', len);
        n += (int)len;
    }
    return slice_of(text, (size_t)n);
}

static struct slice
pick_type(struct world *w)
{
    static const char *const types[] = {"t", "t", "t", "u", "t u", "\xc3\xa9-1", "%2F", ""};
    static char              longest[LOG_TYPE_MAX + 2];
    uint32_t                 i = world_pick(w, 60);

    memset(longest, 'y', LOG_TYPE_MAX + 1);
    if (i == 59)
        return slice_of(longest, LOG_TYPE_MAX + (world_pick(w, 8) == 0));
    if (i == 58 && world_pick(w, 8) == 0)
        return slice_str("");
    return slice_str(types[i % 7]);
}

static void
pick_link(struct world *w, struct op *op, struct log_new_event *e)
{
    static const char *const   odd[] = {"nonsense", "@a-1",  "5@",
                                        "",         "x@a-1", "99999999999999999999@a-1"};
    const char                *name = world_name(w);
    const struct model_stream *s = model_find(&w->model, slice_str(name));
    uint32_t                   next = s == NULL ? 0 : (uint32_t)s->next;
    char                      *text = text_room(op, NAME_ROOM + 24);

    e->type = slice_str("$>");
    e->flags = LOG_LINK;
    e->data = slice_of(
        text, (size_t)snprintf(text, NAME_ROOM + 24, "%u@%s", world_pick(w, next + 2), name));
    if (world_pick(w, 20) == 0)
        e->data = slice_str(odd[world_pick(w, sizeof odd / sizeof odd[0])]);
}

static void
pick_event(struct world *w, struct op *op, struct log_new_event *e)
{
    memset(e, 0, sizeof *e);
    w->tags++;
    if (world_pick(w, 10) == 0) {
        pick_link(w, op, e);
    } else {
        e->type = pick_type(w);
        e->data = pick_data(w, op);
        e->flags = LOG_JSON;
    }
    if (world_pick(w, 5) == 0)
        e->meta = slice_str("{\"m\":[1,2]}");
    if (world_pick(w, 3) != 0)
        for (int i = 0; i < 16; i++)
            e->id.b[i] = (uint8_t)(world_random(w) >> 40);
    if (w->log != NULL && world_pick(w, 4) == 0)
        e->created_us = MODEL_LONG_AGO_US;
}

/* What stands there already, or nearly. */
static bool
repeat_write(struct world *w, struct op *op, struct log_write *wr, struct log_new_event *events)
{
    const struct model_stream *s = model_find(&w->model, wr->stream);
    uint64_t                   version;

    if (s == NULL || s->next == 0)
        return false;
    version = world_pick(w, 3) == 0 ? 0 : world_pick(w, (uint32_t)s->next);
    wr->count = 1 + world_pick(w, EVENTS);
    for (uint32_t i = 0; i < wr->count; i++) {
        pick_event(w, op, &events[i]);
        if (version + i < s->next && world_pick(w, 12) != 0)
            events[i].id = w->model.events[s->events[version + i]].id;
    }
    wr->expected = world_pick(w, 3) == 0   ? LOG_ANY
                   : world_pick(w, 6) == 0 ? LOG_EXISTS
                   : version == 0          ? LOG_NO_STREAM
                                           : (int64_t)version - 1;
    return true;
}

static void
pick_write(struct world *w, struct op *op, uint32_t i)
{
    struct log_write *wr = &op->writes[i];

    *wr = (struct log_write){.stream = keep_name(op, "", slice_str(world_name(w))),
                             .events = op->events[i]};
    wr->expected = pick_expected(w, wr->stream);
    if (world_pick(w, 6) == 0 && repeat_write(w, op, wr, op->events[i]))
        return;
    wr->count = world_pick(w, 4) == 0 ? 1 + world_pick(w, EVENTS) : 1;
    for (uint32_t k = 0; k < wr->count; k++)
        pick_event(w, op, &op->events[i][k]);
}

/* The tests' good metadata begins with "ok". */
static struct slice
pick_meta(struct world *w, struct op *op, uint64_t next)
{
    static const char *const bad[] = {"",
                                      "[]",
                                      "{",
                                      "{\"$maxCount\":0}",
                                      "{\"$maxAge\":-1}",
                                      "{\"$tb\":1.5}",
                                      "{\"$tb\":9223372036854775808}",
                                      "{\"$acl\":[]}"};
    char                    *text = text_room(op, 256);
    int                      n;

    if (world_pick(w, 12) == 0)
        return slice_str(bad[world_pick(w, sizeof bad / sizeof bad[0])]);
    n = snprintf(text, 256, "{\"ok\":%u", w->tags);
    if (world_pick(w, 2) == 0)
        n += snprintf(text + n, 100, ",\"$maxCount\":%u", 1 + world_pick(w, 6));
    if (world_pick(w, 4) == 0)
        n += snprintf(text + n, 100, ",\"$maxAge\":%s",
                      world_pick(w, 2) == 0 ? "86400" : "900000000000");
    if (world_pick(w, 20) == 0)
        n += snprintf(text + n, 100, ",\"$tb\":9223372036854775807");
    else if (world_pick(w, 4) == 0)
        n += snprintf(text + n, 100, ",\"$tb\":%u", world_pick(w, (uint32_t)next + 2));
    n += snprintf(text + n, 16, "}");
    return slice_of(text, (size_t)n);
}

static void
pick_metadata(struct world *w, struct op *op, uint32_t i)
{
    struct slice               name = slice_str(world_name(w));
    const struct model_stream *s = model_find(&w->model, name);
    struct log_write          *wr = &op->writes[i];

    op->events[i][0] = (struct log_new_event){
        .type = slice_str(LOG_META_TYPE),
        .data = pick_meta(w, op, s == NULL ? 0 : s->next),
        .flags = LOG_JSON,
    };
    *wr = (struct log_write){
        .stream = keep_name(op, "$$", name), .events = op->events[i], .count = 1};
    wr->expected = pick_expected(w, wr->stream);
}

static void
pick_change(struct world *w, struct op *op, uint32_t i, struct slice stream)
{
    static const uint32_t      whats[] = {LOG_SET_TRUNCATE, LOG_SET_TRUNCATE, LOG_SET_TRUNCATE,
                                          LOG_SET_DELETED,  LOG_SET_DELETED,  LOG_SET_CLOSED,
                                          LOG_SET_OPEN,     LOG_SET_OPEN};
    const struct model_stream *s = model_find(&w->model, stream);
    struct log_change         *c = &op->changes[i];

    *c = (struct log_change){.stream = stream, .expected = pick_expected(w, stream)};
    c->what = whats[world_pick(w, sizeof whats / sizeof whats[0])];
    if (world_pick(w, 40) == 0)
        c->what = LOG_SET_TOMBSTONE;
    if (world_pick(w, 12) == 0 && w->log != NULL)
        c->what |= whats[world_pick(w, sizeof whats / sizeof whats[0])];
    if (world_pick(w, 6) == 0 && w->log != NULL) {
        c->what |= LOG_SET_LIMITS;
        c->max_count = world_pick(w, 6);
        c->max_age_us = world_pick(w, 4) == 0 ? MODEL_DAY_US : 0;
    }
    if ((c->what & LOG_SET_TRUNCATE) != 0)
        c->truncate = world_pick(w, s == NULL ? 2 : (uint32_t)s->next + 3);
}

/* By the log: all that a commit may be. */
static void
pick_commit(struct world *w, struct op *op)
{
    struct log_req *r = &op->req;
    uint32_t        kind = world_pick(w, 100);

    r->write_count = kind < 70 ? 1 : kind < 85 ? 1 + world_pick(w, WRITES) : 0;
    for (uint32_t i = 0; i < r->write_count; i++)
        if (world_pick(w, 8) == 0)
            pick_metadata(w, op, i);
        else
            pick_write(w, op, i);
    if (world_pick(w, 10) == 0)
        for (; r->check_count < 1 + world_pick(w, 2); r->check_count++) {
            struct slice name = keep_name(op, "", slice_str(world_name(w)));
            op->checks[r->check_count] = (struct log_check){name, pick_expected(w, name)};
        }
    if (w->log != NULL && (kind >= 85 || world_pick(w, 20) == 0))
        for (; r->change_count < 1 + (world_pick(w, 4) == 0); r->change_count++) {
            struct slice name;
            if (r->write_count > 0 && world_pick(w, 2) == 0)
                name = op->writes[0].stream;
            else
                name = keep_name(op, world_pick(w, 15) == 0 ? "$$" : "", slice_str(world_name(w)));
            pick_change(w, op, r->change_count, name);
        }
    if (w->log != NULL && world_pick(w, 60) == 0)
        r->flags = LOG_QUIET;
}

static void
pick_op(struct world *w, struct op *op)
{
    memset(op, 0, sizeof *op);
    op->req.writes = op->writes;
    op->req.checks = op->checks;
    op->req.changes = op->changes;
    if (w->log == NULL && world_pick(w, 5) == 0) {
        op->req.change_count = 1;
        pick_change(w, op, 0, keep_name(op, "", slice_str(world_name(w))));
        op->shape = CHANGE;
        if (world_pick(w, 2) == 0) {
            op->shape = CHANGE_UNNAMED;
            op->changes[0].expected = LOG_EXISTS;
        }
    } else if (w->log == NULL && world_pick(w, 7) == 0) {
        op->req.write_count = 1;
        op->shape = METADATA;
        pick_metadata(w, op, 0);
    } else {
        pick_commit(w, op);
    }
}

/* telling */

static void
say_op(const struct world *w, const struct op *op)
{
    const struct log_req *r = &op->req;

    printf("%u:", w->step);
    for (uint32_t i = 0; i < r->write_count; i++) {
        printf(" append %.*s expected %" PRId64 " (", SLICE_FMT(r->writes[i].stream),
               r->writes[i].expected);
        for (uint32_t k = 0; k < r->writes[i].count; k++) {
            const struct log_new_event *e = &r->writes[i].events[k];
            printf("%s%.*s %.80s id %02x%02x%s", k > 0 ? ", " : "", SLICE_FMT(e->type),
                   e->data.len == 0 ? "" : (const char *)e->data.data, e->id.b[0], e->id.b[1],
                   e->created_us != 0 ? " old" : "");
        }
        printf(")");
    }
    for (uint32_t i = 0; i < r->change_count; i++)
        printf(" change %.*s expected %" PRId64 " what %u truncate %" PRIu64 " count %" PRIu64
               " age %" PRId64,
               SLICE_FMT(r->changes[i].stream), r->changes[i].expected, r->changes[i].what,
               r->changes[i].truncate, r->changes[i].max_count, r->changes[i].max_age_us);
    for (uint32_t i = 0; i < r->check_count; i++)
        printf(" check %.*s %" PRId64, SLICE_FMT(r->checks[i].stream), r->checks[i].expected);
    printf("%s -> %s%s\n", (r->flags & LOG_QUIET) != 0 ? " quiet" : "",
           op->want.rc == 0 ? "done" : err_name(op->want.rc), op->want.idempotent ? " again" : "");
}

/* by the log */

static void
on_done(struct log_req *req)
{
    struct op *op = req->arg;

    if (atomic_fetch_sub(&op->batch->left, 1) == 1)
        env_real()->ops->gate_open(env_real(), &op->batch->gate);
}

/* Where an event stands: told for the first time, or the same as ever. */
void
world_know_position(struct world *w, uint32_t event, uint64_t pos, const char *what)
{
    struct model_event *e = &w->model.events[event];

    if (e->guessed)
        e->pos = pos;
    e->guessed = false;
    if (e->pos != pos)
        world_differ(w, "%s: position %" PRIu64 ", it was %" PRIu64, what, pos, e->pos);
    /* Those before it that nobody told: any places that keep the order. */
    for (uint32_t i = 1; i <= event && e[-(int)i].guessed; i++) {
        e[-(int)i].pos = pos - (uint64_t)2 * i;
    }
    for (uint32_t i = 1; event + i < w->model.count && e[i].guessed && e[i].pos <= e[i - 1].pos;
         i++)
        e[i].pos = e[i - 1].pos + 2;
}

static void
check_refused(struct world *w, const struct op *op)
{
    const struct model_answer *want = &op->want;
    const struct log_req      *r = &op->req;

    if (want->rc == E_INVALID)
        return;
    if (!slice_eq(r->wrong_stream, want->wrong_stream))
        world_differ(w, "refused for \"%.*s\", expected for \"%.*s\"", SLICE_FMT(r->wrong_stream),
                     SLICE_FMT(want->wrong_stream));
    if (want->rc == E_WRONG_VERSION && r->wrong_actual != want->wrong_actual)
        world_differ(w, "the stream is said to have %" PRId64 ", expected %" PRId64,
                     r->wrong_actual, want->wrong_actual);
    if (want->rc == E_GONE && ((r->gone_flags & LOG_STREAM_CLOSED) != 0) != want->closed)
        world_differ(w, "closed: %u, expected %d", r->gone_flags, want->closed);
    if (want->rc == E_GONE && ((r->gone_flags & LOG_STREAM_TOMBSTONE) != 0) != want->tombstone)
        world_differ(w, "gone: flags %u, expected %d", r->gone_flags, want->tombstone);
}

static void
check_log(struct world *w, const struct op *op)
{
    const struct model_answer *want = &op->want;
    const struct log_req      *r = &op->req;

    w->ops++;
    if (r->rc != want->rc) {
        world_differ(w, "got %s (%s), expected %s", r->rc == 0 ? "done" : err_name(r->rc),
                     r->err.text, want->rc == 0 ? "done" : err_name(want->rc));
        return;
    }
    if (r->rc != 0) {
        check_refused(w, op);
        return;
    }
    if (r->idempotent != want->idempotent)
        world_differ(w, "got idempotent %d, expected %d", r->idempotent, want->idempotent);
    for (uint32_t i = 0; i < r->write_count; i++)
        if (r->writes[i].first_version != want->first[i] ||
            r->writes[i].last_version != want->last[i])
            world_differ(w,
                         "write %u: got versions %" PRIu64 " to %" PRIu64 ", expected %" PRIu64
                         " to %" PRIu64,
                         i, r->writes[i].first_version, r->writes[i].last_version, want->first[i],
                         want->last[i]);
    if (want->first_event == UINT32_MAX)
        return;
    world_know_position(w, want->last_event, r->last.v, "the last event");
    world_know_position(w, want->first_event, r->pos.v, "the first event");
}

/* by the library */

static int
status_of(int rc)
{
    switch (rc) {
    case 0:
        return OX_OK;
    case E_WRONG_VERSION:
        return OX_WRONG_VERSION;
    case E_GONE:
        return OX_GONE;
    case E_NOTFOUND:
        return OX_NOT_FOUND;
    default:
        return OX_INVALID;
    }
}

static int
library_change(struct world *w, const struct op *op, struct ox_error *e)
{
    const struct log_change *c = &op->changes[0];
    struct ox_change         how = {.size = sizeof how, .expected = c->expected};
    const struct ox_change  *use = op->shape == CHANGE_UNNAMED ? NULL : &how;
    const char              *name = c->stream.data;
    uint64_t                 pos;

    switch (c->what) {
    case LOG_SET_TRUNCATE:
        return ox_truncate(w->ox, name, c->truncate, use, &pos, e);
    case LOG_SET_DELETED:
        return ox_delete(w->ox, name, use, &pos, e);
    case LOG_SET_TOMBSTONE:
        return ox_tombstone(w->ox, name, use, &pos, e);
    default:
        return ox_set_closed(w->ox, name, c->what == LOG_SET_CLOSED, use, &pos, e);
    }
}

/* The library takes texts that end in a NUL. */
static const char *
ended(struct op *op, struct slice s)
{
    char *text = text_room(op, s.len + 1);

    if (s.len > 0)
        memcpy(text, s.data, s.len);
    text[s.len] = '\0';
    return text;
}

static int
library_commit(struct world *w, struct op *op, struct ox_write *writes, struct ox_error *e)
{
    struct ox_new_event events[WRITES][EVENTS];
    char                ids[WRITES][EVENTS][ID_TEXT_LEN + 1];
    uint32_t            n = 0;

    for (uint32_t i = 0; i < op->req.write_count; i++) {
        const struct log_write *from = &op->writes[i];
        writes[n++] = (struct ox_write){.stream = from->stream.data,
                                        .expected = from->expected,
                                        .events = events[i],
                                        .count = from->count};
        for (uint32_t k = 0; k < from->count; k++) {
            const struct log_new_event *f = &from->events[k];
            id_format(&f->id, ids[i][k]);
            events[i][k] = (struct ox_new_event){.type = ended(op, f->type),
                                                 .data = f->data.data,
                                                 .data_len = f->data.len,
                                                 .metadata = f->meta.data,
                                                 .metadata_len = f->meta.len,
                                                 .id = id_is_zero(&f->id) ? NULL : ids[i][k]};
        }
    }
    for (uint32_t i = 0; i < op->req.check_count; i++)
        writes[n++] = (struct ox_write){.stream = op->checks[i].stream.data,
                                        .expected = op->checks[i].expected};
    return ox_commit(w->ox, writes, n, e);
}

static void
check_library(struct world *w, const struct op *op, const struct ox_write *writes, int status,
              uint64_t version, const struct ox_error *e)
{
    const struct model_answer *want = &op->want;
    int                        wanted = status_of(want->rc);

    w->ops++;
    if (op->shape == CHANGE_UNNAMED && want->rc == E_WRONG_VERSION)
        wanted = OX_NOT_FOUND;
    if (status != wanted) {
        world_differ(w, "the library: got %d (%s), expected %d", status, e->text, wanted);
        return;
    }
    if (status != OX_OK)
        return;
    if (op->shape == METADATA && version != want->last[0])
        world_differ(w, "metadata: got version %" PRIu64 ", expected %" PRIu64, version,
                     want->last[0]);
    for (uint32_t i = 0; op->shape == COMMIT && i < op->req.write_count; i++)
        if (writes[i].appended.first_version != want->first[i] ||
            writes[i].appended.last_version != want->last[i])
            world_differ(w, "write %u: got first version %" PRIu64 ", expected %" PRIu64, i,
                         writes[i].appended.first_version, want->first[i]);
    if (op->shape == COMMIT && want->last_event != UINT32_MAX)
        world_know_position(w, want->last_event, writes[0].appended.position, "the last event");
}

static void
do_library(struct world *w, struct op *op)
{
    struct ox_write writes[WRITES + 2] = {0};
    struct ox_error e = {0};
    uint64_t        version = 0;
    int             status;

    if (op->shape == COMMIT)
        status = library_commit(w, op, writes, &e);
    else if (op->shape == METADATA)
        status = ox_set_metadata(w->ox, (const char *)op->writes[0].stream.data + 2,
                                 op->writes[0].expected, op->events[0][0].data.data,
                                 op->events[0][0].data.len, &version, &e);
    else
        status = library_change(w, op, &e);
    check_library(w, op, writes, status, version, &e);
}

void
world_commits(struct world *w)
{
    static struct op ops[WORLD_BATCH];
    struct batch     b;
    uint32_t n = w->log == NULL || world_pick(w, 2) == 0 ? 1 : 1 + world_pick(w, WORLD_BATCH);

    gate_init(&b.gate);
    atomic_init(&b.left, n);
    for (uint32_t i = 0; i < n; i++) {
        pick_op(w, &ops[i]);
        model_commit(&w->model, &ops[i].req, &ops[i].want);
        if (w->say)
            say_op(w, &ops[i]);
        ops[i].batch = &b;
        ops[i].req.arg = &ops[i];
        ops[i].req.done = on_done;
        if (w->log != NULL)
            log_submit(w->log, &ops[i].req);
        else
            do_library(w, &ops[i]);
    }
    if (w->log != NULL)
        (void)env_real()->ops->gate_wait(env_real(), &b.gate, UINT64_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (w->log != NULL)
            check_log(w, &ops[i]);
        for (uint32_t k = 0; k < ops[i].text_count; k++)
            free(ops[i].texts[k]);
        ops[i].batch = NULL; /* which ends here */
    }
}
