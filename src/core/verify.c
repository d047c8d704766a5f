#include "core/verify.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "core/verify_int.h"

#define VERIFY_MAGIC 0x56657269u
#define BACKOFF_MIN_US UINT64_C(100000)
#define BACKOFF_MAX_US UINT64_C(10000000)
#define AGAIN_MIN_US INT64_C(5000) /* between questions for one message; grows with its age */
#define AGAIN_MAX_US INT64_C(1000000)
#define TRUNCATE_EVERY 1000 /* decided messages of the held stream */

const char *
verify_state_name(enum verify_state state)
{
    static const char *const names[] = {"starting", "running", "retrying", "stopped", "failed"};

    must(state <= VERIFY_FAILED);
    return names[state];
}

const char *
verify_stream(const struct verify *v)
{
    return v->stream;
}

static void
set_state(struct verify *v, enum verify_state state, const struct err *err)
{
    lock_take(&v->lock);
    v->status.state = state;
    (void)snprintf(v->status.error, sizeof v->status.error, "%s", err == NULL ? "" : err->text);
    lock_give(&v->lock);
}

static uint64_t
failed(struct verify *v, const struct err *err)
{
    if (err->kind != ERR_RETRY && err->kind != ERR_UNSURE) {
        set_state(v, VERIFY_FAILED, err);
        return ENV_STEP_WAIT;
    }
    set_state(v, VERIFY_RETRYING, err);
    v->backoff_us = v->backoff_us == 0 ? BACKOFF_MIN_US : v->backoff_us * 2;
    if (v->backoff_us > BACKOFF_MAX_US)
        v->backoff_us = BACKOFF_MAX_US;
    return v->backoff_us;
}

/* asking */

static void
decide(struct verify *v, struct verify_held *h, const struct proof_item *item, int64_t age_us,
       uint64_t now)
{
    int64_t again = age_us / 10;

    must(h->decision == VERIFYI_OPEN);
    h->running = item->verdict == PROOF_RUNNING;
    h->by = item->by == NULL ? "proof" : item->by;
    if (item->verdict == PROOF_COMMITTED) {
        h->decision = VERIFYI_RELEASE;
    } else if (item->verdict == PROOF_ABORTED) {
        h->decision = VERIFYI_DISCARD;
    } else if (item->verdict == PROOF_UNKNOWN && age_us > (int64_t)v->deadline_us) {
        h->decision = v->discard ? VERIFYI_DISCARD : VERIFYI_PARK;
        (void)snprintf(h->why, sizeof h->why, "nothing is known of its transaction (%s)", h->by);
    } else {
        again = again < AGAIN_MIN_US ? AGAIN_MIN_US : again > AGAIN_MAX_US ? AGAIN_MAX_US : again;
        h->ask_at_us = now + (uint64_t)again;
    }
}

/* Asks for all whose time has come. */
static int
ask(struct verify *v, struct err *err)
{
    uint64_t now = v->env->ops->mono_us(v->env);
    int64_t  wall = v->env->ops->wall_us(v->env);
    uint32_t n = 0, k = 0;
    int      rc = 0;

    must(!v->in_flight);
    for (uint32_t i = 0; i < v->count && n < VERIFYI_BATCH; i++) {
        struct verify_held *h = v->open[i];

        if (h->decision != VERIFYI_OPEN || h->ask_at_us > now)
            continue;
        if (wall - h->came_us < (int64_t)v->delay_us) {
            h->ask_at_us =
                now + v->delay_us - (uint64_t)(wall > h->came_us ? wall - h->came_us : 0);
            continue;
        }
        v->items[n] = (struct proof_item){
            .id = h->key, .token = h->token, .event = h->event, .age_us = wall - h->came_us};
        v->batch[n++] = h;
    }
    if (n == 0)
        return 0;
    TRY(v->proof->ops->ask(v->proof, v->items, n, err));
    now = v->env->ops->mono_us(v->env);
    for (k = 0; k < n; k++)
        decide(v, v->batch[k], &v->items[k], v->items[k].age_us, now);
out:
    return rc;
}

/* choosing what is committed */

/* Marks a stream's hash; false: it was marked. */
static bool
block(struct verify *v, uint64_t hash)
{
    uint32_t i = (uint32_t)(hash >> 32) & v->blocked_mask;

    must(hash != 0);
    for (; v->blocked[i] != 0; i = (i + 1) & v->blocked_mask)
        if (v->blocked[i] == hash)
            return false;
    v->blocked[i] = hash;
    return true;
}

