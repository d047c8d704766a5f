#include "queue_fake.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/json.h"
#include "env/env_real.h"

struct reader {
    struct queue_reader   base;
    struct fake_broker   *broker;
    struct queue_message *messages;
    struct queue_header  *headers;
    char (*bodies)[32];
    uint32_t  room;
    uint32_t *handed; /* numbers, by tag - 1 */
    uint32_t  handed_count, handed_room;
    uint32_t  confirmed;
    char      checkpoint[64];
};

/* Which one the next open is for: the seam has no argument for it. */
static struct fake_broker *chosen;

struct fake_broker *
fake_broker_new(void)
{
    struct fake_broker *b =
        mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (b == MAP_FAILED)
        abort();
    (void)pthread_mutex_init(&b->lock, NULL);
    b->prefetch = 1000;
    b->fail_kind = ERR_RETRY;
    return b;
}

void
fake_broker_free(struct fake_broker *b)
{
    for (uint32_t i = 0; i < b->count; i++)
        free(b->messages[i].body);
    (void)pthread_mutex_destroy(&b->lock);
    (void)munmap(b, sizeof *b);
}

uint32_t
fake_publish_bytes(struct fake_broker *b, const char *key, const char *id, const void *body,
                   size_t len)
{
    struct fake_message *m;
    uint32_t             number;

    (void)pthread_mutex_lock(&b->lock);
    number = b->count;
    if (number == FAKE_MESSAGES_MAX)
        abort();
    m = &b->messages[b->count++];
    memset(m, 0, sizeof *m);
    (void)snprintf(m->key, sizeof m->key, "%s", key);
    if (id == NULL)
        (void)snprintf(m->id, sizeof m->id, "m%u", number);
    else
        (void)snprintf(m->id, sizeof m->id, "%s", id);
    if (b->places)
        (void)snprintf(m->position, sizeof m->position, "p%u", number);
    if (body != NULL) {
        m->body = malloc(len + 1);
        if (m->body == NULL)
            abort();
        memcpy(m->body, body, len);
        m->body[len] = '\0';
        m->body_len = len;
    }
    (void)pthread_mutex_unlock(&b->lock);
    return number;
}

uint32_t
fake_publish(struct fake_broker *b, const char *key, const char *id, const char *body)
{
    return fake_publish_bytes(b, key, id, body, body == NULL ? 0 : strlen(body));
}

uint32_t
fake_acked(struct fake_broker *b)
{
    uint32_t n = 0;

    (void)pthread_mutex_lock(&b->lock);
    for (uint32_t i = 0; i < b->count; i++)
        n += b->messages[i].acked;
    (void)pthread_mutex_unlock(&b->lock);
    return n;
}

static struct reader *
mine(struct queue_reader *q)
{
    return (struct reader *)q;
}

/* One call of the driver; whether it is the one that fails. The lock is held. */
static bool
strikes(struct fake_broker *b, uint32_t *budget)
{
    if (b->kill_at > 0 && --b->kill_at == 0)
        (void)raise(SIGKILL);
    if (b->fail_after > 0 && --b->fail_after == 0)
        return true;
    if (*budget == 0)
        return false;
    --*budget;
    return true;
}

static int
say_failure(const struct fake_broker *b, struct err *err)
{
    RETURN_ERR(err, E_REMOTE, b->fail_kind, "the broker says %s", err_kind_name(b->fail_kind));
}

static int
open_reader(struct queue_reader *q, const struct conf *conf, struct err *err)
{
    (void)conf;
    (void)err;
    mine(q)->broker = chosen;
    return 0;
}

static void
close_reader(struct queue_reader *q)
{
    struct reader *r = mine(q);

    free(r->messages);
    free(r->headers);
    free(r->bodies);
    free(r->handed);
}

static int
check(struct queue_reader *q, finding_fn *say, void *arg, struct err *err)
{
    (void)q;
    (void)err;
    say(arg, FINDING_OK, "it is a fake");
    return 0;
}

static int
prepare(struct queue_reader *q, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    (void)dry_run;
    return check(q, say, arg, err);
}

static int
unprepare(struct queue_reader *q, finding_fn *say, void *arg, struct err *err)
{
    struct fake_broker *b = mine(q)->broker;

    (void)pthread_mutex_lock(&b->lock);
    b->unprepared = true;
    (void)pthread_mutex_unlock(&b->lock);
    return check(q, say, arg, err);
}

/* What is out comes again. */
static void
give_back(struct reader *r)
{
    for (uint32_t i = 0; i < r->handed_count; i++)
        r->broker->messages[r->handed[i]].out = false;
    r->handed_count = 0;
    r->confirmed = 0;
}

static int
start(struct queue_reader *q, struct slice checkpoint, bool gap, struct err *err)
{
    struct reader      *r = mine(q);
    struct fake_broker *b = r->broker;
    int                 rc = 0;

    (void)pthread_mutex_lock(&b->lock);
    give_back(r);
    b->starts++;
    b->gap = b->gap || gap;
    (void)snprintf(b->checkpoint, sizeof b->checkpoint, "%.*s", SLICE_FMT(checkpoint));
    if (strikes(b, &b->fail_starts))
        rc = say_failure(b, err);
    (void)pthread_mutex_unlock(&b->lock);
    return rc;
}

