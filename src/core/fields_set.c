/*
 * The set of indexes and what changes it: one command at a time, each a commit
 * to `$indexes` on the version that was read.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/fields_int.h"

static const char *const changes[] = {[FIELDS_CREATE] = "$index-created",
                                      [FIELDS_DROP] = "$index-dropped",
                                      [FIELDS_REBUILD] = "$index-rebuilt"};

struct fieldsi_index *
fieldsi_named(struct fields *f, struct slice name)
{
    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next)
        if (slice_is(name, ix->name))
            return ix;
    return NULL;
}

struct fieldsi_index *
fieldsi_numbered(struct fields *f, uint64_t id)
{
    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next)
        if (ix->id == id)
            return ix;
    return NULL;
}

static void
index_free(struct fieldsi_index *ix)
{
    if (ix == NULL)
        return;
    fieldsi_rule_fini(&ix->rule);
    free(ix);
}

void
fieldsi_free_all(struct fields *f)
{
    while (f->list != NULL) {
        struct fieldsi_index *next = f->list->next;

        index_free(f->list);
        f->list = next;
    }
}

static int
index_new(const struct fields_def *def, uint64_t id, struct fieldsi_index **out, struct err *err)
{
    struct fieldsi_index *ix = calloc(1, sizeof *ix);
    int                   rc = 0;

    *out = NULL;
    if (ix == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an index");
    ix->id = id;
    must(def->name.len <= FIELDS_NAME_MAX);
    (void)snprintf(ix->name, sizeof ix->name, "%.*s", SLICE_FMT(def->name));
    TRY(fieldsi_rule_init(&ix->rule, def, err));
    *out = ix;
    ix = NULL;
out:
    free(ix);
    return rc;
}

/* By name, so that a listing has an order. With the lock. */
static void
add(struct fields *f, struct fieldsi_index *ix)
{
    struct fieldsi_index **at = &f->list;

    while (*at != NULL && strcmp((*at)->name, ix->name) < 0)
        at = &(*at)->next;
    must(*at == NULL || strcmp((*at)->name, ix->name) > 0);
    must(f->count < FIELDS_MAX);
    ix->next = *at;
    *at = ix;
    f->count++;
}

static void
take_out(struct fields *f, struct fieldsi_index *ix)
{
    struct fieldsi_index **at = &f->list;

    while (*at != ix) {
        must(*at != NULL);
        at = &(*at)->next;
    }
    *at = ix->next;
    must(f->count > 0);
    f->count--;
}

/* An index that begins: nothing is known of it yet. */
static void
begin_anew(struct fields *f, struct fieldsi_index *ix, uint64_t id)
{
    must(id > ix->id);
    ix->id = id;
    ix->state = (struct values_state){0};
    f->orphans = true;
}

/* reading the configuration */

static int
take_change(struct fields *f, const struct log_event *ev, struct err *err)
{
    struct fields_def     def = {0};
    struct json_field     name[] = {{.name = "name", .required = true}};
    struct buf            texts = {0};
    struct fieldsi_index *ix;
    int                   rc = 0;

    if (slice_is(ev->type, changes[FIELDS_CREATE])) {
        TRY(fields_def_read(ev->data, &def, &texts, err));
        TRY(fields_def_check(&def, err));
        if (fieldsi_named(f, def.name) != NULL || f->count == FIELDS_MAX)
            FAIL(err, E_FORMAT, ERR_FATAL, "makes an index that cannot be made");
        TRY(index_new(&def, ev->version, &ix, err));
        add(f, ix);
    } else if (slice_is(ev->type, changes[FIELDS_DROP]) ||
               slice_is(ev->type, changes[FIELDS_REBUILD])) {
        TRY(json_pick(ev->data, name, 1, JSON_PICK_ANY, err));
        TRY(json_string_decode(name[0].value, &texts, err));
        ix = fieldsi_named(f, buf_slice(&texts));
        if (ix != NULL && slice_is(ev->type, changes[FIELDS_REBUILD])) {
            begin_anew(f, ix, ev->version);
        } else if (ix != NULL) {
            take_out(f, ix);
            index_free(ix);
        }
    }
out:
    if (rc != 0)
        err_prefix(err, "%s: event %" PRIu64, FIELDS_CONFIG_STREAM, ev->version);
    buf_fini(&texts);
    return rc;
}

/* What the store has of an index; what it cannot have of this log goes. */
static int
take_state(struct fields *f, struct fieldsi_index *ix, struct err *err)
{
    int rc = f->ops->state(f->values, ix->id, &ix->state, err);

    if (rc == E_NOTFOUND)
        return 0;
    if (rc == 0 && ix->state.covers > log_end(f->log).v) {
        ix->state = (struct values_state){0};
        do
            rc = f->ops->drop(f->values, ix->id, 10000, err);
        while (rc == E_MORE);
    }
    return rc;
}

