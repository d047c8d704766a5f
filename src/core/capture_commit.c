/* From a batch of changes to a commit that owns all of its bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "core/capture_int.h"

#define KNOWN_MAX 100000            /* events of a stream that a row's own id is looked for in */
#define TEXT_KEPT ((size_t)8 << 20) /* a larger buffer is given back before the next commit */

struct capture_build {
    size_t              name_at, name_len, meta_at, meta_len, data_at, data_len;
    bool                parked;
    bool                nothing; /* it makes no event */
    bool                own;     /* of the outbox: `event` says the rest */
    struct outbox_event event;
};

static void
add_transaction(const struct source_batch *batch, struct buf *text)
{
    if (batch->transaction.len == 0)
        return;
    buf_add_str(text, ",\"transaction\":{\"id\":");
    json_put_string(text, batch->transaction);
    buf_add_str(text, ",\"part\":");
    buf_add_u64(text, batch->part);
    buf_add_str(text, batch->last ? ",\"last\":true}" : ",\"last\":false}");
}

/* {"$source":{"name":…,"table":…: for many changes the same. */
static void
add_head(struct capture *c, struct slice table, struct buf *text)
{
    struct buf *head = &c->meta_head;

    if (head->len == 0 || head->failed || c->meta_table.failed ||
        !slice_eq(buf_slice(&c->meta_table), table)) {
        buf_clear(&c->meta_table);
        buf_add_slice(&c->meta_table, table);
        buf_clear(head);
        buf_add_str(head, "{\"$source\":{\"name\":");
        json_put_str(head, c->name);
        buf_add_str(head, ",\"table\":");
        json_put_string(head, table);
        text->failed = text->failed || head->failed || c->meta_table.failed;
    }
    buf_add_slice(text, buf_slice(head));
}

static void
add_metadata(struct capture *c, const struct source_batch *batch, const struct change *ch,
             struct buf *text)
{
    add_head(c, ch->table, text);
    buf_add_str(text, ",\"key\":");
    json_put_string(text, ch->key);
    buf_add_str(text, ",\"position\":");
    json_put_string(text, ch->position);
    if (ch->time_us != 0) {
        buf_add_str(text, ",\"time_us\":");
        buf_add_i64(text, ch->time_us);
    }
    if (ch->origin.len > 0) {
        buf_add_str(text, ",\"origin\":");
        json_put_string(text, ch->origin);
    }
    add_transaction(batch, text);
    if (ch->unchanged.len > 0) {
        buf_add_str(text, ",\"unchanged\":");
        buf_add_slice(text, ch->unchanged);
    }
    if (ch->before.len > 0) {
        buf_add_str(text, ",\"before\":");
        buf_add_slice(text, ch->before);
    }
    buf_add_str(text, "}}");
}

/* What the event would be refused for. */
static int
unfit(const struct buf *text, const struct change *ch, const struct capture_build *b,
      struct err *err)
{
    struct slice name = slice_of(text->data + b->name_at, b->name_len);
    int          rc = log_name_check(name, false, err);

    must(b->name_at + b->name_len <= text->len);
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

static void
put_record(const struct capture *c, struct buf *text, const char *reason, const char *type,
           struct slice table, struct slice key, struct slice position, struct capture_record *out)
{
    struct json_out o;

    out->name_at = text->len;
    buf_printf(text, "$parked-source-%s", c->name);
    out->name_len = text->len - out->name_at;
    out->data_at = text->len;
    json_out_init(&o, text);
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
    out->data_len = text->len - out->data_at;
}

void
capturei_record(struct capture *c, const char *reason, const char *type, struct slice table,
                struct slice key, struct slice position, struct capture_record *out)
{
    must(!c->in_flight);
    put_record(c, &c->text, reason, type, table, key, position, out);
}

/* The record that stands for a change which cannot be an event. */
static void
park(const struct capture *c, const struct change *ch, const struct err *why, struct buf *text,
     struct capture_build *b)
{
    struct capture_record r;

