/*
 * The sink `nats`. A message is published with a reply subject of its own below one inbox; what
 * arrives there is JetStream's answer: stored (or known already by its Nats-Msg-Id), or why not.
 * The library's thread puts the answers into a mailbox, which poll empties. (Its synchronous
 * subscription does not say which message found no stream.)
 *
 * The library's reconnecting is off: a lost connection decides all that was in flight as unsure,
 * and the next message makes a new one.
 */
#include "sink/nats/nats.h"

#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/conf.h"
#include "base/json.h"
#include "broker/nats.h"
#include "sink/broker.h"

#define SUBJECT_MAX 4096
#define SAID_MAX 200
#define HEADER_TOO_LARGE 10097 /* an err_code that this library does not name */

/* Answers; more are dropped, and their messages sent again. */
#define MAIL_MAX (2 * SINK_SLOTS_TAGGED_MAX)

/* Outlives the connection until the library has let go of it. */
struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t  filled;
    unsigned        refs;
    bool            closed; /* the connection is lost, or was given up */
    uint32_t        count;
    natsMsg        *mail[MAIL_MAX];
};

enum way { SUBJECT, MESSAGE_ID };

struct nats_sink {
    struct sink        base;
    const struct conf *conf;
    natsOptions       *options;
    natsConnection    *conn;
    natsSubscription  *acks;
    struct mailbox    *mailbox;
    natsInbox         *inbox;
    struct sink_broker out;
    bool               own_id; /* of the configuration */
    struct buf         id, reply;
    uint64_t           next_tag;
    natsMsg           *taken[MAIL_MAX];
};

static const struct conf_field fields[] = {
    BROKER_NATS_FIELDS,
    {.name = "subject",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .required = true,
     .doc = "with placeholders, percent-encoded but for dots"},
    {.name = "message_id",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .doc = "Nats-Msg-Id, by which JetStream knows what it has already; {id}-{position} when not "
            "given, or {id} where moved: skip gives each event once"},
    SINK_FORM_FIELDS,
    {.name = "in_flight",
     .type = {.kind = CONF_INT, .min = 1, .max = SINK_SLOTS_TAGGED_MAX},
     .preset = "256",
     .doc = "messages at a time, each of another stream"},
    {.name = "timeout",
     .type = {.kind = CONF_DURATION, .min = 10000, .max = 600000000},
     .preset = "10s",
     .doc = "to wait for JetStream's answer to a message; a new leader takes seconds"},
    {.name = "message_max",
     .type = {.kind = CONF_SIZE, .min = 1024, .max = 64 << 20},
     .preset = "1MiB",
     .doc = "a larger message is parked; the server's own limit holds too"},
    {.name = NULL},
};
static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct nats_sink *
mine(struct sink *s)
{
    return (struct nats_sink *)s;
}

/* the mailbox */

