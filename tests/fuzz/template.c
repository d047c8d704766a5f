/*
 * URLs and templates. What a JSON template gives is JSON, whatever is put in;
 * a URL without placeholders stays as it is.
 * The first byte chooses the kind, the second how long the value put in is.
 */
#include "base/template.h"

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
lookup(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct slice *text = arg;
    struct buf          json = {0};
    int                 rc;

    if (slice_is(name, "no"))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "not there");
    if (slice_is(name, "null")) {
        rc = template_put_json(slice_str("null"), raw, value, err);
    } else {
        json_put_string(&json, *text);
        rc = template_put_json(buf_slice(&json), raw, value, err);
    }
    buf_fini(&json);
    return rc;
}

static bool
known(void *arg, struct slice name)
{
    return !slice_is(name, "unknown");
}

static void
check_url(struct slice text)
{
    struct url u;
    struct buf decoded = {0}, encoded = {0}, again = {0};

    if (url_parse(text, &u, NULL) == 0) {
        must(u.host.len > 0);
        must(u.scheme.len > 0);
        must(url_decode(&decoded, u.path, false));
        must(url_decode(&decoded, u.query, true));
    } else {
        must(url_parse_http(text, &u, NULL) != 0);
    }
    buf_clear(&decoded);
    (void)url_decode(&decoded, text, true);
    url_encode(&encoded, text);
    must(url_decode(&again, buf_slice(&encoded), true));
    must(slice_eq(buf_slice(&again), text));
    buf_fini(&decoded);
    buf_fini(&encoded);
    buf_fini(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct template   *t;
    struct slice       text, value;
    struct buf         scratch = {0}, out = {0};
    enum template_kind kind;
    struct url         u;
    size_t             n;

    if (size < 2)
        return 0;
    kind = (enum template_kind)(data[0] % 3);
    n = data[1] < size - 2 ? data[1] : size - 2;
    value = slice_of(data + 2, n);
    text = slice_of(data + 2 + n, size - 2 - n);
    check_url(text);
    if (template_new(text, kind, known, NULL, &t, NULL) != 0)
        return 0;
    for (size_t i = 0; i < template_count(t); i++)
        must(template_name(t, i).len > 0);
    if (template_expand(t, lookup, &value, &scratch, &out, NULL) == 0) {
        if (kind == TEMPLATE_JSON)
            must(json_check(buf_slice(&out), NULL) == 0);
        if (kind == TEMPLATE_URL && template_count(t) == 0 && url_parse(text, &u, NULL) == 0)
            must(slice_eq(buf_slice(&out), text));
    }
    template_free(t);
    buf_fini(&scratch);
    buf_fini(&out);
    return 0;
}
