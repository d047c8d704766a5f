/* source|sink|migrate …: what a running server has, over HTTP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"
#include "cli/cli_int.h"

#define DEFAULT_SERVER "http://127.0.0.1:2113"
#define WATCH_MS 300

static void
need_server(struct cli *c)
{
    if (clii_server(c) == NULL)
        c->opt[OPT_SERVER] = DEFAULT_SERVER;
}

/* "/v1/KIND[/NAME[/WORD]]" */
static void
write_path(struct buf *path, const char *kind, const char *name, const char *word)
{
    buf_clear(path);
    buf_printf(path, "/v1/%s", kind);
    if (name != NULL) {
        buf_add_byte(path, '/');
        url_encode(path, slice_str(name));
    }
    if (word != NULL)
        buf_printf(path, "/%s", word);
    buf_add_byte(path, '\0');
}

static void
put_line(struct cli *c, struct slice object)
{
    clii_put(c, object.data, object.len);
    clii_put(c, "\n", 1);
}

/* A cell of a table: the text at a path, "-" where it is null, empty or not there. */
static void
put_member(struct buf *line, struct slice object, const char *name, int width)
{
    struct buf   text = {0};
    struct slice value = {0};
    size_t       from = line->len;

    if (json_get_path(object, slice_str(name), &value) && !json_is_null(value)) {
        if (json_type(value) == JSON_STRING)
            (void)json_string_view(value, &text, &value, NULL);
    } else {
        value = slice_str("-");
    }
    clii_add_plain(line, value.len == 0 ? slice_str("-") : value);
    while (line->len - from < (size_t)width)
        buf_add_byte(line, ' ');
    buf_add_str(line, "  ");
    buf_fini(&text);
}

struct column {
    const char *name;
    int         width;
};

static int
list(struct cli *c, const char *kind, const struct column *columns, struct err *err)
{
    struct buf       path = {0}, body = {0}, line = {0};
    struct json_iter it;
    struct slice     all, object;
    bool             table = !clii_json(c) && c->out_tty;
    int              rc = 0;

    need_server(c);
    write_path(&path, kind, NULL, NULL);
    TRY(clii_request(c, "GET", (const char *)path.data, (struct slice){0}, &body, err));
    if (!json_get(buf_slice(&body), kind, &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    for (const struct column *k = columns; table && k->name != NULL; k++)
        clii_printf(c, "%-*s  ", k->width, k->name);
    if (table)
        clii_put_str(c, "\n");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &object, err)) == 0) {
        for (const struct column *k = columns; table && k->name != NULL; k++)
            put_member(&line, object, k->name, k->width);
        if (table) {
            buf_add_byte(&line, '\n');
            clii_put_buf(c, &line);
        } else {
            put_line(c, object);
        }
    }
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&line);
    return rc;
}

static int
get_document(struct cli *c, const char *kind, const char *word, struct buf *body,
             struct slice *object, struct err *err)
{
    struct buf path = {0};
    int        rc = 0;

    need_server(c);
    write_path(&path, kind, c->args[0], word);
    TRY(clii_request(c, "GET", (const char *)path.data, (struct slice){0}, body, err));
    rc = json_value(buf_slice(body), object, err);
out:
    buf_fini(&path);
    return rc;
}

static int
show(struct cli *c, const char *kind, const char *word, struct err *err)
{
    struct buf   body = {0};
    struct slice object;
    int          rc = 0;

    TRY(get_document(c, kind, word, &body, &object, err));
    if (clii_json(c) || !c->out_tty)
        put_line(c, object);
    else
        clii_put_table(c, object);
out:
    buf_fini(&body);
    return rc;
}

/* POST /v1/KIND/NAME/WORD?QUERY */
static int
command(struct cli *c, const char *kind, const char *word, const char *query, struct err *err)
{
    struct buf   path = {0}, body = {0}, scratch = {0};
    struct slice object, raw, text = slice_str("done");
    int          rc = 0;

    need_server(c);
    write_path(&path, kind, c->args[0], word);
    path.len--;
    buf_printf(&path, "%s", query);
    buf_add_byte(&path, '\0');
    rc = clii_request(c, "POST", (const char *)path.data, slice_str(""), &body, err);
    if (rc != 0) {
        err_prefix(err, "%s", c->args[0]);
        goto out;
    }
    TRY(json_value(buf_slice(&body), &object, err));
    if (clii_json(c))
        put_line(c, object);
    else if (json_get(object, "message", &raw))
        TRY(json_string_view(raw, &scratch, &text, err)); /* it is not in force yet */
    if (!clii_json(c))
        clii_printf(c, "%s: %s: %.*s\n", c->args[0], word, SLICE_FMT(text));
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&scratch);
    return rc;
}

