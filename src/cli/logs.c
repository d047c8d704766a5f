/* log verify|reindex|export|import: all of a log. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/must.h"
#include "base/ndjson.h"
#include "base/rfc3339.h"
#include "cli/cli_int.h"
#include "cli/states.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"

#define LINE_MAX_BYTES (3 * LOG_EVENT_MAX)
#define EVENTS_MAX 1000000
#define TEXT_MAX (UINT64_C(256) << 20)

/* verify, reindex */

void
clii_put_result(struct cli *c, struct buf *object)
{
    clii_progress_end(c);
    while (object->len > 0 && object->data[object->len - 1] == '\n')
        object->len--; /* as servers end their answers */
    if (clii_json(c) || !c->out_tty) {
        buf_add_byte(object, '\n');
        clii_put_buf(c, object);
    } else {
        clii_put_table(c, buf_slice(object));
    }
}

static void
numbers_json(struct buf *object, const char *const *names, const uint64_t *values, size_t count)
{
    struct json_out o;

    json_out_init(&o, object);
    json_out_object(&o);
    for (size_t i = 0; i < count; i++) {
        json_out_key(&o, names[i]);
        json_out_u64(&o, values[i]);
    }
    json_out_object_end(&o);
}

static void
put_numbers(struct cli *c, const char *const *names, const uint64_t *values, size_t count)
{
    struct buf object = {0};

    numbers_json(&object, names, values, count);
    clii_put_result(c, &object);
    buf_fini(&object);
}

void
clii_counts_json(struct buf *out, const struct log_counts *n)
{
    static const char *const names[] = {"segments", "commits", "frames",          "records",
                                        "events",   "bytes",   "index_mismatches"};

    numbers_json(out, names,
                 (const uint64_t[]){n->segments, n->commits, n->frames, n->records, n->events,
                                    n->bytes, n->index_mismatches},
                 7);
}

static int
verify_folder(struct cli *c, struct cli_bar *bar, struct buf *result, struct err *err)
{
    struct log_counts n = {0};
    struct log       *log = NULL;
    int               rc = 0;

    c->opening = true;
    c->without_keys = true;
    rc = clii_log_open(c, false, &log, err);
    /* Damage is what this command is there to find: it is an answer. */
    c->opening = rc != 0 && rc != E_DAMAGED;
    if (rc != 0)
        goto out;
    rc = log_verify(log, clii_bar_step, bar, &n, err);
    if (clii_caught() != 0)
        rc = clii_go_on(err);
    if (rc != 0)
        goto out;
    clii_counts_json(result, &n);
    if (n.index_mismatches > 0)
        FAIL(err, E_DAMAGED, ERR_FATAL,
             "%llu entries of the index are not as the log has them; oxbow log reindex makes it "
             "again",
             (unsigned long long)n.index_mismatches);
out:
    clii_log_close(c, log);
    return rc;
}

int
clii_log_verify(struct cli *c, struct err *err)
{
    struct buf     result = {0};
    struct cli_bar bar;
    int            rc;

    clii_bar_init(&bar, c, "verify");
    if (clii_server(c) != NULL)
        rc = clii_job(c, "verify", slice_str("{}"), &bar, &result, err);
    else
        rc = verify_folder(c, &bar, &result, err);
    if (result.len > 0)
        clii_put_result(c, &result);
    clii_progress_end(c);
    buf_fini(&result);
    return rc;
}

int
clii_log_reindex(struct cli *c, struct err *err)
{
    static const char *const names[] = {"events", "end", "us"};
    struct log_conf          conf = {.index = &log_index_lmdb};
    struct log_report        report = {0};
    int                      rc = 0;

    TRY(clii_need_folder(c, err));
    c->opening = true;
    if (!clii_has_log(c))
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: no data folder is there; --data names another",
             clii_data(c));
    clii_progress(c, "reading the log again");
    TRY(log_reindex(env_real(), clii_data(c), &conf, &report, err));
    c->opening = false;
    clii_progress_end(c);
    put_numbers(c, names, (const uint64_t[]){report.replayed, report.end.v, report.open_us}, 3);
out:
    return rc;
}

/* export: as read, with what makes a commit of events */

