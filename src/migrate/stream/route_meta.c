/*
 * What a stream's metadata says of its routing: the member `$routed`, which stays in it whoever
 * writes the rest. Of a routed stream `surgery` and `to`; of one that copies come to `from`.
 */
#include "base/json.h"
#include "migrate/stream/stream_int.h"

#define KEY "$routed"

static int
no_memory(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a stream's metadata");
}

int
streami_meta_name(struct streami_arena *a, struct slice stream, struct slice *out, struct err *err)
{
    char name[LOG_NAME_MAX];

    if (stream.len + 2 > sizeof name)
        RETURN_ERR(err, E_LIMIT, ERR_DATA,
                   "\"%.*s\": a name of %zu bytes is too long to have metadata", SLICE_FMT(stream),
                   stream.len);
    memcpy(name, "$$", 2);
    memcpy(name + 2, stream.data, stream.len);
    *out = streami_keep(a, slice_of(name, stream.len + 2));
    return out->data == NULL ? no_memory(err) : 0;
}

int
streami_route_add(struct streami_arena *a, struct streami_names *l, struct slice name,
                  struct err *err)
{
    if (!streami_grow(a, &l->list, l->count, &l->room, sizeof *l->list))
        return no_memory(err);
    l->list[l->count] = streami_keep(a, name);
    if (l->list[l->count].data == NULL)
        return no_memory(err);
    l->count++;
    return 0;
}

bool
streami_route_has(const struct streami_names *l, struct slice name)
{
    for (uint32_t i = 0; i < l->count; i++)
        if (slice_eq(l->list[i], name))
            return true;
    return false;
}

void
streami_route_drop(struct streami_names *l, struct slice name)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < l->count; i++)
        if (!slice_eq(l->list[i], name))
            l->list[n++] = l->list[i];
    l->count = n;
}

static int
get_names(struct streami_arena *a, struct slice raw, struct streami_names *l, struct err *err)
{
    struct json_iter it;
    struct slice     item, name;
    struct buf       scratch = {0};
    int              rc;

    if (raw.data == NULL)
        return 0;
    TRY(json_array_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, NULL, &item, err)) == 0) {
        TRY(json_string_view(item, &scratch, &name, err));
        TRY(streami_route_add(a, l, name, err));
    }
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&scratch);
    return rc;
}

static int
get_member(struct streami_arena *a, struct slice raw, struct streami_route *r, struct err *err)
{
    struct json_field f[] = {{.name = "surgery"}, {.name = "to"}, {.name = "from"}};
    struct buf        scratch = {0};
    struct slice      name;
    int               rc;

    TRY(json_pick(raw, f, 3, JSON_PICK_ANY, err));
    TRY(get_names(a, f[1].value, &r->to, err));
    TRY(get_names(a, f[2].value, &r->from, err));
    if (f[0].value.data == NULL)
        goto out;
    TRY(json_string_view(f[0].value, &scratch, &name, err));
    r->surgery = streami_keep(a, name);
    if (r->surgery.data == NULL)
        rc = no_memory(err);
out:
    buf_fini(&scratch);
    return rc;
}

int
streami_route_doc(struct streami_arena *a, struct slice raw, bool asked, struct slice *doc,
                  struct err *err)
{
    struct log_meta  m;
    struct json_iter it;
    struct slice     key, value;
    struct buf       out = {0};
    int              rc;

    TRY(log_meta_parse(raw, &m, err));
    TRY(json_object_iter(&it, raw, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (json_key_is(key, slice_str(KEY)) ||
            (m.deleted && !asked && json_key_is(key, slice_str("$tb"))))
            continue;
        buf_add_str(&out, out.len == 0 ? "{\"" : ",\"");
        buf_add_slice(&out, key);
        buf_add_str(&out, "\":");
        buf_add_slice(&out, value);
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    if (out.len > 0)
        buf_add_byte(&out, '}');
    *doc = out.len == 0 ? slice_of(NULL, 0) : streami_keep(a, buf_slice(&out));
    if (out.failed || (out.len > 0 && doc->data == NULL))
        rc = no_memory(err);
out:
    buf_fini(&out);
    return rc;
}

int
streami_route_read(struct log *log, struct streami_arena *a, struct slice stream,
                   struct streami_route *r, struct err *err)
{
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event e;
    struct slice     raw;
    int              rc;

    *r = (struct streami_route){.version = LOG_NO_STREAM};
    TRY(streami_meta_name(a, stream, &read.stream, err));
    r->stream = read.stream;
    rc = log_iter_open(log, &read, &it, err);
    if (rc == 0)
        rc = log_iter_next(it, &e, err);
    if (rc == E_NOTFOUND || rc == E_GONE || rc == E_END) {
        rc = 0;
        goto out;
    }
    if (rc != 0)
        goto out;
    r->version = (int64_t)e.version;
    if (!slice_is(e.type, LOG_META_TYPE) || json_type(e.data) != JSON_OBJECT)
        goto out;
    TRY(streami_route_doc(a, e.data, false, &r->doc, err));
    if (json_get(e.data, KEY, &raw) && json_type(raw) == JSON_OBJECT)
        rc = get_member(a, raw, r, err);
out:
    log_iter_close(it);
    return rc;
}

static void
put_names(struct json_out *o, const char *key, const struct streami_names *l)
{
    if (l->count == 0)
        return;
    json_out_key(o, key);
    json_out_array(o);
    for (uint32_t i = 0; i < l->count; i++)
        json_out_string(o, l->list[i]);
    json_out_array_end(o);
}

int
streami_route_event(struct streami_arena *a, const struct streami_route *r, struct slice doc,
                    struct log_new_event *out, struct err *err)
{
    struct buf      text = {0};
    struct json_out o;
    bool            member = r->surgery.len > 0 || r->from.count > 0;

    buf_add_byte(&text, '{');
    if (doc.len > 2)
        buf_add(&text, (const char *)doc.data + 1, doc.len - 2);
    if (member) {
        if (text.len > 1)
            buf_add_byte(&text, ',');
        buf_add_str(&text, "\"" KEY "\":");
        json_out_init(&o, &text);
        json_out_object(&o);
        if (r->surgery.len > 0) {
            json_out_key(&o, "surgery");
            json_out_string(&o, r->surgery);
            put_names(&o, "to", &r->to);
        }
        put_names(&o, "from", &r->from);
        json_out_object_end(&o);
    }
    buf_add_byte(&text, '}');
    *out = (struct log_new_event){.type = slice_str(LOG_META_TYPE),
                                  .data = streami_keep(a, buf_slice(&text)),
                                  .flags = LOG_JSON};
    if (text.failed)
        out->data.data = NULL;
    buf_fini(&text);
    return out->data.data == NULL ? no_memory(err) : 0;
}
