/* What clients ask for, and what they are told. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/must.h"
#include "sim/run_int.h"

#define TAG_LEN 24
#define TAG_MAGIC UINT64_C(0x6d6973776f62786f)
#define TEXT_MAX 400
#define BIG_MAX (UINT64_C(1400) << 10)

struct attempt {
    struct log_req    req;
    struct log_write  w[REC_WRITES];
    struct log_check  c[REC_CHECKS];
    struct log_change ch[REC_CHANGES];
    struct run       *run;
    struct rec       *rec; /* NULL: must be refused */
    void             *memory;
};

/* What an event is made of. */
struct shape {
    uint32_t type, data_len, meta_len, flags;
    int64_t  created_us;
    bool     own_id;
};

static const char *const types[] = {"Opened", "Deposited", "Withdrawn",  "Closed",
                                    "T",      "$>",        LOG_META_TYPE};

enum { TYPES = 5, TYPE_LINK = TYPES, TYPE_META };

static uint64_t
mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

bool
rec_can_repeat(const struct rec *rec)
{
    return mix(rec->seed) % 8 != 0;
}

static uint64_t
hash_of(const struct rec *rec, uint32_t w, uint32_t e)
{
    return mix(rec->seed ^ mix(((uint64_t)w << 32) + e));
}

static uint32_t
type_of(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e)
{
    uint64_t h = hash_of(rec, w, e);

    if (run->streams[rec->w[w].stream].meta_of >= 0)
        return TYPE_META;
    return (h >> 40) % 12 == 0 ? TYPE_LINK : (uint32_t)(h % TYPES);
}

bool
rec_link(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e, uint32_t *stream,
         uint64_t *version)
{
    uint64_t h = mix(hash_of(rec, w, e) + 1);

    if (type_of(run, rec, w, e) != TYPE_LINK)
        return false;
    *stream = (uint32_t)(h % run->stream_count);
    *version = (h >> 32) % 40;
    return true;
}

static struct log_meta
meta_of(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e)
{
    uint64_t             h = mix(hash_of(rec, w, e) + 2);
    const struct stream *of = &run->streams[run->streams[rec->w[w].stream].meta_of];
    struct log_meta      m = {.max_count = h % 2 == 0 ? 1 + (h >> 8) % 6 : 0,
                              .has_truncate = (h >> 1) % 2 == 0,
                              .truncate = (h >> 16) % 30};

    m.deleted = of->mortal && (h >> 2) % 6 == 0;
    return m;
}

struct log_meta
rec_meta(const struct run *run, const struct rec *rec, uint32_t w)
{
    return meta_of(run, rec, w, rec->w[w].count - 1);
}

/* The data of a link or of metadata; 0: it is neither. */
static uint32_t
text_of(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e, char out[TEXT_MAX])
{
    struct log_meta m;
    uint32_t        stream;
    uint64_t        version;
    int             n = 0;

    if (rec_link(run, rec, w, e, &stream, &version)) {
        n = snprintf(out, TEXT_MAX, "%" PRIu64 "@%s", version, run->streams[stream].name);
    } else if (type_of(run, rec, w, e) == TYPE_META) {
        m = meta_of(run, rec, w, e);
        n = snprintf(out, TEXT_MAX, "{\"$maxCount\":");
        n += m.max_count == 0 ? snprintf(out + n, TEXT_MAX - (size_t)n, "null")
                              : snprintf(out + n, TEXT_MAX - (size_t)n, "%" PRIu64, m.max_count);
        if (m.deleted)
            m.truncate = INT64_MAX;
        if (m.deleted || m.has_truncate)
            n += snprintf(out + n, TEXT_MAX - (size_t)n, ",\"$tb\":%" PRIu64, m.truncate);
        n += snprintf(out + n, TEXT_MAX - (size_t)n, "}");
    }
    must(n < TEXT_MAX);
    return (uint32_t)n;
}

