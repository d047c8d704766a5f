/*
 * Opening: what the index does not cover is read again from the log, a torn
 * tail is cut, damage is refused (docs/format.md, Recovery).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "log/log_int.h"
#include "log/window.h"

#define CLEAN_BYTES 48u
#define CLEAN_MAGIC "OXCLEAN1"
#define PATH_BYTES 4200

/* CLEAN */

static void
clean_path(const struct log *log, char out[PATH_BYTES])
{
    (void)snprintf(out, PATH_BYTES, "%s/CLEAN", log->dir);
}

int
logi_clean_put(struct ox_env *env, const char *dir, const struct ox_id *log_id, uint64_t end,
               int64_t last_time_us, struct err *err)
{
    uint8_t         bytes[CLEAN_BYTES] = {0};
    char            path[PATH_BYTES];
    struct ox_file *file = NULL;
    int             rc;

    must(end >= FMT_FIRST_POS);
    memcpy(bytes, CLEAN_MAGIC, 8);
    memcpy(bytes + 16, log_id->b, 16);
    put_u64(bytes + 32, end);
    put_u64(bytes + 40, (uint64_t)last_time_us);
    put_u32(bytes + 8, crc32c(0, bytes + 16, CLEAN_BYTES - 16));
    (void)snprintf(path, sizeof path, "%s/CLEAN", dir);
    TRY(env->ops->file_open(env, path, ENV_WRITE | ENV_CREATE, &file, err));
    TRY(env->ops->file_write(env, file, bytes, sizeof bytes, 0, err));
    TRY(env->ops->file_sync(env, file, err));
    TRY(env->ops->dir_sync(env, dir, err));
out:
    env->ops->file_close(env, file);
    return rc;
}

int
logi_clean_write(struct log *log, struct err *err)
{
    must(!log->conf.read_only);
    must(!atomic_load(&log->failed));
    must(atomic_load(&log->end) == log->next_pos); /* all that was prepared is durable */
    return logi_clean_put(log->env, log->dir, logi_segs_log_id(log->segs), atomic_load(&log->end),
                          log->last_time_us, err);
}

int
logi_clean_remove(struct log *log, struct err *err)
{
    char path[PATH_BYTES];
    int  rc;

    must(!log->conf.read_only);
    clean_path(log, path);
    rc = log->env->ops->path_remove(log->env, path, err);
    if (rc == E_NOTFOUND)
        return 0;
    if (rc == 0)
        rc = log->env->ops->dir_sync(log->env, log->dir, err);
    return rc;
}

bool
logi_clean_is_there(struct log *log)
{
    char            path[PATH_BYTES];
    struct ox_file *file = NULL;
    int             rc;

    clean_path(log, path);
    rc = log->env->ops->file_open(log->env, path, ENV_READ, &file, NULL);
    log->env->ops->file_close(log->env, file);
    return rc != E_NOTFOUND;
}

/* *end 0: no clean close (or a file that says nothing of this log). */
static int
clean_read(struct log *log, uint64_t *end, struct err *err)
{
    const struct ox_env_ops *ops = log->env->ops;
    uint8_t                  bytes[CLEAN_BYTES];
    char                     path[PATH_BYTES];
    struct ox_file          *file = NULL;
    size_t                   got;
    int                      rc;

    *end = 0;
    clean_path(log, path);
    rc = ops->file_open(log->env, path, ENV_READ, &file, err);
    if (rc == E_NOTFOUND)
        return 0;
    if (rc != 0)
        goto out;
    TRY(ops->file_read(log->env, file, bytes, sizeof bytes, 0, &got, err));
    if (got == sizeof bytes && memcmp(bytes, CLEAN_MAGIC, 8) == 0 &&
        get_u32(bytes + 8) == crc32c(0, bytes + 16, CLEAN_BYTES - 16) &&
        memcmp(bytes + 16, logi_segs_log_id(log->segs)->b, 16) == 0)
        *end = get_u64(bytes + 32);
out:
    ops->file_close(log->env, file);
    return rc;
}

/* walking */

struct replay {
    struct log *log;
    uint64_t    covers;
    uint64_t    durable; /* all below it is, whatever happened to the last group */
    uint64_t    events;
    bool        sparse;   /* there are scavenged segments: events may be missing */
    bool        headless; /* … and some stream's first ones are */
};

/*
 * What is whole need not be durable: its writer may have ended before its sync
 * returned, or because it failed, and then a later sync would not cover it
 * either. So it is written once more. Nobody has seen it yet, the index neither.
 */
