/*
 * Commands on a data folder, which belongs to one process at a time. To follow
 * it is to look into it now and then, and to leave it to others in between.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "cli/cli_int.h"
#include "cli/engine_int.h"
#include "core/upcast.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "migrate/stream/stream.h"
#include "subject/subject.h"

#define FOLLOW_MS 200
#define BUSY_MS 600
#define BUSY_STEP_MS 20

struct local {
    struct cli_place place;
    struct log      *log;
    struct upcasts  *upcasts; /* of the configuration; NULL: none, or not asked for */
    struct upcast   *upcast;
};

static void
pause_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

bool
clii_has_log(const struct cli *c)
{
    struct buf path = {0};
    bool       found;

    buf_printf(&path, "%s/segments", clii_data(c));
    buf_add_byte(&path, '\0');
    found = !path.failed && access((const char *)path.data, F_OK) == 0;
    buf_fini(&path);
    return found;
}

int
clii_keys_open(const struct cli *c, bool write, const char *dir, const char *master,
               struct ox_subjects **out, struct err *err)
{
    uint8_t             key[SUBJECT_KEY_BYTES];
    struct subject_conf conf = {.read_only = !write};
    struct buf          path = {0};
    int                 rc = 0;

    *out = NULL;
    if (c->opt[OPT_KEYS] != NULL)
        dir = c->opt[OPT_KEYS];
    else if (dir == NULL)
        dir = getenv("OXBOW_KEYS");
    if (master == NULL)
        master = getenv("OXBOW_KEYS_MASTER");
    if (master != NULL && !subject_master_parse(slice_str(master), key))
        FAIL(err, E_INVALID, ERR_DATA, "the keystore's master key: must be 64 hexadecimal digits");
    if (dir == NULL || dir[0] == '\0')
        buf_printf(&path, "%s/keys", clii_data(c));
    else
        buf_add_str(&path, dir);
    buf_add_byte(&path, '\0');
    if (path.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    conf.dir = (const char *)path.data;
    conf.master = master == NULL ? NULL : key;
    rc = subject_open(env_real(), &conf, out, err);
out:
    memset(key, 0, sizeof key);
    buf_fini(&path);
    return rc;
}

static int
open_both(struct cli *c, struct log_conf *conf, struct log **out, struct err *err)
{
    struct log *log = NULL;
    int         rc = 0;

    if (!c->without_keys)
        TRY(clii_keys_open(c, !conf->read_only, NULL, NULL, &c->subjects, err));
    conf->subjects = c->subjects;
    TRY(log_open(env_real(), clii_data(c), conf, NULL, &log, err));
    TRY(stream_router_new(env_real(), log, &c->router, err));
    *out = log;
    log = NULL;
out:
    if (rc != 0)
        clii_log_close(c, log);
    return rc;
}

void
clii_log_close(struct cli *c, struct log *log)
{
    log_close(log);
    stream_router_free(c->router);
    c->router = NULL;
    subject_close(c->subjects);
    c->subjects = NULL;
}

/* What the configuration says of a folder's log, where one was given. */
static int
take_config(struct cli *c, struct log_conf *conf, struct conf **root, struct log_retention **list,
            struct err *err)
{
    const char *file = c->opt[OPT_CONF];
    int         rc;

    if (file == NULL)
        return 0;
    TRY(enginei_config_load(c, file, root, err));
    TRY(enginei_retention(*root, list, &conf->retention_count, err));
    conf->retention = *list;
out:
    return rc;
}

int
clii_log_open(struct cli *c, bool write, struct log **out, struct err *err)
{
    struct log_conf       conf = {.index = &log_index_lmdb, .read_only = !write};
    struct log_retention *list = NULL;
    struct conf          *root = NULL;
    int                   rc;

    TRY(take_config(c, &conf, &root, &list, err));
    rc = E_BUSY;
    /* Another command may have it for a moment; a server keeps it. */
    for (unsigned i = 0; rc == E_BUSY && i <= BUSY_MS / BUSY_STEP_MS; i++) {
        if (i > 0)
            pause_ms(BUSY_STEP_MS);
        rc = open_both(c, &conf, out, err);
    }
    if (rc == E_NOTFOUND && !clii_has_log(c))
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: no data folder is there; --data names another",
             clii_data(c));
    if (rc == E_NOTFOUND)
        err_prefix(err, "oxbow log reindex makes the index again");
out:
    free(list);
    conf_free(root);
    return rc;
}