static void
export_line(struct buf *out, const struct log_event *e, uint64_t commit)
{
    char time[TIME_TEXT_MAX];

    clii_event_line(out, e);
    if (out->failed)
        return;
    out->len--; /* its brace */
    time_format(e->time_us, time);
    buf_printf(out, ",\"commit\":%llu,\"committed\":\"%s\"", (unsigned long long)commit, time);
    if (e->flags & LOG_LINK)
        buf_add_str(out, ",\"link\":true");
    if (e->quiet)
        buf_add_str(out, ",\"quiet\":true");
    buf_add_byte(out, '}');
    buf_add_byte(out, '\n');
}

int
clii_log_export(struct cli *c, struct err *err)
{
    struct log_read query = {
        .filter = {.system = true, .quiet = true}, .raw = true, .secret = true};
    struct log      *log = NULL;
    struct log_iter *it = NULL;
    struct log_event event = {0};
    struct buf       line = {0};
    uint64_t         count = 0, end;
    int              rc = 0;

    TRY(clii_need_folder(c, err));
    c->opening = true;
    TRY(clii_log_open(c, false, &log, err));
    c->opening = false;
    end = log_end(log).v;
    TRY(log_iter_open(log, &query, &it, err));
    while ((rc = log_iter_next(it, &event, err)) == 0) {
        export_line(&line, &event, event.commit.v);
        if (line.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an event");
        clii_put_buf(c, &line);
        if (++count % 4096 == 0)
            clii_progress(c, "exported %llu events, %llu %%", (unsigned long long)count,
                          (unsigned long long)(event.pos.v * 100 / end));
        TRY(clii_go_on(err));
        if (c->out_closed)
            TRY(clii_flush(c, err));
    }
    if (rc == E_END)
        rc = clii_states_export(c, log, err);
out:
    log_iter_close(it);
    clii_log_close(c, log);
    buf_fini(&line);
    return rc;
}

/* import: the same lines into a log that has none of these events */

struct incoming {
    struct log_new_event event;
    struct slice         stream;
    uint64_t             version;
    uint32_t             write; /* which of the commit's */
};

struct import {
    struct cli      *cli;
    struct log      *log;
    struct incoming *events; /* of the commit */
    uint32_t         count, cap;
    uint64_t         commit, first_line, total, commits, states;
    bool             any, quiet;
    int64_t          time_us;
    struct buf       text; /* what the events point into: by offset until the commit is whole */
    struct line_mark {
        uint64_t number;
        size_t   begin, len;
    } * marks;
};

enum export_field {
    F_STREAM,
    F_VERSION,
    F_COMMIT,
    F_COMMITTED,
    F_CREATED,
    F_QUIET,
    F_LINK,
    F_COUNT
};

static int
read_time(struct slice raw, const char *what, int64_t *us, struct err *err)
{
    if (raw.data == NULL)
        return 0;
    if (json_type(raw) != JSON_STRING ||
        !time_parse(slice_of((const char *)raw.data + 1, raw.len - 2), us))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "\"%s\": must be a time", what);
    return 0;
}

/* Leaves what an append takes: type, data, metadata, id. */
static int
keep_members(struct slice raw, struct buf *out, struct err *err)
{
    static const char *const kept[] = {
        "type", "data", "data_base64", "metadata", "metadata_base64", "id", "subject"};
    struct json_iter it;
    struct slice     key, value;
    int              rc = 0;

    TRY(json_object_iter(&it, raw, err));
    buf_add_byte(out, '{');
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
            if (!slice_is(key, kept[i]))
                continue;
            buf_printf(out, "%s\"%s\":", ((const char *)out->data)[out->len - 1] == '{' ? "" : ",",
                       kept[i]);
            buf_add_slice(out, value);
        }
    }
    buf_add_byte(out, '}');
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

static int
grow(struct import *im, struct err *err)
{
    uint32_t          cap = im->cap == 0 ? 1024 : im->cap * 2;
    struct incoming  *events;
    struct line_mark *marks;

    if (cap > EVENTS_MAX * 2u)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "more than %d events in one commit", EVENTS_MAX);
    events = reallocarray(im->events, cap, sizeof *events);
    if (events != NULL)
        im->events = events;
    marks = reallocarray(im->marks, cap, sizeof *marks);
    if (marks != NULL)
        im->marks = marks;
    if (events == NULL || marks == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    im->cap = cap;
    return 0;
}

