#include "cli/jobs_int.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/say.h"
#include "cli/cli_int.h"
#include "core/erase.h"
#include "log/backup.h"
#include "log/log.h"
#include "server/call.h"
#include "server/server.h"

#define DIR_BYTES 4096
#define BODY_MAX (16U << 10)
#define RATE_MAX 1000000

enum job_state {
    JOB_IDLE,
    JOB_RUNNING,
    JOB_DONE,
    JOB_FAILED,
};

struct job {
    const char *name;
    int (*run)(struct job *, struct buf *result, struct err *);
    struct jobs    *jobs;
    struct ox_task *task; /* of the last time; the loop's */
    atomic_bool     begun, stop;

    /* What it was asked for. */
    char       dir[DIR_BYTES];
    uint64_t   rate_mib;
    struct buf subject, streams;

    /* Under the lock. */
    enum job_state state;
    uint64_t       done, all;
    struct buf     result;
    struct err     err;
};

enum job_kind {
    JOB_BACKUP,
    JOB_VERIFY,
    JOB_ERASE,
    JOB_LOOK,
    JOB_KINDS,
};

struct jobs {
    struct ox_env      *env;
    struct log         *log;
    struct ox_subjects *subjects;
    pthread_mutex_t     lock;
    struct job          job[JOB_KINDS];
};

/* running */

static int
on_progress(void *arg, uint64_t done, uint64_t all)
{
    struct job *job = arg;

    (void)pthread_mutex_lock(&job->jobs->lock);
    job->done = done;
    job->all = all;
    (void)pthread_mutex_unlock(&job->jobs->lock);
    return atomic_load(&job->stop) ? E_INTERRUPTED : 0;
}

static int
run_backup(struct job *job, struct buf *result, struct err *err)
{
    struct log_backup_conf conf = {
        .dir = job->dir, .rate = job->rate_mib << 20, .fn = on_progress, .arg = job};
    struct log_backup_report report;
    int                      rc = log_backup(job->jobs->log, &conf, &report, err);

    if (rc == 0)
        clii_backup_json(result, &report);
    return rc;
}

static int
run_verify(struct job *job, struct buf *result, struct err *err)
{
    struct log_counts counts;
    int               rc = log_verify(job->jobs->log, on_progress, job, &counts, err);

    if (rc == 0 || rc == E_DIVERGED)
        clii_counts_json(result, &counts);
    return rc;
}

static int
run_erase(struct job *job, struct buf *result, struct err *err)
{
    struct erase_report report;
    struct slice        subject = buf_slice(&job->subject);
    int rc = erase_subject(job->jobs->log, job->jobs->subjects, subject, buf_slice(&job->streams),
                           on_progress, job, &report, err);

    if (rc == 0)
        erase_report_json(&report, subject, result);
    /* Where one is running already, it or the next one sees to it. */
    if (report.deleted > 0)
        (void)log_scavenge_start(job->jobs->log, &(struct log_scavenge_conf){.min_share = 1}, NULL);
    erase_report_fini(&report);
    return rc;
}

static int
run_look(struct job *job, struct buf *result, struct err *err)
{
    struct erase_report report;
    struct slice        subject = buf_slice(&job->subject);
    int                 rc =
        erase_look(job->jobs->log, job->jobs->subjects, subject, on_progress, job, &report, err);

    if (rc == 0)
        erase_report_json(&report, subject, result);
    erase_report_fini(&report);
    return rc;
}

static uint64_t
step(void *arg)
{
    struct job *job = arg;
    struct buf  result = {0};
    struct err  err = {0};
    int         rc;

    if (atomic_exchange(&job->begun, true))
        return ENV_STEP_WAIT;
    rc = job->run(job, &result, &err);
    if (rc == E_INTERRUPTED)
        (void)err_set(&err, __FILE__, __LINE__, rc, ERR_DATA, "it was stopped");
    if (rc != 0)
        say(SAY_WARN, "did not succeed", "job", job->name, "why", err.text, NULL);
    else
        say(SAY_INFO, "done", "job", job->name, NULL);
    (void)pthread_mutex_lock(&job->jobs->lock);
    buf_fini(&job->result);
    job->result = result;
    err_copy(&job->err, &err);
    job->state = rc == 0 ? JOB_DONE : JOB_FAILED;
    (void)pthread_mutex_unlock(&job->jobs->lock);
    return ENV_STEP_WAIT;
}

/* routes */

static struct job *
job_of(struct call *call, struct jobs *jobs, enum job_kind kind)
{
    if (call_is_local(call))
        return &jobs->job[kind];
    call_refuse(call, 403, err_name(E_AUTH), "only for clients on the server's own machine");
    return NULL;
}

