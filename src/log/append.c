/*
 * Submitting: what can be refused without looking at the log is refused here,
 * on the caller's thread.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "log/log_int.h"

void
logi_answer(struct log *log, struct log_req *req, int rc, const struct err *err)
{
    must(rc == 0 || err != NULL || req->err.code != 0); /* a refusal says why */
    must(rc != 0 || req->pos.v != 0);
    must(rc != 0 || req->pos.v <= req->last.v);
    must(rc != 0 || req->last.v < req->end.v);
    must(rc != 0 || req->end.v <= atomic_load(&log->end)); /* durable before confirmed */
    req->rc = rc;
    if (rc != 0 && err != NULL)
        err_copy(&req->err, err);
    logi_note_latency(log, req);
    if (req->bytes != 0)
        must(atomic_fetch_sub(&log->queue_bytes, req->bytes) >= req->bytes);
    req->bytes = 0;
    free(req->own);
    req->own = NULL;
    if (req->gate != NULL) {
        log->env->ops->gate_open(log->env, req->gate);
        return;
    }
    if (req->sealed != NULL)
        logi_unseal(req);
    req->done(req);
}

/* latency */

/* Four buckets for each power of two. */
static unsigned
bucket_of(uint64_t us)
{
    unsigned top, b;

    if (us < 4)
        return (unsigned)us;
    top = 63u - (unsigned)__builtin_clzll(us);
    b = 4 * (top - 1) + (unsigned)(us >> (top - 2) & 3);
    must_slow(b >= LOG_LATENCY_BUCKETS || log_latency_us(b) > us);
    return b < LOG_LATENCY_BUCKETS ? b : LOG_LATENCY_BUCKETS - 1;
}

uint64_t
log_latency_us(unsigned bucket)
{
    must(bucket < LOG_LATENCY_BUCKETS);
    return bucket < 4 ? bucket : (UINT64_C(4) + bucket % 4 + 1) << (bucket / 4 - 1);
}

void
logi_note_latency(struct log *log, struct log_req *req)
{
    if (req->submitted_us == 0)
        return;
    atomic_fetch_add_explicit(
        &log->latency[bucket_of(log->env->ops->mono_us(log->env) - req->submitted_us)], 1,
        memory_order_relaxed);
    req->submitted_us = 0;
}

void
log_latency(struct log *log, uint64_t counts[LOG_LATENCY_BUCKETS])
{
    for (unsigned i = 0; i < LOG_LATENCY_BUCKETS; i++)
        counts[i] = atomic_load_explicit(&log->latency[i], memory_order_relaxed);
}

int
log_name_check(struct slice name, bool system, struct err *err)
{
    if (name.len == 0)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a stream's name may not be empty");
    if (name.len > LOG_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "a stream's name has %zu bytes, at most %d are allowed", name.len, LOG_NAME_MAX);
    if (!utf8_valid(name) || memchr(name.data, '\0', name.len) != NULL)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a stream's name has to be UTF-8 without NUL");
    if (slice_starts(name, slice_str("$ce-")) || slice_starts(name, slice_str("$et-")) ||
        slice_is(name, "$streams") || slice_is(name, "$all"))
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "\"%.*s\": reads of this name come from the index, nothing can be written to it",
                   SLICE_FMT(name));
    if (!system && ((const char *)name.data)[0] == '$')
        RETURN_ERR(err, E_INVALID, ERR_DATA, "\"%.*s\": names that begin with '$' are the system's",
                   SLICE_FMT(name));
    return 0;
}

static int
check_expected(int64_t expected, struct err *err)
{
    if (expected < 0 && expected != LOG_ANY && expected != LOG_NO_STREAM && expected != LOG_EXISTS)
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "expected version %" PRId64 ": any, no-stream, exists or a number from 0",
                   expected);
    return 0;
}

