/*
 * A store that is an HTTP service: opening, reading, scanning. Nothing is
 * cached here; what was read is what the service said in the same call.
 */
#include "store/http/http.h"

#include <stdio.h>

#include "base/json.h"
#include "store/http/http_int.h"

static const char *const key_orders[] = {"integer", "text", NULL};

static const struct conf_type field_name = {.kind = CONF_STRING, .min = 1, .max = 256};

static const struct conf_field fenced_fields[] = {
    {.name = "status",
     .type = {.kind = CONF_INT, .min = 400, .max = 499},
     .required = true,
     .doc = "of the answer"},
    {.name = "error",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .doc = "what its member \"error\" must be; absent: anything"},
    {.name = NULL},
};
static const struct conf_type fenced_item = {.kind = CONF_OBJECT, .fields = fenced_fields};

static const struct conf_field position_fields[] = {
    {.name = "url",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "of the head of the service's feed of changes"},
    {.name = "path",
     .type = {.kind = CONF_STRING, .min = 1, .max = 256},
     .preset = "head",
     .doc = "of the cursor in the answer"},
    {.name = NULL},
};

static const struct conf_field guard_fields[] = {
    {.name = "url",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "of the epoch, for GET and PUT"},
    {.name = "epoch",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64},
     .preset = "epoch",
     .doc = "the member with the epoch"},
    {.name = "authority",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64},
     .preset = "authority",
     .doc = "the member that says where applications may write"},
    {.name = "here",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64},
     .preset = "new",
     .doc = "its value while they may write to this service"},
    {.name = "elsewhere",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64},
     .preset = "old",
     .doc = "its value while they may not"},
    {.name = "moved_to",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64},
     .doc = "the member that says where to go, if the service has one"},
    {.name = NULL},
};

static const struct conf_field store_fields[] = {
    NET_SERVICE_FIELDS,
    {.name = "key_order",
     .type = {.kind = CONF_ENUM, .values = key_orders},
     .preset = "integer",
     .doc = "how keys sort"},
    {.name = "fields",
     .type = {.kind = CONF_LIST, .min = 1, .max = NET_FIELDS_MAX, .of = &field_name},
     .required = true,
     .doc = "the members of a row that move"},
    {.name = "missing_is_null",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "the service leaves out members that are null"},
    {.name = "item",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "URL of a row, for GET, PUT and DELETE; placeholder {key}"},
    {.name = "row",
     .type = {.kind = CONF_STRING, .max = 256},
     .preset = "",
     .doc = "path of the row in the answer to a GET; empty: the answer is the row"},
    {.name = "scan",
     .type = {.kind = CONF_OBJECT, .fields = net_scan_fields},
     .required = true,
     .doc = "pages of rows"},
    {.name = "version",
     .type = {.kind = CONF_STRING, .min = 1, .max = 256},
     .doc = "path of the version in a row, whose ETag is \"VERSION\"; absent: only the ETag"},
    {.name = "position",
     .type = {.kind = CONF_OBJECT, .fields = position_fields},
     .doc = "of its feed of changes"},
    {.name = "guard", .type = {.kind = CONF_OBJECT, .fields = guard_fields}, .doc = "the fence"},
    {.name = "fenced",
     .type = {.kind = CONF_LIST, .max = HTTPI_FENCED_MAX, .of = &fenced_item},
     .preset = "[]",
     .doc = "answers that mean: an older epoch, or the authority is elsewhere"},
    {.name = "epoch_header",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64, .chars = "A-Za-z0-9-"},
     .preset = "Oxbow-Epoch",
     .doc = "carries the epoch of a write"},
    {.name = "origin_header",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64, .chars = "A-Za-z0-9-"},
     .preset = "Origin",
     .doc = "carries the mark of a write, which the feed gives out again"},
    {.name = NULL},
};
const struct conf_type storei_http_schema = {.kind = CONF_OBJECT, .fields = store_fields};

static struct httpi_store *
self(struct store *s)
{
    return (struct httpi_store *)s;
}

static void
close_store(struct store *store)
{
    struct httpi_store *s = self(store);

    template_free(s->item);
    template_free(s->position);
    template_free(s->guard);
    net_scan_free(s->scan);
    net_shape_free(s->shape);
    net_service_free(s->service);
    buf_fini(&s->url);
    buf_fini(&s->scratch);
    buf_fini(&s->etag);
    buf_fini(&s->body);
    buf_fini(&s->text);
    s->item = s->position = s->guard = NULL;
    s->scan = NULL;
    s->shape = NULL;
    s->service = NULL;
}