static struct shape
shape_of(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e)
{
    uint64_t     h = hash_of(rec, w, e), size = mix(h);
    char         text[TEXT_MAX];
    struct shape s = {
        .type = type_of(run, rec, w, e),
        .flags = (h >> 8) % 2 == 0 ? LOG_JSON : 0,
        .created_us = (h >> 9) % 4 == 0 ? (int64_t)(1000000 + (h >> 20) % 1000000) : 0,
        .own_id = rec_can_repeat(rec),
        .meta_len = (h >> 16) % 3 == 0 ? (uint32_t)((h >> 24) % 200) : 0,
    };

    if (s.type >= TYPES) {
        s.data_len = text_of(run, rec, w, e, text);
        s.own_id = true; /* no tag is in the text */
        s.flags = s.type == TYPE_LINK ? s.flags | LOG_LINK : LOG_JSON;
        return s;
    }
    if (size % 1000 < run->big)
        s.data_len = (uint32_t)((size >> 10) % BIG_MAX);
    else if (size % 1000 < run->big + run->middle)
        s.data_len = (uint32_t)((size >> 10) % 20000);
    else
        s.data_len = (uint32_t)((size >> 10) % 300);
    if (!s.own_id && s.data_len < TAG_LEN)
        s.data_len += TAG_LEN;
    return s;
}

struct slice
rec_type(const struct run *run, const struct rec *rec, uint32_t w, uint32_t e)
{
    return slice_str(types[type_of(run, rec, w, e)]);
}

static struct ox_id
id_of(const struct rec *rec, uint32_t w, uint32_t e)
{
    struct ox_id id;

    put_u64(id.b, rec->no ^ TAG_MAGIC);
    put_u32(id.b + 8, w);
    put_u32(id.b + 12, e + 1);
    return id;
}

static void
fill(uint8_t *out, size_t len, uint64_t seed)
{
    uint8_t word[8];

    for (size_t i = 0; i < len; i += 8) {
        put_u64(word, seed += UINT64_C(0x9e3779b97f4a7c15) | 1);
        memcpy(out + i, word, len - i < 8 ? len - i : 8);
    }
}

static void
fill_data(uint8_t *out, const struct run *run, const struct rec *rec, uint32_t w, uint32_t e,
          size_t len)
{
    uint8_t tag[TAG_LEN];
    char    text[TEXT_MAX];

    if (text_of(run, rec, w, e, text) > 0) {
        memcpy(out, text, len < TEXT_MAX ? len : TEXT_MAX);
        return;
    }
    fill(out, len, mix(rec->seed + w * 131 + e));
    put_u64(tag, TAG_MAGIC);
    put_u64(tag + 8, rec->no);
    put_u32(tag + 16, w);
    put_u32(tag + 20, e);
    memcpy(out, tag, len < TAG_LEN ? len : TAG_LEN);
}

bool
version_holds(int64_t expected, uint64_t next)
{
    switch (expected) {
    case LOG_ANY:
        return true;
    case LOG_NO_STREAM:
        return next == 0;
    case LOG_EXISTS:
        return next > 0;
    default:
        return expected >= 0 && next == (uint64_t)expected + 1;
    }
}

/* Mostly right, as far as is known. */
int64_t
rec_pick_expected(struct run *run, uint32_t stream)
{
    int64_t head = (int64_t)run->streams[stream].floor - 1;

    switch (sim_pick(run->sim, 12)) {
    case 0:
        return LOG_NO_STREAM;
    case 1:
        return LOG_EXISTS;
    case 2:
        return (int64_t)sim_pick(run->sim, 30);
    case 3:
    case 4:
    case 5:
        return head; /* LOG_NO_STREAM where there is none */
    case 6:
        return head > 0 ? head - 1 : head;
    default:
        return LOG_ANY;
    }
}

static bool
uses(const struct rec *rec, uint32_t stream)
{
    for (uint32_t i = 0; i < rec->write_count; i++)
        if (rec->w[i].stream == stream)
            return true;
    return false;
}

static uint32_t
pick_count(struct run *run)
{
    switch (sim_pick(run->sim, 40)) {
    case 0:
        return 1 + (uint32_t)sim_pick(run->sim, 200);
    case 1:
    case 2:
    case 3:
    case 4:
        return 1 + (uint32_t)sim_pick(run->sim, 10);
    default:
        return 1;
    }
}