static int
read_fields(struct slice line, struct json_field *f, uint64_t *commit, struct err *err)
{
    static const char *const names[] = {"stream",  "version", "commit", "committed",
                                        "created", "quiet",   "link"};
    int                      rc = 0;

    for (int i = 0; i < F_COUNT; i++)
        f[i] = (struct json_field){.name = names[i], .required = i <= F_COMMIT};
    TRY(json_pick(line, f, F_COUNT, JSON_PICK_ANY, err));
    if (json_type(f[F_STREAM].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "\"stream\": must be a string");
    if (!json_uint64(f[F_COMMIT].value, commit))
        FAIL(err, E_SCHEMA, ERR_DATA, "\"commit\": must be a number");
out:
    return rc;
}

/* The line's event, with its text at the end of im->text as an offset. */
static int
add_event(struct import *im, struct slice line, const struct json_field *f, uint64_t number,
          struct err *err)
{
    struct incoming *in;
    int              rc = 0;

    if (im->count == im->cap)
        TRY(grow(im, err));
    in = &im->events[im->count];
    memset(in, 0, sizeof *in);
    im->marks[im->count].number = number;
    im->marks[im->count].begin = im->text.len;
    in->stream.len = im->text.len;
    if (!json_uint64(f[F_VERSION].value, &in->version))
        FAIL(err, E_SCHEMA, ERR_DATA, "\"version\": must be a number");
    TRY(read_time(f[F_CREATED].value, "created", &in->event.created_us, err));
    if (f[F_LINK].value.data != NULL)
        in->event.flags = LOG_LINK;
    TRY(json_string_decode(f[F_STREAM].value, &im->text, err));
    im->marks[im->count].len = im->text.len - im->marks[im->count].begin; /* of the name */
    TRY(keep_members(line, &im->text, err));
    buf_add_byte(&im->text, '\n');
    if (im->text.failed)
        FAIL(err, E_LIMIT, ERR_DATA, "the commit is too large");
    im->count++;
out:
    return rc;
}

/* Offsets to slices, now that the text is whole; and each event's write. */
static int
settle(struct import *im, struct log_write *writes, uint32_t *write_count, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < im->count; i++) {
        struct incoming     *in = &im->events[i];
        uint8_t             *at = im->text.data + im->marks[i].begin;
        uint8_t             *end = i + 1 < im->count ? im->text.data + im->marks[i + 1].begin
                                                     : im->text.data + im->text.len;
        struct log_new_event event;
        uint32_t             w = 0;

        in->stream = slice_of(at, im->marks[i].len);
        at += im->marks[i].len;
        rc = clii_event_read(slice_of(at, (size_t)(end - at) - 1), &event, err);
        if (rc != 0) {
            err_prefix(err, "line %llu", (unsigned long long)im->marks[i].number);
            goto out;
        }
        event.created_us = in->event.created_us;
        event.flags |= in->event.flags;
        in->event = event;
        while (w < *write_count && !slice_eq(writes[w].stream, in->stream))
            w++;
        if (w == *write_count) {
            writes[w] = (struct log_write){.stream = in->stream,
                                           .expected = in->version == 0 ? LOG_NO_STREAM
                                                                        : (int64_t)in->version - 1};
            ++*write_count;
        }
        /* Dense within the commit too. */
        if (in->version !=
            (uint64_t)(writes[w].expected == LOG_NO_STREAM ? 0 : writes[w].expected + 1) +
                writes[w].count)
            FAIL(err, E_WRONG_VERSION, ERR_DATA,
                 "line %llu: version %llu of \"%.*s\" is out of turn",
                 (unsigned long long)im->marks[i].number, (unsigned long long)in->version,
                 SLICE_FMT(in->stream));
        writes[w].count++;
        in->write = w;
    }
out:
    return rc;
}

static int
submit(struct import *im, struct log_write *writes, uint32_t write_count,
       struct log_new_event *events, uint32_t *order, struct err *err)
{
    struct log_req req = {.writes = writes,
                          .write_count = write_count,
                          .order = order,
                          .flags = LOG_SYSTEM | LOG_BULK | (im->quiet ? LOG_QUIET : 0u),
                          .time_us = im->time_us};
    uint32_t       at = 0;
    int            rc;

