/*
 * A feed of changes over HTTP. One request is in flight at a time. Where the
 * service takes longer than a poll may, the request stays in flight over calls
 * of poll: the thread that asks is held no longer than it said. `caught_up` is
 * only ever said of an answer to a request that this very poll sent or waited
 * for, since whoever drains a fenced service relies on it.
 *
 * The first start may read all rows first. The feed's head is taken before the
 * first page, and the feed is then read from there: what changed while the
 * pages were read comes again as a change, after the row, so the end is right.
 * After a crash the snapshot goes on after the last page that was committed.
 */
#include "source/http/http.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "source/http/http_int.h"

static struct httpi_source *
self(struct source *s)
{
    return (struct httpi_source *)s;
}

static void
close_source(struct source *source)
{
    struct httpi_source *s = self(source);

    sourcei_http_conf_free(s);
    buf_fini(&s->cursor);
    buf_fini(&s->head);
    buf_fini(&s->scan_after);
    buf_fini(&s->bytes);
    buf_fini(&s->checkpoint);
    buf_fini(&s->url);
    buf_fini(&s->scratch);
    buf_fini(&s->text);
    free(s->found);
    free(s->changes);
    s->found = NULL;
    s->changes = NULL;
    s->count = s->room = 0;
    s->asked = s->answered = false;
}

static int
open_source(struct source *source, const struct conf *conf, struct err *err)
{
    int rc = sourcei_http_conf(self(source), conf, err);

    if (rc != 0)
        close_source(source);
    return rc;
}

static int
call(struct httpi_source *s, const char *label, struct net_answer *answer, struct err *err)
{
    struct net_header  headers[NET_HEADERS_MAX];
    struct net_request r = {.method = "GET",
                            .url = buf_slice(&s->url),
                            .headers = headers,
                            .header_count = net_service_headers(s->service, headers),
                            .label = label};
    int                rc = 0;

    TRY(net_call(net_service_client(s->service), &r, answer, err));
    TRY(net_status(answer, label, false, err));
out:
    if (rc != 0 && err != NULL && err->kind == ERR_DATA)
        err->kind = ERR_RETRY; /* there is no item here to park */
    return rc;
}

/* The text of a raw cursor into s->text, for a URL. */
static int
url_of_feed(struct httpi_source *s, uint32_t limit, uint32_t wait_ms, struct err *err)
{
    char           limit_text[16], wait_text[16];
    struct net_var vars[] = {{"cursor", {0}}, {"limit", {0}}, {"wait_ms", {0}}, {NULL, {0}}};
    int            rc = 0;

    buf_clear(&s->text);
    TRY(net_text_of(buf_slice(&s->cursor), "the cursor", &s->text, err));
    vars[0].value = buf_slice(&s->text);
    vars[1].value =
        slice_of(limit_text, (size_t)snprintf(limit_text, sizeof limit_text, "%u", limit));
    vars[2].value =
        slice_of(wait_text, (size_t)snprintf(wait_text, sizeof wait_text, "%u", wait_ms));
    buf_clear(&s->url);
    TRY(template_expand(s->changes_url, net_var_lookup, vars, &s->scratch, &s->url, err));
out:
    return rc;
}