static int
settle(struct replay *rp, uint64_t upto, struct err *err)
{
    struct log *log = rp->log;
    int         rc = 0;

    if (log->conf.read_only || upto <= rp->durable)
        return 0;
    must(rp->durable >= logi_segs_first(log->segs));
    must(upto <= logi_segs_end(log->segs));
    TRY(logi_segs_rewrite(log->segs, rp->durable, upto, err));
    TRY(logi_segs_sync(log->segs, err));
    rp->durable = upto;
out:
    return rc;
}

static int
damaged(const struct replay *rp, const struct record *r, struct err *err)
{
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: damaged record at position %" PRIu64, rp->log->dir,
               r->pos);
}

/* What a checksum lets through need not be what this program wrote. */
static bool
can_be(const struct record *r)
{
    if (r->stream_id >= INT64_MAX || r->version >= INT64_MAX)
        return false;
    return (r->kind != RECORD_EVENT && r->kind != RECORD_STATE) ||
           (r->name_len > 0 && r->name_len <= LOG_NAME_MAX);
}

/* A stream whose first record was scavenged begins with whatever is left of it. */
static int
is_new(struct replay *rp, const struct record *r, bool *yes, struct err *err)
{
    struct log       *log = rp->log;
    struct index_head head;
    uint64_t          unused;
    int               rc;

    *yes = (r->flags & RECORD_NEW_STREAM) != 0;
    if (*yes || !rp->sparse ||
        logi_mem_head(log->mem, r->stream_id, UINT64_MAX, &head, &unused) != 0)
        return 0;
    rc = log->conf.index->head(log->index, r->stream_id, &head, err);
    *yes = rc == E_NOTFOUND;
    if (!*yes)
        return rc;
    rp->headless = true;
    err_clear(err);
    return 0;
}

static int
replay_state(struct replay *rp, const struct record *r, struct err *err)
{
    struct mem_state  m = {.id = r->stream_id, .pos = r->pos};
    struct state_data s;
    int               rc;

    if (r->meta_len != 0 || r->data_len > r->body_len - r->name_len - r->type_len ||
        !fmt_state_get(r->body + r->name_len + r->type_len, r->data_len, &s))
        return damaged(rp, r, err);
    m.stream = slice_of(r->body, r->name_len);
    TRY(is_new(rp, r, &m.is_new, err));
    m.head = (struct index_head){.next = r->version,
                                 .truncate = s.truncate,
                                 .max_count = s.max_count,
                                 .max_age_us = s.max_age_us,
                                 .flags = s.flags,
                                 .moved = fmt_state_moved(&s, r->version)};
    TRY(logi_mark(rp->log, r->stream_id, err));
    rc = logi_mem_add_state(rp->log->mem, &m, err);
    if (rc == E_DAMAGED)
        return damaged(rp, r, err);
out:
    return rc;
}

static int
replay_record(void *arg, const struct frame *frame, const struct record *r, struct err *err)
{
    struct replay   *rp = arg;
    struct log      *log = rp->log;
    struct mem_event e = {.id = r->stream_id, .version = r->version, .pos = r->pos};
    int              rc;

    (void)frame;
    if (!can_be(r))
        return damaged(rp, r, err);
    if (r->stream_id >= log->next_stream_id)
        log->next_stream_id = r->stream_id + 1;
    if (r->kind == RECORD_STATE && r->pos >= rp->covers)
        return replay_state(rp, r, err);
    if (r->kind != RECORD_EVENT || r->pos < rp->covers)
        return 0;
    e.stream = slice_of(r->body, r->name_len);
    e.type = slice_of(r->body + r->name_len, r->type_len);
    TRY(is_new(rp, r, &e.is_new, err));
    rc = logi_mem_add(log->mem, &e, 1, err);
    if (rc == E_DAMAGED)
        return damaged(rp, r, err);
    rp->events += rc == 0;
out:
    return rc;
}

/* In a scavenged segment: the frame that may hold it, or the first one behind. */
static bool
sparse_start(struct log *log, uint64_t covers, uint64_t *out)
{
    struct seg_view view;
    struct frame    f;

    if (!logi_segs_at(log->segs, covers, &view) || !view.sparse)
        return false;
    *out = view.first;
    /* Of the commits that begin before it, all but what stands in this frame is indexed. */
    if (logi_scan_back(log->segs, align8(covers), &f) == SCAN_FRAME && f.head.pos > view.first)
        *out = f.head.pos;
    return true;
}

