/* What a surgery is to do: from JSON, checked; and which streams that is about. */
#include <stdlib.h>

#include "base/json.h"
#include "migrate/stream/stream_int.h"

#define RATE_MAX 1000000000u
#define KEEP_MAX (UINT64_C(100) * 366 * 86400)
#define REASON_MAX 1000

#define KIND_LINK 4 /* a copy, or where the transform routes a split, whose mode is link */

static const char *const kinds[] = {"copy", "rewrite", "split", "join", "link"};

static bool
name_is_good(struct slice name)
{
    const char *p = name.data;

    if (name.len == 0 || name.len > STREAM_NAME_MAX)
        return false;
    for (size_t i = 0; i < name.len; i++)
        if (!(p[i] >= 'a' && p[i] <= 'z') && !(p[i] >= '0' && p[i] <= '9') && p[i] != '_')
            return false;
    return true;
}

void
streami_spec_free(struct streami_spec *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->set_count; i++)
        free(s->sets[i]);
    free(s->sets);
    if (s->has_regex)
        regfree(&s->regex);
    template_free(s->to);
    transform_free(s->transform);
    transform_where_free(s->where);
    free(s->reason);
    buf_fini(&s->text);
    free(s);
}

static int
text_of(struct slice raw, const char *what, size_t max, char **out, struct err *err)
{
    struct buf text = {0};
    int        rc = 0;

    if (json_type(raw) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "%s: must be a string", what);
    TRY(json_string_decode(raw, &text, err));
    if (text.len == 0 || text.len > max || memchr(text.data, '\0', text.len) != NULL)
        FAIL(err, E_SCHEMA, ERR_DATA, "%s: must have 1 to %zu bytes, and no NUL", what, max);
    buf_add_byte(&text, '\0');
    *out = text.failed ? NULL : strdup((const char *)text.data);
    if (*out == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    buf_fini(&text);
    return rc;
}

static int
add_set(struct streami_spec *s, struct slice raw, const char *what, struct err *err)
{
    char **more;
    int    rc = 0;

    if (s->set_count == STREAMI_LIST_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "%s: more than %d", what, STREAMI_LIST_MAX);
    if ((s->set_count & (s->set_count - 1)) == 0) {
        more = realloc(s->sets, (s->set_count == 0 ? 1 : s->set_count * (size_t)2) * sizeof *more);
        if (more == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
        s->sets = more;
    }
    TRY(text_of(raw, what, LOG_NAME_MAX, &s->sets[s->set_count], err));
    s->set_count++;
    TRY(log_name_check(slice_str(s->sets[s->set_count - 1]), false, err));
out:
    return rc;
}

/* One, or a list. */
static int
add_sets(struct streami_spec *s, struct slice raw, const char *what, struct err *err)
{
    struct json_iter it;
    struct slice     item;
    int              rc;

    if (json_type(raw) != JSON_ARRAY)
        return add_set(s, raw, what, err);
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &item, err)) == 0)
        TRY(add_set(s, item, what, err));
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

enum {
    F_KIND,
    F_STREAM,
    F_STREAMS,
    F_PREFIX,
    F_CATEGORY,
    F_REGEX,
    F_TO,
    F_TRANSFORM,
    F_MODE,
    F_REASON,
    F_KEEP,
    F_P99,
    F_RATE,
    F_WORKERS,
    F_OLD,
    F_COMMIT,
    F_WHERE,
    F_COUNT
};

static int
read_select(struct streami_spec *s, const struct json_field *f, struct err *err)
{
    unsigned given = 0;
    char    *regex = NULL;
    int      rc = 0;

    for (int i = F_STREAM; i <= F_CATEGORY; i++)
        given += f[i].value.data != NULL;
    if (given != 1)
        FAIL(err, E_SCHEMA, ERR_DATA,
             "needs one of \"stream\", \"streams\", \"prefix\", \"category\"");
    s->listed = f[F_STREAM].value.data != NULL || f[F_STREAMS].value.data != NULL;
    s->prefixes = f[F_PREFIX].value.data != NULL;
    s->categories = f[F_CATEGORY].value.data != NULL;
    for (int i = F_STREAM; i <= F_CATEGORY; i++)
        if (f[i].value.data != NULL)
            TRY(add_sets(s, f[i].value, f[i].name, err));
    if (s->set_count == 0)
        FAIL(err, E_SCHEMA, ERR_DATA, "selects nothing");
    for (uint32_t i = 0; s->categories && i < s->set_count; i++)
        if (strchr(s->sets[i], '-') != NULL)
            FAIL(err, E_SCHEMA, ERR_DATA, "category \"%s\": a category has no '-'", s->sets[i]);
    if (f[F_REGEX].value.data == NULL)
        goto out;
    TRY(text_of(f[F_REGEX].value, "regex", LOG_NAME_MAX, &regex, err));
    if (regcomp(&s->regex, regex, REG_EXTENDED | REG_NOSUB) != 0)
        FAIL(err, E_SCHEMA, ERR_DATA, "regex: is no POSIX extended regular expression");
    s->has_regex = true;
out:
    free(regex);
    return rc;
}