struct rec *
rec_new(struct run *run)
{
    struct rec *rec = calloc(1, sizeof *rec);
    uint32_t writes = sim_pick(run->sim, 3) == 0 ? 1 + (uint32_t)sim_pick(run->sim, REC_WRITES) : 1;

    must(rec != NULL);
    if (run->rec_count == run->rec_cap) {
        run->rec_cap = run->rec_cap == 0 ? 64 : run->rec_cap * 2;
        run->recs = realloc(run->recs, run->rec_cap * sizeof(struct rec *));
        must(run->recs != NULL);
    }
    rec->no = run->rec_count;
    rec->seed = mix(run->seed ^ mix(rec->no));
    rec->life = run->lives;
    run->recs[run->rec_count++] = rec;
    if (sim_pick(run->sim, 10) == 0)
        rec->flags |= LOG_QUIET;
    if (sim_pick(run->sim, 8) == 0)
        rec->flags |= LOG_BULK;
    if (sim_pick(run->sim, 10) == 0)
        rec->time_us = sim_env(run->sim)->ops->wall_us(sim_env(run->sim)) +
                       (int64_t)sim_pick(run->sim, 2000000) - 1000000;
    for (uint32_t i = 0; i < writes; i++) {
        uint32_t s = (uint32_t)sim_pick(run->sim, run->stream_count);

        if (uses(rec, s))
            continue;
        if (run->streams[s].system)
            rec->flags |= LOG_SYSTEM;
        if (run->streams[s].meta_of >= 0 && run->streams[run->streams[s].meta_of].mortal)
            run->streams[run->streams[s].meta_of].may_be_deleted = true;
        rec->w[rec->write_count++] = (struct rec_write){
            .stream = s, .expected = rec_pick_expected(run, s), .count = pick_count(run)};
    }
    if (sim_pick(run->sim, 6) == 0)
        for (uint32_t n = 1 + (uint32_t)sim_pick(run->sim, REC_CHECKS); n > 0; n--) {
            uint32_t s = (uint32_t)sim_pick(run->sim, run->stream_count);

            rec->c[rec->check_count++] = (struct rec_check){s, rec_pick_expected(run, s)};
        }
    state_pick(run, rec);
    return rec;
}

/* A commit's answer, held against all that was said before. */
static void
answer_yes(struct run *run, struct rec *rec, const struct log_req *req)
{
    if (req->pos.v > req->last.v || req->last.v >= req->end.v)
        run_fail(run, "rec %" PRIu64 ": positions %" PRIu64 ", %" PRIu64 ", %" PRIu64, rec->no,
                 req->pos.v, req->last.v, req->end.v);
    if (!req->idempotent && ++rec->written > 1)
        run_fail(run, "rec %" PRIu64 " was written twice", rec->no);
    if (rec->placed && (rec->pos.v != req->pos.v || rec->last.v != req->last.v))
        run_fail(run, "rec %" PRIu64 " is at %" PRIu64 ", then at %" PRIu64, rec->no, rec->pos.v,
                 req->pos.v);
    if (rec->told && rec->end.v != req->end.v)
        run_fail(run, "rec %" PRIu64 " ends at %" PRIu64 ", then at %" PRIu64, rec->no, rec->end.v,
                 req->end.v);
    for (uint32_t i = 0; i < rec->write_count; i++) {
        struct stream *s = &run->streams[rec->w[i].stream];
        uint64_t       first = req->writes[i].first_version, last = req->writes[i].last_version;

        if (last - first + 1 != rec->w[i].count)
            run_fail(run, "rec %" PRIu64 ": versions %" PRIu64 " to %" PRIu64, rec->no, first,
                     last);
        if (rec->told && rec->w[i].first != first)
            run_fail(run, "rec %" PRIu64 ": version %" PRIu64 ", then %" PRIu64, rec->no,
                     rec->w[i].first, first);
        rec->w[i].first = first;
        if (s->floor < last + 1)
            s->floor = last + 1;
    }
    if (!req->idempotent)
        rec->life = run->lives;
    rec->known = rec->told = rec->placed = true;
    rec->pos = req->pos;
    rec->last = req->last;
    rec->end = req->end;
    run->acked++;
}

static void
add_claim(struct run *run, const struct rec *rec, uint32_t stream, int64_t actual)
{
    struct stream *s = &run->streams[stream];

    if (run->claim_count == run->claim_cap) {
        run->claim_cap = run->claim_cap == 0 ? 64 : run->claim_cap * 2;
        run->claims = realloc(run->claims, run->claim_cap * sizeof *run->claims);
        must(run->claims != NULL);
    }
    run->claims[run->claim_count++] = (struct claim){stream, actual, rec->no};
    if (actual >= 0 && s->floor < (uint64_t)actual + 1)
        s->floor = (uint64_t)actual + 1;
}