static struct mailbox *
mailbox_new(void)
{
    struct mailbox    *m = calloc(1, sizeof *m);
    pthread_condattr_t attr;

    if (m == NULL)
        return NULL;
    m->refs = 1;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&m->filled, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void
mailbox_drop(struct mailbox *m)
{
    bool last;

    if (m == NULL)
        return;
    (void)pthread_mutex_lock(&m->lock);
    last = --m->refs == 0;
    (void)pthread_mutex_unlock(&m->lock);
    if (!last)
        return;
    for (uint32_t i = 0; i < m->count; i++)
        natsMsg_Destroy(m->mail[i]);
    (void)pthread_cond_destroy(&m->filled);
    (void)pthread_mutex_destroy(&m->lock);
    free(m);
}

/* The three on threads of the library's. */

static void
on_answer(natsConnection *conn, natsSubscription *sub, natsMsg *msg, void *arg)
{
    struct mailbox *m = arg;

    (void)pthread_mutex_lock(&m->lock);
    if (!m->closed && m->count < MAIL_MAX) {
        m->mail[m->count++] = msg;
        msg = NULL;
    }
    (void)pthread_cond_signal(&m->filled);
    (void)pthread_mutex_unlock(&m->lock);
    natsMsg_Destroy(msg);
}

static void
on_complete(void *arg)
{
    struct mailbox *m = arg;

    (void)pthread_mutex_lock(&m->lock);
    m->closed = true;
    (void)pthread_cond_signal(&m->filled);
    (void)pthread_mutex_unlock(&m->lock);
    mailbox_drop(m);
}

/* Empties it into `out`; false: the connection is gone, and nothing more comes. */
static bool
mailbox_take(struct mailbox *m, uint32_t wait_ms, natsMsg **out, uint32_t *count)
{
    struct timespec until;
    bool            open;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    (void)pthread_mutex_lock(&m->lock);
    while (m->count == 0 && !m->closed && wait_ms > 0)
        if (pthread_cond_timedwait(&m->filled, &m->lock, &until) != 0)
            break;
    *count = m->count;
    memcpy(out, m->mail, m->count * sizeof *out);
    m->count = 0;
    open = !m->closed;
    (void)pthread_mutex_unlock(&m->lock);
    return open;
}

/* opening */

static int
set_options(struct nats_sink *s, struct err *err)
{
    char who[128];

    (void)snprintf(who, sizeof who, "sink %s", s->base.instance);
    return broker_nats_options(s->conf, who, s->out.timeout_us, &s->options, err);
}

static void
disconnect(struct nats_sink *s)
{
    natsSubscription_Destroy(s->acks);
    natsConnection_Destroy(s->conn);
    natsInbox_Destroy(s->inbox);
    mailbox_drop(s->mailbox);
    s->mailbox = NULL;
    s->acks = NULL;
    s->conn = NULL;
    s->inbox = NULL;
}

static void
close_sink(struct sink *base)
{
    struct nats_sink *s = mine(base);

    disconnect(s);
    natsOptions_Destroy(s->options);
    sink_broker_close(&s->out);
    buf_fini(&s->id);
    buf_fini(&s->reply);
}

static int
open_sink(struct sink *base, const struct conf *conf, struct err *err)
{
    struct nats_sink                   *s = mine(base);
    static const struct sink_broker_def def = {.binding = SINK_NATS,
                                               .kind = TEMPLATE_URL,
                                               .ways = {"subject", "message_id"},
                                               .presets = {NULL, "{id}"}};
    int                                 rc;

    s->own_id = conf_has(conf, "message_id");
    s->conf = conf;
    TRY(sink_broker_open(&s->out, base, conf, &def, err));
    rc = set_options(s, err);
out:
    if (rc != 0)
        close_sink(base);
    return rc;
}

/* connecting */

static int
try_connect(struct sink *base, struct err *err)
{
    struct nats_sink *s = mine(base);
    char              all[128];
    natsStatus        st = natsConnection_Connect(&s->conn, s->options);

    if (st == NATS_OK)
        st = natsInbox_Create(&s->inbox);
    if (st == NATS_OK && (s->mailbox = mailbox_new()) == NULL)
        st = NATS_NO_MEMORY;
    if (st == NATS_OK) {
        (void)snprintf(all, sizeof all, "%s.*", s->inbox);
        st = natsConnection_Subscribe(&s->acks, s->conn, all, on_answer, s->mailbox);
    }
    if (st == NATS_OK) {
        s->mailbox->refs++; /* nothing was published: on_answer does not look at it */
        st = natsSubscription_SetOnCompleteCB(s->acks, on_complete, s->mailbox);
    }
    if (st == NATS_OK)
        return 0;
    disconnect(s);
    RETURN_ERR(err, st == NATS_CONNECTION_AUTH_FAILED ? E_AUTH : E_CONNECT, ERR_RETRY,
               "no connection to NATS: %s", natsStatus_GetText(st));
}

static int
need_connection(struct nats_sink *s, struct err *err)
{
    /* Nobody looks at it while nothing is in flight; else poll does, and decides about the others.
     */
    if (s->conn != NULL && sink_slots_flying(&s->out.slots) == 1 &&
        natsConnection_IsClosed(s->conn))
        disconnect(s);
    return s->conn != NULL ? 0 : sink_broker_connect(&s->out, try_connect, err);
}

static void
lose_connection(struct nats_sink *s, const char *why)
{
    struct err err;

    disconnect(s);
    (void)err_set(&err, __FILE__, __LINE__, E_REMOTE, ERR_UNSURE,
                  "NATS: %s; whether it was stored is not known", why);
    sink_slots_end_all(&s->out.slots, &err);
}

/* sending */

static int
check_subject(struct slice subject, struct err *err)
{
    const char *p = subject.data;

    if (subject.len == 0 || subject.len > SUBJECT_MAX || p[0] == '.' || p[subject.len - 1] == '.' ||
        memmem(p, subject.len, "..", 2) != NULL)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "the event makes a subject with an empty part, or one that is too long");
    return 0;
}

