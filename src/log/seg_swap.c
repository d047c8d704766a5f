/*
 * Scavenged segments: what a view of one says, and how one takes a plain one's
 * place under the eyes of readers.
 *
 * A replaced segment leaves the table at once and stays mapped until no pin is
 * older than that. A crash leaves the old file or the new one under the
 * segment's name, each whole, and maybe a HEX.seg.new that nobody needs.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "log/scan.h"
#include "log/seg_int.h"

#define NEW_END ".new"

void
logi_segment_view(const struct segment *seg, struct seg_view *out)
{
    *out = (struct seg_view){
        .first = seg->first, .end = seg->first + seg->span, .bytes = seg->map + SEG_HEADER};
    if (seg->generation == 0)
        return;
    must(seg->table_at >= SEG_HEADER);
    must(seg->table_at + seg->table_count * SEG_TABLE_ENTRY < seg->map_len);
    out->sparse = true;
    out->table = seg->map + seg->table_at;
    out->entries = seg->table_count;
    out->length = seg->table_at - SEG_HEADER;
}

/* It is looked at once, by whoever comes first: at opening that would take its time. */
static bool
table_whole(struct segments *s, struct segment *seg, const struct seg_view *view)
{
    int known = atomic_load(&seg->table);

    if (known == TABLE_UNKNOWN) {
        known = logi_scan_table(view, s->seed) ? TABLE_WHOLE : TABLE_DAMAGED;
        atomic_store(&seg->table, known);
    }
    return known == TABLE_WHOLE;
}

bool
logi_segs_at(struct segments *s, uint64_t pos, struct seg_view *out)
{
    struct segment *seg;

    lock_take(&s->lock);
    seg = logi_segs_find(s, pos);
    if (seg != NULL)
        logi_segment_view(seg, out);
    lock_give(&s->lock);
    if (seg == NULL)
        return false;
    must(pos >= out->first);
    must(pos < out->end);
    if (out->sparse)
        out->whole = table_whole(s, seg, out);
    return true;
}

/* pins */

void
logi_segs_pin_add(struct segments *s, struct seg_pin *pin)
{
    atomic_init(&pin->epoch, 0);
    lock_take(&s->lock);
    pin->prev = NULL;
    pin->next = s->pins;
    if (pin->next != NULL)
        pin->next->prev = pin;
    s->pins = pin;
    lock_give(&s->lock);
}

void
logi_segs_pin_drop(struct segments *s, struct seg_pin *pin)
{
    lock_take(&s->lock);
    must(pin->prev == NULL ? s->pins == pin : pin->prev->next == pin); /* it was added */
    if (pin->prev != NULL)
        pin->prev->next = pin->next;
    else
        s->pins = pin->next;
    if (pin->next != NULL)
        pin->next->prev = pin->prev;
    lock_give(&s->lock);
}

/* The lock of whoever then looks a segment up orders this before it: reclaim takes it too. */
void
logi_segs_pin(struct segments *s, struct seg_pin *pin)
{
    uint64_t epoch = atomic_load_explicit(&s->epoch, memory_order_acquire);

    must(epoch != 0); /* that would be none */
    atomic_store_explicit(&pin->epoch, epoch, memory_order_release);
}

bool
logi_segs_pin_is_new(struct segments *s, const struct seg_pin *pin)
{
    return atomic_load_explicit(&pin->epoch, memory_order_relaxed) ==
           atomic_load_explicit(&s->epoch, memory_order_acquire);
}

void
logi_segs_unpin(struct seg_pin *pin)
{
    atomic_store_explicit(&pin->epoch, 0, memory_order_release);
}

static uint64_t
oldest_pin(const struct segments *s)
{
    uint64_t oldest = UINT64_MAX;

    for (const struct seg_pin *pin = s->pins; pin != NULL; pin = pin->next) {
        uint64_t epoch = atomic_load_explicit(&pin->epoch, memory_order_acquire);

        if (epoch != 0 && epoch < oldest)
            oldest = epoch;
    }
    return oldest;
}

uint64_t
logi_segs_reclaim(struct segments *s)
{
    struct segment **link, *seg, *done = NULL;
    uint64_t         oldest, left;

    lock_take(&s->lock);
    oldest = oldest_pin(s);
    for (link = &s->retired; (seg = *link) != NULL;) {
        if (seg->gone > oldest) {
            link = &seg->next;
            continue;
        }
        must(seg->gone > 1); /* the first epoch is of before anything was replaced */
        must(s->retired_bytes >= seg->map_len);
        *link = seg->next;
        s->retired_bytes -= seg->map_len;
        seg->next = done;
        done = seg;
    }
    left = s->retired_bytes;
    must((left == 0) == (s->retired == NULL));
    lock_give(&s->lock);
    while ((seg = done) != NULL) {
        done = seg->next;
        logi_segment_free(s->env, seg);
    }
    return left;
}

/* replacing */

int
logi_segs_new(struct segments *s, uint64_t first, struct ox_file **out, struct err *err)
{
    char path[LOGI_SEG_PATH_MAX];
    int  rc;

    must(!s->read_only);
    *out = NULL;
    TRY(logi_segs_path(s, first, NEW_END, path, err));
    TRY(s->env->ops->file_open(s->env, path, ENV_WRITE | ENV_CREATE, out, err));
    rc = s->env->ops->file_resize(s->env, *out, 0, err);
    if (rc != 0)
        logi_segs_new_drop(s, first, out);
out:
    return rc;
}

