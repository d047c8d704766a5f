/* Reading what moves leave in events. */
#include "log/copied.h"

#include "base/json.h"
#include "base/json_plain.h"
#include "base/must.h"

/* The text of a raw string; `scratch` where it has escapes. */
static bool
text_of(struct slice raw, struct buf *scratch, struct slice *out)
{
    return json_type(raw) == JSON_STRING && json_string_view(raw, scratch, out, NULL) == 0;
}

static bool
original_of(struct slice raw, struct buf scratch[2], struct log_original *out)
{
    struct json_field fields[] = {{.name = "stream", .required = true},
                                  {.name = "type", .required = true},
                                  {.name = "version", .required = true},
                                  {.name = "position", .required = true}};

    return json_pick(raw, fields, sizeof fields / sizeof *fields, JSON_PICK_ANY, NULL) == 0 &&
           text_of(fields[0].value, &scratch[0], &out->stream) &&
           text_of(fields[1].value, &scratch[1], &out->type) && out->stream.len > 0 &&
           json_uint64(fields[2].value, &out->version) &&
           json_uint64(fields[3].value, &out->pos.v) && out->pos.v != 0;
}

/* A list as this program writes it, taken piece by piece: nothing is left to be parsed then. */

static bool
pass(struct slice *s, const char *text, size_t len)
{
    if (s->len < len || memcmp(s->data, text, len) != 0)
        return false;
    *s = slice_of((const char *)s->data + len, s->len - len);
    return true;
}
#define PASS(s, text) pass(s, text, sizeof(text) - 1)

/* Up to the quote: plain ASCII, no escapes. */
static bool
pass_text(struct slice *s, struct slice *out)
{
    const uint8_t *from = s->data, *to = json_plain(from, from + s->len);
    size_t         n = (size_t)(to - from);

    *out = slice_of(from, n);
    *s = slice_of(to, s->len - n);
    return s->len > 0 && *to == '"';
}

static bool
pass_number(struct slice *s, uint64_t *out)
{
    const unsigned char *p = s->data;
    size_t               n = 0;

    while (n < s->len && p[n] >= '0' && p[n] <= '9')
        n++;
    *s = slice_of(p + n, s->len - n);
    return n > 0 && json_uint64(slice_of(p, n), out);
}

static bool
pass_original(struct slice *s, struct log_original *out)
{
    struct slice unused;

    return PASS(s, "{\"stream\":\"") && pass_text(s, &out->stream) && out->stream.len > 0 &&
           PASS(s, "\",\"type\":\"") && pass_text(s, &out->type) && PASS(s, "\",\"version\":") &&
           pass_number(s, &out->version) && PASS(s, ",\"position\":") &&
           pass_number(s, &out->pos.v) && out->pos.v != 0 && PASS(s, ",\"created\":\"") &&
           pass_text(s, &unused) && PASS(s, "\",\"id\":\"") && pass_text(s, &unused) &&
           PASS(s, "\"}");
}

/* The list at the beginning of *s. False: it is none that was written so. */
static bool
pass_list(struct slice *s, uint64_t *count)
{
    struct log_original unused;

    *count = 0;
    if (!PASS(s, "["))
        return false;
    do {
        if (!pass_original(s, &unused))
            return false;
        ++*count;
    } while (PASS(s, ","));
    return PASS(s, "]");
}

bool
log_copied_alone(struct slice meta, struct slice *list)
{
    uint64_t count;

    if (!PASS(&meta, "{\"" LOG_COPIED_KEY "\":"))
        return false;
    *list = meta;
    if (!pass_list(&meta, &count))
        return false;
    must(count > 0);
    must(list->len > meta.len);
    list->len -= meta.len;
    return meta.len == 1 && *(const char *)meta.data == '}';
}

/* False: not well formed. */
static bool
each(struct slice list, struct buf scratch[2], log_original_fn *fn, void *arg, uint64_t *count,
     bool *stopped)
{
    struct json_iter    it;
    struct slice        raw;
    struct log_original original;
    int                 rc;

    *count = 0;
    if (json_array_iter(&it, list, NULL) != 0)
        return false;
    while ((rc = json_iter_next(&it, NULL, &raw, NULL)) == 0) {
        if (!original_of(raw, scratch, &original))
            return false;
        ++*count;
        if (fn != NULL && !*stopped)
            *stopped = fn(arg, &original);
    }
    return rc == E_END;
}

