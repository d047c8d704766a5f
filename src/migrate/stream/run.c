/*
 * A surgery at work: its workers take streams of the page at hand, move them, and
 * the last one done turns the page, which is when the record is saved. What
 * a crash leaves is at most a page that is gone through again; streams that
 * were moved say so and are passed over.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "migrate/stream/stream_int.h"

#define TAKE 256u                         /* streams that a worker takes at once */
#define BATCH_BYTES (UINT64_C(384) << 10) /* of a commit; the log gives bulk 512 KiB of a group */
#define GENTLE_BYTES (UINT64_C(768) << 10)
#define LOSSES_MAX 100u
#define FENCE_AFTER 3u /* lost races */
#define FENCE_US 6000u /* the first one; each further loss doubles it, on a slow machine */
#define FENCE_DOUBLED 6u
#define RETRY_US 1000000u
#define NEED_US 100000u /* until a worker that is not needed asks again */

static void
add_counts(struct streami_counts *to, const struct streami_counts *c)
{
    to->streams += c->streams;
    to->events += c->events;
    to->copies += c->copies;
    to->skipped += c->skipped;
    to->parked += c->parked;
    to->seen += c->seen;
    to->lost += c->lost;
}

/* moving */

static int
park(struct streami_worker *w, struct slice stream, const struct err *why, struct err *err)
{
    w->counts.parked++;
    return streami_park(w->surgery, stream, why, err);
}

/* What is decided about a stream without a commit; false: it is to be committed. */
static int
decide(struct streami_worker *w, const struct streami_move *m, enum streami_verdict verdict,
       const struct err *why, bool *commit, struct err *err)
{
    *commit = false;
    switch (verdict) {
    case STREAMI_MOVE:
        *commit = true;
        return 0;
    case STREAMI_DONE:
        w->counts.streams++;
        w->counts.events += m->events;
        w->paced += m->events; /* moved before, or beside another: nothing to rest for */
        return 0;
    case STREAMI_SKIP:
        w->counts.skipped++;
        return 0;
    case STREAMI_STAGES:
        return streami_stages(w, m->sources[0].stream, err);
    case STREAMI_REFUSED:
        break;
    }
    return park(w, m->sources[0].stream, why, err);
}

static struct streami_move *
new_move(struct streami_worker *w, struct slice stream)
{
    struct streami_move *m = streami_alloc(&w->arena, sizeof *m);

    if (m == NULL)
        return NULL;
    memset(m, 0, sizeof *m);
    if (!streami_grow(&w->arena, &m->sources, 0, &m->source_room, sizeof *m->sources))
        return NULL;
    m->sources[0] = (struct streami_source){.stream = stream};
    m->source_count = 1;
    return m;
}

static struct streami_batch
new_batch(struct streami_worker *w)
{
    return (struct streami_batch){
        .log = w->surgery->log, .spec = w->surgery->spec, .arena = &w->arena, .gentle = w->gentle};
}

static int
settle(struct streami_worker *w, struct streami_batch *b, struct err *err)
{
    int rc = 0;

    for (const struct streami_move *m = b->done; m != NULL; m = m->next) {
        /* The others of a join count when it is their turn, but are moved now. */
        for (uint32_t i = 1; i < m->source_count && w->reader.memo != NULL; i++) {
            streami_memo_add(w->reader.memo, m->sources[i].stream, m->sources[i].events);
            w->beside += m->sources[i].events;
        }
        w->counts.streams++;
        w->counts.events += m->sources[0].events;
        w->counts.copies += m->out_count;
    }
    for (const struct streami_move *m = b->refused; m != NULL; m = m->next)
        TRY(park(w, m->sources[0].stream, &b->why, err));
out:
    return rc;
}

/* Who writes to the streams of a move that was lost waits now, for a few milliseconds. */
static int
fence(struct streami_worker *w, const struct streami_move *lost, uint32_t losses,
      struct log_fence **out, struct err *err)
{
    struct slice *names = streami_alloc(&w->arena, lost->source_count * sizeof *names);
    uint32_t      more = losses - FENCE_AFTER;

