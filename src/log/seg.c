#include "log/seg.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "base/slice.h"
#include "log/seg_int.h"

#define SEGMENTS_MAX 1000000u
#define FIRST_SPAN_MAX (UINT64_C(16) << 20)
#define FILL_CHUNK (UINT64_C(1) << 20)
#define FILL_STEP (UINT64_C(256) << 10)
#define SETTING_MAX (UINT64_C(1) << 30)

void
logi_segment_free(struct ox_env *env, struct segment *seg)
{
    if (seg == NULL)
        return;
    if (seg->map != NULL)
        env->ops->file_unmap(env, seg->map, seg->map_len);
    env->ops->file_close(env, seg->file);
    free(seg);
}

int
logi_segs_path(struct segments *s, uint64_t first, const char *end, char out[LOGI_SEG_PATH_MAX],
               struct err *err)
{
    int n = snprintf(out, LOGI_SEG_PATH_MAX, "%s/%016" PRIx64 ".seg%s", s->dir, first, end);

    if (n < 0 || n >= LOGI_SEG_PATH_MAX)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "%s: path too long", s->dir);
    return 0;
}

/* First position behind it. */
static uint64_t
end_of(const struct segment *seg)
{
    return seg->first + seg->span;
}

static int
table_add(struct segments *s, struct segment *seg, struct err *err)
{
    int rc = 0;

    must(seg->map != NULL); /* readers see it from here on */
    lock_take(&s->lock);
    must(s->count > 0 || seg->first == FMT_FIRST_POS);
    must(s->count == 0 || seg->first == end_of(s->table[s->count - 1]));
    if (s->count == s->room) {
        uint32_t         room = s->room == 0 ? 16 : s->room * 2;
        struct segment **table = NULL;

        if (room <= SEGMENTS_MAX)
            table = realloc(s->table, room * sizeof *table);
        if (table == NULL)
            FAIL(err, E_NOMEM, ERR_FATAL, "%s: no memory for the table of segments", s->dir);
        s->table = table;
        s->room = room;
    }
    s->table[s->count++] = seg;
out:
    lock_give(&s->lock);
    return rc;
}

static struct segment *
last_segment(struct segments *s)
{
    return s->count == 0 ? NULL : s->table[s->count - 1];
}

/* Sizes double twice: a small log stays small, a large one has few files. */
static uint64_t
next_span(const struct segments *s)
{
    uint64_t full = s->setting - SEG_HEADER;
    uint64_t bytes = FIRST_SPAN_MAX;

    must(s->setting >= 2 * SEG_HEADER);
    must(s->setting <= SETTING_MAX);
    for (uint32_t i = 0; i < s->count && bytes < s->setting; i++)
        bytes *= 4;
    return bytes >= s->setting ? full : bytes - SEG_HEADER;
}

/* opening */

struct found {
    char     name[64];
    uint64_t hint;
};

struct listing {
    struct found *found;
    uint32_t      count, room;
};

