#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "core/capture_int.h"
#include "core/outbox.h"

#define BATCH_MAX 500u
#define POLL_WAIT_MS 200u
#define BACKOFF_MIN_US UINT64_C(100000)
#define BACKOFF_MAX_US UINT64_C(10000000)
#define DETAIL_US UINT64_C(1000000)
#define KNOWN_MAX 100000 /* events of a stream that a row's own id is looked for in */

static const char *const types[] = {
    [CHANGE_READ] = "Read",          [CHANGE_INSERT] = "Inserted",
    [CHANGE_UPDATE] = "Updated",     [CHANGE_DELETE] = "Deleted",
    [CHANGE_TRUNCATE] = "Truncated", [CHANGE_SCHEMA] = "SchemaChanged",
    [CHANGE_MESSAGE] = "Message",
};

const char *
capture_type_name(enum change_op op)
{
    must(op >= CHANGE_READ && op <= CHANGE_MESSAGE);
    return types[op];
}

enum change_op
capture_type_op(struct slice type)
{
    for (int op = CHANGE_READ; op <= CHANGE_MESSAGE; op++)
        if (slice_is(type, types[op]))
            return (enum change_op)op;
    return (enum change_op)0;
}

const char *
capture_state_name(enum capture_state state)
{
    switch (state) {
    case CAPTURE_STARTING:
        return "starting";
    case CAPTURE_RUNNING:
        return "running";
    case CAPTURE_RETRYING:
        return "retrying";
    case CAPTURE_STOPPED:
        return "stopped";
    case CAPTURE_FAILED:
        return "failed";
    }
    return "unknown";
}

static void
set_state(struct capture *c, enum capture_state state, const struct err *err)
{
    lock_take(&c->lock);
    c->status.state = state;
    (void)snprintf(c->status.error, sizeof c->status.error, "%s", err == NULL ? "" : err->text);
    lock_give(&c->lock);
}

/* Returns what the step returns: later, or never again. */
static uint64_t
failed(struct capture *c, const struct err *err)
{
    if (err->kind != ERR_RETRY && err->kind != ERR_UNSURE) {
        set_state(c, CAPTURE_FAILED, err);
        return ENV_STEP_WAIT;
    }
    set_state(c, CAPTURE_RETRYING, err);
    c->backoff_us = c->backoff_us == 0 ? BACKOFF_MIN_US : c->backoff_us * 2;
    if (c->backoff_us > BACKOFF_MAX_US)
        c->backoff_us = BACKOFF_MAX_US;
    /* The far side may have said how long it wants to be left alone. */
    if ((uint64_t)err->retry_ms * 1000 > c->backoff_us)
        return (uint64_t)err->retry_ms * 1000;
    return c->backoff_us;
}

/* the checkpoint */

static void
checkpoint_stream(const struct capture *c, char out[LOG_NAME_MAX + 1])
{
    (void)snprintf(out, LOG_NAME_MAX + 1, "$source-%s", c->name);
}

/* The durable checkpoint and where it stands, for others. */
static void
note_place(struct capture *c, struct log_pos pos)
{
    struct slice cp = buf_slice(&c->checkpoint);

    lock_take(&c->lock);
    c->status.last = pos;
    (void)snprintf(c->status.checkpoint, sizeof c->status.checkpoint, "%.*s", SLICE_FMT(cp));
    lock_give(&c->lock);
}

static int
read_checkpoint(struct capture *c, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter *it = NULL;
    struct log_event ev;
    struct slice     raw;
    int              rc;

    checkpoint_stream(c, stream);
    read.stream = slice_str(stream);
    c->version = LOG_NO_STREAM;
    buf_clear(&c->checkpoint);
    rc = log_iter_open(c->log, &read, &it, err);
    if (rc == E_NOTFOUND)
        return 0;
    if (rc != 0)
        goto out;
    TRY(log_iter_next(it, &ev, err));
    if (!json_get(ev.data, "checkpoint", &raw))
        FAIL(err, E_SCHEMA, ERR_FATAL, "%s: its last event has no checkpoint", stream);
    buf_add_slice(&c->checkpoint, raw);
    c->version = (int64_t)ev.version;
    note_place(c, ev.pos);
out:
    log_iter_close(it);
    return rc;
}