static int
local_open(struct cli_place *place, bool write, struct err *err)
{
    return clii_log_open(place->cli, write, &((struct local *)place)->log, err);
}

static void
local_close(struct cli_place *place)
{
    struct local *l = (struct local *)place;

    upcast_free(l->upcast);
    upcast_set_free(l->upcasts);
    l->upcast = NULL;
    l->upcasts = NULL;
    clii_log_close(place->cli, l->log);
}

static int
local_append(struct cli_place *place, const char *stream, int64_t expected,
             const struct cli_batch *batch, struct cli_appended *out, struct err *err)
{
    struct log_write write = {.stream = slice_str(stream),
                              .expected = expected,
                              .events = batch->events,
                              .count = batch->count};
    struct log_req   req = {.writes = &write, .write_count = 1};
    struct log      *log = ((struct local *)place)->log;
    struct buf       name = {0};
    int              rc = log_append(log, &req);

    /* Looked up in the stream as it was named first: it may be there already. */
    if (rc == E_MOVED && batch->follow_moves &&
        log_moved_follow(log, write.stream, &name, err) == 0) {
        write.stream = buf_slice(&name);
        rc = log_append(log, &req);
    }
    if (rc != 0)
        *err = req.err;
    buf_fini(&name);
    if (rc != 0)
        return rc;
    *out = (struct cli_appended){.position = req.last.v,
                                 .first_version = write.first_version,
                                 .last_version = write.last_version,
                                 .idempotent = req.idempotent};
    return 0;
}

/* reading */

/* Position or time; `nothing` where there was nothing yet. */
static int
read_at(struct log *log, const char *text, struct log_pos *at, bool *nothing, struct err *err)
{
    int64_t us;
    int     rc = 0;

    *nothing = false;
    if (text == NULL)
        return 0;
    if (!json_uint64(slice_str(text), &at->v)) {
        if (!time_parse(slice_str(text), &us))
            FAIL(err, E_USAGE, ERR_DATA,
                 "--at %s: must be a position or a time as in 2026-11-22T08:30:00Z", text);
        TRY(log_pos_of_time(log, us, at, err));
    }
    *nothing = at->v == 0;
out:
    return rc;
}

static int
read_from(struct log *log, const struct cli_read *r, bool by_position, uint64_t *from,
          struct err *err)
{
    struct log_stream info;
    int               rc = 0;

    *from = r->backwards ? UINT64_MAX : 0;
    if (r->from == NULL)
        return 0;
    if (strcmp(r->from, "end") != 0) {
        if (!json_uint64(slice_str(r->from), from))
            FAIL(err, E_USAGE, ERR_DATA, "--from %s: must be a number or \"end\"", r->from);
    } else if (!r->backwards && by_position) {
        *from = log_end(log).v;
    } else if (!r->backwards) {
        TRY(log_stream_info(log, slice_str(r->stream), &info, err));
        *from = info.head + 1;
    }
out:
    return rc;
}

/* Until the log has no more; `query->from` goes along. */
static int
read_some(struct local *l, struct log_read *query, bool by_position, cli_line_fn *fn, void *arg,
          struct err *err)
{
    struct log_iter *it = NULL;
    struct log_event event = {0};
    struct buf       line = {0};
    bool             changed;
    int              rc = 0;

