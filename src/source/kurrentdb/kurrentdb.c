/*
 * The source kurrentdb: one subscription to $all, from the checkpoint on, whose events become
 * changes as they are. What a crash or a lost connection leaves is the checkpoint of the last
 * batch that is durable; the next subscription goes on after it.
 */
#include "source/kurrentdb/kurrentdb.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "source/kurrentdb/kurrentdb_int.h"

#define BATCH_MAX 1000u
#define BATCH_BYTES ((size_t)8 << 20)
#define ANSWER_MS 5000u

/* Of an event in `bytes`, which moves while it grows. */
struct held {
    size_t   at; /* stream, type, data, meta, position: one after the other */
    size_t   stream, type, data, meta, position;
    uint64_t name_hash, changed_hash; /* changed: the stream whose state it changes; 0: none */
};

struct kurrentdb {
    struct source           source;
    struct kurrentdbi_where where;
    struct kurrentdbi_host  node;
    char                   *include[KURRENTDBI_PREFIXES_MAX], *exclude[KURRENTDBI_PREFIXES_MAX];
    unsigned                include_count, exclude_count;

    struct net_grpc *grpc; /* NULL: not connected */
    bool             caught_up, begun;
    /* After which place the next batch begins; and the last event before it. */
    struct kurrentdbi_pos pos, last;
    struct ox_id          last_id;
    uint64_t              taken;
    int64_t               last_created_us;

    struct buf          message; /* an event that waits for the next batch; empty: none */
    struct buf          request, bytes, checkpoint;
    struct held         held[BATCH_MAX];
    struct change       changes[BATCH_MAX];
    struct change_event events[BATCH_MAX];
    uint32_t            count;
};

