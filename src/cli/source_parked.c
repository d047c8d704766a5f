/* source parked: what a source could make no event of, out of $parked-source-NAME. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/url.h"
#include "cli/cli_int.h"

#define DEFAULT_SERVER "http://127.0.0.1:2113"
#define OPEN_MAX_COUNT 1000000

/* Lines that are to be printed; those of records that were closed since are taken out. */
struct entry {
    uint64_t version;
    size_t   at, len; /* in `text` */
};

struct records {
    struct buf    text;
    struct entry *list;
    uint32_t      count, room;
    uint64_t      only; /* UINT64_MAX: all; else that one, whole */
};

static void
close_one(struct records *r, uint64_t version)
{
    for (uint32_t i = 0; i < r->count; i++) {
        if (r->list[i].version != version)
            continue;
        r->count--;
        memmove(&r->list[i], &r->list[i + 1], (r->count - i) * sizeof r->list[0]);
        return;
    }
}

static bool
is_long(struct slice key)
{
    return slice_is(key, "body") || slice_is(key, "body_base64") || slice_is(key, "headers");
}

/* {"version":N, and what the record has; its content only where one is asked for. */
static int
put_record(struct records *r, uint64_t version, struct slice data, struct err *err)
{
    struct json_out  o;
    struct json_iter it;
    struct slice     key, value;
    int              rc;

    json_out_init(&o, &r->text);
    json_out_object(&o);
    json_out_key(&o, "version");
    json_out_u64(&o, version);
    TRY(json_object_iter(&it, data, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (r->only == UINT64_MAX && is_long(key))
            continue;
        json_out_key_slice(&o, key);
        json_out_raw(&o, value);
    }
    rc = rc == E_END ? 0 : rc;
    json_out_object_end(&o);
    buf_add_byte(&r->text, '\n');
    if (r->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    return rc;
}

static int
open_one(struct records *r, uint64_t version, struct slice data, struct err *err)
{
    size_t at = r->text.len;
    int    rc = 0;

    if (r->only != UINT64_MAX && r->only != version)
        return 0;
    if (r->count == r->room) {
        uint32_t      room = r->room == 0 ? 256 : r->room * 2;
        struct entry *more = reallocarray(r->list, room, sizeof *more);

        if (more == NULL || room > OPEN_MAX_COUNT)
            FAIL(err, E_LIMIT, ERR_DATA, "too many are parked to be listed");
        r->list = more;
        r->room = room;
    }
    TRY(put_record(r, version, data, err));
    r->list[r->count++] = (struct entry){version, at, r->text.len - at};
out:
    return rc;
}

static int
take_event(struct records *r, struct slice event, uint64_t *next, struct err *err)
{
    struct slice type, data, raw;
    uint64_t     version, closed = 0;

    if (!json_get(event, "version", &raw) || !json_uint64(raw, &version))
        return 0;
    *next = version + 1;
    if (!json_get(event, "type", &type) || !json_get(event, "data", &data))
        return 0;
    if (slice_is(type, "\"Parked\""))
        return open_one(r, version, data, err);
    if (json_get(data, "version", &raw) && json_uint64(raw, &closed))
        close_one(r, closed);
    return 0;
}

/* One page; *next stays where nothing came. */
static int
take_page(struct cli *c, struct records *r, const char *name, uint64_t *next, struct err *err)
{
    struct buf       path = {0}, stream = {0}, body = {0};
    struct json_iter it;
    struct slice     events, event;
    int              rc;

    buf_printf(&stream, "$parked-source-%s", name);
    buf_add_str(&path, "/v1/streams/");
    url_encode(&path, buf_slice(&stream));
    buf_printf(&path, "?from=%llu&limit=100", (unsigned long long)*next);
    buf_add_byte(&path, '\0');
    TRY(clii_request(c, "GET", (const char *)path.data, (struct slice){0}, &body, err));
    if (!json_get(buf_slice(&body), "events", &events))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, events, err));
    while ((rc = json_iter_next(&it, NULL, &event, err)) == 0)
        TRY(take_event(r, event, next, err));
    rc = rc == E_END ? 0 : rc;
out:
    buf_fini(&path);
    buf_fini(&stream);
    buf_fini(&body);
    return rc;
}

static int
list(struct cli *c, const char *name, uint64_t only, struct err *err)
{
    struct records r = {.only = only};
    uint64_t       next = 0, before;
    int            rc;

    do {
        before = next;
        rc = take_page(c, &r, name, &next, err);
        if (rc != 0 && err->code == E_NOTFOUND)
            rc = 0; /* nothing ever was */
        TRY(rc);
        TRY(clii_go_on(err));
    } while (next > before);
    for (uint32_t i = 0; i < r.count; i++)
        clii_put(c, r.text.data + r.list[i].at, r.list[i].len);
    if (only != UINT64_MAX && r.count == 0)
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: nothing is parked as version %llu", name,
             (unsigned long long)only);
out:
    buf_fini(&r.text);
    free(r.list);
    return rc;
}

static int
order(struct cli *c, const char *name, const char *word, uint64_t version, struct err *err)
{
    struct buf   path = {0}, body = {0};
    struct slice object, closed = slice_str("0"), refused = slice_str("0"), reason = {0};
    int          rc = 0;

    buf_add_str(&path, "/v1/sources/");
    url_encode(&path, slice_str(name));
    buf_printf(&path, "/%s?", strcmp(word, "drop") == 0 ? "skip" : word);
    if (version == UINT64_MAX)
        buf_add_str(&path, "all=true");
    else
        buf_printf(&path, "version=%llu", (unsigned long long)version);
    buf_add_byte(&path, '\0');
    rc = clii_request(c, "POST", (const char *)path.data, slice_str(""), &body, err);
    if (rc != 0) {
        err_prefix(err, "%s", name);
        goto out;
    }
    TRY(json_value(buf_slice(&body), &object, err));
    (void)json_get(object, "closed", &closed);
    (void)json_get(object, "refused", &refused);
    (void)json_get(object, "reason", &reason);
    if (clii_json(c)) {
        clii_put(c, object.data, object.len);
        clii_put(c, "\n", 1);
    } else {
        clii_printf(c, "%s: %s: %.*s done, %.*s stay%s%.*s\n", name, word, SLICE_FMT(closed),
                    SLICE_FMT(refused), json_is_null(reason) ? "" : ": ",
                    json_is_null(reason) ? 0 : (int)reason.len, (const char *)reason.data);
    }
out:
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

/* list|show|replay|drop NAME [VERSION|all] */
int
clii_source_parked(struct cli *c, struct err *err)
{
    const char *word = c->args[0], *name = c->args[1];
    const char *which = c->arg_count > 2 ? c->args[2] : NULL;
    uint64_t    version = UINT64_MAX;
    bool        show = strcmp(word, "show") == 0, drop = strcmp(word, "drop") == 0;

    if (clii_server(c) == NULL)
        c->opt[OPT_SERVER] = DEFAULT_SERVER;
    if ((show || drop) && which == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: which version?", word);
    if (which != NULL && !(strcmp(which, "all") == 0 && !show) &&
        !json_uint64(slice_str(which), &version))
        RETURN_ERR(err, E_USAGE, ERR_DATA, "\"%s\" is no version of a record", which);
    if (show || strcmp(word, "list") == 0)
        return list(c, name, show ? version : UINT64_MAX, err);
    if (!drop && strcmp(word, "replay") != 0)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: there are list, show, replay and drop", word);
    return order(c, name, word, version, err);
}
