/*
 * Import: events of another log (CHANGE_EVENT), taken over with their versions, ids, times, data
 * and metadata, each batch in one commit with its checkpoint.
 *
 * Versions that are gone at the source are filled with events `$gap`, in commits before the
 * batch's own: our versions are dense. Where nothing before them can be read they are hidden by
 * the same commit that writes them. What cannot be an event is recorded in `$parked-source-NAME`,
 * and a `$gap` stands in its place. What stands here already under the same id is passed over;
 * under another id, or where the stream goes beyond it, somebody else writes the stream: the
 * import stops.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "core/capture_int.h"

#define FILL_MAX 4096u              /* events of one commit that fills gaps */
#define GAP_MAX UINT64_C(100000000) /* versions of a stream that are filled */
#define GAP_TYPE "$gap"

enum what { TAKE, PASS, PARK, TOMBSTONE };

/* A stream of the batch. */
struct target {
    struct slice stream;
    int64_t      head; /* as the log has it; -1: no event ever */
    uint64_t     next; /* with what was looked at of the batch */
    bool         hidden, gone;
    uint32_t     count; /* of events to be written */
    uint64_t     gap;   /* versions to fill before the first of them */
};

struct item {
    enum what             what;
    uint32_t              target;
    bool                  placed; /* parked: its place in the stream is filled */
    struct capture_record record;
};

struct import {
    struct target        *targets;
    struct item          *items;
    uint32_t             *table, mask, target_count, event_count, parked;
    struct log_write     *writes;
    struct log_new_event *events;
    struct log_change    *changes;
    uint32_t             *order;
};

void
capturei_import_free(struct capture *c)
{
    struct import *im = c->import;

    if (im == NULL)
        return;
    free(im->targets);
    free(im->items);
    free(im->table);
    free(im->writes);
    free(im->events);
    free(im->changes);
    free(im->order);
    free(im);
    c->import = NULL;
}

