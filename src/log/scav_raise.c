/*
 * Limits that hide events (by number, by age, a category's retention) made
 * final: before such events go, the stream's `truncate` is raised to cover
 * them, by commits that wake nobody. Until those are durable nothing is copied.
 */
#include <stdlib.h>

#include "log/scav_int.h"

#define RAISE_MAX 65536u /* streams of one segment; the rest waits for another run */
#define RAISE_COMMIT 256u
#define OLD_MAX 256u /* versions of earlier segments that are looked at for their age */

void
logi_scav_limits(struct scavenge *s, struct slice stream, const struct index_head *head,
                 struct scav_stream *st)
{
    struct view v;

    must(st->id_plus_1 > 0);
    must(st->next == head->next);
    must(st->raise_no == 0);
    st->raise = st->below;
    if ((head->flags & (INDEX_DELETED | INDEX_TOMBSTONE | INDEX_STAGED)) != 0 || s->no_limits ||
        logi_is_metastream(stream))
        return;
    logi_view(head, stream, logi_retention_of(s->retention, stream), &v);
    st->count_low = v.max_count != 0 && v.low > st->below ? v.low : 0;
    st->max_age_us = v.max_age_us;
}

/* Are the versions from `from` to below `upto`, which stand further in front, too old as well? */
static int
all_old(struct scavenge *s, const struct scav_stream *st, uint64_t from, uint64_t upto, bool *yes,
        struct err *err)
{
    struct record r;
    struct frame  f;
    uint64_t      pos;
    int           rc = 0;

    must(from <= upto);
    must(st->max_age_us != 0);
    *yes = upto - from <= OLD_MAX;
    for (; *yes && from < upto; from++) {
        rc = logi_position(s->log, st->id_plus_1 - 1, from, UINT64_MAX, &pos, err);
        if (rc != 0)
            return rc;
        *yes = pos != 0 && logi_scan_record_at(s->log->segs, pos, UINT64_MAX, true, &r, &f) &&
               logi_too_old(s->log, st->max_age_us, r.created_us);
    }
    return 0;
}

/* Takes the stream into the list of those whose `truncate` is raised. */
static bool
note(struct scavenge *s, struct scav_stream *st, const struct record *r, uint64_t upto)
{
    struct scav_raises *list = &s->raises;
    struct scav_raise  *x;

    must(!list->begun); /* what is committed is not added to */
    must(st->round == s->look.round);
    if (st->raise_no == 0) {
        if (list->count == RAISE_MAX)
            return false;
        if (list->count == list->room) {
            uint32_t room = list->room == 0 ? 256 : list->room * 2;

            x = realloc(list->all, room * sizeof *x);
            if (x == NULL)
                return false;
            list->all = x;
            list->room = room;
        }
        if (!buf_reserve(&list->names, r->name_len))
            return false;
        list->all[list->count] = (struct scav_raise){
            .id = r->stream_id, .name_at = list->names.len, .name_len = r->name_len};
        buf_add(&list->names, r->body, r->name_len);
        st->raise_no = ++list->count;
    }
    must(st->raise_no <= list->count);
    x = &list->all[st->raise_no - 1];
    must(x->id == r->stream_id);
    must(upto < st->next); /* never the last event */
    if (upto > x->truncate)
        x->truncate = upto;
    if (upto > st->raise)
        st->raise = upto;
    return true;
}

int
logi_scav_by_limit(struct scavenge *s, struct scav_stream *st, const struct record *r, bool *dead,
                   struct err *err)
{
    int rc = 0;

    *dead = r->version < st->raise && r->version + 1 < st->next;
    if (*dead || (st->count_low == 0 && st->max_age_us == 0) || r->version + 1 >= st->next)
        return 0;
    if (r->version < st->count_low) {
        *dead = note(s, st, r, r->version + 1);
        return 0;
    }
    if (!logi_too_old(s->log, st->max_age_us, r->created_us))
        return 0;
    rc = all_old(s, st, st->count_low > st->raise ? st->count_low : st->raise, r->version, dead,
                 err);
    if (rc == 0 && *dead)
        *dead = note(s, st, r, r->version + 1);
    return rc;
}

/* One stream stands in the list once for each time that it was forgotten and found again. */
static int
by_id(const void *a, const void *b)
{
    const struct scav_raise *x = a, *y = b;

    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x->truncate < y->truncate) - (x->truncate > y->truncate);
}

/* Each stream once, in the order of their ids, with the highest that was noted of it. */
static void
sort(struct scav_raises *list)
{
    uint32_t n = 0;

    if (list->count > 0)
        qsort(list->all, list->count, sizeof *list->all, by_id);
    for (uint32_t i = 0; i < list->count; i++)
        if (n == 0 || list->all[n - 1].id != list->all[i].id)
            list->all[n++] = list->all[i];
    list->count = n;
}

static void
on_done(struct log_req *req)
{
    struct scavenge *s = req->arg;

    must(req == &s->raises.req);
    must(atomic_load(&s->raises.waiting));
    atomic_store(&s->raises.waiting, false);
    s->log->env->ops->task_wake(s->log->env, s->task);
}

static void
submit(struct scavenge *s)
{
    struct scav_raises *list = &s->raises;
    uint32_t            n = 0;

    for (; list->next < list->count && n < RAISE_COMMIT; list->next++) {
        const struct scav_raise *x = &list->all[list->next];

        must(x->truncate > 0);
        list->changes[n++] =
            (struct log_change){.stream = slice_of(list->names.data + x->name_at, x->name_len),
                                .expected = LOG_ANY,
                                .what = LOG_SET_TRUNCATE,
                                .truncate = x->truncate};
    }
    must(n > 0);
    list->req = (struct log_req){.changes = list->changes,
                                 .change_count = n,
                                 .flags = LOG_QUIET | LOG_SYSTEM | LOG_BULK,
                                 .done = on_done,
                                 .arg = s};
    atomic_store(&list->waiting, true);
    log_submit(s->log, &list->req);
}

int
logi_scav_raise_on(struct scavenge *s, bool *done, struct err *err)
{
    struct scav_raises *list = &s->raises;

    *done = false;
    if (atomic_load(&list->waiting))
        return 0;
    if (list->begun && list->req.rc != 0) {
        err_copy(err, &list->req.err);
        return list->req.rc;
    }
    if (!list->begun) {
        list->changes = calloc(RAISE_COMMIT, sizeof *list->changes);
        if (list->changes == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        sort(list);
        list->begun = true;
    }
    must(list->next <= list->count);
    *done = list->next == list->count;
    if (!*done)
        submit(s);
    return 0;
}

void
logi_scav_raise_end(struct scavenge *s)
{
    struct scav_raises *list = &s->raises;

    must(!atomic_load(&list->waiting));
    free(list->all);
    free(list->changes);
    buf_fini(&list->names);
    memset(list, 0, sizeof *list);
}
