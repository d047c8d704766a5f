#include "group_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/must.h"

static bool
on_deliver(void *arg, const struct group_event *ge)
{
    struct fake_member *m = arg;
    struct fake_got    *got;

    must(pthread_mutex_lock(&m->lock) == 0);
    must(m->count < FAKE_GOT_MAX);
    got = &m->got[m->count++];
    *got = (struct fake_got){.pos = ge->event->pos,
                             .link = ge->link == NULL ? LOG_POS(0) : ge->link->pos,
                             .id = ge->event->id,
                             .version = ge->event->version,
                             .retry = ge->retry_count};
    (void)snprintf(got->stream, sizeof got->stream, "%.*s", SLICE_FMT(ge->event->stream));
    (void)snprintf(got->data, sizeof got->data, "%.*s", SLICE_FMT(ge->event->data));
    must(pthread_mutex_unlock(&m->lock) == 0);
    return m->count != m->stall_at;
}

static void
on_flush(void *arg)
{
    struct fake_member *m = arg;

    must(pthread_mutex_lock(&m->lock) == 0);
    m->flushes++;
    must(pthread_mutex_unlock(&m->lock) == 0);
}

static void
on_ended(void *arg, const struct err *why)
{
    struct fake_member *m = arg;

    must(pthread_mutex_lock(&m->lock) == 0);
    must(m->ended == 0);
    m->ended = why->code;
    must(pthread_mutex_unlock(&m->lock) == 0);
}

struct fake_member *
fake_join(struct groups *gs, const char *source, const char *name, uint32_t buffer, bool pull)
{
    struct fake_member      *m = calloc(1, sizeof *m);
    struct group_member_conf conf = {.name = slice_str("fake"),
                                     .buffer = buffer,
                                     .pull = pull,
                                     .arg = m,
                                     .deliver = on_deliver,
                                     .flush = on_flush,
                                     .ended = on_ended};
    struct err               err;

    assert_non_null(m);
    m->got = calloc(FAKE_GOT_MAX, sizeof *m->got);
    assert_non_null(m->got);
    assert_int_equal(pthread_mutex_init(&m->lock, NULL), 0);
    fake_ok(group_join(gs, slice_str(source), slice_str(name), &conf, &m->member, &err), &err);
    return m;
}

void
fake_leave(struct fake_member *m)
{
    group_leave(m->member);
    (void)pthread_mutex_destroy(&m->lock);
    free(m->got);
    free(m);
}

uint32_t
fake_got(struct fake_member *m)
{
    uint32_t n;

    assert_int_equal(pthread_mutex_lock(&m->lock), 0);
    n = m->count;
    assert_int_equal(pthread_mutex_unlock(&m->lock), 0);
    return n;
}

int
fake_ended(struct fake_member *m)
{
    int code;

    assert_int_equal(pthread_mutex_lock(&m->lock), 0);
    code = m->ended;
    assert_int_equal(pthread_mutex_unlock(&m->lock), 0);
    return code;
}

struct wish {
    struct fake_member *m;
    struct groups      *gs;
    const char         *source, *name;
    uint64_t            n;
};

static bool
has_got(void *arg)
{
    const struct wish *w = arg;

    return fake_got(w->m) >= w->n;
}

void
fake_wait(struct fake_member *m, uint32_t count)
{
    fake_until(has_got, &(struct wish){.m = m, .n = count}, "a member got its events");
}

struct fake_got
fake_at(struct fake_member *m, uint32_t n)
{
    struct fake_got got;

    fake_wait(m, n + 1);
    assert_int_equal(pthread_mutex_lock(&m->lock), 0);
    got = m->got[n];
    assert_int_equal(pthread_mutex_unlock(&m->lock), 0);
    return got;
}

struct fake_got
fake_take(struct fake_member *m)
{
    return fake_at(m, m->taken++);
}

int
fake_ack(struct fake_member *m, struct log_pos pos)
{
    struct group_ref ref = {.pos = pos};
    struct err       err;

    return group_ack(m->member, &ref, 1, &err);
}

int
fake_nack(struct fake_member *m, struct log_pos pos, enum group_action action, const char *reason)
{
    struct group_ref ref = {.pos = pos};
    struct err       err;

    return group_nack(m->member, &ref, 1, action, slice_str(reason), &err);
}

/* commands */

struct found {
    struct group_settings s;
    struct buf            texts;
};

static void
take_settings(void *arg, const struct group_info *info)
{
    struct found *f = arg;

    f->s = *info->settings;
}

int
fake_command(struct groups *gs, enum group_verb verb, const char *source, const char *name,
             const char *settings, uint64_t limit, struct err *err)
{
    struct found         f = {0};
    struct group_command c = {.verb = verb,
                              .source = slice_str(source),
                              .name = slice_str(name),
                              .settings = &f.s,
                              .limit = limit};
    int                  rc = 0;

    group_settings_init(&f.s);
    if (verb == GROUP_UPDATE)
        (void)group_get(gs, c.source, c.name, take_settings, &f, err);
    if (settings != NULL)
        rc = group_settings_read(slice_str(settings), &f.s, &f.texts, err);
    if (rc == 0) {
        rc = group_run(gs, &c);
        err_copy(err, &c.err);
    }
    buf_fini(&f.texts);
    return rc;
}

void
fake_create(struct groups *gs, const char *source, const char *name, const char *settings)
{
    struct err err;

    fake_ok(fake_command(gs, GROUP_CREATE, source, name, settings, 0, &err), &err);
}

/* looking */

static void
take_info(void *arg, const struct group_info *info)
{
    struct fake_info *f = arg;

    *f = (struct fake_info){.state = info->state,
                            .members = info->member_count,
                            .in_flight = info->in_flight,
                            .ready = info->ready,
                            .waiting = info->waiting,
                            .parked = info->parked,
                            .delivered = info->delivered,
                            .acked = info->acked,
                            .retries = info->retries,
                            .timeouts = info->timeouts,
                            .skipped = info->skipped,
                            .lag_events = info->lag_events,
                            .checkpoint = info->checkpoint.v,
                            .next = info->next,
                            .done = info->done.v,
                            .replaying = info->replaying};
}

struct fake_info
fake_info(struct groups *gs, const char *source, const char *name)
{
    struct fake_info info = {0};
    struct err       err;

    fake_ok(group_get(gs, slice_str(source), slice_str(name), take_info, &info, &err), &err);
    return info;
}

static bool
is_parked(void *arg)
{
    const struct wish *w = arg;
    struct fake_info   info = fake_info(w->gs, w->source, w->name);

    return info.parked == w->n && !info.replaying && info.state != GROUP_LOADING;
}

void
fake_wait_parked(struct groups *gs, const char *source, const char *name, uint64_t parked)
{
    struct wish w = {.gs = gs, .source = source, .name = name, .n = parked};

    fake_until(is_parked, &w, "so many are parked");
}

static bool
is_behind(void *arg)
{
    const struct wish *w = arg;
    struct fake_info   info = fake_info(w->gs, w->source, w->name);

    return info.state == GROUP_LIVE && info.lag_events == w->n;
}

void
fake_wait_lag(struct groups *gs, const char *source, const char *name, uint64_t lag)
{
    struct wish w = {.gs = gs, .source = source, .name = name, .n = lag};

    fake_until(is_behind, &w, "so many are not settled");
}