static int
make(struct capture *c, uint32_t n, struct err *err)
{
    struct import *im = calloc(1, sizeof *im);
    uint32_t       size = 4;

    must(c->import == NULL);
    must(n <= UINT32_MAX / 8);
    c->import = im;
    while (size < n * 2)
        size *= 2;
    if (im != NULL) {
        im->mask = size - 1;
        im->targets = calloc(n, sizeof *im->targets);
        im->items = calloc(n, sizeof *im->items);
        im->table = calloc(size, sizeof *im->table);
    }
    if (im == NULL || im->targets == NULL || im->items == NULL || im->table == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    return 0;
}

/* looking at the batch */

static int
look_up(struct capture *c, struct target *t, struct err *err)
{
    struct log_stream info;
    int               rc = log_stream_brief(c->log, t->stream, &info, err);

    if (rc != 0 && rc != E_NOTFOUND && rc != E_GONE)
        return rc;
    t->gone = rc == E_GONE;
    t->head = info.head == UINT64_MAX ? LOG_NO_STREAM : (int64_t)info.head;
    t->hidden = rc != 0 || info.first == info.head + 1;
    t->next = (uint64_t)(t->head + 1);
    return 0;
}

static int
target_of(struct capture *c, struct slice stream, uint32_t *out, struct err *err)
{
    struct import *im = c->import;
    uint64_t       h = 1469598103934665603u;
    uint32_t       i;

    for (size_t k = 0; k < stream.len; k++)
        h = (h ^ ((const uint8_t *)stream.data)[k]) * 1099511628211u;
    for (i = (uint32_t)(h >> 32) & im->mask; im->table[i] != 0; i = (i + 1) & im->mask) {
        *out = im->table[i] - 1;
        if (slice_eq(im->targets[*out].stream, stream))
            return 0;
    }
    *out = im->target_count;
    must(im->target_count <= im->mask / 2);
    im->table[i] = ++im->target_count;
    im->targets[*out].stream = stream;
    return look_up(c, &im->targets[*out], err);
}

static bool
is_metadata(const struct change_event *e)
{
    return e->stream.len > 2 && slice_starts(e->stream, slice_str("$$")) &&
           slice_is(e->type, LOG_META_TYPE);
}

/* What the log would refuse the event for, its stream's name apart. */
static int
unfit(struct capture *c, const struct change_event *e, struct err *err)
{
    struct log_stream info;
    struct log_meta   meta;

    if (e->type.len == 0 || e->type.len > LOG_TYPE_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "its type has %zu bytes, 1 to %d are allowed",
                   e->type.len, LOG_TYPE_MAX);
    if (e->data.len + e->meta.len > LOG_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "it has %zu bytes, an event has at most %" PRIu64,
                   e->data.len + e->meta.len, LOG_EVENT_MAX);
    if (!is_metadata(e))
        return 0;
    if (log_stream_brief(c->log, slice_of((const char *)e->stream.data + 2, e->stream.len - 2),
                         &info, err) == E_GONE)
        return E_GONE;
    return log_meta_parse(e->data, &meta, err);
}

/* What stands at the event's version; it may be hidden, and gone from the disk. */
static int
compare(struct capture *c, const struct change_event *e, struct err *err)
{
    struct log_read  read = {.stream = e->stream, .from = e->version, .raw = true};
    struct log_iter *it = NULL;
    struct log_event have;
    int              rc = log_iter_open(c->log, &read, &it, err);

    if (rc == 0)
        rc = log_iter_next(it, &have, err);
    if (rc == 0 && have.version == e->version && !id_eq(&have.id, &e->id) &&
        !slice_is(have.type, GAP_TYPE))
        FAIL(err, E_DIVERGED, ERR_FATAL,
             "source %s: stream \"%.*s\" has another event at version %" PRIu64
             " here: somebody else writes it; leave it out (exclude), or import into a log of its "
             "own",
             c->name, SLICE_FMT(e->stream), e->version);
    if (rc == E_END || rc == E_NOTFOUND || rc == E_GONE)
        rc = 0;
out:
    log_iter_close(it);
    return rc;
}

static void
park(struct capture *c, const struct change *ch, struct item *it, const char *reason)
{
    const struct change_event *e = ch->event;
    char                       key[32];

    it->what = PARK;
    (void)snprintf(key, sizeof key, "%" PRIu64, e->version);
    capturei_record(c, reason, "Event", e->stream, slice_str(key), ch->position, &it->record);
    c->import->parked++;
}

static int
look_at(struct capture *c, const struct change *ch, struct item *it, struct err *err)
{
    const struct change_event *e = ch->event;
    struct target             *t;
    struct err                 why;
    int                        rc = 0;

    if (log_name_check(e->stream, true, &why) != 0) {
        park(c, ch, it, why.text);
        return 0;
    }
    TRY(target_of(c, e->stream, &it->target, err));
    must(it->target < c->import->target_count);
    t = &c->import->targets[it->target];
    if (e->tombstone) {
        it->what = t->gone ? PASS : TOMBSTONE;
        t->gone = true;
        return 0;
    }
    if (e->version < t->next) {
        it->what = PASS;
        return compare(c, e, err);
    }
    if (t->gone)
        FAIL(err, E_DIVERGED, ERR_FATAL,
             "source %s: stream \"%.*s\" is deleted for good here, and goes on there", c->name,
             SLICE_FMT(e->stream));
    must(t->count == 0 || e->version == t->next);
    if (e->version - t->next > GAP_MAX)
        FAIL(err, E_LIMIT, ERR_FATAL,
             "source %s: stream \"%.*s\" goes from version %" PRIu64 " to %" PRIu64
             ": so much is not filled; leave it out (exclude)",
             c->name, SLICE_FMT(e->stream), t->next, e->version);
    t->gap += e->version - t->next;
    t->next = e->version + 1;
    t->count++;
    if (unfit(c, e, &why) != 0) {
        park(c, ch, it, why.text);
        it->placed = true;
    }
out:
    return rc;
}

/* filling gaps */

static struct ox_id
gap_id(const struct capture *c, struct slice stream, uint64_t version)
{
    struct buf   seed = {0};
    struct ox_id id = {{0}};

    buf_add_str(&seed, c->name);
    buf_add_byte(&seed, 0);
    buf_add_slice(&seed, stream);
    buf_add_byte(&seed, 0);
    buf_add_u64(&seed, version);
    if (!seed.failed)
        id = id_of_bytes(buf_slice(&seed));
    buf_fini(&seed);
    return id;
}

static struct log_new_event
gap_event(const struct capture *c, struct slice stream, uint64_t version)
{
    return (struct log_new_event){.id = gap_id(c, stream, version),
                                  .type = slice_str(GAP_TYPE),
                                  .data = slice_str("{}"),
                                  .flags = LOG_JSON};
}

static void
fill_one(const struct capture *c, const struct target *t, uint32_t n, struct log_new_event *events)
{
    struct import    *im = c->import;
    uint64_t          first = (uint64_t)(t->head + 1);
    struct log_write *w = &im->writes[c->req.write_count];

    must(n <= t->gap);
    must(c->req.write_count < im->target_count);
    must(t->head >= LOG_NO_STREAM);
    for (uint32_t k = 0; k < n; k++)
        events[k] = gap_event(c, t->stream, first + k);
    *w = (struct log_write){.stream = t->stream, .expected = t->head, .events = events, .count = n};
    if (t->hidden)
        im->changes[c->req.change_count] = (struct log_change){
            .stream = t->stream,
            .expected = LOG_ANY,
            .what = LOG_SET_TRUNCATE,
            .truncate = first + n,
        };
}

/* One commit of at most FILL_MAX events; the batch is looked at again afterwards. */
static int
fill(struct capture *c, struct err *err)
{
    struct import *im = c->import;
    uint32_t       left = FILL_MAX;

    im->writes = calloc(im->target_count, sizeof *im->writes);
    im->changes = calloc(im->target_count, sizeof *im->changes);
    im->events = calloc(FILL_MAX, sizeof *im->events);
    if (im->writes == NULL || im->changes == NULL || im->events == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a gap");
    for (uint32_t i = 0; i < im->target_count && left > 0; i++) {
        const struct target *t = &im->targets[i];
        uint32_t             n = t->gap > left ? left : (uint32_t)t->gap;

        if (n == 0)
            continue;
        fill_one(c, t, n, &im->events[FILL_MAX - left]);
        c->req.write_count++;
        c->req.change_count += t->hidden;
        left -= n;
    }
    must(c->req.write_count > 0);
    must(c->req.write_count <= im->target_count);
    must(c->req.change_count <= c->req.write_count);
    c->filling = true;
    c->req.writes = im->writes;
    c->req.changes = im->changes;
    capturei_submit(c, LOG_SYSTEM);
    return 0;
}

/* the batch's own commit */

static struct log_new_event
event_of(const struct change *ch)
{
    const struct change_event *e = ch->event;

    return (struct log_new_event){.id = e->id,
                                  .type = e->type,
                                  .data = e->data,
                                  .meta = e->meta,
                                  .created_us = ch->time_us,
                                  .flags = (e->json ? (uint32_t)LOG_JSON : 0u) |
                                           (e->link ? (uint32_t)LOG_LINK : 0u)};
}

/* Each stream's events lie together; `order` has them as they came. */
static void
lay_out(struct capture *c, const struct change *changes, uint32_t n)
{
    struct import *im = c->import;
    uint32_t       at = 0, ordered = 0, parked_at;

    for (uint32_t i = 0; i < im->target_count; i++) {
        struct target *t = &im->targets[i];

        if (t->count == 0)
            continue;
        t->gap = at; /* there is none any more: where its events are put */
        im->table[i] = c->req.write_count;
        im->writes[c->req.write_count++] = (struct log_write){
            .stream = t->stream, .expected = t->head, .events = &im->events[at], .count = t->count};
        at += t->count;
    }
    parked_at = at;
    for (uint32_t i = 0; i < n; i++) {
        const struct item *it = &im->items[i];
        struct target     *t = &im->targets[it->target];

        if (it->what == TAKE || it->placed) {
            must(t->gap < parked_at);
            im->events[t->gap++] = it->placed ? gap_event(c, t->stream, changes[i].event->version)
                                              : event_of(&changes[i]);
            im->order[ordered++] = im->table[it->target];
        }
        if (it->what == PARK) {
            must(at < 2 * n);
            must(c->req.write_count <= n);
            im->order[ordered++] = c->req.write_count;
            im->events[at++] = (struct log_new_event){
                .type = slice_str("Parked"),
                .data = slice_of(c->text.data + it->record.data_at, it->record.data_len),
                .created_us = changes[i].time_us,
                .flags = LOG_JSON};
            im->writes[c->req.write_count].stream =
                slice_of(c->text.data + it->record.name_at, it->record.name_len);
        }
        if (it->what == TOMBSTONE)
            im->changes[c->req.change_count++] = (struct log_change){
                .stream = t->stream, .expected = LOG_ANY, .what = LOG_SET_TOMBSTONE};
    }
    if (im->parked > 0) {
        im->writes[c->req.write_count].expected = LOG_ANY;
        im->writes[c->req.write_count].events = &im->events[parked_at];
        im->writes[c->req.write_count++].count = im->parked;
    }
    must(ordered == at);
    must(at - parked_at == im->parked);
    im->event_count = at;
}

static int
commit(struct capture *c, struct err *err)
{
    struct import *im = c->import;
    uint32_t       n = c->pending.count;

    must(n > 0);
    must(!c->filling);
    im->writes = calloc((size_t)n + 2, sizeof *im->writes);
    im->events = calloc((size_t)2 * n + 1, sizeof *im->events);
    im->order = calloc((size_t)2 * n + 1, sizeof *im->order);
    im->changes = calloc(n, sizeof *im->changes);
    if (im->writes == NULL || im->events == NULL || im->order == NULL || im->changes == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    lay_out(c, c->pending.changes, n);
    must(im->event_count <= 2 * n);
    must(c->req.write_count <= n + 1);
    must(c->req.change_count <= n);
    capturei_checkpoint(c, &im->writes[c->req.write_count], &im->events[im->event_count]);
    im->order[im->event_count] = c->req.write_count++;
    c->changes = n;
    c->parked = im->parked;
    c->req.writes = im->writes;
    c->req.order = im->order;
    c->req.changes = im->changes;
    capturei_submit(c, LOG_SYSTEM);
    return 0;
}

int
capturei_import(struct capture *c, struct err *err)
{
    const struct source_batch *batch = &c->pending;
    bool                       gaps = false;
    int                        rc = 0;

    must(batch->count > 0);
    must(!c->in_flight);
    must(c->version == c->sent_version);
    if (c->category != NULL)
        RETURN_ERR(err, E_INVALID, ERR_FATAL, "source %s: category: its streams keep their names",
                   c->name);
    memset(&c->req, 0, sizeof c->req);
    buf_clear(&c->text);
    TRY(make(c, batch->count, err));
    for (uint32_t i = 0; i < batch->count; i++)
        TRY(look_at(c, &batch->changes[i], &c->import->items[i], err));
    TRY(capturei_take_checkpoint(c, batch, err));
    for (uint32_t i = 0; i < c->import->target_count; i++)
        gaps = gaps || c->import->targets[i].gap > 0;
    TRY(gaps ? fill(c, err) : commit(c, err));
out:
    if (rc != 0)
        capturei_import_free(c);
    return rc;
}
