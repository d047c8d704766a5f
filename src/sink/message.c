/* CloudEvents out of events. Texts of headers gather in one buffer and are pointed at at the end.
 */
#include "sink/message.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/rfc3339.h"
#include "sink/fill.h"
#include "sink/message_int.h"

#define KEEP_MAX 262144 /* bytes of a buffer that stay for the next event */
#define NAME_MAX_LEN 32
#define TRACEPARENT_LEN 55
#define TRACESTATE_MAX 512

enum attr {
    A_SPECVERSION,
    A_ID,
    A_SOURCE,
    A_TYPE,
    A_SUBJECT,
    A_TIME,
    A_DATACONTENTTYPE,
    A_PARTITIONKEY,
    A_SEQUENCE,
    A_POSITION,
    A_TRACEPARENT,
    A_TRACESTATE,
    A_COUNT,
};

static const char *const attrs[A_COUNT] = {
    "specversion",     "id",           "source",   "type",          "subject",     "time",
    "datacontenttype", "partitionkey", "sequence", "oxbowposition", "traceparent", "tracestate"};

static const char *const prefixes[] = {
    [SINK_HTTP] = "ce-", [SINK_KAFKA] = "ce_", [SINK_AMQP] = "cloudEvents_", [SINK_NATS] = "ce-"};

static const char json_type_text[] = "application/json";
static const char bytes_type_text[] = "application/octet-stream";
static const char whole_type_text[] = "application/cloudevents+json";

const char *const      sink_formats[] = {"binary", "structured", "raw", "debezium", NULL};
const struct conf_type sink_header_type = {.kind = CONF_STRING, .min = 1, .max = 1024};

struct sink_form {
    enum sink_binding binding;
    enum sink_format  format;
    char              names[A_COUNT][NAME_MAX_LEN];
    struct template  *source;
    uint32_t          own_count;
    char             *own_names[SINK_HEADERS_OWN_MAX];
    struct template  *own[SINK_HEADERS_OWN_MAX];
    struct buf        text, body, scratch, trace, state;
    size_t            starts[SINK_HEADERS_MAX], lens[SINK_HEADERS_MAX];
};

int
sink_template(const struct conf *conf, const char *key, enum template_kind kind,
              struct template **out, struct err *err)
{
    const char *text = conf_str(conf, key);
    struct err  why;

    *out = NULL;
    if (text != NULL && template_new(slice_str(text), kind, sink_fill_known, NULL, out, &why) != 0)
        return conf_fail(conf_child(conf, key), err, "%s", why.text);
    return 0;
}

