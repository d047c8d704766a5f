/* From messages to a commit that owns all of its bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/must.h"
#include "core/queue_int.h"

#define TEXT_KEPT ((size_t)16 << 20) /* a larger buffer is given back before the next commit */
#define TRUNCATE_EVERY 256           /* commits, about, between truncations of the ids */
#define STATE_ROOM 256

static struct slice
text_of(const struct queue_flight *f, struct queue_span s)
{
    return slice_of(f->text.data + s.at, s.len);
}

/* what becomes of each message */

static const struct queue_verdict *
verdict_of(const struct queue *q, struct slice stream)
{
    for (uint32_t i = 0; i < q->verdict_count; i++)
        if (slice_eq(slice_of(q->verdicts[i].name, q->verdicts[i].len), stream))
            return &q->verdicts[i];
    return NULL;
}

void
queuei_judge(struct queue *q, const struct queue_flight *f, struct slice stream, bool park)
{
    const struct queue_verdict *known = verdict_of(q, stream);
    struct queue_verdict       *v;

    must(stream.len <= LOG_NAME_MAX);
    if (known == NULL && q->verdict_count == QUEUEI_VERDICTS)
        q->verdict_count = 0; /* they are found again */
    v = known != NULL ? &q->verdicts[known - q->verdicts] : &q->verdicts[q->verdict_count++];
    must(q->verdict_count <= QUEUEI_VERDICTS);
    v->len = stream.len;
    memcpy(v->name, stream.data, v->len);
    v->park = park || known != NULL;
    (void)snprintf(v->why, sizeof v->why, "%.*s", (int)sizeof v->why - 1, f->req.err.text);
}

struct slice
queuei_stream_of(const struct queue_flight *f, uint32_t i)
{
    must(i < f->messages);
    return text_of(f, f->items[i].event.stream);
}

/* A stream that was moved is followed; one that takes no events is a reason to park. */
static int
settle_stream(struct queue *q, struct queue_flight *f, struct queue_event *e, struct err *err)
{
    struct log_stream info = {0};
    struct buf        name = {0};
    int               rc = log_stream_brief(q->log, text_of(f, e->stream), &info, err);

    if (rc == E_NOTFOUND)
        return 0;
    if (rc != 0)
        return rc;
    if ((info.flags & LOG_STREAM_CLOSED) != 0)
        RETURN_ERR(err, E_GONE, ERR_DATA, "its stream takes no more events");
    if ((info.flags & LOG_STREAM_MOVED) == 0)
        return 0;
    TRY(log_moved_follow(q->log, text_of(f, e->stream), &name, err));
    e->stream = (struct queue_span){f->text.len, name.len};
    buf_add_slice(&f->text, buf_slice(&name));
out:
    buf_fini(&name);
    return rc;
}

/* What the log said of its stream before. */
static int
heed_verdict(struct queue *q, struct queue_flight *f, struct queue_item *it, struct err *err)
{
    const struct queue_verdict *v = verdict_of(q, text_of(f, it->event.stream));
    bool                        found = false;
    int                         rc = 0;

    if (v == NULL)
        return 0;
    if (it->event.has_id)
        TRY(queuei_find(q, text_of(f, it->event.stream), &it->event.id, &found, err));
    if (found)
        it->fate = QUEUEI_DUPLICATE;
    else if (v->park)
        FAIL(err, E_REJECTED, ERR_DATA, "%s", v->why);
out:
    return rc;
}

static int
decide(struct queue *q, struct queue_flight *f, const struct queue_message *m,
       struct queue_item *it, struct err *err)
{
    size_t     mark = f->text.len;
    struct err why;
    int        rc;