static int
start_source(struct capture *c, struct err *err)
{
    int rc;

    TRY(read_checkpoint(c, err));
    TRY(source_start(c->source, buf_slice(&c->checkpoint), err));
    c->started = true;
out:
    return rc;
}

/* values that a source did not say again */

static void
add_name(struct capture *c, const struct change *ch)
{
    if (c->category != NULL)
        buf_add_str(&c->text, c->category);
    else
        buf_add_slice(&c->text, ch->table);
    if (ch->key.len > 0) {
        buf_add_byte(&c->text, '-');
        buf_add_slice(&c->text, ch->key);
    }
}

/* Whether all of the names are members of the row; they are put behind `out`. */
static bool
add_members(struct slice row, struct slice names, struct buf *out)
{
    struct json_iter it;
    struct slice     name, value;
    char             text[512];
    int              rc = json_array_iter(&it, names, NULL);

    while (rc == 0 && (rc = json_iter_next(&it, NULL, &name, NULL)) == 0) {
        if (json_type(name) != JSON_STRING)
            return false;
        (void)snprintf(text, sizeof text, "%.*s", (int)name.len - 2, (const char *)name.data + 1);
        if (name.len >= sizeof text || memchr(name.data, '\\', name.len) != NULL ||
            !json_get(row, text, &value))
            return false;
        buf_add_byte(out, ',');
        buf_add_slice(out, name);
        buf_add_byte(out, ':');
        buf_add_slice(out, value);
    }
    return rc == E_END;
}

/* The last event of the change's stream, where this source put it there with nothing left out. */
static int
last_row(struct capture *c, const struct change *ch, struct log_iter **it, struct slice *row,
         struct err *err)
{
    struct log_read  read = {.from = UINT64_MAX, .backwards = true};
    struct log_event ev;
    struct slice     name, raw;
    char             quoted[256];
    int              rc;

    *row = slice_of(NULL, 0);
    buf_clear(&c->text);
    add_name(c, ch);
    read.stream = buf_slice(&c->text);
    rc = log_iter_open(c->log, &read, it, err);
    if (rc == E_NOTFOUND || (rc == 0 && (rc = log_iter_next(*it, &ev, err)) == E_END))
        return 0;
    TRY(rc);
    (void)snprintf(quoted, sizeof quoted, "\"%s\"", c->name);
    if (json_get_path(ev.meta, slice_str("$source.name"), &name) && slice_is(name, quoted) &&
        !json_get_path(ev.meta, slice_str("$source.unchanged"), &raw))
        *row = ev.data;
out:
    return rc;
}

/* One that was parked is not in its stream: what stands there may be older than what is meant. */
static int
look_for_parked(struct capture *c, bool *found, struct err *err)
{
    char             stream[LOG_NAME_MAX + 1];
    struct log_read  read = {.from = 0};
    struct log_iter *it = NULL;
    int              rc;

    (void)snprintf(stream, sizeof stream, "$parked-source-%s", c->name);
    read.stream = slice_str(stream);
    rc = log_iter_open(c->log, &read, &it, err);
    log_iter_close(it);
    *found = rc == 0;
    return rc == E_NOTFOUND ? 0 : rc;
}

