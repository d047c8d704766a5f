/* A transform as a whole: what it is made of, and one run of it. */
#include <stdlib.h>

#include "base/must.h"
#include "base/utf8.h"
#include "transform/transform_int.h"

#define INSTRUCTIONS_PRESET 10000000
#define INSTRUCTIONS_MAX UINT64_C(10000000000)
#define MEMORY_PRESET (UINT64_C(64) << 20)
#define MEMORY_MIN (UINT64_C(1) << 20)
#define MEMORY_MAX (UINT64_C(4) << 30)
#define OUTPUTS_PRESET 1000
#define OUTPUTS_MAX 1000000
#define FILE_NAME_MAX 4000

#define MAY_ALL                                                                                    \
    (TRANSFORM_CHANGE | TRANSFORM_DROP | TRANSFORM_ADD | TRANSFORM_ROUTE | TRANSFORM_STATE)

const struct conf_type transform_conf_type = {.kind = CONF_ANY};

/* compiling */

enum part {
    PART_RULES,
    PART_LUA,
    PART_FILE,
    PART_NAME,
    PART_MAY,
    PART_LIMITS,
    PART_COUNT,
};

static const char *const part_names[] = {"rules", "lua", "file", "name", "may", "limits", NULL};
static const char *const may_names[] = {"change", "drop", "add", "route", "state", NULL};
static const char *const limit_names[] = {"instructions", "memory", "outputs", NULL};

