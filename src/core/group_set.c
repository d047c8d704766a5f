/*
 * The set of groups and what changes it: one command at a time, each a commit
 * to the configuration's stream on the version that was read. A group's first
 * checkpoint is in the commit that makes it, so that its beginning is fixed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/group_int.h"

#define MARKS_KEPT 2 /* checkpoints that stay readable */
#define STREAM_BYTES (sizeof "$persistentsubscription-::-checkpoint" - 1)

static const char *const changes[] = {[GROUP_CREATE] = "$group-created",
                                      [GROUP_UPDATE] = "$group-updated",
                                      [GROUP_DELETE] = "$group-deleted"};

/* a group in memory */

/* The texts in a buffer of the group's own. */
static int
copy_settings(struct group_settings *to, struct buf *texts, const struct group_settings *from,
              struct err *err)
{
    struct slice *slots[6];
    size_t        all = 0;

    *to = *from;
    slots[0] = &to->prefix;
    slots[1] = &to->category;
    slots[2] = &to->type;
    slots[3] = &to->type_prefix;
    slots[4] = &to->stream_regex;
    slots[5] = &to->type_regex;
    for (int i = 0; i < 6; i++)
        all += slots[i]->len;
    if (!buf_reserve(texts, all + 1))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for settings");
    for (int i = 0; i < 6; i++) {
        size_t at = texts->len;

        buf_add_slice(texts, *slots[i]);
        slots[i]->data = texts->data + at;
    }
    return 0;
}

