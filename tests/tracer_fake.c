#include "tracer_fake.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "env/env_real.h"
#include "log/log.h"

struct row {
    bool  there;
    char *text[3];
};

struct line {
    uint32_t   key;
    struct row before, after;
    char      *origin;
};

struct side {
    struct row         rows[FAKE_KEYS + 1]; /* the last one: whatever has a negative key */
    struct line       *lines;
    uint32_t           count, room;
    bool               guarded;
    struct store_guard guard;
    uint64_t           applied;
    uint32_t           fail;
    enum err_kind      fail_kind;
};

static struct {
    pthread_mutex_t  lock;
    struct side      sides[2];
    _Atomic uint64_t calls, crash_at;
    _Atomic bool     crashed, stopped[2], forgetful;
    void (*before_insert)(uint32_t key);
    void (*before_call)(const char *call, enum fake_side);
} * world;

static const char *const names[2][3] = {{"driver", "note", "state"}, {"driver", "memo", "status"}};

static struct row
copy_row(const struct row *r)
{
    struct row c = {.there = r->there};

    for (int i = 0; i < 3; i++)
        c.text[i] = r->text[i] == NULL ? NULL : strdup(r->text[i]);
    return c;
}

static void
free_row(struct row *r)
{
    for (int i = 0; i < 3; i++)
        free(r->text[i]);
    *r = (struct row){0};
}

static struct row
row_of(const struct fake_row *f)
{
    struct row r = {0};

    if (f != NULL)
        r = (struct row){true, {(char *)f->driver, (char *)f->note, (char *)f->state}};
    return r;
}

static bool
same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
same_row(const struct row *a, const struct row *b)
{
    if (!a->there || !b->there)
        return a->there == b->there;
    return same_text(a->text[0], b->text[0]) && same_text(a->text[1], b->text[1]) &&
           same_text(a->text[2], b->text[2]);
}

/* Is it one of those that move? */
static bool
moves(enum fake_side s, const struct row *r)
{
    return r->there && (s == FAKE_NEW || r->text[2] != NULL);
}

void
fake_world_new(void)
{
    world = calloc(1, sizeof *world);
    (void)pthread_mutex_init(&world->lock, NULL);
    atomic_store(&world->crash_at, UINT64_MAX);
}

void
fake_world_free(void)
{
    for (int s = 0; s < 2; s++) {
        struct side *side = &world->sides[s];

        for (uint32_t i = 0; i <= FAKE_KEYS; i++)
            free_row(&side->rows[i]);
        for (uint32_t i = 0; i < side->count; i++) {
            free_row(&side->lines[i].before);
            free_row(&side->lines[i].after);
            free(side->lines[i].origin);
        }
        free(side->lines);
    }
    (void)pthread_mutex_destroy(&world->lock);
    free(world);
    world = NULL;
}

/* With the lock held. */
static void
change(enum fake_side s, uint32_t key, const struct row *to, struct slice origin, bool feed)
{
    struct side *side = &world->sides[s];
    struct row   before = side->rows[key];

    side->rows[key] = copy_row(to);
    if (!feed) {
        free_row(&before);
        return;
    }
    if (side->count == side->room) {
        side->room = side->room == 0 ? 1024 : side->room * 2;
        side->lines = realloc(side->lines, side->room * sizeof side->lines[0]);
    }
    side->lines[side->count++] = (struct line){
        key, before, copy_row(to), origin.len == 0 ? NULL : strndup(origin.data, origin.len)};
}

bool
fake_write(enum fake_side s, uint32_t key, const struct fake_row *f, uint64_t epoch)
{
    struct side *side = &world->sides[s];
    struct row   to = row_of(f);
    bool         ok;

    (void)pthread_mutex_lock(&world->lock);
    ok = !side->guarded || side->guard.writable;
    if (s == FAKE_NEW && side->guarded && epoch < side->guard.epoch)
        ok = false;
    if (s == FAKE_OLD && !moves(s, &side->rows[key]) && !moves(s, &to))
        ok = true;
    if (ok && (side->rows[key].there || to.there))
        change(s, key, &to, slice_str(""), true);
    (void)pthread_mutex_unlock(&world->lock);
    return ok;
}