static void
stop(struct queue_reader *q)
{
    struct fake_broker *b = mine(q)->broker;

    (void)pthread_mutex_lock(&b->lock);
    give_back(mine(q));
    b->stops++;
    (void)pthread_mutex_unlock(&b->lock);
}

static void
make_room(struct reader *r, uint32_t max)
{
    if (r->room < max) {
        r->room = max;
        r->messages = realloc(r->messages, max * sizeof *r->messages);
        r->headers = realloc(r->headers, max * sizeof *r->headers);
        r->bodies = realloc(r->bodies, max * sizeof *r->bodies);
    }
    if (r->handed_room < r->handed_count + max) {
        r->handed_room = r->handed_count + max + 1024;
        r->handed = realloc(r->handed, r->handed_room * sizeof *r->handed);
    }
    if (r->messages == NULL || r->headers == NULL || r->bodies == NULL || r->handed == NULL)
        abort();
}

static void
hand_out(struct reader *r, uint32_t number, uint32_t at)
{
    struct fake_message *m = &r->broker->messages[number];

    r->headers[at] = (struct queue_header){slice_str("h"), slice_str(m->header)};
    (void)snprintf(r->bodies[at], sizeof r->bodies[at], "{\"n\":%u}", number);
    r->handed[r->handed_count++] = number;
    r->messages[at] = (struct queue_message){
        .tag = r->handed_count,
        .queue = slice_str("orders"),
        .key = slice_str(m->key),
        .id = slice_str(m->id),
        .position = slice_str(m->position),
        .type = slice_str(m->type),
        .body = m->body != NULL ? slice_of(m->body, m->body_len) : slice_str(r->bodies[at]),
        .headers = &r->headers[at],
        .header_count = m->header[0] != '\0',
        .redelivered = m->deliveries > 0};
    m->out = true;
    m->deliveries++;
}

static void
nap(uint32_t ms)
{
    struct timespec t = {0, (long)ms * 1000000};

    (void)nanosleep(&t, NULL);
}

static int
poll_reader(struct queue_reader *q, uint32_t max, uint64_t bytes, uint32_t wait_ms,
            struct queue_batch *batch, struct err *err)
{
    struct reader      *r = mine(q);
    struct fake_broker *b = r->broker;
    uint32_t            n = 0, last = 0;
    uint64_t            got = 0;

    (void)pthread_mutex_lock(&b->lock);
    if (strikes(b, &b->fail_polls)) {
        (void)say_failure(b, err);
        (void)pthread_mutex_unlock(&b->lock);
        return err->code;
    }
    make_room(r, max);
    for (uint32_t i = 0;
         i < b->count && n < max && got < bytes && r->handed_count - r->confirmed < b->prefetch;
         i++) {
        if (b->messages[i].acked || b->messages[i].out)
            continue;
        hand_out(r, i, n);
        got += r->messages[n++].body.len;
        last = i;
    }
    *batch = (struct queue_batch){.messages = r->messages, .count = n};
    if (b->places && n > 0) {
        (void)snprintf(r->checkpoint, sizeof r->checkpoint, "{\"next\":%u}", last + 1);
        batch->checkpoint = slice_str(r->checkpoint);
    }
    (void)pthread_mutex_unlock(&b->lock);
    if (n == 0 && wait_ms > 0)
        nap(wait_ms > 5 ? 5 : wait_ms);
    return 0;
}

static int
confirm(struct queue_reader *q, uint64_t tag, struct err *err)
{
    struct reader      *r = mine(q);
    struct fake_broker *b = r->broker;
    int                 rc = 0;

    (void)pthread_mutex_lock(&b->lock);
    b->confirms++;
    if (strikes(b, &b->fail_confirms)) {
        rc = say_failure(b, err);
    } else {
        for (uint32_t i = r->confirmed; i < tag; i++) {
            if (b->on_ack != NULL)
                b->on_ack(b, r->handed[i]);
            b->messages[r->handed[i]].acked = !b->lose_confirms;
        }
        r->confirmed = (uint32_t)tag;
    }
    (void)pthread_mutex_unlock(&b->lock);
    return rc;
}

static int
status(struct queue_reader *q, struct buf *out, struct err *err)
{
    (void)q;
    (void)err;
    buf_add_str(out, "{\"connected\":true}");
    return 0;
}

static const struct queue_ops ops = {.name = "fake",
                                     .size = sizeof(struct reader),
                                     .open = open_reader,
                                     .close = close_reader,
                                     .check = check,
                                     .prepare = prepare,
                                     .unprepare = unprepare,
                                     .start = start,
                                     .stop = stop,
                                     .poll = poll_reader,
                                     .confirm = confirm,
                                     .status = status};

struct queue_reader *
fake_reader(struct fake_broker *b)
{
    struct queue_reader *q;
    struct err           err;

    chosen = b;
    if (source_queue_new(env_real(), &ops, "shop", NULL, &q, &err) != 0)
        abort();
    return q;
}