static int
read_may(const struct transformi_spec *spec, struct slice raw, struct transform *t, struct err *err)
{
    struct json_iter it;
    struct slice     key, value;
    size_t           which;
    int              rc;

    if (json_type(raw) != JSON_ARRAY)
        return transformi_fail(spec, raw.data, E_SCHEMA, err,
                               "may: must be a list of change, drop, add, route, state");
    t->may = 0;
    t->may_said = true;
    must(json_array_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (json_type(value) != JSON_STRING)
            return transformi_fail(spec, value.data, E_SCHEMA, err, "may: must be texts");
        TRY(transformi_key(spec, slice_of((const uint8_t *)value.data + 1, value.len - 2),
                           may_names, &which, err));
        t->may |= 1U << which;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* A number, or a text as "64MiB". */
static bool
read_size(struct slice raw, uint64_t *out)
{
    static const char *const units[] = {"KiB", "MiB", "GiB"};
    struct slice             text;

    if (json_type(raw) != JSON_STRING)
        return json_uint64(raw, out);
    text = slice_of((const uint8_t *)raw.data + 1, raw.len - 2);
    for (unsigned i = 0; i < 3; i++) {
        if (text.len > 3 &&
            slice_is(slice_of((const uint8_t *)text.data + text.len - 3, 3), units[i]))
            return json_uint64(slice_of(text.data, text.len - 3), out) &&
                   !__builtin_mul_overflow(*out, UINT64_C(1024) << (10 * i), out);
    }
    return false;
}

static int
read_limits(const struct transformi_spec *spec, struct slice raw, struct transformi_limits *l,
            struct err *err)
{
    static const uint64_t min[] = {1, MEMORY_MIN, 1},
                          max[] = {INSTRUCTIONS_MAX, MEMORY_MAX, OUTPUTS_MAX};
    struct json_iter it;
    struct slice     key = {0}, value;
    size_t           which;
    uint64_t         v;
    int              rc;

    if (json_type(raw) != JSON_OBJECT)
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "limits: must be a mapping");
    must(json_object_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        TRY(transformi_key(spec, key, limit_names, &which, err));
        if (!(which == 1 ? read_size(value, &v) : json_uint64(value, &v)) || v < min[which] ||
            v > max[which])
            return transformi_fail(spec, value.data, E_SCHEMA, err,
                                   "%s: must be a number from %llu to %llu%s", limit_names[which],
                                   (unsigned long long)min[which], (unsigned long long)max[which],
                                   which == 1 ? ", or as in 64MiB" : "");
        if (which == 0)
            l->instructions = v;
        else if (which == 1)
            l->memory = v;
        else
            l->outputs = (uint32_t)v;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* The script's own text, and what its lines are called in messages. */
struct script_text {
    struct buf text;
    char      *file;
};

static int
read_script(const struct transformi_spec *spec, const struct slice *parts,
            const struct transform_opts *opts, struct script_text *s, struct err *err)
{
    struct slice which = parts[PART_FILE].data != NULL ? parts[PART_FILE] : parts[PART_NAME];
    size_t       len;
    int          rc = 0;

    if (which.data != NULL)
        TRY(transformi_string(spec, which, which.data == parts[PART_FILE].data ? "file" : "name",
                              FILE_NAME_MAX, &s->file, &len, err));
    else if ((s->file = transformi_copy(slice_str(spec->name))) == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a script");
    if (parts[PART_FILE].data == NULL) {
        if (json_type(parts[PART_LUA]) != JSON_STRING)
            return transformi_fail(spec, parts[PART_LUA].data, E_SCHEMA, err,
                                   "lua: must be the text of a script");
        return json_string_decode(parts[PART_LUA], &s->text, err);
    }
    if (opts->read_file == NULL)
        return transformi_fail(spec, which.data, E_SCHEMA, err,
                               "file: is not possible here; write the script below lua");
    TRY(opts->read_file(opts->arg, s->file, &s->text, err));
    if (!utf8_valid(buf_slice(&s->text)))
        rc = transformi_fail(spec, which.data, E_SCHEMA, err, "file: %s: is not UTF-8", s->file);
out:
    return rc;
}

/* As it is kept: with the script in it, and nothing that was read from elsewhere. */
static void
put_script_json(const struct transform *t, const struct script_text *s, struct buf *out)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "lua");
    json_out_string(&o, buf_slice(&s->text));
    json_out_key(&o, "name");
    json_out_str(&o, s->file);
    if (t->may_said) {
        json_out_key(&o, "may");
        json_out_array(&o);
        for (size_t i = 0; may_names[i] != NULL; i++) {
            if ((t->may >> i & 1) != 0)
                json_out_str(&o, may_names[i]);
        }
        json_out_array_end(&o);
    }
    json_out_key(&o, "limits");
    json_out_object(&o);
    json_out_key(&o, limit_names[0]);
    json_out_u64(&o, t->limits.instructions);
    json_out_key(&o, limit_names[1]);
    json_out_u64(&o, t->limits.memory);
    json_out_key(&o, limit_names[2]);
    json_out_u64(&o, t->limits.outputs);
    json_out_object_end(&o);
    json_out_object_end(&o);
}

static void
fingerprint_script(struct transform *t, const struct script_text *s)
{
    struct buf b = {0};

    buf_printf(&b, "lua %u %llu %llu %u\n", t->may_said ? t->may : UINT32_MAX,
               (unsigned long long)t->limits.instructions, (unsigned long long)t->limits.memory,
               t->limits.outputs);
    buf_add_slice(&b, buf_slice(&s->text));
    t->fingerprint = id_of_bytes(buf_slice(&b));
    t->json.failed |= b.failed;
    buf_fini(&b);
}

static int
compile_script(const struct transformi_spec *spec, const struct slice *parts,
               const struct transform_opts *opts, struct transform *t, struct err *err)
{
    struct script_text s = {{.limit = CONF_FILE_MAX + 65536}, NULL};
    int                rc;

    if (parts[PART_MAY].data != NULL)
        TRY(read_may(spec, parts[PART_MAY], t, err));
    if (parts[PART_LIMITS].data != NULL)
        TRY(read_limits(spec, parts[PART_LIMITS], &t->limits, err));
    TRY(read_script(spec, parts, opts, &s, err));
    TRY(transformi_script_new(s.file, buf_slice(&s.text), &t->limits, &t->script, err));
    if (transformi_script_stateful(t->script) && (t->may & TRANSFORM_STATE) == 0)
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: has begin or finish, which needs \"may: [state]\"",
             s.file);
    put_script_json(t, &s, &t->json);
    fingerprint_script(t, &s);
out:
    buf_fini(&s.text);
    free(s.file);
    return rc;
}

static int
compile_rules(const struct transformi_spec *spec, struct slice raw, struct transform *t,
              struct err *err)
{
    struct buf canon = {0};
    int        rc;

    if (json_type(raw) != JSON_ARRAY)
        return transformi_fail(spec, raw.data, E_SCHEMA, err, "rules: must be a list, not %s",
                               json_type_name(json_type(raw)));
    TRY(transformi_rules_new(spec, raw, &t->rules, err));
    TRY(json_canonical(raw, &canon, err));
    t->may = transformi_rules_may(t->rules);
    t->may_said = true;
    t->fingerprint = id_of_bytes(buf_slice(&canon));
    buf_add_str(&t->json, "{\"rules\":");
    buf_add_slice(&t->json, raw);
    buf_add_byte(&t->json, '}');
out:
    if (rc != 0 && err != NULL)
        err->kind = ERR_FATAL;
    buf_fini(&canon);
    return rc;
}

static int
read_parts(const struct transformi_spec *spec, struct slice raw, struct slice *parts,
           struct err *err)
{
    struct json_iter it;
    struct slice     key = {0}, value;
    size_t           which, ways = 0;
    int              rc;

    must(json_object_iter(&it, raw, NULL) == 0);
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        TRY(transformi_key(spec, key, part_names, &which, err));
        if (parts[which].data != NULL)
            return transformi_fail(spec, (const uint8_t *)key.data - 1, E_SCHEMA, err,
                                   "the key \"%s\" comes twice", part_names[which]);
        parts[which] = value;
    }
    if (rc != E_END)
        goto out;
    rc = 0;
    for (which = PART_RULES; which <= PART_FILE; which++)
        ways += parts[which].data != NULL ? 1 : 0;
    if (ways != 1)
        return transformi_fail(spec, raw.data, E_SCHEMA, err,
                               "needs one of rules, lua and file, and has %zu", ways);
    for (which = PART_NAME; parts[PART_RULES].data != NULL && which < PART_COUNT; which++) {
        if (parts[which].data != NULL)
            return transformi_fail(spec, parts[which].data, E_SCHEMA, err,
                                   "%s: is for scripts; rules need none", part_names[which]);
    }
out:
    return rc;
}