static bool
is_blocked(const struct verify *v, uint64_t hash)
{
    uint32_t i = (uint32_t)(hash >> 32) & v->blocked_mask;

    for (; v->blocked[i] != 0; i = (i + 1) & v->blocked_mask)
        if (v->blocked[i] == hash)
            return true;
    return false;
}

/* The same message published again. */
static bool
is_repeated(const struct verify *v, const struct verify_held *h)
{
    for (uint32_t i = 0; i < v->batch_count; i++)
        if (v->batch[i]->decision == VERIFYI_RELEASE && v->batch[i]->hash == h->hash &&
            id_eq(&v->batch[i]->id, &h->id))
            return true;
    return false;
}

/* Decided ones, none before another of its stream that is not. */
static void
choose(struct verify *v)
{
    uint32_t max = v->single ? 1 : VERIFYI_BATCH;

    must(!v->in_flight);
    must(v->count <= v->blocked_mask);
    v->batch_count = 0;
    memset(v->blocked, 0, ((size_t)v->blocked_mask + 1) * sizeof v->blocked[0]);
    for (uint32_t i = 0; i < v->count && v->batch_count < max; i++) {
        struct verify_held *h = v->open[i];
        struct err          why;

        if (h->decision == VERIFYI_OPEN || is_blocked(v, h->hash)) {
            (void)block(v, h->hash);
            continue;
        }
        if (h->decision == VERIFYI_RELEASE && log_name_check(h->stream, false, &why) != 0) {
            h->decision = VERIFYI_PARK;
            (void)snprintf(h->why, sizeof h->why, "%.150s", why.text);
        }
        if (h->decision == VERIFYI_RELEASE && is_repeated(v, h)) {
            h->decision = VERIFYI_DISCARD;
            h->by = "repeated";
        }
        v->batch[v->batch_count++] = h;
    }
}

/* the commit */

static struct slice
slice_between(const struct verify *v, size_t from, size_t to)
{
    must(from <= to);
    must(to <= v->text.len);
    return slice_of(v->text.data + from, to - from);
}

struct record {
    size_t meta_at, data_at, end;
};

/* The released event's metadata, and the record of the verdict. */
static void
put_record(struct verify *v, const struct verify_held *h, struct record *r)
{
    static const char *const words[] = {
        [VERIFYI_RELEASE] = "released", [VERIFYI_DISCARD] = "discarded", [VERIFYI_PARK] = "parked"};
    struct json_out o;
    char            id[ID_TEXT_LEN + 1];

    must(h->decision != VERIFYI_OPEN);
    must(h->by != NULL);
    id_format(&h->id, id);
    r->meta_at = v->text.len;
    buf_add_slice(&v->text, h->meta);
    if (h->meta.len > 1)
        buf_add_byte(&v->text, ',');
    buf_add_str(&v->text, "\"$source\":");
    json_out_init(&o, &v->text);
    json_out_object(&o);
    json_out_key(&o, "name");
    json_out_str(&o, v->name);
    json_out_key(&o, "held");
    json_out_u64(&o, h->version);
    json_out_key(&o, "by");
    json_out_str(&o, h->by);
    json_out_object_end(&o);
    buf_add_byte(&v->text, '}');
    r->data_at = v->text.len;
    json_out_init(&o, &v->text);
    json_out_object(&o);
    json_out_key(&o, "verdict");
    json_out_str(&o, words[h->decision]);
    json_out_key(&o, "id");
    json_out_str(&o, id);
    json_out_key(&o, "stream");
    json_out_string(&o, h->stream);
    json_out_key(&o, "type");
    json_out_string(&o, h->type);
    json_out_key(&o, "held");
    json_out_u64(&o, h->version);
    json_out_key(&o, "by");
    json_out_str(&o, h->by);
    if (h->why[0] != '\0') {
        json_out_key(&o, "reason");
        json_out_str(&o, h->why);
    }
    json_out_object_end(&o);
    r->end = v->text.len;
}