/* Fills in what `unchanged` names, from the change before in its stream; else it stays marked. */
static int
complete(struct capture *c, struct change *changes, uint32_t at, struct err *err)
{
    struct change   *ch = &changes[at];
    struct log_iter *it = NULL;
    struct slice     row = {0};
    struct buf       whole = {0};
    uint32_t         i = at;
    int              rc = 0;

    while (i > 0 &&
           !(slice_eq(changes[i - 1].table, ch->table) && slice_eq(changes[i - 1].key, ch->key)))
        i--;
    if (i > 0)
        row = changes[i - 1].unchanged.len == 0 ? changes[i - 1].after : slice_of(NULL, 0);
    else
        TRY(last_row(c, ch, &it, &row, err));
    if (row.len < 2 || ch->after.len <= 2)
        goto out;
    buf_add(&whole, ch->after.data, ch->after.len - 1);
    if (add_members(row, ch->unchanged, &whole)) {
        buf_add_byte(&whole, '}');
        if (whole.failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
        c->whole[at] = whole; /* until the next batch */
        ch->after = buf_slice(&whole);
        ch->unchanged = slice_of(NULL, 0);
        whole = (struct buf){0};
    }
out:
    log_iter_close(it);
    buf_fini(&whole);
    return rc;
}

static void
forget_whole(struct capture *c)
{
    for (uint32_t i = 0; c->whole != NULL && i < c->batch_max; i++)
        buf_fini(&c->whole[i]);
}

/* The batch's changes, or a copy of them where some were completed. */
static int
complete_all(struct capture *c, const struct source_batch *batch, const struct change **out,
             struct err *err)
{
    uint32_t first = 0;
    bool     parked;
    int      rc = 0;

    *out = batch->changes;
    while (first < batch->count && batch->changes[first].unchanged.len == 0)
        first++;
    if (first == batch->count)
        return 0;
    TRY(look_for_parked(c, &parked, err));
    if (parked)
        goto out;
    forget_whole(c);
    memcpy(c->completed, batch->changes, batch->count * sizeof c->completed[0]);
    *out = c->completed;
    for (uint32_t i = first; i < batch->count; i++)
        if (c->completed[i].unchanged.len > 0)
            TRY(complete(c, c->completed, i, err));
out:
    return rc;
}

/* from changes to a commit */

struct build {
    size_t              name_at, name_len, meta_at, meta_len, data_at, data_len;
    bool                parked;
    bool                nothing; /* it makes no event */
    bool                own;     /* of the outbox: `event` says the rest */
    struct outbox_event event;
};

static void
add_metadata(struct capture *c, const struct change *ch)
{
    struct json_out o;

    json_out_init(&o, &c->text);
    json_out_object(&o);
    json_out_key(&o, "$source");
    json_out_object(&o);
    json_out_key(&o, "name");
    json_out_str(&o, c->name);
    json_out_key(&o, "table");
    json_out_string(&o, ch->table);
    json_out_key(&o, "key");
    json_out_string(&o, ch->key);
    json_out_key(&o, "position");
    json_out_string(&o, ch->position);
    if (ch->time_us != 0) {
        json_out_key(&o, "time_us");
        json_out_i64(&o, ch->time_us);
    }
    if (ch->origin.len > 0) {
        json_out_key(&o, "origin");
        json_out_string(&o, ch->origin);
    }
    if (ch->unchanged.len > 0) {
        json_out_key(&o, "unchanged");
        json_out_raw(&o, ch->unchanged);
    }
    if (ch->before.len > 0) {
        json_out_key(&o, "before");
        json_out_raw(&o, ch->before);
    }
    json_out_object_end(&o);
    json_out_object_end(&o);
}

/* What the event would be refused for. */
static int
unfit(struct capture *c, const struct change *ch, const struct build *b, struct err *err)
{
    struct slice name = slice_of(c->text.data + b->name_at, b->name_len);
    int          rc = log_name_check(name, false, err);

    if (rc != 0)
        return rc;
    if (b->own && (b->event.type.len == 0 || b->event.type.len > LOG_TYPE_MAX))
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "the type has %zu bytes, it must have 1 to %d",
                   b->event.type.len, LOG_TYPE_MAX);
    if (b->meta_len + ch->after.len > LOG_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "the row has %zu bytes, an event has at most %" PRIu64,
                   ch->after.len, LOG_EVENT_MAX);
    return 0;
}

void
capturei_record(struct capture *c, const char *reason, const char *type, struct slice table,
                struct slice key, struct slice position, struct capture_record *out)
{
    struct json_out o;

