/*
 * What an operator does while everything goes on: scavenges, and backups, one
 * of which is restored in the end.
 *
 * A scavenge begins right after a scan, and takes only what was sealed when it
 * began: so all that it may take was seen.
 */
#include <inttypes.h>
#include <string.h>

#include "base/must.h"
#include "log/backup.h"
#include "sim/run_int.h"

void
care_look(struct run *run)
{
    struct log_scavenge s;

    if (run->log == NULL || sim_crashed(run->sim))
        return;
    log_scavenge_status(run->log, &s);
    if (s.state == LOG_SCAVENGE_FAILED && !run_excused(run))
        run_fail(run, "a scavenge failed for no reason: %s", s.error);
    if (s.state != LOG_SCAVENGE_RUNNING && s.run != run->scavenge_run) {
        run->scavenge_run = s.run;
        run->rewritten += s.rewritten;
        run->gone += s.events;
        run_say(run,
                "life %" PRIu64 ": scavenged, %" PRIu64 " segments anew, %" PRIu64 " events gone",
                run->lives, s.rewritten, s.events);
    }
}

bool
care_running(struct run *run)
{
    struct log_scavenge s;

    log_scavenge_status(run->log, &s);
    return s.state == LOG_SCAVENGE_RUNNING || (s.run != 0 && s.run != run->scavenge_run);
}

void
care_scavenge(struct run *run)
{
    struct log_scavenge_conf conf = {.min_share = 1 + (uint32_t)sim_pick(run->sim, 30),
                                     .dry_run = sim_pick(run->sim, 10) == 0};
    struct err               err;
    int                      rc;

    care_look(run);
    run_settle(run);
    if (run_excused(run))
        return;
    if (care_running(run)) {
        if (sim_pick(run->sim, 4) == 0)
            log_scavenge_stop(run->log);
        return;
    }
    check_scan(run, false);
    run->scavenged_recs = run->rec_count;
    rc = log_scavenge_start(run->log, &conf, &err);
    if (rc != 0)
        run_fail(run, "no scavenge can be begun: %s", err.text);
    if (sim_pick(run->sim, 4) == 0)
        sim_crash_at(run->sim, sim_pick(run->sim, 150));
    if (sim_pick(run->sim, 2) == 0)
        (void)sim_run(run->sim, 20 + sim_pick(run->sim, 400));
}

void
care_back_up(struct run *run)
{
    struct log_backup_conf   conf = {.dir = RUN_BACKUP};
    struct log_backup_report report;
    struct err               err;
    int                      rc;

    if (sim_pick(run->sim, 6) == 0)
        sim_crash_at(run->sim, sim_pick(run->sim, 100));
    rc = log_backup(run->log, &conf, &report, &err);
    if (rc != 0) {
        if (!run_excused(run))
            run_fail(run, "no backup can be made: %s", err.text);
        return;
    }
    if (report.end.v < run->backup_end)
        run_fail(run, "a backup up to %" PRIu64 " follows one up to %" PRIu64, report.end.v,
                 run->backup_end);
    run->backup_end = report.end.v;
    run->backups++;
}

/* A log of its own that has what was there, however the last backup ended. */
void
care_restore(struct run *run)
{
    struct log_restore_conf  conf = {.from = RUN_BACKUP, .to = RUN_RESTORED, .log = &run->conf};
    struct log_backup_report report;
    struct log              *log = NULL;
    struct err               err;
    int                      rc;

    if (run->backup_end == 0)
        return;
    sim_hold(run->sim, true);
    rc = log_restore(sim_env(run->sim), &conf, &report, &err);
    if (rc != 0)
        run_fail(run, "the backup up to %" PRIu64 " cannot be restored: %s", run->backup_end,
                 err.text);
    if (report.end.v < run->backup_end)
        run_fail(run, "the backup ends at %" PRIu64 ", not at %" PRIu64, report.end.v,
                 run->backup_end);
    if (log_open(sim_env(run->sim), RUN_RESTORED, &run->conf, NULL, &log, &err) != 0)
        run_fail(run, "what was restored cannot be opened: %s", err.text);
    check_restored(run, log, report.end.v);
    log_close(log);
    sim_hold(run->sim, false);
}