static int
check_event(const struct log_new_event *e, struct err *err)
{
    if (e->type.len == 0 || e->type.len > LOG_TYPE_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "an event's type has %zu bytes, 1 to %d are allowed",
                   e->type.len, LOG_TYPE_MAX);
    if (!utf8_valid(e->type) || memchr(e->type.data, '\0', e->type.len) != NULL)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "an event's type has to be UTF-8 without NUL");
    if (e->data.len + e->meta.len > LOG_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA,
                   "an event has %zu bytes of data and metadata, at most %" PRIu64 " are allowed",
                   e->data.len + e->meta.len, LOG_EVENT_MAX);
    if ((e->flags & LOG_SEALED) != 0 && (e->data.len < SUBJECTS_OVERHEAD || id_is_zero(&e->id)))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "an event's data is not as sealed under a key");
    return 0;
}

static int
check_subject(const struct log *log, const struct log_write *w, const struct log_new_event *e,
              struct err *err)
{
    if (log->conf.subjects == NULL)
        RETURN_ERR(err, E_STATE, ERR_DATA, "there is no keystore open for the keys of subjects");
    if ((e->flags & (LOG_SEALED | LOG_LINK)) != 0 || slice_is(e->type, LINK_TYPE) ||
        *(const char *)w->stream.data == '$')
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "\"%.*s\": links and events of system streams are not under a subject's key",
                   SLICE_FMT(w->stream));
    if (e->data.len + SUBJECTS_OVERHEAD + e->meta.len > LOG_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA,
                   "an event has %zu bytes of data and metadata, under a subject's key at most "
                   "%" PRIu64 " are allowed",
                   e->data.len + e->meta.len, LOG_EVENT_MAX - SUBJECTS_OVERHEAD);
    return 0;
}

/*
 * The streams of a commit by their names: places in `slots` hold a number from 1 on, first the
 * writes', then the changes'.
 */
struct names {
    const struct log     *log;
    const struct log_req *req;
    uint32_t             *slots, mask;
};

static struct slice
name_of(const struct log_req *req, uint32_t number)
{
    must(number < req->write_count + req->own_count);
    return number < req->write_count ? req->writes[number].stream
                                     : req->own[number - req->write_count].change.stream;
}

/* The one with the same name before it takes its place; UINT32_MAX: there was none. */
static uint32_t
put_name(struct names *n, uint32_t number)
{
    struct slice name = name_of(n->req, number);
    uint64_t     fp[2]; /* of a secret: nobody can choose names that meet */
    uint32_t     at, other;

    logi_heads_fp(n->log->heads, name, fp);
    at = (uint32_t)fp[0] & n->mask;
    while (n->slots[at] != 0 && !slice_eq(name_of(n->req, n->slots[at] - 1), name))
        at = (at + 1) & n->mask;
    other = n->slots[at];
    must(other <= number); /* they come in their order */
    n->slots[at] = number + 1;
    return other == 0 ? UINT32_MAX : other - 1;
}

/* A stream stands in a commit once, with events, a change, or both: a change is told its write. */
static int
check_distinct(const struct log *log, const struct log_req *req, struct err *err)
{
    uint32_t     all = req->write_count + req->own_count;
    struct names n = {.log = log, .req = req, .mask = 1};
    int          rc = 0;

    must(all >= req->write_count); /* each takes bytes of the commit, of which so many fit */
    if (all < 2)
        return 0;
    while (n.mask < (uint64_t)all * 2)
        n.mask *= 2;
    n.slots = calloc(n.mask--, sizeof *n.slots);
    if (n.slots == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i < all; i++) {
        uint32_t other = put_name(&n, i);

        if (other == UINT32_MAX)
            continue;
        if (i < req->write_count || other >= req->write_count)
            FAIL(err, E_INVALID, ERR_DATA, "stream \"%.*s\" is in the commit twice",
                 SLICE_FMT(name_of(req, i)));
        req->own[i - req->write_count].write = other;
    }
out:
    free(n.slots);
    return rc;
}

/* changes */

