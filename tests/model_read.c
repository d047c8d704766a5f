/* The semantics of streams in memory: what readers see. */
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "tests/model.h"

static bool
in_category(struct slice stream, struct slice category)
{
    const char *dash = stream.len == 0 ? NULL : memchr(stream.data, '-', stream.len);

    return dash != NULL &&
           slice_eq(slice_of(stream.data, (size_t)(dash - (const char *)stream.data)), category);
}

void
model_limits(const struct model *m, const struct model_stream *s, uint64_t *max_count,
             int64_t *max_age_us)
{
    *max_count = s->max_count;
    *max_age_us = s->max_age_us;
    for (uint32_t i = 0; i < m->retention_count; i++) {
        if (!in_category(model_name(s), m->retention[i].category))
            continue;
        if (*max_count == 0)
            *max_count = m->retention[i].max_count;
        if (*max_age_us == 0)
            *max_age_us = m->retention[i].max_age_us;
    }
    if (s->name_len > 2 && memcmp(s->name, "$$", 2) == 0)
        *max_count = 1;
}

uint64_t
model_low(const struct model *m, const struct model_stream *s)
{
    uint64_t count, low = s->truncate;
    int64_t  age;

    model_limits(m, s, &count, &age);
    if (s->deleted || s->tombstone)
        return s->next;
    if (count != 0 && s->next > count && s->next - count > low)
        low = s->next - count;
    return low;
}

int
model_readable(const struct model_stream *s)
{
    if (s != NULL && s->tombstone)
        return E_GONE;
    return s == NULL || s->next == 0 || s->deleted ? E_NOTFOUND : 0;
}

bool
model_visible(const struct model *m, uint32_t event)
{
    const struct model_event  *e = &m->events[event];
    const struct model_stream *s = m->streams[e->stream];
    uint64_t                   count;
    int64_t                    age;

    model_limits(m, s, &count, &age);
    if (e->version < model_low(m, s))
        return false;
    /* A day hides what is long ago; more than a thousand years hide nothing. */
    return age == 0 || age > MODEL_DAY_US || e->created_us != MODEL_LONG_AGO_US;
}

/* "VERSION@STREAM", as the tests write it */
static bool
find_linked(struct model *m, struct slice data, uint32_t *event)
{
    const char          *text = data.data, *at = data.len == 0 ? NULL : memchr(text, '@', data.len);
    struct model_stream *s;
    uint64_t             version;

    if (at == NULL || at == text || *text < '0' || *text > '9')
        return false;
    version = strtoull(text, NULL, 10);
    s = model_find(m, slice_of(at + 1, data.len - (size_t)(at + 1 - text)));
    if (s == NULL || version >= s->next)
        return false;
    *event = s->events[version];
    return model_visible(m, *event);
}

static void
give(struct model *m, const struct log_read *read, uint32_t event, struct model_item *out)
{
    *out = (struct model_item){.event = event, .link = UINT32_MAX};
    if (slice_is(read->stream, "$streams")) {
        out->first = true;
        out->dangling =
            read->resolve && (m->events[event].version != 0 || !model_visible(m, event));
        return;
    }
    if (!read->resolve || !m->events[event].link)
        return;
    if (find_linked(m, m->events[event].data, &out->event))
        out->link = event;
    else
        *out = (struct model_item){.event = event, .link = UINT32_MAX, .dangling = true};
}