int
clii_source_list(struct cli *c, struct err *err)
{
    static const struct column columns[] = {{"name", 20},  {"state", 10}, {"changes", 10},
                                            {"parked", 7}, {"error", 0},  {NULL, 0}};

    return list(c, "sources", columns, err);
}

int
clii_source_show(struct cli *c, struct err *err)
{
    return show(c, "sources", NULL, err);
}

/* The word after "source". */
int
clii_source_command(struct cli *c, struct err *err)
{
    const char *word = strchr(c->command->name, ' ') + 1;
    struct buf  query = {0};
    int         rc = 0;

    if (strcmp(word, "snapshot") == 0 && (c->arg_count > 1) == (c->opt[OPT_GAP] != NULL))
        FAIL(err, E_INVALID, ERR_DATA, "name one table, or say --gap for all");
    if (c->opt[OPT_GAP] != NULL)
        buf_add_str(&query, "?gap=true");
    if (c->arg_count > 1) {
        buf_add_str(&query,
                    c->opt[OPT_DIFFERENCES] != NULL ? "?differences=true&table=" : "?table=");
        url_encode(&query, slice_str(c->args[1]));
    }
    buf_add_byte(&query, '\0');
    rc = command(c, "sources", word, (const char *)query.data, err);
out:
    buf_fini(&query);
    return rc;
}

int
clii_sink_list(struct cli *c, struct err *err)
{
    static const struct column columns[] = {
        {"name", 20},  {"state", 10}, {"delivered", 10}, {"lag_positions", 14},
        {"parked", 7}, {"error", 0},  {NULL, 0}};

    return list(c, "sinks", columns, err);
}

int
clii_sink_show(struct cli *c, struct err *err)
{
    return show(c, "sinks", NULL, err);
}

/* ?KEY=VALUE&…, without what is NULL. */
static void
add_query(struct buf *query, const char *key, const char *value)
{
    if (value == NULL)
        return;
    buf_printf(query, "%c%s=", query->len == 0 ? '?' : '&', key);
    url_encode(query, slice_str(value));
}

static int
sink_command(struct cli *c, const char *word, struct buf *query, struct err *err)
{
    int rc;

    buf_add_byte(query, '\0');
    rc = command(c, "sinks", word, (const char *)query->data, err);
    buf_fini(query);
    return rc;
}

/* The word after "sink". */
int
clii_sink_command(struct cli *c, struct err *err)
{
    struct buf query = {0};

    add_query(&query, "to", c->arg_count > 1 ? c->args[1] : NULL);
    return sink_command(c, strchr(c->command->name, ' ') + 1, &query, err);
}

int
clii_sink_replay(struct cli *c, struct err *err)
{
    struct buf query = {0};

    if (c->opt[OPT_FROM] == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA,
                   "--from is missing: beginning, a position or a time (what is parked: oxbow sink "
                   "parked replay)");
    add_query(&query, "from", c->opt[OPT_FROM]);
    add_query(&query, "to", c->opt[OPT_TO]);
    return sink_command(c, "replay", &query, err);
}

/* parked events: the records of the sink's own stream, without those that were closed since */

#define PARKED_MAX 100000

struct parked_at {
    size_t at, len; /* in `text`: the record, a JSON object */
};

struct parked {
    struct buf        text;
    struct parked_at *list;
    uint32_t          count;
    const char       *only; /* of this stream; NULL: of all */
};

static struct slice
parked_stream(struct slice record)
{
    struct slice raw = {0};

    (void)json_get(record, "stream", &raw);
    return raw;
}

/* Each stream's are closed in the order in which they were made. */
static void
close_first(struct parked *p, struct slice stream)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct slice record = slice_of(p->text.data + p->list[i].at, p->list[i].len);

        if (!slice_eq(parked_stream(record), stream))
            continue;
        p->count--;
        memmove(&p->list[i], &p->list[i + 1], (p->count - i) * sizeof p->list[0]);
        return;
    }
}

