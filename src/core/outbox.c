#include "core/outbox.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "base/template.h"

#define NAME_MAX_BYTES 64

/* The columns that an event is made of, and then those of its metadata. */
enum column {
    COLUMN_ID,
    COLUMN_AGGREGATETYPE,
    COLUMN_AGGREGATEID,
    COLUMN_TYPE,
    COLUMN_PAYLOAD,
    COLUMN_HEADERS,
    COLUMN_TIMESTAMP,
    COLUMN_METADATA,
    COLUMNS = COLUMN_METADATA + OUTBOX_METADATA_MAX,
};

struct outbox {
    struct outbox_conf conf; /* its texts are `texts` */
    char              *source;
    char              *texts[12 + OUTBOX_METADATA_MAX];
    size_t             text_count;
    struct template   *stream;
    struct buf         scratch, value, blob;
    struct slice       names[COLUMNS];  /* no data: not asked for */
    struct slice       values[COLUMNS]; /* of the row under way, raw; no data: it has none */
    size_t             columns;
};

/* Takes a copy of a text over; NULL stays NULL. */
static bool
own(struct outbox *o, const char **text)
{
    if (*text == NULL)
        return true;
    must(o->text_count < sizeof o->texts / sizeof o->texts[0]);
    *text = o->texts[o->text_count] = strdup(*text);
    o->text_count++;
    return *text != NULL;
}

static void
name_columns(struct outbox *o)
{
    const struct outbox_columns *c = &o->conf.columns;

    must(o->conf.metadata_count <= OUTBOX_METADATA_MAX);
    o->names[COLUMN_ID] = slice_str(c->id);
    o->names[COLUMN_AGGREGATETYPE] = slice_str(c->aggregatetype);
    o->names[COLUMN_AGGREGATEID] = slice_str(c->aggregateid);
    o->names[COLUMN_TYPE] = slice_str(c->type);
    o->names[COLUMN_PAYLOAD] = slice_str(c->payload);
    o->names[COLUMN_HEADERS] = slice_str(c->headers);
    o->names[COLUMN_TIMESTAMP] = slice_str(c->timestamp);
    for (size_t i = 0; i < o->conf.metadata_count; i++)
        o->names[COLUMN_METADATA + i] = slice_str(o->conf.metadata[i]);
    o->columns = COLUMN_METADATA + o->conf.metadata_count;
}

