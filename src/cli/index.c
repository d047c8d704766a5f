/* oxbow index …: indexes on fields, at a server or straight in a data folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/url.h"
#include "cli/cli_int.h"
#include "core/fields.h"
#include "env/env_real.h"
#include "log/log.h"

#define PAGE 1000
#define LOOK_MS 20

int
clii_fields_open(struct cli *c, struct log *log, bool eager, struct fields **out, struct err *err)
{
    struct fields_conf conf = {.values = &log_values_lmdb, .eager = eager};
    char               dir[4096];

    *out = NULL;
    if ((size_t)snprintf(dir, sizeof dir, "%s/indexes", clii_data(c)) >= sizeof dir)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "the folder's path is too long");
    conf.dir = dir;
    return fields_open(env_real(), log, &conf, out, err);
}

/* "/v1/indexes/NAME[/WORD]"; not ended. */
static void
write_path(const struct cli *c, const char *word, struct buf *path)
{
    buf_clear(path);
    buf_add_str(path, "/v1/indexes/");
    url_encode(path, slice_str(c->args[0]));
    if (word != NULL)
        buf_printf(path, "/%s", word);
}

static int
request(struct cli *c, const char *method, struct buf *path, struct slice body, struct buf *out,
        struct err *err)
{
    buf_add_byte(path, '\0');
    if (path->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    buf_clear(out);
    return clii_request(c, method, (const char *)path->data, body, out, err);
}

static void
put_line(struct cli *c, struct slice object)
{
    clii_put(c, object.data, object.len);
    clii_put_str(c, "\n");
}

static int
put_object(struct cli *c, struct slice text, struct err *err)
{
    struct slice object;
    int          rc = json_value(text, &object, err);

    if (rc != 0)
        return rc;
    if (clii_json(c) || !c->out_tty)
        put_line(c, object);
    else
        clii_put_table(c, object);
    return 0;
}

/* Each object of an array of the answer as a line; `count` may be NULL. */
static int
put_array(struct cli *c, const struct buf *body, const char *name, uint64_t *count, struct err *err)
{
    struct json_iter it;
    struct slice     all, object;
    int              rc = 0;

    if (!json_get(buf_slice(body), name, &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &object, err)) == 0) {
        put_line(c, object);
        if (count != NULL)
            ++*count;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* in a folder */

static int
open_folder(struct cli *c, struct log **log, struct fields **fields, struct err *err)
{
    int rc = 0;

    TRY(clii_log_open(c, true, log, err));
    TRY(clii_fields_open(c, *log, true, fields, err));
out:
    return rc;
}

static void
close_folder(struct cli *c, struct log *log, struct fields *fields)
{
    fields_close(fields);
    clii_log_close(c, log);
}

static void
write_info(void *arg, const struct fields_info *i)
{
    struct json_out o;

    json_out_init(&o, arg);
    fields_info_write(i, &o);
}

struct lines {
    struct cli *cli;
    struct buf  line;
    uint64_t    limit, count;
};

static void
put_info(void *arg, const struct fields_info *i)
{
    struct lines *l = arg;

    write_info(&l->line, i);
    buf_add_byte(&l->line, '\n');
    clii_put_buf(l->cli, &l->line);
}

struct progress {
    bool     live;
    uint64_t covers, end;
    char     error[ERR_TEXT_MAX];
};

static void
note(void *arg, const struct fields_info *i)
{
    struct progress *p = arg;

    p->live = i->live;
    p->covers = i->covers.v;
    p->end = i->end.v;
    (void)snprintf(p->error, sizeof p->error, "%s", i->error == NULL ? "" : i->error);
}

/* What was begun goes on with the next command that opens the folder, or a server. */
static int
wait_built(struct cli *c, struct fields *fields, struct err *err)
{
    struct progress p = {0};
    struct cli_bar  bar;
    int             rc = 0;

    clii_bar_init(&bar, c, "building");
    for (;;) {
        TRY(fields_get(fields, slice_str(c->args[0]), note, &p, err));
        if (p.error[0] != '\0')
            FAIL(err, E_STATE, ERR_RETRY, "%s", p.error);
        if (p.live)
            break;
        clii_bar(&bar, p.covers, p.end);
        TRY(clii_go_on(err));
        (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
out:
    clii_progress_end(c);
    return rc;
}

static int
local_command(struct cli *c, struct fields_command *command, struct err *err)
{
    struct fields *fields = NULL;
    struct log    *log = NULL;
    struct buf     out = {0};
    int            rc = 0;

    TRY(open_folder(c, &log, &fields, err));
    rc = fields_command(fields, command);
    if (rc != 0) {
        err_copy(err, &command->err);
        goto out;
    }
    if (command->verb == FIELDS_DROP) {
        buf_add_str(&out, "{\"name\":");
        json_put_str(&out, c->args[0]);
        buf_add_byte(&out, '}');
    } else {
        TRY(wait_built(c, fields, err));
        TRY(fields_get(fields, command->def.name, write_info, &out, err));
    }
    TRY(put_object(c, buf_slice(&out), err));
out:
    close_folder(c, log, fields);
    buf_fini(&out);
    return rc;
}

/* the commands */

static void
write_def(const struct fields_def *def, struct buf *out)
{
    const struct slice texts[] = {def->path, def->category, def->prefix, def->type};
    const char *const  names[] = {"path", "category", "prefix", "type"};
    struct json_out    o;

    json_out_init(&o, out);
    json_out_object(&o);
    for (int i = 0; i < 4; i++) {
        if (texts[i].len == 0)
            continue;
        json_out_key(&o, names[i]);
        json_out_string(&o, texts[i]);
    }
    json_out_key(&o, "in");
    json_out_str(&o, def->metadata ? "metadata" : "data");
    json_out_object_end(&o);
}

static int
change(struct cli *c, enum fields_verb verb, const char *method, const char *word, struct err *err)
{
    struct fields_command command = {.verb = verb, .def = {.name = slice_str(c->args[0])}};
    struct buf            path = {0}, body = {0}, def = {0};
    int                   rc = 0;

    if (verb == FIELDS_CREATE) {
        command.def.path = slice_str(c->opt[OPT_PATH]);
        command.def.category = slice_str(c->opt[OPT_CATEGORY]);
        command.def.prefix = slice_str(c->opt[OPT_PREFIX]);
        command.def.type = slice_str(c->opt[OPT_TYPE]);
        command.def.metadata = c->opt[OPT_METADATA] != NULL;
        if (c->opt[OPT_PATH] == NULL)
            FAIL(err, E_USAGE, ERR_DATA, "--path must say which field");
        TRY(fields_def_check(&command.def, err));
        write_def(&command.def, &def);
    }
    if (clii_server(c) == NULL) {
        rc = local_command(c, &command, err);
        goto out;
    }
    write_path(c, word, &path);
    TRY(request(c, method, &path, buf_slice(&def), &body, err));
    TRY(put_object(c, buf_slice(&body), err));
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&def);
    return rc;
}

int
clii_index_create(struct cli *c, struct err *err)
{
    return change(c, FIELDS_CREATE, "PUT", NULL, err);
}

int
clii_index_drop(struct cli *c, struct err *err)
{
    return change(c, FIELDS_DROP, "DELETE", NULL, err);
}

int
clii_index_rebuild(struct cli *c, struct err *err)
{
    return change(c, FIELDS_REBUILD, "POST", "rebuild", err);
}

int
clii_index_list(struct cli *c, struct err *err)
{
    struct fields *fields = NULL;
    struct log    *log = NULL;
    struct lines   lines = {.cli = c};
    struct buf     path = {0}, body = {0};
    int            rc = 0;

    if (clii_server(c) == NULL) {
        TRY(open_folder(c, &log, &fields, err));
        fields_each(fields, put_info, &lines);
        goto out;
    }
    buf_add_str(&path, "/v1/indexes");
    TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
    TRY(put_array(c, &body, "indexes", NULL, err));
out:
    close_folder(c, log, fields);
    buf_fini(&lines.line);
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

int
clii_index_show(struct cli *c, struct err *err)
{
    struct fields *fields = NULL;
    struct log    *log = NULL;
    struct buf     path = {0}, body = {0};
    int            rc = 0;

    if (clii_server(c) == NULL) {
        TRY(open_folder(c, &log, &fields, err));
        TRY(fields_get(fields, slice_str(c->args[0]), write_info, &body, err));
    } else {
        write_path(c, NULL, &path);
        TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
    }
    TRY(put_object(c, buf_slice(&body), err));
out:
    close_folder(c, log, fields);
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

/* reading */

static int
local_read(struct cli *c, struct slice value, uint64_t from, uint64_t limit, struct err *err)
{
    struct fields_query q = {.name = slice_str(c->args[0]),
                             .value = value,
                             .from = from,
                             .backwards = c->opt[OPT_BACKWARDS] != NULL};
    struct fields      *fields = NULL;
    struct log         *log = NULL;
    struct fields_read *r = NULL;
    struct log_event    event;
    struct buf          line = {0};
    int                 rc = 0;

    TRY(open_folder(c, &log, &fields, err));
    TRY(fields_read_open(fields, &q, &r, err));
    for (uint64_t n = 0; limit == 0 || n < limit; n++) {
        rc = fields_read_next(r, &event, err);
        if (rc == E_END)
            break;
        TRY(rc);
        clii_event_line(&line, &event);
        buf_add_byte(&line, '\n');
        clii_put_buf(c, &line);
        TRY(clii_go_on(err));
    }
    rc = 0;
out:
    fields_read_close(r);
    close_folder(c, log, fields);
    buf_fini(&line);
    return rc;
}

static int
remote_read(struct cli *c, struct slice value, uint64_t from, uint64_t limit, struct err *err)
{
    bool         back = c->opt[OPT_BACKWARDS] != NULL;
    struct buf   path = {0}, body = {0};
    struct slice raw;
    uint64_t     given = 0, page, count;
    int          rc = 0;

    do {
        page = limit != 0 && limit - given < PAGE ? limit - given : PAGE;
        write_path(c, "events?value=", &path);
        url_encode(&path, value);
        buf_printf(&path, "&limit=%llu&direction=%s", (unsigned long long)page,
                   back ? "backwards" : "forwards");
        if (from != UINT64_MAX)
            buf_printf(&path, "&from=%llu", (unsigned long long)from);
        TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
        count = 0;
        TRY(put_array(c, &body, "events", &count, err));
        given += count;
        TRY(clii_go_on(err));
    } while (count == page && given != limit && json_get(buf_slice(&body), "next", &raw) &&
             json_uint64(raw, &from));
out:
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

int
clii_index_read(struct cli *c, struct err *err)
{
    struct buf value = {0};
    uint64_t   from, limit;
    int        rc = 0;

    TRY(clii_number(c, OPT_FROM, c->opt[OPT_BACKWARDS] != NULL ? UINT64_MAX : 0, &from, err));
    TRY(clii_number(c, OPT_LIMIT, 0, &limit, err));
    TRY(fields_value(slice_str(c->args[1]), &value, err));
    if (clii_server(c) == NULL)
        rc = local_read(c, buf_slice(&value), from, limit, err);
    else
        rc = remote_read(c, buf_slice(&value), from, limit, err);
out:
    buf_fini(&value);
    return rc;
}

static int
put_value(void *arg, struct slice value, uint64_t count, struct err *err)
{
    struct lines *l = arg;

    if (l->limit != 0 && l->count++ == l->limit)
        return E_END;
    buf_printf(&l->line, "{\"value\":%.*s,\"count\":%llu}\n", SLICE_FMT(value),
               (unsigned long long)count);
    clii_put_buf(l->cli, &l->line);
    return 0;
}

static int
local_values(struct cli *c, uint64_t limit, struct err *err)
{
    struct lines   lines = {.cli = c, .limit = limit};
    struct fields *fields = NULL;
    struct log    *log = NULL;
    int            rc = 0;

    TRY(open_folder(c, &log, &fields, err));
    rc = fields_values(fields, slice_str(c->args[0]), (struct slice){0}, put_value, &lines, err);
    if (rc == E_END)
        rc = 0;
out:
    close_folder(c, log, fields);
    buf_fini(&lines.line);
    return rc;
}

static int
remote_values(struct cli *c, uint64_t limit, struct err *err)
{
    struct buf   path = {0}, body = {0}, after = {0};
    struct slice raw;
    uint64_t     given = 0, page, count;
    bool         more;
    int          rc = 0;

    do {
        page = limit != 0 && limit - given < PAGE ? limit - given : PAGE;
        write_path(c, "values", &path);
        buf_printf(&path, "?limit=%llu", (unsigned long long)page);
        if (after.len > 0) {
            buf_add_str(&path, "&after=");
            url_encode(&path, buf_slice(&after));
        }
        TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
        count = 0;
        TRY(put_array(c, &body, "values", &count, err));
        given += count;
        more = json_get(buf_slice(&body), "next", &raw) && json_type(raw) == JSON_STRING &&
               given != limit;
        buf_clear(&after);
        if (more)
            TRY(json_string_decode(raw, &after, err));
    } while (more);
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&after);
    return rc;
}

int
clii_index_values(struct cli *c, struct err *err)
{
    uint64_t limit;
    int      rc = 0;

    TRY(clii_number(c, OPT_LIMIT, 0, &limit, err));
    if (clii_server(c) == NULL)
        rc = local_values(c, limit, err);
    else
        rc = remote_values(c, limit, err);
out:
    return rc;
}