static int
take_record(struct parked *p, struct slice event, struct buf *scratch, struct err *err)
{
    struct slice type, data, stream, name;
    int          rc = 0;

    if (!json_get(event, "type", &type) || !json_get(event, "data", &data))
        return 0;
    stream = parked_stream(data);
    if (stream.len == 0)
        return 0; /* an order about all */
    TRY(json_string_view(stream, scratch, &name, err));
    if (p->only != NULL && !slice_is(name, p->only))
        return 0;
    if (slice_is(type, "\"Unparked\""))
        close_first(p, stream);
    if (!slice_is(type, "\"Parked\""))
        return 0;
    if (p->count == PARKED_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "more than %d are parked: name a stream", PARKED_MAX);
    p->list[p->count++] = (struct parked_at){p->text.len, data.len};
    buf_add_slice(&p->text, data);
    if (p->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    return rc;
}

/* One page; *next stays where nothing came. */
static int
take_page(struct cli *c, struct parked *p, uint64_t *next, struct err *err)
{
    struct buf       path = {0}, name = {0}, body = {0}, scratch = {0};
    struct json_iter it;
    struct slice     events, event, raw;
    int              rc;

    buf_printf(&name, "$parked-sink-%s", c->args[0]);
    buf_add_str(&path, "/v1/streams/");
    url_encode(&path, buf_slice(&name));
    buf_printf(&path, "?from=%llu", (unsigned long long)*next);
    buf_add_byte(&path, '\0');
    TRY(clii_request(c, "GET", (const char *)path.data, (struct slice){0}, &body, err));
    if (!json_get(buf_slice(&body), "events", &events))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, events, err));
    while ((rc = json_iter_next(&it, NULL, &event, err)) == 0) {
        TRY(take_record(p, event, &scratch, err));
        if (json_get(event, "version", &raw) && json_uint64(raw, next))
            ++*next;
    }
    if (rc == E_END)
        rc = 0;
out:
    buf_fini(&path);
    buf_fini(&name);
    buf_fini(&body);
    buf_fini(&scratch);
    return rc;
}

static int
list_parked(struct cli *c, struct parked *p, struct err *err)
{
    uint64_t next = 0, before;
    int      rc;

    do {
        before = next;
        rc = take_page(c, p, &next, err);
        if (rc != 0 && err->code == E_NOTFOUND)
            rc = 0; /* nothing ever was */
        TRY(rc);
        TRY(clii_go_on(err));
    } while (next > before);
out:
    return rc;
}