    must(b->name_at <= text->len);
    text->len = b->name_at;
    put_record(c, text, why->text, capture_type_name(ch->op), ch->table, ch->key, ch->position, &r);
    b->name_len = r.name_len;
    b->data_at = r.data_at;
    b->data_len = r.data_len;
    b->meta_at = b->meta_len = 0;
    b->parked = true;
    b->own = false;
}

/* A row of the outbox: the event that it says, nothing, or what it is parked for. */
static int
build_own(const struct capture *c, const struct change *ch, struct buf *text,
          struct capture_build *b, struct err *err)
{
    struct outbox_event *e = &b->event;
    int                  rc = outbox_event(c->outbox, ch, text, e, err);

    if (rc != 0)
        return rc;
    b->own = true;
    b->name_at = e->name.at;
    b->name_len = e->name.len;
    b->meta_at = e->meta.at;
    b->meta_len = e->meta.len;
    b->data_at = e->text.at;
    b->data_len = e->text.len;
    if (e->raw.len > 0) {
        b->data_at = text->len;
        buf_add_slice(text, e->raw);
        b->data_len = text->len - b->data_at;
    }
    return unfit(text, ch, b, err);
}

static void
build_texts(struct capture *c, const struct source_batch *batch, const struct change *ch,
            struct buf *text, struct capture_build *b)
{
    struct err err;
    int        rc;

    *b = (struct capture_build){.name_at = text->len};
    if (c->outbox != NULL && outbox_owns(c->outbox, ch)) {
        rc = build_own(c, ch, text, b, &err);
        b->nothing = rc == E_END;
        if (rc != 0 && !b->nothing && !text->failed)
            park(c, ch, &err, text, b);
        return;
    }
    capturei_add_name(c, ch, text);
    b->name_len = text->len - b->name_at;
    b->meta_at = text->len;
    add_metadata(c, batch, ch, text);
    b->meta_len = text->len - b->meta_at;
    if (text->failed)
        return;
    if (unfit(text, ch, b, &err) != 0) {
        park(c, ch, &err, text, b);
        return;
    }
    b->data_at = text->len;
    if (ch->after.len == 0)
        buf_add_str(text, "null");
    else
        buf_add_slice(text, ch->after);
    b->data_len = text->len - b->data_at;
}

/* The same change is the same event, whoever captures it again. */
static struct ox_id
change_id(const struct capture *c, const struct change *ch, struct buf *scratch)
{
    buf_clear(scratch);
    buf_add_str(scratch, c->name);
    buf_add_byte(scratch, 0);
    buf_add_slice(scratch, ch->position);
    return id_of_bytes(buf_slice(scratch));
}

static void
fill_event(struct capture *c, const struct capture_flight *f, const struct change *ch,
           const struct capture_build *b, struct log_new_event *e)
{
    const uint8_t *text = f->text.data;

    must(!b->nothing);
    must(b->name_at + b->name_len <= f->text.len);
    must(b->meta_at + b->meta_len <= f->text.len);
    must(b->data_at + b->data_len <= f->text.len);
    *e = (struct log_new_event){.id = change_id(c, ch, &c->scratch),
                                .type = slice_str(b->parked ? "Parked" : capture_type_name(ch->op)),
                                .data = slice_of(text + b->data_at, b->data_len),
                                .meta = slice_of(text + b->meta_at, b->meta_len),
                                .created_us = ch->time_us,
                                .flags = LOG_JSON};
    if (!b->own)
        return;
    e->id = b->event.id;
    e->type = slice_of(text + b->event.type.at, b->event.type.len);
    e->flags = b->event.json ? LOG_JSON : 0;
    if (b->event.created_us != 0)
        e->created_us = b->event.created_us;
}

/* Whether the stream has this event, among its last ones; with the same content it is nothing new.
 */
static int
find_known(struct capture *c, struct capture_flight *f, const struct change *ch,
           struct capture_build *b, struct err *err)
{
    struct log_read      read = {.from = UINT64_MAX, .backwards = true};
    struct log_iter     *it = NULL;
    struct log_event     ev;
    struct log_new_event mine;
    int                  rc;