static int
check_change(const struct log_change *c, uint64_t *bytes, struct err *err)
{
    const uint32_t all = LOG_SET_TRUNCATE | LOG_SET_DELETED | LOG_SET_TOMBSTONE | LOG_SET_LIMITS |
                         LOG_SET_CLOSED | LOG_SET_OPEN | LOG_SET_MOVED | LOG_SET_UNMOVED |
                         LOG_SET_ROUTED | LOG_SET_FED | LOG_SET_UNFED | LOG_SET_STAGED |
                         LOG_SET_UNSTAGED;
    const uint32_t stages = c->what & (LOG_SET_STAGED | LOG_SET_UNSTAGED);
    const uint32_t moves = c->what & (LOG_SET_MOVED | LOG_SET_UNMOVED | LOG_SET_ROUTED);
    int            rc;

    TRY(log_name_check(c->stream, true, err));
    TRY(check_expected(c->expected, err));
    if (c->what == 0 || (c->what & ~all) != 0 ||
        ((c->what & LOG_SET_CLOSED) != 0 && (c->what & LOG_SET_OPEN) != 0) ||
        ((c->what & LOG_SET_FED) != 0 && (c->what & LOG_SET_UNFED) != 0) ||
        (moves & (moves - 1)) != 0 || (stages & (stages - 1)) != 0)
        FAIL(err, E_INVALID, ERR_DATA, "stream \"%.*s\": a change that sets nothing that is known",
             SLICE_FMT(c->stream));
    if (c->max_age_us < 0)
        FAIL(err, E_INVALID, ERR_DATA, "stream \"%.*s\": a greatest age below 0",
             SLICE_FMT(c->stream));
    *bytes += RECORD_MIN + 8 + c->stream.len + STATE_BYTES;
out:
    return rc;
}

/* The change that metadata written to "$$NAME" makes to NAME; none where it is of another type. */
static int
meta_change(const struct log_write *w, bool system, struct log_change *c, bool *makes,
            struct err *err)
{
    struct log_meta m;
    int             rc = 0;

    must(logi_is_metastream(w->stream));
    *makes = false;
    for (uint32_t i = 0; i < w->count; i++) {
        if (!slice_is(w->events[i].type, LOG_META_TYPE)) {
            if (system)
                continue;
            FAIL(err, E_INVALID, ERR_DATA,
                 "\"%.*s\": a stream of metadata takes events of type " LOG_META_TYPE " only",
                 SLICE_FMT(w->stream));
        }
        TRY(log_meta_parse(w->events[i].data, &m, err));
        *makes = true;
    }
    if (!*makes)
        goto out;
    *c = (struct log_change){
        .stream = slice_of((const uint8_t *)w->stream.data + 2, w->stream.len - 2),
        .expected = LOG_ANY,
        .what = LOG_SET_LIMITS | (m.deleted ? LOG_SET_DELETED : 0u) |
                (m.has_truncate && !m.deleted ? LOG_SET_TRUNCATE : 0u),
        .truncate = m.truncate,
        .max_count = m.max_count,
        .max_age_us = m.max_age_us,
    };
out:
    return rc;
}

/* A move writes metadata as well: both make one change. `at`: where to look first. */
static bool
joins_change(struct log_req *req, const struct log_change *c, uint32_t *at)
{
    const uint32_t moves = LOG_SET_MOVED | LOG_SET_UNMOVED | LOG_SET_ROUTED | LOG_SET_FED |
                           LOG_SET_UNFED | LOG_SET_UNSTAGED;

    must((c->what & LOG_SET_LIMITS) != 0); /* both are taken from it */
    must(*at == 0 || *at < req->change_count);
    for (uint32_t n = 0; n < req->change_count; n++) {
        struct log_change *own = &req->own[(*at + n) % req->change_count].change;

        if ((own->what & ~moves) != 0 || !slice_eq(own->stream, c->stream))
            continue;
        own->what |= c->what;
        own->truncate = c->truncate;
        own->max_count = c->max_count;
        own->max_age_us = c->max_age_us;
        *at = (*at + n + 1) % req->change_count;
        return true;
    }
    return false;
}