uint64_t
log_copied_count(struct slice list)
{
    struct buf   scratch[2] = {{0}, {0}};
    struct slice rest = list;
    uint64_t     count = 0;
    bool         unused = false;

    if (pass_list(&rest, &count) && rest.len == 0)
        return count;
    if (!each(list, scratch, NULL, NULL, &count, &unused))
        count = 0;
    buf_fini(&scratch[0]);
    buf_fini(&scratch[1]);
    return count;
}

uint64_t
log_copied_from(struct slice meta, log_original_fn *fn, void *arg, bool *stopped)
{
    static const char key[] = "\"" LOG_COPIED_KEY "\"";
    struct buf        scratch[2] = {{0}, {0}};
    struct slice      list;
    uint64_t          count = 0;
    bool              unused = false;

    if (stopped == NULL)
        stopped = &unused;
    *stopped = false;
    if (meta.len < sizeof key || memmem(meta.data, meta.len, key, sizeof key - 1) == NULL ||
        !json_get(meta, LOG_COPIED_KEY, &list))
        return 0;
    /* All of it first: nobody is told of half a list. */
    if (!each(list, scratch, NULL, NULL, &count, &unused))
        count = 0;
    if (count > 0 && fn != NULL) {
        const uint64_t first = count;

        must(each(list, scratch, fn, arg, &count, stopped)); /* as it was the first time */
        must(count == first);
    }
    buf_fini(&scratch[0]);
    buf_fini(&scratch[1]);
    return count;
}

enum log_mark
log_mark_of(struct slice type, struct slice data)
{
    struct json_field fields[] = {
        {.name = "surgery", .required = true}, {.name = "stream"}, {.name = "streams"}};
    enum log_mark mark = slice_is(type, "StreamMovedTo")  ? LOG_MARK_TO
                         : slice_is(type, "MigratedFrom") ? LOG_MARK_FROM
                         : slice_is(type, "Invalidated")  ? LOG_MARK_INVALIDATED
                                                          : LOG_MARK_NONE;

    if (mark == LOG_MARK_NONE || json_type(data) != JSON_OBJECT ||
        json_pick(data, fields, 3, JSON_PICK_ANY, NULL) != 0 ||
        json_type(fields[0].value) != JSON_STRING)
        return LOG_MARK_NONE;
    if (mark == LOG_MARK_TO ? json_type(fields[2].value) != JSON_ARRAY
                            : json_type(fields[1].value) != JSON_STRING)
        return LOG_MARK_NONE;
    return mark;
}

bool
log_mark_from(struct slice type, struct slice data, struct slice stream, uint64_t *first,
              uint64_t *last)
{
    struct json_field fields[] = {{.name = "stream", .required = true},
                                  {.name = "first", .required = true},
                                  {.name = "last", .required = true}};
    struct buf        scratch = {0};
    struct slice      name;
    bool              yes;

    if (log_mark_of(type, data) != LOG_MARK_FROM ||
        json_pick(data, fields, 3, JSON_PICK_ANY, NULL) != 0)
        return false;
    yes = text_of(fields[0].value, &scratch, &name) && slice_eq(name, stream) &&
          json_uint64(fields[1].value, first) && json_uint64(fields[2].value, last) &&
          *first <= *last;
    buf_fini(&scratch);
    return yes;
}

bool
log_mark_staged(struct slice type, struct slice data, uint64_t *first, struct log_pos *pos)
{
    struct json_field fields[] = {{.name = "first", .required = true},
                                  {.name = "staged", .required = true}};

    return log_mark_of(type, data) == LOG_MARK_TO &&
           json_pick(data, fields, 2, JSON_PICK_ANY, NULL) == 0 &&
           json_uint64(fields[0].value, first) && json_uint64(fields[1].value, &pos->v) &&
           pos->v != 0;
}

bool
log_mark_routed(struct slice type, struct slice data, uint64_t *first)
{
    struct json_field fields[] = {{.name = "first", .required = true},
                                  {.name = "routed", .required = true}};

    return log_mark_of(type, data) == LOG_MARK_TO &&
           json_pick(data, fields, 2, JSON_PICK_ANY, NULL) == 0 &&
           json_uint64(fields[0].value, first);
}