/* Released events, a write for each stream; returns how many events there are so far. */
static uint32_t
lay_out_released(struct verify *v, const struct record *records)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < v->batch_count; i++) {
        const struct verify_held *first = v->batch[i];
        struct log_write         *w;
        bool                      seen = first->decision != VERIFYI_RELEASE;

        for (uint32_t k = 0; k < v->req.write_count && !seen; k++)
            seen = slice_eq(v->writes[k].stream, first->stream);
        if (seen)
            continue;
        w = &v->writes[v->req.write_count++];
        *w = (struct log_write){
            .stream = first->stream, .expected = LOG_ANY, .events = &v->events[n]};
        for (uint32_t k = i; k < v->batch_count; k++) {
            const struct verify_held *h = v->batch[k];

            if (h->decision != VERIFYI_RELEASE || h->hash != first->hash ||
                !slice_eq(h->stream, first->stream))
                continue;
            v->events[n++] = (struct log_new_event){
                .id = h->id,
                .type = h->type,
                .data = h->data,
                .meta = slice_between(v, records[k].meta_at, records[k].data_at),
                .created_us = h->created_us,
                .flags = h->flags & LOG_JSON};
            w->count++;
        }
    }
    must(n <= v->batch_count);
    must(v->req.write_count <= n);
    return n;
}

/* The verdicts, in $verified-NAME; those parked also where all that is parked stands. */
static uint32_t
lay_out_records(struct verify *v, const struct record *records, struct slice verified,
                struct slice parked, uint32_t n)
{
    static const char *const types[] = {
        [VERIFYI_RELEASE] = "Released", [VERIFYI_DISCARD] = "Discarded", [VERIFYI_PARK] = "Parked"};

    must(n <= v->batch_count);
    for (int pass = 0; pass < 2; pass++) {
        struct log_write *w = &v->writes[v->req.write_count];

        *w = (struct log_write){
            .stream = pass == 0 ? verified : parked, .expected = LOG_ANY, .events = &v->events[n]};
        for (uint32_t i = 0; i < v->batch_count; i++) {
            if (pass == 1 && v->batch[i]->decision != VERIFYI_PARK)
                continue;
            v->events[n++] =
                (struct log_new_event){.type = slice_str(types[v->batch[i]->decision]),
                                       .data = slice_between(v, records[i].data_at, records[i].end),
                                       .flags = LOG_JSON};
            w->count++;
        }
        if (w->count > 0)
            v->req.write_count++;
    }
    return n;
}

static void
committed(struct log_req *req)
{
    struct verify *v = req->arg;

    must(v->in_flight);
    must(!atomic_load(&v->done_flag));
    env_tell(v->env, v->task, &v->done_flag);
}

/* Everything below is decided, counting the batch. */
static uint64_t
low_after(const struct verify *v)
{
    for (uint32_t i = 0; i < v->count; i++) {
        const struct verify_held *h = v->open[i];
        bool                      in_batch = false;

        for (uint32_t k = 0; k < v->batch_count && !in_batch; k++)
            in_batch = v->batch[k] == h;
        if (!in_batch)
            return h->version;
    }
    return v->next;
}

static void
put_checkpoint(struct verify *v)
{
    struct json_out o;

    must(v->low <= v->next);
    json_out_init(&o, &v->text);
    json_out_object(&o);
    json_out_key(&o, "low");
    json_out_u64(&o, v->low);
    json_out_key(&o, "done");
    json_out_array(&o);
    for (uint32_t i = 0; i < v->batch_count; i++)
        if (v->batch[i]->version >= v->low)
            json_out_u64(&o, v->batch[i]->version);
    for (uint32_t i = 0; i < v->done_count; i++)
        if (v->done[i] >= v->low)
            json_out_u64(&o, v->done[i]);
    json_out_array_end(&o);
    json_out_object_end(&o);
}

static void
add_truncation(struct verify *v)
{
    if (!v->own_stream || v->low < v->truncated + TRUNCATE_EVERY)
        return;
    v->change = (struct log_change){.stream = slice_str(v->stream),
                                    .expected = LOG_ANY,
                                    .what = LOG_SET_TRUNCATE,
                                    .truncate = v->low};
    v->req.changes = &v->change;
    v->req.change_count = 1;
    v->truncated = v->low;
}