static int
note_file(void *arg, const char *name, struct err *err)
{
    struct listing *l = arg;
    uint64_t        hint;
    int             used = 0;

    /* 16 hex digits cannot overflow. NOLINTNEXTLINE(cert-err34-c) */
    if (sscanf(name, "%16" SCNx64 ".seg%n", &hint, &used) != 1 || used == 0 || name[used] != '\0')
        return 0;
    if (strlen(name) >= sizeof l->found[0].name)
        return 0;
    if (l->count == l->room) {
        uint32_t      room = l->room == 0 ? 64 : l->room * 2;
        struct found *found = NULL;

        if (room <= SEGMENTS_MAX)
            found = realloc(l->found, room * sizeof *found);
        if (found == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the list of segments");
        l->found = found;
        l->room = room;
    }
    (void)snprintf(l->found[l->count].name, sizeof l->found[0].name, "%s", name);
    l->found[l->count++].hint = hint;
    return 0;
}

static int
by_hint(const void *a, const void *b)
{
    uint64_t x = ((const struct found *)a)->hint, y = ((const struct found *)b)->hint;
    return (x > y) - (x < y);
}

int
logi_segment_map(struct segments *s, struct segment *seg, struct err *err)
{
    uint64_t len = seg->generation == 0
                       ? seg->span + SEG_HEADER
                       : seg->table_at + seg->table_count * SEG_TABLE_ENTRY + SEG_TABLE_END;

    must(seg->map == NULL);
    must(len > SEG_HEADER);
    seg->map_len = (size_t)len;
    return s->env->ops->file_map(s->env, seg->file, seg->map_len, &seg->map, err);
}

/* How large the file has to be. */
static uint64_t
file_bytes(const struct seg_head *h)
{
    if (h->kind == SEG_PLAIN)
        return h->span + SEG_HEADER;
    return h->table_at + h->table_count * SEG_TABLE_ENTRY + SEG_TABLE_END;
}

static bool
table_can_be(const struct seg_head *h)
{
    if (h->kind == SEG_PLAIN)
        return h->generation == 0 && h->table_at == 0 && h->table_count == 0;
    return h->generation > 0 && h->table_at % 8 == 0 && h->table_at >= SEG_HEADER &&
           h->table_at - SEG_HEADER <= h->span &&
           h->table_count <= (h->table_at - SEG_HEADER) / FRAME_MIN;
}

bool
logi_seg_head_can_be(const struct seg_head *h)
{
    return table_can_be(h) && h->first % 8 == 0 && h->first < UINT64_MAX / 2 && h->span % 8 == 0 &&
           h->span >= SEG_HEADER && h->span <= SETTING_MAX && h->segment_bytes % SEG_HEADER == 0 &&
           h->segment_bytes >= 2 * SEG_HEADER && h->segment_bytes <= SETTING_MAX;
}

/* Reads the header; *whole false: the file holds none. */
static int
read_header(struct segments *s, struct ox_file *file, const char *path, struct seg_head *head,
            bool *whole, struct err *err)
{
    uint8_t  bytes[SEG_HEADER];
    size_t   got;
    uint64_t size;
    int      rc;

    *whole = false;
    TRY(s->env->ops->file_read(s->env, file, bytes, sizeof bytes, 0, &got, err));
    if (got < sizeof bytes || !fmt_seg_get(bytes, head))
        return 0;
    if (head->version != FMT_VERSION)
        FAIL(err, E_FORMAT, ERR_FATAL,
             "%s: format version %u, this program reads version %u: use a newer oxbow", path,
             head->version, FMT_VERSION);
    if (head->kind != SEG_PLAIN && head->kind != SEG_SCAVENGED)
        FAIL(err, E_FORMAT, ERR_FATAL, "%s: segment kind %u is not known here: use a newer oxbow",
             path, head->kind);
    if (!logi_seg_head_can_be(head))
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: the segment's header says what cannot be", path);
    TRY(s->env->ops->file_size(s->env, file, &size, err));
    if (size < file_bytes(head) && head->kind == SEG_SCAVENGED)
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%s: %" PRIu64 " bytes, but the header says %" PRIu64 ": restore a backup", path, size,
             file_bytes(head));
    if (size < head->span + SEG_HEADER && head->kind == SEG_PLAIN && s->read_only)
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%s: %" PRIu64 " bytes, but the header says %" PRIu64
             ": open it for writing once, or restore a backup",
             path, size, head->span + SEG_HEADER);
    /* Its growing was interrupted. If more than that is missing the positions will tell. */
    if (size < head->span + SEG_HEADER && head->kind == SEG_PLAIN)
        TRY(s->env->ops->file_resize(s->env, file, head->span + SEG_HEADER, err));
    *whole = true;
out:
    return rc;
}

