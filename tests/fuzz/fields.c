/*
 * Indexes on fields: a definition as it comes in, and what it finds in an event. The input is a
 * definition's JSON, a zero, an event's data. What is found is canonical, each value once.
 */
#include "base/json.h"
#include "base/must.h"
#include "core/fields_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_found(const struct fieldsi_found *found)
{
    struct buf again = {0};

    must(found->count <= FIELDS_EACH_MAX);
    for (uint32_t i = 0; i < found->count; i++) {
        struct slice value = fieldsi_found_at(found, i);

        must(value.len > 0);
        must(value.len <= FIELDS_VALUE_MAX);
        must(fields_value(value, &again, NULL) == 0);
        must(slice_eq(buf_slice(&again), value));
        for (uint32_t k = 0; k < i; k++)
            must(!slice_eq(fieldsi_found_at(found, k), value));
    }
    buf_fini(&again);
}

/* With each step as an object around a value it has to be found. */
static void
check_path(const struct fieldsi_rule *rule)
{
    struct log_event e = {.stream = slice_str("s-1"), .type = slice_str("t"), .flags = LOG_JSON};
    struct fieldsi_found found = {.count = 0};
    struct buf           json = {0};

    must(rule->path.count > 0);
    must(rule->path.count <= FIELDS_DEPTH_MAX);
    for (unsigned i = 0; i < rule->path.count; i++) {
        buf_add_byte(&json, '{');
        json_put_string(&json, rule->path.steps[i]);
        buf_add_byte(&json, ':');
    }
    buf_add_slice(&json, slice_str("7"));
    for (unsigned i = 0; i < rule->path.count; i++)
        buf_add_byte(&json, '}');
    e.data = e.meta = buf_slice(&json);
    if (rule->def.category.len + rule->def.prefix.len + rule->def.type.len == 0) {
        must(fieldsi_find(rule, &e, &found, NULL) == 0);
        must(found.count == 1);
        must(slice_is(fieldsi_found_at(&found, 0), "7"));
    }
    fieldsi_found_fini(&found);
    buf_fini(&json);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t      *zero = size == 0 ? NULL : memchr(data, 0, size);
    size_t              len = zero == NULL ? size : (size_t)(zero - data);
    struct log_event    e = {.stream = slice_str("a-1"), .type = slice_str("t"), .flags = LOG_JSON};
    struct fields_def   def = {.name = slice_str("i")};
    struct fieldsi_rule rule;
    struct fieldsi_found found = {.count = 0};
    struct buf           texts = {0};

    if (zero != NULL)
        e.data = slice_of(zero + 1, size - len - 1);
    e.meta = e.data;
    if (json_check(slice_of(data, len), NULL) == 0 &&
        fields_def_read(slice_of(data, len), &def, &texts, NULL) == 0 &&
        fields_def_check(&def, NULL) == 0) {
        must(fieldsi_rule_init(&rule, &def, NULL) == 0);
        check_path(&rule);
        if (json_check(e.data, NULL) == 0) {
            must(fieldsi_find(&rule, &e, &found, NULL) == 0);
            check_found(&found);
        }
        fieldsi_found_fini(&found);
        fieldsi_rule_fini(&rule);
    }
    buf_fini(&texts);
    return 0;
}