static int
commit(struct verify *v, struct err *err)
{
    struct record *records = calloc(v->batch_count, sizeof *records);
    size_t         verified_at, parked_at, source_at, checkpoint_at, end;
    uint32_t       n;
    int            rc = 0;

    must(!v->in_flight);
    must(v->batch_count > 0);
    if (records == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    memset(&v->req, 0, sizeof v->req);
    buf_clear(&v->text);
    v->low = low_after(v);
    must(v->low <= v->next);
    for (uint32_t i = 0; i < v->batch_count; i++)
        put_record(v, v->batch[i], &records[i]);
    verified_at = v->text.len;
    buf_printf(&v->text, "$verified-%s", v->name);
    parked_at = v->text.len;
    buf_printf(&v->text, "$parked-source-%s", v->name);
    source_at = v->text.len;
    buf_printf(&v->text, "$source-%s", v->name);
    checkpoint_at = v->text.len;
    buf_add_str(&v->text, "{\"checkpoint\":");
    put_checkpoint(v);
    buf_add_byte(&v->text, '}');
    end = v->text.len;
    if (v->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the verdicts");
    n = lay_out_released(v, records);
    n = lay_out_records(v, records, slice_between(v, verified_at, parked_at),
                        slice_between(v, parked_at, source_at), n);
    must(n <= 3 * VERIFYI_BATCH);
    must(v->req.write_count < VERIFYI_BATCH + 3);
    v->events[n] = (struct log_new_event){.type = slice_str("$checkpoint"),
                                          .data = slice_between(v, checkpoint_at, end),
                                          .flags = LOG_JSON};
    v->writes[v->req.write_count++] =
        (struct log_write){.stream = slice_between(v, source_at, checkpoint_at),
                           .expected = v->version,
                           .events = &v->events[n],
                           .count = 1};
    add_truncation(v);
    v->req.writes = v->writes;
    v->req.flags = LOG_SYSTEM;
    v->req.done = committed;
    v->req.arg = v;
    atomic_store(&v->done_flag, false);
    v->in_flight = true;
    log_submit(v->log, &v->req);
out:
    free(records);
    return rc;
}

/* after the commit */

/* One that the log refuses for itself: it is there already, or can never be. */
static void
refused(struct verify *v, const struct err *err)
{
    struct verify_held *h = v->batch[0];

    must(v->batch_count == 1);
    if (v->req.rc == E_WRONG_VERSION) {
        h->decision = VERIFYI_DISCARD;
        h->by = "repeated";
    } else {
        h->decision = VERIFYI_PARK;
        (void)snprintf(h->why, sizeof h->why, "%.150s", err->text);
    }
}

static uint64_t
commit_failed(struct verify *v)
{
    struct err   err = v->req.err;
    struct slice own = v->writes[v->req.write_count - 1].stream;

    if (v->req.rc == E_WRONG_VERSION && slice_eq(v->req.wrong_stream, own)) {
        (void)err_set(&err, __FILE__, __LINE__, E_FENCED, ERR_FATAL,
                      "source %s: something else verifies it in this log", v->name);
        return failed(v, &err);
    }
    if (err.kind != ERR_DATA) {
        verifyi_forget(v);
        v->started = false;
        return failed(v, &err);
    }
    if (v->batch_count == 1 && v->batch[0]->decision == VERIFYI_RELEASE)
        refused(v, &err);
    else if (v->batch_count == 1)
        return failed(v, &err);
    v->single = true;
    return ENV_STEP_NOW;
}

/* The decided ones leave the window. */
static void
drop_batch(struct verify *v)
{
    uint32_t kept = 0;

    for (uint32_t k = 0; k < v->batch_count; k++)
        v->batch[k]->version = UINT64_MAX;
    for (uint32_t i = 0; i < v->count; i++) {
        struct verify_held *h = v->open[i];

        if (h->version != UINT64_MAX) {
            v->open[kept++] = h;
            continue;
        }
        must(v->bytes >= h->bytes.len);
        v->bytes -= h->bytes.len;
        verifyi_held_free(h);
    }
    must(v->count - kept == v->batch_count);
    must(kept > 0 || v->bytes == 0);
    v->count = kept;
    v->batch_count = 0;
}

static void
count_verdicts(struct verify *v)
{
    lock_take(&v->lock);
    for (uint32_t i = 0; i < v->batch_count; i++) {
        must(v->batch[i]->decision != VERIFYI_OPEN);
        switch (v->batch[i]->decision) {
        case VERIFYI_RELEASE:
            v->status.released++;
            break;
        case VERIFYI_DISCARD:
            v->status.discarded++;
            break;
        default:
            v->status.parked++;
        }
    }
    lock_give(&v->lock);
}

/* What is decided beyond low is remembered as long as it is. */
static int
remember_done(struct verify *v, struct err *err)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < v->done_count; i++)
        if (v->done[i] >= v->low)
            v->done[kept++] = v->done[i];
    v->done_count = kept;
    if (v->done_room < v->done_count + v->batch_count) {
        uint32_t  room = v->done_count + v->batch_count + VERIFYI_BATCH;
        uint64_t *more = realloc(v->done, room * sizeof *more);

        if (more == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        v->done = more;
        v->done_room = room;
    }
    for (uint32_t i = 0; i < v->batch_count; i++)
        if (v->batch[i]->version >= v->low)
            v->done[v->done_count++] = v->batch[i]->version;
    must(v->done_count <= v->done_room);
    return 0;
}

static uint64_t
after_commit(struct verify *v)
{
    struct slice ids[VERIFYI_BATCH];
    struct err   err;

    must(v->in_flight);
    must(v->batch_count > 0);
    must(v->batch_count <= VERIFYI_BATCH);
    v->in_flight = false;
    if (v->req.rc != 0)
        return commit_failed(v);
    must(v->req.end.v <= log_end(v->log).v);
    v->version = v->version == LOG_NO_STREAM ? 0 : v->version + 1;
    v->single = false;
    v->backoff_us = 0;
    for (uint32_t i = 0; i < v->batch_count; i++)
        ids[i] = v->batch[i]->key;
    /* Proofs that stay behind do no harm. */
    (void)v->proof->ops->forget(v->proof, ids, v->batch_count, NULL);
    count_verdicts(v);
    if (remember_done(v, &err) != 0) {
        verifyi_forget(v);
        v->started = false;
        return failed(v, &err);
    }
    drop_batch(v);
    set_state(v, VERIFY_RUNNING, NULL);
    return ENV_STEP_NOW;
}

/* the task */

static void
note_window(struct verify *v)
{
    struct log_stream info = {0};
    int64_t           wall = v->env->ops->wall_us(v->env), oldest = INT64_MAX;
    uint64_t          running = 0, beyond = 0;

    if (log_stream_info(v->log, slice_str(v->stream), &info, NULL) == 0 && info.head + 1 > v->next)
        beyond = info.head + 1 - v->next;
    for (uint32_t i = 0; i < v->count; i++) {
        running += v->open[i]->running && v->open[i]->decision == VERIFYI_OPEN;
        if (v->open[i]->came_us < oldest)
            oldest = v->open[i]->came_us;
    }
    lock_take(&v->lock);
    v->status.held = v->count + beyond;
    v->status.running = running;
    v->status.oldest_ms = v->count == 0 || wall < oldest ? 0 : (uint64_t)(wall - oldest) / 1000;
    lock_give(&v->lock);
}

/* When somebody is to be asked for again. */
static uint64_t
next_ask(const struct verify *v)
{
    uint64_t now = v->env->ops->mono_us(v->env), at = UINT64_MAX;

    for (uint32_t i = 0; i < v->count; i++)
        if (v->open[i]->decision == VERIFYI_OPEN && v->open[i]->ask_at_us < at)
            at = v->open[i]->ask_at_us;
    return at == UINT64_MAX ? ENV_STEP_WAIT : at <= now ? ENV_STEP_NOW : at - now;
}

static uint64_t
step(void *arg)
{
    struct verify *v = arg;
    struct err     err;

    must(v->magic == VERIFY_MAGIC);
    if (v->in_flight)
        return atomic_load(&v->done_flag) ? after_commit(v) : ENV_STEP_WAIT;
    if (atomic_load(&v->stopping)) {
        v->env->ops->gate_open(v->env, &v->stopped);
        return ENV_STEP_WAIT;
    }
    if (v->status.state == VERIFY_FAILED)
        return ENV_STEP_WAIT;
    if (!v->started) {
        if (verifyi_read_checkpoint(v, &err) != 0)
            return failed(v, &err);
        v->started = true;
        set_state(v, VERIFY_RUNNING, NULL);
    }
    if (verifyi_fill(v, &err) != 0)
        return failed(v, &err);
    note_window(v);
    if (ask(v, &err) != 0)
        return failed(v, &err);
    if (v->status.state == VERIFY_RETRYING)
        set_state(v, VERIFY_RUNNING, NULL);
    v->backoff_us = 0;
    choose(v);
    if (v->batch_count == 0)
        return next_ask(v);
    return commit(v, &err) != 0 ? failed(v, &err) : ENV_STEP_NOW;
}

static void
wake(struct log_listener *l)
{
    struct verify *v = l->arg;

    v->env->ops->task_wake(v->env, v->task);
}

/* opening */

static int
make_room(struct verify *v, struct err *err)
{
    uint32_t mask = 1;

    while (mask < v->window * 2)
        mask *= 2;
    v->blocked_mask = mask - 1;
    v->blocked = calloc(mask, sizeof v->blocked[0]);
    v->open = calloc(v->window, sizeof(struct verify_held *));
    v->items = calloc(VERIFYI_BATCH, sizeof v->items[0]);
    v->batch = calloc(VERIFYI_BATCH, sizeof(struct verify_held *));
    v->writes = calloc(VERIFYI_BATCH + 3, sizeof v->writes[0]);
    v->events = calloc((size_t)VERIFYI_BATCH * 3 + 1, sizeof v->events[0]);
    if (v->blocked == NULL || v->open == NULL || v->items == NULL || v->batch == NULL ||
        v->writes == NULL || v->events == NULL || v->name == NULL || v->stream == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    return 0;
}

int
verify_new(struct ox_env *env, struct log *log, const struct verify_conf *conf,
           struct proof **proof, struct verify **out, struct err *err)
{
    struct verify *v = calloc(1, sizeof *v);
    struct buf     preset = {0};
    int            rc;

    *out = NULL;
    if (v == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    v->magic = VERIFY_MAGIC;
    v->env = env;
    v->log = log;
    lock_init(&v->lock, LOCK_CORE);
    v->name = strdup(conf->name);
    v->own_stream = conf->stream == NULL;
    buf_printf(&preset, "$unverified-%s", conf->name);
    buf_add_byte(&preset, 0);
    v->stream = conf->stream != NULL ? strdup(conf->stream)
                : preset.failed      ? NULL
                                     : strdup((const char *)preset.data);
    v->delay_us = conf->delay_us;
    v->deadline_us = conf->deadline_us;
    v->discard = conf->discard;
    v->window = conf->window;
    TRY(make_room(v, err));
    v->status.state = VERIFY_STOPPED;
    v->proof = *proof;
    *proof = NULL;
    *out = v;
    v = NULL;
out:
    buf_fini(&preset);
    verify_free(v);
    return rc;
}

int
verify_start(struct verify *v, struct err *err)
{
    struct ox_task_def def = {.name = "ox-verify", .step = step, .arg = v};
    int                rc;

    if (v->task != NULL)
        return 0;
    must(!v->in_flight);
    must(v->count == 0);
    v->started = false;
    atomic_store(&v->stopping, false);
    gate_init(&v->stopped);
    set_state(v, VERIFY_STARTING, NULL);
    TRY(v->env->ops->task_start(v->env, &def, &v->task, err));
    v->listener = (struct log_listener){.wake = wake, .arg = v};
    log_listen(v->log, &v->listener);
out:
    return rc;
}

void
verify_stop(struct verify *v)
{
    if (v->task == NULL)
        return;
    atomic_store(&v->stopping, true);
    v->env->ops->task_wake(v->env, v->task);
    (void)v->env->ops->gate_wait(v->env, &v->stopped, UINT64_MAX);
    log_unlisten(v->log, &v->listener);
    v->env->ops->task_stop(v->env, v->task);
    must(!v->in_flight);
    v->task = NULL;
    verifyi_forget(v);
    set_state(v, VERIFY_STOPPED, NULL);
}

void
verify_free(struct verify *v)
{
    if (v == NULL)
        return;
    must(v->magic == VERIFY_MAGIC);
    verify_stop(v);
    verifyi_forget(v);
    source_proof_free(v->proof);
    free(v->name);
    free(v->stream);
    free(v->blocked);
    free(v->open);
    free(v->items);
    free(v->batch);
    free(v->writes);
    free(v->events);
    free(v->done);
    buf_fini(&v->text);
    lock_fini(&v->lock);
    free(v);
}

void
verify_get_status(struct verify *v, struct verify_status *out)
{
    lock_take(&v->lock);
    *out = v->status;
    lock_give(&v->lock);
}