    for (uint32_t w = 0; w < write_count; w++) {
        uint32_t begin = at;

        for (uint32_t i = 0; i < im->count; i++)
            if (im->events[i].write == w)
                events[at++] = im->events[i].event;
        writes[w].events = &events[begin];
    }
    for (uint32_t i = 0; i < im->count; i++)
        order[i] = im->events[i].write;
    rc = log_append(im->log, &req);
    if (rc == E_WRONG_VERSION && req.wrong_expected >= 0 && req.wrong_actual < req.wrong_expected)
        RETURN_ERR(err, rc, ERR_DATA,
                   "the commit from line %llu on: version %lld of \"%.*s\" is not in the export, "
                   "perhaps scavenged; an import cannot leave numbers out, oxbow log backup keeps "
                   "them",
                   (unsigned long long)im->first_line, (long long)req.wrong_actual + 1,
                   SLICE_FMT(req.wrong_stream));
    if (rc != 0) {
        *err = req.err;
        err_prefix(err, "the commit from line %llu on", (unsigned long long)im->first_line);
    }
    return rc;
}

static int
import_commit(struct import *im, struct err *err)
{
    struct log_write     *writes;
    struct log_new_event *events;
    uint32_t             *order, write_count = 0;
    int                   rc = 0;

    if (im->count == 0)
        return 0;
    writes = calloc(im->count, sizeof *writes);
    events = calloc(im->count, sizeof *events);
    order = calloc(im->count, sizeof *order);
    if (writes == NULL || events == NULL || order == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(settle(im, writes, &write_count, err));
    TRY(submit(im, writes, write_count, events, order, err));
    im->total += im->count;
    im->commits++;
    im->count = 0;
    buf_clear(&im->text);
    if (im->commits % 64 == 0)
        clii_progress(im->cli, "imported %llu events", (unsigned long long)im->total);
out:
    free(writes);
    free(events);
    free(order);
    return rc;
}

static int
import_line(void *arg, struct slice line, uint64_t number, struct err *err)
{
    struct import    *im = arg;
    struct json_field f[F_COUNT];
    struct slice      state;
    uint64_t          commit;
    int               rc = 0;

    if (slice_starts(line, slice_str("{\"state\":")) && json_get(line, "state", &state)) {
        rc = import_commit(im, err);
        if (rc != 0)
            return rc;
        TRY(clii_state_import(im->log, state, err));
        im->states++;
        return 0;
    }
    TRY(read_fields(line, f, &commit, err));
    if (im->count > 0 && commit != im->commit) {
        rc = import_commit(im, err);
        if (rc != 0)
            return rc;
    }
    if (im->count == 0) {
        im->commit = commit;
        im->first_line = number;
        im->quiet = f[F_QUIET].value.data != NULL;
        im->time_us = 0;
        TRY(read_time(f[F_COMMITTED].value, "committed", &im->time_us, err));
    }
    TRY(add_event(im, line, f, number, err));
    return 0;
out:
    err_prefix(err, "line %llu", (unsigned long long)number);
    return rc;
}

static int
import_input(struct import *im, struct err *err)
{
    int rc = clii_each_line(LINE_MAX_BYTES, import_line, im, err);

    return rc == 0 ? import_commit(im, err) : rc;
}

int
clii_log_import(struct cli *c, struct err *err)
{
    static const char *const names[] = {"events", "commits", "states", "end"};
    struct import            im = {.cli = c};
    int                      rc = 0;

    TRY(clii_need_folder(c, err));
    buf_init(&im.text, TEXT_MAX);
    c->opening = true;
    TRY(clii_log_open(c, true, &im.log, err));
    c->opening = false;
    rc = import_input(&im, err);
    if (rc != 0 && im.commits > 0)
        err_prefix(err, "after %llu events in %llu commits", (unsigned long long)im.total,
                   (unsigned long long)im.commits);
    if (rc != 0)
        goto out;
    clii_progress_end(c);
    put_numbers(c, names, (const uint64_t[]){im.total, im.commits, im.states, log_end(im.log).v},
                4);
out:
    clii_log_close(c, im.log);
    free(im.events);
    free(im.marks);
    buf_fini(&im.text);
    return rc;
}