static bool
known_name(void *arg, struct slice name)
{
    (void)arg;
    return slice_is(name, "stream") || slice_is(name, "category") || slice_is(name, "key");
}

static int
read_to(struct streami_spec *s, struct slice raw, struct err *err)
{
    char *text = NULL;
    int   rc = 0;

    if (raw.data == NULL)
        return 0;
    TRY(text_of(raw, "to", 4096, &text, err));
    rc = template_new(slice_str(text), TEMPLATE_TEXT, known_name, NULL, &s->to, err);
    if (rc != 0) {
        err_prefix(err, "to (there are {stream}, {category} and {key})");
        err->kind = ERR_DATA;
    }
out:
    free(text);
    return rc;
}

static int
read_number(struct slice raw, const char *what, uint64_t least, uint64_t most, uint64_t *out,
            struct err *err)
{
    if (raw.data == NULL || json_is_null(raw))
        return 0;
    if (!json_uint64(raw, out) || *out < least || *out > most)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "%s: must be a number from %llu to %llu", what,
                   (unsigned long long)least, (unsigned long long)most);
    return 0;
}

static int
read_rest(struct streami_spec *s, const struct json_field *f, struct err *err)
{
    uint64_t workers = 5;
    int      rc = 0;

    s->keep_s = UINT64_MAX;
    TRY(read_number(f[F_KEEP].value, "keep_s", 0, KEEP_MAX, &s->keep_s, err));
    TRY(read_number(f[F_P99].value, "max_foreground_p99_ms", 0, 60000, &s->max_p99_ms, err));
    TRY(read_number(f[F_RATE].value, "max_events_per_s", 0, RATE_MAX, &s->max_rate, err));
    s->commit_bytes = STREAMI_MOVE_USUAL;
    TRY(read_number(f[F_COMMIT].value, "commit_bytes", STREAMI_MOVE_MIN, STREAMI_MOVE_MAX,
                    &s->commit_bytes, err));
    TRY(read_number(f[F_WORKERS].value, "workers", 1, STREAMI_WORKERS_MAX, &workers, err));
    s->workers = (uint32_t)workers;
    if (f[F_REASON].value.data != NULL)
        TRY(text_of(f[F_REASON].value, "reason", REASON_MAX, &s->reason, err));
    if (f[F_MODE].value.data != NULL) {
        s->link = slice_is(f[F_MODE].value, "\"link\"");
        if (!s->link && !slice_is(f[F_MODE].value, "\"copy\""))
            FAIL(err, E_SCHEMA, ERR_DATA, "mode: must be \"copy\" or \"link\"");
    }
    if (f[F_OLD].value.data != NULL) {
        s->route = slice_is(f[F_OLD].value, "\"route\"");
        if (!s->route && !slice_is(f[F_OLD].value, "\"reject\""))
            FAIL(err, E_SCHEMA, ERR_DATA, "old_writers: must be \"reject\" or \"route\"");
    }
    if (s->link && s->keep_s != UINT64_MAX)
        FAIL(err, E_SCHEMA, ERR_DATA, "keep_s: links need the originals, they are kept for ever");
out:
    return rc;
}

static int
read_transform(struct streami_spec *s, struct slice raw, struct err *err)
{
    const struct transform_opts opts = {.name = "transform"};
    int                         rc;

    if (raw.data == NULL)
        return 0;
    rc = transform_from_json(raw, &opts, &s->transform, err);
    if (rc != 0 && err != NULL)
        err->kind = ERR_DATA;
    return rc;
}

static int
read_where(struct streami_spec *s, struct slice raw, struct err *err)
{
    int rc;

    if (raw.data == NULL)
        return 0;
    rc = transform_where_new(raw, "where", &s->where, err);
    if (rc != 0 && err != NULL)
        err->kind = ERR_DATA;
    return rc;
}