void
fake_damage(enum fake_side s, uint32_t key, const struct fake_row *f)
{
    struct row to = row_of(f);

    (void)pthread_mutex_lock(&world->lock);
    change(s, key, &to, slice_str(""), false);
    (void)pthread_mutex_unlock(&world->lock);
}

bool
fake_read(enum fake_side s, uint32_t key, struct fake_row *out)
{
    struct row *r = &world->sides[s].rows[key];
    bool        there;

    (void)pthread_mutex_lock(&world->lock);
    there = moves(s, r);
    *out = (struct fake_row){r->text[0], r->text[1], r->text[2]};
    (void)pthread_mutex_unlock(&world->lock);
    return there;
}

bool
fake_equal(uint32_t key)
{
    struct row *a = &world->sides[0].rows[key], *b = &world->sides[1].rows[key];
    bool        equal;

    (void)pthread_mutex_lock(&world->lock);
    equal = moves(FAKE_OLD, a) == moves(FAKE_NEW, b) && (!moves(FAKE_OLD, a) || same_row(a, b));
    (void)pthread_mutex_unlock(&world->lock);
    return equal;
}

uint32_t
fake_differing(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < FAKE_KEYS; i++)
        n += !fake_equal(i);
    return n;
}

bool
fake_guarded(enum fake_side s)
{
    bool is;

    (void)pthread_mutex_lock(&world->lock);
    is = world->sides[s].guarded;
    (void)pthread_mutex_unlock(&world->lock);
    return is;
}

void
fake_guard(enum fake_side s, struct store_guard *out)
{
    (void)pthread_mutex_lock(&world->lock);
    *out = world->sides[s].guard;
    (void)pthread_mutex_unlock(&world->lock);
}

uint64_t
fake_applied(enum fake_side s)
{
    uint64_t n;

    (void)pthread_mutex_lock(&world->lock);
    n = world->sides[s].applied;
    (void)pthread_mutex_unlock(&world->lock);
    return n;
}

void
fake_crash_at(uint64_t nth)
{
    atomic_store(&world->crashed, false);
    atomic_store(&world->calls, 0);
    atomic_store(&world->crash_at, nth);
}

bool
fake_crashed(void)
{
    return world != NULL && atomic_load(&world->crashed);
}

uint64_t
fake_calls(void)
{
    return atomic_load(&world->calls);
}

void
fake_forget_applied(bool forget)
{
    atomic_store(&world->forgetful, forget);
}

void
fake_feed_stop(enum fake_side s, bool stop)
{
    atomic_store(&world->stopped[s], stop);
}

void
fake_fail_writes(enum fake_side s, uint32_t count, enum err_kind kind)
{
    (void)pthread_mutex_lock(&world->lock);
    world->sides[s].fail = count;
    world->sides[s].fail_kind = kind;
    (void)pthread_mutex_unlock(&world->lock);
}

void
fake_before_insert(void (*fn)(uint32_t key))
{
    world->before_insert = fn;
}

void
fake_before_call(void (*fn)(const char *call, enum fake_side))
{
    world->before_call = fn;
}

/* Every call of a store, and log_append by way of the wrapper. */
static int
alive(const char *call, enum fake_side s, struct err *err)
{
    if (world->before_call != NULL)
        world->before_call(call, s);
    if (atomic_fetch_add(&world->calls, 1) >= atomic_load(&world->crash_at))
        atomic_store(&world->crashed, true);
    if (atomic_load(&world->crashed))
        RETURN_ERR(err, E_CLOSED, ERR_RETRY, "the machine is dead");
    return 0;
}

int __real_log_append(struct log *log, struct log_req *req);
int __wrap_log_append(struct log *log, struct log_req *req);

