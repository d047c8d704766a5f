/* The semantics of streams in memory: commits. */
#include "tests/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/must.h"

static void *
grown(void *old, uint32_t *room, uint32_t need, size_t each)
{
    void *to;

    if (need <= *room)
        return old;
    *room = need < 16 ? 16 : need * 2;
    to = realloc(old, *room * each);
    must(to != NULL);
    return to;
}

static struct slice
copy_of(struct slice s)
{
    void *to = malloc(s.len + 1);

    must(to != NULL);
    if (s.len > 0)
        memcpy(to, s.data, s.len);
    return slice_of(to, s.len);
}

void
model_init(struct model *m)
{
    memset(m, 0, sizeof *m);
}

void
model_fini(struct model *m)
{
    for (uint32_t i = 0; i < m->count; i++) {
        free((void *)(uintptr_t)m->events[i].type.data);
        free((void *)(uintptr_t)m->events[i].data.data);
        free((void *)(uintptr_t)m->events[i].meta.data);
    }
    for (uint32_t i = 0; i < m->stream_count; i++) {
        free(m->streams[i]->events);
        free(m->streams[i]);
    }
    free(m->streams);
    free(m->events);
    memset(m, 0, sizeof *m);
}

struct slice
model_name(const struct model_stream *s)
{
    return slice_of(s->name, s->name_len);
}

static uint32_t
number_of(const struct model *m, struct slice name)
{
    for (uint32_t i = 0; i < m->stream_count; i++)
        if (slice_eq(model_name(m->streams[i]), name))
            return i;
    return UINT32_MAX;
}

struct model_stream *
model_find(struct model *m, struct slice name)
{
    uint32_t i = number_of(m, name);

    return i == UINT32_MAX ? NULL : m->streams[i];
}

struct model_stream *
model_get(struct model *m, struct slice name)
{
    struct model_stream *s = model_find(m, name);

    if (s != NULL)
        return s;
    s = calloc(1, sizeof *s);
    must(s != NULL && name.len < sizeof s->name);
    memcpy(s->name, name.data, name.len);
    s->name_len = name.len;
    m->streams = grown(m->streams, &m->stream_room, m->stream_count + 1, sizeof(void *));
    m->streams[m->stream_count++] = s;
    return s;
}

/* what a commit may not be, whatever is in the log */

static bool
is_metastream(struct slice name)
{
    return name.len > 2 && slice_starts(name, slice_str("$$"));
}

static bool
good_name(struct slice name, bool system)
{
    if (name.len == 0 || name.len > LOG_NAME_MAX)
        return false;
    if (slice_starts(name, slice_str("$ce-")) || slice_starts(name, slice_str("$et-")) ||
        slice_is(name, "$streams") || slice_is(name, "$all"))
        return false;
    return system || *(const char *)name.data != '$';
}

static bool
good_expected(int64_t v)
{
    return v >= 0 || v == LOG_ANY || v == LOG_NO_STREAM || v == LOG_EXISTS;
}

/* The tests' own metadata begins so where it is good. */
static bool
good_meta(struct slice data)
{
    return slice_starts(data, slice_str("{\"ok\":"));
}

static bool
good_write(const struct log_write *w)
{
    bool meta = is_metastream(w->stream);

    if (!good_name(w->stream, meta && ((const char *)w->stream.data)[2] != '$') ||
        !good_expected(w->expected) || w->count == 0)
        return false;
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->events[i].type.len == 0 || w->events[i].type.len > LOG_TYPE_MAX)
            return false;
        if (meta && (!slice_is(w->events[i].type, LOG_META_TYPE) || !good_meta(w->events[i].data)))
            return false;
    }
    return true;
}

/* A change that was asked for, or that metadata makes. */
struct own {
    struct log_change change;
    uint32_t          write; /* the commit's write to the same stream; UINT32_MAX: none */
};

static uint64_t
member(struct slice json, const char *key)
{
    const char *at = memmem(json.data, json.len, key, strlen(key));

    return at == NULL ? 0 : strtoull(at + strlen(key), NULL, 10);
}

static struct log_change
change_of_meta(struct slice stream, struct slice json)
{
    struct log_change c = {.stream = slice_of((const char *)stream.data + 2, stream.len - 2),
                           .expected = LOG_ANY,
                           .what = LOG_SET_LIMITS,
                           .max_count = member(json, "\"$maxCount\":"),
                           .max_age_us = (int64_t)member(json, "\"$maxAge\":") * 1000000};

    c.truncate = member(json, "\"$tb\":");
    if (c.truncate == INT64_MAX)
        c.what |= LOG_SET_DELETED;
    else if (memmem(json.data, json.len, "\"$tb\":", 6) != NULL)
        c.what |= LOG_SET_TRUNCATE;
    return c;
}