    out->name_at = c->text.len;
    buf_printf(&c->text, "$parked-source-%s", c->name);
    out->name_len = c->text.len - out->name_at;
    out->data_at = c->text.len;
    json_out_init(&o, &c->text);
    json_out_object(&o);
    json_out_key(&o, "reason");
    json_out_str(&o, reason);
    json_out_key(&o, "type");
    json_out_str(&o, type);
    json_out_key(&o, "table");
    json_out_string(&o, table);
    json_out_key(&o, "key");
    json_out_string(&o, slice_of(key.data, key.len < 4096 ? key.len : 4096));
    json_out_key(&o, "position");
    json_out_string(&o, position);
    json_out_object_end(&o);
    out->data_len = c->text.len - out->data_at;
}

/* The record that stands for a change which cannot be an event. */
static void
park(struct capture *c, const struct change *ch, const struct err *why, struct build *b)
{
    struct capture_record r;

    c->text.len = b->name_at;
    capturei_record(c, why->text, capture_type_name(ch->op), ch->table, ch->key, ch->position, &r);
    b->name_len = r.name_len;
    b->data_at = r.data_at;
    b->data_len = r.data_len;
    b->meta_at = b->meta_len = 0;
    b->parked = true;
    b->own = false;
    c->parked++;
}

/* A row of the outbox: the event that it says, nothing, or what it is parked for. */
static int
build_own(struct capture *c, const struct change *ch, struct build *b, struct err *err)
{
    struct outbox_event *e = &b->event;
    int                  rc = outbox_event(c->outbox, ch, &c->text, e, err);

    if (rc != 0)
        return rc;
    b->own = true;
    b->name_at = e->name.at;
    b->name_len = e->name.len;
    b->meta_at = e->meta.at;
    b->meta_len = e->meta.len;
    return unfit(c, ch, b, err);
}

static void
build_texts(struct capture *c, const struct change *ch, struct build *b)
{
    struct err err;
    int        rc;

    memset(b, 0, sizeof *b);
    b->name_at = c->text.len;
    if (c->outbox != NULL && outbox_owns(c->outbox, ch)) {
        rc = build_own(c, ch, b, &err);
        b->nothing = rc == E_END;
        if (rc != 0 && !b->nothing && !c->text.failed)
            park(c, ch, &err, b);
        return;
    }
    add_name(c, ch);
    b->name_len = c->text.len - b->name_at;
    b->meta_at = c->text.len;
    add_metadata(c, ch);
    b->meta_len = c->text.len - b->meta_at;
    if (!c->text.failed && unfit(c, ch, b, &err) != 0)
        park(c, ch, &err, b);
}

/* The same change is the same event, whoever captures it again. */
static struct ox_id
change_id(struct capture *c, const struct change *ch, struct buf *scratch)
{
    buf_clear(scratch);
    buf_add_str(scratch, c->name);
    buf_add_byte(scratch, 0);
    buf_add_slice(scratch, ch->position);
    return id_of_bytes(buf_slice(scratch));
}

static void
fill_event(struct capture *c, const struct change *ch, const struct build *b,
           struct log_new_event *e, struct buf *scratch)
{
    const uint8_t *text = c->text.data;

    *e = (struct log_new_event){.id = change_id(c, ch, scratch),
                                .type = slice_str(capture_type_name(ch->op)),
                                .data = ch->after,
                                .meta = slice_of(text + b->meta_at, b->meta_len),
                                .created_us = ch->time_us,
                                .flags = LOG_JSON};
    if (b->own) {
        e->id = b->event.id;
        e->type = slice_of(text + b->event.type.at, b->event.type.len);
        e->data = b->event.raw.len > 0 ? b->event.raw
                                       : slice_of(text + b->event.text.at, b->event.text.len);
        e->flags = b->event.json ? LOG_JSON : 0;
        if (b->event.created_us != 0)
            e->created_us = b->event.created_us;
    } else if (b->parked) {
        e->type = slice_str("Parked");
        e->data = slice_of(text + b->data_at, b->data_len);
    } else if (e->data.len == 0) {
        e->data = slice_str("null");
    }
}

/* Whether the stream has this event, among its last ones; with the same content it is nothing new.
 */
