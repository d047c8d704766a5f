/*
 * Verification: its own enumeration of both sides (never the mover's), range
 * by range; then the keys that changed since, again and again, so that what is
 * not verified stays a short list: `pending`. Every key that is in neither
 * `pending` nor the list of divergent ones, and has no event from `upto` on,
 * was seen equal after its last change.
 *
 * A quick look at a key (both sides read in its lane) can only say equal. What
 * it does not find equal gets the exact question (range.h), which is asked a
 * bounded number of times; a key that changes even then waits for the fence.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "migrate/tracer/range.h"

#define EXACT_MAX 8 /* exact questions in one round: each may wait for the feed */
#define LOOKS_MAX 3 /* quick looks before one */
#define SAVE_US UINT64_C(5000000)

static const char *const kinds[] = {"missing", "extra", "different", "null_empty"};

struct divergent {
    char             *key, *fields;
    enum traceri_kind kind;
};

struct traceri_verify {
    struct tracer       *t;
    struct traceri_rows *rows;
    struct traceri_keys  pending, named;
    struct divergent    *list;
    uint32_t             listed, list_room;
    uint64_t             divergent;
    uint32_t             turn;
    uint64_t             upto, pass_upto, saved_us;
    bool                 scanning, full;
    char                 after[TRACERI_KEY_MAX + 1];
    /* of the pass */
    uint64_t ranges, compared, row_count, hash_us, began_us, took_us, hot_decided;

    struct ox_lock lock; /* what others see */
    struct buf     report;
    uint64_t       seen_rows, seen_stale, seen_hot, seen_divergent;
};

static uint64_t
hot_left(const struct traceri_verify *v)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < v->pending.used; i++)
        n += v->pending.keys[i].text != NULL && v->pending.keys[i].tries >= v->t->attempts;
    return n;
}

static void
put_u64(struct json_out *o, const char *key, uint64_t value)
{
    json_out_key(o, key);
    json_out_u64(o, value);
}

static void
put_keys(const struct traceri_verify *v, struct json_out *o)
{
    json_out_key(o, "keys");
    json_out_array(o);
    for (uint32_t i = 0; i < v->listed; i++) {
        json_out_object(o);
        json_out_key(o, "key");
        json_out_str(o, v->list[i].key);
        json_out_key(o, "kind");
        json_out_str(o, kinds[v->list[i].kind]);
        json_out_key(o, "fields");
        json_out_raw(o, slice_str(v->list[i].fields));
        json_out_object_end(o);
    }
    json_out_array_end(o);
}

static void
publish(struct traceri_verify *v)
{
    struct json_out o;

    lock_take(&v->lock);
    buf_clear(&v->report);
    json_out_init(&o, &v->report);
    json_out_object(&o);
    put_u64(&o, "rows", v->row_count);
    put_u64(&o, "ranges", v->ranges);
    put_u64(&o, "ranges_compared", v->compared);
    put_u64(&o, "stale", v->pending.live);
    put_u64(&o, "hot", hot_left(v));
    put_u64(&o, "hot_decided", v->hot_decided);
    put_u64(&o, "divergent", v->divergent);
    put_u64(&o, "took_us", v->took_us);
    put_u64(&o, "hash_us", v->hash_us);
    json_out_key(&o, "hashing_share");
    json_out_double(&o, v->took_us == 0 ? 0 : (double)v->hash_us / (double)v->took_us);
    json_out_key(&o, "complete");
    json_out_bool(&o, v->full);
    put_keys(v, &o);
    json_out_object_end(&o);
    v->seen_rows = v->row_count;
    v->seen_stale = v->pending.live;
    v->seen_hot = hot_left(v);
    v->seen_divergent = v->divergent;
    lock_give(&v->lock);
}

static void
forget_divergent(struct traceri_verify *v)
{
    for (uint32_t i = 0; i < v->listed; i++) {
        free(v->list[i].key);
        free(v->list[i].fields);
    }
    v->listed = 0;
    v->divergent = 0;
    traceri_keys_clear(&v->named);
}