static void
answer_wrong_version(struct run *run, struct rec *rec, const struct log_req *req)
{
    bool asked = false;

    if (version_holds(req->wrong_expected,
                      req->wrong_actual < 0 ? 0 : (uint64_t)req->wrong_actual + 1))
        run_fail(run, "rec %" PRIu64 ": refused though %" PRId64 " holds at %" PRId64, rec->no,
                 req->wrong_expected, req->wrong_actual);
    if (rec->known && rec->attempts > 1 && rec->check_count == 0)
        run_fail(run, "rec %" PRIu64 " was repeated and refused: %s", rec->no, req->err.text);
    for (uint32_t i = 0; i < rec->write_count + rec->check_count + rec->change_count; i++) {
        uint32_t n = i < rec->write_count ? i : i - rec->write_count;
        bool     is_change = i >= rec->write_count + rec->check_count;
        uint32_t s = i < rec->write_count ? rec->w[n].stream
                     : is_change          ? rec->ch[n - rec->check_count].stream
                                          : rec->c[n].stream;
        int64_t  expected = i < rec->write_count ? rec->w[n].expected
                            : is_change          ? rec->ch[n - rec->check_count].expected
                                                 : rec->c[n].expected;

        if (expected != req->wrong_expected || !slice_is(req->wrong_stream, run->streams[s].name))
            continue;
        asked = true;
        add_claim(run, rec, s, req->wrong_actual);
        break;
    }
    if (!asked)
        run_fail(run, "rec %" PRIu64 ": refused for what was not asked", rec->no);
}

static size_t
bytes_of(const struct run *run, const struct rec *rec, uint32_t *events)
{
    size_t bytes = 0;

    *events = 0;
    for (uint32_t w = 0; w < rec->write_count; w++)
        for (uint32_t e = 0; e < rec->w[w].count; e++) {
            struct shape s = shape_of(run, rec, w, e);

            bytes += s.data_len + s.meta_len;
            (*events)++;
        }
    return bytes;
}

bool
rec_fits(const struct run *run, const struct rec *rec)
{
    uint32_t events;
    size_t   bytes = bytes_of(run, rec, &events);

    return bytes + events * 512 < run->conf.commit_bytes_max;
}

/* Too much is waiting (try again), or the commit is too large (never). */
static void
check_limit(struct run *run, const struct rec *rec, const struct log_req *req)
{
    if (req->err.kind != ERR_RETRY && rec_fits(run, rec))
        run_fail(run, "rec %" PRIu64 " is too much: %s", rec->no, req->err.text);
}

static void
answer_no(struct run *run, struct rec *rec, const struct log_req *req)
{
    if (req->err.code != req->rc)
        run_fail(run, "rec %" PRIu64 ": two codes, %d and %d", rec->no, req->rc, req->err.code);
    if (req->err.kind == ERR_UNSURE) {
        rec->maybe = true;
        run->unsure++;
    } else {
        run->refused++;
    }
    if (req->rc == E_WRONG_VERSION)
        answer_wrong_version(run, rec, req);
    else if (req->rc == E_GONE)
        state_answer_gone(run, rec, req);
    else if (req->rc == E_LIMIT)
        check_limit(run, rec, req);
    else if (!run_excused(run))
        run_fail(run, "rec %" PRIu64 ": refused for no reason: %s", rec->no, req->err.text);
    if (req->err.kind == ERR_UNSURE)
        return;
    rec->refused = rec->in_flight == 0 && !rec->maybe && !rec->known;
    if (rec->attempts == 1) {
        if (rec->known)
            run_fail(run, "rec %" PRIu64 " was read, then refused: %s", rec->no, req->err.text);
    }
}

/* Called by the log, once; the memory is gone at once. */
static void
answered(struct log_req *req)
{
    struct attempt *a = req->arg;
    struct run     *run = a->run;
    struct rec     *rec = a->rec;

    must(run->in_flight > 0);
    run->in_flight--;
    if (rec == NULL) {
        if (req->rc == 0)
            run_fail(run, "a request that must be refused was taken");
        if (req->rc != E_INVALID && req->rc != E_LIMIT && !run_excused(run))
            run_fail(run, "a bad request was refused with %s: %s", err_name(req->rc),
                     req->err.text);
    } else {
        must(rec->in_flight > 0);
        rec->in_flight--;
        if (req->rc == 0)
            answer_yes(run, rec, req);
        else
            answer_no(run, rec, req);
    }
    memset(a->memory, 0xdd, 1);
    free(a->memory);
    memset(a, 0xdd, sizeof *a);
    free(a);
}

