#include <stdlib.h>

#include "base/json.h"
#include "source/outbox/outbox_int.h"

#define BYTES_MAX ((size_t)1 << 30)
#define BYTES_MUCH ((size_t)8 << 20) /* of one batch */
#define LIMIT_FIRST 64u
#define LIMIT_MAX 65536u

void
outboxi_batch_fini(struct outboxi_batch *b)
{
    buf_fini(&b->bytes);
    buf_fini(&b->checkpoint);
    free(b->rows);
    free(b->changes);
    *b = (struct outboxi_batch){0};
}

int
outboxi_batch_begin(struct outboxi_batch *b, uint32_t max, uint32_t *limit, struct err *err)
{
    if (b->limit == 0)
        b->limit = LIMIT_FIRST;
    else if (b->bytes.len > BYTES_MUCH)
        b->limit = b->limit > 4 ? b->limit / 4 : 1;
    else if (b->limit < LIMIT_MAX)
        b->limit *= 2;
    *limit = b->limit < max ? b->limit : max;
    if (b->room < max) {
        free(b->rows);
        free(b->changes);
        b->room = 0;
        b->rows = calloc(max, sizeof b->rows[0]);
        b->changes = calloc(max, sizeof b->changes[0]);
        if (b->rows == NULL || b->changes == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        b->room = max;
    }
    buf_clear(&b->bytes);
    b->bytes.limit = BYTES_MAX;
    b->count = 0;
    return 0;
}

struct outboxi_span
outboxi_value(struct outboxi_batch *b, size_t from)
{
    return (struct outboxi_span){from, b->bytes.len - from};
}

void
outboxi_row_begin(struct outboxi_batch *b)
{
    must(b->count < b->room);
    b->rows[b->count] = (struct outboxi_row){.row = {b->bytes.len, 0}};
    buf_add_byte(&b->bytes, '{');
}

void
outboxi_member(struct outboxi_batch *b, struct slice name)
{
    if (b->bytes.len > 0 && b->bytes.data[b->bytes.len - 1] != '{')
        buf_add_byte(&b->bytes, ',');
    json_put_string(&b->bytes, name);
    buf_add_byte(&b->bytes, ':');
}

void
outboxi_row_end(struct outboxi_batch *b)
{
    struct outboxi_row *r = &b->rows[b->count++];

    buf_add_byte(&b->bytes, '}');
    r->row = outboxi_value(b, r->row.at);
}

void
outboxi_hex(struct buf *out, struct slice bytes)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t    *p = bytes.data;

    buf_add_byte(out, '"');
    for (size_t i = 0; i < bytes.len; i++) {
        buf_add_byte(out, (uint8_t)digits[p[i] >> 4]);
        buf_add_byte(out, (uint8_t)digits[p[i] & 15]);
    }
    buf_add_byte(out, '"');
}

void
outboxi_checkpoint_taken(struct outboxi_batch *b)
{
    buf_clear(&b->checkpoint);
    buf_add_str(&b->checkpoint, "{\"taken\":[");
    for (uint32_t i = 0; i < b->count; i++) {
        if (i > 0)
            buf_add_byte(&b->checkpoint, ',');
        buf_add(&b->checkpoint, b->bytes.data + b->rows[i].id.at, b->rows[i].id.len);
    }
    buf_add_str(&b->checkpoint, "]}");
}

static struct slice
slice_at(const struct outboxi_batch *b, struct outboxi_span s)
{
    return slice_of(b->bytes.data + s.at, s.len);
}

/* A raw JSON value without what is around a string. */
static struct slice
bare(struct slice raw)
{
    return json_type(raw) == JSON_STRING && raw.len > 2
               ? slice_of((const char *)raw.data + 1, raw.len - 2)
               : raw;
}

int
outboxi_batch_end(struct outboxi_batch *b, const char *table, struct source_batch *out,
                  struct err *err)
{
    if (b->bytes.failed || b->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for rows of the outbox");
    for (uint32_t i = 0; i < b->count; i++) {
        const struct outboxi_row *r = &b->rows[i];
        struct slice              id = bare(slice_at(b, r->id));

        b->changes[i] =
            (struct change){.op = CHANGE_INSERT,
                            .table = slice_str(table),
                            .key = id,
                            .after = slice_at(b, r->row),
                            .position = r->position.len > 0 ? slice_at(b, r->position) : id};
        must(b->changes[i].position.len > 0);
    }
    out->changes = b->changes;
    out->count = b->count;
    out->checkpoint = buf_slice(&b->checkpoint);
    return 0;
}

int
outboxi_each_taken(struct slice checkpoint, outboxi_id_fn *fn, void *arg, uint32_t *count,
                   struct err *err)
{
    struct json_iter it;
    struct slice     list, value, hex, text;
    struct buf       scratch = {0};
    int              rc = 0;

    *count = 0;
    if (!json_get(checkpoint, "taken", &list))
        return 0;
    TRY(json_array_iter(&it, list, err));
    while ((rc = json_iter_next(&it, NULL, &value, err)) == 0) {
        if (json_type(value) == JSON_OBJECT && json_get(value, "$blob", &hex)) {
            TRY(fn(arg, bare(hex), true, err));
        } else {
            text = value;
            if (json_type(value) == JSON_STRING)
                TRY(json_string_view(value, &scratch, &text, err));
            TRY(fn(arg, text, false, err));
        }
        (*count)++;
    }
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&scratch);
    return rc;
}

int
outboxi_owe(struct outboxi_state *s, struct slice checkpoint, struct err *err)
{
    buf_clear(&s->due);
    buf_add_slice(&s->due, checkpoint);
    if (s->due.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

int
outboxi_status(const struct outboxi_state *s, struct ox_env *env, bool connected, struct buf *out,
               struct err *err)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "connected");
    json_out_bool(&o, connected);
    json_out_key(&o, "role");
    json_out_str(&o, s->leads ? "leader" : "standby");
    json_out_key(&o, "rows");
    json_out_u64(&o, s->rows);
    json_out_key(&o, "held_ms");
    json_out_u64(&o,
                 s->held_since_us == 0 ? 0 : (env->ops->mono_us(env) - s->held_since_us) / 1000);
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}