/* The event at the position as it is stored, after its record. */
static int
show_parked(struct cli *c, const struct parked *p, const char *position, struct err *err)
{
    struct buf       path = {0}, body = {0};
    struct slice     record, raw, events, event;
    struct json_iter it;
    uint64_t         wanted, found;
    int              rc = 0;

    if (!json_uint64(slice_str(position), &wanted))
        FAIL(err, E_USAGE, ERR_DATA, "\"%s\" is no position", position);
    for (uint32_t i = 0; i < p->count; i++) {
        record = slice_of(p->text.data + p->list[i].at, p->list[i].len);
        if (!json_get(record, "position", &raw) || !json_uint64(raw, &found) || found != wanted)
            continue;
        put_line(c, record);
        buf_printf(&path, "/v1/all?from=%s&limit=1&raw=true", position);
        buf_add_byte(&path, '\0');
        TRY(clii_request(c, "GET", (const char *)path.data, (struct slice){0}, &body, err));
        if (!json_get(buf_slice(&body), "events", &events))
            FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
        TRY(json_array_iter(&it, events, err));
        if (json_iter_next(&it, NULL, &event, NULL) == 0 && json_get(event, "position", &raw) &&
            json_uint64(raw, &found) && found == wanted)
            put_line(c, event);
        goto out;
    }
    FAIL(err, E_NOTFOUND, ERR_DATA, "nothing is parked at position %s", position);
out:
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

static int
look_at_parked(struct cli *c, const char *more, bool show, struct err *err)
{
    struct parked p = {.list = calloc(PARKED_MAX, sizeof *p.list), .only = show ? NULL : more};
    struct buf    body = {0};
    struct slice  ignored;
    int           rc;

    if (p.list == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(get_document(c, "sinks", NULL, &body, &ignored, err)); /* a name that no sink has */
    TRY(list_parked(c, &p, err));
    if (show)
        TRY(show_parked(c, &p, more, err));
    for (uint32_t i = 0; !show && i < p.count; i++)
        put_line(c, slice_of(p.text.data + p.list[i].at, p.list[i].len));
out:
    buf_fini(&body);
    buf_fini(&p.text);
    free(p.list);
    return rc;
}

/* WORD NAME [STREAM|POSITION] */
int
clii_sink_parked(struct cli *c, struct err *err)
{
    const char *word = c->args[0], *more = c->arg_count > 2 ? c->args[2] : NULL;
    bool        show = strcmp(word, "show") == 0, drop = strcmp(word, "drop") == 0;
    struct buf  query = {0};

    if ((show || drop) && more == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: which %s?", word, show ? "position" : "stream");
    c->args++; /* the name first, as for the other commands */
    c->arg_count--;
    if (show || strcmp(word, "list") == 0)
        return look_at_parked(c, more, show, err);
    if (!drop && strcmp(word, "replay") != 0 && strcmp(word, "skip") != 0)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: there are list, show, replay, skip and drop", word);
    add_query(&query, "stream", more);
    add_query(&query, "rest", drop ? "true" : NULL);
    return sink_command(c, drop ? "skip" : word, &query, err);
}

/* migrations */

int
clii_migrate_list(struct cli *c, struct err *err)
{
    static const struct column columns[] = {{"name", 20},
                                            {"phase", 14},
                                            {"authority", 9},
                                            {"epoch", 6},
                                            {"sync.lag_events", 15},
                                            {"verify.divergent", 16},
                                            {"error", 0},
                                            {NULL, 0}};

    return list(c, "migrations", columns, err);
}

static uint64_t
number(struct slice object, const char *name)
{
    struct slice value;
    uint64_t     v = 0;

    return json_get_path(object, slice_str(name), &value) && json_uint64(value, &v) ? v : 0;
}

static void
say_progress(struct cli *c, struct slice object)
{
    struct buf phase = {0}, side = {0};

    put_member(&phase, object, "phase", 0);
    put_member(&side, object, "authority", 0);
    clii_progress(c, "%.*s authority %.*s backfilled %llu  lag %llu  verified %llu  divergent %llu",
                  SLICE_FMT(buf_slice(&phase)), SLICE_FMT(buf_slice(&side)),
                  (unsigned long long)number(object, "backfill.rows"),
                  (unsigned long long)number(object, "sync.lag_events"),
                  (unsigned long long)number(object, "verify.rows"),
                  (unsigned long long)number(object, "verify.divergent"));
    buf_fini(&phase);
    buf_fini(&side);
}

/* A phase that stays until somebody does something. */
static bool
is_resting(struct slice object)
{
    static const char *const phases[] = {"DRAFT",   "READY",  "NEW_SOAK",  "FALLBACK_KEPT",
                                         "RETIRED", "PAUSED", "CANCELLED", "HALTED"};
    struct slice             raw;

    if (!json_get(object, "phase", &raw) || json_type(raw) != JSON_STRING)
        return true;
    raw = slice_of((const char *)raw.data + 1, raw.len - 2);
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++)
        if (slice_is(raw, phases[i]))
            return true;
    return false;
}

/* Shows progress until the phase is one that rests. With --json a line for each change. */
static int
watch(struct cli *c, struct err *err)
{
    struct buf   body = {0}, last = {0};
    struct slice object, phase;
    bool         again = true;
    int          rc = 0;

    while (again) {
        TRY(get_document(c, "migrations", NULL, &body, &object, err));
        say_progress(c, object);
        if (clii_json(c) && json_get(object, "phase", &phase) &&
            !slice_eq(phase, buf_slice(&last))) {
            buf_clear(&last);
            buf_add_slice(&last, phase);
            put_line(c, object);
            TRY(clii_flush(c, err));
        }
        again = !is_resting(object);
        if (again)
            (void)nanosleep(&(struct timespec){.tv_nsec = WATCH_MS * 1000000L}, NULL);
        TRY(clii_go_on(err));
    }
    clii_progress_end(c);
    if (!clii_json(c))
        clii_put_table(c, object);
    if (json_get(object, "phase", &phase) && slice_is(phase, "\"HALTED\""))
        FAIL(err, E_STATE, ERR_FATAL, "%s: halted; see error above", c->args[0]);
    if (number(object, "verify.divergent") > 0)
        FAIL(err, E_DIVERGED, ERR_FATAL, "%s: %llu keys differ; oxbow migrate report %s names them",
             c->args[0], (unsigned long long)number(object, "verify.divergent"), c->args[0]);
out:
    buf_fini(&body);
    buf_fini(&last);
    return rc;
}

int
clii_migrate_show(struct cli *c, struct err *err)
{
    return c->opt[OPT_WATCH] != NULL ? watch(c, err) : show(c, "migrations", NULL, err);
}

int
clii_migrate_report(struct cli *c, struct err *err)
{
    struct buf   body = {0};
    struct slice object;
    int          rc = 0;

    TRY(get_document(c, "migrations", "report", &body, &object, err));
    if (clii_json(c) || !c->out_tty)
        put_line(c, object);
    else
        clii_put_table(c, object);
    if (number(object, "divergent") > 0)
        FAIL(err, E_DIVERGED, ERR_FATAL, "%s: %llu keys differ", c->args[0],
             (unsigned long long)number(object, "divergent"));
out:
    buf_fini(&body);
    return rc;
}

/* The word after "migrate". */
int
clii_migrate_command(struct cli *c, struct err *err)
{
    const char *word = strchr(c->command->name, ' ') + 1;
    struct buf  query = {0};
    int         rc = 0;

    if (c->arg_count > 1) {
        buf_add_str(&query, "?with=");
        url_encode(&query, slice_str(c->args[1]));
    }
    buf_add_byte(&query, '\0');
    TRY(command(c, "migrations", word, (const char *)query.data, err));
    if (c->opt[OPT_WATCH] != NULL || (c->err_tty && strcmp(word, "start") == 0))
        rc = watch(c, err);
out:
    buf_fini(&query);
    return rc;
}
