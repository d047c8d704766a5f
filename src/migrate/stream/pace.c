/* How fast a surgery goes: as fast as it can, or as those beside it are to notice. */
#include "migrate/stream/stream_int.h"

#define LOOK_US 100000u /* between two looks at the foreground */
#define RATE_US 1000000u
#define NS UINT64_C(1000000000)
#define LOOK_LEAST 50u /* appends that say something about 1 in 100 */
#define GOAL 7         /* of 1,000 appends may be above the bound */
#define PAUSE_MIN_US 100u
#define PAUSE_MAX_US 2000000u

/* How long the others' appends took since the last look. */
struct look {
    uint64_t all, above; /* the bound */
    uint64_t p99_us;
};

static struct look
look_since(const struct surgery *s, const uint64_t now[LOG_LATENCY_BUCKETS])
{
    struct look l = {0};
    uint64_t    slow = 0;

    for (unsigned i = 0; i < LOG_LATENCY_BUCKETS; i++) {
        uint64_t n = now[i] - s->latency[i];

        l.all += n;
        if (log_latency_us(i) > s->max_p99_ms * 1000)
            l.above += n;
    }
    for (unsigned i = LOG_LATENCY_BUCKETS; l.all > 0 && i-- > 1 && slow * 100 <= l.all;) {
        slow += now[i] - s->latency[i];
        l.p99_us = log_latency_us(i);
    }
    return l;
}

/*
 * The rest grows by a twentieth for each 10 in 1,000 appends of a LOOK_US that were above the
 * bound, and shrinks alike for what is below GOAL: in the long run as many are above as GOAL says,
 * whatever a commit of ours and the disk take.
 */
static void
steer(struct surgery *s, const struct look *l, uint64_t elapsed_us)
{
    int64_t looks = (int64_t)(elapsed_us < PAUSE_MAX_US ? elapsed_us : PAUSE_MAX_US);
    int64_t above = l->all == 0 ? 0 : (int64_t)(l->above * 1000 / l->all);

    s->debt += (above - GOAL) * looks / (int64_t)LOOK_US;
    for (; s->debt >= 10; s->debt -= 10)
        s->pause_us = s->pause_us < PAUSE_MIN_US ? PAUSE_MIN_US : s->pause_us + s->pause_us / 20;
    for (; s->debt <= -10; s->debt += 10)
        s->pause_us = s->pause_us <= PAUSE_MIN_US ? 0 : s->pause_us - s->pause_us / 21;
    if (s->pause_us > PAUSE_MAX_US)
        s->pause_us = PAUSE_MAX_US;
}

/* The rest that keeps to the rate; what was missed longer ago than a look is not made up for. */
static uint64_t
keep_rate(struct surgery *s, uint64_t now, uint64_t moved)
{
    if (s->max_rate == 0)
        return 0;
    if (s->due_us + LOOK_US < now)
        s->due_us = now - LOOK_US;
    s->due_us += moved * 1000000 / s->max_rate;
    return s->due_us > now ? s->due_us - now : 0;
}

/* The rest that the others' latency asks for. */
static uint64_t
keep_latency(struct surgery *s, uint64_t now)
{
    uint64_t    since = now - s->looked_us;
    uint64_t    latency[LOG_LATENCY_BUCKETS];
    struct look look;

    if (s->max_p99_ms == 0)
        return 0;
    if (since < LOOK_US)
        return s->pause_us;
    log_latency(s->log, latency);
    look = look_since(s, latency);
    if (look.all < LOOK_LEAST && since < RATE_US)
        return s->pause_us;
    steer(s, &look, since);
    s->p99_us = look.p99_us;
    s->looked_us = now;
    memcpy(s->latency, latency, sizeof latency);
    return s->pause_us;
}

/*
 * As many workers as the rate needs by what the moves of the last second took, and an eighth
 * more: others would only take turns with the foreground on the processors. The rests of a move
 * in stages count as work.
 */
static void
follow_need(struct surgery *s, uint64_t moved)
{
    uint64_t need = s->spec->workers, each_ns;

    if (s->max_rate != 0 && moved != 0) {
        each_ns = s->work_us * 1000 / moved;
        need = ((each_ns < NS ? each_ns : NS) * s->max_rate / 8 * 9 + NS - 1) / NS;
    }
    s->work_us = 0;
    s->at_work = need < 1 ? 1 : need < s->spec->workers ? (uint32_t)need : s->spec->workers;
}

uint64_t
streami_pace(struct surgery *s, uint64_t moved)
{
    uint64_t now = s->env->ops->mono_us(s->env), rate, latency;

    s->moved += moved;
    if (now - s->rate_us >= RATE_US) {
        s->events_per_s = (s->moved - s->rate_moved) * 1000000 / (now - s->rate_us);
        follow_need(s, s->moved - s->rate_moved);
        s->rate_us = now;
        s->rate_moved = s->moved;
    }
    rate = keep_rate(s, now, moved);
    latency = keep_latency(s, now);
    return rate > latency ? rate : latency;
}

/* Is the surgery to go on? */
static bool
goes_on(struct surgery *s)
{
    bool yes;

    lock_take(&s->lock);
    yes = !s->stopping && s->state == STREAM_RUNNING;
    lock_give(&s->lock);
    return yes;
}

int
streami_rest(struct streami_worker *w, uint64_t moved, struct err *err)
{
    struct surgery *s = w->surgery;
    struct ox_gate  gate;
    uint64_t        us, part;

    lock_take(&s->lock);
    us = streami_pace(s, moved);
    w->paced += moved;
    lock_give(&s->lock);
    for (; us > 0 && goes_on(s); us -= part) {
        part = us < LOOK_US ? us : LOOK_US;
        gate_init(&gate);
        (void)s->env->ops->gate_wait(s->env, &gate, part);
    }
    if (!goes_on(s))
        RETURN_ERR(err, E_INTERRUPTED, ERR_RETRY, "it was stopped in a move in stages");
    return 0;
}
