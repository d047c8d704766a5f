/* Random reads, each held against what the model says. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "tests/model_world.h"

/* What the two interfaces give of an event, as one. */
struct seen {
    uint64_t     pos, version;
    struct slice stream, type, data, meta;
    struct ox_id id;
    int64_t      created_us;
    bool         dangling;
    struct slice link_stream;
    uint64_t     link_pos, link_version;
};

static const char *
say_read(const struct log_read *r)
{
    static char text[1024];

    (void)snprintf(text, sizeof text,
                   "read %.*s from %" PRIu64 "%s%s at %" PRIu64
                   " prefix \"%.*s\" category \"%.*s\" type \"%.*s\" \"%.*s\"%s%s",
                   r->stream.len == 0 ? 4 : (int)r->stream.len,
                   r->stream.len == 0 ? "$all" : (const char *)r->stream.data, r->from,
                   r->backwards ? " backwards" : "", r->resolve ? " resolve" : "", r->at.v,
                   SLICE_FMT(r->filter.prefix), SLICE_FMT(r->filter.category),
                   SLICE_FMT(r->filter.type), SLICE_FMT(r->filter.type_prefix),
                   r->filter.system ? " system" : "", r->filter.quiet ? " quiet" : "");
    return text;
}

/* What nobody knew before this read is known from now on. */
static void
learn(struct world *w, uint32_t event, const struct seen *s)
{
    struct model_event *e = &w->model.events[event];

    if (e->guessed)
        world_know_position(w, event, s->pos, "an event");
    if (id_is_zero(&e->id))
        e->id = s->id;
    if (e->created_us == 0)
        e->created_us = s->created_us;
}

static void
check_event(struct world *w, uint32_t event, const struct seen *s, const struct log_read *read)
{
    const struct model_event *e = &w->model.events[event];
    struct slice              name = model_name(w->model.streams[e->stream]);

    if (!slice_eq(name, s->stream) || e->version != s->version) {
        world_differ(w, "%s: got %.*s/%" PRIu64 ", expected %.*s/%" PRIu64, say_read(read),
                     SLICE_FMT(s->stream), s->version, SLICE_FMT(name), e->version);
        return;
    }
    learn(w, event, s);
    if (e->pos != s->pos || (event > 0 && e[-1].pos >= s->pos))
        world_differ(w, "%s: %.*s/%" PRIu64 " at position %" PRIu64 ", expected %" PRIu64,
                     say_read(read), SLICE_FMT(name), e->version, s->pos, e->pos);
    if (!id_eq(&e->id, &s->id) || e->created_us != s->created_us)
        world_differ(w, "%s: %.*s/%" PRIu64 ": its id or time is another", say_read(read),
                     SLICE_FMT(name), e->version);
    if (!slice_eq(e->type, s->type) || !slice_eq(e->data, s->data) || !slice_eq(e->meta, s->meta))
        world_differ(w, "%s: %.*s/%" PRIu64 ": its type, data or metadata are others",
                     say_read(read), SLICE_FMT(name), e->version);
}

static void
check_link(struct world *w, const struct model_item *want, const struct seen *s,
           const struct log_read *read)
{
    const struct model_event *link;

    if (want->dangling != s->dangling)
        world_differ(w, "%s: got dangling %d, expected %d", say_read(read), s->dangling,
                     want->dangling);
    if (want->link == UINT32_MAX) {
        if (s->link_stream.len > 0 && !want->first)
            world_differ(w, "%s: got a link, expected none", say_read(read));
        return;
    }
    link = &w->model.events[want->link];
    if (link->guessed)
        world_know_position(w, want->link, s->link_pos, "a link");
    if (link->pos != s->link_pos || link->version != s->link_version ||
        !slice_eq(model_name(w->model.streams[link->stream]), s->link_stream))
        world_differ(
            w, "%s: got link %.*s/%" PRIu64 " at %" PRIu64 ", expected %s/%" PRIu64 " at %" PRIu64,
            say_read(read), SLICE_FMT(s->link_stream), s->link_version, s->link_pos,
            w->model.streams[link->stream]->name, link->version, link->pos);
}