static bool
wanted(const struct model *m, const struct log_read *read, uint32_t event)
{
    const struct model_event  *e = &m->events[event];
    const struct log_filter   *f = &read->filter;
    const struct model_stream *s = m->streams[e->stream];
    struct slice               name = model_name(s), native = {0}, type = e->type;
    bool                       system = f->system, firsts = slice_is(read->stream, "$streams");

    if (firsts)
        type = slice_str("$>");
    if (read->stream.len > 4)
        native = slice_of((const char *)read->stream.data + 4, read->stream.len - 4);
    if (read->stream.len > 0 && !firsts && *(const char *)native.data == '$')
        system = true;
    if (!system && *s->name == '$')
        return false;
    if (slice_starts(read->stream, slice_str("$ce-")) && !in_category(name, native))
        return false;
    if (slice_starts(read->stream, slice_str("$et-")) && !slice_eq(type, native))
        return false;
    if (firsts && (e->version != s->first || model_readable(s) != 0))
        return false;
    if (!slice_starts(name, f->prefix) || !slice_starts(type, f->type_prefix))
        return false;
    if (f->category.len > 0 && !in_category(name, f->category))
        return false;
    if (f->type.len > 0 && !slice_eq(type, f->type))
        return false;
    return (!e->quiet || f->quiet || firsts) && (firsts || model_visible(m, event));
}

static bool
by_position(struct slice stream)
{
    return stream.len == 0 || slice_is(stream, "$streams") ||
           (stream.len > 4 &&
            (slice_starts(stream, slice_str("$ce-")) || slice_starts(stream, slice_str("$et-"))));
}

void
model_read_begin(struct model_cursor *c, const struct log_read *read)
{
    *c = (struct model_cursor){.read = read, .at = read->from};
    if (read->backwards && read->at.v != 0 && read->at.v < read->from && by_position(read->stream))
        c->at = read->at.v;
}

/* By position. */
static int
next_of_all(struct model *m, struct model_cursor *c, struct model_item *out)
{
    const struct log_read *read = c->read;
    uint32_t               lo = 0, hi = m->count, i;

    while (lo < hi) { /* the first at or after c->at; backwards after it */
        uint32_t mid = lo + (hi - lo) / 2;
        if (read->backwards ? m->events[mid].pos <= c->at : m->events[mid].pos < c->at)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (read->backwards) {
        for (i = lo; i-- > 0;)
            if (wanted(m, read, i)) {
                c->at = m->events[i].pos - 1;
                give(m, read, i, out);
                return 0;
            }
        c->over = true;
        return E_END;
    }
    for (i = lo; i < m->count; i++) {
        if (read->at.v != 0 && m->events[i].pos > read->at.v) {
            c->over = true;
            return E_END;
        }
        c->at = m->events[i].pos + 1;
        if (wanted(m, read, i)) {
            give(m, read, i, out);
            return 0;
        }
    }
    return E_END;
}

static int
next_of_stream(struct model *m, struct model_cursor *c, struct model_item *out)
{
    struct model_stream *s = model_find(m, c->read->stream);
    int                  rc = model_readable(s);
    uint64_t             low;

    if (rc != 0)
        return rc;
    low = model_low(m, s);
    if (c->read->backwards) {
        if (c->at >= s->next)
            c->at = s->next - 1;
        for (; c->at + 1 > low; c->at--) {
            uint32_t event = s->events[c->at];
            if (c->read->at.v != 0 && m->events[event].pos > c->read->at.v)
                continue;
            if (!model_visible(m, event))
                continue;
            give(m, c->read, event, out);
            c->over = c->at-- == 0;
            return 0;
        }
        c->over = true;
        return E_END;
    }
    if (c->at < low)
        c->at = low;
    for (; c->at < s->next; c->at++) {
        uint32_t event = s->events[c->at];
        if (c->read->at.v != 0 && m->events[event].pos > c->read->at.v) {
            c->over = true;
            return E_END;
        }
        if (!model_visible(m, event))
            continue;
        give(m, c->read, event, out);
        c->at++;
        return 0;
    }
    return E_END;
}

int
model_read_next(struct model *m, struct model_cursor *c, struct model_item *out)
{
    if (c->over)
        return E_END;
    return by_position(c->read->stream) ? next_of_all(m, c, out) : next_of_stream(m, c, out);
}

void
model_read_passed(const struct model *m, struct model_cursor *c, const struct model_item *item)
{
    uint64_t pos = m->events[item->link == UINT32_MAX ? item->event : item->link].pos;

    if (by_position(c->read->stream) && !c->over)
        c->at = c->read->backwards ? pos - 1 : pos + 1;
}