/* All changes of the commit, those that its metadata makes included. */
static int
gather_changes(struct log_req *req, uint64_t *bytes, struct err *err)
{
    uint32_t metas = 0, n = 0, at = 0;
    int      rc = 0;

    for (uint32_t i = 0; i < req->write_count; i++)
        metas += logi_is_metastream(req->writes[i].stream);
    if (metas + req->change_count == 0)
        return 0;
    must(req->own == NULL);
    req->own = calloc(metas + req->change_count, sizeof *req->own);
    if (req->own == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i < req->change_count; i++)
        req->own[n++] = (struct log_own){req->changes[i], UINT32_MAX, false};
    for (uint32_t i = 0; i < req->write_count && metas > 0; i++) {
        bool makes = false;

        if (!logi_is_metastream(req->writes[i].stream))
            continue;
        must(n < metas + req->change_count);
        req->own[n].write = UINT32_MAX;
        req->own[n].meta = true;
        TRY(meta_change(&req->writes[i], (req->flags & LOG_SYSTEM) != 0, &req->own[n].change,
                        &makes, err));
        n += makes && !joins_change(req, &req->own[n].change, &at);
    }
    must(n >= req->change_count);
    must(n <= metas + req->change_count);
    req->own_count = n;
    for (uint32_t i = 0; i < n; i++)
        TRY(check_change(&req->own[i].change, bytes, err));
out:
    return rc;
}

static int
check_write(const struct log *log, struct log_req *req, const struct log_write *w, uint64_t *bytes,
            struct err *err)
{
    bool system = (req->flags & LOG_SYSTEM) != 0;
    int  rc;

    /* Anybody may write the metadata of what is not the system's. */
    if (logi_is_metastream(w->stream) && ((const char *)w->stream.data)[2] != '$')
        system = true;
    TRY(log_name_check(w->stream, system, err));
    TRY(check_expected(w->expected, err));
    if (w->count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "no events for stream \"%.*s\"", SLICE_FMT(w->stream));
    for (uint32_t i = 0; i < w->count; i++) {
        const struct log_new_event *e = &w->events[i];
        TRY(check_event(e, err));
        *bytes += RECORD_MIN + 8 + w->stream.len + e->type.len + e->data.len + e->meta.len;
        if (e->subject.len > 0) {
            TRY(check_subject(log, w, e, err));
            *bytes += SUBJECTS_OVERHEAD;
            req->subjects++;
        }
    }
out:
    return rc;
}

/* Every write has as many places in the order as events. */
static int
check_order(const struct log_req *req, struct err *err)
{
    uint32_t *seen;
    uint64_t  all = 0;
    int       rc = 0;

    if (req->order == NULL || req->write_count == 0)
        return 0;
    seen = calloc(req->write_count, sizeof *seen);
    if (seen == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t n = 0; n < req->write_count; n++)
        all += req->writes[n].count;
    for (uint64_t k = 0; k < all; k++) {
        uint32_t n = req->order[k];
        if (n >= req->write_count || seen[n]++ >= req->writes[n].count)
            FAIL(err, E_INVALID, ERR_DATA, "the commit's order does not name its events");
    }
out:
    free(seen);
    return rc;
}

/* A stream says itself where it went, or nobody could follow. */
static int
check_moves(const struct log_req *req, struct err *err)
{
    for (uint32_t i = 0; i < req->own_count; i++) {
        const struct log_own   *own = &req->own[i];
        const struct log_write *w = own->write == UINT32_MAX ? NULL : &req->writes[own->write];

        must(w == NULL || own->write < req->write_count);
        must(w == NULL || w->count > 0); /* check_write saw to it */
        if ((own->change.what & LOG_SET_MOVED) != 0 && own->change.moved == 0 &&
            (w == NULL || !slice_is(w->events[w->count - 1].type, LOG_MOVED_TYPE)))
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "stream \"%.*s\" is moved without a last event of type " LOG_MOVED_TYPE,
                       SLICE_FMT(own->change.stream));
    }
    return 0;
}