    must(losses >= FENCE_AFTER);
    if (names == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a fence");
    for (uint32_t i = 0; i < lost->source_count; i++)
        names[i] = lost->sources[i].stream;
    if (more > FENCE_DOUBLED)
        more = FENCE_DOUBLED;
    return log_fence(w->surgery->log, names, lost->source_count, FENCE_US << more, out, err);
}

/* Somebody writes to it: alone, and at once. */
static int
move_alone(struct streami_worker *w, struct slice stream, struct err *err)
{
    const struct streami_move *lost = NULL;
    struct log_fence          *held = NULL;
    struct err                 why;
    int                        rc = 0;

    err_clear(&why);
    for (uint32_t losses = 0; losses < LOSSES_MAX; losses++) {
        struct streami_batch b = new_batch(w);
        enum streami_verdict verdict;
        bool                 commit;

        w->counts.lost++;
        if (losses >= FENCE_AFTER)
            TRY(fence(w, lost, losses, &held, err));
        streami_reset(&w->arena);
        b.moves = new_move(w, stream);
        if (b.moves == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a move");
        TRY(streami_move_build(&w->reader, b.moves, &verdict, &why));
        TRY(decide(w, b.moves, verdict, &why, &commit, err));
        if (!commit)
            goto out;
        TRY(streami_commit(&b, err));
        log_unfence(w->surgery->log, held);
        held = NULL;
        TRY(settle(w, &b, err));
        lost = b.lost;
        if (lost == NULL)
            goto out;
    }
    (void)err_set(&why, __FILE__, __LINE__, E_BUSY, ERR_DATA,
                  "it was written to each time that it was to be moved");
    rc = park(w, stream, &why, err);
out:
    log_unfence(w->surgery->log, held);
    if (rc != 0 && err->code != rc)
        err_copy(err, &why);
    return rc;
}

/* Commits what there is of the batch; the names are in w->names, which stays. */
static int
commit(struct streami_worker *w, struct streami_batch *b, struct err *err)
{
    struct buf   lost = {0};
    struct slice name;
    uint8_t      len[2];
    int          rc = 0;

    if (b->moves == NULL)
        goto out;
    TRY(streami_commit(b, err));
    TRY(settle(w, b, err));
    for (const struct streami_move *m = b->lost; m != NULL; m = m->next) {
        put_u16(len, (uint16_t)m->sources[0].stream.len);
        buf_add(&lost, len, 2);
        buf_add_slice(&lost, m->sources[0].stream);
    }
    if (lost.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (size_t at = 0; at < lost.len; at += 2 + name.len) {
        name = slice_of(lost.data + at + 2, get_u16(lost.data + at));
        TRY(move_alone(w, name, err));
    }
out:
    b->moves = NULL;
    buf_fini(&lost);
    streami_reset(&w->arena);
    return rc;
}

static int
move_names(struct streami_worker *w, struct err *err)
{
    struct streami_batch  b = new_batch(w);
    struct streami_move **tail = &b.moves; /* in order, so that copies can be read in order too */
    uint64_t              bytes = 0, most = w->gentle ? GENTLE_BYTES : BATCH_BYTES;
    int                   rc = 0;

    for (size_t at = 0; at < w->names.len;) {
        struct slice         name = slice_of(w->names.data + at + 2, get_u16(w->names.data + at));
        struct streami_move *m = new_move(w, name);
        enum streami_verdict verdict;
        struct err           why;
        bool                 take;

        at += 2 + name.len;
        w->counts.seen++;
        if (m == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a move");
        err_clear(&why);
        rc = streami_move_build(&w->reader, m, &verdict, &why);
        if (rc != 0) {
            err_copy(err, &why);
            goto out;
        }
        TRY(decide(w, m, verdict, &why, &take, err));
        if (!take)
            continue;
        *tail = m;
        tail = &m->next;
        bytes += m->bytes;
        if (bytes < most)
            continue;
        TRY(commit(w, &b, err));
        tail = &b.moves;
        bytes = 0;
    }
    rc = commit(w, &b, err);
out:
    streami_reset(&w->arena);
    return rc;
}

/* pages */

static enum stream_state
end_of(enum stream_state state)
{
    return state == STREAM_RUNNING        ? STREAM_DONE
           : state == STREAM_ROLLING_BACK ? STREAM_ROLLED_BACK
           : state == STREAM_DROPPING     ? STREAM_DROPPED
           : state == STREAM_CLOSING      ? STREAM_CLOSED
                                          : state; /* it could not be saved before */
}

/* What was done since the record goes into it. */
static void
take_live(struct surgery *s, struct streami_record *r)
{
    r->streams += s->live.streams;
    r->events += s->live.events;
    r->copies += s->live.copies;
    r->skipped += s->live.skipped;
    r->parked += s->live.parked;
    r->seen += s->live.seen;
    r->lost += s->live.lost;
    s->live = (struct streami_counts){0};
}

/* Which stream the page ends with. */
static void
note_end(struct surgery *s)
{
    struct streami_page p = s->page;
    struct slice        name = {0};

    while (streami_page_next(&p, &name)) {
    }
    buf_clear(&s->page_end);
    buf_add_slice(&s->page_end, name);
}

/* The page is done, and nobody else is at work: into the record with it, and the next one. */
static int
turn(struct surgery *s, struct err *err)
{
    struct streami_record *r = &s->record;
    uint64_t               all = 0;
    int                    rc = 0;

    if (!s->begun) {
        TRY(streami_page_estimate(s->log, s->spec, &all, err));
        lock_take(&s->lock);
        s->all = all;
        s->begun = true;
        lock_give(&s->lock);
    } else if (!s->turned) {
        lock_take(&s->lock);
        buf_clear(&r->cursor);
        if (s->page.last)
            r->set++;
        else
            buf_add_slice(&r->cursor, buf_slice(&s->page_end));
        take_live(s, r);
        s->turned = true; /* not again where what follows fails */
        lock_give(&s->lock);
    }
    if (r->set < s->spec->set_count) {
        TRY(streami_record_save(s->log, s->spec->name, r, true, err));
        TRY(streami_page_fill(s->log, s->spec, r->set, buf_slice(&r->cursor), &s->page, err));
        note_end(s);
        s->turned = false;
        goto out;
    }
    lock_take(&s->lock);
    r->state = end_of(r->state); /* and not s->state: somebody may ask for a pause just now */
    r->ended_us = s->env->ops->wall_us(s->env);
    r->error[0] = '\0';
    lock_give(&s->lock);
    TRY(streami_record_save(s->log, s->spec->name, r, false, err));
    lock_take(&s->lock);
    s->state = r->state;
    lock_give(&s->lock);
    if (s->memo != NULL)
        streami_memo_clear(s->memo);
out:
    return rc;
}

/* steps */

static int
work(struct streami_worker *w, enum stream_state state, struct err *err)
{
    w->counts = (struct streami_counts){0};
    w->paced = w->beside = 0;
    if (state == STREAM_ROLLING_BACK)
        return streami_back_names(w, err);
    if (state == STREAM_CLOSING)
        return streami_close_names(w, err);
    return state == STREAM_DROPPING ? streami_drop_names(w, err) : move_names(w, err);
}

/* Under the lock: is there anything that it has to keep to? */
static bool
is_gentle(const struct surgery *s)
{
    return s->max_p99_ms != 0 || s->max_rate != 0;
}

/* Under the lock: how many streams at once, so that a bound is kept to from the beginning. */
static uint32_t
take_most(const struct surgery *s)
{
    uint64_t most = s->max_rate != 0 ? s->max_rate / 1000 + 1 : TAKE / 2;

    return !is_gentle(s) ? TAKE : most < TAKE / 2 ? (uint32_t)most : TAKE / 2;
}

/* Under the lock: names for the worker; false: the page has no more. */
static bool
take_names(struct surgery *s, struct streami_worker *w)
{
    uint32_t     n = 0, most = take_most(s);
    struct slice name;
    uint8_t      len[2];

    buf_clear(&w->names);
    while (n < most && streami_page_next(&s->page, &name)) {
        put_u16(len, (uint16_t)name.len);
        buf_add(&w->names, len, 2);
        buf_add_slice(&w->names, name);
        n++;
    }
    return n > 0;
}

/* Under the lock, so that none of the tasks is being made or ended. */
static void
wake_all(struct surgery *s)
{
    for (uint32_t i = 0; !s->stopping && i < s->spec->workers; i++)
        if (s->workers[i].task != NULL)
            s->env->ops->task_wake(s->env, s->workers[i].task);
}

/* Under the lock: what failed is tried again, or ends it. */
static void
note_failure(struct surgery *s, const struct err *err)
{
    (void)snprintf(s->error, sizeof s->error, "%s", err->text);
    if (err->kind == ERR_RETRY || err->kind == ERR_NONE)
        return;
    s->record.from = s->record.state;
    s->state = STREAM_FAILED;
}

/* Under the lock: tells those who wait, if it is time. */
static void
open_idle(struct surgery *s)
{
    struct ox_gate *gate = s->ended;

    if (gate != NULL && !streami_is_working(s->state)) {
        s->ended = NULL;
        s->env->ops->gate_open(s->env, gate);
    }
    gate = s->idle;
    s->idle = NULL;
    if (gate != NULL && s->outstanding == 0 && !s->turning)
        s->env->ops->gate_open(s->env, gate);
    else
        s->idle = gate;
}

static uint64_t
turn_step(struct surgery *s)
{
    struct err err;
    int        rc = turn(s, &err);
    uint64_t   wait = ENV_STEP_NOW;

    lock_take(&s->lock);
    s->turning = false;
    if (rc != 0) {
        note_failure(s, &err);
        wait = RETRY_US;
    }
    open_idle(s);
    wake_all(s);
    lock_give(&s->lock);
    return wait;
}

/* Writes what a failure left it in; tried once, for the log may be what failed. */
static void
save_failed(struct surgery *s)
{
    struct streami_record *r = &s->record;

    r->state = STREAM_FAILED;
    (void)snprintf(r->error, sizeof r->error, "%s", s->error);
    (void)streami_record_save(s->log, s->spec->name, r, false, NULL);
}

/* The state in which the originals are not needed any more: routed streams go on with them. */
static enum stream_state
drops_from(const struct streami_spec *spec)
{
    return spec->route ? STREAM_CLOSED : STREAM_DONE;
}

/* Under the lock: when the originals' time is over, in µs from now. */
static uint64_t
keep_left(const struct surgery *s)
{
    int64_t now = s->env->ops->wall_us(s->env), due;

    if (s->state != drops_from(s->spec) || s->spec->keep_s == UINT64_MAX)
        return ENV_STEP_WAIT;
    due = s->record.ended_us + (int64_t)s->spec->keep_s * 1000000;
    return due <= now                              ? 0
           : (uint64_t)(due - now) < RETRY_US * 60 ? (uint64_t)(due - now)
                                                   : RETRY_US * 60;
}

static void
begin_again(struct surgery *s, enum stream_state state)
{
    s->record.set = 0;
    buf_clear(&s->record.cursor);
    buf_clear(&s->page.names);
    s->page.at = 0;
    s->page.count = 0;
    s->record.streams = s->record.events = s->record.copies = 0;
    s->record.seen = s->record.skipped = s->record.parked = s->record.lost = 0;
    s->begun = false;
    s->turned = true;
    s->error[0] = s->parked_why[0] = '\0';
    s->state = s->record.state = state;
    if (s->memo != NULL)
        streami_memo_clear(s->memo);
}

/* Under the lock. Whoever gave the page's last names back turns it, needed or not: others sleep. */
static bool
is_needed(const struct surgery *s, const struct streami_worker *w)
{
    return w - s->workers < s->at_work || (s->outstanding == 0 && s->page.at == s->page.names.len);
}

static uint64_t
step(void *arg)
{
    struct streami_worker *w = arg;
    struct surgery        *s = w->surgery;
    enum stream_state      state;
    struct err             err;
    uint64_t               wait, began, moved;
    int                    rc;

    lock_take(&s->lock);
    if (keep_left(s) == 0 && w == s->workers && s->outstanding == 0)
        begin_again(s, STREAM_DROPPING);
    if (!streami_is_working(s->state) || s->stopping || s->turning) {
        wait = w == s->workers ? keep_left(s) : ENV_STEP_WAIT;
        lock_give(&s->lock);
        return wait;
    }
    if (!w->busy && !is_needed(s, w)) {
        lock_give(&s->lock);
        return NEED_US;
    }
    if (!w->busy && !take_names(s, w)) {
        s->turning = s->outstanding == 0;
        wait = s->turning ? ENV_STEP_NOW : ENV_STEP_WAIT;
        lock_give(&s->lock);
        return wait == ENV_STEP_NOW ? turn_step(s) : wait;
    }
    s->outstanding += !w->busy;
    w->busy = true;
    w->failed = false;
    state = s->state;
    w->gentle = is_gentle(s);
    began = s->env->ops->mono_us(s->env);
    lock_give(&s->lock);
    err_clear(&err);
    rc = work(w, state, &err);
    lock_take(&s->lock);
    s->work_us += s->env->ops->mono_us(s->env) - began;
    if (rc == 0) {
        w->busy = false;
        s->outstanding--;
        s->error[0] = '\0';
        add_counts(&s->live, &w->counts);
    } else {
        w->failed = true; /* the same names again, in time */
        note_failure(s, &err);
    }
    if (s->state == STREAM_FAILED && rc != 0)
        save_failed(s);
    moved = w->counts.events + w->beside;
    wait = rc != 0 ? RETRY_US : streami_pace(s, moved > w->paced ? moved - w->paced : 0);
    open_idle(s);
    lock_give(&s->lock);
    return wait;
}

/* from outside */

static void
free_surgery(struct surgery *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; s->workers != NULL && i < s->spec->workers; i++) {
        struct streami_worker *w = &s->workers[i];

        streami_reader_fini(&w->reader);
        streami_arena_fini(&w->arena);
        buf_fini(&w->names);
    }
    free(s->workers);
    streami_memo_free(s->memo);
    streami_spec_free(s->spec);
    buf_fini(&s->record.cursor);
    buf_fini(&s->page.names);
    buf_fini(&s->page_end);
    lock_fini(&s->lock);
    free(s);
}

void
stream_close(struct surgery *s)
{
    if (s == NULL)
        return;
    lock_take(&s->lock);
    s->stopping = true;
    lock_give(&s->lock);
    for (uint32_t i = 0; s->workers != NULL && i < s->spec->workers; i++)
        s->env->ops->task_stop(s->env, s->workers[i].task);
    free_surgery(s);
}

static int
new_surgery(struct ox_env *env, struct log *log, struct streami_spec **spec, struct surgery **out,
            struct err *err)
{
    struct surgery *s = calloc(1, sizeof *s);
    int             rc = 0;

    *out = NULL;
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a surgery");
    lock_init(&s->lock, LOCK_CORE);
    s->env = env;
    s->log = log;
    s->spec = *spec;
    *spec = NULL;
    s->turned = true;
    s->page.last = true;
    s->max_p99_ms = s->spec->max_p99_ms;
    s->max_rate = s->spec->max_rate;
    s->at_work = s->spec->workers;
    s->rate_us = s->looked_us = env->ops->mono_us(env);
    s->workers = calloc(s->spec->workers, sizeof *s->workers);
    if (s->workers == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a surgery");
    if (s->spec->kind == STREAMI_JOIN)
        TRY(streami_memo_new(env, &s->memo, err));
    for (uint32_t i = 0; i < s->spec->workers; i++) {
        struct streami_worker *w = &s->workers[i];

        w->surgery = s;
        w->reader = (struct streami_reader){
            .log = log, .spec = s->spec, .arena = &w->arena, .bulk = &w->arena, .memo = s->memo};
        for (uint32_t k = 0; k < STREAMI_WINDOWS; k++)
            TRY(log_window_new(&w->reader.windows[k], err));
        if (s->spec->transform != NULL)
            TRY(transform_run_new(s->spec->transform, &w->reader.run, err));
    }
    log_latency(log, s->latency);
    *out = s;
    s = NULL;
out:
    free_surgery(s);
    return rc;
}

/* Under the lock. Those that have ended need no tasks until somebody asks for more. */
static int
start(struct surgery *s, struct err *err)
{
    int rc = 0;

    if (s->started)
        return 0;
    for (uint32_t i = 0; i < s->spec->workers; i++)
        TRY(s->env->ops->task_start(
            s->env,
            &(struct ox_task_def){
                .name = "surgery", .step = step, .arg = &s->workers[i], .background = true},
            &s->workers[i].task, err));
    s->started = true;
out:
    return rc;
}

int
stream_begin(struct ox_env *env, struct log *log, struct slice name, struct slice json,
             struct surgery **out, struct err *err)
{
    struct streami_spec *spec = NULL;
    struct surgery      *s = NULL;
    int                  rc;

    *out = NULL;
    TRY(streami_spec_new(name, json, &spec, err));
    TRY(new_surgery(env, log, &spec, &s, err));
    s->record.started_us = env->ops->wall_us(env);
    TRY(streami_record_begin(log, s->spec, &s->record, err));
    lock_take(&s->lock);
    rc = start(s, err);
    lock_give(&s->lock);
    if (rc != 0)
        goto out;
    *out = s;
    s = NULL;
out:
    streami_spec_free(spec);
    stream_close(s);
    return rc;
}

int
stream_open(struct ox_env *env, struct log *log, struct slice name, struct surgery **out,
            struct err *err)
{
    struct streami_spec  *spec = NULL;
    struct streami_record record = {0};
    struct surgery       *s = NULL;
    struct buf            json = {0};
    int                   rc;

    *out = NULL;
    TRY(streami_record_load(log, name, &json, &record, err));
    TRY(streami_spec_new(name, buf_slice(&json), &spec, err));
    TRY(new_surgery(env, log, &spec, &s, err));
    s->record = record;
    record.cursor = (struct buf){0};
    s->state = s->record.state;
    (void)snprintf(s->error, sizeof s->error, "%s", s->record.error);
    lock_take(&s->lock);
    if (streami_is_working(s->state) ||
        (s->state == drops_from(s->spec) && s->spec->keep_s != UINT64_MAX))
        rc = start(s, err);
    lock_give(&s->lock);
    if (rc != 0)
        goto out;
    *out = s;
    s = NULL;
out:
    buf_fini(&record.cursor);
    buf_fini(&json);
    streami_spec_free(spec);
    stream_close(s);
    return rc;
}

/* Under the lock: where all that are at work wait to try again, nobody is any more. */
static bool
give_up(struct surgery *s)
{
    uint32_t failed = 0;

    for (uint32_t i = 0; i < s->spec->workers; i++)
        failed += s->workers[i].failed;
    if (failed != s->outstanding)
        return false;
    for (uint32_t i = 0; i < s->spec->workers; i++)
        s->workers[i].failed = s->workers[i].busy = false;
    s->outstanding = 0;
    s->page.at = 0; /* the page again: what was moved is passed over */
    s->live = (struct streami_counts){0};
    return true;
}

/* Under the lock, which is given up meanwhile: until nobody is at work. */
static void
wait_idle(struct surgery *s)
{
    struct ox_gate gate;

    while (s->outstanding > 0 || s->turning) {
        if (!s->turning && give_up(s))
            break;
        gate_init(&gate);
        s->idle = &gate;
        lock_give(&s->lock);
        (void)s->env->ops->gate_wait(s->env, &gate, 50000);
        lock_take(&s->lock);
        s->idle = NULL;
    }
}

/* Between two states that a caller asks for. */
static int
set_state(struct surgery *s, enum stream_state state, bool final, struct err *err)
{
    struct streami_record *r = &s->record;
    int                    rc;

    if (final)
        take_live(s, r);
    r->state = state;
    if (final)
        r->ended_us = s->env->ops->wall_us(s->env);
    r->error[0] = s->error[0] = '\0';
    rc = streami_record_save(s->log, s->spec->name, r, false, err);
    if (rc == 0)
        s->state = state;
    return rc;
}

static int
wrong_state(const struct surgery *s, const char *what, struct err *err)
{
    RETURN_ERR(err, E_STATE, ERR_DATA, "surgery %s is %s: it cannot %s", s->spec->name,
               stream_state_name(s->state), what);
}

int
stream_pause(struct surgery *s, struct err *err)
{
    int rc;

    lock_take(&s->lock);
    if (s->state != STREAM_RUNNING) {
        rc = wrong_state(s, "pause", err);
    } else {
        s->state = STREAM_PAUSED;
        wait_idle(s);
        rc = s->state == STREAM_PAUSED ? set_state(s, STREAM_PAUSED, false, err)
                                       : wrong_state(s, "pause", err);
    }
    lock_give(&s->lock);
    return rc;
}

int
stream_resume(struct surgery *s, struct err *err)
{
    int rc;

    lock_take(&s->lock);
    if (s->state != STREAM_PAUSED && s->state != STREAM_FAILED) {
        rc = wrong_state(s, "resume", err);
    } else {
        wait_idle(s);
        rc = start(s, err);
        if (rc == 0)
            rc = set_state(
                s,
                s->state == STREAM_FAILED && s->record.from == STREAM_ROLLING_BACK
                    ? STREAM_ROLLING_BACK
                : s->state == STREAM_FAILED && s->record.from == STREAM_DROPPING ? STREAM_DROPPING
                : s->state == STREAM_FAILED && s->record.from == STREAM_CLOSING  ? STREAM_CLOSING
                                                                                 : STREAM_RUNNING,
                false, err);
    }
    wake_all(s);
    lock_give(&s->lock);
    return rc;
}

int
stream_cancel(struct surgery *s, struct err *err)
{
    int rc;

    lock_take(&s->lock);
    if (s->state != STREAM_RUNNING && s->state != STREAM_PAUSED && s->state != STREAM_FAILED) {
        rc = wrong_state(s, "be cancelled", err);
    } else {
        s->state = STREAM_PAUSED;
        wait_idle(s);
        rc = s->state == STREAM_PAUSED ? set_state(s, STREAM_CANCELLED, true, err)
                                       : wrong_state(s, "be cancelled", err);
    }
    lock_give(&s->lock);
    return rc;
}

static int
go_through(struct surgery *s, enum stream_state state, const char *what, struct err *err)
{
    bool ended;
    int  rc = 0;

    lock_take(&s->lock);
    ended = state == STREAM_DROPPING
                ? s->state == drops_from(s->spec)
                : s->state == STREAM_DONE || s->state == STREAM_CANCELLED ||
                      (state == STREAM_ROLLING_BACK && /* once more: for those that were parked */
                       (s->state == STREAM_CLOSED || s->state == STREAM_ROLLED_BACK));
    if (!ended) {
        rc = wrong_state(s, what, err);
    } else {
        rc = start(s, err);
        if (rc == 0) {
            begin_again(s, state);
            s->state = STREAM_PAUSED;
            rc = set_state(s, state, false, err);
        }
    }
    wake_all(s);
    lock_give(&s->lock);
    return rc;
}

int
stream_rollback(struct surgery *s, struct err *err)
{
    return go_through(s, STREAM_ROLLING_BACK, "be rolled back", err);
}

int
stream_end_routing(struct surgery *s, struct err *err)
{
    if (!s->spec->route)
        RETURN_ERR(err, E_STATE, ERR_DATA, "it routes nothing: its old names are closed already");
    return go_through(s, STREAM_CLOSING, "be closed", err);
}

int
stream_drop(struct surgery *s, struct err *err)
{
    if (s->spec->link)
        RETURN_ERR(err, E_STATE, ERR_DATA, "links need the originals: they stay");
    if (s->spec->kind == STREAMI_REWRITE)
        RETURN_ERR(
            err, E_STATE, ERR_DATA,
            "a rewrite in place has hidden its originals: oxbow log scavenge gives them back");
    return go_through(s, STREAM_DROPPING,
                      s->spec->route ? "drop its originals before oxbow stream unroute"
                                     : "drop its originals",
                      err);
}

void
stream_wait(struct surgery *s, uint64_t timeout_us)
{
    struct ox_gate gate;

    gate_init(&gate);
    lock_take(&s->lock);
    if (streami_is_working(s->state)) {
        s->ended = &gate;
        lock_give(&s->lock);
        (void)s->env->ops->gate_wait(s->env, &gate, timeout_us);
        lock_take(&s->lock);
        s->ended = NULL;
    }
    lock_give(&s->lock);
}

void
stream_throttle(struct surgery *s, uint64_t max_p99_ms, uint64_t max_rate)
{
    lock_take(&s->lock);
    if (max_p99_ms != UINT64_MAX) {
        s->max_p99_ms = max_p99_ms;
        s->pause_us = 0;
    }
    if (max_rate != UINT64_MAX)
        s->max_rate = max_rate;
    wake_all(s); /* from a rest that is not asked for any more */
    lock_give(&s->lock);
}
