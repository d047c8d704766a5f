/*
 * A stream's metadata: what of it the engine acts on. The keys are those that
 * KurrentDB's clients write; whatever else stands in the object is the user's.
 */
#include <inttypes.h>

#include "base/json.h"
#include "log/log_int.h"

#define TB_DELETED INT64_MAX /* what clients write as $tb to delete a stream */
#define MAX_AGE_S (INT64_MAX / 1000000)

static int
bad(struct err *err, const char *key, const char *wanted)
{
    RETURN_ERR(err, E_INVALID, ERR_DATA, "metadata: %s has to be %s", key, wanted);
}

/* A whole number from `least` on; absent or null: *there false. */
static int
number(struct slice raw, const char *key, uint64_t least, bool *there, uint64_t *out,
       struct err *err)
{
    must(least <= 1); /* the text of the refusal says so */
    *there = raw.data != NULL && !json_is_null(raw);
    if (!*there)
        return 0;
    if (!json_uint64(raw, out) || *out < least || *out > INT64_MAX)
        return bad(err, key, least == 0 ? "a whole number" : "a whole number from 1");
    return 0;
}

static bool
is_string_list(struct slice raw)
{
    struct json_iter it;
    struct slice     item;

    if (json_type(raw) == JSON_STRING)
        return true;
    if (json_type(raw) != JSON_ARRAY || json_array_iter(&it, raw, NULL) != 0)
        return false;
    while (json_iter_next(&it, NULL, &item, NULL) == 0)
        if (json_type(item) != JSON_STRING)
            return false;
    return true;
}

static int
check_acl(struct slice acl, struct err *err)
{
    static const char *const rights[] = {"$r", "$w", "$d", "$mr", "$mw"};
    struct slice             value;

    if (json_type(acl) != JSON_OBJECT)
        return bad(err, "$acl", "an object");
    for (size_t i = 0; i < sizeof rights / sizeof rights[0]; i++)
        if (json_get(acl, rights[i], &value) && !json_is_null(value) && !is_string_list(value))
            return bad(err, rights[i], "a name or a list of names");
    return 0;
}

int
log_meta_parse(struct slice json, struct log_meta *out, struct err *err)
{
    enum { TB, COUNT, AGE, CACHE, ACL, FIELDS };
    struct json_field f[FIELDS] = {
        [TB] = {.name = "$tb"},      [COUNT] = {.name = "$maxCount"},
        [AGE] = {.name = "$maxAge"}, [CACHE] = {.name = "$cacheControl"},
        [ACL] = {.name = "$acl"},
    };
    struct err own;
    uint64_t   age = 0;
    bool       there;
    int        rc;

    memset(out, 0, sizeof *out);
    if (json.len > LOG_META_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "metadata of %zu bytes, at most %" PRIu64 " are allowed",
             json.len, LOG_META_MAX);
    rc = json_check(json, &own);
    if (rc == 0)
        rc = json_pick(json, f, FIELDS, JSON_PICK_ANY, &own);
    if (rc != 0) {
        err_prefix(&own, "metadata");
        own.code = rc = E_INVALID;
        err_copy(err, &own);
        goto out;
    }
    TRY(number(f[TB].value, "$tb", 0, &out->has_truncate, &out->truncate, err));
    TRY(number(f[COUNT].value, "$maxCount", 1, &there, &out->max_count, err));
    TRY(number(f[AGE].value, "$maxAge", 1, &there, &age, err));
    TRY(number(f[CACHE].value, "$cacheControl", 1, &there, &out->cache_s, err));
    if (age > (uint64_t)MAX_AGE_S)
        age = (uint64_t)MAX_AGE_S; /* longer than any clock runs */
    out->max_age_us = (int64_t)age * 1000000;
    must(out->max_age_us >= 0);
    out->deleted = out->has_truncate && out->truncate == (uint64_t)TB_DELETED;
    if (f[ACL].value.data != NULL && !json_is_null(f[ACL].value)) {
        TRY(check_acl(f[ACL].value, err));
        out->acl = f[ACL].value;
    }
out:
    return rc;
}