/* Takes spec->text as the whole of it. */
static int
compile(struct transformi_spec *spec, const struct transform_opts *opts, struct transform **out,
        struct err *err)
{
    struct transform *t = NULL;
    struct slice      raw, parts[PART_COUNT] = {{0}};
    struct err        why = {0};
    int               rc;

    *out = NULL;
    if (spec->text.failed || spec->places.failed || spec->text.len > TRANSFORM_TEXT_MAX)
        FAIL(err, E_LIMIT, ERR_FATAL, "%s: longer than %zu bytes", spec->name, TRANSFORM_TEXT_MAX);
    if (json_value(buf_slice(&spec->text), &raw, &why) != 0) {
        rc = err_set(err, __FILE__, __LINE__, why.code, ERR_FATAL, "%s: %s", spec->name, why.text);
        goto out;
    }
    t = calloc(1, sizeof *t);
    if (t == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a transform");
    t->may = MAY_ALL;
    t->limits = (struct transformi_limits){INSTRUCTIONS_PRESET, MEMORY_PRESET, OUTPUTS_PRESET};
    t->name = transformi_copy(slice_str(spec->name));
    if (json_type(raw) == JSON_ARRAY) {
        parts[PART_RULES] = raw;
    } else if (json_type(raw) == JSON_OBJECT) {
        TRY(read_parts(spec, raw, parts, err));
    } else {
        rc = transformi_fail(spec, raw.data, E_SCHEMA, err,
                             "a transform is a list of rules, or a mapping with rules, lua or "
                             "file, not %s",
                             json_type_name(json_type(raw)));
        goto out;
    }
    if (parts[PART_RULES].data != NULL)
        TRY(compile_rules(spec, parts[PART_RULES], t, err));
    else
        TRY(compile_script(spec, parts, opts, t, err));
    if (t->name == NULL || t->json.failed)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for a transform");
    *out = t;
    t = NULL;
out:
    transform_free(t);
    return rc;
}

int
transform_from_json(struct slice json, const struct transform_opts *opts, struct transform **out,
                    struct err *err)
{
    struct transformi_spec spec = {.name = opts->name, .text = {.limit = TRANSFORM_TEXT_MAX + 1}};
    int                    rc;

