/* A message as it comes in, as the event that is held. */
#include "base/json.h"
#include "base/must.h"
#include "core/verify.h"

enum { F_ID, F_STREAM, F_TYPE, F_DATA, F_META, F_TOKEN, F_COUNT };

static int
text_of(const struct json_field *f, struct buf *out, struct slice *view, size_t *at,
        struct err *err)
{
    int rc;

    if (f->value.data == NULL) {
        *view = slice_of(NULL, 0);
        return 0;
    }
    if (json_type(f->value) != JSON_STRING)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "\"%s\": must be a string", f->name);
    *at = out->len;
    rc = json_string_decode(f->value, out, err);
    *view = slice_of(NULL, out->len - *at);
    return rc;
}

int
verify_message(struct slice message, struct buf *text, struct log_new_event *out,
               struct slice *target, struct err *err)
{
    struct json_field f[F_COUNT] = {{.name = "id", .required = true},
                                    {.name = "stream", .required = true},
                                    {.name = "type", .required = true},
                                    {.name = "data"},
                                    {.name = "metadata"},
                                    {.name = "token"}};
    struct slice      view[3] = {{0}}, key, value;
    size_t            at[3] = {0}, meta_at;
    struct json_out   o;
    struct json_iter  it;
    int               rc;

    *out = (struct log_new_event){.flags = LOG_JSON};
    TRY(json_pick(message, f, F_COUNT, JSON_PICK_ONLY, err));
    for (int i = F_ID; i <= F_TYPE; i++)
        TRY(text_of(&f[i], text, &view[i], &at[i], err));
    if (f[F_TOKEN].value.data != NULL && json_type(f[F_TOKEN].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "\"token\": must be a string");
    if (view[F_ID].len == 0 || view[F_ID].len > 200)
        FAIL(err, E_INVALID, ERR_DATA, "\"id\": must be 1 to 200 bytes");
    if (view[F_TYPE].len == 0 || view[F_TYPE].len > LOG_TYPE_MAX)
        FAIL(err, E_INVALID, ERR_DATA, "\"type\": must be 1 to %d bytes", LOG_TYPE_MAX);
    meta_at = text->len;
    json_out_init(&o, text);
    json_out_object(&o);
    if (f[F_META].value.data != NULL) {
        TRY(json_object_iter(&it, f[F_META].value, err));
        while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
            if (slice_is(key, "$verify"))
                continue;
            json_out_key_slice(&o, key);
            json_out_raw(&o, value);
        }
        if (rc != E_END)
            goto out;
    }
    json_out_key(&o, "$verify");
    json_out_object(&o);
    json_out_key(&o, "id");
    json_out_raw(&o, f[F_ID].value);
    json_out_key(&o, "stream");
    json_out_raw(&o, f[F_STREAM].value);
    if (f[F_TOKEN].value.data != NULL) {
        json_out_key(&o, "token");
        json_out_raw(&o, f[F_TOKEN].value);
    }
    json_out_object_end(&o);
    json_out_object_end(&o);
    if (text->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    must(at[F_STREAM] + view[F_STREAM].len <= text->len);
    must(at[F_TYPE] + view[F_TYPE].len <= text->len);
    must(at[F_ID] + view[F_ID].len <= text->len);
    *target = slice_of(text->data + at[F_STREAM], view[F_STREAM].len);
    TRY(log_name_check(*target, false, err));
    out->type = slice_of(text->data + at[F_TYPE], view[F_TYPE].len);
    out->data = f[F_DATA].value.data != NULL ? f[F_DATA].value : slice_str("null");
    out->meta = slice_of(text->data + meta_at, text->len - meta_at);
    if (!id_parse(slice_of(text->data + at[F_ID], view[F_ID].len), &out->id) ||
        id_is_zero(&out->id))
        out->id = id_of_bytes(slice_of(text->data + at[F_ID], view[F_ID].len));
out:
    return rc;
}