/* What is routed is so event by event, on both sides of the move alike. */
static int
check_route(const struct streami_spec *s, unsigned may, struct err *err)
{
    if (!s->route)
        return 0;
    if (s->kind != STREAMI_COPY && s->kind != STREAMI_SPLIT)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "old_writers: \"route\" is for copies and splits: of a %s nobody knows what the "
                   "old name has to have; \"reject\" refuses and says where the stream is",
                   s->word);
    if ((may & TRANSFORM_STATE) != 0)
        RETURN_ERR(
            err, E_SCHEMA, ERR_DATA,
            "old_writers: \"route\" takes each event by itself, so no script with state: one "
            "without says so by \"may\", as in may: [route, drop]");
    if (s->where != NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "old_writers: \"route\" takes whole streams: its transform drops what \"where\" "
                   "would leave");
    if (s->link)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "old_writers: \"route\" copies what the old name gets; mode \"link\" closes it");
    return 0;
}

/* What each kind needs, and what it must not do. */
static int
check_kind(const struct streami_spec *s, struct err *err)
{
    unsigned may = s->transform == NULL ? 0 : transform_may(s->transform);
    unsigned moves = TRANSFORM_DROP | TRANSFORM_ROUTE;

    if (s->kind == STREAMI_COPY && s->to == NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "copy: needs \"to\", the new stream's name");
    if (s->kind == STREAMI_JOIN && (s->to == NULL || s->transform != NULL))
        RETURN_ERR(
            err, E_SCHEMA, ERR_DATA,
            "join: needs \"to\", and takes no transform: a rewrite or copy of its own changes "
            "events");
    if (s->kind == STREAMI_JOIN && s->prefixes && template_count(s->to) > 0)
        RETURN_ERR(
            err, E_SCHEMA, ERR_DATA,
            "join by prefix: has one target, and \"to\" is its name; categories are joined by "
            "key");
    if (s->kind == STREAMI_JOIN && s->categories && template_count(s->to) == 0)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "join of categories: \"to\" needs {key}");
    if (s->kind == STREAMI_SPLIT && (may & TRANSFORM_ROUTE) == 0)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "split: needs a transform that says which event goes where");
    if (s->kind == STREAMI_SPLIT && (may & ~(moves | TRANSFORM_ADD | TRANSFORM_STATE)) != 0)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "split: moves events and changes none: a rewrite or copy of its own does; a "
                   "script says so by \"may\"");
    /* A script that does not say what it may do is held to it event by event. */
    if ((may & TRANSFORM_STATE) != 0 && s->kind != STREAMI_SPLIT)
        may &= ~(unsigned)TRANSFORM_ROUTE;
    if (s->kind == STREAMI_COPY && (may & TRANSFORM_ROUTE) != 0)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "copy: has one target; split has several");
    if (s->kind == STREAMI_REWRITE &&
        (s->transform == NULL || s->to != NULL || s->link || (may & TRANSFORM_ROUTE) != 0))
        RETURN_ERR(
            err, E_SCHEMA, ERR_DATA,
            "rewrite: needs a transform, and stays in its stream: no \"to\", no route, no links");
    if (s->link && (may & TRANSFORM_CHANGE) != 0)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "links cannot change events");
    return 0;
}