    *it = (struct queue_item){.fate = QUEUEI_APPEND};
    rc = queuei_message_event(&q->form, m, &f->text, &it->event, &why);
    if (it->event.has_id && queuei_window_has(&q->window, &it->event.id)) {
        it->fate = QUEUEI_DUPLICATE;
        rc = 0;
    }
    if (rc == 0 && it->fate == QUEUEI_APPEND)
        rc = settle_stream(q, f, &it->event, &why);
    if (rc == 0 && it->fate == QUEUEI_APPEND && q->verdict_count > 0)
        rc = heed_verdict(q, f, it, &why);
    if (rc != 0 && why.kind != ERR_DATA) {
        err_copy(err, &why);
        return rc;
    }
    must(f->text.len >= mark);
    must(it->fate != QUEUEI_DUPLICATE || it->event.has_id);
    if (it->fate == QUEUEI_DUPLICATE)
        f->text.len = mark;
    if (rc == 0)
        return 0;
    f->text.len = mark;
    it->fate = QUEUEI_PARK;
    return queuei_message_park(&q->form, m, why.text, &f->text, &it->event, err);
}

static int
decide_all(struct queue *q, struct queue_flight *f, const struct queue_message *messages,
           uint32_t count, struct err *err)
{
    int64_t now = q->env->ops->wall_us(q->env);
    int     rc = 0;

    must(count <= f->room);
    queuei_window_expire(&q->window, now);
    for (uint32_t i = 0; i < count; i++) {
        struct queue_item *it = &f->items[i];

        TRY(decide(q, f, &messages[i], it, err));
        f->appended += it->fate == QUEUEI_APPEND;
        f->duplicates += it->fate == QUEUEI_DUPLICATE;
        f->parked += it->fate == QUEUEI_PARK;
        f->redelivered += messages[i].redelivered;
        if (!it->event.has_id)
            f->without_id++;
        else if (it->fate != QUEUEI_DUPLICATE &&
                 !queuei_window_add(&q->window, &it->event.id, now,
                                    (uint64_t)(q->sent_version + 1)))
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the window");
    }
    must(f->appended + f->duplicates + f->parked == count);
    if (q->parked_count + q->parked_coming + f->parked > q->parked_max)
        FAIL(err, E_LIMIT, ERR_FATAL,
             "source %s: %u messages are parked: replay or drop them, then resume", q->form.name,
             q->parked_max);
out:
    return rc;
}

/* the commit */

static bool
make_room(struct queue_flight *f, uint32_t n)
{
    if (f->room < n) {
        free(f->items);
        f->items = calloc(n, sizeof f->items[0]);
        f->room = f->items == NULL ? 0 : n;
    }
    if (f->room < n || !writes_begin(&f->writes, n))
        return false;
    if (f->text.cap > TEXT_KEPT)
        buf_fini(&f->text);
    buf_clear(&f->text);
    return true;
}

void
queuei_flight_fini(struct queue_flight *f)
{
    writes_fini(&f->writes);
    free(f->items);
    buf_fini(&f->text);
    *f = (struct queue_flight){0};
}

/* A free flight with room for so many messages, empty. */
static struct queue_flight *
begin(struct queue *q, uint32_t count, struct err *err)
{
    struct queue_flight *f = &q->flights[(q->first_flight + q->flying) % QUEUEI_FLIGHTS];

    must(q->flying < QUEUEI_FLIGHTS);
    must(q->known);
    must(!q->failing);
    must(q->version <= q->sent_version);
    if (!make_room(f, count)) {
        (void)err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory for a batch");
        return NULL;
    }
    memset(&f->req, 0, sizeof f->req);
    f->queue = q;
    f->messages = f->appended = f->duplicates = f->parked = f->without_id = f->redelivered = 0;
    f->parked_write = UINT32_MAX;
    f->closes = false;
    f->call = NULL;
    f->sent = false;
    return f;
}

static struct log_new_event
event_of(const struct queue_flight *f, const struct queue_event *e)
{
    must(e->stream.at + e->stream.len <= f->text.len);
    must(e->data.at + e->data.len <= f->text.len);
    must(e->meta.at + e->meta.len <= f->text.len);
    return (struct log_new_event){.id = e->id,
                                  .type = text_of(f, e->type),
                                  .data = text_of(f, e->data),
                                  .meta = text_of(f, e->meta),
                                  .created_us = e->created_us,
                                  .flags = e->json ? (uint32_t)LOG_JSON : 0u};
}