int
__wrap_log_append(struct log *log, struct log_req *req)
{
    /* The feeds' own checkpoints come at any time: they must not move the others' numbers. */
    if (world != NULL &&
        ((req->flags & LOG_QUIET) != 0 ? fake_crashed() || atomic_load(&world->forgetful)
                                       : alive("append", FAKE_OLD, &req->err) != 0))
        return req->rc = err_set(&req->err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "dead");
    return __real_log_append(log, req);
}

/* rows as JSON */

static void
put_json(enum fake_side s, const struct row *r, bool all, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    if (all && s == FAKE_OLD) {
        json_out_key(&o, "amount");
        json_out_u64(&o, 7);
    }
    for (int i = 0; i < 3; i++) {
        json_out_key(&o, names[s][i]);
        json_out_str(&o, r->text[i]);
    }
    json_out_object_end(&o);
}

static int
get_json(enum fake_side s, struct slice json, struct row *out, struct err *err)
{
    struct json_field f[3] = {{.name = names[s][0], .required = true},
                              {.name = names[s][1], .required = true},
                              {.name = names[s][2], .required = true}};
    struct buf        text = {0};
    int               rc;

    *out = (struct row){.there = true};
    TRY(json_pick(json, f, 3, JSON_PICK_ONLY, err));
    for (int i = 0; i < 3; i++) {
        if (json_is_null(f[i].value))
            continue;
        buf_clear(&text);
        TRY(json_string_decode(f[i].value, &text, err));
        out->text[i] = strndup(text.len == 0 ? "" : (char *)text.data, text.len);
    }
out:
    buf_fini(&text);
    return rc;
}

/* the store */

struct fake_store {
    struct store   base;
    enum fake_side side;
    struct buf     key, fields;
};

static int
store_open(struct store *base, const struct conf *conf, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;

    s->side = strcmp(conf_str(conf, "side"), "new") == 0 ? FAKE_NEW : FAKE_OLD;
    base->key_order = STORE_KEY_INTEGER;
    return fake_crashed() ? alive("open", s->side, err) : 0;
}

static void
store_close(struct store *base)
{
    buf_fini(&((struct fake_store *)base)->key);
    buf_fini(&((struct fake_store *)base)->fields);
}

static int
store_check(struct store *base, store_finding_fn *fn, void *arg, struct err *err)
{
    return 0;
}

static struct store_row
show(struct fake_store *s, uint32_t key, const struct row *r)
{
    buf_clear(&s->key);
    buf_add_u64(&s->key, key);
    buf_clear(&s->fields);
    put_json(s->side, r, false, &s->fields);
    return (struct store_row){buf_slice(&s->key), buf_slice(&s->fields), {0}};
}

static uint32_t
number(struct slice key)
{
    uint32_t n;

    if (slice_starts(key, slice_str("-")))
        return FAKE_KEYS;
    n = (uint32_t)strtoul(key.len == 0 ? "0" : key.data, NULL, 10);
    return n <= FAKE_KEYS ? n : FAKE_KEYS;
}

static int
store_scan(struct store *base, struct slice after, uint32_t limit, store_row_fn *fn, void *arg,
           struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    char               text[16];
    uint32_t           from, given = 0;
    int                rc = alive("scan", s->side, err);

    (void)snprintf(text, sizeof text, "%.*s", SLICE_FMT(after));
    from = after.len == 0 ? 0 : (uint32_t)strtoul(text, NULL, 10) + 1;
    for (uint32_t i = from; rc == 0 && i < FAKE_KEYS && (limit == 0 || given < limit); i++) {
        struct store_row row;
        bool             there;

        (void)pthread_mutex_lock(&world->lock);
        there = moves(s->side, &world->sides[s->side].rows[i]);
        if (there)
            row = show(s, i, &world->sides[s->side].rows[i]);
        (void)pthread_mutex_unlock(&world->lock);
        if (!there)
            continue;
        given++;
        rc = fn(arg, &row, err);
    }
    return rc;
}