static int
read_spec(struct streami_spec *s, struct slice json, struct err *err)
{
    struct json_field f[F_COUNT] = {
        [F_KIND] = {.name = "kind", .required = true},
        [F_STREAM] = {.name = "stream"},
        [F_STREAMS] = {.name = "streams"},
        [F_PREFIX] = {.name = "prefix"},
        [F_CATEGORY] = {.name = "category"},
        [F_REGEX] = {.name = "regex"},
        [F_TO] = {.name = "to"},
        [F_TRANSFORM] = {.name = "transform"},
        [F_MODE] = {.name = "mode"},
        [F_REASON] = {.name = "reason"},
        [F_KEEP] = {.name = "keep_s"},
        [F_P99] = {.name = "max_foreground_p99_ms"},
        [F_RATE] = {.name = "max_events_per_s"},
        [F_WORKERS] = {.name = "workers"},
        [F_OLD] = {.name = "old_writers"},
        [F_COMMIT] = {.name = "commit_bytes"},
        [F_WHERE] = {.name = "where"},
    };
    struct slice raw, kind;
    unsigned     k = 0;
    int          rc = 0;

    if (json.len > STREAM_SPEC_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "a surgery's spec has at most %zu bytes", STREAM_SPEC_MAX);
    TRY(json_value(json, &raw, err));
    TRY(json_pick(raw, f, F_COUNT, JSON_PICK_ONLY, err));
    kind = f[F_KIND].value;
    while (k < 5 && (kind.len != strlen(kinds[k]) + 2 ||
                     memcmp((const char *)kind.data + 1, kinds[k], kind.len - 2) != 0))
        k++;
    if (k == 5)
        FAIL(err, E_SCHEMA, ERR_DATA, "kind: must be copy, rewrite, split, join or link");
    if (k == KIND_LINK && f[F_MODE].value.data != NULL && !slice_is(f[F_MODE].value, "\"link\""))
        FAIL(err, E_SCHEMA, ERR_DATA, "link: its mode is \"link\"");
    s->word = kinds[k];
    s->kind = k == KIND_LINK ? STREAMI_COPY : (enum streami_kind)k;
    TRY(read_select(s, f, err));
    TRY(read_to(s, f[F_TO].value, err));
    TRY(read_transform(s, f[F_TRANSFORM].value, err));
    s->link = k == KIND_LINK;
    if (s->link && s->transform != NULL && transform_routes(s->transform))
        s->kind = STREAMI_SPLIT;
    TRY(read_rest(s, f, err));
    TRY(read_where(s, f[F_WHERE].value, err));
    TRY(check_kind(s, err));
    TRY(check_route(s, s->transform == NULL ? 0 : transform_may(s->transform), err));
    buf_add_slice(&s->text, raw);
    if (s->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    return rc;
}

int
streami_spec_new(struct slice name, struct slice json, struct streami_spec **out, struct err *err)
{
    struct streami_spec *s = calloc(1, sizeof *s);
    int                  rc = 0;

    *out = NULL;
    if (s == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (!name_is_good(name))
        FAIL(err, E_INVALID, ERR_DATA, "a surgery's name has 1 to %d of a-z, 0-9 and _",
             STREAM_NAME_MAX);
    memcpy(s->name, name.data, name.len);
    TRY(read_spec(s, json, err));
    *out = s;
    s = NULL;
out:
    streami_spec_free(s);
    return rc;
}

int
stream_spec_check(struct slice name, struct slice json, struct buf *normal, struct err *err)
{
    struct streami_spec *s = NULL;
    int                  rc = streami_spec_new(name, json, &s, err);

    if (rc == 0 && normal != NULL)
        buf_add_slice(normal, buf_slice(&s->text));
    streami_spec_free(s);
    return rc;
}

/* which streams, and where to */

static struct slice
category_of(struct slice stream)
{
    const char *dash = stream.len == 0 ? NULL : memchr(stream.data, '-', stream.len);

    return dash == NULL ? slice_of(NULL, 0)
                        : slice_of(stream.data, (size_t)(dash - (const char *)stream.data));
}

bool
streami_wanted(const struct streami_spec *s, uint32_t set, struct slice stream)
{
    regmatch_t m = {.rm_so = 0, .rm_eo = (regoff_t)stream.len};

    if (stream.len == 0 || *(const char *)stream.data == '$')
        return false;
    if (s->categories && !slice_is(category_of(stream), s->sets[set]))
        return false;
    return !s->has_regex || regexec(&s->regex, stream.data, 1, &m, REG_STARTEND) == 0;
}

static int
lookup(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct slice *stream = arg;
    struct slice        category = category_of(*stream);

    (void)raw;
    if (slice_is(name, "stream")) {
        buf_add_slice(value, *stream);
        return 0;
    }
    if (category.data == NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "its name has no '-', so no category and no key");
    if (slice_is(name, "category"))
        buf_add_slice(value, category);
    else
        buf_add(value, (const char *)stream->data + category.len + 1,
                stream->len - category.len - 1);
    return 0;
}

int
streami_target(const struct streami_spec *s, struct slice stream, struct buf *out, struct err *err)
{
    struct buf scratch = {0};
    int        rc = 0;

    buf_clear(out);
    if (s->to == NULL)
        FAIL(err, E_SCHEMA, ERR_DATA, "no rule says where it goes, and there is no \"to\"");
    TRY(template_expand(s->to, lookup, &stream, &scratch, out, err));
    rc = log_name_check(buf_slice(out), false, err);
out:
    buf_fini(&scratch);
    return rc;
}
