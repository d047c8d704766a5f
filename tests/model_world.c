/* A world's folder, names and turns. */
#include "tests/model_world.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"

const char *
world_tmp(void)
{
    const char *dir = getenv("TMPDIR");

    if (dir != NULL && dir[0] != '\0')
        return dir;
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

/* Odd ones among them: no category, an empty one, characters that texts give a meaning. */
static void
new_name(struct world *w, uint32_t slot)
{
    static const char *const forms[] = {
        "a-%u",         "a-%u",          "b-%u",    "b-x-%u", "%u",       "-%u",        "a%u",
        "\xc3\xa4/-%u", "with space-%u", "at@%u-x", "c/d-%u", "q?&%%=%u", "\"q\"\\-%u", "A-%u"};
    uint32_t form = slot % (sizeof forms / sizeof forms[0]);
    size_t   len;

    w->name_count++;
    (void)snprintf(w->names[slot], sizeof w->names[slot], forms[form], w->name_count);
    len = strlen(w->names[slot]);
    if (slot == WORLD_SLOTS - 1) { /* as long as a name may be; and no metadata finds room */
        memset(w->names[slot] + len, 'l', LOG_NAME_MAX - len);
        w->names[slot][LOG_NAME_MAX] = '\0';
    }
}

const char *
world_name(struct world *w)
{
    uint32_t slot = world_pick(w, WORLD_SLOTS);

    if (world_pick(w, 50) == 0)
        return "nobody-1";
    return w->names[slot];
}

static void
open_folder(struct world *w, bool by_log)
{
    struct log_conf   conf = {.index = &log_index_lmdb,
                              .segment_bytes = LOG_SEGMENT_MIN,
                              .retention = w->model.retention,
                              .retention_count = w->model.retention_count};
    struct ox_options options = {.size = sizeof options, .segment_bytes = LOG_SEGMENT_MIN};
    struct ox_error   e;

    if (by_log) {
        if (log_open(env_real(), w->dir, &conf, NULL, &w->log, &w->err) != 0)
            world_differ(w, "the log cannot be opened: %s", w->err.text);
        return;
    }
    w->model.retention_count = 0; /* the library has no configuration */
    if (ox_open(w->dir, &options, &w->ox, &e) != OX_OK)
        world_differ(w, "the library cannot open the folder: %s", e.text);
}

static void
close_folder(struct world *w)
{
    world_live_close(w);
    log_close(w->log);
    ox_close(w->ox);
    w->log = NULL;
    w->ox = NULL;
}

void
world_begin(struct world *w)
{
    model_init(&w->model);
    for (uint32_t i = 0; i < WORLD_SLOTS; i++)
        new_name(w, i);
    open_folder(w, w->seed % 3 != 0);
}

void
world_end(struct world *w)
{
    close_folder(w);
    model_fini(&w->model);
}

/* Some categories keep little; the log is told, and told again when it is opened. */
static void
set_retention(struct world *w)
{
    static const struct log_retention lists[3] = {
        {.category = {"a", 1}, .max_count = 3},
        {.category = {"b", 1}, .max_count = 5, .max_age_us = MODEL_DAY_US},
        {.category = {"", 0}, .max_age_us = MODEL_DAY_US},
    };

    w->model.retention_count = 0;
    for (uint32_t i = 0; i < 3; i++)
        if (world_pick(w, 2) == 0)
            w->model.retention[w->model.retention_count++] = lists[i];
    if (w->say)
        printf("%u: retention of %u categories\n", w->step, w->model.retention_count);
    if (log_set_retention(w->log, w->model.retention, w->model.retention_count, &w->err) != 0)
        world_differ(w, "retention: %s", w->err.text);
    w->ops++;
}

/* Which events are on the disk no more: each was hidden, and is so for good now. */
static void
note_gone(struct world *w)
{
    struct log_read  read = {.raw = true, .filter = {.system = true, .quiet = true}};
    struct log_iter *it;
    struct log_event e;
    uint8_t         *there = calloc(w->model.count + 1, 1);
    int              rc;

    must(there != NULL);
    must(log_iter_open(w->log, &read, &it, &w->err) == 0);
    while ((rc = log_iter_next(it, &e, &w->err)) == 0) {
        const struct model_stream *s = model_find(&w->model, e.stream);

        if (s == NULL || e.version >= s->next)
            world_differ(w, "%.*s version %" PRIu64 " is in the log, and nobody wrote it",
                         SLICE_FMT(e.stream), e.version);
        else
            there[s->events[e.version]] = 1;
    }
    if (rc != E_END)
        world_differ(w, "reading all: %s", w->err.text);
    log_iter_close(it);
    for (uint32_t i = 0; i < w->model.count && !w->failed; i++) {
        const struct model_event *m = &w->model.events[i];

        if (there[i] != 0 ? m->gone : !m->gone && !model_take(&w->model, i))
            world_differ(w, "%s version %" PRIu64 " is %s", w->model.streams[m->stream]->name,
                         m->version, there[i] != 0 ? "there again" : "gone");
    }
    free(there);
}

static void
scavenge(struct world *w)
{
    struct log_scavenge_conf conf = {.min_share = 1 + world_pick(w, 20)};
    struct log_scavenge      s;

    if (log_scavenge_start(w->log, &conf, &w->err) != 0)
        world_differ(w, "no scavenge: %s", w->err.text);
    do {
        (void)sched_yield();
        log_scavenge_status(w->log, &s);
    } while (!w->failed && s.state == LOG_SCAVENGE_RUNNING);
    if (!w->failed && s.state != LOG_SCAVENGE_DONE)
        world_differ(w, "a scavenge: %s", s.error);
    if (w->say)
        printf("%u: scavenged, %" PRIu64 " events are gone\n", w->step, s.events);
    w->gone += s.events;
    w->ops++;
    if (!w->failed && s.events > 0)
        note_gone(w);
}

static void
index_anew(struct world *w)
{
    struct log_conf conf = {.index = &log_index_lmdb, .segment_bytes = LOG_SEGMENT_MIN};

    if (w->say)
        printf("%u: indexed again\n", w->step);
    if (log_reindex(env_real(), w->dir, &conf, NULL, &w->err) != 0)
        world_differ(w, "it cannot be indexed again: %s", w->err.text);
    model_index_anew(&w->model);
}

static void
turn(struct world *w)
{
    bool by_log = world_pick(w, 3) != 0;

    if (w->say)
        printf("%u: closed, opened by %s\n", w->step, by_log ? "the log" : "the library");
    close_folder(w);
    if (world_pick(w, 4) == 0)
        index_anew(w);
    open_folder(w, by_log);
    w->ops++;
    /* Who is gone for good makes room. */
    for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
        const struct model_stream *s = model_find(&w->model, slice_str(w->names[i]));
        if (s != NULL && s->tombstone)
            new_name(w, i);
    }
}