static void
copy(char *to, size_t size, const struct conf *conf, const char *key)
{
    const char *text = conf == NULL ? NULL : conf_str(conf, key);

    (void)snprintf(to, size, "%s", text == NULL ? "" : text);
}

/* The tree may be gone after open. */
static void
copy_texts(struct httpi_store *s, const struct conf *conf)
{
    const struct conf *position = conf_child(conf, "position"), *guard = conf_child(conf, "guard");
    const char        *item = conf_str(conf, "item");

    (void)snprintf(s->item_get, sizeof s->item_get, "GET %s", item);
    (void)snprintf(s->item_put, sizeof s->item_put, "PUT %s", item);
    (void)snprintf(s->item_del, sizeof s->item_del, "DELETE %s", item);
    copy(s->epoch_header, sizeof s->epoch_header, conf, "epoch_header");
    copy(s->origin_header, sizeof s->origin_header, conf, "origin_header");
    copy(s->row_path, sizeof s->row_path, conf, "row");
    copy(s->position_path, sizeof s->position_path, position, "path");
    copy(s->epoch_name, sizeof s->epoch_name, guard, "epoch");
    copy(s->authority_name, sizeof s->authority_name, guard, "authority");
    copy(s->here, sizeof s->here, guard, "here");
    copy(s->elsewhere, sizeof s->elsewhere, guard, "elsewhere");
    copy(s->moved_to_name, sizeof s->moved_to_name, guard, "moved_to");
    if (position != NULL)
        (void)snprintf(s->position_get, sizeof s->position_get, "GET %s",
                       conf_str(position, "url"));
    if (guard != NULL) {
        (void)snprintf(s->guard_get, sizeof s->guard_get, "GET %s", conf_str(guard, "url"));
        (void)snprintf(s->guard_put, sizeof s->guard_put, "PUT %s", conf_str(guard, "url"));
    }
    for (const struct conf *f = conf_first(conf_child(conf, "fenced")); f != NULL;
         f = conf_next(f)) {
        must(s->fenced_count < HTTPI_FENCED_MAX);
        s->fenced[s->fenced_count].status = (int)conf_int(f, "status");
        copy(s->fenced[s->fenced_count].error, sizeof s->fenced[0].error, f, "error");
        s->fenced_count++;
    }
}

static int
open_store(struct store *store, const struct conf *conf, struct err *err)
{
    struct httpi_store *s = self(store);
    struct net_var      key[] = {{"key", {0}}, {NULL, {0}}}, none[] = {{NULL, {0}}};
    const struct conf  *position = conf_child(conf, "position"), *guard = conf_child(conf, "guard");
    const char         *version = conf_str(conf, "version");
    int                 rc = 0;

    store->key_order = conf_enum(conf, "key_order") == 0 ? STORE_KEY_INTEGER : STORE_KEY_TEXT;
    s->version_in_row = version != NULL;
    copy_texts(s, conf);
    TRY(net_service_new(store->env, conf, 1, &s->service, err));
    TRY(net_scan_new(s->service, conf_child(conf, "scan"), &s->scan, err));
    TRY(net_shape_new(net_scan_key(s->scan), version, conf_child(conf, "fields"),
                      conf_bool(conf, "missing_is_null"), &s->shape, err));
    TRY(net_service_template(s->service, conf, "item", net_var_known, key, &s->item, err));
    if (position != NULL)
        TRY(net_service_template(s->service, position, "url", net_var_known, none, &s->position,
                                 err));
    if (guard != NULL)
        TRY(net_service_template(s->service, guard, "url", net_var_known, none, &s->guard, err));
out:
    if (rc != 0)
        close_store(store);
    return rc;
}

void
storei_http_headers_start(struct httpi_store *s, struct httpi_headers *h)
{
    h->count = net_service_headers(s->service, h->list);
}

void
storei_http_headers_add(struct httpi_headers *h, const char *name, struct slice value)
{
    must(h->count < HTTPI_HEADERS_MAX);
    h->list[h->count].name = slice_str(name);
    h->list[h->count].value = value;
    h->count++;
}