static struct attempt *
attempt_new(struct run *run, struct rec *rec)
{
    uint32_t              events;
    size_t                bytes = bytes_of(run, rec, &events);
    struct attempt       *a = calloc(1, sizeof *a);
    struct log_new_event *ev = malloc(events * sizeof *ev + bytes + 1);
    uint8_t              *p = (uint8_t *)(ev + events);

    must(a != NULL);
    must(ev != NULL);
    a->run = run;
    a->rec = rec;
    a->memory = ev;
    for (uint32_t w = 0; w < rec->write_count; w++) {
        a->w[w] = (struct log_write){.stream = slice_str(run->streams[rec->w[w].stream].name),
                                     .expected = rec->w[w].expected,
                                     .events = ev,
                                     .count = rec->w[w].count};
        for (uint32_t e = 0; e < rec->w[w].count; e++, ev++) {
            struct shape s = shape_of(run, rec, w, e);

            memset(ev, 0, sizeof *ev);
            if (s.own_id)
                ev->id = id_of(rec, w, e);
            ev->type = slice_str(types[s.type]);
            fill_data(p, run, rec, w, e, s.data_len);
            ev->data = slice_of(p, s.data_len);
            p += s.data_len;
            fill(p, s.meta_len, rec->seed + e);
            ev->meta = slice_of(p, s.meta_len);
            p += s.meta_len;
            ev->flags = s.flags;
            ev->created_us = s.created_us;
        }
    }
    for (uint32_t c = 0; c < rec->check_count; c++)
        a->c[c] =
            (struct log_check){slice_str(run->streams[rec->c[c].stream].name), rec->c[c].expected};
    a->req.writes = a->w;
    a->req.write_count = rec->write_count;
    a->req.checks = a->c;
    a->req.check_count = rec->check_count;
    for (uint32_t i = 0; i < rec->change_count; i++)
        a->ch[i] = (struct log_change){.stream = slice_str(run->streams[rec->ch[i].stream].name),
                                       .expected = rec->ch[i].expected,
                                       .what = rec->ch[i].what,
                                       .truncate = rec->ch[i].truncate,
                                       .max_count = rec->ch[i].max_count};
    a->req.changes = a->ch;
    a->req.change_count = rec->change_count;
    a->req.flags = rec->flags;
    a->req.time_us = rec->time_us;
    a->req.done = answered;
    a->req.arg = a;
    return a;
}

void
rec_submit(struct run *run, struct rec *rec)
{
    struct attempt *a = attempt_new(run, rec);

    rec->attempts++;
    rec->in_flight++;
    rec->refused = false;
    run->in_flight++;
    log_submit(run->log, &a->req);
}

void
rec_append(struct run *run, struct rec *rec)
{
    struct attempt *a = attempt_new(run, rec);
    int             rc;

    rec->attempts++;
    rec->in_flight++;
    rec->refused = false;
    run->in_flight++;
    a->req.done = NULL;
    rc = log_append(run->log, &a->req);
    must(rc == a->req.rc);
    answered(&a->req);
}

void
rec_submit_bad(struct run *run)
{
    static char           long_name[300];
    struct attempt       *a = calloc(1, sizeof *a);
    struct log_new_event *ev = calloc(1, sizeof *ev);

    must(a != NULL);
    must(ev != NULL);
    memset(long_name, 'x', sizeof long_name);
    a->run = run;
    a->memory = ev;
    ev->type = slice_str("Bad");
    a->w[0] = a->w[1] = (struct log_write){
        .stream = slice_str("ok"), .expected = LOG_ANY, .events = ev, .count = 1};
    a->req.writes = a->w;
    a->req.write_count = 1;
    a->req.done = answered;
    a->req.arg = a;
    switch (sim_pick(run->sim, 8)) {
    case 0:
        a->w[0].stream = slice_str("");
        break;
    case 1:
        a->w[0].stream = slice_of(long_name, sizeof long_name);
        break;
    case 2:
        a->w[0].stream = slice_str("$reserved");
        break;
    case 3:
        a->w[0].stream = slice_str("bad\xff\xfe");
        break;
    case 4:
        a->req.write_count = 2; /* one stream twice */
        break;
    case 5:
        a->w[0].expected = -77;
        break;
    case 6:
        ev->type = slice_of(long_name, sizeof long_name);
        break;
    default:
        a->req.write_count = 0; /* nothing to write, nothing to check */
        break;
    }
    run->in_flight++;
    log_submit(run->log, &a->req);
}