    TRY(log_iter_open(l->log, query, &it, err));
    while ((rc = log_iter_next(it, &event, err)) == 0) {
        buf_clear(&line);
        if (l->upcast != NULL)
            TRY(upcast_apply(l->upcast, &event, &changed, err));
        clii_event_line(&line, &event);
        if (line.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an event");
        TRY(fn(arg, buf_slice(&line), err));
        if (!by_position)
            query->from = (event.link.stream.len != 0 ? event.link.version : event.version) + 1;
        TRY(clii_go_on(err));
        event.link.stream.len = 0;
    }
    if (rc == E_END && by_position && !query->backwards)
        query->from = log_iter_pos(it).v;
    if (rc == E_END)
        rc = 0;
out:
    log_iter_close(it);
    buf_fini(&line);
    return rc;
}

static int
follow(struct local *l, struct log_read *query, bool by_position, cli_line_fn *fn, void *arg,
       struct err *err)
{
    int rc = 0;

    for (;;) {
        TRY(fn(arg, (struct slice){0}, err)); /* what there is, now */
        clii_log_close(l->place.cli, l->log); /* for others to write */
        l->log = NULL;
        pause_ms(FOLLOW_MS);
        TRY(clii_go_on(err));
        rc = clii_log_open(l->place.cli, false, &l->log, err);
        if (rc == 0)
            TRY(read_some(l, query, by_position, fn, arg, err));
        else if (rc != E_BUSY)
            goto out;
    }
out:
    return rc;
}

static int
read_moves(const struct cli_read *r, struct log_read *query, struct err *err)
{
    if (r->moved != NULL && strcmp(r->moved, "skip") != 0 && strcmp(r->moved, "deliver") != 0)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "moved: must be deliver or skip");
    if (r->links != NULL && strcmp(r->links, "ignore") != 0 && strcmp(r->links, "resolve") != 0)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "links: must be ignore or resolve");
    query->skip_moved = r->moved != NULL && strcmp(r->moved, "skip") == 0;
    query->skip_links = r->links != NULL && strcmp(r->links, "ignore") == 0;
    query->resolve = query->resolve || (r->links != NULL && !query->skip_links);
    query->start = query->backwards ? 0 : query->from;
    if (r->start != NULL && !json_uint64(slice_str(r->start), &query->start))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "start: must be a number");
    return 0;
}

static int
take_upcasters(struct local *l, struct err *err)
{
    struct conf *root = NULL;
    int          rc = 0;

    if (l->place.cli->opt[OPT_CONF] == NULL || l->upcast != NULL)
        return 0;
    TRY(enginei_config_load(l->place.cli, l->place.cli->opt[OPT_CONF], &root, err));
    TRY(enginei_upcasts(root, &l->upcasts, err));
    TRY(upcast_new(l->upcasts, &l->upcast, err));
out:
    conf_free(root);
    return rc;
}

static int
local_read(struct cli_place *place, const struct cli_read *r, cli_line_fn *fn, void *arg,
           struct err *err)
{
    struct local   *l = (struct local *)place;
    struct log_read query = {
        .stream = slice_str(r->stream), .backwards = r->backwards, .resolve = r->resolve};
    bool       by_position = r->stream == NULL || clii_is_native(r->stream), nothing;
    struct buf name = {0};
    int        rc = 0;

    if (!r->raw)
        TRY(take_upcasters(l, err));
    TRY(read_at(l->log, r->at, &query.at, &nothing, err));
    if (nothing && !by_position)
        FAIL(err, E_NOTFOUND, ERR_DATA, "the stream was not there yet");
    if (nothing)
        goto out;
    if (r->stream != NULL && r->stream[0] == '\0')
        FAIL(err, E_INVALID, ERR_DATA, "the stream's name is empty");
    if (r->follow_moves && !by_position) {
        TRY(log_moved_follow(l->log, query.stream, &name, err));
        query.stream = buf_slice(&name);
    }
    TRY(read_from(l->log, r, by_position, &query.from, err));
    TRY(read_moves(r, &query, err));
    query.filter.prefix = slice_str(r->prefix);
    query.filter.category = slice_str(r->category);
    query.filter.type = slice_str(by_position ? r->type : NULL);
    /* What the system has is seen where its names are asked for. */
    query.filter.system = (r->prefix != NULL && r->prefix[0] == '$') ||
                          (by_position && r->stream != NULL && strlen(r->stream) > 4 &&
                           r->stream[3] == '-' && r->stream[4] == '$');
    TRY(read_some(l, &query, by_position, fn, arg, err));
    if (r->follow)
        rc = follow(l, &query, by_position, fn, arg, err);
out:
    buf_fini(&name);
    return rc;
}

