#include "http_service.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"

#define ROWS_MAX 20000
#define CHANGES_MAX 50000
#define DONE_MAX 20000

struct row {
    int64_t  key;
    uint64_t version;
    char    *members; /* of the JSON object, without its braces */
};

struct change {
    int64_t  key;
    char    *members; /* NULL: deleted */
    char     origin[64];
    uint64_t cursor;
};

struct done {
    char key[256];
    int  status;
};

struct http_service {
    struct http_fake  *fake;
    pthread_mutex_t    mutex;
    struct row         rows[ROWS_MAX]; /* by key */
    uint32_t           row_count, change_count, done_count;
    struct change      changes[CHANGES_MAX];
    struct done        done[DONE_MAX];
    uint64_t           head, oldest, epoch;
    bool               here, hide;
    const char *const *only; /* NULL: any members */
};

static uint32_t
lower(const struct http_service *s, int64_t key)
{
    uint32_t from = 0, to = s->row_count;

    while (from < to) {
        uint32_t mid = (from + to) / 2;

        if (s->rows[mid].key < key)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static struct row *
find(struct http_service *s, int64_t key)
{
    uint32_t i = lower(s, key);

    return i < s->row_count && s->rows[i].key == key ? &s->rows[i] : NULL;
}

static char *
copy_members(struct slice row)
{
    struct slice raw;
    char        *text;

    must(json_value(row, &raw, NULL) == 0);
    must(raw.len >= 2);
    text = strndup((const char *)raw.data + 1, raw.len - 2);
    must(text != NULL);
    return text;
}

static void
note_change(struct http_service *s, int64_t key, const char *members, struct slice origin)
{
    struct change *c = &s->changes[s->change_count++];

    must(s->change_count <= CHANGES_MAX);
    c->key = key;
    c->members = members == NULL ? NULL : strdup(members);
    c->cursor = ++s->head;
    (void)snprintf(c->origin, sizeof c->origin, "%.*s", SLICE_FMT(origin));
}

static struct row *
put_row(struct http_service *s, int64_t key, struct slice json, struct slice origin)
{
    char    *members = copy_members(json);
    uint32_t i = lower(s, key);

    if (i == s->row_count || s->rows[i].key != key) {
        must(s->row_count < ROWS_MAX);
        memmove(&s->rows[i + 1], &s->rows[i], (s->row_count - i) * sizeof s->rows[0]);
        s->row_count++;
        s->rows[i].key = key;
        s->rows[i].members = NULL;
    }
    note_change(s, key, members, origin);
    free(s->rows[i].members);
    s->rows[i].members = members;
    s->rows[i].version = s->head;
    return &s->rows[i];
}

static void
delete_row(struct http_service *s, struct row *row, struct slice origin)
{
    uint32_t i = (uint32_t)(row - s->rows);

    note_change(s, row->key, NULL, origin);
    free(row->members);
    s->row_count--;
    memmove(row, row + 1, (s->row_count - i) * sizeof *row);
}

static void
show_row(const struct http_service *s, const struct row *row, struct buf *out)
{
    buf_printf(out, "{\"id\":%lld,%s%s", (long long)row->key, row->members,
               row->members[0] == '\0' ? "\"_\":0" : "");
    if (!s->hide)
        buf_printf(out, ",\"version\":%llu", (unsigned long long)row->version);
    buf_add_byte(out, '}');
}

static void
refuse(struct fake_reply *reply, int status, const char *error)
{
    reply->status = status;
    buf_clear(&reply->body);
    buf_printf(&reply->body, "{\"error\":\"%s\"}", error);
}

static bool
query_of(const char *path, const char *name, int64_t *out)
{
    const char *at = strchr(path, '?');
    size_t      len = strlen(name);

    while (at != NULL) {
        at++;
        if (strncmp(at, name, len) == 0 && at[len] == '=') {
            *out = strtoll(at + len + 1, NULL, 10);
            return true;
        }
        at = strchr(at, '&');
    }
    return false;
}

/* Refused for the epoch or the authority? */
static bool
is_fenced(struct http_service *s, const struct fake_request *r, struct slice origin,
          struct fake_reply *reply)
{
    struct slice epoch;

    if (http_fake_header(r, "Oxbow-Epoch", &epoch) &&
        strtoull((const char *)epoch.data, NULL, 10) < s->epoch) {
        refuse(reply, 409, "stale-epoch");
        return true;
    }
    if (!s->here && !slice_starts(origin, slice_str("oxbow"))) {
        refuse(reply, 409, "not-authority");
        return true;
    }
    return false;
}

static bool
condition_holds(const struct fake_request *r, const struct row *row)
{
    struct slice value;
    char         tag[32];

    if (http_fake_header(r, "If-None-Match", &value) && row != NULL)
        return false;
    if (!http_fake_header(r, "If-Match", &value))
        return true;
    if (row == NULL)
        return false;
    (void)snprintf(tag, sizeof tag, "\"%llu\"", (unsigned long long)row->version);
    return slice_is(value, tag);
}

static const struct done *
find_done(const struct http_service *s, struct slice key)
{
    for (uint32_t i = s->done_count; i > 0; i--)
        if (slice_is(key, s->done[i - 1].key))
            return &s->done[i - 1];
    return NULL;
}

static void
remember(struct http_service *s, struct slice key, const struct fake_reply *reply)
{
    struct done *d = &s->done[s->done_count % DONE_MAX];

    if (key.len == 0 || key.len >= sizeof d->key)
        return;
    must(s->done_count < DONE_MAX);
    (void)snprintf(d->key, sizeof d->key, "%.*s", SLICE_FMT(key));
    d->status = reply->status;
    s->done_count++;
}

static bool
is_fit(const struct http_service *s, struct slice body)
{
    struct json_iter it;
    struct slice     key, value;
    size_t           i;
    int              rc;

    if (json_object_iter(&it, body, NULL) != 0)
        return false;
    while ((rc = json_iter_next(&it, &key, &value, NULL)) == 0) {
        for (i = 0; s->only != NULL && s->only[i] != NULL; i++)
            if (slice_is(key, s->only[i]))
                break;
        if (s->only != NULL && s->only[i] == NULL)
            return false;
    }
    return rc == E_END;
}

static void
serve_write(struct http_service *s, const struct fake_request *r, int64_t key,
            struct fake_reply *reply)
{
    struct slice       origin = {0}, idempotency = {0};
    struct row        *row = find(s, key);
    const struct done *done;

    (void)http_fake_header(r, "Origin", &origin);
    (void)http_fake_header(r, "Idempotency-Key", &idempotency);
    done = idempotency.len == 0 ? NULL : find_done(s, idempotency);
    if (done != NULL) {
        reply->status = done->status;
        buf_add_str(&reply->body, "{\"replay\":true}");
        return;
    }
    if (is_fenced(s, r, origin, reply))
        return;
    if (!condition_holds(r, row)) {
        refuse(reply, 412, "precondition-failed");
        return;
    }
    if (strcmp(r->method, "DELETE") == 0) {
        if (row == NULL) {
            refuse(reply, 404, "not-found");
            return;
        }
        delete_row(s, row, origin);
        reply->status = 200;
        buf_add_str(&reply->body, "{\"deleted\":true}");
    } else if (!is_fit(s, r->body)) {
        refuse(reply, 422, "invalid-row");
        return;
    } else {
        reply->status = row == NULL ? 201 : 200;
        show_row(s, put_row(s, key, r->body, origin), &reply->body);
    }
    remember(s, idempotency, reply);
}

static void
serve_page(struct http_service *s, const struct fake_request *r, struct fake_reply *reply)
{
    int64_t  after = 0, limit = 100;
    uint32_t i, n = 0;

    (void)query_of(r->path, "after", &after);
    (void)query_of(r->path, "limit", &limit);
    buf_add_str(&reply->body, "{\"orders\":[");
    for (i = lower(s, after + 1); i < s->row_count && n < limit; i++, n++) {
        if (n > 0)
            buf_add_byte(&reply->body, ',');
        show_row(s, &s->rows[i], &reply->body);
    }
    buf_add_str(&reply->body, i < s->row_count ? "],\"next\":1}" : "],\"next\":null}");
}

static void
serve_changes(struct http_service *s, const struct fake_request *r, struct fake_reply *reply)
{
    int64_t  after = 0, limit = 100;
    uint64_t next;
    uint32_t n = 0;

    (void)query_of(r->path, "after", &after);
    (void)query_of(r->path, "limit", &limit);
    next = (uint64_t)after;
    if (next < s->oldest || next > s->head) {
        refuse(reply, next < s->oldest ? 410 : 409, "cursor-gone");
        return;
    }
    buf_add_str(&reply->body, "{\"changes\":[");
    for (uint32_t i = 0; i < s->change_count && n < limit; i++) {
        const struct change *c = &s->changes[i];

        if (c->cursor <= (uint64_t)after)
            continue;
        next = c->cursor;
        buf_printf(&reply->body,
                   "%s{\"cursor\":%llu,\"op\":\"%s\",\"id\":%lld,\"origin\":", n++ > 0 ? "," : "",
                   (unsigned long long)next, c->members == NULL ? "delete" : "put",
                   (long long)c->key);
        buf_printf(&reply->body, c->origin[0] == '\0' ? "null" : "\"%s\"", c->origin);
        if (c->members == NULL)
            buf_add_str(&reply->body, ",\"row\":null}");
        else
            buf_printf(&reply->body, ",\"row\":{\"id\":%lld,%s}}", (long long)c->key,
                       c->members[0] == '\0' ? "\"_\":0" : c->members);
    }
    buf_printf(&reply->body, "],\"next\":%llu,\"head\":%llu}", (unsigned long long)next,
               (unsigned long long)s->head);
}

static void
serve_epoch(struct http_service *s, const struct fake_request *r, struct fake_reply *reply)
{
    struct slice raw;
    int64_t      epoch = -1;
    bool         here = false;

    if (strcmp(r->method, "PUT") == 0) {
        if (json_get(r->body, "epoch", &raw))
            (void)json_int64(raw, &epoch);
        if (json_get(r->body, "authority", &raw))
            here = slice_is(raw, "\"new\"");
        if (epoch < 0 || (uint64_t)epoch < s->epoch ||
            ((uint64_t)epoch == s->epoch && here != s->here)) {
            refuse(reply, 409, "stale-epoch");
            return;
        }
        s->epoch = (uint64_t)epoch;
        s->here = here;
    }
    buf_printf(&reply->body, "{\"epoch\":%llu,\"authority\":\"%s\",\"head\":%llu}",
               (unsigned long long)s->epoch, s->here ? "new" : "old", (unsigned long long)s->head);
}

static void
serve_item(struct http_service *s, const struct fake_request *r, struct fake_reply *reply)
{
    int64_t     key = strtoll(r->path + strlen("/orders/"), NULL, 10);
    struct row *row = find(s, key);

    if (strcmp(r->method, "GET") != 0) {
        serve_write(s, r, key, reply);
        return;
    }
    if (row == NULL) {
        refuse(reply, 404, "not-found");
        return;
    }
    (void)snprintf(reply->headers, sizeof reply->headers, "ETag: \"%llu\"\r\n",
                   (unsigned long long)row->version);
    show_row(s, row, &reply->body);
}

static void
serve(void *arg, const struct fake_request *r, struct fake_reply *reply)
{
    struct http_service *s = arg;

    pthread_mutex_lock(&s->mutex);
    if (strncmp(r->path, "/orders/", 8) == 0)
        serve_item(s, r, reply);
    else if (strncmp(r->path, "/orders", 7) == 0)
        serve_page(s, r, reply);
    else if (strncmp(r->path, "/changes", 8) == 0)
        serve_changes(s, r, reply);
    else if (strcmp(r->path, "/epoch") == 0)
        serve_epoch(s, r, reply);
    else if (strcmp(r->path, "/position") == 0)
        buf_printf(&reply->body, "{\"head\":%llu}", (unsigned long long)s->head);
    else
        refuse(reply, 404, "not-found");
    pthread_mutex_unlock(&s->mutex);
}

struct http_service *
http_service_new(void)
{
    struct http_service *s = calloc(1, sizeof *s);

    must(s != NULL);
    pthread_mutex_init(&s->mutex, NULL);
    s->here = true;
    s->fake = http_fake_new(serve, s);
    return s;
}

void
http_service_reset(struct http_service *s)
{
    pthread_mutex_lock(&s->mutex);
    for (uint32_t i = 0; i < s->row_count; i++)
        free(s->rows[i].members);
    for (uint32_t i = 0; i < s->change_count; i++)
        free(s->changes[i].members);
    s->row_count = s->change_count = s->done_count = 0;
    s->head = s->oldest = s->epoch = 0;
    s->here = true;
    s->hide = false;
    s->only = NULL;
    pthread_mutex_unlock(&s->mutex);
}

void
http_service_free(struct http_service *s)
{
    if (s == NULL)
        return;
    http_fake_free(s->fake);
    http_service_reset(s);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

struct http_fake *
http_service_fake(struct http_service *s)
{
    return s->fake;
}

void
http_service_write(struct http_service *s, const char *key, const char *row)
{
    int64_t     id = strtoll(key, NULL, 10);
    struct row *old;

    pthread_mutex_lock(&s->mutex);
    old = find(s, id);
    if (row != NULL)
        (void)put_row(s, id, slice_str(row), slice_of(NULL, 0));
    else if (old != NULL)
        delete_row(s, old, slice_of(NULL, 0));
    pthread_mutex_unlock(&s->mutex);
}

bool
http_service_read(struct http_service *s, const char *key, struct buf *out)
{
    struct row *row;

    pthread_mutex_lock(&s->mutex);
    row = find(s, strtoll(key, NULL, 10));
    buf_clear(out);
    if (row != NULL)
        buf_printf(out, "{%s}", row->members);
    pthread_mutex_unlock(&s->mutex);
    return row != NULL;
}

uint64_t
http_service_head(struct http_service *s)
{
    uint64_t head;

    pthread_mutex_lock(&s->mutex);
    head = s->head;
    pthread_mutex_unlock(&s->mutex);
    return head;
}

uint32_t
http_service_rows(struct http_service *s)
{
    uint32_t n;

    pthread_mutex_lock(&s->mutex);
    n = s->row_count;
    pthread_mutex_unlock(&s->mutex);
    return n;
}

void
http_service_forget(struct http_service *s)
{
    pthread_mutex_lock(&s->mutex);
    s->oldest = s->head;
    pthread_mutex_unlock(&s->mutex);
}

void
http_service_hide_versions(struct http_service *s, bool hide)
{
    pthread_mutex_lock(&s->mutex);
    s->hide = hide;
    pthread_mutex_unlock(&s->mutex);
}

void
http_service_only(struct http_service *s, const char *const *members)
{
    pthread_mutex_lock(&s->mutex);
    s->only = members;
    pthread_mutex_unlock(&s->mutex);
}