int
outbox_new(const struct outbox_conf *conf, const char *source, struct outbox **out, struct err *err)
{
    struct outbox         *o = calloc(1, sizeof *o);
    struct outbox_columns *c;
    bool                   all;
    int                    rc = 0;

    *out = NULL;
    if (o == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    o->conf = *conf;
    c = &o->conf.columns;
    o->source = strdup(source);
    all = o->source != NULL && own(o, &o->conf.table) && own(o, &o->conf.message) &&
          own(o, &o->conf.stream) && own(o, &c->id) && own(o, &c->aggregatetype) &&
          own(o, &c->aggregateid) && own(o, &c->type) && own(o, &c->payload) &&
          own(o, &c->headers) && own(o, &c->timestamp);
    for (size_t i = 0; all && i < conf->metadata_count; i++)
        all = own(o, &o->conf.metadata[i]);
    if (!all)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    name_columns(o);
    /* The preset speaks of the columns by their own names. */
    if (strcmp(o->conf.stream, "{aggregatetype}-{aggregateid}") != 0) {
        rc = template_new(slice_str(o->conf.stream), TEMPLATE_TEXT, NULL, NULL, &o->stream, err);
        if (rc != 0)
            err_prefix(err, "source %s: stream", source);
    }
    if (rc == 0) {
        *out = o;
        o = NULL;
    }
out:
    outbox_free(o);
    return rc;
}

void
outbox_free(struct outbox *o)
{
    if (o == NULL)
        return;
    for (size_t i = 0; i < o->text_count; i++)
        free(o->texts[i]);
    free(o->source);
    template_free(o->stream);
    buf_fini(&o->scratch);
    buf_fini(&o->value);
    buf_fini(&o->blob);
    free(o);
}

bool
outbox_owns(const struct outbox *o, const struct change *ch)
{
    if (ch->op == CHANGE_MESSAGE)
        return o->conf.message != NULL && slice_is(ch->table, o->conf.message);
    return ch->op != CHANGE_SCHEMA && o->conf.table != NULL && slice_is(ch->table, o->conf.table);
}

/* All columns of a row that are asked for, in one pass. */
static void
read_columns(struct outbox *o, struct slice row)
{
    struct json_iter it;
    struct slice     key = {0}, raw;
    int              rc;

    memset(o->values, 0, sizeof o->values);
    rc = json_object_iter(&it, row, NULL);
    while (rc == 0 && (rc = json_iter_next(&it, &key, &raw, NULL)) == 0)
        for (size_t i = 0; i < o->columns; i++)
            if (o->names[i].data != NULL && json_key_is(key, o->names[i]))
                o->values[i] = raw;
    if (rc != E_END)
        memset(o->values, 0, sizeof o->values);
}

static bool
column(const struct outbox *o, size_t which, struct slice *raw)
{
    must(which < COLUMNS);
    *raw = o->values[which];
    return raw->data != NULL;
}

/* A value that is there and not null, as text, at the end of `to`. */
static int
put_value(struct slice raw, const char *name, struct buf *to, struct err *err)
{
    size_t at = to->len;
    int    rc;

    if (raw.data == NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the outbox's row has no column %s", name);
    rc = template_put_json(raw, false, to, err);
    if (rc == 0 && to->len == at && json_type(raw) != JSON_STRING)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the outbox's row has NULL in its column %s", name);
    return rc;
}

static int
put_column(const struct outbox *o, enum column which, struct buf *to, struct err *err)
{
    return put_value(o->values[which], o->names[which].data, to, err);
}

static int
look_up_column(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct slice *row = arg;
    struct slice        found = {0};
    char                text[NAME_MAX_BYTES + 1];

    must(!raw);
    if (name.len > NAME_MAX_BYTES)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the outbox's row has no such column");
    (void)snprintf(text, sizeof text, "%.*s", SLICE_FMT(name));
    (void)json_get(*row, text, &found);
    return put_value(found, text, value, err);
}

static int
put_stream(struct outbox *o, struct slice row, struct buf *text, struct err *err)
{
    int rc;

    if (o->stream != NULL)
        return template_expand(o->stream, look_up_column, &row, &o->scratch, text, err);
    TRY(put_column(o, COLUMN_AGGREGATETYPE, text, err));
    buf_add_byte(text, '-');
    TRY(put_column(o, COLUMN_AGGREGATEID, text, err));
out:
    return rc;
}

/* {"$blob":"hex"}: bytes that are no text. */
static bool
is_blob(struct slice raw, struct slice *hex)
{
    return json_type(raw) == JSON_OBJECT && raw.len > 11 && json_get(raw, "$blob", hex) &&
           json_type(*hex) == JSON_STRING && raw.len == hex->len + 10;
}

static int
nibble(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool
put_hex(struct slice hex, struct buf *out)
{
    const uint8_t *p = hex.data;

    for (size_t i = 0; i + 1 < hex.len; i += 2) {
        int high = nibble(p[i]), low = nibble(p[i + 1]);

        if (high < 0 || low < 0)
            return false;
        buf_add_byte(out, (uint8_t)(high << 4 | low));
    }
    return hex.len % 2 == 0;
}

static struct slice
unquoted(struct slice raw)
{
    must(raw.len >= 2);
    return slice_of((const char *)raw.data + 1, raw.len - 2);
}

/* A UUID is the event's id; another value makes one, the same each time. */
static int
find_id(struct outbox *o, const struct change *ch, struct ox_id *id, struct err *err)
{
    struct slice raw, hex;
    int          rc = 0;

    buf_clear(&o->value);
    if (column(o, COLUMN_ID, &raw) && is_blob(raw, &hex) && hex.len == 34) {
        if (put_hex(unquoted(hex), &o->value) && o->value.len == sizeof id->b) {
            char text[ID_TEXT_LEN + 1];

            memcpy(id->b, o->value.data, sizeof id->b);
            id_format(id, text);
            buf_clear(&o->value);
            buf_add_str(&o->value, text);
            return 0;
        }
        buf_clear(&o->value);
    }
    TRY(put_column(o, COLUMN_ID, &o->value, err));
    if (id_parse(buf_slice(&o->value), id) && !id_is_zero(id))
        goto out;
    buf_clear(&o->scratch);
    buf_add_str(&o->scratch, o->source);
    buf_add_byte(&o->scratch, 0);
    buf_add_slice(&o->scratch, ch->table);
    buf_add_byte(&o->scratch, 0);
    buf_add_slice(&o->scratch, buf_slice(&o->value));
    *id = id_of_bytes(buf_slice(&o->scratch));
out:
    return rc;
}

/* The data: as it stands in the row, or decoded behind `text`. */
static int
take_payload(struct outbox *o, struct buf *text, struct outbox_event *e, struct err *err)
{
    struct slice raw, in;
    int          rc = 0;

    if (!column(o, COLUMN_PAYLOAD, &raw))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the outbox's row has no column %s",
                   o->conf.columns.payload);
    e->text.at = text->len;
    e->json = true;
    e->raw = raw;
    if (o->conf.payload != OUTBOX_PAYLOAD_JSON && is_blob(raw, &in)) {
        e->json = false;
        if (!put_hex(unquoted(in), text))
            FAIL(err, E_FORMAT, ERR_DATA, "the outbox's payload is no hexadecimal text");
    } else if (o->conf.payload != OUTBOX_PAYLOAD_JSON && json_type(raw) == JSON_STRING) {
        e->json = false;
        if (o->conf.payload == OUTBOX_PAYLOAD_HEX) {
            in = unquoted(raw);
            if (in.len < 3 || memcmp(in.data, "\\\\x", 3) != 0 ||
                !put_hex(slice_of((const char *)in.data + 3, in.len - 3), text))
                FAIL(err, E_FORMAT, ERR_DATA, "the outbox's payload is no hexadecimal text");
        } else {
            TRY(json_string_decode(raw, text, err));
            in = slice_of(text->data + e->text.at, text->len - e->text.at);
            e->json = o->conf.payload == OUTBOX_PAYLOAD_AUTO && json_check(in, NULL) == 0;
        }
    } else {
        return 0;
    }
    e->raw = slice_of(NULL, 0);
    e->text.len = text->len - e->text.at;
out:
    return rc;
}

/* The headers, an object or the text of one; *none: there are none. */
static int
find_headers(struct outbox *o, struct slice *out, bool *none, struct err *err)
{
    struct slice raw;
    int          rc = 0;

    *none = true;
    if (!column(o, COLUMN_HEADERS, &raw) || json_is_null(raw))
        return 0;
    *out = raw;
    if (json_type(raw) == JSON_STRING) {
        TRY(json_string_view(raw, &o->blob, out, err));
        if (out->len == 0)
            return 0;
        if (json_value(*out, out, NULL) != 0)
            *out = raw;
    }
    if (json_type(*out) != JSON_OBJECT)
        FAIL(err, E_SCHEMA, ERR_DATA, "the outbox's %s are no JSON object",
             o->conf.columns.headers);
    *none = false;
out:
    return rc;
}

static void
put_source(struct outbox *o, const struct change *ch, struct json_out *j)
{
    json_out_key(j, "$source");
    json_out_object(j);
    json_out_key(j, "name");
    json_out_str(j, o->source);
    json_out_key(j, "table");
    json_out_string(j, ch->table);
    json_out_key(j, "key");
    json_out_string(j, buf_slice(&o->value));
    json_out_key(j, "position");
    json_out_string(j, ch->position);
    if (ch->time_us != 0) {
        json_out_key(j, "time_us");
        json_out_i64(j, ch->time_us);
    }
    json_out_object_end(j);
}

static int
put_metadata(struct outbox *o, const struct change *ch, struct buf *text, struct err *err)
{
    struct json_out  j;
    struct json_iter it;
    struct slice     headers = {0}, key, value;
    bool             none;
    int              rc;

    TRY(find_headers(o, &headers, &none, err));
    json_out_init(&j, text);
    json_out_object(&j);
    put_source(o, ch, &j);
    if (!none)
        TRY(json_object_iter(&it, headers, err));
    while (!none && (rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (slice_is(key, "$source"))
            continue;
        json_out_key_slice(&j, key);
        json_out_raw(&j, value);
    }
    if (rc != 0 && rc != E_END)
        goto out;
    rc = 0;
    for (size_t i = 0; i < o->conf.metadata_count; i++) {
        const char *name = o->conf.metadata[i];

        if ((!none && json_get(headers, name, &value)) || !column(o, COLUMN_METADATA + i, &value))
            continue;
        json_out_key(&j, name);
        json_out_raw(&j, value);
    }
    json_out_object_end(&j);
out:
    return rc;
}

/* A point in time: a text, or a number of milliseconds or microseconds; 0: it is none. */
static int64_t
find_time(const struct outbox *o)
{
    struct slice raw;
    char         text[64];
    int64_t      us = 0;

    if (!column(o, COLUMN_TIMESTAMP, &raw))
        return 0;
    if (json_int64(raw, &us))
        return us < INT64_C(100000000000000) ? us * 1000 : us;
    if (json_type(raw) != JSON_STRING || raw.len > 50)
        return 0;
    (void)snprintf(text, sizeof text, "%.*s", SLICE_FMT(unquoted(raw)));
    if (time_parse(slice_str(text), &us))
        return us;
    /* "+00", as PostgreSQL writes UTC; or nothing, where the column knows no zone. */
    (void)snprintf(text, sizeof text, "%.*s:00", SLICE_FMT(unquoted(raw)));
    if (time_parse(slice_str(text), &us))
        return us;
    (void)snprintf(text, sizeof text, "%.*sZ", SLICE_FMT(unquoted(raw)));
    return time_parse(slice_str(text), &us) ? us : 0;
}

/* What is one row: of a table, or the content of a message. */
static int
find_row(const struct outbox *o, const struct change *ch, struct slice *row, struct err *err)
{
    switch (ch->op) {
    case CHANGE_READ:
    case CHANGE_INSERT:
        *row = ch->after;
        return 0;
    case CHANGE_MESSAGE:
        if (!json_get(ch->after, "content", row) || json_type(*row) != JSON_OBJECT)
            RETURN_ERR(err, E_SCHEMA, ERR_DATA, "the message is no JSON object");
        return 0;
    case CHANGE_UPDATE:
        if (!o->conf.updates_ignored)
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "a row of the outbox was updated, which is no event");
        return E_END;
    default:
        return E_END;
    }
}

static struct outbox_span
span_from(const struct buf *text, size_t at)
{
    must(text->len >= at);
    return (struct outbox_span){at, text->len - at};
}

int
outbox_event(struct outbox *o, const struct change *ch, struct buf *text, struct outbox_event *out,
             struct err *err)
{
    struct slice row;
    size_t       at = text->len;
    int          rc;

    must(outbox_owns(o, ch));
    *out = (struct outbox_event){0};
    TRY(find_row(o, ch, &row, err));
    read_columns(o, row);
    TRY(put_stream(o, row, text, err));
    out->name = span_from(text, at);
    at = text->len;
    TRY(put_column(o, COLUMN_TYPE, text, err));
    out->type = span_from(text, at);
    TRY(find_id(o, ch, &out->id, err));
    at = text->len;
    TRY(put_metadata(o, ch, text, err));
    out->meta = span_from(text, at);
    TRY(take_payload(o, text, out, err));
    out->created_us = find_time(o);
out:
    return rc;
}