static uint32_t
owns_of(const struct log_req *req, struct own *owns)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < req->change_count; i++)
        owns[n++] = (struct own){req->changes[i], UINT32_MAX};
    for (uint32_t i = 0; i < req->write_count; i++) {
        const struct log_write *w = &req->writes[i];
        if (is_metastream(w->stream))
            owns[n++] =
                (struct own){change_of_meta(w->stream, w->events[w->count - 1].data), UINT32_MAX};
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < req->write_count; k++)
            if (slice_eq(owns[i].change.stream, req->writes[k].stream))
                owns[i].write = k;
    return n;
}

static bool
good_change(const struct log_change *c)
{
    return good_name(c->stream, true) && good_expected(c->expected) && c->what != 0 &&
           (c->what & (LOG_SET_CLOSED | LOG_SET_OPEN)) != (LOG_SET_CLOSED | LOG_SET_OPEN);
}

static bool
good_req(const struct log_req *req, struct own *owns, uint32_t *own_count)
{
    *own_count = 0;
    if (req->write_count + req->change_count == 0)
        return false;
    for (uint32_t i = 0; i < req->write_count; i++)
        if (!good_write(&req->writes[i]))
            return false;
    *own_count = owns_of(req, owns);
    for (uint32_t i = 0; i < *own_count; i++)
        if (!good_change(&owns[i].change))
            return false;
    for (uint32_t i = 0; i < req->check_count; i++)
        if (!good_name(req->checks[i].stream, true) || !good_expected(req->checks[i].expected))
            return false;
    for (uint32_t i = 0; i < req->write_count; i++)
        for (uint32_t k = 0; k < i; k++)
            if (slice_eq(req->writes[i].stream, req->writes[k].stream))
                return false;
    for (uint32_t i = 0; i < *own_count; i++)
        for (uint32_t k = 0; k < i; k++)
            if (slice_eq(owns[i].change.stream, owns[k].change.stream))
                return false;
    return true;
}

/* expected versions */

static bool
is_there(const struct model_stream *s)
{
    return s->known && !s->deleted;
}

static bool
holds(int64_t expected, const struct model_stream *s)
{
    if (expected == LOG_ANY)
        return true;
    if (expected == LOG_NO_STREAM)
        return s->next == 0 || !is_there(s);
    if (expected == LOG_EXISTS)
        return is_there(s);
    return s->next == (uint64_t)expected + 1;
}

static void
wrong(struct model_answer *out, const struct model_stream *s)
{
    out->rc = E_WRONG_VERSION;
    out->wrong_stream = model_name(s);
    out->wrong_actual = s->next == 0 || !is_there(s) ? LOG_NO_STREAM : (int64_t)(s->next - 1);
}

static void
gone(struct model_answer *out, const struct model_stream *s)
{
    out->rc = E_GONE;
    out->wrong_stream = model_name(s);
    out->closed = s->closed;
    out->tombstone = s->tombstone;
}

/* How many of the write's events stand at `version` and on. */
static uint32_t
same_at(const struct model *m, const struct log_write *w, const struct model_stream *s,
        uint64_t version)
{
    uint32_t same = 0;

    for (uint32_t i = 0; i < w->count && version + i < s->next; i++)
        if (m->events[s->events[version + i]].gone)
            return 0;
    for (uint32_t i = 0; i < w->count && version + i < s->next; i++)
        same += id_eq(&m->events[s->events[version + i]].id, &w->events[i].id);
    return same;
}

/* All of them: *version is where. */
static uint32_t
written_before(const struct model *m, const struct log_write *w, const struct model_stream *s,
               uint64_t *version)
{
    *version = 0;
    if (s->deleted)
        return 0;
    for (uint32_t i = 0; i < w->count; i++)
        if (id_is_zero(&w->events[i].id))
            return 0;
    if (w->expected >= 0 || w->expected == LOG_NO_STREAM) {
        *version = (uint64_t)w->expected + 1;
        return holds(w->expected, s) ? 0 : same_at(m, w, s, *version);
    }
    for (uint64_t v = s->next; v-- > 0;)
        if (id_eq(&m->events[s->events[v]].id, &w->events[0].id)) {
            *version = v;
            return same_at(m, w, s, v);
        }
    return 0;
}

/* A write by itself: rc of *out, or true where it is there already. */
static bool
judge(const struct model *m, const struct log_write *w, const struct model_stream *s, uint32_t i,
      struct model_answer *out)
{
    uint64_t version;
    uint32_t same = written_before(m, w, s, &version);

    if (same == w->count) {
        out->first[i] = version;
        out->last[i] = version + w->count - 1;
        if (out->first_event == UINT32_MAX || s->events[version] < out->first_event)
            out->first_event = s->events[version];
        if (out->last_event == UINT32_MAX || s->events[out->last[i]] > out->last_event)
            out->last_event = s->events[out->last[i]];
        return true;
    }
    if (s->closed || s->tombstone)
        gone(out, s);
    else if (!holds(w->expected, s) || (same > 0 && w->expected < 0))
        wrong(out, s);
    return false;
}

/* doing it */