static int
add_own(struct sink_form *f, const struct conf *h, struct err *err)
{
    struct err why;

    must(f->own_count < SINK_HEADERS_OWN_MAX);
    f->own_names[f->own_count] = strdup(conf_key(h));
    if (f->own_names[f->own_count] == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    if (template_new(slice_str(conf_text(h)), TEMPLATE_TEXT, sink_fill_known, NULL,
                     &f->own[f->own_count++], &why) != 0)
        return conf_fail(h, err, "%s", why.text);
    return 0;
}

int
sink_form_new(const struct sink_form_def *def, const struct conf *at, struct sink_form **out,
              struct err *err)
{
    struct sink_form *f = calloc(1, sizeof *f);
    struct err        why;
    int               rc = 0;

    *out = NULL;
    if (f == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    f->binding = def->binding;
    f->format = def->format;
    for (int i = 0; i < A_COUNT; i++)
        (void)snprintf(f->names[i], sizeof f->names[i], "%s%s", prefixes[f->binding], attrs[i]);
    if (template_new(slice_str(def->source), TEMPLATE_URL, sink_fill_known, NULL, &f->source,
                     &why) != 0) {
        rc = conf_fail(at, err, "source: %s", why.text);
        goto out;
    }
    for (const struct conf *h = conf_first(def->headers); h != NULL; h = conf_next(h))
        TRY(add_own(f, h, err));
    *out = f;
    f = NULL;
out:
    sink_form_free(f);
    return rc;
}

int
sink_form_open(const struct conf *conf, enum sink_binding binding, struct sink_form **out,
               struct err *err)
{
    struct sink_form_def def = {.binding = binding,
                                .format = (enum sink_format)conf_enum(conf, "format"),
                                .source = conf_str(conf, "source"),
                                .headers = conf_child(conf, "headers")};

    return sink_form_new(&def, conf, out, err);
}

void
sink_form_free(struct sink_form *f)
{
    if (f == NULL)
        return;
    template_free(f->source);
    for (uint32_t i = 0; i < f->own_count; i++) {
        free(f->own_names[i]);
        template_free(f->own[i]);
    }
    buf_fini(&f->text);
    buf_fini(&f->body);
    buf_fini(&f->scratch);
    buf_fini(&f->trace);
    buf_fini(&f->state);
    free(f);
}

/* trace context */

static bool
is_hex(const char *s, size_t from, size_t to)
{
    bool zero = true;

    for (size_t i = from; i < to; i++) {
        if ((s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f'))
            return false;
        zero = zero && s[i] == '0';
    }
    return !zero || to - from == 2;
}

/* version-trace-parent-flags in lower-case hex, not all zero; W3C: any other is to be ignored. */
static bool
is_traceparent(struct slice s)
{
    const char *t = s.data;

    return s.len == TRACEPARENT_LEN && t[2] == '-' && t[35] == '-' && t[52] == '-' &&
           memcmp(t, "ff", 2) != 0 && is_hex(t, 0, 2) && is_hex(t, 3, 35) && is_hex(t, 36, 52) &&
           is_hex(t, 53, 55);
}

static bool
is_printable(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (((const uint8_t *)s.data)[i] < ' ' || ((const uint8_t *)s.data)[i] > '~')
            return false;
    return true;
}

static void
take_text(struct slice meta, const char *name, struct buf *out)
{
    struct slice raw;
    struct err   ignored;

    buf_clear(out);
    if (json_get(meta, name, &raw) && json_type(raw) == JSON_STRING &&
        json_string_decode(raw, out, &ignored) != 0)
        buf_clear(out);
}

static void
take_trace(struct sink_form *f, struct slice meta)
{
    buf_clear(&f->trace);
    buf_clear(&f->state);
    if (meta.len == 0)
        return;
    take_text(meta, "traceparent", &f->trace);
    if (!is_traceparent(buf_slice(&f->trace))) {
        buf_clear(&f->trace);
        return;
    }
    take_text(meta, "tracestate", &f->state);
    if (f->state.len > TRACESTATE_MAX || !is_printable(buf_slice(&f->state)))
        buf_clear(&f->state);
}

/* attributes */

static const char *
data_type(const struct sink_item *item)
{
    if (item->data.len == 0)
        return NULL;
    return item->json ? json_type_text : bytes_type_text;
}

/* False: the event has none of it. */
static int
put_attr(struct sink_form *f, enum attr a, const struct sink_item *item, struct buf *out,
         struct err *err)
{
    char text[TIME_TEXT_MAX];

    switch (a) {
    case A_SPECVERSION:
        buf_add_str(out, "1.0");
        break;
    case A_ID:
        id_format(&item->id, text);
        buf_add_str(out, text);
        break;
    case A_SOURCE:
        return template_expand(f->source, sink_fill, (void *)(uintptr_t)item, &f->scratch, out,
                               err);
    case A_TYPE:
        buf_add_slice(out, item->type);
        break;
    case A_SUBJECT:
    case A_PARTITIONKEY:
        buf_add_slice(out, item->stream);
        break;
    case A_TIME:
        time_format(item->created_us, text);
        buf_add_str(out, text);
        break;
    case A_DATACONTENTTYPE:
        if (data_type(item) != NULL)
            buf_add_str(out, data_type(item));
        break;
    case A_SEQUENCE:
        buf_printf(out, "%020llu", (unsigned long long)item->version);
        break;
    case A_POSITION:
        buf_add_u64(out, item->pos.v);
        break;
    case A_TRACEPARENT:
        buf_add_slice(out, buf_slice(&f->trace));
        break;
    case A_TRACESTATE:
    case A_COUNT:
        buf_add_slice(out, buf_slice(&f->state));
        break;
    }
    return 0;
}

/* headers */

/* The bindings of HTTP and NATS: what is not printable ASCII, blanks, quotes and percents, as %XX.
 */
static void
put_encoded(struct buf *out, struct slice s)
{
    const uint8_t *p = s.data;

    for (size_t i = 0; i < s.len; i++) {
        if (p[i] <= ' ' || p[i] > '~' || p[i] == '"' || p[i] == '%')
            buf_printf(out, "%%%02X", p[i]);
        else
            buf_add_byte(out, p[i]);
    }
}

static bool
is_text_binding(const struct sink_form *f)
{
    return f->binding == SINK_HTTP || f->binding == SINK_NATS;
}

static void
begin(struct sink_form *f, struct sink_message *m, const char *name)
{
    must(m->count < SINK_HEADERS_MAX);
    m->headers[m->count].name = name;
    f->starts[m->count] = f->text.len;
}

static void
end(struct sink_form *f, struct sink_message *m)
{
    f->lens[m->count] = f->text.len - f->starts[m->count];
    buf_add_byte(&f->text, 0);
    m->count++;
}

static void
put_header(struct sink_form *f, struct sink_message *m, const char *name, struct slice value,
           bool encode)
{
    begin(f, m, name);
    if (encode)
        put_encoded(&f->text, value);
    else
        buf_add_slice(&f->text, value);
    end(f, m);
}

static int
put_attrs(struct sink_form *f, const struct sink_item *item, struct sink_message *m,
          struct err *err)
{
    struct buf value = {0};
    int        rc = 0;

    for (int a = 0; a < A_COUNT; a++) {
        /* Elsewhere the protocol has a place of its own for it. */
        if (a == A_DATACONTENTTYPE && f->binding != SINK_NATS)
            continue;
        buf_clear(&value);
        TRY(put_attr(f, (enum attr)a, item, &value, err));
        if (value.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
        if (value.len > 0)
            put_header(f, m, f->names[a], buf_slice(&value), is_text_binding(f));
    }
out:
    buf_fini(&value);
    return rc;
}

static int
put_own(struct sink_form *f, const struct sink_item *item, struct sink_message *m, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < f->own_count; i++) {
        size_t from = f->text.len;

        begin(f, m, f->own_names[i]);
        TRY(template_expand(f->own[i], sink_fill, (void *)(uintptr_t)item, &f->scratch, &f->text,
                            err));
        for (size_t k = from; k < f->text.len; k++)
            if (f->text.data[k] < ' ' || f->text.data[k] == 0x7f)
                FAIL(err, E_SCHEMA, ERR_DATA, "header %s: its value has control characters",
                     f->own_names[i]);
        end(f, m);
    }
out:
    return rc;
}

/* the whole as JSON */

static int
put_whole(struct sink_form *f, const struct sink_item *item, struct err *err)
{
    struct json_out o;
    struct buf      value = {0};
    int             rc = 0;

    json_out_init(&o, &f->body);
    json_out_object(&o);
    for (int a = 0; a < A_COUNT; a++) {
        buf_clear(&value);
        TRY(put_attr(f, (enum attr)a, item, &value, err));
        if (value.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
        if (value.len == 0)
            continue;
        json_out_key(&o, attrs[a]);
        json_out_string(&o, buf_slice(&value));
    }
    if (item->data.len > 0 && item->json) {
        json_out_key(&o, "data");
        json_out_raw(&o, item->data);
    } else if (item->data.len > 0) {
        json_out_key(&o, "data_base64");
        buf_clear(&value);
        base64_encode(&value, item->data);
        if (value.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
        json_out_string(&o, buf_slice(&value));
    }
    json_out_object_end(&o);
out:
    buf_fini(&value);
    return rc;
}

static void
clear(struct buf *b)
{
    if (b->cap > KEEP_MAX)
        buf_fini(b);
    else
        buf_clear(b);
}

int
sink_form_fill(struct sink_form *f, const struct sink_item *item, struct sink_message *m,
               struct err *err)
{
    int rc = 0;

    clear(&f->text);
    clear(&f->body);
    clear(&f->scratch);
    take_trace(f, item->meta);
    m->count = 0;
    if (f->format == SINK_BINARY)
        TRY(put_attrs(f, item, m, err));
    if (f->trace.len > 0)
        put_header(f, m, "traceparent", buf_slice(&f->trace), false);
    if (f->state.len > 0)
        put_header(f, m, "tracestate", buf_slice(&f->state), false);
    TRY(put_own(f, item, m, err));
    if (f->format == SINK_STRUCTURED) {
        TRY(put_whole(f, item, err));
        m->body = buf_slice(&f->body);
        m->content_type = whole_type_text;
    } else if (f->format == SINK_DEBEZIUM) {
        TRY(sinki_put_debezium(item, &f->body, err));
        m->body = buf_slice(&f->body);
        m->content_type = json_type_text;
    } else {
        m->body = item->data.len == 0 ? slice_of(NULL, 0) : item->data;
        m->content_type = data_type(item);
    }
    if (f->text.failed || f->body.failed || f->trace.failed || f->state.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    for (uint32_t i = 0; i < m->count; i++)
        m->headers[i].value = slice_of(f->text.data + f->starts[i], f->lens[i]);
out:
    return rc;
}