static int
store_get(struct store *base, struct slice key, struct store_row *out, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    uint32_t           k = number(key);
    bool               there;
    int                rc = alive("get", s->side, err);

    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&world->lock);
    there = moves(s->side, &world->sides[s->side].rows[k]);
    if (there)
        *out = show(s, k, &world->sides[s->side].rows[k]);
    (void)pthread_mutex_unlock(&world->lock);
    if (!there)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "not there");
    return 0;
}

static int
store_write(struct store *base, const struct store_write *w, bool del, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    struct side       *side = &world->sides[s->side];
    struct row         to = {0}, expect = {0}, *now = &side->rows[number(w->key)];
    bool               ok;
    int                rc;

    TRY(alive(del ? "del" : "put", s->side, err));
    if (!del)
        TRY(get_json(s->side, w->fields, &to, err));
    if (w->cond == STORE_EQUALS)
        TRY(get_json(s->side, w->expect, &expect, err));
    if (w->cond == STORE_ABSENT && world->before_insert != NULL)
        world->before_insert(number(w->key));
    (void)pthread_mutex_lock(&world->lock);
    ok = !side->guarded || w->epoch >= side->guard.epoch;
    if (!ok)
        rc = err_set(err, __FILE__, __LINE__, E_FENCED, ERR_FATAL, "an older epoch");
    else if ((w->cond == STORE_ABSENT && moves(s->side, now)) ||
             (w->cond == STORE_EQUALS && !same_row(now, &expect)))
        rc = err_set(err, __FILE__, __LINE__, E_WRONG_VERSION, ERR_DATA, "another row");
    else if (side->fail > 0 && side->fail_kind != ERR_UNSURE)
        rc = err_set(err, __FILE__, __LINE__, side->fail_kind == ERR_DATA ? E_REJECTED : E_CONNECT,
                     side->fail_kind, "planted");
    if (rc == 0 && (!del || moves(s->side, now))) {
        if (del && s->side == FAKE_OLD)
            to.there = true; /* the row stays, without its part that moves */
        side->applied += !same_row(now, &to);
        change(s->side, number(w->key), &to, w->origin, true);
    }
    if (rc == 0 && side->fail > 0)
        rc = err_set(err, __FILE__, __LINE__, E_REMOTE, ERR_UNSURE, "planted");
    side->fail -= side->fail > 0;
    (void)pthread_mutex_unlock(&world->lock);
out:
    free_row(&to);
    free_row(&expect);
    return rc;
}

static int
store_put(struct store *s, const struct store_write *w, struct err *err)
{
    return store_write(s, w, false, err);
}

static int
store_del(struct store *s, const struct store_write *w, struct err *err)
{
    return store_write(s, w, true, err);
}

static int
store_position(struct store *base, struct buf *out, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    int                rc = alive("position", s->side, err);

    (void)pthread_mutex_lock(&world->lock);
    buf_printf(out, "{\"n\":%u}", world->sides[s->side].count);
    (void)pthread_mutex_unlock(&world->lock);
    return rc;
}

static int
guard_set(struct store *base, const struct store_guard *g, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    struct side       *side = &world->sides[s->side];
    int                rc = alive(g->writable ? "open_guard" : "close_guard", s->side, err);

    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&world->lock);
    if (!side->guarded)
        rc = err_set(err, __FILE__, __LINE__, E_NOTFOUND, ERR_FATAL, "no guard");
    else if (g->epoch > side->guard.epoch)
        side->guard = *g;
    else if (g->epoch < side->guard.epoch || g->writable != side->guard.writable)
        rc = err_set(err, __FILE__, __LINE__, E_FENCED, ERR_FATAL, "a newer guard");
    (void)pthread_mutex_unlock(&world->lock);
    return rc;
}

static int
guard_install(struct store *base, const struct store_guard *g, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    struct side       *side = &world->sides[s->side];
    int                rc = alive("install", s->side, err);

    (void)pthread_mutex_lock(&world->lock);
    if (rc == 0 && (!side->guarded || side->guard.epoch < g->epoch)) {
        side->guarded = true;
        side->guard = *g;
    }
    (void)pthread_mutex_unlock(&world->lock);
    return rc;
}