static const struct conf_type  prefix_type = {.kind = CONF_STRING, .min = 1, .max = 255};
static const struct conf_field fields[] = {
    {.name = "connection",
     .type = {.kind = CONF_SECRET, .min = 1, .max = 4000},
     .required = true,
     .doc = "as the clients have it: kurrentdb://USER:PASSWORD@HOST:PORT?tls=true, esdb://…"},
    {.name = "user", .type = {.kind = CONF_STRING, .min = 1, .max = 255}, .doc = "who Oxbow is"},
    {.name = "password", .type = {.kind = CONF_SECRET, .max = 1000}, .doc = "of `user`"},
    {.name = "ca_file",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .doc = "certificates to trust instead of the system's"},
    {.name = "cert_file",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .doc = "Oxbow's own certificate, where the server asks for one"},
    {.name = "key_file", .type = {.kind = CONF_PATH, .min = 1, .max = 3000}, .doc = "its key"},
    {.name = "include",
     .type = {.kind = CONF_LIST, .max = KURRENTDBI_PREFIXES_MAX, .of = &prefix_type},
     .preset = "[]",
     .doc = "only streams whose names begin so; none: all"},
    {.name = "exclude",
     .type = {.kind = CONF_LIST, .max = KURRENTDBI_PREFIXES_MAX, .of = &prefix_type},
     .preset = "[]",
     .doc = "not the streams whose names begin so"},
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct kurrentdb *
self(struct source *source)
{
    return (struct kurrentdb *)source;
}

static void
disconnect(struct kurrentdb *k)
{
    net_grpc_close(k->grpc);
    k->grpc = NULL;
    k->caught_up = false;
    buf_clear(&k->message);
}

/* opening */

static void
close_source(struct source *source)
{
    struct kurrentdb *k = self(source);

    disconnect(k);
    kurrentdbi_where_fini(&k->where);
    for (unsigned i = 0; i < k->include_count; i++)
        free(k->include[i]);
    for (unsigned i = 0; i < k->exclude_count; i++)
        free(k->exclude[i]);
    buf_fini(&k->message);
    buf_fini(&k->request);
    buf_fini(&k->bytes);
    buf_fini(&k->checkpoint);
}

static int
replace(char **to, const char *text, struct err *err)
{
    if (text == NULL)
        return 0;
    free(*to);
    *to = strdup(text);
    if (*to == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    return 0;
}

static int
copy_prefixes(const struct conf *list, char **to, unsigned *count, struct err *err)
{
    int rc = 0;

    for (const struct conf *p = conf_first(list); p != NULL && rc == 0; p = conf_next(p)) {
        rc = replace(&to[*count], conf_text(p), err);
        *count += rc == 0;
    }
    return rc;
}

static int
open_source(struct source *source, const struct conf *conf, struct err *err)
{
    struct kurrentdb *k = self(source);
    struct err        why;
    int               rc = 0;

    if (kurrentdbi_parse(slice_str(conf_str(conf, "connection")), &k->where, &why) != 0)
        TRY(conf_fail(conf, err, "%s", why.text));
    TRY(replace(&k->where.user, conf_str(conf, "user"), err));
    TRY(replace(&k->where.password, conf_str(conf, "password"), err));
    TRY(replace(&k->where.ca_file, conf_str(conf, "ca_file"), err));
    TRY(replace(&k->where.cert_file, conf_str(conf, "cert_file"), err));
    TRY(replace(&k->where.key_file, conf_str(conf, "key_file"), err));
    if ((k->where.cert_file == NULL) != (k->where.key_file == NULL))
        TRY(conf_fail(conf, err, "a certificate needs its key: cert_file and key_file"));
    TRY(copy_prefixes(conf_child(conf, "include"), k->include, &k->include_count, err));
    TRY(copy_prefixes(conf_child(conf, "exclude"), k->exclude, &k->exclude_count, err));
out:
    if (rc != 0)
        close_source(source);
    return rc;
}

/* checkpoints: {"commit":N,"prepare":N,"events":N,"last":{"commit":N,"prepare":N,"id":"…"}} */

static void
put_pos(struct json_out *o, const struct kurrentdbi_pos *pos)
{
    json_out_key(o, "commit");
    json_out_u64(o, pos->commit);
    json_out_key(o, "prepare");
    json_out_u64(o, pos->prepare);
}

static int
put_checkpoint(struct kurrentdb *k, struct err *err)
{
    struct json_out o;
    char            id[ID_TEXT_LEN + 1];

    buf_clear(&k->checkpoint);
    json_out_init(&o, &k->checkpoint);
    json_out_object(&o);
    put_pos(&o, &k->pos);
    json_out_key(&o, "events");
    json_out_u64(&o, k->taken);
    if (!id_is_zero(&k->last_id)) {
        id_format(&k->last_id, id);
        json_out_key(&o, "last");
        json_out_object(&o);
        put_pos(&o, &k->last);
        json_out_key(&o, "id");
        json_out_str(&o, id);
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    if (k->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    return 0;
}

static bool
get_number(struct slice object, const char *key, uint64_t *out)
{
    struct slice raw;

    return json_get(object, key, &raw) && json_uint64(raw, out);
}

static bool
get_last(struct kurrentdb *k, struct slice checkpoint)
{
    struct slice last, id;

    if (!json_get(checkpoint, "last", &last))
        return true;
    return get_number(last, "commit", &k->last.commit) &&
           get_number(last, "prepare", &k->last.prepare) && json_get(last, "id", &id) &&
           id.len == ID_TEXT_LEN + 2 &&
           id_parse(slice_of((const char *)id.data + 1, ID_TEXT_LEN), &k->last_id);
}

static int
start(struct source *source, struct slice checkpoint, struct err *err)
{
    struct kurrentdb *k = self(source);

    disconnect(k);
    k->begun = checkpoint.len > 0;
    k->pos = k->last = (struct kurrentdbi_pos){0};
    k->last_id = (struct ox_id){{0}};
    k->taken = 0;
    if (k->begun && (!get_number(checkpoint, "commit", &k->pos.commit) ||
                     !get_number(checkpoint, "prepare", &k->pos.prepare) ||
                     !get_number(checkpoint, "events", &k->taken) || !get_last(k, checkpoint)))
        RETURN_ERR(err, E_SCHEMA, ERR_FATAL, "the checkpoint is not one of a source kurrentdb");
    return 0;
}

/* connecting */

/* The one message of a call; an empty one where there is none. */
static int
ask_once(struct kurrentdb *k, const char *path, struct slice request, struct slice *message,
         struct err *err)
{
    int rc;

    *message = (struct slice){0};
    TRY(net_grpc_call(k->grpc, path, request, err));
    rc = net_grpc_next(k->grpc, ANSWER_MS, message, err);
    if (rc == E_MORE)
        FAIL(err, E_TIMEOUT, ERR_RETRY, "%s: no answer in %u s", k->node.name, ANSWER_MS / 1000);
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* What stands at the last event's place is that event, or gone: else it is another database. */
static int
check_same(struct kurrentdb *k, struct err *err)
{
    struct kurrentdbi_answer a = {0};
    struct slice             message;
    int                      rc = 0;

    if (id_is_zero(&k->last_id))
        return 0;
    buf_clear(&k->request);
    kurrentdbi_put_read_one(&k->request, &k->last);
    TRY(ask_once(k, KURRENTDBI_READ, buf_slice(&k->request), &message, err));
    if (message.len > 0 && kurrentdbi_read_answer(message, &a) && a.kind == KURRENTDBI_EVENT &&
        a.pos.commit == k->last.commit && a.pos.prepare == k->last.prepare &&
        !id_eq(&a.event.id, &k->last_id))
        FAIL(err, E_GONE, ERR_FATAL,
             "%s:%u: gap: another event stands where the last one was read (%" PRIu64
             "): this is another database, or one restored from an older backup",
             k->node.name, k->node.port, k->last.commit);
out:
    return rc;
}

static int
subscribe(struct kurrentdb *k, struct err *err)
{
    int rc = 0;

    TRY(kurrentdbi_connect(k->source.env, &k->where, &k->grpc, &k->node, err));
    TRY(check_same(k, err));
    buf_clear(&k->request);
    kurrentdbi_put_subscribe(&k->request, k->begun ? &k->pos : NULL);
    if (k->request.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a request");
    TRY(net_grpc_call(k->grpc, KURRENTDBI_READ, buf_slice(&k->request), err));
out:
    return rc;
}

/* batches */

static uint64_t
hash(struct slice name)
{
    uint64_t h = 1469598103934665603u;

    for (size_t i = 0; i < name.len; i++)
        h = (h ^ ((const uint8_t *)name.data)[i]) * 1099511628211u;
    return h | 1;
}

static bool
begins(struct slice name, char *const *prefixes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (slice_starts(name, slice_str(prefixes[i])))
            return true;
    return false;
}

/* Users' streams and their metadata, as far as they are wanted. */
static bool
wanted(const struct kurrentdb *k, struct slice stream)
{
    struct slice dollars = slice_str("$$");
    struct slice name = stream;

    if (slice_starts(name, dollars))
        name = slice_of((const char *)name.data + 2, name.len - 2);
    if (name.len == 0 || *(const char *)name.data == '$')
        return false;
    return (k->include_count == 0 || begins(name, k->include, k->include_count)) &&
           !begins(name, k->exclude, k->exclude_count);
}

static uint64_t
changed_by(const struct change_event *e)
{
    if (e->tombstone)
        return hash(e->stream);
    if (!slice_starts(e->stream, slice_str("$$")) || !slice_is(e->type, "$metadata"))
        return 0;
    return hash(slice_of((const char *)e->stream.data + 2, e->stream.len - 2));
}

/* Whether the event may stand in this batch (source.h, CHANGE_EVENT). */
static bool
fits(const struct kurrentdb *k, const struct change_event *e, size_t bytes)
{
    uint64_t name = hash(e->stream), changed = changed_by(e);

    if (k->count == 0)
        return true;
    if (k->bytes.len + bytes > BATCH_BYTES)
        return false;
    for (uint32_t i = k->count; i-- > 0;) {
        const struct held *h = &k->held[i];

        if (h->changed_hash != 0 && (h->changed_hash == name || h->changed_hash == changed))
            return false;
        if (h->name_hash == name && !e->tombstone)
            return k->events[i].version + 1 == e->version;
    }
    return true;
}

static void
add(struct kurrentdb *k, const struct kurrentdbi_answer *a)
{
    const struct change_event *e = &a->event;
    struct held               *h = &k->held[k->count];

    *h = (struct held){.at = k->bytes.len,
                       .stream = e->stream.len,
                       .type = e->type.len,
                       .data = e->data.len,
                       .meta = e->meta.len,
                       .name_hash = hash(e->stream),
                       .changed_hash = changed_by(e)};
    buf_add_slice(&k->bytes, e->stream);
    buf_add_slice(&k->bytes, e->type);
    buf_add_slice(&k->bytes, e->data);
    buf_add_slice(&k->bytes, e->meta);
    h->position = k->bytes.len;
    buf_printf(&k->bytes, "%" PRIu64 "/%" PRIu64, a->pos.commit, a->pos.prepare);
    h->position = k->bytes.len - h->position;
    k->events[k->count] = *e;
    k->changes[k->count] = (struct change){
        .op = CHANGE_EVENT, .time_us = a->created_us, .event = &k->events[k->count]};
    k->count++;
}

static struct slice
next_part(const struct kurrentdb *k, size_t *at, size_t len)
{
    struct slice part = slice_of(k->bytes.data + *at, len);

    *at += len;
    return part;
}

/* Slices into the bytes, which have stopped growing. */
static int
give(struct kurrentdb *k, struct source_batch *batch, struct err *err)
{
    if (k->bytes.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a batch");
    for (uint32_t i = 0; i < k->count; i++) {
        const struct held *h = &k->held[i];
        size_t             at = h->at;

        k->events[i].stream = next_part(k, &at, h->stream);
        k->events[i].type = next_part(k, &at, h->type);
        k->events[i].data = next_part(k, &at, h->data);
        k->events[i].meta = next_part(k, &at, h->meta);
        k->changes[i].position = next_part(k, &at, h->position);
    }
    batch->changes = k->changes;
    batch->count = k->count;
    if (!k->begun)
        return 0;
    if (put_checkpoint(k, err) != 0)
        return err->code;
    batch->checkpoint = buf_slice(&k->checkpoint);
    return 0;
}

/* One message of the subscription. *full: it is for the next batch. */
static int
take(struct kurrentdb *k, struct slice message, uint32_t max, bool *full, struct err *err)
{
    struct kurrentdbi_answer a;

    *full = false;
    if (!kurrentdbi_read_answer(message, &a))
        RETURN_ERR(err, E_SCHEMA, ERR_RETRY, "%s:%u: a message that is malformed", k->node.name,
                   k->node.port);
    switch (a.kind) {
    case KURRENTDBI_CAUGHT_UP:
    case KURRENTDBI_FELL_BEHIND:
        k->caught_up = a.kind == KURRENTDBI_CAUGHT_UP;
        return 0;
    case KURRENTDBI_EVENT:
        if (!wanted(k, a.event.stream))
            break;
        *full = k->count == max ||
                !fits(k, &a.event, a.event.data.len + a.event.meta.len + a.event.stream.len);
        if (*full)
            return 0;
        add(k, &a);
        k->taken++;
        k->last = a.pos;
        k->last_id = a.event.id;
        k->last_created_us = a.created_us;
        break;
    case KURRENTDBI_PLACE:
        break;
    default:
        return 0;
    }
    k->pos = a.pos;
    k->begun = true;
    return 0;
}

/* Waits for the first message, then takes what is there. */
static int
collect(struct kurrentdb *k, uint32_t max, uint32_t wait_ms, bool *idle, struct err *err)
{
    struct slice message;
    bool         full = false;
    int          rc = 0;

    *idle = false;
    if (k->grpc == NULL)
        TRY(subscribe(k, err));
    if (k->message.len > 0) {
        TRY(take(k, buf_slice(&k->message), max, &full, err));
        must(!full);
        buf_clear(&k->message);
    }
    while (!full) {
        rc = net_grpc_next(k->grpc, k->count == 0 ? wait_ms : 0, &message, err);
        if (rc == E_MORE) {
            *idle = true;
            return 0;
        }
        if (rc == E_END)
            FAIL(err, E_CLOSED, ERR_RETRY, "%s:%u: the subscription ended", k->node.name,
                 k->node.port);
        TRY(rc);
        TRY(take(k, message, max, &full, err));
    }
    buf_add_slice(&k->message, message);
    if (k->message.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for an event");
out:
    return rc;
}

static int
poll_source(struct source *source, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct kurrentdb *k = self(source);
    bool              idle;
    int               rc;

    k->count = 0;
    buf_clear(&k->bytes);
    rc = collect(k, max < BATCH_MAX ? max : BATCH_MAX, wait_ms, &idle, err);
    if (rc != 0) {
        disconnect(k);
        /* What came before it is whole; the failure comes again with the next poll. */
        if (k->count == 0)
            return rc;
    }
    batch->caught_up = rc == 0 && idle && k->caught_up;
    return give(k, batch, err);
}

static int
confirm(struct source *source, struct slice checkpoint, struct err *err)
{
    (void)source;
    (void)checkpoint;
    (void)err;
    return 0; /* the far side keeps nothing for us */
}

static int
status(struct source *source, struct buf *out, struct err *err)
{
    struct kurrentdb *k = self(source);
    struct json_out   o;

    json_out_init(&o, out);
    json_out_object(&o);
    if (k->grpc != NULL) {
        json_out_key(&o, "node");
        json_out_str(&o, k->node.name);
        json_out_key(&o, "port");
        json_out_u64(&o, k->node.port);
    }
    json_out_key(&o, "connected");
    json_out_bool(&o, k->grpc != NULL);
    put_pos(&o, &k->pos);
    json_out_key(&o, "events");
    json_out_u64(&o, k->taken);
    json_out_key(&o, "caught_up");
    json_out_bool(&o, k->caught_up);
    if (k->last_created_us != 0) {
        json_out_key(&o, "last_created_us");
        json_out_i64(&o, k->last_created_us);
    }
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a status");
    return 0;
}

/* Reads one event: whoever may not read $all is told so. */
static int
check(struct source *source, finding_fn *report, void *arg, struct err *err)
{
    static const struct kurrentdbi_pos first = {0, 0};
    struct kurrentdb                  *k = self(source);
    struct slice                       message, version;
    char                               text[400];
    int                                rc = 0;

    disconnect(k);
    TRY(kurrentdbi_connect(source->env, &k->where, &k->grpc, &k->node, err));
    rc = ask_once(k, KURRENTDBI_FEATURES, slice_str(""), &message, err);
    version = rc == 0 ? kurrentdbi_read_version(message) : slice_str("unknown");
    if (rc != 0 && err->code != E_REJECTED)
        goto out;
    (void)snprintf(text, sizeof text, "%s:%u answers, version %.*s", k->node.name, k->node.port,
                   version.len > 32 ? 32 : (int)version.len, (const char *)version.data);
    report(arg, FINDING_OK, text);
    buf_clear(&k->request);
    kurrentdbi_put_read_one(&k->request, &first);
    rc = ask_once(k, KURRENTDBI_READ, buf_slice(&k->request), &message, err);
    if (rc == E_AUTH) {
        report(arg, FINDING_MISSING,
               "$all may not be read: give `user` a member of $admins, or let $all be read by it");
        rc = 0;
        goto out;
    }
    TRY(rc);
    report(arg, FINDING_OK, "$all can be read");
out:
    disconnect(k);
    return rc;
}

static int
prepare(struct source *source, bool dry_run, finding_fn *report, void *arg, struct err *err)
{
    (void)source;
    (void)dry_run;
    (void)err;
    report(arg, FINDING_OK, "the far side needs nothing set up");
    return 0;
}

static int
unprepare(struct source *source, finding_fn *report, void *arg, struct err *err)
{
    return prepare(source, false, report, arg, err);
}

const struct source_ops source_kurrentdb_ops = {
    .name = "kurrentdb",
    .size = sizeof(struct kurrentdb),
    .schema = &schema,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};