void
world_compare_all(struct world *w)
{
    struct log_read all = {.filter = {.system = true, .quiet = w->log != NULL}};

    if (w->say)
        printf("%u: everything is compared\n", w->step);
    world_read_through(w, &all, UINT32_MAX);
    for (uint32_t i = 0; i < w->model.stream_count && !w->failed; i++) {
        struct log_read read = {.stream = model_name(w->model.streams[i])};
        world_stream(w, w->model.streams[i]->name);
        read.resolve = world_pick(w, 2) == 0;
        world_read_through(w, &read, UINT32_MAX);
        read.backwards = true;
        read.from = UINT64_MAX;
        world_read_through(w, &read, UINT32_MAX);
    }
    world_list(w);
}

void
world_step(struct world *w)
{
    uint32_t kind = world_pick(w, 1000);

    if (kind < 1)
        world_compare_all(w);
    else if (kind < 4)
        turn(w);
    else if (kind < 8)
        world_list(w);
    else if (kind < 10 && w->log != NULL)
        set_retention(w);
    else if (kind < 12 && w->log != NULL)
        scavenge(w);
    else if (kind < 550)
        world_commits(w);
    else if (kind < 650)
        world_stream(w, world_name(w));
    else if (kind < 800 && w->log != NULL)
        world_live(w);
    else
        world_read(w);
}