static void
add_event(struct model *m, struct model_stream *s, const struct log_new_event *e, bool quiet)
{
    m->events = grown(m->events, &m->room, m->count + 1, sizeof *m->events);
    s->events = grown(s->events, &s->room, (uint32_t)s->next + 1, sizeof *s->events);
    m->events[m->count] =
        (struct model_event){.pos = m->count == 0 ? 2 : m->events[m->count - 1].pos + 2,
                             .guessed = true,
                             .version = s->next,
                             .stream = number_of(m, model_name(s)),
                             .type = copy_of(e->type),
                             .data = copy_of(e->data),
                             .meta = copy_of(e->meta),
                             .id = e->id,
                             .created_us = e->created_us,
                             .quiet = quiet,
                             .link = (e->flags & LOG_LINK) != 0};
    s->events[s->next++] = m->count++;
}

static void
set(struct model_stream *s, const struct log_change *c)
{
    s->known = true;
    if ((c->what & (LOG_SET_DELETED | LOG_SET_TOMBSTONE)) != 0)
        s->truncate = s->next;
    if ((c->what & LOG_SET_TRUNCATE) != 0 && c->truncate > s->truncate)
        s->truncate = c->truncate < s->next ? c->truncate : s->next;
    if ((c->what & LOG_SET_DELETED) != 0)
        s->deleted = true;
    if ((c->what & LOG_SET_TOMBSTONE) != 0) {
        s->tombstone = true;
        s->deleted = false;
    }
    if ((c->what & LOG_SET_CLOSED) != 0)
        s->closed = true;
    if ((c->what & LOG_SET_OPEN) != 0)
        s->closed = false;
    if ((c->what & LOG_SET_LIMITS) != 0) {
        s->max_count = c->max_count;
        s->max_age_us = c->max_age_us;
    }
}

static void
apply(struct model *m, const struct log_req *req, const struct own *owns, uint32_t own_count,
      struct model_answer *out)
{
    out->first_event = out->last_event = UINT32_MAX;
    for (uint32_t i = 0; i < req->write_count; i++) {
        const struct log_write *w = &req->writes[i];
        struct model_stream    *s = model_get(m, w->stream);

        s->known = true;
        s->deleted = false;
        out->first[i] = s->next;
        if (i == 0)
            out->first_event = m->count;
        for (uint32_t k = 0; k < w->count; k++)
            add_event(m, s, &w->events[k], (req->flags & LOG_QUIET) != 0);
        out->last[i] = s->next - 1;
        out->last_event = m->count - 1;
    }
    for (uint32_t i = 0; i < own_count; i++)
        set(model_get(m, owns[i].change.stream), &owns[i].change);
}

/* Writes first, then changes, then checks: the first that does not hold is the answer. */
static bool
judge_all(struct model *m, const struct log_req *req, const struct own *owns, uint32_t own_count,
          struct model_answer *out)
{
    bool     there[8] = {false};
    uint32_t n = 0;

    for (uint32_t i = 0; i < req->write_count && out->rc == 0; i++) {
        there[i] = judge(m, &req->writes[i], model_get(m, req->writes[i].stream), i, out);
        n += there[i];
    }
    if (out->rc == 0 && n > 0 && n == req->write_count) {
        out->idempotent = true;
        return false;
    }
    /* A part that is there does not make it this commit again, and is not written twice. */
    for (uint32_t i = 0; i < req->write_count && out->rc == 0; i++) {
        struct model_stream *s = model_get(m, req->writes[i].stream);
        if (there[i] && (s->closed || s->tombstone))
            gone(out, s);
        else if (there[i])
            wrong(out, s);
    }
    for (uint32_t i = 0; i < own_count && out->rc == 0; i++) {
        struct model_stream *s = model_get(m, owns[i].change.stream);
        if (s->tombstone)
            gone(out, s);
        else if (!holds(owns[i].change.expected, s))
            wrong(out, s);
    }
    for (uint32_t i = 0; i < req->check_count && out->rc == 0; i++) {
        struct model_stream *s = model_get(m, req->checks[i].stream);
        if (!holds(req->checks[i].expected, s))
            wrong(out, s);
    }
    return out->rc == 0;
}

bool
model_take(struct model *m, uint32_t event)
{
    struct model_event  *e = &m->events[event];
    struct model_stream *s = m->streams[e->stream];

    if (e->gone)
        return true;
    if (model_visible(m, event) || e->version + 1 >= s->next)
        return false;
    e->gone = true;
    if (e->version >= s->truncate)
        s->truncate = e->version + 1;
    return true;
}

void
model_index_anew(struct model *m)
{
    for (uint32_t i = 0; i < m->stream_count; i++) {
        struct model_stream *s = m->streams[i];

        while (s->first < s->next && m->events[s->events[s->first]].gone)
            s->first++;
    }
}

void
model_commit(struct model *m, const struct log_req *req, struct model_answer *out)
{
    struct own owns[16];
    uint32_t   own_count;

    memset(out, 0, sizeof *out);
    out->first_event = out->last_event = UINT32_MAX;
    must(req->write_count <= 8 && req->change_count <= 8);
    if (!good_req(req, owns, &own_count))
        out->rc = E_INVALID;
    else if (judge_all(m, req, owns, own_count, out))
        apply(m, req, owns, own_count, out);
}