/* The messages' events, in the queue's order. */
static void
lay_out(struct queue_flight *f, uint32_t count)
{
    const struct queue_item *it = f->items;
    uint32_t                 write;

    must(count <= f->room);
    for (uint32_t i = 0; i < count; i++) {
        if (it[i].fate == QUEUEI_DUPLICATE)
            continue;
        write = writes_add(&f->writes, text_of(f, it[i].event.stream));
        if (it[i].fate == QUEUEI_PARK)
            f->parked_write = write;
    }
    writes_lay_out(&f->writes);
    for (uint32_t i = 0; i < count; i++)
        if (it[i].fate != QUEUEI_DUPLICATE)
            *writes_next(&f->writes) = event_of(f, &it[i].event);
}

/* {"checkpoint":…, and what follows of it. */
static void
put_checkpoint(const struct queue *q, struct buf *text)
{
    buf_add_str(text, "{\"checkpoint\":");
    buf_add_slice(text, q->checkpoint.len == 0 ? slice_str("null") : buf_slice(&q->checkpoint));
}

/* … "messages":N,"ids":"…"}: 16 bytes each, of what this commit has. */
static void
put_ids(struct queue_flight *f, uint32_t count)
{
    uint8_t  some[48];
    uint32_t n = 0;

    buf_printf(&f->text, ",\"messages\":%u,\"ids\":\"", count);
    for (uint32_t i = 0; i < count; i++) {
        const struct queue_item *it = &f->items[i];

        if (it->fate == QUEUEI_DUPLICATE || !it->event.has_id)
            continue;
        memcpy(some + (size_t)16 * n, it->event.id.b, 16);
        if (++n == 3) {
            base64_encode(&f->text, slice_of(some, sizeof some));
            n = 0;
        }
    }
    base64_encode(&f->text, slice_of(some, (size_t)16 * n));
    buf_add_str(&f->text, "\"}");
}

/* What nobody has to read at a start is hidden, now and then. */
static void
add_truncation(struct queue *q, struct queue_flight *f, struct slice stream)
{
    uint64_t own = (uint64_t)(q->sent_version + 1), low = queuei_window_low(&q->window, own);

    must(low <= own);
    must(low >= q->truncated);
    if (low < q->truncated + TRUNCATE_EVERY && q->rest == QUEUEI_AWAKE)
        return;
    f->change = (struct log_change){
        .stream = stream, .expected = LOG_ANY, .what = LOG_SET_TRUNCATE, .truncate = low};
    f->req.changes = &f->change;
    f->req.change_count = 1;
    q->truncated = low;
}

static void
committed(struct log_req *req)
{
    struct queue_flight *f = req->arg;
    struct queue        *q = f->queue;

    must(!atomic_load(&f->done));
    env_tell(q->env, q->task, &f->done);
}

/* The last write is that of $source-NAME, whose text is the last thing in `text`. */
static void
send(struct queue *q, struct queue_flight *f, size_t name_at, size_t data_at)
{
    struct slice stream = slice_of(f->text.data + name_at, data_at - name_at);

    must(data_at > name_at);
    must(f->text.len > data_at);
    must(!f->text.failed);
    writes_end(
        &f->writes, stream, q->sent_version,
        &(struct log_new_event){.type = slice_str("$checkpoint"),
                                .data = slice_of(f->text.data + data_at, f->text.len - data_at),
                                .flags = LOG_JSON},
        &f->req);
    add_truncation(q, f, stream);
    f->req.flags = f->writes.made == 0 ? LOG_SYSTEM | LOG_QUIET : LOG_SYSTEM;
    f->req.done = committed;
    f->req.arg = f;
    f->sent = true;
    atomic_store(&f->done, false);
    q->sent_version++;
    q->parked_coming += f->parked;
    q->flying++;
    log_submit(q->log, &f->req);
}

/* Whether the commit moves the place in the queue; that is noted then. */
static bool
move_checkpoint(struct queue *q, struct slice checkpoint)
{
    must(checkpoint.len <= QUEUE_CHECKPOINT_MAX);
    if (checkpoint.len == 0 || slice_eq(checkpoint, buf_slice(&q->checkpoint)))
        return false;
    buf_clear(&q->checkpoint);
    buf_add_slice(&q->checkpoint, checkpoint);
    return true;
}