static bool
by_id(const struct log_event *ev, uint64_t *no, uint32_t *w, uint32_t *e)
{
    *no = get_u64(ev->id.b) ^ TAG_MAGIC;
    *w = get_u32(ev->id.b + 8);
    *e = get_u32(ev->id.b + 12) - 1;
    return true;
}

static bool
by_tag(const struct log_event *ev, uint64_t *no, uint32_t *w, uint32_t *e)
{
    const uint8_t *p = ev->data.data;

    if (ev->data.len < TAG_LEN || get_u64(p) != TAG_MAGIC)
        return false;
    *no = get_u64(p + 8);
    *w = get_u32(p + 16);
    *e = get_u32(p + 20);
    return true;
}

static bool
same_bytes(struct run *run, struct slice got, const struct rec *rec, uint32_t w, uint32_t e,
           bool data)
{
    uint8_t *want = malloc(got.len + 1);
    bool     same;

    must(want != NULL);
    if (data)
        fill_data(want, run, rec, w, e, got.len);
    else
        fill(want, got.len, rec->seed + e);
    same = got.len == 0 || memcmp(want, got.data, got.len) == 0;
    free(want);
    return same;
}

static void
hold_against(struct run *run, const struct log_event *ev, const struct rec *rec, uint32_t w,
             uint32_t e)
{
    struct shape s = shape_of(run, rec, w, e);
    struct ox_id id = id_of(rec, w, e);
    const char  *bad = NULL;

    if (!slice_is(ev->stream, run->streams[rec->w[w].stream].name))
        bad = "stream";
    else if (!slice_is(ev->type, types[s.type]))
        bad = "type";
    else if (s.own_id ? !id_eq(&id, &ev->id) : id_is_zero(&ev->id))
        bad = "id";
    else if (ev->flags != s.flags)
        bad = "flags";
    else if (ev->created_us != (s.created_us != 0 ? s.created_us : ev->time_us))
        bad = "created";
    else if (rec->time_us != 0 && ev->time_us < rec->time_us)
        bad = "time";
    else if (ev->quiet != ((rec->flags & LOG_QUIET) != 0))
        bad = "quiet";
    else if (ev->data.len != s.data_len || !same_bytes(run, ev->data, rec, w, e, true))
        bad = "data";
    else if (ev->meta.len != s.meta_len || !same_bytes(run, ev->meta, rec, w, e, false))
        bad = "metadata";
    if (bad != NULL)
        run_fail(run, "the event at %" PRIu64 " (rec %" PRIu64 ", %u, %u) has another %s",
                 ev->pos.v, rec->no, w, e, bad);
}

struct rec *
rec_of_event(struct run *run, const struct log_event *ev, uint32_t *w, uint32_t *e)
{
    uint64_t    no;
    struct rec *rec;

    if (!by_id(ev, &no, w, e) || no >= run->rec_count || *w >= run->recs[no]->write_count ||
        *e >= run->recs[no]->w[*w].count)
        if (!by_tag(ev, &no, w, e) || no >= run->rec_count || *w >= run->recs[no]->write_count ||
            *e >= run->recs[no]->w[*w].count)
            run_fail(run, "nobody ever wrote the event at %" PRIu64, ev->pos.v);
    rec = run->recs[no];
    hold_against(run, ev, rec, *w, *e);
    if (!rec->known && !rec->maybe && rec->in_flight == 0)
        run_fail(run, "rec %" PRIu64 " was refused or lost, and is at %" PRIu64, no, ev->pos.v);
    if (rec->refused)
        run_fail(run, "rec %" PRIu64 " was refused, and is at %" PRIu64, no, ev->pos.v);
    if (rec->told && ev->version != rec->w[*w].first + *e)
        run_fail(run, "rec %" PRIu64 ": event %u has version %" PRIu64 ", not %" PRIu64, no, *e,
                 ev->version, rec->w[*w].first + *e);
    rec->known = true; /* who reads it may rely on it */
    if (run->streams[rec->w[*w].stream].floor < ev->version + 1)
        run->streams[rec->w[*w].stream].floor = ev->version + 1;
    return rec;
}