int
fieldsi_load(struct fields *f, struct err *err)
{
    struct log_read  read = {.stream = slice_str(FIELDS_CONFIG_STREAM)};
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc = log_iter_open(f->log, &read, &it, err);

    f->config_version = LOG_NO_STREAM;
    while (rc == 0 && (rc = log_iter_next(it, &ev, err)) == 0) {
        f->config_version = (int64_t)ev.version;
        rc = take_change(f, &ev, err);
    }
    log_iter_close(it);
    if (rc != E_NOTFOUND && rc != E_END)
        return rc;
    rc = 0;
    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next)
        TRY(take_state(f, ix, err));
    f->orphans = true;
out:
    return rc;
}

/* commits */

static void
on_commit(struct log_req *req)
{
    struct fields *f = req->arg;

    must(!atomic_load(&f->commit_done));
    env_tell(f->env, f->task, &f->commit_done);
}

static void
put_text(struct json_out *o, const char *key, struct slice text)
{
    if (text.len == 0)
        return;
    json_out_key(o, key);
    json_out_string(o, text);
}

static void
put_def(struct json_out *o, const struct fields_def *def)
{
    put_text(o, "name", def->name);
    if (def->path.len == 0)
        return;
    put_text(o, "path", def->path);
    put_text(o, "in", slice_str(def->metadata ? "metadata" : "data"));
    put_text(o, "category", def->category);
    put_text(o, "prefix", def->prefix);
    put_text(o, "type", def->type);
}