int
queuei_commit(struct queue *q, const struct queue_message *messages, uint32_t count,
              struct slice checkpoint, struct err *err)
{
    struct queue_flight *f = begin(q, count, err);
    size_t               name_at, data_at;
    bool                 moved;
    int                  rc = 0;

    if (f == NULL)
        return err->code;
    TRY(decide_all(q, f, messages, count, err));
    must(count == 0 || messages[count - 1].tag == messages[0].tag + (count - 1));
    f->messages = count;
    f->tag = count == 0 ? 0 : messages[count - 1].tag;
    moved = move_checkpoint(q, checkpoint);
    if (f->appended + f->parked == 0 && !moved) {
        /* All stand before it in the log, or in commits that are under way. */
        must(count > 0);
        atomic_store(&f->done, true);
        q->flying++;
        return 0;
    }
    name_at = f->text.len;
    buf_printf(&f->text, "$source-%s", q->form.name);
    data_at = f->text.len;
    put_checkpoint(q, &f->text);
    put_ids(f, count);
    if (f->text.failed || q->checkpoint.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    lay_out(f, count);
    must(f->writes.made == f->appended + f->parked);
    send(q, f, name_at, data_at);
out:
    return rc;
}

int
queuei_commit_state(struct queue *q, const char *state, struct queue_call *call, struct err *err)
{
    struct queue_flight *f = begin(q, 0, err);
    size_t               name_at = 0, data_at;

    if (f == NULL)
        return err->code;
    buf_printf(&f->text, "$source-%s", q->form.name);
    data_at = f->text.len;
    put_checkpoint(q, &f->text);
    buf_printf(&f->text, ",\"state\":\"%s\"}", state);
    if (f->text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a mark");
    f->call = call;
    send(q, f, name_at, data_at);
    return 0;
}

/* The record that closes another; it is the flight's second item. */
static void
put_closed(struct queue *q, struct queue_flight *f, uint64_t version, const char *how,
           struct queue_event *e)
{
    struct json_out o;

    *e = (struct queue_event){.json = true};
    e->stream.at = f->text.len;
    buf_printf(&f->text, "$parked-source-%s", q->form.name);
    e->stream.len = f->text.len - e->stream.at;
    e->type.at = f->text.len;
    buf_add_str(&f->text, "Unparked");
    e->type.len = f->text.len - e->type.at;
    e->data.at = f->text.len;
    json_out_init(&o, &f->text);
    json_out_object(&o);
    json_out_key(&o, "version");
    json_out_u64(&o, version);
    json_out_key(&o, "how");
    json_out_str(&o, how);
    json_out_object_end(&o);
    e->data.len = f->text.len - e->data.at;
}

int
queuei_commit_closed(struct queue *q, uint64_t version, const struct queue_message *m,
                     struct err *err)
{
    uint32_t             count = m == NULL ? 1 : 2;
    struct queue_flight *f = begin(q, count, err);
    size_t               name_at, data_at;
    int                  rc = 0;

    if (f == NULL)
        return err->code;
    if (m != NULL) {
        f->items[1] = (struct queue_item){.fate = QUEUEI_APPEND};
        TRY(queuei_message_event(&q->form, m, &f->text, &f->items[1].event, err));
        TRY(settle_stream(q, f, &f->items[1].event, err));
        f->appended = 1;
    }
    f->items[0] = (struct queue_item){.fate = QUEUEI_APPEND};
    put_closed(q, f, version, m == NULL ? "dropped" : "replayed", &f->items[0].event);
    name_at = f->text.len;
    buf_printf(&f->text, "$source-%s", q->form.name);
    data_at = f->text.len;
    put_checkpoint(q, &f->text);
    buf_add_byte(&f->text, '}');
    if (f->text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a parked message");
    lay_out(f, count);
    must(f->writes.made == count);
    f->closes = true;
    f->closed = version;
    send(q, f, name_at, data_at);
out:
    return rc;
}