static int
on_differs(void *arg, struct slice key, enum traceri_kind kind, struct slice fields,
           struct err *err)
{
    struct traceri_verify *v = arg;
    struct divergent       d = {.kind = kind};

    if (traceri_keys_find(&v->named, key) != NULL)
        return 0;
    if (!traceri_keys_add(&v->named, key))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a report");
    v->divergent++;
    if (v->listed == TRACERI_DIVERGENT_MAX)
        return 0;
    if (v->listed == v->list_room) {
        uint32_t          room = v->list_room == 0 ? 64 : v->list_room * 2;
        struct divergent *list = reallocarray(v->list, room, sizeof *list);

        if (list == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a report");
        v->list = list;
        v->list_room = room;
    }
    d.key = strndup(key.data, key.len);
    if (asprintf(&d.fields, "[%.*s]", SLICE_FMT(fields)) < 0)
        d.fields = NULL;
    if (d.key == NULL || d.fields == NULL) {
        free(d.key);
        free(d.fields);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a report");
    }
    v->list[v->listed++] = d;
    return 0;
}

static int
on_hot(void *arg, struct slice key, struct err *err)
{
    struct traceri_verify *v = arg;

    if (v->pending.live >= TRACERI_PENDING_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_RETRY, "over %d keys change while they are verified",
                   TRACERI_PENDING_MAX);
    if (!traceri_keys_add(&v->pending, key))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for keys");
    return 0;
}

/* a pass */

void
traceri_verify_begin(struct traceri_verify *v)
{
    forget_divergent(v);
    traceri_keys_clear(&v->pending);
    v->upto = v->pass_upto = log_end(v->t->log).v;
    v->after[0] = '\0';
    v->scanning = true;
    v->full = false;
    v->ranges = v->compared = v->row_count = v->hash_us = v->took_us = v->hot_decided = 0;
    v->began_us = v->t->env->ops->mono_us(v->t->env);
    publish(v);
}

static int
scan_range(struct traceri_verify *v, struct err *err)
{
    struct traceri_range r = {.t = v->t,
                              .after = slice_str(v->after),
                              .limit = v->t->chunk,
                              .differs = on_differs,
                              .hot = on_hot,
                              .arg = v};
    int                  rc;

    TRY(traceri_range_verify(v->rows, &r, err));
    v->ranges++;
    v->compared += r.compared;
    v->row_count += r.rows;
    v->hash_us += r.hash_us;
    v->scanning = !r.end;
    for (uint32_t i = 0; !v->scanning && i < v->pending.used; i++)
        v->pending.keys[i].old = true;
    (void)snprintf(v->after, sizeof v->after, "%s", r.last);
out:
    v->took_us = v->t->env->ops->mono_us(v->t->env) - v->began_us;
    return rc;
}

/*
 * What the pass could not decide was decided since, or changed at each of the
 * attempts: such keys, and those that changed just now, wait for the fence, and
 * must be few.
 */
static bool
settled(const struct traceri_verify *v)
{
    if (v->pending.live > v->t->stale_max)
        return false;
    for (uint32_t i = 0; i < v->pending.used; i++) {
        const struct traceri_key *k = &v->pending.keys[i];

        if (k->text != NULL && k->old && k->tries < v->t->attempts)
            return false;
    }
    return true;
}

int
traceri_verify_step(struct traceri_verify *v, bool *done, struct err *err)
{
    int rc;

    *done = false;
    if (v->scanning) {
        TRY(scan_range(v, err));
    } else {
        TRY(traceri_verify_round(v, err));
        v->full = *done = settled(v);
    }
out:
    publish(v);
    return rc;
}

/* keys one by one */

/* The exact question about one key. */
static int
decide(struct traceri_verify *v, struct traceri_key *k, struct err *err)
{
    uint64_t             before = v->divergent;
    char                 key[TRACERI_KEY_MAX + 1];
    struct traceri_range r = {.t = v->t,
                              .limit = 1,
                              .differs = on_differs,
                              .hot = on_hot,
                              .arg = v,
                              .single = slice_of(key, 0)};
    int                  rc;

    (void)snprintf(key, sizeof key, "%s", k->text);
    r.single.len = strlen(key);
    k->tries++;
    TRY(traceri_range_verify(v->rows, &r, err));
    /* What was hot is pending already, so the set did not move. */
    if (r.compared && v->divergent == before &&
        traceri_keys_find(&v->named, slice_str(key)) == NULL)
        goto out;
    traceri_keys_remove(&v->pending, k);
    v->hot_decided++;
out:
    return rc;
}

/* Quick looks at up to a batch of them; what is equal is pending no more. */
static int
look(struct traceri_verify *v, uint32_t *at, uint64_t deadline_us, struct err *err)
{
    struct traceri_key *keys[TRACERI_BATCH];
    struct tracer      *t = v->t;
    uint32_t            n = 0;
    int                 rc = 0;

    for (; *at < v->pending.used && n < TRACERI_BATCH; (*at)++) {
        struct traceri_key *k = &v->pending.keys[*at];

        if (k->text == NULL)
            continue;
        TRY(traceri_batch_key(t, n, slice_str(k->text), err));
        t->batch[n].job = JOB_CHECK;
        t->batch[n].to = traceri_other(traceri_leader(t));
        keys[n++] = k;
    }
    TRY(traceri_batch_run(t, n, deadline_us, err));
    for (uint32_t i = 0; i < n; i++) {
        if (t->batch[i].equal)
            traceri_keys_remove(&v->pending, keys[i]);
        else
            keys[i]->tries++;
    }
out:
    return rc;
}

static void
note_upto(struct traceri_verify *v)
{
    struct traceri_record next = v->t->rec;
    uint64_t              now = v->t->env->ops->mono_us(v->t->env);
    struct err            err;

    if (v->pending.live > 0 || v->divergent > 0 || !v->full || now - v->saved_us < SAVE_US)
        return;
    next.upto = v->upto;
    v->saved_us = now;
    (void)traceri_save(v->t, &next, &err);
}

static int
collect(struct traceri_verify *v, struct err *err)
{
    int rc = traceri_range_changed(v->t, &v->upto, &v->pending, err);

    if (rc == 0 && v->pending.live > TRACERI_PENDING_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_RETRY, "over %d keys changed since they were verified",
                   TRACERI_PENDING_MAX);
    return rc;
}

int
traceri_verify_round(struct traceri_verify *v, struct err *err)
{
    uint32_t at = 0, exact = 0;
    int      rc;

    TRY(collect(v, err));
    while (at < v->pending.used)
        TRY(look(v, &at, 0, err));
    /* From another one on each time: those that change all the time must not hide the rest. */
    for (uint32_t i = 0; i < v->pending.used && exact < EXACT_MAX; i++) {
        struct traceri_key *k = &v->pending.keys[v->turn++ % v->pending.used];

        if (k->text == NULL || k->tries < LOOKS_MAX)
            continue;
        exact++;
        TRY(decide(v, k, err));
    }
    note_upto(v);
out:
    publish(v);
    return rc;
}

int
traceri_verify_final(struct traceri_verify *v, uint64_t deadline_us, struct err *err)
{
    uint32_t at = 0;
    int      rc;

    TRY(collect(v, err));
    if (v->pending.live > v->t->stale_max)
        FAIL(err, E_LIMIT, ERR_RETRY, "%u keys are left to verify under the fence, more than %u",
             v->pending.live, v->t->stale_max);
    while (at < v->pending.used)
        TRY(look(v, &at, deadline_us, err));
    if (v->pending.live > 0)
        FAIL(err, E_DIVERGED, ERR_DATA, "%u keys differ under the fence", v->pending.live);
out:
    publish(v);
    return rc;
}

/* repair */

/* The follower's row becomes the leader's, if it still is what was read. */
static int
repair_key(struct tracer *t, struct slice key, bool *changed, struct err *err)
{
    enum tracer_side   lead = traceri_leader(t), to = traceri_other(lead);
    struct store      *from = t->ends[lead].store, *s = t->ends[to].store;
    struct store_row   row;
    struct buf         want = {0}, have = {0};
    char               request[ID_TEXT_LEN + 1];
    struct ox_id       id = id_new(t->env);
    struct store_write w = {.key = key, .epoch = t->rec.epoch, .origin = slice_str(t->mark)};
    int                rc;

    id_format(&id, request);
    w.request_id = slice_str(request);
    *changed = false;
    rc = from->ops->get(from, key, &row, err);
    if (rc == 0)
        rc = traceri_map_row(t->map, lead, row.fields, &want, err);
    if (rc != 0 && rc != E_NOTFOUND)
        goto out;
    rc = s->ops->get(s, key, &row, err);
    if (rc == 0)
        buf_add_slice(&have, row.fields);
    if (rc != 0 && rc != E_NOTFOUND)
        goto out;
    if (have.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    rc = 0;
    if (slice_eq(buf_slice(&want), buf_slice(&have)))
        goto out;
    w.fields = buf_slice(&want);
    w.cond = have.len == 0 ? STORE_ABSENT : STORE_EQUALS;
    w.expect = buf_slice(&have);
    rc = want.len == 0 ? s->ops->del(s, &w, err) : s->ops->put(s, &w, err);
    if (rc == E_WRONG_VERSION)
        rc = 0; /* it changed meanwhile: the next pass looks again */
    else
        *changed = rc == 0;
out:
    buf_fini(&want);
    buf_fini(&have);
    return rc;
}

int
traceri_verify_repair(struct traceri_verify *v, uint64_t *repaired, struct err *err)
{
    bool changed;
    int  rc = 0;

    *repaired = 0;
    for (uint32_t i = 0; i < v->named.used; i++) {
        TRY(repair_key(v->t, slice_str(v->named.keys[i].text), &changed, err));
        *repaired += changed;
    }
out:
    return rc;
}

/* making it, and what others see */

int
traceri_verify_new(struct tracer *t, struct traceri_verify **out, struct err *err)
{
    struct traceri_verify *v = calloc(1, sizeof *v);
    int                    rc = 0;

    *out = NULL;
    if (v == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    v->t = t;
    v->upto = v->pass_upto = t->rec.upto;
    v->full = t->rec.clean;
    v->row_count = t->rec.verified_rows;
    lock_init(&v->lock, LOCK_CORE);
    rc = traceri_rows_new(&v->rows, err);
    if (rc == 0)
        publish(v);
    *out = v;
    v = NULL;
out:
    return rc;
}

void
traceri_verify_free(struct traceri_verify *v)
{
    if (v == NULL)
        return;
    forget_divergent(v);
    free(v->list);
    traceri_keys_fini(&v->pending);
    traceri_keys_fini(&v->named);
    traceri_rows_free(v->rows);
    buf_fini(&v->report);
    lock_fini(&v->lock);
    free(v);
}

uint64_t
traceri_verify_upto(const struct traceri_verify *v)
{
    return v->pending.live == 0 ? v->upto : v->pass_upto;
}

void
traceri_verify_counts(struct traceri_verify *v, uint64_t *rows, uint64_t *stale, uint64_t *hot,
                      uint64_t *divergent)
{
    lock_take(&v->lock);
    *rows = v->seen_rows;
    *stale = v->seen_stale;
    *hot = v->seen_hot;
    *divergent = v->seen_divergent;
    lock_give(&v->lock);
}

void
traceri_verify_report(struct traceri_verify *v, struct buf *out)
{
    lock_take(&v->lock);
    buf_add_slice(out, buf_slice(&v->report));
    lock_give(&v->lock);
}
