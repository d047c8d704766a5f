/*
 * A log to be scavenged.
 *
 *   fill DIR STREAMS EVENTS BYTES KEPT SEGMENT
 *
 * EVENTS events of BYTES bytes in each of STREAMS streams (acct-N), a commit each, all of them
 * in random order; then every stream is truncated so that KEPT are left. The log's segments have
 * SEGMENT bytes. Prints events per second, truncations per second, and the log's bytes, when the
 * index has all of it, and closes the log.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"

#define OUTSTANDING 1024u
#define CHANGES 4096u /* of one commit */
#define NAME_ROOM 24
#define BYTES_MAX 16384u

struct slot {
    struct log_new_event event;
    struct log_write     write;
    struct log_req       req;
    char                 name[NAME_ROOM];
};

static struct log      *the_log;
static uint32_t        *order; /* the stream of each event */
static uint64_t         events;
static size_t           event_bytes;
static uint8_t          payload[BYTES_MAX];
static _Atomic uint64_t next_event;
static _Atomic uint32_t outstanding;
static struct ox_gate   all_done;
static uint64_t         random_state = 88172645463325252u;

static uint64_t
now_us(void)
{
    return env_real()->ops->mono_us(env_real());
}

static uint64_t
next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void
die(const struct err *err)
{
    (void)fprintf(stderr, "fill: %s\n", err->text);
    exit(1);
}

static struct slice
put_name(char *to, uint32_t number)
{
    int n = snprintf(to, NAME_ROOM, "acct-%u", number);

    return slice_of(to, (size_t)n);
}

/* The next event, where there is one. */
static void
go_on(struct slot *s)
{
    uint64_t i = atomic_fetch_add(&next_event, 1);

    if (i >= events) {
        if (atomic_fetch_sub(&outstanding, 1) == 1)
            env_real()->ops->gate_open(env_real(), &all_done);
        return;
    }
    s->write.stream = put_name(s->name, order[i]);
    log_submit(the_log, &s->req);
}

static void
on_done(struct log_req *req)
{
    if (req->rc != 0)
        die(&req->err);
    go_on(req->arg);
}

static void
shuffle(uint32_t streams, uint32_t each)
{
    events = (uint64_t)streams * each;
    order = malloc(events * sizeof *order);
    must(order != NULL);
    for (uint64_t i = 0; i < events; i++)
        order[i] = (uint32_t)(i % streams);
    for (uint64_t i = events - 1; i > 0; i--) {
        uint64_t j = next_random() % (i + 1);
        uint32_t kept = order[i];

        order[i] = order[j];
        order[j] = kept;
    }
}

static void
append_all(void)
{
    struct slot *slots = calloc(OUTSTANDING, sizeof *slots);

    must(slots != NULL);
    gate_init(&all_done);
    atomic_store(&outstanding, OUTSTANDING);
    for (uint32_t i = 0; i < OUTSTANDING; i++) {
        struct slot *s = &slots[i];

        s->event = (struct log_new_event){.type = slice_str("Deposited"),
                                          .data = slice_of(payload, event_bytes)};
        s->write = (struct log_write){.expected = LOG_ANY, .events = &s->event, .count = 1};
        s->req = (struct log_req){.writes = &s->write, .write_count = 1, .done = on_done, .arg = s};
        go_on(s);
    }
    (void)env_real()->ops->gate_wait(env_real(), &all_done, UINT64_MAX);
    free(slots);
}

static void
truncate_all(uint32_t streams, uint64_t version)
{
    struct log_change *changes = calloc(CHANGES, sizeof *changes);
    char(*names)[NAME_ROOM] = calloc(CHANGES, NAME_ROOM);

    must(changes != NULL && names != NULL);
    for (uint32_t at = 0; at < streams;) {
        struct log_req req = {.changes = changes};

        for (; req.change_count < CHANGES && at < streams; req.change_count++, at++)
            changes[req.change_count] =
                (struct log_change){.stream = put_name(names[req.change_count], at),
                                    .expected = LOG_ANY,
                                    .what = LOG_SET_TRUNCATE,
                                    .truncate = version};
        if (log_append(the_log, &req) != 0)
            die(&req.err);
    }
    free(changes);
    free(names);
}

/* Until the index has all of it. */
static void
settle(struct log_info *info)
{
    for (;;) {
        log_get_info(the_log, info);
        if (info->indexed.v >= info->end.v)
            return;
        (void)usleep(20000);
    }
}

int
main(int argc, char **argv)
{
    struct log_conf conf = {.index = &log_index_lmdb};
    struct log_info info;
    struct err      err;
    uint32_t        streams, each, kept;
    uint64_t        began, appended, truncated;

    if (argc != 7) {
        (void)fprintf(stderr, "usage: fill DIR STREAMS EVENTS BYTES KEPT SEGMENT\n");
        return 2;
    }
    streams = (uint32_t)strtoul(argv[2], NULL, 10);
    each = (uint32_t)strtoul(argv[3], NULL, 10);
    event_bytes = strtoul(argv[4], NULL, 10);
    kept = (uint32_t)strtoul(argv[5], NULL, 10);
    conf.segment_bytes = strtoull(argv[6], NULL, 10);
    must(streams > 0 && each > 0 && kept <= each && event_bytes > 0 && event_bytes <= BYTES_MAX);
    memset(payload, 'x', sizeof payload);
    payload[0] = payload[event_bytes - 1] = '"'; /* JSON, as the server's reads want it */
    shuffle(streams, each);
    if (log_open(env_real(), argv[1], &conf, NULL, &the_log, &err) != 0)
        die(&err);
    began = now_us();
    append_all();
    appended = now_us() - began;
    truncate_all(streams, each - kept);
    truncated = now_us() - began - appended;
    settle(&info);
    printf("%.0f %.0f %" PRIu64 "\n", (double)events * 1e6 / (double)appended,
           (double)streams * 1e6 / (double)truncated, info.end.v);
    log_close(the_log);
    free(order);
    return 0;
}