static void
answer_job(struct call *call, int status, struct job *job)
{
    static const char *const states[] = {"idle", "running", "done", "failed"};
    struct buf               body = {0};
    struct json_out          o;

    json_out_init(&o, &body);
    json_out_object(&o);
    json_out_key(&o, "job");
    json_out_str(&o, job->name);
    (void)pthread_mutex_lock(&job->jobs->lock);
    json_out_key(&o, "state");
    json_out_str(&o, states[job->state]);
    json_out_key(&o, "done");
    json_out_u64(&o, job->done);
    json_out_key(&o, "all");
    json_out_u64(&o, job->all);
    if (job->result.len > 0) {
        json_out_key(&o, "result");
        json_out_raw(&o, buf_slice(&job->result));
    }
    if (job->state == JOB_FAILED) {
        json_out_key(&o, "error");
        json_out_str(&o, err_name(job->err.code));
        json_out_key(&o, "message");
        json_out_str(&o, job->err.text);
    }
    (void)pthread_mutex_unlock(&job->jobs->lock);
    json_out_object_end(&o);
    buf_add_byte(&body, '\n');
    if (body.failed)
        call_refuse(call, 503, err_name(E_NOMEM), "no memory for the answer");
    else
        call_answer(call, status, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

/* On the loop, which is the only one that begins anything. */
static void
begin(struct call *call, struct job *job)
{
    struct ox_task_def def = {.name = "ox-job", .step = step, .arg = job};
    struct ox_env     *env = job->jobs->env;
    struct err         err;

    env->ops->task_stop(env, job->task); /* it has ended */
    job->task = NULL;
    atomic_store(&job->begun, false);
    atomic_store(&job->stop, false);
    (void)pthread_mutex_lock(&job->jobs->lock);
    job->state = JOB_RUNNING;
    job->done = job->all = 0;
    buf_clear(&job->result);
    (void)pthread_mutex_unlock(&job->jobs->lock);
    if (env->ops->task_start(env, &def, &job->task, &err) != 0) {
        (void)pthread_mutex_lock(&job->jobs->lock);
        job->state = JOB_IDLE;
        (void)pthread_mutex_unlock(&job->jobs->lock);
        call_fail(call, &err);
        return;
    }
    answer_job(call, 202, job);
}

static bool
is_running(struct job *job)
{
    bool running;

    (void)pthread_mutex_lock(&job->jobs->lock);
    running = job->state == JOB_RUNNING;
    (void)pthread_mutex_unlock(&job->jobs->lock);
    return running;
}

/* A page in somebody's browser cannot send this type without being asked first. */
static bool
may_begin(struct call *call, struct job *job)
{
    struct slice type;

    if (!call_header(call, "content-type", &type) ||
        !slice_starts(type, slice_str("application/json")))
        call_refuse(call, 415, "unsupported-media-type", "Content-Type must be application/json");
    else if (is_running(job))
        call_refuse(call, 409, err_name(E_BUSY), "one is running: GET says how far it is");
    else
        return true;
    return false;
}

static int
read_backup(struct call *call, struct job *job, struct err *err)
{
    struct json_field f[] = {{.name = "dir", .required = true}, {.name = "rate_mib"}};
    struct buf        dir = {0};
    int               rc;

    job->rate_mib = 0;
    TRY(json_pick(call_body(call), f, 2, JSON_PICK_ONLY, err));
    if (json_type(f[0].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_DATA, "\"dir\": must be a string");
    TRY(json_string_decode(f[0].value, &dir, err));
    if (dir.len == 0 || *dir.data != '/' || dir.len >= sizeof job->dir ||
        memchr(dir.data, '\0', dir.len) != NULL)
        FAIL(err, E_INVALID, ERR_DATA, "\"dir\": must be a path from the root, as in /var/backup");
    if (f[1].value.data != NULL &&
        (!json_uint64(f[1].value, &job->rate_mib) || job->rate_mib > RATE_MAX))
        FAIL(err, E_INVALID, ERR_DATA, "\"rate_mib\": must be a number from 0 to %d", RATE_MAX);
    memcpy(job->dir, dir.data, dir.len);
    job->dir[dir.len] = '\0';
out:
    buf_fini(&dir);
    return rc;
}

/* {"subject":NAME}, and to erase {"streams":LIST} where that is given. */
static int
read_subject(struct call *call, struct job *job, bool streams, struct err *err)
{
    struct json_field f[] = {{.name = "subject", .required = true}, {.name = "streams"}};
    int               rc;

    buf_clear(&job->subject);
    buf_clear(&job->streams);
    TRY(json_pick(call_body(call), f, streams ? 2 : 1, JSON_PICK_ONLY, err));
    if (json_type(f[0].value) != JSON_STRING ||
        (f[1].value.data != NULL && json_type(f[1].value) != JSON_STRING))
        FAIL(err, E_SCHEMA, ERR_DATA, "\"subject\" and \"streams\": must be strings");
    TRY(json_string_decode(f[0].value, &job->subject, err));
    if (f[1].value.data != NULL)
        TRY(json_string_decode(f[1].value, &job->streams, err));
    TRY(subject_name_check(buf_slice(&job->subject), err));
out:
    return rc;
}

static void
post(struct call *call, struct jobs *jobs, enum job_kind kind)
{
    struct job *job = job_of(call, jobs, kind);
    struct err  err;
    int         rc = 0;

    if (job == NULL || !may_begin(call, job))
        return;
    if (kind == JOB_BACKUP)
        rc = read_backup(call, job, &err);
    else if (kind != JOB_VERIFY)
        rc = read_subject(call, job, kind == JOB_ERASE, &err);
    if (rc != 0)
        call_fail(call, &err);
    else
        begin(call, job);
}

static void
get(struct call *call, struct jobs *jobs, enum job_kind kind)
{
    struct job *job = job_of(call, jobs, kind);

    if (job != NULL)
        answer_job(call, 200, job);
}

static void
stop(struct call *call, struct jobs *jobs, enum job_kind kind)
{
    struct job *job = job_of(call, jobs, kind);

    if (job == NULL)
        return;
    atomic_store(&job->stop, true);
    answer_job(call, 202, job);
}

#define JOB_ROUTES(word, kind)                                                                     \
    static void post_##word(struct call *call, void *arg)                                          \
    {                                                                                              \
        post(call, arg, kind);                                                                     \
    }                                                                                              \
    static void get_##word(struct call *call, void *arg)                                           \
    {                                                                                              \
        get(call, arg, kind);                                                                      \
    }                                                                                              \
    static void stop_##word(struct call *call, void *arg)                                          \
    {                                                                                              \
        stop(call, arg, kind);                                                                     \
    }

JOB_ROUTES(backup, JOB_BACKUP)
JOB_ROUTES(verify, JOB_VERIFY)
JOB_ROUTES(erase, JOB_ERASE)
JOB_ROUTES(look, JOB_LOOK)

static int
put_key(void *arg, const struct subject_key *key, struct err *err)
{
    struct json_out *o = arg;

    clii_subject_json(o, key);
    return 0;
}

/* GET /v1/subjects */
static void
get_subjects(struct call *call, void *arg)
{
    struct jobs    *jobs = arg;
    struct buf      body = {0};
    struct json_out o;

    if (job_of(call, jobs, JOB_LOOK) == NULL)
        return;
    json_out_init(&o, &body);
    json_out_object(&o);
    json_out_key(&o, "subjects");
    json_out_array(&o);
    (void)subject_each(jobs->subjects, slice_of(NULL, 0), put_key, &o, NULL);
    json_out_array_end(&o);
    json_out_object_end(&o);
    buf_add_byte(&body, '\n');
    if (body.failed)
        call_refuse(call, 503, err_name(E_NOMEM), "no memory for the answer");
    else
        call_answer(call, 200, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

int
jobsi_routes(struct jobs *jobs, struct server *server, struct err *err)
{
    static const struct server_route routes[] = {
        {"POST", "/v1/backup", post_backup, BODY_MAX},
        {"GET", "/v1/backup", get_backup, 0},
        {"DELETE", "/v1/backup", stop_backup, 0},
        {"POST", "/v1/verify", post_verify, BODY_MAX},
        {"GET", "/v1/verify", get_verify, 0},
        {"DELETE", "/v1/verify", stop_verify, 0},
        {"GET", "/v1/subjects", get_subjects, 0},
        {"POST", "/v1/subjects/erase", post_erase, BODY_MAX},
        {"GET", "/v1/subjects/erase", get_erase, 0},
        {"DELETE", "/v1/subjects/erase", stop_erase, 0},
        {"POST", "/v1/subjects/show", post_look, BODY_MAX},
        {"GET", "/v1/subjects/show", get_look, 0},
        {"DELETE", "/v1/subjects/show", stop_look, 0},
    };

    return server_add_routes(server, routes, sizeof routes / sizeof routes[0], jobs, err);
}

int
jobsi_new(struct ox_env *env, struct log *log, struct ox_subjects *subjects, struct jobs **out,
          struct err *err)
{
    static const struct {
        const char *name;
        int (*run)(struct job *, struct buf *, struct err *);
    } kinds[JOB_KINDS] = {[JOB_BACKUP] = {"backup", run_backup},
                          [JOB_VERIFY] = {"verify", run_verify},
                          [JOB_ERASE] = {"erase", run_erase},
                          [JOB_LOOK] = {"show", run_look}};
    struct jobs *jobs = calloc(1, sizeof *jobs);

    *out = jobs;
    if (jobs == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    jobs->env = env;
    jobs->log = log;
    jobs->subjects = subjects;
    (void)pthread_mutex_init(&jobs->lock, NULL);
    for (int i = 0; i < JOB_KINDS; i++) {
        jobs->job[i].name = kinds[i].name;
        jobs->job[i].run = kinds[i].run;
        jobs->job[i].jobs = jobs;
    }
    return 0;
}

void
jobsi_free(struct jobs *jobs)
{
    if (jobs == NULL)
        return;
    for (int i = 0; i < JOB_KINDS; i++) {
        struct job *job = &jobs->job[i];

        atomic_store(&job->stop, true);
        jobs->env->ops->task_stop(jobs->env, job->task);
        buf_fini(&job->result);
        buf_fini(&job->subject);
        buf_fini(&job->streams);
    }
    (void)pthread_mutex_destroy(&jobs->lock);
    free(jobs);
}