/* $streams: a link to version 0, or with resolve the event itself. */
static void
check_first(struct world *w, const struct model_item *want, const struct seen *s,
            const struct log_read *read)
{
    const struct model_event *e = &w->model.events[want->event];
    char                      text[LOG_NAME_MAX + 8];

    if (read->resolve && !want->dangling) {
        check_event(w, want->event, s, read);
        if (s->link_pos != e->pos || !slice_is(s->link_stream, "$streams"))
            world_differ(w, "%s: the link stands at %" PRIu64 " of %.*s", say_read(read),
                         s->link_pos, SLICE_FMT(s->link_stream));
        return;
    }
    (void)snprintf(text, sizeof text, "0@%s", w->model.streams[e->stream]->name);
    if (e->guessed)
        world_know_position(w, want->event, s->pos, "a first event");
    if (!slice_is(s->data, text) || !slice_is(s->stream, "$streams") || !slice_is(s->type, "$>") ||
        s->pos != e->pos)
        world_differ(w, "%s: got %.*s at %" PRIu64 ", expected %s at %" PRIu64, say_read(read),
                     SLICE_FMT(s->data), s->pos, text, e->pos);
}

/* One answer of a read: rc with, where that is 0, an event. */
static void
check_answer(struct world *w, struct model_cursor *cursor, int rc, const struct seen *s)
{
    const struct log_read *read = cursor->read;
    struct model_item      want;
    int                    wanted = model_read_next(&w->model, cursor, &want);

    if (w->failed)
        return;
    if (rc == 0 && wanted == E_END) {
        world_differ(w, "%s: got %.*s/%" PRIu64 " at %" PRIu64 ", expected the end", say_read(read),
                     SLICE_FMT(s->stream), s->version, s->pos);
        return;
    }
    if (rc != 0 && wanted == 0) {
        const struct model_event *e = &w->model.events[want.event];
        world_differ(w, "%s: got %s (%s), expected %s/%" PRIu64, say_read(read), err_name(rc),
                     rc == E_END ? "" : w->err.text, w->model.streams[e->stream]->name, e->version);
        return;
    }
    if (rc != wanted) {
        world_differ(w, "%s: got %s (%s), expected %s", say_read(read),
                     rc == 0 ? "an event" : err_name(rc), rc == 0 ? "" : w->err.text,
                     err_name(wanted));
        return;
    }
    if (rc != 0)
        return;
    check_link(w, &want, s, read);
    if (want.first)
        check_first(w, &want, s, read);
    else
        check_event(w, want.event, s, read);
    model_read_passed(&w->model, cursor, &want);
}

static int
next_of_log(struct world *w, struct log_iter *it, struct seen *s)
{
    struct log_event e;
    int              rc;

    do
        rc = log_iter_next(it, &e, &w->err);
    while (rc == E_MORE);
    if (rc == 0)
        *s = (struct seen){.pos = e.pos.v,
                           .version = e.version,
                           .stream = e.stream,
                           .type = e.type,
                           .data = e.data,
                           .meta = e.meta,
                           .id = e.id,
                           .created_us = e.created_us,
                           .dangling = e.dangling,
                           .link_stream = e.link.stream,
                           .link_pos = e.link.pos.v,
                           .link_version = e.link.version};
    return rc;
}

static int
rc_of(struct world *w, int status, const struct ox_error *e)
{
    static const int rcs[] = {[OX_OK] = 0,
                              [OX_END] = E_END,
                              [OX_NOT_FOUND] = E_NOTFOUND,
                              [OX_GONE] = E_GONE,
                              [OX_INVALID] = E_INVALID};

    (void)snprintf(w->err.text, sizeof w->err.text, "%s", e->text);
    return status == OX_OK || ((size_t)status < sizeof rcs / sizeof rcs[0] && rcs[status] != 0)
               ? rcs[status]
               : E_STATE;
}

static int
next_of_library(struct world *w, struct ox_reader *r, struct seen *s)
{
    struct ox_error e = {0};
    struct ox_event ev;
    struct ox_link  link;
    int             rc = rc_of(w, ox_read_next(r, &ev, &e), &e), linked;

    if (rc != 0)
        return rc;
    linked = ox_read_link(r, &link);
    *s = (struct seen){.pos = ev.position,
                       .version = ev.version,
                       .stream = slice_str(ev.stream),
                       .type = slice_str(ev.type),
                       .data = slice_of(ev.data, ev.data_len),
                       .meta = slice_of(ev.metadata, ev.metadata_len),
                       .created_us = ev.created_us,
                       .dangling = linked == -1};
    if (!id_parse(slice_str(ev.id), &s->id))
        world_differ(w, "\"%s\" is no id", ev.id);
    if (linked == 1) {
        s->link_stream = slice_str(link.stream);
        s->link_pos = link.position;
        s->link_version = link.version;
    }
    return rc;
}

