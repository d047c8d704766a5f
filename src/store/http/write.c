/*
 * Conditional writes. The service decides each condition in its own
 * transaction (If-None-Match, If-Match); nothing is decided here between a
 * read and a write, except which version a row had when it was equal.
 *
 * A write whose answer was lost is sent again a few times with the same
 * Idempotency-Key, as long as the service answers quickly: it then repeats its
 * first answer. A refused condition after a lost answer says nothing, because
 * a service without such a memory refuses its own first copy: still unsure.
 */
#include <stdio.h>

#include "base/json.h"
#include "store/http/http_int.h"

#define SENDS_MAX 3  /* of one write whose answers get lost */
#define EQUALS_MAX 5 /* how often a row may change between being read and being written */

struct attempt {
    const struct store_write *w;
    const char               *method, *label;
    struct slice              match; /* a version for If-Match; empty: none */
    bool                      with_body;
};

static void
set_headers(struct httpi_store *s, const struct attempt *a, char epoch[24],
            struct httpi_headers *headers)
{
    storei_http_headers_start(s, headers);
    if (a->with_body)
        storei_http_headers_add(headers, "Content-Type", slice_str("application/json"));
    if (a->w->request_id.len > 0)
        storei_http_headers_add(headers, "Idempotency-Key", a->w->request_id);
    if (a->w->origin.len > 0)
        storei_http_headers_add(headers, s->origin_header, a->w->origin);
    if (a->w->epoch > 0) {
        int n = snprintf(epoch, 24, "%llu", (unsigned long long)a->w->epoch);

        storei_http_headers_add(headers, s->epoch_header, slice_of(epoch, (size_t)n));
    }
    if (a->w->cond == STORE_ABSENT)
        storei_http_headers_add(headers, "If-None-Match", slice_str("*"));
    if (a->match.len > 0)
        storei_http_headers_add(headers, "If-Match", a->match);
}

static int
read_answer(struct httpi_store *s, const struct attempt *a, const struct net_answer *answer,
            bool sent_before, struct err *err)
{
    if (answer->status == 404 && !a->with_body)
        return 0; /* gone already */
    if (answer->status == 412 || (answer->status == 404 && a->match.len > 0)) {
        if (sent_before)
            RETURN_ERR(err, E_REMOTE, ERR_UNSURE,
                       "%s: refused after an answer was lost: it may be there already", a->label);
        RETURN_ERR(err, E_WRONG_VERSION, ERR_DATA, "%s: the row is not as it should be", a->label);
    }
    return storei_http_status(s, answer, a->label, true, err);
}

static int
send_write(struct httpi_store *s, const struct attempt *a, struct err *err)
{
    struct httpi_headers headers;
    struct net_answer    answer;
    struct err           first = {0};
    char                 epoch[24];
    struct net_request   r = {.method = a->method,
                              .url = buf_slice(&s->url),
                              .label = a->label,
                              .changes = true,
                              .head_only = true};
    int                  rc;

    set_headers(s, a, epoch, &headers);
    r.headers = headers.list;
    r.header_count = headers.count;
    if (a->with_body)
        r.body = a->w->fields;
    for (uint32_t i = 0;; i++) {
        struct err now = {0};

        rc = net_call(net_service_client(s->service), &r, &answer, &now);
        if (rc == 0)
            rc = read_answer(s, a, &answer, first.kind == ERR_UNSURE, &now);
        if (rc == 0)
            return 0;
        if (first.kind == ERR_UNSURE && now.kind == ERR_RETRY)
            now.kind = ERR_UNSURE; /* the doubt about the first sending stays */
        err_copy(err, &now);
        if (now.kind != ERR_UNSURE || rc == E_TIMEOUT || answer.status == 412 ||
            a->w->request_id.len == 0 || i + 1 == SENDS_MAX)
            return rc;
        first = now;
    }
}

/* The version as an entity tag, into s->etag: a tag of the service has its quotes already. */
static int
set_match(struct httpi_store *s, struct attempt *a, struct slice version, struct err *err)
{
    int rc = 0;

    if (version.len == 0)
        FAIL(err, E_STATE, ERR_FATAL, "%s: the service gives a row no version", a->label);
    buf_clear(&s->body);
    if (s->version_in_row)
        buf_printf(&s->body, "\"%.*s\"", SLICE_FMT(version));
    else
        buf_add_slice(&s->body, version);
    if (s->body.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a version");
    a->match = buf_slice(&s->body);
out:
    return rc;
}

/* Is the row as expected? Then its version is what the write depends on. */
static int
match_equal(struct httpi_store *s, struct attempt *a, struct err *err)
{
    struct store_row row;
    int              rc = 0;

    rc = storei_http_row(&s->store, a->w->key, &row, err);
    if (rc == E_NOTFOUND && a->with_body)
        FAIL(err, E_WRONG_VERSION, ERR_DATA, "%s: the row is not there", a->label);
    TRY(rc);
    if (!slice_eq(row.fields, a->w->expect))
        FAIL(err, E_WRONG_VERSION, ERR_DATA, "%s: the row is not as it should be", a->label);
    TRY(set_match(s, a, row.version, err));
    TRY(storei_http_url(s, s->item, a->w->key, err));
out:
    return rc;
}

static int
write_row(struct httpi_store *s, struct attempt *a, struct err *err)
{
    int rc = 0;

    TRY(storei_http_url(s, s->item, a->w->key, err));
    if (a->w->cond == STORE_VERSION)
        TRY(set_match(s, a, a->w->expect, err));
    if (a->w->cond != STORE_EQUALS) {
        TRY(send_write(s, a, err));
        goto out;
    }
    for (int i = 0; i < EQUALS_MAX; i++) {
        TRY(match_equal(s, a, err));
        rc = send_write(s, a, err);
        if (rc != E_WRONG_VERSION)
            goto out;
    }
    FAIL(err, E_BUSY, ERR_RETRY, "%s: the row changes faster than it can be written", a->label);
out:
    return rc;
}

int
storei_http_put(struct store *store, const struct store_write *w, struct err *err)
{
    struct httpi_store *s = (struct httpi_store *)store;
    struct attempt      a = {.w = w, .method = "PUT", .label = s->item_put, .with_body = true};

    return write_row(s, &a, err);
}

int
storei_http_del(struct store *store, const struct store_write *w, struct err *err)
{
    struct httpi_store *s = (struct httpi_store *)store;
    struct attempt      a = {.w = w, .method = "DELETE", .label = s->item_del};
    struct store_row    row;
    struct err          ignored;
    int                 rc = write_row(s, &a, err);

    if (rc == E_NOTFOUND)
        return 0; /* found to be gone before anything was sent */
    /* A service may refuse the condition before it notices that there is no row. */
    if (rc == E_WRONG_VERSION && w->cond == STORE_VERSION &&
        storei_http_row(store, w->key, &row, &ignored) == E_NOTFOUND)
        return 0;
    return rc;
}