static int
commit(struct fields *f, const struct fields_command *c, struct err *err)
{
    struct fields_def name = {.name = c->def.name};
    struct json_out   o;

    must(!f->committing);
    buf_clear(&f->text);
    json_out_init(&o, &f->text);
    json_out_object(&o);
    put_def(&o, c->verb == FIELDS_CREATE ? &c->def : &name);
    json_out_object_end(&o);
    if (f->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    f->event = (struct log_new_event){
        .type = slice_str(changes[c->verb]), .data = buf_slice(&f->text), .flags = LOG_JSON};
    f->write = (struct log_write){.stream = slice_str(FIELDS_CONFIG_STREAM),
                                  .expected = f->config_version,
                                  .events = &f->event,
                                  .count = 1};
    f->req = (struct log_req){
        .writes = &f->write, .write_count = 1, .flags = LOG_SYSTEM, .done = on_commit, .arg = f};
    atomic_store(&f->commit_done, false);
    f->committing = true;
    log_submit(f->log, &f->req);
    return 0;
}

/* commands */

static int
check(struct fields *f, const struct fields_command *c, struct err *err)
{
    struct fieldsi_index *ix = fieldsi_named(f, c->def.name);
    int                   rc = 0;

    if (c->verb == FIELDS_CREATE) {
        TRY(fields_def_check(&c->def, err));
        if (ix != NULL)
            FAIL(err, E_EXISTS, ERR_DATA, "index %s is there already: drop it first", ix->name);
        if (f->count == FIELDS_MAX)
            FAIL(err, E_LIMIT, ERR_DATA, "there are %d indexes already, which is the most",
                 FIELDS_MAX);
    } else if (ix == NULL) {
        FAIL(err, E_NOTFOUND, ERR_DATA, "index %.*s is not there",
             (int)(c->def.name.len > FIELDS_NAME_MAX ? FIELDS_NAME_MAX : c->def.name.len),
             (const char *)c->def.name.data);
    }
out:
    return rc;
}

static int
committed(struct fields *f, struct err *err)
{
    const struct fields_command *c = f->running;
    struct fieldsi_index        *made = NULL, *ix;
    uint64_t                     version = f->write.last_version;
    int                          rc = f->req.rc;

    must(f->committing);
    must(c != NULL);
    f->committing = false;
    if (rc != 0) {
        err_copy(err, &f->req.err);
        if (rc == E_WRONG_VERSION)
            RETURN_ERR(err, E_FENCED, ERR_FATAL, "something else wrote %s", FIELDS_CONFIG_STREAM);
        return rc;
    }
    must((int64_t)version > f->config_version);
    f->config_version = (int64_t)version;
    if (c->verb == FIELDS_CREATE)
        TRY(index_new(&c->def, version, &made, err));
    lock_take(&f->lock);
    ix = fieldsi_named(f, c->def.name);
    must((ix == NULL) == (c->verb == FIELDS_CREATE));
    if (made != NULL) {
        add(f, made);
    } else if (c->verb == FIELDS_REBUILD) {
        begin_anew(f, ix, version);
    } else {
        take_out(f, ix);
        f->orphans = true;
    }
    lock_give(&f->lock);
    if (c->verb == FIELDS_DROP)
        index_free(ix);
out:
    return rc;
}

static void
finish(struct fields *f, struct fields_command *c, int rc, const struct err *err)
{
    c->rc = rc;
    if (rc != 0)
        err_copy(&c->err, err);
    if (c->gate != NULL)
        f->env->ops->gate_open(f->env, c->gate);
    else
        c->done(c); /* it may be gone afterwards */
}

static struct fields_command *
next_command(struct fields *f)
{
    struct fields_command *c;

    lock_take(&f->lock);
    must((f->commands == NULL) == (f->command_last == NULL));
    c = f->commands;
    if (c != NULL) {
        f->commands = c->next;
        if (f->commands == NULL)
            f->command_last = NULL;
    }
    lock_give(&f->lock);
    return c;
}

bool
fieldsi_commands(struct fields *f)
{
    struct fields_command *c;
    struct err             err;
    int                    rc;

    if (f->running == NULL) {
        f->running = next_command(f);
        if (f->running == NULL)
            return false;
        rc = check(f, f->running, &err);
        if (rc == 0)
            rc = commit(f, f->running, &err);
        if (rc == 0)
            return true;
    } else {
        if (!atomic_load(&f->commit_done))
            return false;
        rc = committed(f, &err);
    }
    c = f->running;
    f->running = NULL;
    finish(f, c, rc, &err);
    return true;
}

/* The set is being closed: what was not begun is not begun any more. */
void
fieldsi_refuse(struct fields *f)
{
    struct fields_command *c;
    struct err             err;

    (void)err_set(&err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "the indexes are being closed");
    lock_take(&f->lock);
    f->refusing = true;
    lock_give(&f->lock);
    while ((c = next_command(f)) != NULL)
        finish(f, c, E_CLOSED, &err);
}

void
fields_submit(struct fields *f, struct fields_command *c)
{
    struct err err;
    bool       refuse;

    must(c->done != NULL || c->gate != NULL);
    c->next = NULL;
    c->rc = 0;
    lock_take(&f->lock);
    refuse = f->refusing;
    if (!refuse && f->command_last != NULL)
        f->command_last->next = c;
    else if (!refuse)
        f->commands = c;
    if (!refuse)
        f->command_last = c;
    lock_give(&f->lock);
    if (!refuse) {
        f->env->ops->task_wake(f->env, f->task);
        return;
    }
    (void)err_set(&err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "the indexes are being closed");
    finish(f, c, E_CLOSED, &err);
}

int
fields_command(struct fields *f, struct fields_command *c)
{
    struct ox_gate gate;

    must(c->done == NULL);
    gate_init(&gate);
    c->gate = &gate;
    fields_submit(f, c);
    (void)f->env->ops->gate_wait(f->env, &gate, UINT64_MAX);
    c->gate = NULL;
    return c->rc;
}

/* looking */

void
fields_info_write(const struct fields_info *i, struct json_out *o)
{
    double part = i->end.v == 0 ? 1 : (double)i->covers.v / (double)i->end.v;

    json_out_object(o);
    put_def(o, i->def);
    json_out_key(o, "state");
    json_out_str(o, i->error != NULL ? "failed" : i->live ? "live" : "building");
    if (i->error != NULL)
        put_text(o, "error", slice_str(i->error));
    json_out_key(o, "percent");
    json_out_u64(o, (uint64_t)(part * 100));
    json_out_key(o, "covers");
    json_out_u64(o, i->covers.v);
    json_out_key(o, "end");
    json_out_u64(o, i->end.v);
    json_out_key(o, "entries");
    json_out_u64(o, i->entries);
    json_out_key(o, "skipped");
    json_out_u64(o, i->skipped);
    json_out_key(o, "bytes_of_all");
    json_out_u64(o, i->bytes);
    json_out_object_end(o);
}

static void
tell(struct fields *f, const struct fieldsi_index *ix, fields_info_fn *fn, void *arg)
{
    struct fields_info i = {.def = &ix->rule.def,
                            .live = ix->state.built,
                            .error = f->error[0] == '\0' ? NULL : f->error,
                            .covers = LOG_POS(ix->state.covers),
                            .end = log_end(f->log),
                            .entries = ix->state.entries,
                            .skipped = ix->state.skipped,
                            .bytes = f->ops->bytes(f->values)};

    fn(arg, &i);
}

void
fields_each(struct fields *f, fields_info_fn *fn, void *arg)
{
    lock_take(&f->lock);
    for (struct fieldsi_index *ix = f->list; ix != NULL; ix = ix->next)
        tell(f, ix, fn, arg);
    lock_give(&f->lock);
}

int
fields_get(struct fields *f, struct slice name, fields_info_fn *fn, void *arg, struct err *err)
{
    struct fieldsi_index *ix;
    int                   rc = 0;

    lock_take(&f->lock);
    ix = fieldsi_named(f, name);
    if (ix == NULL)
        rc = err_set(err, __FILE__, __LINE__, E_NOTFOUND, ERR_DATA, "index %.*s is not there",
                     (int)(name.len > FIELDS_NAME_MAX ? FIELDS_NAME_MAX : name.len),
                     (const char *)name.data);
    else
        tell(f, ix, fn, arg);
    lock_give(&f->lock);
    return rc;
}
