/*
 * oxbow group …: consumer groups, at a server or straight in a data folder.
 * What hands events out needs a server: a group has one life at a time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/url.h"
#include "cli/cli_int.h"
#include "core/group.h"
#include "env/env_real.h"
#include "log/log.h"

#define DEFAULT_SERVER "http://127.0.0.1:2113"
#define WAIT_MS "10000"
#define RECONNECT_MS 500
#define BATCH "100"
#define PARKED_PAGE 1000

static void
need_server(struct cli *c)
{
    if (clii_server(c) == NULL)
        c->opt[OPT_SERVER] = DEFAULT_SERVER;
}

/* "/v1/groups/STREAM/GROUP[/WORD]"; not ended. */
static void
write_path(const struct cli *c, const char *word, struct buf *path)
{
    buf_clear(path);
    buf_add_str(path, "/v1/groups/");
    url_encode(path, slice_str(c->args[0]));
    buf_add_byte(path, '/');
    url_encode(path, slice_str(c->args[1]));
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

/* settings: KEY=VALUE, "filter.KEY=VALUE" */

static bool
is_raw(const char *value)
{
    uint64_t n;

    return json_uint64(slice_str(value), &n) || strcmp(value, "true") == 0 ||
           strcmp(value, "false") == 0;
}

static void
put_settings(const struct cli *c, unsigned first, bool filter, struct json_out *o)
{
    for (unsigned i = first; i < c->arg_count; i++) {
        const char *word = c->args[i], *equals = strchr(word, '=');
        bool        of_filter = strncmp(word, "filter.", 7) == 0;

        if (of_filter != filter)
            continue;
        word += of_filter ? 7 : 0;
        json_out_key_slice(o, slice_of(word, (size_t)(equals - word)));
        if (is_raw(equals + 1) && !(of_filter && strncmp(word, "system", 6) != 0))
            json_out_raw(o, slice_str(equals + 1));
        else
            json_out_str(o, equals + 1);
    }
}

static int
write_settings(const struct cli *c, unsigned first, struct buf *out, struct err *err)
{
    struct json_out o;
    bool            filter = false;

    for (unsigned i = first; i < c->arg_count; i++) {
        const char *equals = strchr(c->args[i], '=');

        if (equals == NULL || equals == c->args[i])
            RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: must be SETTING=VALUE", c->args[i]);
        filter = filter || strncmp(c->args[i], "filter.", 7) == 0;
    }
    json_out_init(&o, out);
    json_out_object(&o);
    put_settings(c, first, false, &o);
    if (filter) {
        json_out_key(&o, "filter");
        json_out_object(&o);
        put_settings(c, first, true, &o);
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    return out->failed ? err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory") : 0;
}

/* in a folder */

static int
open_folder(struct cli *c, struct log **log, struct groups **groups, struct err *err)
{
    int rc = 0;

    TRY(clii_log_open(c, true, log, err));
    TRY(group_open(env_real(), *log, groups, err));
out:
    return rc;
}

static void
write_info(void *arg, const struct group_info *g)
{
    struct json_out o;

    json_out_init(&o, arg);
    group_info_write(g, true, &o);
}

struct lines {
    struct cli *cli;
    struct buf  line;
};

static void
put_info(void *arg, const struct group_info *g)
{
    struct lines   *l = arg;
    struct json_out o;

    json_out_init(&o, &l->line);
    group_info_write(g, false, &o);
    buf_add_byte(&l->line, '\n');
    clii_put_buf(l->cli, &l->line);
}

static int
put_parked(void *arg, const struct log_event *link, struct err *err)
{
    struct lines   *l = arg;
    struct json_out o;

    json_out_init(&o, &l->line);
    group_parked_write(link, &o);
    buf_add_byte(&l->line, '\n');
    clii_put_buf(l->cli, &l->line);
    return 0;
}

static void
copy_settings(void *arg, const struct group_info *g)
{
    struct json_out o;

    json_out_init(&o, arg);
    json_out_object(&o);
    group_settings_write(g->settings, &o);
    json_out_object_end(&o);
}

/* A command that changes the set; `words`: the settings, as JSON. */
static int
local_command(struct cli *c, enum group_verb verb, struct slice words, uint64_t limit,
              struct err *err)
{
    struct group_settings s;
    struct group_command  command = {.verb = verb,
                                     .source = slice_str(c->args[0]),
                                     .name = slice_str(c->args[1]),
                                     .settings = &s,
                                     .limit = limit};
    struct groups        *groups = NULL;
    struct log           *log = NULL;
    struct buf            before = {0}, texts = {0}, texts_2 = {0}, out = {0};
    int                   rc = 0;

    group_settings_init(&s);
    TRY(open_folder(c, &log, &groups, err));
    if (verb == GROUP_UPDATE) {
        TRY(group_get(groups, command.source, command.name, copy_settings, &before, err));
        TRY(group_settings_read(buf_slice(&before), &s, &texts, err));
    }
    if (words.len > 0)
        TRY(group_settings_read(words, &s, &texts_2, err));
    rc = group_run(groups, &command);
    if (rc != 0) {
        err_copy(err, &command.err);
        goto out;
    }
    if (verb == GROUP_CREATE || verb == GROUP_UPDATE) {
        TRY(group_get(groups, command.source, command.name, write_info, &out, err));
        TRY(put_object(c, buf_slice(&out), err));
    } else {
        clii_printf(c, "{\"stream\":");
        json_put_str(&out, c->args[0]);
        buf_add_str(&out, ",\"group\":");
        json_put_str(&out, c->args[1]);
        if (verb == GROUP_SKIP)
            buf_printf(&out, ",\"events\":%llu", (unsigned long long)command.count);
        buf_add_str(&out, "}\n");
        clii_put_buf(c, &out);
    }
out:
    group_close(groups);
    clii_log_close(c, log);
    buf_fini(&before);
    buf_fini(&texts);
    buf_fini(&texts_2);
    buf_fini(&out);
    return rc;
}

static int
local_look(struct cli *c, const char *what, struct err *err)
{
    struct groups *groups = NULL;
    struct log    *log = NULL;
    struct lines   lines = {.cli = c};
    struct buf     out = {0};
    uint64_t       from = 0, next = 1;
    int            rc = 0;

    TRY(open_folder(c, &log, &groups, err));
    if (strcmp(what, "list") == 0) {
        group_each(groups, slice_str(c->arg_count > 0 ? c->args[0] : NULL), put_info, &lines);
    } else if (strcmp(what, "show") == 0) {
        TRY(group_get(groups, slice_str(c->args[0]), slice_str(c->args[1]), write_info, &out, err));
        TRY(put_object(c, buf_slice(&out), err));
    } else {
        for (; next != 0; from = next)
            TRY(group_parked(groups, slice_str(c->args[0]), slice_str(c->args[1]), from,
                             PARKED_PAGE, put_parked, &lines, &next, err));
    }
out:
    group_close(groups);
    clii_log_close(c, log);
    buf_fini(&lines.line);
    buf_fini(&out);
    return rc;
}

/* the commands */

/* Each object of an array of the answer as a line. */
static int
put_array(struct cli *c, const struct buf *body, const char *name, struct err *err)
{
    struct json_iter it;
    struct slice     all, object;
    int              rc = 0;

    if (!json_get(buf_slice(body), name, &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &object, err)) == 0)
        put_line(c, object);
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

int
clii_group_list(struct cli *c, struct err *err)
{
    struct buf path = {0}, body = {0};
    int        rc = 0;

    if (clii_server(c) == NULL)
        return local_look(c, "list", err);
    buf_add_str(&path, "/v1/groups");
    if (c->arg_count > 0) {
        buf_add_str(&path, "?stream=");
        url_encode(&path, slice_str(c->args[0]));
    }
    TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
    TRY(put_array(c, &body, "groups", err));
out:
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

int
clii_group_show(struct cli *c, struct err *err)
{
    struct buf path = {0}, body = {0};
    int        rc = 0;

    if (clii_server(c) == NULL)
        return local_look(c, "show", err);
    write_path(c, NULL, &path);
    TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
    TRY(put_object(c, buf_slice(&body), err));
out:
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

int
clii_group_parked(struct cli *c, struct err *err)
{
    struct buf   path = {0}, body = {0};
    struct slice raw;
    uint64_t     from = 0;
    bool         more = true;
    int          rc = 0;

    if (clii_server(c) == NULL)
        return local_look(c, "parked", err);
    while (more) {
        write_path(c, "parked", &path);
        buf_printf(&path, "?limit=%d&from=%llu", PARKED_PAGE, (unsigned long long)from);
        TRY(request(c, "GET", &path, (struct slice){0}, &body, err));
        TRY(put_array(c, &body, "parked", err));
        more = json_get(buf_slice(&body), "next", &raw) && json_uint64(raw, &from);
    }
out:
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

/* The word after "group": what is asked of a server, and the same in a folder. */
static int
change(struct cli *c, const char *method, const char *word, enum group_verb verb, bool settings,
       struct err *err)
{
    struct buf path = {0}, body = {0}, words = {0};
    uint64_t   limit = 0;
    int        rc = 0;

    TRY(clii_number(c, OPT_LIMIT, 0, &limit, err));
    if (settings)
        TRY(write_settings(c, 2, &words, err));
    if (clii_server(c) == NULL) {
        rc = local_command(c, verb, buf_slice(&words), limit, err);
        goto out;
    }
    write_path(c, word, &path);
    if (limit != 0)
        buf_printf(&path, "?limit=%llu", (unsigned long long)limit);
    TRY(request(c, method, &path, settings ? buf_slice(&words) : slice_str(""), &body, err));
    TRY(put_object(c, buf_slice(&body), err));
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&words);
    return rc;
}

int
clii_group_create(struct cli *c, struct err *err)
{
    return change(c, "PUT", NULL, GROUP_CREATE, true, err);
}

int
clii_group_update(struct cli *c, struct err *err)
{
    return change(c, "PATCH", NULL, GROUP_UPDATE, true, err);
}

int
clii_group_delete(struct cli *c, struct err *err)
{
    return change(c, "DELETE", NULL, GROUP_DELETE, false, err);
}

int
clii_group_skip(struct cli *c, struct err *err)
{
    return change(c, "POST", "skip", GROUP_SKIP, false, err);
}

int
clii_group_replay(struct cli *c, struct err *err)
{
    need_server(c); /* its members get them */
    return change(c, "POST", "replay", GROUP_REPLAY, false, err);
}

/* members */

/* One answer of GET …/events into `body`; `member` empty: a new one, which it is then. */
static int
pull(struct cli *c, struct buf *member, const char *most, const char *wait_ms, struct buf *body,
     struct err *err)
{
    struct buf   path = {0};
    struct slice raw;
    int          rc = 0;

    write_path(c, "events", &path);
    buf_printf(&path, "?max=%s&wait_ms=%s", most, wait_ms);
    if (member->len > 0)
        buf_printf(&path, "&member=%.*s", SLICE_FMT(buf_slice(member)));
    TRY(request(c, "GET", &path, (struct slice){0}, body, err));
    if (!json_get(buf_slice(body), "member", &raw))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    buf_clear(member);
    TRY(json_string_decode(raw, member, err));
out:
    buf_fini(&path);
    return rc;
}

int
clii_group_pull(struct cli *c, struct err *err)
{
    struct buf  member = {0}, body = {0};
    const char *most = c->opt[OPT_LIMIT] != NULL ? c->opt[OPT_LIMIT] : BATCH;
    int         rc = 0;

    need_server(c);
    if (c->arg_count > 2)
        buf_add_str(&member, c->args[2]);
    TRY(pull(c, &member, most, "1000", &body, err));
    TRY(put_object(c, buf_slice(&body), err));
out:
    buf_fini(&member);
    buf_fini(&body);
    return rc;
}

/* ack STREAM GROUP MEMBER POSITION…, nack STREAM GROUP MEMBER ACTION POSITION… */
static int
say(struct cli *c, const char *word, const char *action, unsigned first, struct err *err)
{
    struct buf path = {0}, body = {0}, text = {0};
    uint64_t   position;
    int        rc = 0;

    need_server(c);
    buf_add_str(&text, "{\"member\":");
    json_put_str(&text, c->args[2]);
    if (action != NULL) {
        buf_add_str(&text, ",\"action\":");
        json_put_str(&text, action);
    }
    buf_add_str(&text, ",\"positions\":[");
    for (unsigned i = first; i < c->arg_count; i++) {
        if (!json_uint64(slice_str(c->args[i]), &position))
            FAIL(err, E_USAGE, ERR_DATA, "%s: is no position", c->args[i]);
        buf_printf(&text, "%s%s", i > first ? "," : "", c->args[i]);
    }
    buf_add_str(&text, "]}");
    write_path(c, word, &path);
    TRY(request(c, "POST", &path, buf_slice(&text), &body, err));
    TRY(put_object(c, buf_slice(&body), err));
out:
    buf_fini(&path);
    buf_fini(&body);
    buf_fini(&text);
    return rc;
}

int
clii_group_ack(struct cli *c, struct err *err)
{
    return say(c, "ack", NULL, 3, err);
}

int
clii_group_nack(struct cli *c, struct err *err)
{
    return say(c, "nack", c->args[3], 4, err);
}

/* Writes the events of an answer, and what acknowledges them into `acks`. */
static int
put_events(struct cli *c, const struct buf *body, const struct buf *member, struct buf *acks,
           uint64_t *count, struct err *err)
{
    struct json_iter it;
    struct slice     all, event, raw;
    int              rc = 0;

    *count = 0;
    buf_clear(acks);
    buf_printf(acks, "{\"member\":\"%.*s\",\"positions\":[", SLICE_FMT(buf_slice(member)));
    if (!json_get(buf_slice(body), "events", &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &event, err)) == 0) {
        put_line(c, event);
        if (!json_get(event, "ack", &raw))
            FAIL(err, E_REMOTE, ERR_DATA, "an event without what acknowledges it");
        buf_printf(acks, "%s%.*s", *count > 0 ? "," : "", SLICE_FMT(raw));
        ++*count;
    }
    if (rc != E_END)
        goto out;
    buf_add_str(acks, "]}");
    rc = clii_flush(c, err); /* acknowledged is what was written */
out:
    return rc;
}

static int
leave(struct cli *c, const struct buf *member, struct err *err)
{
    struct buf path = {0}, body = {0};
    int        rc;

    write_path(c, "members/", &path);
    buf_add_slice(&path, buf_slice(member));
    rc = request(c, "DELETE", &path, (struct slice){0}, &body, err);
    buf_fini(&path);
    buf_fini(&body);
    return rc;
}

/* A server that restarts is waited for, a member whose lease ran out joins again. */
static bool
goes_on(int rc, bool began, const struct err *err, struct buf *member)
{
    struct timespec pause = {.tv_nsec = RECONNECT_MS * 1000000L};

    if (rc == E_NOTFOUND && member->len > 0) {
        buf_clear(member);
        return true;
    }
    if (!began || (rc != E_CONNECT && rc != E_TIMEOUT && rc != E_CLOSED))
        return false;
    buf_clear(member);
    (void)nanosleep(&pause, NULL);
    return true;
}

int
clii_group_consume(struct cli *c, struct err *err)
{
    struct buf member = {0}, body = {0}, acks = {0}, path = {0};
    uint64_t   limit, count, done = 0;
    bool       began = false;
    char       most[24] = BATCH;
    struct err ignored;
    int        rc = 0;

    need_server(c);
    TRY(clii_number(c, OPT_LIMIT, 0, &limit, err));
    while (limit == 0 || done < limit) {
        if (limit != 0 && limit - done < strtoull(BATCH, NULL, 10))
            (void)snprintf(most, sizeof most, "%llu", (unsigned long long)(limit - done));
        TRY(clii_go_on(err));
        rc = pull(c, &member, most, WAIT_MS, &body, err);
        if (rc == 0) {
            began = true;
            TRY(put_events(c, &body, &member, &acks, &count, err));
            if (count == 0)
                continue;
            write_path(c, "ack", &path);
            rc = request(c, "POST", &path, buf_slice(&acks), &body, err);
            done += count;
        }
        if (rc != 0 && !goes_on(rc, began, err, &member))
            goto out;
        rc = 0;
    }
out:
    if (member.len > 0)
        (void)leave(c, &member, &ignored); /* else when its lease is over */
    buf_fini(&member);
    buf_fini(&body);
    buf_fini(&acks);
    buf_fini(&path);
    return rc;
}