/* True in *empty: only zeros behind the header. */
static int
all_zero(struct segments *s, struct ox_file *file, bool *empty, struct err *err)
{
    uint8_t *chunk = malloc(FILL_CHUNK);
    uint64_t at = SEG_HEADER;
    size_t   got;
    int      rc = 0;

    *empty = false;
    if (chunk == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    do {
        TRY(s->env->ops->file_read(s->env, file, chunk, FILL_CHUNK, at, &got, err));
        if (memcmp(chunk, s->zeros, got) != 0)
            goto out;
        at += got;
    } while (got == FILL_CHUNK);
    *empty = true;
out:
    free(chunk);
    return rc;
}

/* A file without a header was being prepared, unless something stands in it. */
static int
drop_unfinished(struct segments *s, struct ox_file **file, const char *path, struct err *err)
{
    bool empty;
    int  rc;

    TRY(all_zero(s, *file, &empty, err));
    if (!empty)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: the segment's header is damaged", path);
    s->env->ops->file_close(s->env, *file);
    *file = NULL;
    if (!s->read_only)
        TRY(s->env->ops->path_remove(s->env, path, err));
out:
    return rc;
}

static int
check_follows(struct segments *s, const struct seg_head *head, const char *path, struct err *err)
{
    const struct segment *last = last_segment(s);

    if (last == NULL && head->first != FMT_FIRST_POS)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                   "%s: begins at position %" PRIu64 ", but a log begins at %" PRIu64
                   ": a segment is missing",
                   path, head->first, FMT_FIRST_POS);
    if (last == NULL) {
        s->log_id = head->log_id;
        s->seed = fmt_seed(&s->log_id);
        s->setting = head->segment_bytes;
        return 0;
    }
    if (!id_eq(&s->log_id, &head->log_id))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "%s: belongs to another log", path);
    if (head->first != end_of(last))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL,
                   "%s: begins at position %" PRIu64 ", expected %" PRIu64 ": a segment is missing",
                   path, head->first, end_of(last));
    return 0;
}