static int
open_library(struct world *w, const struct log_read *read, struct ox_reader **out)
{
    char            name[LOG_NAME_MAX + 4], prefix[32], type[LOG_TYPE_MAX + 1];
    struct ox_error e = {0};
    struct ox_read  r = {.size = sizeof r,
                         .from = read->from,
                         .direction = read->backwards ? OX_BACKWARDS : OX_FORWARDS,
                         .at = read->at.v,
                         .prefix = prefix,
                         .type = type,
                         .resolve = read->resolve};

    (void)snprintf(name, sizeof name, "%.*s", SLICE_FMT(read->stream));
    (void)snprintf(prefix, sizeof prefix, "%.*s", SLICE_FMT(read->filter.prefix));
    (void)snprintf(type, sizeof type, "%.*s", SLICE_FMT(read->filter.type));
    r.stream = read->stream.len == 0 ? NULL : name;
    return rc_of(w, ox_read_open(w->ox, &r, out, &e), &e);
}

/* Was the stream there at that position? It cannot be read as of then where it was not. */
static bool
was_there(struct world *w, const struct log_read *read)
{
    const struct model_stream *s = model_find(&w->model, read->stream);

    return read->at.v == 0 || s == NULL || s->next == 0 ||
           w->model.events[s->events[0]].pos <= read->at.v;
}

void
world_read_through(struct world *w, struct log_read *read, uint32_t limit)
{
    struct log_iter    *it = NULL;
    struct ox_reader   *reader = NULL;
    struct model_cursor cursor;
    struct seen         s = {0};
    int                 rc;

    w->ops++;
    if (w->log == NULL) { /* it has no such filters: what the library reads shows by itself */
        read->filter.category = read->filter.type_prefix = slice_of(NULL, 0);
        read->filter.quiet = false;
        read->filter.system =
            read->filter.prefix.len > 0 && *(const char *)read->filter.prefix.data == '$';
    }
    if (w->say)
        printf("%u: %s\n", w->step, say_read(read));
    model_read_begin(&cursor, read);
    rc =
        w->log != NULL ? log_iter_open(w->log, read, &it, &w->err) : open_library(w, read, &reader);
    if (rc == E_NOTFOUND && !was_there(w, read))
        return;
    if (rc != 0)
        check_answer(w, &cursor, rc, &s);
    while (rc == 0 && limit-- > 0 && !w->failed) {
        rc = it != NULL ? next_of_log(w, it, &s) : next_of_library(w, reader, &s);
        check_answer(w, &cursor, rc, &s);
    }
    log_iter_close(it);
    ox_read_close(reader);
}

/* A position that some event has, or next to it. */
static uint64_t
pick_position(struct world *w)
{
    const struct model_event *e;

    if (w->model.count == 0 || world_pick(w, 8) == 0)
        return world_pick(w, 3) * 1000;
    e = &w->model.events[world_pick(w, w->model.count)];
    return e->guessed ? 0 : e->pos - 1 + world_pick(w, 3);
}

static void
pick_stream(struct world *w, struct log_read *read, char *name)
{
    static const char *const natives[] = {
        "$streams",      "$ce-a",          "$ce-b",   "$ce-with space", "$ce-nobody",
        "$et-t",         "$et-u",          "$et-t u", "$et-$>",         "$ce-$$a",
        "$et-$metadata", "$et-\xc3\xa9-1", "$ce-b-x", "$ce-c/d",        "$ce-\xc3\xa4/"};
    uint32_t kind = world_pick(w, 10);

    name[0] = '\0';
    if (kind < 5)
        (void)snprintf(name, LOG_NAME_MAX + 1, "%s%s", world_pick(w, 8) == 0 ? "$$" : "",
                       world_name(w));
    else if (kind < 8)
        (void)snprintf(name, LOG_NAME_MAX + 1, "%s",
                       natives[world_pick(w, sizeof natives / sizeof natives[0])]);
    read->stream = slice_str(name);
    if (kind < 5) {
        const struct model_stream *s = model_find(&w->model, read->stream);
        if (world_pick(w, 2) == 0)
            read->from = world_pick(w, s == NULL ? 2 : (uint32_t)s->next + 2);
        else if (read->backwards)
            read->from = UINT64_MAX;
    } else {
        read->from = read->backwards && world_pick(w, 2) == 0 ? UINT64_MAX : pick_position(w);
    }
}

