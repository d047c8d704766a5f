/* oxbow transform test: what a transform makes of events, before anything rests on it. */
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/rfc3339.h"
#include "cli/cli_int.h"
#include "cli/engine_int.h"
#include "transform/transform.h"

#define LINE_MAX_BYTES (48U << 20)

struct trial {
    struct cli           *cli;
    struct transform_run *run;
    struct buf            stream, text, data, line;
    bool                  begun;
    uint64_t              next; /* version where the line has none, from 0 in each stream */
    uint64_t              outputs;
};

enum field {
    FIELD_TYPE,
    FIELD_DATA,
    FIELD_DATA64,
    FIELD_META,
    FIELD_STREAM,
    FIELD_VERSION,
    FIELD_POSITION,
    FIELD_ID,
    FIELD_CREATED,
    FIELD_COUNT,
};

static void
put_plain(struct trial *t, const char *mark, struct slice stream, struct slice type,
          struct slice data, struct slice meta)
{
    buf_clear(&t->line);
    buf_add_str(&t->line, mark);
    clii_add_plain(&t->line, stream);
    buf_add_str(&t->line, stream.len > 0 ? " " : "");
    clii_add_plain(&t->line, type);
    buf_add_byte(&t->line, ' ');
    clii_add_plain(&t->line, data);
    buf_add_str(&t->line, meta.len > 0 ? " " : "");
    clii_add_plain(&t->line, meta);
    buf_add_byte(&t->line, '\n');
    clii_put_buf(t->cli, &t->line);
}

static void
put_json(struct trial *t, const struct transform_out *o)
{
    struct json_out j;
    struct slice    raw;

    buf_clear(&t->line);
    json_out_init(&j, &t->line);
    json_out_object(&j);
    json_out_key(&j, "origins");
    json_out_array(&j);
    for (size_t i = 0; i < o->origin_count; i++)
        json_out_u64(&j, o->origins[i]);
    json_out_array_end(&j);
    json_out_key(&j, "changed");
    json_out_bool(&j, o->changed);
    if (o->stream.data != NULL) {
        json_out_key(&j, "stream");
        json_out_string(&j, o->stream);
    }
    json_out_key(&j, "type");
    json_out_string(&j, o->type);
    json_out_key(&j, o->json ? "data" : "data_base64");
    if (o->json && json_value(o->data, &raw, NULL) == 0) {
        json_out_raw(&j, raw);
    } else {
        buf_clear(&t->data);
        base64_encode(&t->data, o->data);
        json_out_string(&j, buf_slice(&t->data));
    }
    if (o->meta.len > 0 && json_value(o->meta, &raw, NULL) == 0) {
        json_out_key(&j, "metadata");
        json_out_raw(&j, raw);
    }
    json_out_object_end(&j);
    buf_add_byte(&t->line, '\n');
    clii_put_buf(t->cli, &t->line);
}

static int
take_output(void *arg, const struct transform_out *o, struct err *err)
{
    struct trial *t = arg;

    t->outputs++;
    if (clii_json(t->cli))
        put_json(t, o);
    else
        put_plain(t, o->changed ? "  ~ " : "  = ", o->stream, o->type, o->data, o->meta);
    return 0;
}

static int
end_stream(struct trial *t, struct err *err)
{
    if (!t->begun)
        return 0;
    t->begun = false;
    return transform_end(t->run, err);
}

/* Another stream than the line before: a run of its own. */
static int
take_stream(struct trial *t, struct slice name, struct err *err)
{
    int rc = 0;

    if (t->begun && slice_eq(buf_slice(&t->stream), name))
        goto out;
    TRY(end_stream(t, err));
    buf_clear(&t->stream);
    buf_add_slice(&t->stream, name);
    TRY(transform_begin(t->run, buf_slice(&t->stream), take_output, t, err));
    t->begun = true;
    t->next = 0;
out:
    return rc;
}