static int
guard_get(struct store *base, struct store_guard *g, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    int                rc = alive("guard_get", s->side, err);

    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&world->lock);
    *g = world->sides[s->side].guard;
    if (!world->sides[s->side].guarded)
        rc = err_set(err, __FILE__, __LINE__, E_NOTFOUND, ERR_DATA, "no guard");
    (void)pthread_mutex_unlock(&world->lock);
    return rc;
}

static int
guard_remove(struct store *base, struct err *err)
{
    struct fake_store *s = (struct fake_store *)base;
    int                rc = alive("remove", s->side, err);

    (void)pthread_mutex_lock(&world->lock);
    if (rc == 0)
        world->sides[s->side].guarded = false;
    (void)pthread_mutex_unlock(&world->lock);
    return rc;
}

static const char *const       side_words[] = {"old", "new", NULL};
static const struct conf_field side_fields[] = {
    {.name = "side", .type = {.kind = CONF_ENUM, .values = side_words}, .required = true}, {0}};
static const struct conf_type side_schema = {.kind = CONF_OBJECT, .fields = side_fields};

static const struct store_ops store_ops = {
    .name = "fake",
    .size = sizeof(struct fake_store),
    .schema = &side_schema,
    .open = store_open,
    .close = store_close,
    .check = store_check,
    .scan = store_scan,
    .get = store_get,
    .put = store_put,
    .del = store_del,
    .position = store_position,
    .guard_install = guard_install,
    .guard_set = guard_set,
    .guard_get = guard_get,
    .guard_remove = guard_remove,
};

/* the source */

struct fake_source {
    struct source  base;
    enum fake_side side;
    uint64_t       at;
    struct change  changes[500];
    struct buf     bytes, checkpoint;
};

static int
source_open(struct source *base, const struct conf *conf, struct err *err)
{
    struct fake_source *s = (struct fake_source *)base;

    s->side = strcmp(conf_str(conf, "side"), "new") == 0 ? FAKE_NEW : FAKE_OLD;
    return 0;
}

static void
source_close(struct source *base)
{
    buf_fini(&((struct fake_source *)base)->bytes);
    buf_fini(&((struct fake_source *)base)->checkpoint);
}

static int
source_check(struct source *s, finding_fn *fn, void *arg, struct err *err)
{
    return 0;
}

static int
source_prepare(struct source *s, bool dry_run, finding_fn *fn, void *arg, struct err *err)
{
    return 0;
}

static int
source_begin(struct source *base, struct slice checkpoint, struct err *err)
{
    struct fake_source *s = (struct fake_source *)base;
    struct slice        raw;

    s->at = 0;
    if (json_get(checkpoint, "n", &raw))
        (void)json_uint64(raw, &s->at);
    return 0;
}

/* The slices are offsets until the bytes have stopped growing. */
static struct slice
mark(struct buf *b, size_t from)
{
    return slice_of((void *)(uintptr_t)(from + 1), b->len - from);
}

static void
settle(struct fake_source *s, struct slice *at)
{
    if (at->data != NULL)
        at->data = s->bytes.data + ((uintptr_t)at->data - 1);
}

static void
fill(struct fake_source *s, struct change *c, const struct line *l)
{
    size_t from = s->bytes.len;

    *c = (struct change){.op = !l->after.there   ? CHANGE_DELETE
                               : l->before.there ? CHANGE_UPDATE
                                                 : CHANGE_INSERT};
    c->table = slice_str("t");
    buf_printf(&s->bytes, "%u", l->key);
    c->key = mark(&s->bytes, from);
    from = s->bytes.len;
    buf_printf(&s->bytes, "%" PRIu64, s->at + 1);
    c->position = mark(&s->bytes, from);
    if (l->before.there) {
        from = s->bytes.len;
        put_json(s->side, &l->before, true, &s->bytes);
        c->before = mark(&s->bytes, from);
    }
    if (l->after.there) {
        from = s->bytes.len;
        put_json(s->side, &l->after, true, &s->bytes);
        c->after = mark(&s->bytes, from);
    }
    if (l->origin != NULL) {
        from = s->bytes.len;
        buf_add_str(&s->bytes, l->origin);
        c->origin = mark(&s->bytes, from);
    }
}

