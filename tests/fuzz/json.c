/*
 * JSON from outside: the checker, the token reader and the iterators agree on
 * what is valid; the canonical form is valid, and its own canonical form.
 */
#include "base/json.h"

#include "base/must.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
scalar(struct slice raw, struct buf *scratch)
{
    struct slice text;
    struct buf   copy = {0};
    int64_t      i;
    uint64_t     u;
    bool         b;

    (void)json_int64(raw, &i);
    (void)json_uint64(raw, &u);
    must(json_bool(raw, &b) == (json_type(raw) == JSON_TRUE || json_type(raw) == JSON_FALSE));
    must(json_is_null(raw) == (json_type(raw) == JSON_NULL));
    if (json_type(raw) != JSON_STRING)
        return;
    must(json_string_view(raw, scratch, &text, NULL) == 0);
    must(utf8_valid(text));
    must(json_string_decode(raw, &copy, NULL) == 0);
    must(slice_eq(text, buf_slice(&copy)));
    buf_clear(&copy);
    json_put_string(&copy, text);
    must(json_check(buf_slice(&copy), NULL) == 0);
    buf_fini(&copy);
}

static int
tokens(struct slice input, struct buf *scratch)
{
    struct json_reader r;
    enum json_type     token;
    struct slice       raw;
    int                rc;

    json_reader_init(&r, input);
    while ((rc = json_next(&r, &token, &raw, NULL)) == 0) {
        if (token >= JSON_NULL && token <= JSON_STRING)
            scalar(raw, scratch);
    }
    return rc == E_END ? 0 : rc;
}

static int
members(struct slice input)
{
    struct json_field fields[] = {{"type", false, {0}}, {"a", false, {0}}};
    struct json_iter  it;
    struct slice      key, value, found;
    int               rc;

    (void)json_pick(input, fields, 2, JSON_PICK_ONLY, NULL);
    (void)json_get_path(input, slice_str("a.1.type"), &found);
    rc = json_object_iter(&it, input, NULL);
    if (rc == E_SCHEMA)
        rc = json_array_iter(&it, input, NULL);
    if (rc != 0)
        return rc;
    while ((rc = json_iter_next(&it, &key, &value, NULL)) == 0)
        must(json_check(value, NULL) == 0 || json_type(value) >= JSON_ARRAY);
    return rc == E_END ? 0 : rc;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = slice_of(data, size);
    struct buf   scratch = {0}, canon = {0}, again = {0};
    struct err   err;
    int          rc = json_check(input, &err), members_rc;

    must(tokens(input, &scratch) == rc);
    members_rc = members(input);
    if (rc == 0) {
        must(members_rc == 0 || members_rc == E_SCHEMA);
        must(utf8_valid(input));
        rc = json_canonical(input, &canon, &err);
        if (rc == 0) {
            must(json_canonical(buf_slice(&canon), &again, &err) == 0);
            must(slice_eq(buf_slice(&canon), buf_slice(&again)));
        } else {
            must(rc == E_SYNTAX || rc == E_LIMIT);
        }
    }
    buf_clear(&scratch);
    json_put_string(&scratch, input);
    must(json_check(buf_slice(&scratch), NULL) == 0);
    buf_fini(&scratch);
    buf_fini(&canon);
    buf_fini(&again);
    return 0;
}
