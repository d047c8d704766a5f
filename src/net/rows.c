#include "net/rows.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"

struct net_shape {
    char             *key, *version;
    uint32_t          field_count;
    bool              missing_is_null;
    struct buf        key_text, version_text, picked, canonical;
    struct json_field fields[NET_FIELDS_MAX];
    char             *names[NET_FIELDS_MAX];
};

void
net_shape_free(struct net_shape *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->field_count; i++)
        free(s->names[i]);
    free(s->key);
    free(s->version);
    buf_fini(&s->key_text);
    buf_fini(&s->version_text);
    buf_fini(&s->picked);
    buf_fini(&s->canonical);
    free(s);
}

int
net_shape_new(const char *key, const char *version, const struct conf *fields, bool missing_is_null,
              struct net_shape **out, struct err *err)
{
    struct net_shape *s = calloc(1, sizeof *s);
    int               rc = 0;

    *out = NULL;
    if (s == NULL || (key != NULL && (s->key = strdup(key)) == NULL) ||
        (version != NULL && (s->version = strdup(version)) == NULL))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    s->missing_is_null = missing_is_null;
    for (const struct conf *f = conf_first(fields); f != NULL; f = conf_next(f)) {
        must(s->field_count < NET_FIELDS_MAX);
        s->names[s->field_count] = strdup(conf_text(f));
        if (s->names[s->field_count] == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
        s->fields[s->field_count].name = s->names[s->field_count];
        s->fields[s->field_count].required = !missing_is_null;
        s->field_count++;
    }
    *out = s;
    s = NULL;
out:
    net_shape_free(s);
    return rc;
}

int
net_shape_fields(struct net_shape *s, struct slice raw, struct buf *out, struct err *err)
{
    int rc = 0;

    if (s->field_count == 0) {
        TRY(json_canonical(raw, out, err));
        goto out;
    }
    TRY(json_pick(raw, s->fields, s->field_count, JSON_PICK_ANY, err));
    buf_clear(&s->picked);
    for (uint32_t i = 0; i < s->field_count; i++) {
        buf_add_byte(&s->picked, i == 0 ? '{' : ',');
        json_put_str(&s->picked, s->names[i]);
        buf_add_byte(&s->picked, ':');
        if (s->fields[i].value.data == NULL)
            buf_add_str(&s->picked, "null");
        else
            buf_add_slice(&s->picked, s->fields[i].value);
    }
    buf_add_byte(&s->picked, '}');
    if (s->picked.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    TRY(json_canonical(buf_slice(&s->picked), out, err));
out:
    if (rc == E_SCHEMA || rc == E_SYNTAX)
        err_prefix(err, "a row of the service");
    if (rc == E_SCHEMA && err != NULL)
        err->kind = ERR_FATAL;
    return rc;
}

int
net_shape_read(struct net_shape *s, struct slice raw, bool want_key, struct net_row *row,
               struct err *err)
{
    struct slice value = {0};
    int          rc = 0;

    memset(row, 0, sizeof *row);
    if (json_type(raw) != JSON_OBJECT)
        FAIL(err, E_SCHEMA, ERR_FATAL, "a row of the service is %s, not an object",
             json_type_name(json_type(raw)));
    buf_clear(&s->key_text);
    buf_clear(&s->version_text);
    buf_clear(&s->canonical);
    if (want_key) {
        (void)json_get_path(raw, slice_str(s->key), &value);
        TRY(net_text_of(value, "a row's key", &s->key_text, err));
    }
    if (s->version != NULL) {
        value = slice_of(NULL, 0);
        (void)json_get_path(raw, slice_str(s->version), &value);
        TRY(net_text_of(value, "a row's version", &s->version_text, err));
    }
    TRY(net_shape_fields(s, raw, &s->canonical, err));
    if (s->key_text.failed || s->version_text.failed || s->canonical.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    row->key = buf_slice(&s->key_text);
    row->version = buf_slice(&s->version_text);
    row->fields = buf_slice(&s->canonical);
out:
    return rc;
}

struct net_scan {
    struct template *url;
    char            *rows, *key, *next, *first, *label;
    uint32_t         page_max;
    struct buf       body, scratch;
    struct json_iter iter;
    uint32_t         seen;
    bool             more;
};

const struct conf_field net_scan_fields[] = {
    {.name = "url",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "of a page; placeholders {after} (a key) and {limit}"},
    {.name = "rows",
     .type = {.kind = CONF_STRING, .max = 256},
     .preset = "",
     .doc = "path of the list of rows in the answer; empty: the answer is the list"},
    {.name = "key",
     .type = {.kind = CONF_STRING, .min = 1, .max = 256},
     .preset = "id",
     .doc = "path of the key in a row"},
    {.name = "next",
     .type = {.kind = CONF_STRING, .min = 1, .max = 256},
     .doc = "path of what is null at the last page; without it pages are read until an empty one"},
    {.name = "first",
     .type = {.kind = CONF_STRING, .min = 1, .max = 256},
     .preset = "0",
     .doc = "what {after} is for the first page"},
    {.name = "page",
     .type = {.kind = CONF_INT, .min = 1, .max = 10000},
     .preset = "500",
     .doc = "the largest {limit} to ask for"},
    {.name = NULL},
};

void
net_scan_free(struct net_scan *s)
{
    if (s == NULL)
        return;
    template_free(s->url);
    free(s->rows);
    free(s->key);
    free(s->next);
    free(s->first);
    free(s->label);
    buf_fini(&s->body);
    buf_fini(&s->scratch);
    free(s);
}

static bool
copy_text(char **to, const struct conf *conf, const char *key)
{
    const char *text = conf_str(conf, key);

    *to = text == NULL ? NULL : strdup(text);
    return text == NULL || *to != NULL;
}

int
net_scan_new(struct net_service *service, const struct conf *conf, struct net_scan **out,
             struct err *err)
{
    struct net_var   known[] = {{"after", {0}}, {"limit", {0}}, {NULL, {0}}};
    struct net_scan *s = calloc(1, sizeof *s);
    struct buf       label = {0};
    int              rc = 0;

    *out = NULL;
    if (s == NULL || !copy_text(&s->rows, conf, "rows") || !copy_text(&s->key, conf, "key") ||
        !copy_text(&s->next, conf, "next") || !copy_text(&s->first, conf, "first"))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    buf_printf(&label, "GET %s", conf_str(conf, "url"));
    if (label.failed || (s->label = strndup((char *)label.data, label.len)) == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    s->page_max = (uint32_t)conf_int(conf, "page");
    TRY(net_service_template(service, conf, "url", net_var_known, known, &s->url, err));
    *out = s;
    s = NULL;
out:
    buf_fini(&label);
    net_scan_free(s);
    return rc;
}

uint32_t
net_scan_page_max(const struct net_scan *s)
{
    return s->page_max;
}

const char *
net_scan_key(const struct net_scan *s)
{
    return s->key;
}

const char *
net_scan_label(const struct net_scan *s)
{
    return s->label;
}

int
net_scan_url(struct net_scan *s, struct slice after, uint32_t limit, struct buf *url,
             struct err *err)
{
    char           number[16];
    struct net_var vars[] = {{"after", after.len == 0 ? slice_str(s->first) : after},
                             {"limit", {number, 0}},
                             {NULL, {0}}};

    vars[1].value.len = (size_t)snprintf(number, sizeof number, "%u", limit);
    return template_expand(s->url, net_var_lookup, vars, &s->scratch, url, err);
}

int
net_scan_open(struct net_scan *s, struct slice body, struct err *err)
{
    struct slice root, rows, next = {0};
    int          rc = 0;

    buf_clear(&s->body);
    buf_add_slice(&s->body, body);
    if (s->body.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a page");
    TRY(json_value(buf_slice(&s->body), &root, err));
    rows = root;
    if (s->rows[0] != '\0' && !json_get_path(root, slice_str(s->rows), &rows))
        FAIL(err, E_SCHEMA, ERR_RETRY, "%s: no \"%s\" in the answer", s->label, s->rows);
    TRY(json_array_iter(&s->iter, rows, err));
    s->seen = 0;
    s->more = s->next == NULL || (json_get_path(root, slice_str(s->next), &next) &&
                                  !json_is_null(next) && !slice_is(next, "false"));
out:
    if (rc == E_SYNTAX || rc == E_SCHEMA || rc == E_LIMIT) {
        if (err != NULL)
            err->kind = ERR_RETRY;
        err_prefix(err, "%s: the answer", s->label);
    }
    return rc;
}

int
net_scan_next(struct net_scan *s, struct slice *raw, struct err *err)
{
    int rc = json_iter_next(&s->iter, NULL, raw, err);

    if (rc == 0)
        s->seen++;
    if (rc == E_END && s->seen == 0)
        s->more = false;
    return rc;
}

bool
net_scan_more(const struct net_scan *s)
{
    return s->more;
}