    must(b->own);
    fill_event(c, f, ch, b, &mine);
    read.stream = slice_of(f->text.data + b->name_at, b->name_len);
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
    return rc == E_NOTFOUND || rc == E_END || rc == E_GONE ? 0 : rc;
}

/*
 * Rows whose events are in the log already: left out, or parked where they say something else. A
 * snapshot may read rows that the stream has brought before.
 */
static int
drop_known(struct capture *c, struct capture_flight *f, const struct source_batch *batch,
           struct err *err)
{
    struct capture_build *builds = f->builds;
    struct err            why;
    int                   rc = 0;

    for (uint32_t i = 0; i < batch->count && rc == 0; i++) {
        bool read = batch->changes[i].op == CHANGE_READ;

        if (!builds[i].own || builds[i].nothing || (!read && !c->looking))
            continue;
        must(c->flying == 0);
        rc = find_known(c, f, &batch->changes[i], &builds[i], err);
        /* The batch may have the row's insertion too. */
        for (uint32_t k = 0; k < i && read && !builds[i].nothing; k++)
            builds[i].nothing = builds[k].own && !builds[k].nothing &&
                                id_eq(&builds[k].event.id, &builds[i].event.id);
        if (rc != E_EXISTS)
            continue;
        rc = 0;
        if (read)
            continue;
        builds[i].nothing = false;
        builds[i].name_at = f->text.len;
        (void)err_set(&why, __FILE__, __LINE__, E_EXISTS, ERR_DATA,
                      "another event with this id is in the stream already");
        park(c, &batch->changes[i], &why, &f->text, &builds[i]);
    }
    return rc;
}

/* The changes' events, in the source's order. */
static void
lay_out(struct capture *c, struct capture_flight *f, const struct change *changes, uint32_t n)
{
    const struct capture_build *b = f->builds;

    must(n <= f->room);
    for (uint32_t i = 0; i < n; i++)
        if (!b[i].nothing)
            (void)writes_add(&f->writes, slice_of(f->text.data + b[i].name_at, b[i].name_len));
    writes_lay_out(&f->writes);
    for (uint32_t i = 0; i < n; i++)
        if (!b[i].nothing)
            fill_event(c, f, &changes[i], &b[i], writes_next(&f->writes));
}

/* The last write of the commit, and the last event in its order. */
static void
add_checkpoint(struct capture *c, struct capture_flight *f, const char *state)
{
    size_t       name_at = f->text.len, name_len, data_at;
    struct slice checkpoint = buf_slice(&f->checkpoint);

    buf_printf(&f->text, "$source-%s", c->name);
    name_len = f->text.len - name_at;
    data_at = f->text.len;
    buf_add_str(&f->text, "{\"checkpoint\":");
    buf_add_slice(&f->text, checkpoint.len == 0 ? slice_str("null") : checkpoint);
    if (state != NULL)
        buf_printf(&f->text, ",\"state\":\"%s\"", state);
    buf_add_str(&f->text, "}");
    writes_end(
        &f->writes, slice_of(f->text.data + name_at, name_len), c->sent_version,
        &(struct log_new_event){.type = slice_str("$checkpoint"),
                                .data = slice_of(f->text.data + data_at, f->text.len - data_at),
                                .flags = LOG_JSON},
        &f->req);
}

static bool
make_room(struct capture_flight *f, uint32_t n)
{
    if (f->room < n) {
        free(f->builds);
        f->builds = calloc(n, sizeof f->builds[0]);
        f->room = f->builds == NULL ? 0 : n;
    }
    if (f->room < n || !writes_begin(&f->writes, n))
        return false;
    if (f->text.cap > TEXT_KEPT)
        buf_fini(&f->text);
    buf_clear(&f->text);
    return true;
}

void
capturei_flight_fini(struct capture_flight *f)
{
    writes_fini(&f->writes);
    free(f->builds);
    buf_fini(&f->text);
    buf_fini(&f->checkpoint);
    *f = (struct capture_flight){0};
}

static void
committed(struct log_req *req)
{
    struct capture_flight *f = req->arg;
    struct capture        *c = f->capture;

    must(!atomic_load(&f->done));
    env_tell(c->env, c->task, &f->done);
}

/* The next free flight is built; what is built has no slice of the batch's any more. */
int
capturei_commit(struct capture *c, const struct source_batch *batch, const char *state,
                struct capture_call *call, struct err *err)
{
    struct capture_flight *f = &c->flights[(c->first_flight + c->flying) % CAPTUREI_FLIGHTS];
    const uint8_t         *text;
    uint32_t               n = batch->count;
    int                    rc = 0;