static void
pick_filter(struct world *w, struct log_filter *f)
{
    static const char *const prefixes[] = {"a-", "b", "$", "$$a", "with ", "-"};
    static const char *const categories[] = {"a", "b", "c/d", "A", "nobody"};
    static const char *const types[] = {"t", "u", "$>", "t u", "none"};

    if (world_pick(w, 3) == 0)
        f->prefix = slice_str(prefixes[world_pick(w, 6)]);
    if (world_pick(w, 4) == 0)
        f->category = slice_str(categories[world_pick(w, 5)]);
    if (world_pick(w, 4) == 0)
        f->type = slice_str(types[world_pick(w, 5)]);
    if (world_pick(w, 6) == 0)
        f->type_prefix = slice_str("t");
    f->system = world_pick(w, 3) == 0;
    f->quiet = world_pick(w, 3) == 0;
}

void
world_read(struct world *w)
{
    struct log_read read = {.backwards = world_pick(w, 3) == 0, .resolve = world_pick(w, 3) == 0};
    char            name[LOG_NAME_MAX + 1];

    pick_stream(w, &read, name);
    if (name[0] == '\0' || (name[0] == '$' && name[1] != '$' && world_pick(w, 4) == 0))
        pick_filter(w, &read.filter);
    if (world_pick(w, 10) == 0)
        read.at = LOG_POS(pick_position(w));
    world_read_through(w, &read, 1 + world_pick(w, 40));
}

/* readers that stay open */

void
world_live_close(struct world *w)
{
    for (uint32_t i = 0; i < WORLD_LIVE; i++) {
        log_iter_close(w->live[i].it);
        w->live[i].it = NULL;
    }
}

static void
live_begin(struct world *w, struct live *l)
{
    l->read = (struct log_read){.resolve = world_pick(w, 3) == 0};
    pick_stream(w, &l->read, l->name);
    if (l->name[0] == '\0')
        pick_filter(w, &l->read.filter);
    model_read_begin(&l->cursor, &l->read);
    if (w->say)
        printf("%u: reader %ld opens: %s\n", w->step, (long)(l - w->live), say_read(&l->read));
    if (log_iter_open(w->log, &l->read, &l->it, &w->err) != 0)
        l->it = NULL; /* the ordinary reads look at that */
}

void
world_live(struct world *w)
{
    struct live *l = &w->live[world_pick(w, WORLD_LIVE)];
    uint32_t     steps = 1 + world_pick(w, 30);
    struct seen  s = {0};
    int          rc = 0;

    w->ops++;
    if (l->it == NULL)
        live_begin(w, l);
    if (w->say)
        printf("%u: reader %ld goes on: %s\n", w->step, (long)(l - w->live), say_read(&l->read));
    while (l->it != NULL && rc == 0 && steps-- > 0 && !w->failed) {
        rc = next_of_log(w, l->it, &s);
        check_answer(w, &l->cursor, rc, &s);
    }
    if (l->it != NULL && (rc == E_GONE || world_pick(w, 12) == 0)) {
        log_iter_close(l->it);
        l->it = NULL;
    }
}

/* streams as a whole */

static void
check_numbers(struct world *w, const struct model_stream *s, const struct ox_stream *got)
{
    uint64_t low = model_low(&w->model, s), count;
    int64_t  age;

    model_limits(&w->model, s, &count, &age);
    if (got->head != s->next - 1 || got->first != low || got->max_count != count ||
        got->max_age_us != age || (got->closed != 0) != s->closed || got->count != s->next - low)
        world_differ(w,
                     "%s: got first %" PRIu64 " head %" PRIu64 " count %" PRIu64 " of %" PRIu64
                     " age %" PRId64 " closed %d, expected %" PRIu64 " %" PRIu64 " of %" PRIu64
                     " age %" PRId64 " closed %d",
                     s->name, got->first, got->head, got->count, got->max_count, got->max_age_us,
                     got->closed, low, s->next - 1, count, age, s->closed);
}

static void
check_metadata(struct world *w, const char *name)
{
    char                       text[512], meta[LOG_NAME_MAX + 4];
    const struct model_stream *s;
    struct ox_error            e = {0};
    size_t                     len;
    uint64_t                   version;
    int                        rc, wanted;

    if (name[0] == '$' || strlen(name) + 2 > LOG_NAME_MAX)
        return;
    (void)snprintf(meta, sizeof meta, "$$%s", name);
    s = model_find(&w->model, slice_str(meta));
    rc = rc_of(w, ox_get_metadata(w->ox, name, text, sizeof text, &len, &version, &e), &e);
    wanted = model_readable(s);
    if (wanted == 0 && !model_visible(&w->model, s->events[s->next - 1]))
        wanted = E_NOTFOUND;
    if (rc != wanted)
        world_differ(w, "metadata of %s: got %s, expected %s", name, rc == 0 ? "it" : err_name(rc),
                     wanted == 0 ? "it" : err_name(wanted));
    else if (rc == 0 && (version != s->next - 1 ||
                         !slice_eq(slice_of(text, len), w->model.events[s->events[version]].data)))
        world_differ(w, "metadata of %s: got %s", name, text);
}