/* Where the walk begins: the commit that holds what the index does not cover. */
static int
walk_start(struct log *log, uint64_t covers, uint64_t *out, struct err *err)
{
    uint64_t     bound = logi_segs_end(log->segs), pos;
    struct frame f;

    must(covers <= bound);
    *out = logi_segs_first(log->segs);
    if (covers <= *out || sparse_start(log, covers, out))
        return 0;
    *out = covers;
    if (logi_scan_frame(log->segs, covers, bound, &f) && (f.head.flags & FRAME_FIRST) != 0)
        return 0;
    /* In the middle of a commit (of which the index has a part), or the log's very end. */
    if (logi_scan_record_at(log->segs, covers - 1, bound, true, &(struct record){0}, &f) ||
        logi_scan_frame(log->segs, covers, bound, &f)) {
        if ((f.head.flags & FRAME_PAD) == 0)
            *out = f.head.commit;
        if (*out <= covers)
            return 0;
    } else if (logi_scan_back(log->segs, covers, &f) != SCAN_BAD) {
        return 0;
    }
    pos = covers;
    RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
               "%s: the index covers position %" PRIu64
               ", but no event is there: the log's end is damaged or missing",
               log->dir, pos);
}

static int
walk(struct log *log, struct replay *rp, uint64_t *pos, struct err *err)
{
    uint64_t      bound = logi_segs_end(log->segs);
    struct commit c;
    int           rc = 0;

    while (logi_scan_commit(log->segs, *pos, bound, &c)) {
        must(c.first >= *pos);
        must(c.end > c.first);
        must(c.end <= bound);
        TRY(logi_scan_commit_records(log->segs, &c, replay_record, rp, err));
        *pos = c.end;
        atomic_store(&log->end, c.end);
        log->last_time_us = c.time_us;
        if (c.durable > rp->durable)
            rp->durable = c.durable;
        if (log->conf.read_only) {
            if (logi_mem_bytes(log->mem) >= 2 * log->conf.memory_bytes_max)
                FAIL(err, E_LIMIT, ERR_FATAL,
                     "%s: the index lacks more than memory may hold: open it for writing once, "
                     "or run oxbow log reindex",
                     log->dir);
        } else if (logi_mem_bytes(log->mem) >= log->conf.memory_bytes_max / 2) {
            TRY(settle(rp, c.end, err));
            TRY(logi_index_all(log, err));
        }
    }
out:
    return rc;
}

static int
check_tail(struct log *log, uint64_t pos, uint64_t covers, uint64_t clean,
           struct log_report *report, struct err *err)
{
    uint64_t last, proof;
    int      rc;

    if (clean != 0 && clean == pos) {
        report->clean = true;
        return 0;
    }
    proof = logi_scan_proof_behind(log->segs, pos, pos, &last);
    must(last >= pos);
    if (proof == 0 && covers > pos)
        proof = covers;
    if (proof == 0 && clean > pos)
        proof = clean;
    if (proof != 0)
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%s: damaged at position %" PRIu64 ": position %" PRIu64
             " proves that it was durable; restore a backup, or ask for help before you write",
             log->dir, pos, proof);
    if (last == pos)
        return 0;
    report->cut_at = LOG_POS(pos);
    report->cut_bytes = last - pos;
    rc = 0;
out:
    return rc;
}

int
logi_parent_sync(struct ox_env *env, const char *dir, struct err *err)
{
    char   parent[PATH_BYTES] = ".";
    size_t len = strlen(dir);
    int    rc;

    while (len > 1 && dir[len - 1] == '/')
        len--;
    while (len > 0 && dir[len - 1] != '/')
        len--;
    while (len > 1 && dir[len - 1] == '/')
        len--;
    if (len > 0)
        (void)snprintf(parent, sizeof parent, "%.*s", (int)len, dir);
    rc = env->ops->dir_sync(env, parent, err);
    return rc == E_AUTH ? 0 : rc; /* somebody else's folder: it is theirs to make ours durable */
}

/* The folder's own name and those in it. */
static int
sync_names(struct log *log, struct err *err)
{
    int rc;

    TRY(logi_parent_sync(log->env, log->dir, err));
    TRY(log->env->ops->dir_sync(log->env, log->dir, err));
out:
    return rc;
}

/* Before anything stands on it: all that a clean close would have made durable. */
static int
settle_all(struct replay *rp, uint64_t end, struct err *err)
{
    int rc;

    must(!rp->log->conf.read_only);
    TRY(sync_names(rp->log, err));
    TRY(logi_segs_cut(rp->log->segs, end, err));
    TRY(settle(rp, end, err));
out:
    return rc;
}

/* recent event ids */

/* The start of the last frames that hold at least `events` records. */
static uint64_t
recent_start(struct log *log, struct log_window *w, uint64_t end, uint32_t events)
{
    uint64_t     pos = end, records = 0;
    struct frame f;

    while (records < events && (logi_window_before(w, log->segs, pos, &f) ||
                                logi_scan_back(log->segs, pos, &f) == SCAN_FRAME)) {
        must(f.head.pos < pos);
        pos = f.head.pos;
        records += f.head.records;
    }
    return pos;
}

/* Events on their way into the table, which by then has come into the cache. */
#define COMING 16u