static int
read_event(struct trial *t, struct slice line, struct transform_event *e, struct err *err)
{
    struct json_field f[FIELD_COUNT] = {
        [FIELD_TYPE] = {.name = "type", .required = true},
        [FIELD_DATA] = {.name = "data"},
        [FIELD_DATA64] = {.name = "data_base64"},
        [FIELD_META] = {.name = "metadata"},
        [FIELD_STREAM] = {.name = "stream"},
        [FIELD_VERSION] = {.name = "version"},
        [FIELD_POSITION] = {.name = "position"},
        [FIELD_ID] = {.name = "id"},
        [FIELD_CREATED] = {.name = "created"},
    };
    struct buf   type = {0};
    struct slice text, name = slice_str("test-1");
    int          rc = 0;

    buf_clear(&t->data);
    TRY(json_pick(line, f, FIELD_COUNT, JSON_PICK_ANY, err));
    buf_clear(&t->text);
    TRY(json_string_decode(f[FIELD_TYPE].value, &type, err));
    if (f[FIELD_STREAM].value.data != NULL)
        TRY(json_string_view(f[FIELD_STREAM].value, &t->text, &name, err));
    TRY(take_stream(t, name, err));
    e->stream = buf_slice(&t->stream);
    e->version = t->next;
    (void)json_uint64(f[FIELD_VERSION].value, &e->version);
    (void)json_uint64(f[FIELD_POSITION].value, &e->position);
    if (f[FIELD_ID].value.data != NULL &&
        json_string_view(f[FIELD_ID].value, &t->text, &text, NULL) == 0)
        (void)id_parse(text, &e->id);
    if (f[FIELD_CREATED].value.data != NULL &&
        json_string_view(f[FIELD_CREATED].value, &t->text, &text, NULL) == 0)
        (void)time_parse(text, &e->created_us);
    e->data = f[FIELD_DATA].value.data != NULL ? f[FIELD_DATA].value : slice_str("null");
    e->json = f[FIELD_DATA64].value.data == NULL;
    if (!e->json) {
        TRY(json_string_view(f[FIELD_DATA64].value, &t->text, &text, err));
        buf_add_slice(&t->data, text);
        if (t->data.failed || !base64_decode(t->data.data, t->data.len, &t->data.len))
            FAIL(err, E_INVALID, ERR_DATA, "\"data_base64\": is no base64");
        e->data = buf_slice(&t->data);
    }
    if (f[FIELD_META].value.data != NULL)
        e->meta = f[FIELD_META].value;
    buf_clear(&t->text);
    buf_add_slice(&t->text, buf_slice(&type));
    e->type = buf_slice(&t->text);
out:
    buf_fini(&type);
    return rc;
}

static int
take_line(void *arg, struct slice line, uint64_t number, struct err *err)
{
    struct trial          *t = arg;
    struct transform_event e = {0};
    uint64_t               before;
    int                    rc;

    rc = read_event(t, line, &e, err);
    if (rc != 0) {
        err_prefix(err, "line %llu", (unsigned long long)number);
        goto out;
    }
    if (!clii_json(t->cli))
        put_plain(t, "", e.stream, e.type, e.json ? e.data : slice_str("(bytes)"), e.meta);
    before = t->outputs;
    TRY(transform_event(t->run, &e, err));
    t->next = e.version + 1;
    if (t->outputs == before && !clii_json(t->cli))
        clii_put_str(t->cli, "  -\n");
    TRY(clii_flush(t->cli, err));
out:
    return rc;
}

/* Rules, or what names a script; a file that ends with ".lua" is one. */
static int
compile(const char *file, struct transform **out, struct err *err)
{
    const struct transform_opts opts = {.name = file, .read_file = enginei_read_file};
    size_t                      len = strlen(file);
    struct buf                  text = {0};
    int                         rc;

    if (len > 4 && strcmp(file + len - 4, ".lua") == 0) {
        buf_add_str(&text, "{\"file\":");
        json_put_str(&text, file);
        buf_add_byte(&text, '}');
        TRY(transform_from_json(buf_slice(&text), &opts, out, err));
    } else {
        TRY(enginei_read_file(NULL, file, &text, err));
        TRY(transform_from_yaml(buf_slice(&text), &opts, out, err));
    }
out:
    buf_fini(&text);
    return rc;
}

int
clii_transform_test(struct cli *c, struct err *err)
{
    struct trial      t = {.cli = c};
    struct transform *transform = NULL;
    int               rc;

    TRY(compile(c->args[0], &transform, err));
    TRY(transform_run_new(transform, &t.run, err));
    TRY(clii_each_line(LINE_MAX_BYTES, take_line, &t, err));
    TRY(end_stream(&t, err));
out:
    transform_run_free(t.run);
    transform_free(transform);
    buf_fini(&t.stream);
    buf_fini(&t.text);
    buf_fini(&t.data);
    buf_fini(&t.line);
    return rc;
}
