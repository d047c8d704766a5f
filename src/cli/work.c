/* append, read, stream list|info, log info: the same on a folder and at a server. */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/json.h"
#include "base/must.h"
#include "base/ndjson.h"
#include "cli/cli_int.h"
#include "log/log.h"

#define LINE_MAX_BYTES (2 * LOG_EVENT_MAX)
#define BATCH_BYTES_MAX (8U << 20)
#define BATCH_EVENTS 1000
#define BATCH_EVENTS_MAX 100000

/* append */

struct appending {
    struct cli           *cli;
    struct cli_place     *place;
    const char           *stream;
    int64_t               expected;
    uint64_t              batch_max;
    struct log_new_event *events;
    struct line_mark {
        uint64_t number;
        size_t   begin, len;
    } * marks;
    uint32_t   count;
    struct buf lines; /* of the batch, as they came */
    struct buf text;  /* a copy that is decoded in place */
    uint64_t   done, commits, first, last, position;
};

static int
parse_batch(struct appending *a, struct err *err)
{
    int rc = 0;

    buf_clear(&a->text);
    buf_add_slice(&a->text, buf_slice(&a->lines));
    if (a->text.failed || a->lines.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the events");
    for (uint32_t i = 0; i < a->count; i++) {
        struct slice raw = slice_of(a->text.data + a->marks[i].begin, a->marks[i].len);

        rc = clii_event_read(raw, &a->events[i], err);
        if (rc != 0) {
            err_prefix(err, "line %llu", (unsigned long long)a->marks[i].number);
            goto out;
        }
    }
out:
    return rc;
}

static void
say_commit(struct appending *a, const struct cli_appended *done)
{
    if (!clii_json(a->cli))
        return;
    clii_printf(a->cli, "{\"position\":%llu,\"first_version\":%llu,\"last_version\":%llu%s}\n",
                (unsigned long long)done->position, (unsigned long long)done->first_version,
                (unsigned long long)done->last_version,
                done->idempotent ? ",\"idempotent\":true" : "");
}

static int
commit_batch(struct appending *a, struct err *err)
{
    struct cli_appended done;
    struct cli_batch    batch;
    int                 rc = 0;

    if (a->count == 0)
        return 0;
    TRY(parse_batch(a, err));
    batch = (struct cli_batch){a->events, a->count, buf_slice(&a->lines),
                               a->cli->opt[OPT_FOLLOW_MOVES] != NULL};
    rc = a->place->ops->append(a->place, a->stream, a->expected, &batch, &done, err);
    if (rc != 0 && rc != E_WRONG_VERSION && a->marks[0].number != a->marks[a->count - 1].number)
        err_prefix(err, "lines %llu to %llu", (unsigned long long)a->marks[0].number,
                   (unsigned long long)a->marks[a->count - 1].number);
    if (rc != 0)
        goto out;
    if (a->commits++ == 0)
        a->first = done.first_version;
    a->done += a->count;
    a->last = done.last_version;
    a->position = done.position;
    if (a->expected != LOG_ANY)
        a->expected = (int64_t)done.last_version;
    a->count = 0;
    buf_clear(&a->lines);
    say_commit(a, &done);
    clii_progress(a->cli, "%llu events", (unsigned long long)a->done);
    TRY(clii_flush(a->cli, err));
out:
    return rc;
}

static int
take_line(void *arg, struct slice line, uint64_t number, struct err *err)
{
    struct appending *a = arg;
    int               rc = 0;

    if (a->count == a->batch_max || (a->count > 0 && a->lines.len + line.len > BATCH_BYTES_MAX))
        TRY(commit_batch(a, err));
    a->marks[a->count++] = (struct line_mark){number, a->lines.len, line.len};
    buf_add_slice(&a->lines, line);
    buf_add_byte(&a->lines, '\n');
out:
    return rc;
}

/* stdin to its end. */
static int
take_input(struct appending *a, struct err *err)
{
    int rc = clii_each_line(LINE_MAX_BYTES, take_line, a, err);

    return rc == 0 ? commit_batch(a, err) : rc;
}

static int
append_options(struct appending *a, struct err *err)
{
    const struct cli *c = a->cli;
    int               rc = 0;

    a->stream = c->args[0];
    a->expected = LOG_ANY;
    if (c->opt[OPT_EXPECT] != NULL &&
        !clii_expected_read(slice_str(c->opt[OPT_EXPECT]), &a->expected))
        FAIL(err, E_USAGE, ERR_DATA, "--expect %s: must be any, no-stream, exists or a version",
             c->opt[OPT_EXPECT]);
    TRY(clii_number(c, OPT_BATCH, BATCH_EVENTS, &a->batch_max, err));
    if (a->batch_max == 0 || a->batch_max > BATCH_EVENTS_MAX)
        FAIL(err, E_USAGE, ERR_DATA, "--batch %s: must be 1 to %d", c->opt[OPT_BATCH],
             BATCH_EVENTS_MAX);
    TRY(log_name_check(slice_str(a->stream), false, err));
    a->events = calloc(a->batch_max, sizeof *a->events);
    a->marks = calloc(a->batch_max, sizeof *a->marks);
    if (a->events == NULL || a->marks == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    return rc;
}

static void
say_appended(const struct appending *a)
{
    struct buf line = {0};

    buf_printf(&line, "%llu event%s appended to ", (unsigned long long)a->done,
               a->done == 1 ? "" : "s");
    clii_add_plain(&line, slice_str(a->stream));
    buf_printf(&line, ": version %llu", (unsigned long long)a->first);
    if (a->last != a->first)
        buf_printf(&line, " to %llu", (unsigned long long)a->last);
    buf_printf(&line, ", position %llu\n", (unsigned long long)a->position);
    clii_put_buf(a->cli, &line);
    buf_fini(&line);
}

int
clii_append(struct cli *c, struct err *err)
{
    struct appending a = {.cli = c};
    int              rc = 0;

    TRY(append_options(&a, err));
    TRY(clii_place_open(c, true, &a.place, err));
    rc = take_input(&a, err);
    if (rc == 0 && a.commits == 0)
        FAIL(err, E_INVALID, ERR_DATA, "%s: there was no event on stdin", a.stream);
    if (rc == 0 && !clii_json(c))
        say_appended(&a);
    if (rc != 0 && a.done > 0)
        err_prefix(err, "%s: after %llu events in %llu commits, up to version %llu", a.stream,
                   (unsigned long long)a.done, (unsigned long long)a.commits,
                   (unsigned long long)a.last);
    else if (rc != 0)
        err_prefix(err, "%s", a.stream);
out:
    clii_place_close(a.place);
    free(a.events);
    free(a.marks);
    buf_fini(&a.lines);
    buf_fini(&a.text);
    return rc;
}

/* read */

struct reading {
    struct cli *cli;
    const char *type; /* of a stream's events, where that is asked for */
    uint64_t    limit, given;
    bool        table, all, head;
    unsigned    width;
    struct buf  line, scratch;
};

enum column {
    COL_POSITION,
    COL_STREAM,
    COL_VERSION,
    COL_TYPE,
    COL_CREATED,
    COL_DATA,
    COL_DATA64,
    COL_COUNT
};

/* At least `width` characters, and one space. Counts bytes but the trailing ones of UTF-8. */
static void
add_cell(struct buf *out, struct slice text, size_t width)
{
    size_t from = out->len, count = 0;

    clii_add_plain(out, text);
    for (size_t i = from; i < out->len; i++)
        count += (out->data[i] & 0xc0) != 0x80;
    while (count++ < width)
        buf_add_byte(out, ' ');
    buf_add_str(out, "  ");
}

/* What is beyond the terminal's edge is cut. */
static void
cut_line(struct buf *line, unsigned width)
{
    size_t count = 0;

    for (size_t i = 0; i < line->len; i++) {
        if ((line->data[i] & 0xc0) == 0x80 || ++count < width)
            continue;
        line->len = i;
        buf_add_str(line, "…");
        return;
    }
}

static void
put_row(struct reading *r, struct slice object)
{
    struct json_field f[COL_COUNT] = {
        {.name = "position"}, {.name = "stream"}, {.name = "version"},    {.name = "type"},
        {.name = "created"},  {.name = "data"},   {.name = "data_base64"}};
    static const size_t width[] = {10, 24, 7, 20, 23};

    if (json_pick(object, f, COL_COUNT, JSON_PICK_ANY, NULL) != 0)
        return;
    buf_clear(&r->line);
    for (int i = 0; i <= COL_CREATED; i++) {
        struct slice text = f[i].value;

        if (!r->all && (i == COL_POSITION || i == COL_STREAM))
            continue;
        if (json_type(text) == JSON_STRING)
            (void)json_string_view(text, &r->scratch, &text, NULL);
        if (i == COL_CREATED && text.len > 23)
            text.len = 23; /* milliseconds are enough to look at */
        add_cell(&r->line, text, width[i]);
    }
    clii_add_plain(&r->line, f[f[COL_DATA].value.data != NULL ? COL_DATA : COL_DATA64].value);
    cut_line(&r->line, r->width);
    buf_add_byte(&r->line, '\n');
    clii_put_buf(r->cli, &r->line);
}

static void
put_head(struct reading *r)
{
    if (r->head || !r->table)
        return;
    r->head = true;
    if (r->all)
        clii_printf(r->cli, "%-10s  %-24s  ", "position", "stream");
    clii_printf(r->cli, "%-7s  %-20s  %-23s  data\n", "version", "type", "created");
}

static bool
is_type(struct reading *r, struct slice object)
{
    struct slice type;

    return r->type == NULL ||
           (json_get(object, "type", &type) &&
            json_string_view(type, &r->scratch, &type, NULL) == 0 && slice_is(type, r->type));
}

static int
take_event(void *arg, struct slice line, struct err *err)
{
    struct reading *r = arg;

    if (line.data == NULL || r->cli->out_closed)
        return clii_flush(r->cli, err);
    if (!is_type(r, line))
        return 0;
    put_head(r);
    if (r->table) {
        put_row(r, line);
    } else {
        clii_put(r->cli, line.data, line.len);
        clii_put(r->cli, "\n", 1);
    }
    return ++r->given == r->limit ? E_END : 0;
}

static int
read_options(struct reading *r, struct cli_read *q, struct err *err)
{
    const struct cli *c = r->cli;
    struct winsize    size;
    int               rc = 0;

    r->all = strcmp(c->args[0], "$all") == 0 || clii_is_native(c->args[0]);
    *q = (struct cli_read){.stream = strcmp(c->args[0], "$all") == 0 ? NULL : c->args[0],
                           .from = c->opt[OPT_FROM],
                           .at = c->opt[OPT_AT],
                           .prefix = c->opt[OPT_PREFIX],
                           .category = c->opt[OPT_CATEGORY],
                           .type = c->opt[OPT_TYPE],
                           .moved = c->opt[OPT_MOVED],
                           .links = c->opt[OPT_LINKS],
                           .start = c->opt[OPT_START],
                           .backwards = c->opt[OPT_BACKWARDS] != NULL,
                           .follow = c->opt[OPT_FOLLOW] != NULL,
                           .resolve = c->opt[OPT_RESOLVE] != NULL,
                           .follow_moves = c->opt[OPT_FOLLOW_MOVES] != NULL,
                           .raw = c->opt[OPT_RAW] != NULL};
    r->type = r->all ? NULL : q->type;
    TRY(clii_number(c, OPT_LIMIT, 0, &r->limit, err));
    if (c->opt[OPT_LIMIT] != NULL && r->limit == 0)
        FAIL(err, E_USAGE, ERR_DATA, "--limit 0: must be at least 1");
    q->limit = r->type == NULL ? r->limit : 0;
    if (!r->all && (q->prefix != NULL || q->category != NULL))
        FAIL(err, E_USAGE, ERR_DATA, "--%s: is for $all, $ce-… and $et-… only",
             q->prefix != NULL ? "prefix" : "category");
    if (q->follow && (q->backwards || q->at != NULL))
        FAIL(err, E_USAGE, ERR_DATA, "--follow: goes forwards only, and not with --at");
    r->table = c->out_tty && !clii_json(c);
    r->width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
out:
    return rc;
}

int
clii_read(struct cli *c, struct err *err)
{
    struct reading    r = {.cli = c};
    struct cli_read   q;
    struct cli_place *place = NULL;
    int               rc = 0;

    TRY(read_options(&r, &q, err));
    TRY(clii_place_open(c, false, &place, err));
    rc = place->ops->read(place, &q, take_event, &r, err);
    if (rc == E_END)
        rc = 0;
    if (rc != 0 && rc != E_INTERRUPTED && rc != E_USAGE)
        err_prefix(err, "%s", c->args[0]);
out:
    clii_place_close(place);
    buf_fini(&r.line);
    buf_fini(&r.scratch);
    return rc;
}

/* stream list, stream info, log info */

struct listing {
    struct cli *cli;
    uint64_t    limit, given;
    struct buf  line, scratch;
};

static int
take_stream(void *arg, struct slice object, struct err *err)
{
    struct listing   *l = arg;
    struct json_field f[] = {
        {.name = "stream"}, {.name = "count"}, {.name = "first"}, {.name = "head"}};
    struct slice name;

    if (l->cli->out_closed)
        return clii_flush(l->cli, err);
    if (clii_json(l->cli) || !l->cli->out_tty) {
        buf_add_slice(&l->line, object);
    } else {
        if (l->given == 0)
            clii_printf(l->cli, "%-40s  %8s  %8s  %8s\n", "stream", "count", "first", "head");
        if (json_pick(object, f, 4, JSON_PICK_ANY, err) != 0 ||
            json_string_view(f[0].value, &l->scratch, &name, err) != 0)
            return err->code;
        add_cell(&l->line, name, 40);
        for (int i = 1; i < 4; i++)
            buf_printf(&l->line, i == 1 ? "%8.*s" : "  %8.*s", SLICE_FMT(f[i].value));
    }
    buf_add_byte(&l->line, '\n');
    clii_put_buf(l->cli, &l->line);
    return ++l->given == l->limit ? E_END : 0;
}

int
clii_stream_list(struct cli *c, struct err *err)
{
    struct listing    l = {.cli = c};
    struct cli_place *place = NULL;
    int               rc = 0;

    TRY(clii_number(c, OPT_LIMIT, 0, &l.limit, err));
    TRY(clii_place_open(c, false, &place, err));
    rc = place->ops->streams(place, c->arg_count > 0 ? c->args[0] : "", take_stream, &l, err);
    if (rc == E_END)
        rc = 0;
out:
    clii_place_close(place);
    buf_fini(&l.line);
    buf_fini(&l.scratch);
    return rc;
}

static void
put_object(struct cli *c, struct buf *object)
{
    if (clii_json(c) || !c->out_tty) {
        buf_add_byte(object, '\n');
        clii_put_buf(c, object);
    } else {
        clii_put_table(c, buf_slice(object));
    }
}

int
clii_stream_info(struct cli *c, struct err *err)
{
    struct cli_place *place = NULL;
    struct buf        object = {0};
    int               rc = 0;

    TRY(clii_place_open(c, false, &place, err));
    rc = place->ops->stream(place, c->args[0], &object, err);
    if (rc != 0)
        err_prefix(err, "%s", c->args[0]);
    else
        put_object(c, &object);
out:
    clii_place_close(place);
    buf_fini(&object);
    return rc;
}

int
clii_log_info(struct cli *c, struct err *err)
{
    struct cli_place *place = NULL;
    struct buf        object = {0};
    int               rc = 0;

    TRY(clii_place_open(c, false, &place, err));
    TRY(place->ops->info(place, &object, err));
    put_object(c, &object);
out:
    clii_place_close(place);
    buf_fini(&object);
    return rc;
}