struct coming {
    struct {
        uint64_t     stream_id, pos;
        struct ox_id id;
    } list[COMING];
    uint64_t count;
};

static void
add_recent(struct log *log, struct coming *c, const struct record *r)
{
    uint64_t i = c->count++ % COMING;

    if (c->count > COMING)
        logi_recent_add(log->recent, c->list[i].stream_id, c->list[i].id.b, c->list[i].pos);
    c->list[i].stream_id = r->stream_id;
    c->list[i].pos = r->pos;
    memcpy(c->list[i].id.b, r->id, sizeof c->list[i].id.b);
    logi_recent_expect(log->recent, r->stream_id, r->id);
}

/* What is still on its way. */
static void
add_rest(struct log *log, struct coming *c)
{
    uint64_t from = c->count > COMING ? c->count - COMING : 0;

    for (uint64_t n = from; n < c->count; n++) {
        uint64_t i = n % COMING;

        logi_recent_add(log->recent, c->list[i].stream_id, c->list[i].id.b, c->list[i].pos);
    }
}

static int
fill_recent(struct log *log, struct err *err)
{
    uint64_t          end = atomic_load(&log->end), pos;
    struct log_window w = {0};
    struct coming     coming = {.count = 0};
    struct frame      f;
    struct record     r;
    int               rc = 0;

    for (pos = recent_start(log, &w, end, logi_recent_room(log->recent)); pos < end; pos = f.next) {
        uint32_t off = FRAME_HEADER;

        if (!logi_window_frame(&w, log->segs, pos, end, &f)) {
            enum scan scan = logi_scan_from(log->segs, pos, end, &f);

            if (scan == SCAN_END)
                break;
            if (scan == SCAN_BAD)
                FAIL(err, E_DAMAGED, ERR_FATAL, "%s: damaged frame at position %" PRIu64, log->dir,
                     pos);
        }
        must(f.next > pos);
        if ((f.head.flags & FRAME_PAD) == 0)
            log->last_time_us = f.head.time_us;
        for (uint32_t i = 0; i < f.head.records; i++, off += r.length) {
            if (!logi_scan_record(&f, logi_segs_seed(log->segs), off, false, &r))
                FAIL(err, E_DAMAGED, ERR_FATAL, "%s: damaged record at position %" PRIu64, log->dir,
                     pos + off);
            if (r.kind == RECORD_EVENT)
                add_recent(log, &coming, &r);
        }
    }
    add_rest(log, &coming);
out:
    logi_window_free(&w);
    return rc;
}

int
logi_recover(struct log *log, struct log_report *report, struct err *err)
{
    uint64_t      covers = log->conf.index->covers(log->index).v, clean, pos;
    struct replay rp = {.log = log, .covers = covers, .durable = covers};
    int           rc;

    TRY(logi_marks_load(log, err));
    TRY(clean_read(log, &clean, err));
    if (rp.durable < logi_segs_first(log->segs))
        rp.durable = logi_segs_first(log->segs);
    if (rp.durable < clean)
        rp.durable = clean;
    log->next_stream_id = log->conf.index->stream_count(log->index);
    if (covers > logi_segs_end(log->segs))
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%s: the index covers position %" PRIu64 ", but the segments end at %" PRIu64
             ": segments are missing",
             log->dir, covers, logi_segs_end(log->segs));
    TRY(walk_start(log, covers, &pos, err));
    rp.sparse = logi_segs_any_sparse(log->segs);
    atomic_store(&log->end, pos);
    TRY(walk(log, &rp, &pos, err));
    TRY(check_tail(log, pos, covers, clean, report, err));
    if (!report->clean && !log->conf.read_only)
        TRY(settle_all(&rp, pos, err));
    /* Only the index can tell where such a stream begins now. */
    if (rp.headless && !log->conf.read_only) {
        atomic_store(&log->end, pos);
        TRY(logi_index_all(log, err));
        covers = pos;
    }
    /* Nothing is built on what a crash may still take back. */
    must(rp.durable >= pos || log->conf.read_only);
    must(pos >= covers || covers == 0);
    must(pos >= logi_segs_first(log->segs));
    must(pos <= logi_segs_end(log->segs));
    must(pos % 8 == 0);
    must(log->next_stream_id >= log->conf.index->stream_count(log->index));
    atomic_store(&log->end, pos);
    atomic_store(&log->indexed, covers);
    log->next_pos = pos;
    atomic_store(&log->stream_count, log->next_stream_id);
    TRY(fill_recent(log, err));
    atomic_store(&log->end_us, log->last_time_us);
    logi_mem_own(log->mem);
    report->end = LOG_POS(pos);
    report->replayed = rp.events;
out:
    return rc;
}