static int
validate(struct log *log, struct log_req *req, uint64_t *bytes, struct err *err)
{
    int rc = 0;

    *bytes = 0;
    if (req->write_count + req->change_count == 0)
        FAIL(err, E_INVALID, ERR_DATA, "a commit without an append or a change");
    must(req->stage != NULL || (req->flags & LOG_STAGED) == 0);
    for (uint32_t i = 0; i < req->write_count; i++)
        TRY(check_write(log, req, &req->writes[i], bytes, err));
    TRY(gather_changes(req, bytes, err));
    for (uint32_t i = 0; i < req->check_count; i++) {
        TRY(log_name_check(req->checks[i].stream, true, err));
        TRY(check_expected(req->checks[i].expected, err));
    }
    if (*bytes > log->conf.commit_bytes_max)
        FAIL(err, E_LIMIT, ERR_DATA,
             "a commit of %" PRIu64 " bytes, at most %" PRIu64 " are allowed", *bytes,
             log->conf.commit_bytes_max);
    must(*bytes >= RECORD_MIN);
    must(req->subjects == 0 || log->conf.subjects != NULL);
    TRY(check_distinct(log, req, err));
    TRY(check_order(req, err));
    TRY(check_moves(req, err));
    if (log->conf.read_only)
        FAIL(err, E_RDONLY, ERR_DATA, "the log was opened read-only");
    if (atomic_load(&log->closing))
        FAIL(err, E_CLOSED, ERR_DATA, "the log is being closed");
out:
    return rc;
}

static void
reset(struct log_req *req)
{
    err_clear(&req->err);
    req->rc = 0;
    req->pos = req->last = req->end = LOG_POS(0);
    req->idempotent = false;
    req->wrong_stream = slice_of(NULL, 0);
    req->gone_flags = 0;
    req->own = NULL;
    req->own_count = 0;
    req->next = NULL;
    req->bytes = 0;
    req->submitted_us = 0;
    req->fp[0] = req->fp[1] = 0;
    req->wake[0] = req->wake[1] = NULL;
    req->subjects = 0;
    req->sealed = NULL;
    req->routings = 0;
    must(req->asked <= req->write_count);
}

void
log_submit(struct log *log, struct log_req *req)
{
    struct log_req *top;
    struct err      err;
    uint64_t        bytes;
    int             rc;

    must(log->magic == LOGI_MAGIC);
    must((req->gate == NULL) != (req->done == NULL)); /* one way to be answered */
    reset(req);
    rc = validate(log, req, &bytes, &err);
    if (rc == 0 && atomic_load(&log->queue_bytes) + bytes > log->conf.queue_bytes_max &&
        atomic_load(&log->queue_bytes) > 0)
        rc = err_set(&err, __FILE__, __LINE__, E_LIMIT, ERR_RETRY,
                     "too much is waiting to be appended: try again later");
    if (rc == 0 && req->subjects > 0)
        rc = logi_seal(log, req, &err);
    if (rc != 0) {
        logi_answer(log, req, rc, &err);
        return;
    }
    must((req->subjects == 0) == (req->sealed == NULL));
    req->bytes = bytes;
    if ((req->flags & (LOG_BULK | LOG_QUIET)) == 0 && req->asked == 0)
        req->submitted_us = log->env->ops->mono_us(log->env);
    if (req->write_count > 0)
        logi_heads_fp(log->heads, req->writes[0].stream, req->fp);
    atomic_fetch_add(&log->queue_bytes, bytes);
    top = atomic_load_explicit(&log->incoming, memory_order_relaxed);
    do
        req->next = top;
    while (!atomic_compare_exchange_weak(&log->incoming, &top, req));
    log->env->ops->task_wake(log->env, log->task);
}

int
log_append(struct log *log, struct log_req *req)
{
    struct ox_env  *env = log->env; /* once it is answered the log may be closed */
    struct ox_gate  gate;
    struct log_req *a, *b;

    must(req->done == NULL);
    must(req->gate == NULL); /* nobody else waits for it */
    gate_init(&gate);
    req->gate = &gate;
    log_submit(log, req);
    (void)env->ops->gate_wait(env, &gate, UINT64_MAX);
    /* Those that were answered together wake each other: a tree is quicker than a queue. */
    a = req->wake[0];
    b = req->wake[1];
    must(a != NULL || b == NULL);
    must(req->bytes == 0);
    must(req->own == NULL);
    if (a != NULL)
        env->ops->gate_open(env, a->gate);
    if (b != NULL)
        env->ops->gate_open(env, b->gate);
    req->gate = NULL;
    if (req->sealed != NULL)
        logi_unseal(req);
    return req->rc;
}
