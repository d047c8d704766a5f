/*
 * Scavenges by the configuration: one every so often, at a time of day where
 * that is whole days. A task that sleeps from one to the next.
 */
#include <stdlib.h>

#include "base/say.h"
#include "cli/engine_int.h"
#include "log/log.h"

#define SECOND_US INT64_C(1000000)
#define DAY_US (INT64_C(86400) * SECOND_US)
/* The clock may be set meanwhile: it is asked again. */
#define SLEEP_MOST_US (INT64_C(60) * SECOND_US)

struct scavenge_plan {
    struct ox_env           *env;
    struct log              *log;
    struct ox_task          *task;
    struct log_scavenge_conf conf;
    int64_t                  every_us, at_us; /* at_us -1: none */
    int64_t                  next_us;
    uint64_t                 said; /* the last run whose end was said */
};

static int
read_at(const struct conf *c, int64_t *out, struct err *err)
{
    const char *text = conf_str(c, "at");
    int         hour, minute;

    *out = -1;
    if (text == NULL)
        return 0;
    if (text[2] != ':' || text[0] == ':' || text[1] == ':' || text[3] == ':' || text[4] == ':')
        return conf_fail(conf_child(c, "at"), err, "must be HH:MM");
    hour = (text[0] - '0') * 10 + text[1] - '0';
    minute = (text[3] - '0') * 10 + text[4] - '0';
    if (hour > 23 || minute > 59)
        return conf_fail(conf_child(c, "at"), err, "must be a time of day, 00:00 to 23:59");
    if (conf_duration_us(c, "every") == 0 || conf_duration_us(c, "every") % (uint64_t)DAY_US != 0)
        return conf_fail(conf_child(c, "at"), err, "needs `every` in whole days");
    *out = (hour * INT64_C(3600) + minute * INT64_C(60)) * SECOND_US;
    return 0;
}

int
enginei_scavenge_check(const struct conf *root, struct err *err)
{
    int64_t at;

    return read_at(conf_child(conf_child(root, "log"), "scavenge"), &at, err);
}

int64_t
enginei_scavenge_next(int64_t now, int64_t last, int64_t every, int64_t at)
{
    int64_t next;

    if (at < 0)
        return last + every > now ? last + every : now;
    /* The first such time of day at least `every` behind the last one. */
    next = (last + every - at) / DAY_US * DAY_US + at;
    if (next < last + every - DAY_US / 2)
        next += DAY_US;
    while (next < now)
        next += DAY_US;
    return next;
}

static void
say_end(struct scavenge_plan *p)
{
    struct log_scavenge s;
    struct say_num      num[3];

    log_scavenge_status(p->log, &s);
    if (s.run == p->said || s.run == 0 || s.state == LOG_SCAVENGE_RUNNING)
        return;
    p->said = s.run;
    if (s.state == LOG_SCAVENGE_FAILED)
        say(SAY_WARN, "the scavenge failed", "error", s.error, NULL);
    else
        say(SAY_INFO, "scavenge ended", "state", log_scavenge_state_name(s.state), "freed_bytes",
            say_u64(&num[0], s.freed_bytes), "segments", say_u64(&num[1], s.rewritten),
            "bytes_per_s", say_u64(&num[2], s.bytes_per_s), NULL);
}

static uint64_t
step(void *arg)
{
    struct scavenge_plan *p = arg;
    int64_t               now = p->env->ops->wall_us(p->env);
    struct err            err;

    say_end(p);
    if (p->every_us > 0 && now >= p->next_us) {
        if (log_scavenge_start(p->log, &p->conf, &err) == 0)
            say(SAY_INFO, "scavenge begins", NULL);
        else
            say(SAY_WARN, "no scavenge begins", "error", err.text, NULL);
        p->next_us = enginei_scavenge_next(now + 1, now, p->every_us, p->at_us);
    }
    if (p->every_us == 0 || p->next_us - now > SLEEP_MOST_US)
        return (uint64_t)SLEEP_MOST_US;
    return p->next_us > now ? (uint64_t)(p->next_us - now) : (uint64_t)SECOND_US;
}

int
enginei_scavenge_new(struct ox_env *env, struct log *log, const struct conf *root,
                     struct scavenge_plan **out, struct err *err)
{
    const struct conf    *c = conf_child(conf_child(root, "log"), "scavenge");
    struct scavenge_plan *p = calloc(1, sizeof *p);
    int64_t               now = env->ops->wall_us(env);
    int                   rc;

    *out = NULL;
    if (p == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    p->env = env;
    p->log = log;
    TRY(read_at(c, &p->at_us, err));
    p->every_us = (int64_t)conf_duration_us(c, "every");
    p->conf = (struct log_scavenge_conf){.rate = conf_size(c, "rate"),
                                         .min_share = (uint32_t)conf_int(c, "min_share"),
                                         .min_age_us = (int64_t)conf_duration_us(c, "min_age")};
    p->next_us =
        enginei_scavenge_next(now, p->at_us < 0 ? now : now - p->every_us, p->every_us, p->at_us);
    TRY(env->ops->task_start(env,
                             &(struct ox_task_def){.name = "scavenge-plan", .step = step, .arg = p},
                             &p->task, err));
    *out = p;
    p = NULL;
out:
    free(p);
    return rc;
}

void
enginei_scavenge_free(struct scavenge_plan *p)
{
    if (p == NULL)
        return;
    p->env->ops->task_stop(p->env, p->task);
    free(p);
}