void
world_stream(struct world *w, const char *name)
{
    struct model_stream *s = model_find(&w->model, slice_str(name));
    struct ox_stream     got = {.size = sizeof got};
    struct ox_error      e = {0};
    struct log_stream    info;
    int                  rc;

    w->ops++;
    if (w->say)
        printf("%u: info of %s\n", w->step, name);
    if (w->log == NULL) {
        rc = rc_of(w, ox_stream_info(w->ox, name, &got, &e), &e);
        check_metadata(w, name);
    } else {
        rc = log_stream_info(w->log, slice_str(name), &info, &w->err);
        got.head = info.head;
        got.first = info.first;
        got.count = info.head + 1 - info.first;
        got.max_count = info.max_count;
        got.max_age_us = info.max_age_us;
        got.closed = (info.flags & LOG_STREAM_CLOSED) != 0;
    }
    if (rc != model_readable(s))
        world_differ(w, "info of %s: got %s, expected %s", name, rc == 0 ? "it" : err_name(rc),
                     model_readable(s) == 0 ? "it" : err_name(model_readable(s)));
    else if (rc == 0)
        check_numbers(w, s, &got);
}

/* the list of all streams */

struct listing {
    struct world *w;
    struct slice  prefix, after;
    char          last[LOG_NAME_MAX + 1];
};

static const struct model_stream *
next_listed(struct listing *l)
{
    const struct model        *m = &l->w->model;
    const struct model_stream *best = NULL;

    for (uint32_t i = 0; i < m->stream_count; i++) {
        const struct model_stream *s = m->streams[i];
        if (model_readable(s) != 0 || !slice_starts(model_name(s), l->prefix) ||
            slice_cmp(model_name(s), l->after) <= 0)
            continue;
        if (best == NULL || slice_cmp(model_name(s), model_name(best)) < 0)
            best = s;
    }
    return best;
}

static int
listed(void *arg, const struct log_stream *info, struct err *err)
{
    struct listing            *l = arg;
    const struct model_stream *s = next_listed(l);
    const struct model_event  *e;
    struct ox_stream           got = {.head = info->head,
                                      .first = info->first,
                                      .count = info->head + 1 - info->first,
                                      .max_count = info->max_count,
                                      .max_age_us = info->max_age_us,
                                      .closed = (info->flags & LOG_STREAM_CLOSED) != 0};

    (void)err;
    if (s == NULL || !slice_eq(model_name(s), info->name)) {
        world_differ(l->w, "list: got %.*s, expected %s", SLICE_FMT(info->name),
                     s == NULL ? "the end" : s->name);
        return E_END;
    }
    check_numbers(l->w, s, &got);
    e = &l->w->model.events[s->events[s->next - 1]];
    if (!e->guessed && e->pos != info->last_pos.v)
        world_differ(l->w, "list: %s: last position %" PRIu64, s->name, info->last_pos.v);
    l->after = model_name(s);
    return 0;
}

/* Puts into the index what is not there yet, too. */
void
world_list(struct world *w)
{
    static const char *const prefixes[] = {"", "", "a", "$$", "b-x", "zz", "\xc3"};
    struct listing           l = {.w = w};
    int                      rc;

    if (w->log == NULL)
        return;
    w->ops++;
    l.prefix = slice_str(prefixes[world_pick(w, 7)]);
    if (world_pick(w, 3) == 0)
        l.after = slice_str(world_name(w));
    if (w->say)
        printf("%u: list \"%.*s\" after \"%.*s\"\n", w->step, SLICE_FMT(l.prefix),
               SLICE_FMT(l.after));
    rc = log_streams(w->log, l.prefix, l.after, listed, &l, &w->err);
    if (rc != 0 && !w->failed)
        world_differ(w, "list: %s", w->err.text);
    else if (next_listed(&l) != NULL)
        world_differ(w, "list: got the end, expected %s", next_listed(&l)->name);
}