/* A header whose value is empty would be dropped: it is left out. */
static natsStatus
put_headers(struct nats_sink *s, natsMsg *msg, const struct sink_message *m)
{
    natsStatus st = natsMsgHeader_Set(msg, "Nats-Msg-Id", (const char *)s->id.data);

    for (uint32_t i = 0; st == NATS_OK && i < m->count; i++)
        if (m->headers[i].value.len > 0)
            st = natsMsgHeader_Set(msg, m->headers[i].name, m->headers[i].value.data);
    if (st == NATS_OK && m->content_type != NULL)
        st = natsMsgHeader_Set(msg, "Content-Type", m->content_type);
    return st;
}

static int
fill(struct nats_sink *s, const struct sink_item *item, struct err *err)
{
    int rc;

    TRY(sink_broker_ways(&s->out, item, err));
    TRY(check_subject(sink_broker_way(&s->out, SUBJECT), err));
    buf_clear(&s->id);
    buf_add_slice(&s->id, sink_broker_way(&s->out, MESSAGE_ID));
    if (!s->own_id && !s->base.once) /* an event and its copy have one id, and are two messages */
        buf_printf(&s->id, "-%llu", (unsigned long long)item->pos.v);
    if (item->run > 0) /* JetStream must not take a replay for what it has */
        buf_printf(&s->id, "-r%u", item->run);
    buf_add_byte(&s->id, 0);
    if (s->id.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    rc = sink_broker_message(&s->out, item, err);
out:
    return rc;
}

static int
publish(struct nats_sink *s, struct sink_slot *slot, struct err *err)
{
    natsMsg   *msg = NULL;
    natsStatus st;
    int        rc = 0;

    slot->tag = s->next_tag++;
    slot->due_us = sink_now_us(&s->base) + s->out.timeout_us;
    buf_clear(&s->reply);
    buf_printf(&s->reply, "%s.%llu-%u", s->inbox, (unsigned long long)slot->tag,
               (unsigned)(slot - s->out.slots.slot));
    buf_add_byte(&s->reply, 0);
    if (s->reply.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    st = natsMsg_Create(&msg, sink_broker_text(&s->out, SUBJECT), (const char *)s->reply.data,
                        s->out.message.body.data, (int)s->out.message.body.len);
    if (st == NATS_OK)
        st = put_headers(s, msg, &s->out.message);
    if (st == NATS_OK)
        st = natsConnection_PublishMsg(s->conn, msg);
    if (st == NATS_MAX_PAYLOAD)
        FAIL(err, E_LIMIT, ERR_DATA, "the message is larger than the server takes");
    if (st != NATS_OK)
        FAIL(err, E_REMOTE, st == NATS_CONNECTION_CLOSED ? ERR_RETRY : ERR_UNSURE, "NATS: %s",
             natsStatus_GetText(st));
out:
    natsMsg_Destroy(msg);
    return rc;
}

static int
give(struct sink *base, struct sink_slot *slot, struct err *err)
{
    struct nats_sink *s = mine(base);
    int               rc;

    TRY(fill(s, slot->item, err));
    TRY(need_connection(s, err));
    rc = publish(s, slot, err);
out:
    return rc;
}

static int
submit(struct sink *base, struct sink_item *item, struct err *err)
{
    return sink_broker_submit(&mine(base)->out, item, give);
}

/* answers */

/* JetStream's words are the server's own: they hold nothing of the event. */
static int
read_refusal(struct slice error, struct err *err)
{
    struct slice  raw;
    struct buf    said = {0};
    uint64_t      code = 0;
    enum err_kind kind = ERR_RETRY;

    if (json_get(error, "err_code", &raw))
        (void)json_uint64(raw, &code);
    if (code == JSStreamMessageExceedsMaximumErr || code == HEADER_TOO_LARGE)
        kind = ERR_DATA;
    buf_init(&said, SAID_MAX);
    if (json_get(error, "description", &raw) && json_type(raw) == JSON_STRING)
        (void)json_string_decode(raw, &said, err);
    (void)err_set(err, __FILE__, __LINE__, kind == ERR_DATA ? E_REJECTED : E_REMOTE, kind,
                  "JetStream refuses it (%llu): %.*s", (unsigned long long)code,
                  SLICE_FMT(buf_slice(&said)));
    buf_fini(&said);
    return err->code;
}

static int
read_answer(natsMsg *msg, struct err *err)
{
    struct slice body = slice_of(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg));
    struct slice raw;

    if (natsMsg_IsNoResponders(msg))
        RETURN_ERR(err, E_NOTFOUND, ERR_RETRY, "no JetStream stream takes the subject");
    if (json_get(body, "error", &raw))
        return read_refusal(raw, err);
    if (!json_get(body, "seq", &raw))
        RETURN_ERR(err, E_REMOTE, ERR_UNSURE, "NATS answered with something that is no receipt");
    return 0;
}

/* An answer to what was given up already finds its slot taken by another, or free. */
static struct sink_slot *
find_slot(struct nats_sink *s, const char *subject)
{
    const char        *dot = strrchr(subject, '.');
    char              *dash, *end;
    unsigned long long tag;
    unsigned long      i;

    if (dot == NULL)
        return NULL;
    tag = strtoull(dot + 1, &dash, 10);
    if (*dash != '-')
        return NULL;
    i = strtoul(dash + 1, &end, 10);
    if (end == dash + 1 || *end != '\0' || i >= s->out.slots.count ||
        s->out.slots.slot[i].item == NULL || s->out.slots.slot[i].decided ||
        s->out.slots.slot[i].tag != tag)
        return NULL;
    return &s->out.slots.slot[i];
}

static void
take_answer(struct nats_sink *s, natsMsg *msg)
{
    struct sink_slot *slot = find_slot(s, natsMsg_GetSubject(msg));
    struct err        err;

    if (slot != NULL)
        sink_slot_end(&s->out.slots, slot, read_answer(msg, &err) == 0 ? NULL : &err);
    natsMsg_Destroy(msg);
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct nats_sink *s = mine(base);
    uint32_t          count = 0;
    bool              open;

    if (sink_slots_tell(&s->out.slots))
        wait_ms = 0;
    if (s->conn == NULL || sink_slots_flying(&s->out.slots) == 0)
        return 0;
    open = mailbox_take(s->mailbox, wait_ms, s->taken, &count);
    for (uint32_t i = 0; i < count; i++)
        take_answer(s, s->taken[i]);
    if (!open)
        lose_connection(s, "the connection is lost");
    else if (sink_slots_overdue(&s->out.slots, sink_now_us(&s->base)))
        lose_connection(s, "no answer in time");
    return 0;
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    struct nats_sink *s = mine(base);
    natsMsg          *answer = NULL;
    struct slice      raw;
    natsStatus        st;
    int               rc = 0;

    TRY(try_connect(base, err));
    st = natsConnection_RequestString(&answer, s->conn, "$JS.API.INFO", "",
                                      (int64_t)(s->out.timeout_us / 1000));
    if (st != NATS_OK)
        FAIL(err, E_REMOTE, ERR_RETRY, "NATS is there, but JetStream does not answer: %s",
             natsStatus_GetText(st));
    if (json_get(slice_of(natsMsg_GetData(answer), (size_t)natsMsg_GetDataLength(answer)), "error",
                 &raw))
        TRY(read_refusal(raw, err));
    say(arg, 0, "NATS answers and JetStream is on");
out:
    natsMsg_Destroy(answer);
    disconnect(s);
    return rc;
}

const struct sink_ops sink_nats_ops = {
    .name = "nats",
    .size = sizeof(struct nats_sink),
    .schema = &schema,
    .transactional = false,
    .open = open_sink,
    .close = close_sink,
    .check = check,
    .checkpoint = sink_noop_checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