/* A first start: at the beginning of the feed, or at its head with a snapshot before it. */
static int
begin(struct httpi_source *s, struct err *err)
{
    struct net_answer answer;
    struct net_var    none[] = {{NULL, {0}}};
    struct slice      root, raw = {0};
    int               rc = 0;

    buf_clear(&s->cursor);
    s->scanning = s->scan != NULL;
    if (s->scanning) {
        buf_clear(&s->url);
        TRY(template_expand(s->position_url, net_var_lookup, none, &s->scratch, &s->url, err));
        TRY(call(s, s->position_label, &answer, err));
        if (json_value(answer.body, &root, err) != 0 ||
            !json_get_path(root, slice_str(s->position_path), &raw) ||
            (json_type(raw) != JSON_NUMBER && json_type(raw) != JSON_STRING))
            FAIL(err, E_SCHEMA, ERR_RETRY, "%s: no cursor at \"%s\" in the answer",
                 s->position_label, s->position_path);
        buf_add_slice(&s->cursor, raw);
    } else {
        if (json_type(slice_str(s->begin)) == JSON_NUMBER &&
            json_check(slice_str(s->begin), NULL) == 0)
            buf_add_str(&s->cursor, s->begin);
        else
            json_put_str(&s->cursor, s->begin);
    }
    if (s->cursor.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a cursor");
out:
    return rc;
}

static int
start(struct source *source, struct slice checkpoint, struct err *err)
{
    struct httpi_source *s = self(source);

    net_drop(net_service_client(s->service)); /* it asked from another cursor */
    s->asked = s->answered = false;
    s->scanned = 0;
    buf_clear(&s->scan_after);
    buf_clear(&s->head);
    s->caught_up = false;
    return checkpoint.len == 0 ? begin(s, err) : sourcei_http_get_checkpoint(s, checkpoint, err);
}

static void
take_answer(void *arg, void *tag, int rc, const struct net_answer *answer, const struct err *err)
{
    struct httpi_source *s = arg;

    (void)tag;
    s->answered = true;
    s->answer_rc = rc;
    if (rc == 0)
        s->answer = *answer; /* its slices live until the next request */
    else
        err_copy(&s->answer_err, err);
}

static int
ask(struct httpi_source *s, uint32_t max, uint32_t poll_ms, struct err *err)
{
    struct net_header  headers[NET_HEADERS_MAX];
    struct net_request r = {.method = "GET", .headers = headers};
    uint32_t           wait_ms = poll_ms - poll_ms / 4, limit;
    int                rc = 0;

    /* The service waits a little less than the caller, so that its answer is there in time. */
    if (wait_ms > s->wait_ms)
        wait_ms = s->wait_ms;
    if (s->scanning) {
        limit = net_scan_page_max(s->scan) < max ? net_scan_page_max(s->scan) : max;
        buf_clear(&s->url);
        TRY(net_scan_url(s->scan, buf_slice(&s->scan_after), limit, &s->url, err));
        r.label = net_scan_label(s->scan);
        wait_ms = 0;
    } else {
        limit = s->limit < max ? s->limit : max;
        TRY(url_of_feed(s, limit, wait_ms, err));
        r.label = s->changes_label;
    }
    r.url = buf_slice(&s->url);
    r.header_count = net_service_headers(s->service, headers);
    r.total_ms = net_service_timeout_ms(s->service) + wait_ms;
    TRY(net_start(net_service_client(s->service), &r, NULL, err));
    s->asked = true;
    s->answered = false;
    s->asked_max = limit;
out:
    return rc;
}

static int
read_answer(struct httpi_source *s, uint32_t max, struct err *err)
{
    const char *label = s->scanning ? net_scan_label(s->scan) : s->changes_label;
    int         rc = 0;

    s->asked = s->answered = false;
    if (s->answer_rc != 0) {
        err_copy(err, &s->answer_err);
        return s->answer_rc;
    }
    for (uint32_t i = 0; !s->scanning && i < s->gone_count; i++)
        if (s->answer.status == s->gone[i])
            FAIL(err, E_GONE, ERR_FATAL,
                 "%s: gap: the service no longer has what follows cursor %.*s (status %d); changes "
                 "are missing, start again with a snapshot",
                 label, SLICE_FMT(buf_slice(&s->cursor)), s->answer.status);
    TRY(net_status(&s->answer, label, false, err));
    if (s->scanning)
        TRY(sourcei_http_read_page(s, s->answer.body, max, err));
    else
        TRY(sourcei_http_read_feed(s, s->answer.body, max, err));
out:
    if (rc != 0 && err != NULL && err->kind == ERR_DATA)
        err->kind = ERR_RETRY;
    return rc;
}

static int
poll_source(struct source *source, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct httpi_source *s = self(source);
    int                  rc = 0;

    must(max > 0);
    memset(batch, 0, sizeof *batch);
    s->count = 0;
    s->caught_up = false;
    buf_clear(&s->bytes);
    if (!s->asked)
        TRY(ask(s, max, wait_ms, err));
    if (!s->answered)
        TRY(net_poll(net_service_client(s->service), wait_ms, take_answer, s, err));
    if (s->answered) {
        rc = read_answer(s, max, err);
        if (rc != 0)
            s->count = 0;
        TRY(rc);
    }
    TRY(sourcei_http_give(s, batch, err));
out:
    return rc;
}

static int
confirm(struct source *source, struct slice checkpoint, struct err *err)
{
    (void)source;
    (void)checkpoint;
    (void)err;
    return 0; /* the service is told by the next cursor */
}

static int
status(struct source *source, struct buf *out, struct err *err)
{
    struct httpi_source *s = self(source);
    struct json_out      o;

    json_out_init(&o, out);
    json_out_object(&o);
    if (s->cursor.len > 0) {
        json_out_key(&o, "cursor");
        json_out_raw(&o, buf_slice(&s->cursor));
    }
    if (s->head.len > 0) {
        json_out_key(&o, "head");
        json_out_raw(&o, buf_slice(&s->head));
    }
    json_out_key(&o, "caught_up");
    json_out_bool(&o, s->caught_up);
    if (s->scan != NULL) {
        json_out_key(&o, "snapshot");
        json_out_object(&o);
        json_out_key(&o, "running");
        json_out_bool(&o, s->scanning);
        json_out_key(&o, "rows");
        json_out_u64(&o, s->scanned);
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a status");
    return 0;
}

/* Reads a little of all that will be read, from the beginning, and keeps nothing of it. */
static int
check(struct source *source, finding_fn *report, void *arg, struct err *err)
{
    struct httpi_source *s = self(source);
    struct net_answer    answer;
    struct slice         root, list;
    int                  rc = 0;

    if (s->asked)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "the source is being polled");
    buf_clear(&s->cursor);
    TRY(begin(s, err));
    TRY(url_of_feed(s, 1, 0, err));
    TRY(call(s, s->changes_label, &answer, err));
    if (json_value(answer.body, &root, err) != 0 ||
        (s->paths.list[0] != '\0' && !json_get_path(root, slice_str(s->paths.list), &list)))
        FAIL(err, E_SCHEMA, ERR_RETRY, "%s: the answer has no list at \"%s\"", s->changes_label,
             s->paths.list);
    report(arg, FINDING_OK, "the feed of changes answers");
    if (s->scan == NULL)
        report(arg, FINDING_WARN,
               "no snapshot is configured: rows from before the feed's beginning never come");
out:
    return rc;
}

static int
prepare(struct source *source, bool dry_run, finding_fn *report, void *arg, struct err *err)
{
    (void)source;
    (void)dry_run;
    (void)err;
    report(arg, FINDING_OK, "a feed over HTTP needs nothing set up");
    return 0;
}

static int
unprepare(struct source *source, finding_fn *report, void *arg, struct err *err)
{
    return prepare(source, false, report, arg, err);
}

const struct source_ops source_http_ops = {
    .name = "http",
    .size = sizeof(struct httpi_source),
    .schema = &sourcei_http_schema,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};