int
storei_http_url(struct httpi_store *s, const struct template *t, struct slice key, struct err *err)
{
    struct net_var vars[] = {{"key", key}, {NULL, {0}}};

    buf_clear(&s->url);
    return template_expand(t, net_var_lookup, vars, &s->scratch, &s->url, err);
}

int
storei_http_get(struct httpi_store *s, const char *label, struct net_answer *answer,
                struct err *err)
{
    struct httpi_headers headers;
    struct net_request   r = {.method = "GET", .url = buf_slice(&s->url), .label = label};
    int                  rc = 0;

    storei_http_headers_start(s, &headers);
    r.headers = headers.list;
    r.header_count = headers.count;
    TRY(net_call(net_service_client(s->service), &r, answer, err));
    if (answer->status == 404)
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: not there", label);
    TRY(storei_http_status(s, answer, label, false, err));
out:
    return rc;
}

static bool
is_error(struct slice body, const char *word)
{
    struct slice raw;
    struct err   ignored;

    return word[0] == '\0' ||
           (json_check(body, &ignored) == 0 && json_get(body, "error", &raw) &&
            json_type(raw) == JSON_STRING &&
            json_key_is(slice_of((const char *)raw.data + 1, raw.len - 2), slice_str(word)));
}

int
storei_http_status(struct httpi_store *s, const struct net_answer *answer, const char *label,
                   bool changes, struct err *err)
{
    int rc = net_status(answer, label, changes, err);

    for (uint32_t i = 0; rc != 0 && i < s->fenced_count; i++) {
        if (s->fenced[i].status != answer->status || !is_error(answer->body, s->fenced[i].error))
            continue;
        if (err != NULL) {
            err->code = E_FENCED;
            err->kind = ERR_FATAL;
        }
        return E_FENCED;
    }
    return rc;
}