/* streams */

struct list {
    cli_line_fn *fn;
    void        *arg;
    struct buf   line;
};

static void
put_number(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_stream(struct buf *out, const struct log_stream *s)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "stream");
    json_out_string(&o, s->name);
    put_number(&o, "first", s->first);
    put_number(&o, "head", s->head);
    put_number(&o, "count", s->first > s->head ? 0 : s->head - s->first + 1);
    put_number(&o, "last_position", s->last_pos.v);
    if (s->max_count != 0)
        put_number(&o, "max_count", s->max_count);
    if (s->max_age_us != 0)
        put_number(&o, "max_age_s", (uint64_t)s->max_age_us / 1000000);
    if (s->flags & LOG_STREAM_CLOSED) {
        json_out_key(&o, "closed");
        json_out_bool(&o, true);
    }
    if (s->flags & LOG_STREAM_MOVED) {
        json_out_key(&o, "moved");
        json_out_bool(&o, true);
    }
    if (s->flags & LOG_STREAM_ROUTED) {
        json_out_key(&o, "routed");
        json_out_bool(&o, true);
    }
    json_out_object_end(&o);
}

static int
list_one(void *arg, const struct log_stream *stream, struct err *err)
{
    struct list *list = arg;

    buf_clear(&list->line);
    put_stream(&list->line, stream);
    return list->fn(list->arg, buf_slice(&list->line), err);
}

static int
local_streams(struct cli_place *place, const char *prefix, cli_line_fn *fn, void *arg,
              struct err *err)
{
    struct list list = {.fn = fn, .arg = arg};
    int         rc = log_streams(((struct local *)place)->log, slice_str(prefix), (struct slice){0},
                                 list_one, &list, err);

    buf_fini(&list.line);
    return rc;
}

static int
local_stream(struct cli_place *place, const char *stream, struct buf *out, struct err *err)
{
    struct log_stream info;
    int               rc = 0;

    TRY(log_stream_info(((struct local *)place)->log, slice_str(stream), &info, err));
    info.name = slice_str(stream);
    put_stream(out, &info);
    if (info.flags & LOG_STREAM_MOVED) {
        out->len--;
        buf_add_str(out, ",\"moved_to\":");
        TRY(log_moved_to(((struct local *)place)->log, info.name, out, err));
        buf_add_byte(out, '}');
    }
out:
    return rc;
}

static int
local_info(struct cli_place *place, struct buf *out, struct err *err)
{
    struct log_info i;
    struct json_out o;
    char            id[ID_TEXT_LEN + 1];

    log_get_info(((struct local *)place)->log, &i);
    id_format(&i.id, id);
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "id");
    json_out_str(&o, id);
    {
        const struct {
            const char *name;
            uint64_t    value;
        } numbers[] = {{"format", i.format},
                       {"segment_bytes", i.segment_bytes},
                       {"segments", i.segments},
                       {"disk_bytes", i.disk_bytes},
                       {"first", i.first.v},
                       {"end", i.end.v},
                       {"indexed", i.indexed.v},
                       {"streams", i.streams},
                       {"memory_bytes", i.memory_bytes}};

        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++) {
            json_out_key(&o, numbers[k].name);
            json_out_u64(&o, numbers[k].value);
        }
    }
    json_out_key(&o, "failed");
    json_out_str(&o, i.failed ? i.failed_text : NULL);
    json_out_object_end(&o);
    return 0;
}

/* changing a stream */

static int
local_change(struct cli_place *place, const struct cli_change *change, uint64_t *position,
             struct err *err)
{
    struct log_change c = {.stream = slice_str(change->stream),
                           .expected = change->expected,
                           .what = change->what,
                           .truncate = change->truncate};
    struct log_req    req = {.changes = &c, .change_count = 1};
    int               rc = log_append(((struct local *)place)->log, &req);