void
logi_segs_new_drop(struct segments *s, uint64_t first, struct ox_file **file)
{
    char path[LOGI_SEG_PATH_MAX];

    if (*file == NULL)
        return;
    s->env->ops->file_close(s->env, *file);
    *file = NULL;
    if (logi_segs_path(s, first, NEW_END, path, NULL) == 0)
        (void)s->env->ops->path_remove(s->env, path, NULL);
}

/* The table shows it from here on; the old one goes when its last reader has gone on. */
static void
put_in_place(struct segments *s, struct segment *seg)
{
    struct segment *old;
    uint32_t        i = 0;

    lock_take(&s->lock);
    while (i < s->count && s->table[i]->first != seg->first)
        i++;
    must(i < s->count);
    old = s->table[i];
    must(!old->dirty);
    must(old->in_use);
    must(old->span == seg->span); /* positions stay what they are */
    must(old->generation + 1 == seg->generation);
    s->table[i] = seg;
    old->gone = atomic_fetch_add(&s->epoch, 1) + 1;
    old->next = s->retired;
    s->retired = old;
    s->retired_bytes += old->map_len;
    lock_give(&s->lock);
}

int
logi_segs_swap(struct segments *s, const struct seg_head *head, struct ox_file **file,
               struct err *err)
{
    char            from[LOGI_SEG_PATH_MAX], to[LOGI_SEG_PATH_MAX];
    struct segment *seg = calloc(1, sizeof *seg);
    int             rc;

    must(head->kind == SEG_SCAVENGED);
    must(logi_seg_head_can_be(head)); /* or the next opening refuses it */
    must(*file != NULL);
    if (seg == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "%s: out of memory", s->dir);
    seg->first = head->first;
    seg->span = seg->filled = head->span;
    seg->in_use = true;
    seg->generation = head->generation;
    seg->table_at = head->table_at;
    seg->table_count = head->table_count;
    seg->file = *file;
    TRY(logi_segment_map(s, seg, err));
    TRY(logi_segs_path(s, head->first, NEW_END, from, err));
    TRY(logi_segs_path(s, head->first, "", to, err));
    TRY(s->env->ops->path_rename(s->env, from, to, err));
    *file = NULL;
    put_in_place(s, seg);
    seg = NULL;
    TRY(s->env->ops->dir_sync(s->env, s->dir, err));
out:
    if (seg != NULL) {
        seg->file = NULL;
        logi_segment_free(s->env, seg);
    }
    logi_segs_new_drop(s, head->first, file);
    return rc;
}

bool
logi_segs_any_sparse(struct segments *s)
{
    bool any = false;

    lock_take(&s->lock);
    for (uint32_t i = 0; i < s->count && !any; i++)
        any = s->table[i]->generation > 0;
    lock_give(&s->lock);
    return any;
}

uint32_t
logi_segs_generation(struct segments *s, uint64_t first)
{
    struct segment *seg;
    uint32_t        generation;

    lock_take(&s->lock);
    seg = logi_segs_find(s, first);
    generation = seg == NULL ? 0 : seg->generation;
    lock_give(&s->lock);
    return generation;
}

uint64_t
logi_segs_bytes_at(struct segments *s, uint64_t first)
{
    struct segment *seg;
    uint64_t        bytes;

    lock_take(&s->lock);
    seg = logi_segs_find(s, first);
    bytes = seg == NULL ? 0 : seg->map_len;
    lock_give(&s->lock);
    return bytes;
}

/* opening */

struct sweep {
    uint32_t  count, room;
    uint64_t *firsts;
};

static int
note_new(void *arg, const char *name, struct err *err)
{
    struct sweep *w = arg;
    uint64_t      first;
    int           used = 0;

    /* 16 hex digits cannot overflow. NOLINTNEXTLINE(cert-err34-c) */
    if (sscanf(name, "%16" SCNx64 ".seg" NEW_END "%n", &first, &used) != 1 || used == 0 ||
        name[used] != '\0')
        return 0;
    if (w->count == w->room) {
        uint32_t  room = w->room + 16;
        uint64_t *firsts = realloc(w->firsts, room * sizeof *firsts);

        if (firsts == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
        w->firsts = firsts;
        w->room = room;
    }
    w->firsts[w->count++] = first;
    return 0;
}

int
logi_segs_sweep(struct segments *s, struct err *err)
{
    struct sweep w = {0};
    char         path[LOGI_SEG_PATH_MAX];
    int          rc = 0;

    if (s->read_only)
        return 0;
    TRY(s->env->ops->dir_list(s->env, s->dir, note_new, &w, err));
    for (uint32_t i = 0; i < w.count; i++) {
        TRY(logi_segs_path(s, w.firsts[i], NEW_END, path, err));
        rc = s->env->ops->path_remove(s->env, path, err);
        if (rc == E_NOTFOUND)
            rc = 0; /* its name was not written so */
        if (rc != 0)
            goto out;
    }
out:
    free(w.firsts);
    return rc;
}