static int
find_known(struct capture *c, const struct change *ch, struct build *b, struct err *err)
{
    struct log_read      read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter     *it = NULL;
    struct log_event     ev;
    struct log_new_event mine;
    struct buf           scratch = {0};
    int                  rc;

    fill_event(c, ch, b, &mine, &scratch);
    read.stream = slice_of(c->text.data + b->name_at, b->name_len);
    rc = log_iter_open(c->log, &read, &it, err);
    for (uint32_t n = 0; rc == 0 && n < KNOWN_MAX; n++) {
        rc = log_iter_next(it, &ev, err);
        if (rc != 0 || !id_eq(&ev.id, &mine.id))
            continue;
        b->nothing = true;
        if (!slice_eq(ev.data, mine.data) || !slice_eq(ev.type, mine.type))
            rc = E_EXISTS;
        break;
    }
    log_iter_close(it);
    buf_fini(&scratch);
    return rc == E_NOTFOUND || rc == E_END || rc == E_GONE ? 0 : rc;
}

/*
 * Rows whose events are in the log already: left out, or parked where they say something else. A
 * snapshot may read rows that the stream has brought before.
 */
static int
drop_known(struct capture *c, const struct change *changes, struct build *builds, uint32_t n,
           struct err *err)
{
    struct err why;
    int        rc = 0;

    for (uint32_t i = 0; i < n && rc == 0; i++) {
        bool read = changes[i].op == CHANGE_READ;

        if (!builds[i].own || builds[i].nothing || (!read && !c->looking))
            continue;
        rc = find_known(c, &changes[i], &builds[i], err);
        /* The batch may have the row's insertion too. */
        for (uint32_t k = 0; k < i && read && !builds[i].nothing; k++)
            builds[i].nothing = builds[k].own && !builds[k].nothing &&
                                id_eq(&builds[k].event.id, &builds[i].event.id);
        if (rc != E_EXISTS)
            continue;
        if (read) {
            rc = 0;
            continue;
        }
        rc = 0;
        builds[i].nothing = false;
        builds[i].name_at = c->text.len;
        (void)err_set(&why, __FILE__, __LINE__, E_EXISTS, ERR_DATA,
                      "another event with this id is in the stream already");
        park(c, &changes[i], &why, &builds[i]);
    }
    return rc;
}

/* Which write a stream has; a new one is added. The batch is small: a table by hash. */
static uint32_t
write_for(struct capture *c, uint32_t *table, uint32_t mask, struct slice name)
{
    uint64_t h = 1469598103934665603u;
    uint32_t i;

    for (size_t k = 0; k < name.len; k++)
        h = (h ^ ((const uint8_t *)name.data)[k]) * 1099511628211u;
    for (i = (uint32_t)(h >> 32) & mask; table[i] != 0; i = (i + 1) & mask)
        if (slice_eq(c->writes[table[i] - 1].stream, name))
            return table[i] - 1;
    c->writes[c->req.write_count] =
        (struct log_write){.stream = name, .expected = LOG_ANY, .count = 0};
    table[i] = ++c->req.write_count;
    return table[i] - 1;
}

/* Events lie write by write; `order` keeps the source's order in the log. Returns how many. */
static uint32_t
lay_out(struct capture *c, const struct change *changes, const struct build *builds, uint32_t n,
        uint32_t *table, uint32_t mask, struct buf *scratch)
{
    uint32_t *at, made = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct slice name = slice_of(c->text.data + builds[i].name_at, builds[i].name_len);

        if (builds[i].nothing)
            continue;
        c->write_of[i] = write_for(c, table, mask, name);
        c->writes[c->write_of[i]].count++;
        c->order[made++] = c->write_of[i];
    }
    at = table; /* not needed any more: now where each write's next event goes */
    for (uint32_t w = 0, sum = 0; w < c->req.write_count; w++) {
        c->writes[w].events = &c->events[sum];
        at[w] = sum;
        sum += c->writes[w].count;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!builds[i].nothing)
            fill_event(c, &changes[i], &builds[i], &c->events[at[c->write_of[i]]++], scratch);
    return made;
}