    *position = req.last.v;
    if (rc == E_WRONG_VERSION && change->unnamed_version)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "%s", req.err.text);
    if (rc != 0)
        *err = req.err;
    return rc;
}

static int
metadata_name(const char *stream, char name[LOG_NAME_MAX + 1], struct err *err)
{
    if (strlen(stream) + 2 > LOG_NAME_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the name is too long for a stream with metadata");
    (void)snprintf(name, LOG_NAME_MAX + 1, "$$%s", stream);
    return 0;
}

static int
local_metadata(struct cli_place *place, const char *stream, struct buf *out, struct err *err)
{
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event event;
    char             name[LOG_NAME_MAX + 1];
    int              rc = 0;

    TRY(log_name_check(slice_str(stream), true, err));
    TRY(metadata_name(stream, name, err));
    read.stream = slice_str(name);
    rc = log_iter_open(((struct local *)place)->log, &read, &it, err);
    if (rc == 0)
        rc = log_iter_next(it, &event, err);
    if (rc != 0 && rc != E_NOTFOUND && rc != E_END)
        goto out;
    buf_add_str(out, "{\"stream\":");
    json_put_str(out, stream);
    if (rc == 0) {
        buf_printf(out, ",\"version\":%llu,\"metadata\":", (unsigned long long)event.version);
        buf_add_slice(out, event.data);
        buf_add_byte(out, '}');
    } else {
        buf_add_str(out, ",\"version\":null,\"metadata\":{}}");
    }
    rc = 0;
out:
    log_iter_close(it);
    return rc;
}

static int
local_set_metadata(struct cli_place *place, const char *stream, int64_t expected, struct slice json,
                   struct cli_appended *out, struct err *err)
{
    struct log_new_event event = {
        .type = slice_str(LOG_META_TYPE), .data = json, .flags = LOG_JSON};
    struct log_write write = {.expected = expected, .events = &event, .count = 1};
    struct log_req   req = {.writes = &write, .write_count = 1, .flags = LOG_SYSTEM};
    char             name[LOG_NAME_MAX + 1];
    int              rc = 0;

    TRY(metadata_name(stream, name, err));
    write.stream = slice_str(name);
    rc = log_append(((struct local *)place)->log, &req);
    if (rc != 0)
        *err = req.err;
    *out = (struct cli_appended){.position = req.last.v,
                                 .first_version = write.first_version,
                                 .last_version = write.last_version,
                                 .idempotent = req.idempotent};
out:
    return rc;
}

const struct cli_place_ops clii_local_ops = {
    .size = sizeof(struct local),
    .open = local_open,
    .close = local_close,
    .append = local_append,
    .read = local_read,
    .streams = local_streams,
    .stream = local_stream,
    .info = local_info,
    .change = local_change,
    .metadata = local_metadata,
    .set_metadata = local_set_metadata,
};

int
clii_need_folder(const struct cli *c, struct err *err)
{
    if (c->opt[OPT_SERVER] == NULL)
        return 0;
    RETURN_ERR(err, E_USAGE, ERR_DATA,
               "%s: works on a data folder, not over --server; stop the server first",
               c->command->name);
}

int
clii_place_open(struct cli *c, bool write, struct cli_place **out, struct err *err)
{
    const struct cli_place_ops *ops = clii_server(c) != NULL ? &clii_remote_ops : &clii_local_ops;
    struct cli_place           *place = calloc(1, ops->size);
    int                         rc = 0;

    *out = NULL;
    if (place == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    place->ops = ops;
    place->cli = c;
    c->opening = true;
    TRY(ops->open(place, write, err));
    c->opening = false;
    *out = place;
    place = NULL;
out:
    clii_place_close(place);
    return rc;
}

void
clii_place_close(struct cli_place *place)
{
    if (place == NULL)
        return;
    place->ops->close(place);
    free(place);
}
