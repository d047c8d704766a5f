/*
 * Flips bits in a commit that was durable long ago. Nobody may be given other
 * bytes than were written, nothing may be cut for it, and the refusal names
 * the place. Put right again, everything is there.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/must.h"
#include "sim/index_map.h"
#include "sim/run_int.h"

#define HEADER 4096 /* docs/format.md: the bytes of a segment behind its header */
#define FRAME_BYTES 64
#define RECORD_BYTES 72 /* and the name and the type at least */
#define TRIES 50

struct wound {
    size_t   victim;           /* of run->seen: the commit's first event */
    uint64_t from, first, end; /* from: of padding before it, at the lowest */
    char     path[256];
    uint64_t at;
    uint8_t  mask;
};

/* The file and offset of a position. */
static bool
locate(struct run *run, uint64_t pos, char path[256], uint64_t *at)
{
    const char *name;

    for (size_t i = 0; (name = sim_file(run->sim, i)) != NULL; i++) {
        uint64_t       size, first, span;
        const uint8_t *bytes = sim_file_bytes(run->sim, name, &size);

        if (strncmp(name, RUN_DIR "/", strlen(RUN_DIR "/")) != 0 || strstr(name, ".seg") == NULL ||
            size < HEADER || memcmp(bytes, "OXBOWSEG", 8) != 0)
            continue;
        first = get_u64(bytes + 32);
        span = get_u64(bytes + 40);
        if (pos < first || pos >= first + span)
            continue;
        if (get_u32(bytes + 68) != 0)
            return false; /* scavenged: its frames stand elsewhere */
        (void)snprintf(path, 256, "%s", name);
        *at = HEADER + (pos - first);
        return true;
    }
    return false;
}

/* A commit after which another life has committed: it was durable before that one began. */
static bool
choose(struct run *run, struct wound *w)
{
    uint64_t last_life;

    if (run->seen_count == 0)
        return false;
    last_life = run->seen[run->seen_count - 1].rec->life;
    for (uint32_t tries = 0; tries < TRIES; tries++) {
        size_t             i = sim_pick(run->sim, run->seen_count), k = i;
        const struct seen *s = &run->seen[i];
        uint64_t           pos;

        if (s->rec->life >= last_life || !s->rec->told || s->gone)
            continue;
        while (k > 0 && run->seen[k - 1].rec == s->rec && !run->seen[k - 1].gone)
            k--;
        w->victim = k;
        w->first = run->seen[k].commit;
        w->from = k == 0 ? 0 : run->seen[k - 1].pos;
        if (w->from >= w->first) /* one of the same commit, which is gone */
            w->from = w->first - 1;
        w->end = s->rec->end.v;
        /* In the record, or in the frame's header; padding between frames may be anything. */
        pos = sim_pick(run->sim, 8) == 0 ? w->first + sim_pick(run->sim, FRAME_BYTES)
                                         : s->pos + sim_pick(run->sim, RECORD_BYTES + s->bytes);
        w->mask = (uint8_t)(1U << sim_pick(run->sim, 8));
        return locate(run, pos, w->path, &w->at);
    }
    return false;
}

/* Does the text have a number from the place? */
static bool
names_place(const char *text, const struct wound *w)
{
    for (const char *p = text; *p != '\0'; p++) {
        char    *end;
        uint64_t v;

        if (*p < '0' || *p > '9')
            continue;
        v = strtoull(p, &end, 10);
        if (v > w->from && v < w->end)
            return true;
        p = end - 1;
    }
    return false;
}

static void
hold_error(struct run *run, const struct wound *w, int rc, const struct err *err, const char *who)
{
    if (rc == 0)
        run_fail(run, "%s does not see the damage at %s+%" PRIu64, who, w->path, w->at);
    if (rc != E_DAMAGED)
        run_fail(run, "%s calls damage at %" PRIu64 " %s: %s", who, w->first, err_name(rc),
                 err->text);
    if (!names_place(err->text, w))
        run_fail(run, "%s does not name %" PRIu64 " to %" PRIu64 ": %s", who, w->first, w->end,
                 err->text);
}

/* The first from i on that no scavenge has taken. */
static size_t
there(const struct run *run, size_t i)
{
    while (i < run->seen_count && run->seen[i].gone)
        i++;
    return i;
}

/* Reads up to the damage, which must be told. */
static void
read_up_to(struct run *run, const struct wound *w)
{
    struct log_read  read;
    struct log_iter *it;
    struct log_event ev;
    struct err       err;
    size_t           i;
    uint32_t         x, y;
    int              rc;

    memset(&read, 0, sizeof read);
    read.filter.system = true;
    read.filter.quiet = true;
    read.raw = true;
    rc = log_iter_open(run->log, &read, &it, &err);
    if (rc != 0) {
        hold_error(run, w, rc, &err, "opening a read");
        return;
    }
    for (i = there(run, 0); (rc = log_iter_next(it, &ev, &err)) == 0; i = there(run, i + 1)) {
        /* A scavenge since the last scan may have taken more, and a crash may have come behind. */
        while (i < run->seen_count && run->seen[i].pos < ev.pos.v &&
               run->seen[i].rec->no < run->scavenged_recs)
            i = there(run, i + 1);
        if (i >= run->seen_count || ev.pos.v != run->seen[i].pos)
            run_fail(run, "a read past damage goes on at %" PRIu64, ev.pos.v);
        (void)rec_of_event(run, &ev, &x, &y);
    }
    log_iter_close(it);
    if (rc == E_END)
        run_fail(run,
                 "a read ends after %zu of %zu events, and does not say that %" PRIu64
                 " is damaged",
                 i, run->seen_count, w->first);
    hold_error(run, w, rc, &err, "a read");
    if (i < w->victim)
        run_fail(run, "a read stops at event %zu for damage in %zu", i, w->victim);
}

static void
forget_end(struct run *run)
{
    struct ox_env *env = sim_env(run->sim);
    struct err     err;

    (void)env->ops->path_remove(env, RUN_DIR "/CLEAN", &err);
    must(env->ops->dir_sync(env, RUN_DIR, &err) == 0);
    index_maps_remove(run->maps, RUN_DIR "/index");
}

static void
look_around(struct run *run, const struct wound *w)
{
    struct log_counts counts;
    struct err        err;

    read_up_to(run, w);
    hold_error(run, w, log_verify(run->log, NULL, NULL, &counts, &err), &err, "verify");
}

void
damage_run(struct run *run)
{
    struct wound w;
    struct err   err;
    bool         forget = sim_pick(run->sim, 2) == 0;
    int          rc;

    if (!choose(run, &w))
        return;
    run->looking = true;
    run_say(run, "damage in %s at %" PRIu64 ", commit %" PRIu64 "%s", w.path, w.at, w.first,
            forget ? ", nothing remembered" : "");
    if (forget)
        forget_end(run);
    must(sim_damage(run->sim, w.path, w.at, 1, w.mask));
    rc = log_open(sim_env(run->sim), RUN_DIR, &run->conf, NULL, &run->log, &err);
    if (forget || rc != 0)
        hold_error(run, &w, rc, &err, "open");
    else
        look_around(run, &w);
    log_close(run->log);
    run->log = NULL;
    must(sim_damage(run->sim, w.path, w.at, 1, w.mask));
    rc = log_open(sim_env(run->sim), RUN_DIR, &run->conf, NULL, &run->log, &err);
    if (rc != 0)
        run_fail(run, "put right again, it cannot be opened: %s", err.text);
    sub_begin(run);
    check_scan(run, true);
    sub_end(run);
    log_close(run->log);
    run->log = NULL;
    run->looking = false;
}