/* Rows come in key order and beyond `after`, or a scan could go round for ever. */
static int
give_page(struct httpi_store *s, struct buf *last, uint32_t limit, uint32_t *given,
          store_row_fn *fn, void *arg, bool *stopped, struct err *err)
{
    struct store_row row;
    struct net_row   read;
    struct slice     raw;
    int              rc = 0;

    while (limit == 0 || *given < limit) {
        TRY(net_scan_next(s->scan, &raw, err));
        TRY(net_shape_read(s->shape, raw, true, &read, err));
        if (last->len > 0 && store_key_cmp(s->store.key_order, read.key, buf_slice(last)) <= 0)
            FAIL(err, E_SCHEMA, ERR_FATAL, "%s: the rows do not come in the order of their keys",
                 net_scan_label(s->scan));
        buf_clear(last);
        buf_add_slice(last, read.key);
        if (last->failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a key");
        row.key = read.key;
        row.fields = read.fields;
        row.version = read.version;
        (*given)++;
        rc = fn(arg, &row, err);
        *stopped = rc != 0;
        TRY(rc);
    }
out:
    return rc;
}

static int
scan_store(struct store *store, struct slice after, uint32_t limit, store_row_fn *fn, void *arg,
           struct err *err)
{
    struct httpi_store *s = self(store);
    struct net_answer   answer;
    struct buf          last = {0};
    uint32_t            given = 0, page = net_scan_page_max(s->scan), ask;
    bool                stopped = false;
    int                 rc = 0;

    buf_add_slice(&last, after);
    do {
        ask = limit != 0 && limit - given < page ? limit - given : page;
        buf_clear(&s->url);
        TRY(net_scan_url(s->scan, buf_slice(&last), ask, &s->url, err));
        rc = storei_http_get(s, net_scan_label(s->scan), &answer, err);
        if (rc == E_NOTFOUND && err != NULL)
            err->kind =
                ERR_RETRY; /* a page is always there: the service is not what it should be */
        TRY(rc);
        TRY(net_scan_open(s->scan, answer.body, err));
        rc = give_page(s, &last, limit, &given, fn, arg, &stopped, err);
        if (rc == E_END && !stopped)
            rc = 0; /* the page's end, and not what the caller stopped with */
        TRY(rc);
    } while ((limit == 0 || given < limit) && net_scan_more(s->scan));
out:
    buf_fini(&last);
    return rc;
}

int
storei_http_row(struct store *store, struct slice key, struct store_row *row, struct err *err)
{
    struct httpi_store *s = self(store);
    struct net_answer   answer;
    struct net_row      read;
    struct slice        raw;
    int                 rc = 0;

    memset(row, 0, sizeof *row);
    TRY(storei_http_url(s, s->item, key, err));
    TRY(storei_http_get(s, s->item_get, &answer, err));
    buf_clear(&s->etag);
    if (!slice_starts(answer.etag, slice_str("W/")))
        buf_add_slice(&s->etag, answer.etag);
    rc = json_value(answer.body, &raw, err);
    if (rc == 0 && s->row_path[0] != '\0' && !json_get_path(raw, slice_str(s->row_path), &raw))
        rc = err_set(err, __FILE__, __LINE__, E_SCHEMA, ERR_RETRY, "no \"%s\" in the answer",
                     s->row_path);
    if (rc != 0) {
        if (err != NULL)
            err->kind = ERR_RETRY;
        err_prefix(err, "%s", s->item_get);
    }
    TRY(rc);
    TRY(net_shape_read(s->shape, raw, false, &read, err));
    buf_clear(&s->text);
    buf_add_slice(&s->text, key);
    if (s->etag.failed || s->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    row->key = buf_slice(&s->text);
    row->fields = read.fields;
    row->version = s->version_in_row ? read.version : buf_slice(&s->etag);
out:
    return rc;
}

static int
position_of(struct store *store, struct buf *out, struct err *err)
{
    struct httpi_store *s = self(store);
    struct net_answer   answer;
    struct slice        raw, value = {0};
    int                 rc = 0;

    if (s->position == NULL)
        FAIL(err, E_STATE, ERR_FATAL, "the configuration has no \"position\" for this store");
    TRY(storei_http_url(s, s->position, slice_of(NULL, 0), err));
    TRY(storei_http_get(s, s->position_get, &answer, err));
    if (json_value(answer.body, &raw, err) != 0 ||
        !json_get_path(raw, slice_str(s->position_path), &value) ||
        (json_type(value) != JSON_NUMBER && json_type(value) != JSON_STRING))
        FAIL(err, E_SCHEMA, ERR_RETRY, "%s: no cursor at \"%s\" in the answer", s->position_get,
             s->position_path);
    buf_add_str(out, "{\"cursor\":");
    buf_add_slice(out, value);
    buf_add_byte(out, '}');
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a position");
out:
    return rc;
}

struct counted {
    uint32_t rows, unversioned;
};

static int
count_row(void *arg, const struct store_row *row, struct err *err)
{
    struct counted *c = arg;

    (void)err;
    c->rows++;
    c->unversioned += row->version.len == 0;
    return 0;
}

/* 0 fine, 1 a warning, 2 missing: as source.h counts findings. */
static int
check_store(struct store *store, store_finding_fn *report, void *arg, struct err *err)
{
    struct httpi_store *s = self(store);
    struct store_guard  guard;
    struct counted      counted = {0};
    struct buf          text = {0};
    int                 rc = 0;

    TRY(scan_store(store, slice_of(NULL, 0), 1, count_row, &counted, err));
    report(arg, 0,
           counted.rows == 0 ? "the service answers; it has no rows yet"
                             : "the service answers, and a row has all the fields");
    if (s->position == NULL) {
        report(arg, 1, "no \"position\" is configured: the service cannot be a migration's source");
    } else {
        TRY(position_of(store, &text, err));
        report(arg, 0, "the head of its feed is known");
    }
    if (s->guard == NULL) {
        report(arg, 2, "no \"guard\" is configured: writes of an older epoch cannot be refused");
    } else {
        rc = storei_http_guard_get(store, &guard, err);
        if (rc != 0 && rc != E_NOTFOUND)
            goto out;
        report(arg, 0, rc == 0 ? "the service knows its epoch" : "the service has no epoch yet");
        rc = 0;
    }
out:
    buf_fini(&text);
    return rc;
}

const struct store_ops store_http_ops = {
    .name = "http",
    .size = sizeof(struct httpi_store),
    .schema = &storei_http_schema,
    .open = open_store,
    .close = close_store,
    .check = check_store,
    .scan = scan_store,
    .get = storei_http_row,
    .put = storei_http_put,
    .del = storei_http_del,
    .position = position_of,
    .guard_install = storei_http_guard_install,
    .guard_set = storei_http_guard_set,
    .guard_get = storei_http_guard_get,
    .guard_remove = storei_http_guard_remove,
};