void
capturei_checkpoint(struct capture *c, struct log_write *write, struct log_new_event *event)
{
    size_t name_at = c->text.len, name_len, data_at;

    buf_printf(&c->text, "$source-%s", c->name);
    name_len = c->text.len - name_at;
    data_at = c->text.len;
    buf_add_str(&c->text, "{\"checkpoint\":");
    buf_add_slice(&c->text, buf_slice(&c->next_checkpoint));
    buf_add_str(&c->text, "}");
    must(!c->text.failed); /* there was room for it */
    *event = (struct log_new_event){.type = slice_str("$checkpoint"),
                                    .data = slice_of(c->text.data + data_at, c->text.len - data_at),
                                    .flags = LOG_JSON};
    *write = (struct log_write){.stream = slice_of(c->text.data + name_at, name_len),
                                .expected = c->version,
                                .events = event,
                                .count = 1};
}

int
capturei_take_checkpoint(struct capture *c, const struct source_batch *batch, struct err *err)
{
    buf_clear(&c->next_checkpoint);
    buf_add_slice(&c->next_checkpoint, batch->checkpoint);
    c->caught_up = batch->caught_up;
    if (!buf_reserve(&c->text, batch->checkpoint.len + strlen(c->name) + 64) ||
        c->next_checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    return 0;
}

static void
committed(struct log_req *req)
{
    struct capture *c = req->arg;

    atomic_store(&c->done, true);
    c->env->ops->task_wake(c->env, c->task);
}

void
capturei_submit(struct capture *c, uint32_t flags)
{
    c->req.flags = flags;
    c->req.done = committed;
    c->req.arg = c;
    atomic_store(&c->done, false);
    c->in_flight = true;
    log_submit(c->log, &c->req);
}

static int
commit_batch(struct capture *c, const struct source_batch *batch, struct err *err)
{
    uint32_t             n = batch->count, mask = 1, made;
    struct build        *builds = calloc((size_t)n + 1, sizeof *builds);
    uint32_t            *table = NULL;
    const struct change *changes;
    struct buf           scratch;
    int                  rc = 0;

    must(n <= c->batch_max);
    buf_init(&scratch, 0);
    while (mask < n * 2)
        mask *= 2;
    table = calloc(mask, sizeof *table);
    if (builds == NULL || table == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    TRY(complete_all(c, batch, &changes, err));
    memset(&c->req, 0, sizeof c->req);
    buf_clear(&c->text);
    c->parked = 0;
    /* Slices into the text are taken once it has stopped growing. */
    for (uint32_t i = 0; i < n; i++)
        build_texts(c, &changes[i], &builds[i]);
    if (c->outbox != NULL)
        TRY(drop_known(c, changes, builds, n, err));
    TRY(capturei_take_checkpoint(c, batch, err));
    made = lay_out(c, changes, builds, n, table, mask - 1, &scratch);
    capturei_checkpoint(c, &c->writes[c->req.write_count], &c->events[made]);
    c->order[made] = c->req.write_count++;
    c->req.writes = c->writes;
    c->req.order = c->order;
    c->changes = n;
    /* A checkpoint alone is a reader's own state: it wakes nobody. */
    capturei_submit(c, made == 0 ? LOG_SYSTEM | LOG_QUIET : LOG_SYSTEM);
out:
    free(builds);
    free(table);
    buf_fini(&scratch);
    return rc;
}

/* the task */

static void
note_durable(struct capture *c)
{
    lock_take(&c->lock);
    c->status.batches++;
    c->status.changes += c->changes;
    c->status.parked += c->parked;
    c->status.caught_up = c->caught_up;
    lock_give(&c->lock);
    note_place(c, c->req.last);
}

static uint64_t
after_commit(struct capture *c)
{
    struct err err = c->req.err;
    struct buf old = c->checkpoint;
    bool       filled = c->filling && c->req.rc == 0;

    c->in_flight = c->filling = false;
    capturei_import_free(c);
    if (filled)
        return ENV_STEP_NOW; /* the rest of the batch follows */
    c->pending.count = 0;
    if (c->req.rc == E_LIMIT && c->req.err.kind == ERR_DATA && c->changes > 1) {
        /* The source is asked again, for less at a time: its rows are large. */
        c->batch_now = c->changes / 2;
        c->started = false;
        return ENV_STEP_NOW;
    }
    if (c->req.rc == E_WRONG_VERSION && !c->looking && c->outbox != NULL &&
        !slice_eq(c->req.wrong_stream, c->writes[c->req.write_count - 1].stream)) {
        c->looking = true;
        c->started = false;
        return ENV_STEP_NOW;
    }
    if (c->req.rc != 0) {
        if (c->req.rc == E_WRONG_VERSION &&
            slice_starts(c->req.wrong_stream, slice_str("$source-"))) {
            (void)err_set(&err, __FILE__, __LINE__, E_FENCED, ERR_FATAL,
                          "source %s: something else captures it into this log", c->name);
        }
        /* The source is asked again from the checkpoint that is durable. */
        c->started = false;
        return failed(c, &err);
    }
    c->version = c->version == LOG_NO_STREAM ? 0 : c->version + 1;
    c->checkpoint = c->next_checkpoint;
    c->next_checkpoint = old;
    c->backoff_us = 0;
    c->looking = false;
    if (c->batch_now < c->batch_max)
        c->batch_now++;
    note_durable(c);
    if (source_confirm(c->source, buf_slice(&c->checkpoint), &err) != 0)
        return failed(c, &err);
    set_state(c, CAPTURE_RUNNING, NULL);
    return ENV_STEP_NOW;
}

/* What the source says of itself: its lag, the state of its slot. */
static void
note_detail(struct capture *c)
{
    uint64_t   now = c->env->ops->mono_us(c->env);
    struct buf text;

    if (c->detail_us != 0 && now - c->detail_us < DETAIL_US)
        return;
    c->detail_us = now;
    buf_init(&text, sizeof c->status.detail - 1);
    if (c->source->ops->status(c->source, &text, NULL) == 0 && !text.failed) {
        lock_take(&c->lock);
        (void)snprintf(c->status.detail, sizeof c->status.detail, "%.*s",
                       SLICE_FMT(buf_slice(&text)));
        lock_give(&c->lock);
    }
    buf_fini(&text);
}

/* The next commit of the events that wait; where it fails, the source is asked for them again. */
static uint64_t
go_on(struct capture *c)
{
    struct err err;

    if (capturei_import(c, &err) == 0)
        return ENV_STEP_NOW;
    c->pending.count = 0;
    c->started = false;
    return failed(c, &err);
}

static uint64_t
step(void *arg)
{
    struct capture     *c = arg;
    struct source_batch batch = {0};
    struct err          err;

    must(c->magic == CAPTUREI_MAGIC);
    if (c->in_flight)
        return atomic_load(&c->done) ? after_commit(c) : ENV_STEP_WAIT;
    if (atomic_load(&c->stopping)) {
        c->env->ops->gate_open(c->env, &c->stopped);
        return ENV_STEP_WAIT;
    }
    if (c->status.state == CAPTURE_FAILED)
        return ENV_STEP_WAIT;
    if (c->pending.count > 0)
        return go_on(c);
    if (!c->started) {
        if (start_source(c, &err) != 0)
            return failed(c, &err);
        set_state(c, CAPTURE_RUNNING, NULL);
    }
    lock_take(&c->lock);
    c->status.polls++;
    lock_give(&c->lock);
    if (source_poll(c->source, c->batch_now, POLL_WAIT_MS, &batch, &err) != 0)
        return failed(c, &err);
    note_detail(c);
    /* A position that moved without a change of ours is kept too: others wait for it. */
    if (batch.count == 0 &&
        (batch.checkpoint.len == 0 || slice_eq(batch.checkpoint, buf_slice(&c->checkpoint)))) {
        c->backoff_us = 0;
        lock_take(&c->lock);
        c->status.state = CAPTURE_RUNNING;
        c->status.error[0] = '\0';
        c->status.caught_up = batch.caught_up;
        if (batch.caught_up) {
            c->status.idle[0] = c->status.idle[1];
            c->status.idle[1] = c->status.polls;
        }
        lock_give(&c->lock);
        return ENV_STEP_NOW;
    }
    if (batch.count > 0 && batch.changes[0].op == CHANGE_EVENT) {
        c->pending = batch;
        return go_on(c);
    }
    if (commit_batch(c, &batch, &err) != 0) {
        c->started = false; /* or the source would go on behind the batch */
        return failed(c, &err);
    }
    return ENV_STEP_NOW;
}

int
capture_new(struct ox_env *env, struct log *log, const struct capture_conf *conf,
            struct source **source, struct capture **out, struct err *err)
{
    struct capture *c = calloc(1, sizeof *c);
    size_t          n;
    int             rc = 0;

    *out = NULL;
    if (c == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    c->magic = CAPTUREI_MAGIC;
    c->env = env;
    c->log = log;
    lock_init(&c->lock, LOCK_CORE);
    c->batch_max = conf->batch_max == 0 ? BATCH_MAX : conf->batch_max;
    n = (size_t)c->batch_max + 1;
    c->name = strdup(conf->name);
    c->category = conf->category == NULL ? NULL : strdup(conf->category);
    c->writes = calloc(n, sizeof *c->writes);
    c->events = calloc(n, sizeof *c->events);
    c->order = calloc(n, sizeof *c->order);
    c->write_of = calloc(n, sizeof *c->write_of);
    c->completed = calloc(n, sizeof *c->completed);
    c->whole = calloc(n, sizeof *c->whole);
    if (c->name == NULL || c->writes == NULL || c->events == NULL || c->order == NULL ||
        c->write_of == NULL || c->completed == NULL || c->whole == NULL ||
        (conf->category != NULL && c->category == NULL))
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    if (conf->outbox != NULL)
        TRY(outbox_new(conf->outbox, conf->name, &c->outbox, err));
    if (strlen(conf->name) > 200)
        FAIL(err, E_INVALID, ERR_FATAL, "source %.20s…: a name has at most 200 bytes", conf->name);
    c->status.state = CAPTURE_STOPPED;
    c->source = *source;
    *source = NULL;
    *out = c;
    c = NULL;
out:
    capture_free(c);
    return rc;
}

int
capture_start(struct capture *c, struct err *err)
{
    struct ox_task_def def = {.name = "ox-capture", .step = step, .arg = c};

    if (c->task != NULL)
        return 0;
    c->started = false;
    c->pending.count = 0;
    c->backoff_us = 0;
    c->batch_now = c->batch_max;
    atomic_store(&c->stopping, false);
    gate_init(&c->stopped);
    set_state(c, CAPTURE_STARTING, NULL);
    return c->env->ops->task_start(c->env, &def, &c->task, err);
}

void
capture_stop(struct capture *c)
{
    if (c->task == NULL)
        return;
    atomic_store(&c->stopping, true);
    c->env->ops->task_wake(c->env, c->task);
    (void)c->env->ops->gate_wait(c->env, &c->stopped, UINT64_MAX);
    c->env->ops->task_stop(c->env, c->task);
    c->task = NULL;
    set_state(c, CAPTURE_STOPPED, NULL);
}

void
capture_free(struct capture *c)
{
    if (c == NULL)
        return;
    capture_stop(c);
    capturei_import_free(c);
    source_free(c->source);
    outbox_free(c->outbox);
    buf_fini(&c->checkpoint);
    buf_fini(&c->next_checkpoint);
    buf_fini(&c->text);
    free(c->writes);
    free(c->events);
    free(c->order);
    free(c->write_of);
    free(c->completed);
    forget_whole(c);
    free(c->whole);
    free(c->name);
    free(c->category);
    lock_fini(&c->lock);
    free(c);
}

void
capture_get_status(struct capture *c, struct capture_status *out)
{
    lock_take(&c->lock);
    *out = c->status;
    lock_give(&c->lock);
}