static int
make_buckets(struct group *g, struct err *err)
{
    free(g->buckets);
    g->buckets = calloc(g->pinned ? GROUPI_BUCKETS : 1, sizeof *g->buckets);
    if (g->buckets == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a group");
    return 0;
}

struct group *
groupi_new(struct groups *gs, struct slice source, struct slice name,
           const struct group_settings *settings, uint64_t created, struct err *err)
{
    struct group *g = calloc(1, sizeof *g);
    int           rc = 0;

    if (g == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a group");
    g->groups = gs;
    g->created = created;
    (void)snprintf(g->source, sizeof g->source, "%.*s", SLICE_FMT(source));
    (void)snprintf(g->name, sizeof g->name, "%.*s", SLICE_FMT(name));
    (void)snprintf(g->mark_stream, sizeof g->mark_stream,
                   "$persistentsubscription-%.*s::%.*s-checkpoint", SLICE_FMT(source),
                   SLICE_FMT(name));
    (void)snprintf(g->parked_stream, sizeof g->parked_stream,
                   "$persistentsubscription-%.*s::%.*s-parked", SLICE_FMT(source), SLICE_FMT(name));
    TRY(copy_settings(&g->settings, &g->texts, settings, err));
    TRY(groupi_read_init(g, err));
    TRY(make_buckets(g, err));
    g->events = calloc(GROUPI_RECORDS_MAX + 1, sizeof *g->events);
    if (g->events == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a group");
out:
    if (rc == 0)
        return g;
    groupi_free(g);
    return NULL;
}

void
groupi_free(struct group *g)
{
    if (g == NULL)
        return;
    must(g->members == NULL);
    must(g->out == 0);
    must(!g->committing);
    groupi_clear(g);
    groupi_read_fini(g);
    free(g->pending);
    free(g->parked_pending);
    free(g->lanes);
    free(g->buckets);
    free(g->events);
    buf_fini(&g->text);
    buf_fini(&g->texts);
    free(g);
}

/* In the order in which they were made. */
static void
link_group(struct groups *gs, struct group *g)
{
    struct group **at = &gs->list;

    while (*at != NULL && (*at)->created < g->created)
        at = &(*at)->next;
    must(*at == NULL || (*at)->created > g->created);
    g->next = *at;
    *at = g;
    gs->count++;
}

static void
unlink_group(struct groups *gs, struct group *g)
{
    struct group **at = &gs->list;

    while (*at != g) {
        must(*at != NULL);
        at = &(*at)->next;
    }
    *at = g->next;
    must(gs->count > 0);
    gs->count--;
}

/* reading the configuration */

static int
take_created(struct groups *gs, struct group *old, struct slice source, struct slice name,
             struct slice settings, uint64_t version, struct err *err)
{
    struct group_settings s;
    struct buf            texts = {0};
    struct group         *g;
    int                   rc = 0;

    group_settings_init(&s);
    TRY(group_settings_read(settings, &s, &texts, err));
    g = groupi_new(gs, source, name, &s, old != NULL ? old->created : version, err);
    if (g == NULL) {
        rc = err->code;
        goto out;
    }
    if (old != NULL) {
        unlink_group(gs, old);
        groupi_free(old);
    }
    link_group(gs, g);
out:
    buf_fini(&texts);
    return rc;
}

static int
take_change(struct groups *gs, const struct log_event *ev, struct err *err)
{
    struct json_field f[] = {{.name = "stream", .required = true},
                             {.name = "group", .required = true},
                             {.name = "settings"}};
    struct buf        a = {0}, b = {0};
    struct slice      source, name;
    struct group     *g;
    int               rc = 0;

    if (slice_is(ev->type, changes[GROUP_CREATE]) || slice_is(ev->type, changes[GROUP_UPDATE]) ||
        slice_is(ev->type, changes[GROUP_DELETE])) {
        TRY(json_pick(ev->data, f, 3, JSON_PICK_ANY, err));
        TRY(json_string_view(f[0].value, &a, &source, err));
        TRY(json_string_view(f[1].value, &b, &name, err));
        g = groupi_group(gs, source, name);
        if (!slice_is(ev->type, changes[GROUP_DELETE])) {
            rc = take_created(gs, g, source, name, f[2].value, ev->version, err);
        } else if (g != NULL) {
            unlink_group(gs, g);
            groupi_free(g);
        }
    }
out:
    if (rc != 0)
        err_prefix(err, "%s: event %" PRIu64, GROUP_CONFIG_STREAM, ev->version);
    buf_fini(&a);
    buf_fini(&b);
    return rc;
}

int
groupi_load_config(struct groups *gs, struct err *err)
{
    struct log_read  read = {.stream = slice_str(GROUP_CONFIG_STREAM)};
    struct log_iter *it = NULL;
    struct log_event ev;
    int              rc = log_iter_open(gs->log, &read, &it, err);

    gs->config_version = LOG_NO_STREAM;
    while (rc == 0 && (rc = log_iter_next(it, &ev, err)) == 0) {
        gs->config_version = (int64_t)ev.version;
        rc = take_change(gs, &ev, err);
    }
    log_iter_close(it);
    return rc == E_NOTFOUND || rc == E_END ? 0 : rc;
}

/* what a group may be called */

static int
check_names(struct slice source, struct slice name, struct err *err)
{
    bool all = slice_is(source, "$all");
    int  rc = 0;

    if (name.len == 0 || name.len > GROUP_NAME_MAX)
        FAIL(err, E_INVALID, ERR_DATA, "a group's name has 1 to %d bytes", GROUP_NAME_MAX);
    TRY(log_name_check(name, true, err));
    if (memmem(name.data, name.len, "::", 2) != NULL)
        FAIL(err, E_INVALID, ERR_DATA, "a group's name has no \"::\" in it");
    if (slice_is(source, "$ce-") || slice_is(source, "$et-"))
        FAIL(err, E_INVALID, ERR_DATA, "the source names no category or type");
    if (!all && !slice_starts(source, slice_str("$ce-")) &&
        !slice_starts(source, slice_str("$et-")))
        TRY(log_name_check(source, true, err));
    if (slice_starts(source, slice_str("$persistentsubscription-")) ||
        slice_is(source, GROUP_CONFIG_STREAM))
        FAIL(err, E_INVALID, ERR_DATA, "a group cannot read what groups write");
    if (STREAM_BYTES + source.len + name.len > LOG_NAME_MAX)
        FAIL(err, E_INVALID, ERR_DATA,
             "the names of the stream and the group have more than %zu bytes together",
             LOG_NAME_MAX - STREAM_BYTES);
out:
    return rc;
}

/* commits */

static void
done(struct log_req *req)
{
    struct groups *gs = req->arg;

    must(!atomic_load(&gs->commit_done));
    env_tell(gs->env, gs->task, &gs->commit_done);
}

static struct log_change
cut_off(const char *stream)
{
    return (struct log_change){.stream = slice_str(stream),
                               .expected = LOG_ANY,
                               .what = LOG_SET_TRUNCATE,
                               .truncate = UINT64_MAX};
}

/* A change of the configuration; with `first` a group's first checkpoint too. */
static int
commit(struct groups *gs, const struct group_settings *settings, bool first, struct err *err)
{
    const struct group_command *c = gs->running;
    struct json_out             o;

    must(!gs->committing);
    must(c != NULL);
    buf_clear(&gs->text);
    json_out_init(&o, &gs->text);
    json_out_object(&o);
    json_out_key(&o, "stream");
    json_out_string(&o, c->source);
    json_out_key(&o, "group");
    json_out_string(&o, c->name);
    if (settings != NULL) {
        json_out_key(&o, "settings");
        json_out_object(&o);
        group_settings_write(settings, &o);
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    buf_clear(&gs->text_2);
    if (first)
        groupi_mark_write(&gs->text_2, NULL, &gs->first);
    if (gs->text.failed || gs->text_2.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    gs->events[0] = (struct log_new_event){
        .type = slice_str(changes[c->verb]), .data = buf_slice(&gs->text), .flags = LOG_JSON};
    gs->events[1] = (struct log_new_event){.type = slice_str("$SubscriptionCheckpoint"),
                                           .data = buf_slice(&gs->text_2),
                                           .flags = LOG_JSON};
    gs->writes[0] = (struct log_write){.stream = slice_str(GROUP_CONFIG_STREAM),
                                       .expected = gs->config_version,
                                       .events = &gs->events[0],
                                       .count = 1};
    if (first)
        gs->writes[1] = (struct log_write){.stream = slice_str(gs->subject->mark_stream),
                                           .expected = gs->subject->mark_version,
                                           .events = &gs->events[1],
                                           .count = 1};
    memset(&gs->req, 0, sizeof gs->req);
    gs->req.writes = gs->writes;
    gs->req.write_count = first ? 2 : 1;
    gs->req.changes = gs->changes;
    if (first)
        gs->changes[gs->req.change_count++] =
            (struct log_change){.stream = slice_str(gs->subject->mark_stream),
                                .expected = LOG_ANY,
                                .what = LOG_SET_LIMITS,
                                .max_count = MARKS_KEPT};
    if (c->verb == GROUP_DELETE) { /* nothing of it is readable; the numbers go on */
        gs->changes[gs->req.change_count++] = cut_off(gs->subject->mark_stream);
        gs->changes[gs->req.change_count++] = cut_off(gs->subject->parked_stream);
    }
    must(gs->req.change_count <= sizeof gs->changes / sizeof gs->changes[0]);
    gs->req.flags = LOG_SYSTEM | LOG_QUIET;
    gs->req.done = done;
    gs->req.arg = gs;
    gs->committing = true;
    atomic_store(&gs->commit_done, false);
    log_submit(gs->log, &gs->req);
    return 0;
}

/* create */

static int
find_start(struct groups *gs, struct group *g, struct err *err)
{
    struct mark *m = &gs->first;
    int64_t      head = 0, parked = 0;
    uint64_t     end = log_end(gs->log).v;
    int          rc;

    TRY(groupi_head(gs, g->mark_stream, &g->mark_version, err));
    TRY(groupi_head(gs, g->parked_stream, &parked, err));
    *m = (struct mark){.created = g->created, .parked_from = (uint64_t)(parked + 1)};
    if (g->settings.from == GROUP_AT)
        m->next = g->settings.at;
    if (g->settings.from != GROUP_END)
        goto out;
    m->next = end;
    m->done = LOG_POS(end == 0 ? 0 : end - 1);
    if (g->by_version) {
        TRY(groupi_head(gs, g->source, &head, err));
        m->next = (uint64_t)(head + 1);
    }
out:
    m->start = m->next;
    return rc;
}

static int
begin_create(struct groups *gs, struct group_command *c, struct err *err)
{
    int rc = 0;

    must(gs->subject == NULL);
    TRY(check_names(c->source, c->name, err));
    TRY(group_settings_check(c->settings, c->source, err));
    if (groupi_group(gs, c->source, c->name) != NULL)
        FAIL(err, E_EXISTS, ERR_DATA, "group %.*s of %.*s is there already", SLICE_FMT(c->name),
             SLICE_FMT(c->source));
    if (gs->count >= GROUPS_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "there are %d groups, all that a log takes", GROUPS_MAX);
    gs->subject =
        groupi_new(gs, c->source, c->name, c->settings, (uint64_t)(gs->config_version + 1), err);
    if (gs->subject == NULL) {
        rc = err->code;
        goto out;
    }
    TRY(find_start(gs, gs->subject, err));
    TRY(commit(gs, &gs->subject->settings, true, err));
out:
    return rc;
}

/* update */

static bool
same_source(const struct group_settings *a, const struct group_settings *b)
{
    return a->from == b->from && (a->from != GROUP_AT || a->at == b->at) &&
           slice_eq(a->prefix, b->prefix) && slice_eq(a->category, b->category) &&
           slice_eq(a->type, b->type) && slice_eq(a->type_prefix, b->type_prefix) &&
           slice_eq(a->stream_regex, b->stream_regex) && slice_eq(a->type_regex, b->type_regex) &&
           a->system == b->system && a->skip_moved == b->skip_moved;
}

/* Order and lanes are other ones: what is in memory is read anew. */
static bool
is_reshaped(const struct group_settings *a, const struct group_settings *b)
{
    return a->strategy != b->strategy || a->park_behind != b->park_behind ||
           a->resolve_links != b->resolve_links || a->deliver_links != b->deliver_links;
}

static int
begin_update(struct groups *gs, struct group_command *c, struct err *err)
{
    struct group *g = gs->subject;
    struct err    why;
    int           rc = 0;

    must(!g->closing);
    must(!g->paused);
    TRY(group_settings_check(c->settings, c->source, err));
    if (!same_source(c->settings, &g->settings))
        FAIL(err, E_INVALID, ERR_DATA,
             "from and filter stay as they are: make another group for another start");
    if (is_reshaped(c->settings, &g->settings)) {
        (void)err_set(&why, __FILE__, __LINE__, E_STATE, ERR_RETRY,
                      "the group's settings changed: join again");
        lock_take(&gs->lock);
        g->paused = true;
        groupi_end_members(g, &why);
        g->mark_wanted =
            (g->settled != g->mark_settled || g->parking.count > 0) && g->state != GROUP_FAILED;
        lock_give(&gs->lock);
    }
out:
    return rc;
}

static int
apply_update(struct groups *gs, struct group *g, struct err *err)
{
    const struct group_settings *s = gs->running->settings;
    bool                         reshaped = is_reshaped(s, &g->settings);
    struct group_settings        changed;
    struct buf                   texts = {0};
    int                          rc = 0;

    TRY(copy_settings(&changed, &texts, s, err));
    if (reshaped) {
        must(g->out == 0);
        must(!g->committing);
        groupi_clear(g);
        groupi_read_fini(g);
        g->loaded = false;
        g->state = GROUP_LOADING;
        g->settings = changed;
        TRY(groupi_read_init(g, err));
        TRY(make_buckets(g, err));
        groupi_share_anew(g); /* among those that have joined meanwhile */
    }
    g->settings = changed;
    buf_fini(&g->texts);
    g->texts = texts;
    texts = (struct buf){0};
out:
    buf_fini(&texts);
    return rc;
}

/* replay, skip */

static int
begin_replay(struct groups *gs, struct group_command *c, struct err *err)
{
    struct group *g = gs->subject;
    uint64_t      there, upto;
    bool          under_way;

    if (!g->loaded)
        RETURN_ERR(err, E_STATE, ERR_RETRY, "group %s of %s is not running: %s", g->name, g->source,
                   g->error);
    there = (uint64_t)(g->parked_version + 1) - g->parked_from;
    if (there == 0)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "group %s of %s: nothing is parked", g->name,
                   g->source);
    under_way = g->parked_from < g->parked_upto || g->again.count > 0;
    upto = g->parked_from + (c->limit != 0 && c->limit < there ? c->limit : there);
    if (!under_way) {
        g->pass++;
        g->pass_failed = g->pass_all = false;
        g->parked_upto = g->parked_from;
    }
    g->pass_all = g->pass_all || c->limit == 0;
    if (upto > g->parked_upto)
        g->parked_upto = upto;
    must(g->parked_upto > g->parked_from);
    c->count = g->parked_upto - g->parked_from;
    return 0;
}

static int
begin_skip(struct groups *gs, struct group_command *c, struct err *err)
{
    struct group *g = gs->subject;
    uint64_t      there, from;
    int           rc = 0;

    if (!g->loaded || g->state == GROUP_FAILED)
        FAIL(err, E_STATE, ERR_RETRY, "group %s of %s is not running: %s", g->name, g->source,
             g->error);
    from = g->parked_from;
    there = (uint64_t)(g->parked_version + 1) - from;
    if (there == 0)
        FAIL(err, E_NOTFOUND, ERR_DATA, "group %s of %s: nothing is parked", g->name, g->source);
    if (from < g->parked_upto)
        FAIL(err, E_STATE, ERR_RETRY, "group %s of %s: a replay is under way", g->name, g->source);
    c->count = c->limit != 0 && c->limit < there ? c->limit : there;
    if (g->settings.park_behind)
        TRY(groupi_parked_streams(g, from, from + c->count, false, err));
    lock_take(&gs->lock);
    g->parked_from = g->parked_upto = gs->skip_upto = from + c->count;
    g->mark_wanted = true;
    lock_give(&gs->lock);
out:
    return rc;
}

/* one command after another */

static void
finish(struct groups *gs, int rc, const struct err *err)
{
    struct group_command *c = gs->running;

    must(!gs->committing);
    gs->running = NULL;
    gs->subject = NULL;
    c->rc = rc;
    if (rc != 0)
        err_copy(&c->err, err);
    if (c->gate != NULL)
        gs->env->ops->gate_open(gs->env, c->gate);
    else
        c->done(c); /* it may be gone afterwards */
}

/* 0: it goes on; E_END: that was all; else why not. */
static int
begin(struct groups *gs, struct group_command *c, struct err *err)
{
    int rc = 0;

    must(gs->running == NULL);
    must(!gs->committing);
    gs->running = c;
    if (c->verb == GROUP_CREATE)
        return begin_create(gs, c, err);
    gs->subject = groupi_group(gs, c->source, c->name);
    if (gs->subject == NULL)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "group %.*s of %.*s is not there", SLICE_FMT(c->name),
                   SLICE_FMT(c->source));
    switch (c->verb) {
    case GROUP_UPDATE:
        return begin_update(gs, c, err);
    case GROUP_DELETE:
        lock_take(&gs->lock);
        gs->subject->closing = true;
        lock_give(&gs->lock);
        return 0;
    case GROUP_REPLAY:
        lock_take(&gs->lock);
        rc = begin_replay(gs, c, err);
        lock_give(&gs->lock);
        return rc == 0 ? E_END : rc;
    case GROUP_SKIP:
        return begin_skip(gs, c, err);
    default:
        must(false);
    }
    return 0;
}

/* The group's own commits are through: now the configuration's. */
static int
proceed(struct groups *gs, struct err *err)
{
    struct group *g = gs->subject;

    must(g != NULL);
    if (gs->running->verb == GROUP_SKIP) {
        if (g->state == GROUP_FAILED)
            RETURN_ERR(err, E_STATE, ERR_RETRY, "%s", g->error);
        return !g->committing && !g->mark_wanted && g->mark.parked_from >= gs->skip_upto ? E_END
                                                                                         : 0;
    }
    if (g->committing || (g->mark_wanted && g->state != GROUP_FAILED && !g->closing))
        return 0;
    return commit(gs, gs->running->verb == GROUP_UPDATE ? gs->running->settings : NULL, false, err);
}

static int
committed(struct groups *gs, struct err *err)
{
    struct group *g = gs->subject;
    struct err    why;
    int           rc = 0;

    must(gs->committing);
    must(gs->running != NULL);
    gs->committing = false;
    if (gs->req.rc != 0) {
        err_copy(err, &gs->req.err);
        if (gs->req.rc == E_WRONG_VERSION)
            FAIL(err, E_FENCED, ERR_FATAL, "something else wrote %s", GROUP_CONFIG_STREAM);
        rc = gs->req.rc;
        goto out;
    }
    gs->config_version = (int64_t)gs->writes[0].last_version;
    lock_take(&gs->lock);
    if (gs->running->verb == GROUP_CREATE) {
        link_group(gs, g);
    } else if (gs->running->verb == GROUP_UPDATE) {
        rc = apply_update(gs, g, err);
        g->paused = false;
    } else {
        (void)err_set(&why, __FILE__, __LINE__, E_GONE, ERR_DATA, "the group was deleted");
        groupi_end_members(g, &why);
        unlink_group(gs, g);
    }
    lock_give(&gs->lock);
    if (gs->running->verb == GROUP_DELETE)
        groupi_free(g);
    return rc;
out:
    return rc;
}

/* What was begun and did not come about. */
static void
undo(struct groups *gs)
{
    struct group *g = gs->subject;

    if (g == NULL)
        return;
    must(gs->running != NULL);
    if (gs->running->verb == GROUP_CREATE) {
        groupi_free(g);
        return;
    }
    lock_take(&gs->lock);
    g->closing = g->paused = false;
    lock_give(&gs->lock);
}

static struct group_command *
next_command(struct groups *gs)
{
    struct group_command *c;

    lock_take(&gs->lock);
    must((gs->commands == NULL) == (gs->command_last == NULL));
    c = gs->commands;
    if (c != NULL) {
        gs->commands = c->next;
        if (gs->commands == NULL)
            gs->command_last = NULL;
    }
    lock_give(&gs->lock);
    return c;
}

bool
groupi_commands(struct groups *gs)
{
    struct err err;
    int        rc;

    if (gs->running == NULL) {
        struct group_command *c = next_command(gs);

        if (c == NULL)
            return false;
        rc = begin(gs, c, &err);
        if (rc == 0 && !gs->committing)
            rc = proceed(gs, &err);
    } else if (gs->committing) {
        if (!atomic_load(&gs->commit_done))
            return false;
        rc = committed(gs, &err);
        if (rc == 0)
            rc = E_END;
    } else {
        rc = proceed(gs, &err);
    }
    if (rc == 0)
        return false;
    if (rc != E_END)
        undo(gs);
    finish(gs, rc == E_END ? 0 : rc, &err);
    return true;
}

/* The set is being closed. */
void
groupi_refuse_commands(struct groups *gs)
{
    struct err err;

    (void)err_set(&err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "the groups are being closed");
    lock_take(&gs->lock);
    gs->refusing = true;
    lock_give(&gs->lock);
    while ((gs->running == NULL || !gs->committing) &&
           (gs->running != NULL || (gs->running = next_command(gs)) != NULL)) {
        undo(gs);
        finish(gs, E_CLOSED, &err);
    }
}

void
group_submit(struct groups *gs, struct group_command *c)
{
    struct err err;
    bool       refuse;

    must(c->done != NULL || c->gate != NULL);
    c->next = NULL;
    c->rc = 0;
    c->count = 0;
    lock_take(&gs->lock);
    refuse = gs->refusing;
    if (!refuse && gs->command_last != NULL)
        gs->command_last->next = c;
    else if (!refuse)
        gs->commands = c;
    if (!refuse)
        gs->command_last = c;
    lock_give(&gs->lock);
    if (!refuse) {
        groupi_wake(gs);
        return;
    }
    c->rc = err_set(&err, __FILE__, __LINE__, E_CLOSED, ERR_RETRY, "the groups are being closed");
    err_copy(&c->err, &err);
    if (c->gate != NULL)
        gs->env->ops->gate_open(gs->env, c->gate);
    else
        c->done(c);
}

int
group_run(struct groups *gs, struct group_command *c)
{
    struct ox_gate gate;

    must(c->done == NULL);
    gate_init(&gate);
    c->gate = &gate;
    group_submit(gs, c);
    (void)gs->env->ops->gate_wait(gs->env, &gate, UINT64_MAX);
    c->gate = NULL;
    return c->rc;
}