static int
open_segment(struct segments *s, const char *name, bool is_last, struct err *err)
{
    char            path[LOGI_SEG_PATH_MAX];
    struct segment *seg = NULL;
    struct ox_file *file = NULL;
    struct seg_head head;
    bool            whole;
    int             rc, n;

    n = snprintf(path, sizeof path, "%s/%s", s->dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        FAIL(err, E_INVALID, ERR_FATAL, "%s: path too long", s->dir);
    TRY(s->env->ops->file_open(s->env, path, s->read_only ? ENV_READ : ENV_WRITE, &file, err));
    TRY(read_header(s, file, path, &head, &whole, err));
    if (!whole) {
        if (!is_last)
            FAIL(err, E_DAMAGED, ERR_FATAL, "%s: the segment's header is damaged", path);
        TRY(drop_unfinished(s, &file, path, err));
        goto out;
    }
    TRY(check_follows(s, &head, path, err));
    seg = calloc(1, sizeof *seg);
    if (seg == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "%s: out of memory", path);
    seg->file = file;
    file = NULL;
    seg->first = head.first;
    seg->span = head.span;
    seg->filled = seg->span;
    seg->in_use = true;
    seg->generation = head.generation;
    seg->table_at = head.table_at;
    seg->table_count = head.table_count;
    TRY(logi_segment_map(s, seg, err));
    TRY(table_add(s, seg, err));
    seg = NULL;
out:
    logi_segment_free(s->env, seg);
    s->env->ops->file_close(s->env, file);
    return rc;
}

static int
open_all(struct segments *s, struct err *err)
{
    struct listing l = {0};
    int            rc;

    TRY(s->env->ops->dir_list(s->env, s->dir, note_file, &l, err));
    if (l.count > 1)
        qsort(l.found, l.count, sizeof *l.found, by_hint);
    for (uint32_t i = 0; i < l.count; i++)
        TRY(open_segment(s, l.found[i].name, i + 1 == l.count, err));
    must(s->count == l.count || s->count + 1 == l.count); /* the last one may be unfinished */
    TRY(logi_segs_sweep(s, err));
out:
    free(l.found);
    return rc;
}

int
logi_segs_open(struct ox_env *env, const char *dir, uint64_t segment_bytes, bool read_only,
               bool may_create, struct segments **out, bool *created, struct err *err)
{
    struct segments *s;
    int              rc;

    must(segment_bytes % SEG_HEADER == 0);
    must(segment_bytes >= 2 * SEG_HEADER);
    must(segment_bytes <= SETTING_MAX);
    *out = NULL;
    *created = false;
    s = calloc(1, sizeof *s);
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    s->env = env;
    s->read_only = read_only;
    s->setting = segment_bytes;
    atomic_init(&s->epoch, 1);
    lock_init(&s->fill, LOCK_LOG_FILL);
    lock_init(&s->lock, LOCK_LOG_SEGS);
    s->dir = strdup(dir);
    s->zeros = calloc(1, FILL_CHUNK);
    if (s->dir == NULL || s->zeros == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    if (!read_only)
        TRY(env->ops->dir_make(env, dir, err));
    TRY(open_all(s, err));
    if (s->count == 0) {
        if (read_only)
            FAIL(err, E_NOTFOUND, ERR_FATAL, "%s: no log here", dir);
        if (!may_create)
            FAIL(err, E_DAMAGED, ERR_FATAL,
                 "%s: the segments are missing, but the file CLEAN beside says that a log was "
                 "here: bring them back, or remove CLEAN to begin anew",
                 dir);
        env->ops->random(env, s->log_id.b, sizeof s->log_id.b);
        s->seed = fmt_seed(&s->log_id);
        *created = true;
        TRY(logi_segs_grow(s, err));
    }
    must(s->table[0]->first == FMT_FIRST_POS);
    *out = s;
    s = NULL;
out:
    logi_segs_close(s);
    return rc;
}

void
logi_segs_close(struct segments *s)
{
    if (s == NULL)
        return;
    must(s->pins == NULL);
    logi_segs_reclaim(s);
    must(s->retired == NULL);
    must(s->retired_bytes == 0);
    for (uint32_t i = 0; i < s->count; i++)
        logi_segment_free(s->env, s->table[i]);
    free(s->table);
    free(s->zeros);
    free(s->dir);
    lock_fini(&s->lock);
    lock_fini(&s->fill);
    free(s);
}

/* facts */

struct ox_env *
logi_segs_env(struct segments *s)
{
    return s->env;
}

const struct ox_id *
logi_segs_log_id(struct segments *s)
{
    return &s->log_id;
}

uint32_t
logi_segs_seed(struct segments *s)
{
    return s->seed;
}

uint64_t
logi_segs_setting(struct segments *s)
{
    return s->setting;
}

uint32_t
logi_segs_count(struct segments *s)
{
    uint32_t n;

    lock_take(&s->lock);
    n = s->count;
    lock_give(&s->lock);
    return n;
}

uint64_t
logi_segs_disk_bytes(struct segments *s)
{
    uint64_t n = 0;

    lock_take(&s->lock);
    for (uint32_t i = 0; i < s->count; i++)
        n += s->table[i]->map_len;
    n += s->retired_bytes;
    lock_give(&s->lock);
    return n;
}

uint64_t
logi_segs_first(struct segments *s)
{
    uint64_t first;

    /* It never changes, but the table moves when it grows. */
    lock_take(&s->lock);
    must(s->count > 0);
    first = s->table[0]->first;
    lock_give(&s->lock);
    return first;
}

uint64_t
logi_segs_end(struct segments *s)
{
    struct segment *last;
    uint64_t        end;

    lock_take(&s->lock);
    last = last_segment(s);
    end = last == NULL ? FMT_FIRST_POS : end_of(last);
    lock_give(&s->lock);
    return end;
}

struct segment *
logi_segs_find(struct segments *s, uint64_t pos)
{
    uint32_t lo = 0, hi = s->count;

    must_slow(lock_held());
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (end_of(s->table[mid]) <= pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == s->count || s->table[lo]->first > pos)
        return NULL;
    return s->table[lo];
}

bool
logi_segs_read(struct segments *s, uint64_t pos, uint8_t *out, size_t len, size_t *got)
{
    struct ox_file *file = NULL;
    uint64_t        at = 0;

    lock_take(&s->lock);
    struct segment *seg = logi_segs_find(s, pos);
    if (seg != NULL && seg->generation == 0) {
        file = seg->file;
        at = SEG_HEADER + (pos - seg->first);
        if (len > end_of(seg) - pos)
            len = (size_t)(end_of(seg) - pos);
    }
    lock_give(&s->lock);
    return file != NULL && s->env->ops->file_read(s->env, file, out, len, at, got, NULL) == 0;
}

/* growing and writing */

static int
write_header(struct segments *s, struct segment *seg, struct err *err)
{
    uint8_t         bytes[SEG_HEADER];
    struct seg_head head = {
        .version = FMT_VERSION,
        .kind = SEG_PLAIN,
        .log_id = s->log_id,
        .first = seg->first,
        .span = seg->span,
        .segment_bytes = s->setting,
        .created_us = s->env->ops->wall_us(s->env),
    };

    must(logi_seg_head_can_be(&head)); /* or the next opening refuses it */
    fmt_seg_put(bytes, &head);
    return s->env->ops->file_write(s->env, seg->file, bytes, sizeof bytes, 0, err);
}

/* Durable when it returns 0, the name excepted. */
static int
prepare(struct segments *s, struct segment *seg, struct err *err)
{
    int rc;

    must(seg->generation == 0);
    must(!seg->dirty);
    seg->in_use = false;
    seg->filled = 0;
    TRY(s->env->ops->file_resize(s->env, seg->file, 0, err));
    TRY(s->env->ops->file_resize(s->env, seg->file, seg->span + SEG_HEADER, err));
    TRY(write_header(s, seg, err));
    TRY(s->env->ops->file_sync(s->env, seg->file, err));
out:
    return rc;
}

int
logi_segs_grow(struct segments *s, struct err *err)
{
    char            path[LOGI_SEG_PATH_MAX];
    struct segment *seg = NULL;
    bool            made = false;
    int             rc;

    must(!s->read_only);
    seg = calloc(1, sizeof *seg);
    if (seg == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "%s: out of memory", s->dir);
    seg->first = logi_segs_end(s);
    seg->span = next_span(s);
    TRY(logi_segs_path(s, seg->first, "", path, err));
    /* What an earlier try left behind has no header: it may be written over. */
    TRY(s->env->ops->file_open(s->env, path, ENV_WRITE | ENV_CREATE, &seg->file, err));
    made = true;
    TRY(prepare(s, seg, err));
    TRY(s->env->ops->dir_sync(s->env, s->dir, err));
    TRY(logi_segment_map(s, seg, err));
    TRY(table_add(s, seg, err));
    seg = NULL;
out:
    if (seg != NULL) {
        logi_segment_free(s->env, seg);
        if (made)
            (void)s->env->ops->path_remove(s->env, path, NULL);
    }
    return rc;
}

/* The bytes from `pos` on are given back and got again, whatever they were: they read as zero. */
static int
cut_segment(struct segments *s, struct segment *seg, uint64_t pos, struct err *err)
{
    int rc;

    must(pos > seg->first);
    must(pos < end_of(seg));
    TRY(s->env->ops->file_resize(s->env, seg->file, SEG_HEADER + (pos - seg->first), err));
    TRY(s->env->ops->file_resize(s->env, seg->file, SEG_HEADER + seg->span, err));
    TRY(s->env->ops->file_sync(s->env, seg->file, err));
out:
    return rc;
}

/* The last one, which nobody uses yet; durable, so that no later one is left without it. */
static int
remove_last(struct segments *s, struct err *err)
{
    char            path[LOGI_SEG_PATH_MAX];
    struct segment *seg = s->table[--s->count];
    int             rc;

    must(s->count > 0);
    must(seg->generation == 0); /* nobody replaces one that nothing is in */
    must(!seg->dirty);
    rc = logi_segs_path(s, seg->first, "", path, err);
    logi_segment_free(s->env, seg);
    TRY(rc);
    TRY(s->env->ops->path_remove(s->env, path, err));
    TRY(s->env->ops->dir_sync(s->env, s->dir, err));
out:
    return rc;
}

int
logi_segs_cut(struct segments *s, uint64_t pos, struct err *err)
{
    struct segment *last;
    int             rc;

    must(!s->read_only);
    while (s->count > 1 && s->table[s->count - 1]->first >= pos)
        TRY(remove_last(s, err));
    /* Even where none was left: a name that seems to be gone may come back, and then would follow
     * a segment that is being prepared. */
    TRY(s->env->ops->dir_sync(s->env, s->dir, err));
    last = last_segment(s);
    /* A scavenged one may be the last that has anything in it, and all of that stands below. */
    must(last->generation == 0 || end_of(last) <= pos);
    if (last->first >= pos)
        TRY(prepare(s, last, err));
    else if (end_of(last) > pos)
        TRY(cut_segment(s, last, pos, err));
    rc = 0;
out:
    return rc;
}

int
logi_segs_rewrite(struct segments *s, uint64_t from, uint64_t upto, struct err *err)
{
    uint8_t        *copy = malloc(FILL_CHUNK);
    struct seg_view view;
    int             rc = 0;

    must(from >= logi_segs_first(s));
    must(upto <= logi_segs_end(s));
    if (copy == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    while (from < upto) {
        uint64_t len = upto - from < FILL_CHUNK ? upto - from : FILL_CHUNK;

        must(logi_segs_at(s, from, &view));
        if (view.sparse) { /* it was synced before it got its name */
            from = view.end < upto ? view.end : upto;
            continue;
        }
        if (len > view.end - from)
            len = view.end - from;
        memcpy(copy, view.bytes + (from - view.first), (size_t)len);
        TRY(logi_segs_write(s, from, copy, len, err));
        from += len;
    }
out:
    free(copy);
    return rc;
}

int
logi_segs_fill(struct segments *s, double share, bool *more, struct err *err)
{
    struct segment *seg;
    uint64_t        len, upto;
    int             rc = 0;

    *more = false;
    lock_take(&s->fill);
    lock_take(&s->lock);
    seg = last_segment(s);
    lock_give(&s->lock);
    must(seg != NULL);
    must(seg->filled <= seg->span);
    if (seg->in_use || share <= 0)
        goto out;
    must(seg->generation == 0);
    upto = share >= 1 ? seg->span : (uint64_t)(share * (double)seg->span);
    if (upto <= seg->filled)
        goto out;
    len = seg->span - seg->filled < FILL_STEP ? seg->span - seg->filled : FILL_STEP;
    TRY(s->env->ops->file_write(s->env, seg->file, s->zeros, (size_t)len, SEG_HEADER + seg->filled,
                                err));
    TRY(s->env->ops->file_sync(s->env, seg->file, err));
    seg->filled += len;
    *more = seg->filled < upto;
out:
    lock_give(&s->fill);
    return rc;
}

/* From now on no zeros are written into it. */
static void
enter(struct segments *s, struct segment *seg)
{
    lock_take(&s->fill);
    seg->in_use = true;
    lock_give(&s->fill);
}

int
logi_segs_write(struct segments *s, uint64_t pos, const uint8_t *bytes, uint64_t len,
                struct err *err)
{
    int rc = 0;

    must(!s->read_only);
    while (len > 0) {
        struct segment *seg;
        uint64_t        part;

        lock_take(&s->lock);
        seg = logi_segs_find(s, pos);
        lock_give(&s->lock);
        must(seg != NULL);
        must(seg->generation == 0);
        part = end_of(seg) - pos;
        must(part > 0);
        if (part > len)
            part = len;
        if (!seg->dirty)
            enter(s, seg);
        seg->dirty = true;
        TRY(s->env->ops->file_write(s->env, seg->file, bytes, (size_t)part,
                                    SEG_HEADER + (pos - seg->first), err));
        pos += part;
        bytes += part;
        len -= part;
    }
out:
    return rc;
}

int
logi_segs_sync(struct segments *s, struct err *err)
{
    bool seen = false;
    int  rc = 0;

    /* Writes only go forward: below a clean segment that follows a dirty one all is clean. */
    for (uint32_t n = logi_segs_count(s); n-- > 0;) {
        struct segment *seg;
        bool            dirty;

        /* A clean one may be replaced at any time. */
        lock_take(&s->lock);
        seg = s->table[n];
        dirty = seg->dirty;
        lock_give(&s->lock);
        if (!dirty && seen)
            break;
        if (!dirty)
            continue;
        seen = true;
#ifdef OX_BUG_NO_SYNC
        seg->dirty = false;
        continue;
#endif
        TRY(s->env->ops->file_sync(s->env, seg->file, err));
        seg->dirty = false;
    }
out:
    return rc;
}