    must(c->flying < CAPTUREI_FLIGHTS);
    must(c->known);
    must(!c->in_flight);
    must(c->sent_version >= c->version);
    if (!make_room(f, n))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    memset(&f->req, 0, sizeof f->req);
    buf_clear(&f->checkpoint);
    buf_add_slice(&f->checkpoint, batch->checkpoint);
    buf_clear(&c->sent);
    buf_add_slice(&c->sent, batch->checkpoint);
    f->parked = 0;
    f->changes = n;
    /* Slices into the text are taken once it has stopped growing. */
    for (uint32_t i = 0; i < n; i++)
        build_texts(c, batch, &batch->changes[i], &f->text, &f->builds[i]);
    if (c->outbox != NULL)
        rc = drop_known(c, f, batch, err);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < n; i++)
        f->parked += f->builds[i].parked;
    if (!buf_reserve(&f->text, batch->checkpoint.len + strlen(c->name) + 96) ||
        f->checkpoint.failed || c->sent.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    text = f->text.data;
    lay_out(c, f, batch->changes, n);
    must(f->writes.made <= n);
    add_checkpoint(c, f, state);
    must(!f->text.failed);
    must(f->text.data == text);
    /* A checkpoint alone is a reader's own state: it wakes nobody. */
    f->req.flags = f->writes.made == 0 ? LOG_SYSTEM | LOG_QUIET : LOG_SYSTEM;
    f->req.done = committed;
    f->req.arg = f;
    f->capture = c;
    f->caught_up = batch->caught_up;
    f->call = call;
    atomic_store(&f->done, false);
    c->sent_version = c->sent_version == LOG_NO_STREAM ? 0 : c->sent_version + 1;
    c->flying++;
    f->bytes = f->text.len;
    c->flying_bytes += f->bytes;
    log_submit(c->log, &f->req);
    return 0;
}

/* import */

void
capturei_checkpoint(struct capture *c, struct log_write *write, struct log_new_event *event)
{
    const uint8_t *text = c->text.data;
    size_t         name_at = c->text.len, name_len, data_at;

    buf_printf(&c->text, "$source-%s", c->name);
    name_len = c->text.len - name_at;
    data_at = c->text.len;
    buf_add_str(&c->text, "{\"checkpoint\":");
    buf_add_slice(&c->text, buf_slice(&c->next_checkpoint));
    buf_add_str(&c->text, "}");
    must(!c->text.failed); /* there was room for it: what slices point at did not move */
    must(c->text.data == text);
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
    must(!c->in_flight);
    buf_clear(&c->next_checkpoint);
    buf_add_slice(&c->next_checkpoint, batch->checkpoint);
    c->caught_up = batch->caught_up;
    if (!buf_reserve(&c->text, batch->checkpoint.len + strlen(c->name) + 64) ||
        c->next_checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    return 0;
}

static void
imported(struct log_req *req)
{
    struct capture *c = req->arg;

    must(c->in_flight);
    must(!atomic_load(&c->done));
    env_tell(c->env, c->task, &c->done);
}

void
capturei_submit(struct capture *c, uint32_t flags)
{
    must(c->flying == 0);
    must(!c->in_flight);
    must(c->pending.count > 0);
    must(c->req.write_count > 0);
    c->req.flags = flags;
    c->req.done = imported;
    c->req.arg = c;
    atomic_store(&c->done, false);
    c->in_flight = true;
    log_submit(c->log, &c->req);
}