    buf_add_slice(&spec.text, json);
    rc = compile(&spec, opts, out, err);
    buf_fini(&spec.text);
    return rc;
}

static void
add_place(void *arg, size_t offset, uint32_t line, uint32_t column)
{
    struct transformi_spec *spec = arg;
    struct transformi_place place = {offset, line, column};

    buf_add(&spec->places, &place, sizeof place);
}

int
transform_from_conf(const struct conf *node, const struct transform_opts *opts,
                    struct transform **out, struct err *err)
{
    struct transformi_spec spec = {.name = conf_file(node),
                                   .text = {.limit = TRANSFORM_TEXT_MAX + 1}};
    int                    rc;

    conf_put_any(node, &spec.text, add_place, &spec);
    rc = compile(&spec, opts, out, err);
    buf_fini(&spec.text);
    buf_fini(&spec.places);
    return rc;
}

int
transform_filter_from_conf(const struct conf *node, const struct transform_opts *opts,
                           struct transform **out, struct err *err)
{
    struct transformi_spec spec = {.name = conf_file(node),
                                   .text = {.limit = TRANSFORM_TEXT_MAX + 1}};
    int                    rc;

    buf_add_str(&spec.text, "[{\"when\":{\"not\":");
    conf_put_any(node, &spec.text, add_place, &spec);
    buf_add_str(&spec.text, "},\"drop\":true}]");
    rc = compile(&spec, opts, out, err);
    buf_fini(&spec.text);
    buf_fini(&spec.places);
    return rc;
}

static const char *
no_env(void *arg, const char *name)
{
    return NULL;
}

static int
no_file(void *arg, const char *path, struct buf *out, struct err *err)
{
    RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "not here");
}

int
transform_from_yaml(struct slice yaml, const struct transform_opts *opts, struct transform **out,
                    struct err *err)
{
    struct conf_opts conf_opts = {.file = opts->name, .getenv = no_env, .read_file = no_file};
    struct conf     *root = NULL;
    struct buf       problems = {0};
    int              rc;

    *out = NULL;
    TRY(conf_load(yaml, &transform_conf_type, &conf_opts, &root, &problems, err));
    TRY(transform_from_conf(root, opts, out, err));
out:
    conf_free(root);
    buf_fini(&problems);
    return rc;
}

void
transform_free(struct transform *t)
{
    if (t == NULL)
        return;
    transformi_rules_free(t->rules);
    transformi_script_free(t->script);
    buf_fini(&t->json);
    free(t->name);
    free(t);
}

void
transform_put_json(const struct transform *t, struct buf *out)
{
    buf_add_slice(out, buf_slice(&t->json));
}

struct ox_id
transform_fingerprint(const struct transform *t)
{
    return t->fingerprint;
}

unsigned
transform_may(const struct transform *t)
{
    return t->may;
}

/* What it does beyond `may`, where each event stands for itself. */
static int
each_check(const struct transform *t, unsigned may, const char *where, struct err *err)
{
    static const char *const what[] = {
        "changes events", "drops events", "makes several events of one",
        "routes events to other streams", "looks at more than one event"};
    bool state = t->script != NULL && transformi_script_stateful(t->script);

    for (unsigned i = 0; i < sizeof what / sizeof *what; i++) {
        unsigned bit = 1U << i;

        if ((may & bit) == 0 &&
            ((t->may_said && (t->may & bit) != 0) || (bit == TRANSFORM_STATE && state)))
            RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "%s: %s, which is not possible %s", t->name,
                       what[i], where);
    }
    return 0;
}

int
transform_upcast_check(const struct transform *t, struct err *err)
{
    return each_check(t, TRANSFORM_CHANGE, "at read time: one event in must be one event out", err);
}

int
transform_deliver_check(const struct transform *t, struct err *err)
{
    return each_check(t, TRANSFORMI_DELIVER, "before a sink: an event becomes one or none", err);
}