static uint32_t
take(struct fake_source *s, uint32_t max)
{
    struct side *side = &world->sides[s->side];
    uint32_t     n = 0;

    if (atomic_load(&world->stopped[s->side]))
        return 0;
    buf_clear(&s->bytes);
    (void)pthread_mutex_lock(&world->lock);
    for (; n < max && n < 500 && s->at < side->count; n++, s->at++)
        fill(s, &s->changes[n], &side->lines[s->at]);
    (void)pthread_mutex_unlock(&world->lock);
    for (uint32_t i = 0; i < n; i++) {
        settle(s, &s->changes[i].key);
        settle(s, &s->changes[i].position);
        settle(s, &s->changes[i].before);
        settle(s, &s->changes[i].after);
        settle(s, &s->changes[i].origin);
    }
    return n;
}

static int
source_next(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct fake_source *s = (struct fake_source *)base;
    struct ox_gate      never;
    uint64_t            until = base->env->ops->mono_us(base->env) + 20000;

    gate_init(&never);
    while ((batch->count = take(s, max)) == 0 && base->env->ops->mono_us(base->env) < until)
        (void)base->env->ops->gate_wait(base->env, &never, 300);
    buf_clear(&s->checkpoint);
    buf_printf(&s->checkpoint, "{\"n\":%" PRIu64 "}", s->at);
    batch->changes = s->changes;
    batch->checkpoint = buf_slice(&s->checkpoint);
    batch->caught_up = batch->count == 0 && !atomic_load(&world->stopped[s->side]);
    return 0;
}

static int
source_confirm_fake(struct source *s, struct slice checkpoint, struct err *err)
{
    return 0;
}

static int
source_unprepare(struct source *s, finding_fn *fn, void *arg, struct err *err)
{
    return 0;
}

static int
source_status(struct source *s, struct buf *out, struct err *err)
{
    buf_add_str(out, "{}");
    return 0;
}

static const struct source_ops source_ops = {
    .name = "fake",
    .size = sizeof(struct fake_source),
    .schema = &side_schema,
    .open = source_open,
    .close = source_close,
    .check = source_check,
    .prepare = source_prepare,
    .unprepare = source_unprepare,
    .start = source_begin,
    .poll = source_next,
    .confirm = source_confirm_fake,
    .status = source_status,
};

const struct source_ops *
fake_source(void *arg, const char *type)
{
    return strcmp(type, "fake") == 0 ? &source_ops : NULL;
}

const struct store_ops *
fake_store(void *arg, const char *type)
{
    return strcmp(type, "fake") == 0 ? &store_ops : NULL;
}

/* the configuration */

static bool
driver(void *arg, const char *family, size_t i, struct conf_driver *out)
{
    *out = (struct conf_driver){"fake", &side_schema};
    return i == 0;
}

static const char *
no_env(void *arg, const char *name)
{
    return NULL;
}

struct conf *
fake_conf(const char *more)
{
    struct conf_opts opts = {.file = "test", .getenv = no_env, .driver = driver};
    struct buf       text = {0}, problems = {0};
    struct conf     *conf = NULL;
    struct err       err;

    buf_printf(
        &text,
        "old: {name: legacy, source: {type: fake, side: old}, store: {type: fake, side: old}}\n"
        "new: {name: fresh, source: {type: fake, side: new}, store: {type: fake, side: new}}\n"
        "columns: {driver: driver, note: memo, state: status}\n"
        "where: state is not null\n%s",
        more);
    if (conf_load(buf_slice(&text), &tracer_conf_type, &opts, &conf, &problems, &err) != 0) {
        (void)fprintf(stderr, "%.*s\n", SLICE_FMT(buf_slice(&problems)));
        abort();
    }
    buf_fini(&text);
    buf_fini(&problems);
    return conf;
}
