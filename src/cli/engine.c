/* Starting, watching and stopping what the configuration has. */
#include "cli/engine_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "base/say.h"
#include "cli/cli_int.h"
#include "core/capture.h"
#include "core/deliver.h"
#include "core/queue.h"
#include "core/verify.h"
#include "env/env_real.h"
#include "sink/sink.h"
#include "source/outbox.h"
#include "source/proof.h"
#include "source/source.h"
#include "store/store.h"
#include "transform/transform.h"

#define RETRY_US 5000000

static const char *const sections[] = {"sources", "sinks", "migrations"};
static const char *const kinds[] = {"source", "sink", "migration"};

/* opening */

static int
open_verify(struct engine *e, struct part *p, const struct proof_ops *ops, struct err *err)
{
    struct verify_conf conf = {.name = p->name,
                               .stream = conf_str(p->conf, "stream"),
                               .delay_us = conf_duration_us(p->conf, "delay"),
                               .deadline_us = conf_duration_us(p->conf, "deadline"),
                               .discard = conf_enum(p->conf, "absent") == 1,
                               .window = (uint32_t)conf_int(p->conf, "window")};
    struct proof      *proof = NULL;
    struct verify     *verify = NULL;
    int                rc;

    TRY(source_proof_new(e->env, ops, p->name, p->conf, &proof, err));
    TRY(verify_new(e->env, e->log, &conf, &proof, &verify, err));
    TRY(verify_start(verify, err));
    (void)pthread_mutex_lock(&e->lock);
    p->verify = verify;
    (void)pthread_mutex_unlock(&e->lock);
    verify = NULL;
out:
    verify_free(verify);
    source_proof_free(proof);
    return rc;
}

/* Whether rows of the source are an outbox's, and how they are read. */
static bool
is_outbox(const struct part *p, const struct source_ops *ops, struct outbox_conf *out)
{
    if (ops->outbox) {
        source_outbox_read(p->conf, out);
        out->table = conf_str(p->conf, "table");
        return true;
    }
    if (!conf_has(p->conf, "outbox"))
        return false;
    source_outbox_read_all(conf_child(p->conf, "outbox"), out);
    return true;
}

static int
open_source(struct engine *e, struct part *p, struct err *err)
{
    const struct source_ops *ops = enginei_source(NULL, conf_str(p->conf, "type"));
    struct outbox_conf       outbox;
    struct capture_conf      conf = {.name = p->name,
                                     .category = conf_str(p->conf, "category"),
                                     .batch_max = (uint32_t)conf_int(p->conf, "batch"),
                                     .transactions = conf_bool(p->conf, "transactions")};
    struct source           *source = NULL;
    struct capture          *capture = NULL;
    int                      rc = 0;

    if (is_outbox(p, ops, &outbox))
        conf.outbox = &outbox;
    TRY(source_new(e->env, ops, p->name, p->conf, &source, err));
    TRY(capture_new(e->env, e->log, &conf, &source, &capture, err));
    TRY(capture_start(capture, err));
    (void)pthread_mutex_lock(&e->lock);
    p->capture = capture;
    (void)pthread_mutex_unlock(&e->lock);
    capture = NULL;
out:
    capture_free(capture);
    source_free(source);
    return rc;
}

/* What is given to it: the filter and the transform. */
static int
read_steps(const struct conf *conf, struct deliver_conf *out, struct err *err)
{
    const struct transform_opts opts = {.name = "transform", .read_file = enginei_read_file};
    const struct conf          *when = conf_child(conf_child(conf, "events"), "when");
    const struct conf          *transform = conf_child(conf, "transform");
    int                         rc = 0;

    if (when != NULL)
        TRY(transform_filter_from_conf(when, &opts, &out->filter, err));
    if (transform != NULL) {
        TRY(transform_from_conf(transform, &opts, &out->transform, err));
        TRY(transform_deliver_check(out->transform, err));
    }
out:
    if (rc != 0) {
        transform_free(out->filter);
        transform_free(out->transform);
        out->filter = out->transform = NULL;
    }
    return rc;
}

/* beginning, end, a position or a time */
static int
read_from(const struct conf *conf, struct deliver_conf *out, struct err *err)
{
    const char *from = conf_str(conf, "from");

    out->from = DELIVER_POSITION;
    if (strcmp(from, "beginning") == 0)
        out->from = DELIVER_BEGINNING;
    else if (strcmp(from, "end") == 0 || strcmp(from, "now") == 0)
        out->from = DELIVER_END;
    else if (json_uint64(slice_str(from), &out->position.v))
        return 0;
    else if (time_parse(slice_str(from), &out->time_us))
        out->from = DELIVER_TIME;
    else
        return conf_fail(conf_child(conf, "from"), err,
                         "must be beginning, now, a position or a time");
    return 0;
}

int
enginei_sink_check(const struct conf *conf, struct err *err)
{
    struct deliver_conf out = {0};
    int                 rc;

    const char *at = conf_str(conf, "deliver_at");

    if (at != NULL && strncmp(at, "data.", 5) != 0 && strncmp(at, "metadata.", 9) != 0)
        return conf_fail(conf_child(conf, "deliver_at"), err, "must begin with data. or metadata.");
    TRY(read_from(conf, &out, err));
    TRY(read_steps(conf, &out, err));
    transform_free(out.filter);
    transform_free(out.transform);
out:
    return rc;
}

static int
open_sink(struct engine *e, struct part *p, struct err *err)
{
    const struct conf  *events = conf_child(p->conf, "events");
    const char         *links = conf_str(p->conf, "links");
    struct deliver_conf conf = {
        .name = p->name,
        .category = conf_str(events, "category"),
        .prefix = conf_str(events, "prefix"),
        .type = conf_str(events, "type"),
        .skip_moved = strcmp(conf_str(p->conf, "moved"), "skip") == 0,
        .resolve_links = strcmp(links, "resolve") == 0,
        .deliver_links = strcmp(links, "deliver") == 0,
        .deliver_at = conf_str(p->conf, "deliver_at"),
        .delay_us = conf_duration_us(p->conf, "delay"),
        .parked_pass = strcmp(conf_str(p->conf, "parked"), "pass") == 0,
        .attempts_max = (uint32_t)conf_int(p->conf, "attempts"),
        .retry_for_us = conf_duration_us(p->conf, "retry_for"),
        .traces = e->traces,
        .retry_min_ms = (uint32_t)(conf_duration_us(p->conf, "retry_min") / 1000),
        .retry_max_ms = (uint32_t)(conf_duration_us(p->conf, "retry_max") / 1000)};
    struct sink    *sink = NULL;
    struct deliver *deliver = NULL;
    int             rc = 0;

    conf.system = conf.prefix != NULL && conf.prefix[0] == '$';
    TRY(read_from(p->conf, &conf, err));
    TRY(sink_new(e->env, enginei_sink(NULL, conf_str(p->conf, "type")), p->name, p->conf, &sink,
                 err));
    TRY(read_steps(p->conf, &conf, err));
    TRY(deliver_new(e->env, e->log, &conf, &sink, &deliver, err));
    TRY(deliver_start(deliver, err));
    (void)pthread_mutex_lock(&e->lock);
    p->deliver = deliver;
    (void)pthread_mutex_unlock(&e->lock);
    deliver = NULL;
out:
    deliver_free(deliver);
    sink_free(sink);
    return rc;
}

static void
on_route(struct tracer_listener *l)
{
    struct engine *e = l->arg;

    e->env->ops->task_wake(e->env, e->pusher);
}

static int
open_migration(struct engine *e, struct part *p, struct err *err)
{
    struct tracer *tracer = NULL;
    int            rc = 0;

    TRY(tracer_open(&e->deps, p->name, p->conf, &tracer, err));
    p->listener = (struct tracer_listener){.wake = on_route, .arg = e};
    tracer_listen(tracer, &p->listener);
    (void)pthread_mutex_lock(&e->lock);
    p->tracer = tracer;
    (void)pthread_mutex_unlock(&e->lock);
out:
    return rc;
}

/* One that cannot be opened is tried again: it must not keep the others from their work. */
static void
open_part(struct engine *e, struct part *p)
{
    struct err err;
    int        rc;

    err_clear(&err);
    if (p->kind == PART_SOURCE && enginei_proof(conf_str(p->conf, "type")) != NULL)
        rc = open_verify(e, p, enginei_proof(conf_str(p->conf, "type")), &err);
    else if (p->kind == PART_SOURCE && enginei_queue(conf_str(p->conf, "type")) != NULL)
        rc = enginei_queue_open(e, p, enginei_queue(conf_str(p->conf, "type")), &err);
    else if (p->kind == PART_SOURCE)
        rc = open_source(e, p, &err);
    else if (p->kind == PART_SINK)
        rc = open_sink(e, p, &err);
    else
        rc = open_migration(e, p, &err);
    (void)pthread_mutex_lock(&e->lock);
    if (rc != 0 && strcmp(p->error, err.text) != 0)
        say(SAY_ERROR, "cannot start", kinds[p->kind], p->name, "why", err.text, NULL);
    if (rc == 0)
        say(SAY_INFO, "started", kinds[p->kind], p->name, NULL);
    (void)snprintf(p->error, sizeof p->error, "%s", rc == 0 ? "" : err.text);
    p->retry_at_us = e->env->ops->mono_us(e->env) + RETRY_US;
    (void)pthread_mutex_unlock(&e->lock);
}

static void
tree_drop(struct engine_tree *tree)
{
    if (tree == NULL || --tree->refs > 0)
        return;
    conf_free(tree->root);
    free(tree);
}

/* It is in no list any more. */
static void
part_free(struct part *p)
{
    if (p == NULL)
        return;
    must(p->waiters == NULL);
    capture_free(p->capture);
    verify_free(p->verify);
    queue_free(p->queue);
    deliver_free(p->deliver);
    if (p->tracer != NULL)
        tracer_unlisten(p->tracer, &p->listener);
    tracer_close(p->tracer);
    tree_drop(p->tree);
    buf_fini(&p->shown);
    free(p->name);
    free(p);
}

static struct part *
part_new(enum part_kind kind, const struct conf *conf, struct engine_tree *tree)
{
    struct part    *p = calloc(1, sizeof *p);
    struct json_out o;

    if (p == NULL)
        return NULL;
    p->kind = kind;
    p->conf = conf;
    p->tree = tree;
    tree->refs++;
    p->name = strdup(conf_key(conf));
    json_out_init(&o, &p->shown);
    conf_put_json(conf, &o);
    if (p->name == NULL || p->shown.failed) {
        part_free(p);
        return NULL;
    }
    return p;
}

struct part *
enginei_find(struct engine *e, enum part_kind kind, struct slice name)
{
    for (struct part *p = e->parts; p != NULL; p = p->next)
        if (p->kind == kind && slice_is(name, p->name))
            return p;
    return NULL;
}

/* Takes one out of the list and stops it. */
static void
remove_part(struct engine *e, struct part *p)
{
    struct part **at = &e->parts;

    (void)pthread_mutex_lock(&e->lock);
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    enginei_drop_waiters(e, p);
    (void)pthread_mutex_unlock(&e->lock);
    say(SAY_INFO, "stopping", kinds[p->kind], p->name, NULL);
    part_free(p);
}

static struct part *
add_part(struct engine *e, enum part_kind kind, const struct conf *conf, struct engine_tree *tree)
{
    struct part  *p = part_new(kind, conf, tree);
    struct part **at = &e->parts;

    if (p == NULL)
        return NULL;
    (void)pthread_mutex_lock(&e->lock);
    while (*at != NULL)
        at = &(*at)->next;
    *at = p;
    (void)pthread_mutex_unlock(&e->lock);
    return p;
}

static bool
has_failed(const struct part *p)
{
    struct capture_status *s;
    struct verify_status   v = {0};
    bool                   failed = false;

    if (p->verify != NULL) {
        verify_get_status(p->verify, &v);
        return v.state == VERIFY_FAILED;
    }
    if (p->queue != NULL)
        return enginei_queue_failed(p->queue);
    s = p->capture == NULL ? NULL : malloc(sizeof *s);
    if (s != NULL) {
        capture_get_status(p->capture, s);
        failed = s->state == CAPTURE_FAILED;
        free(s);
    }
    return failed;
}

/*
 * Whether the tree has the part as it is now. A secret that changed does not
 * show: those begin anew.
 */
static bool
is_kept(const struct part *p, const struct conf *root)
{
    const struct conf *all = conf_child(root, sections[p->kind]);
    struct buf         text = {0};
    bool               kept = false;

    for (const struct conf *x = conf_first(all); x != NULL && !kept; x = conf_next(x)) {
        struct json_out o;

        if (strcmp(conf_key(x), p->name) != 0)
            continue;
        json_out_init(&o, &text);
        conf_put_json(x, &o);
        kept = slice_eq(buf_slice(&text), buf_slice(&p->shown)) &&
               memmem(text.data, text.len, "***", 3) == NULL;
        break;
    }
    buf_fini(&text);
    return kept;
}

/* The parts as the tree has them; takes the tree over. On the keeper, or before it runs. */
static int
apply(struct engine *e, struct conf *root, struct err *err)
{
    struct engine_tree *tree = calloc(1, sizeof *tree);
    struct part        *next;
    int                 rc = 0;

    if (tree == NULL) {
        conf_free(root);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    }
    *tree = (struct engine_tree){root, 1};
    for (struct part *p = e->parts; p != NULL; p = next) {
        next = p->next;
        if (has_failed(p) || !is_kept(p, root))
            remove_part(e, p);
    }
    for (int kind = 0; kind < 3; kind++) {
        const struct conf *all = conf_child(root, sections[kind]);

        for (const struct conf *x = conf_first(all); x != NULL; x = conf_next(x)) {
            struct part *p;

            if (enginei_find(e, (enum part_kind)kind, slice_str(conf_key(x))) != NULL)
                continue;
            p = add_part(e, (enum part_kind)kind, x, tree);
            if (p == NULL)
                FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
            open_part(e, p);
        }
    }
out:
    tree_drop(tree);
    return rc;
}

static void
reload(struct engine *e)
{
    struct cli   quiet = *e->cli; /* its state is the main thread's */
    struct conf *root;
    struct err   err;
    int          rc;

    rc = enginei_config_load(&quiet, e->cli->opt[OPT_CONF], &root, &err);
    if (rc == 0) {
        rc = enginei_limits_apply(e, root, &err);
        if (rc != 0)
            conf_free(root);
        else
            rc = apply(e, root, &err);
    }
    if (rc != 0)
        say(SAY_ERROR, "the configuration was not taken over", "why", err.text, NULL);
    else
        say(SAY_INFO, "configuration reloaded", NULL);
}

static uint64_t
keep(void *arg)
{
    struct engine *e = arg;
    uint64_t       now, wait = ENV_STEP_WAIT;

    if (atomic_exchange(&e->reload, false))
        reload(e);
    now = e->env->ops->mono_us(e->env);
    /* Only this task changes the list. */
    for (struct part *p = e->parts; p != NULL; p = p->next) {
        if (p->capture != NULL || p->verify != NULL || p->queue != NULL || p->deliver != NULL ||
            p->tracer != NULL)
            continue;
        if (p->retry_at_us <= now)
            open_part(e, p);
        wait = RETRY_US;
    }
    return wait;
}

static uint64_t
push(void *arg)
{
    struct engine *e = arg;
    uint64_t       wait;

    (void)pthread_mutex_lock(&e->lock);
    wait = enginei_push(e);
    (void)pthread_mutex_unlock(&e->lock);
    return wait;
}

int
enginei_new(struct cli *c, struct log *log, struct trace_queue *traces, struct conf **root,
            struct engine **out, struct err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    int            rc = 0;

    *out = NULL;
    if (e == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    e->env = env_real();
    e->log = log;
    e->cli = c;
    e->traces = traces;
    e->deps = (struct tracer_deps){
        .env = e->env, .log = log, .source = enginei_source, .store = enginei_store};
    (void)pthread_mutex_init(&e->lock, NULL);
    TRY(e->env->ops->task_start(
        e->env, &(struct ox_task_def){.name = "pusher", .step = push, .arg = e}, &e->pusher, err));
    rc = apply(e, *root, err);
    *root = NULL;
    if (rc != 0)
        goto out;
    TRY(e->env->ops->task_start(
        e->env, &(struct ox_task_def){.name = "keeper", .step = keep, .arg = e}, &e->keeper, err));
    *out = e;
    e = NULL;
out:
    enginei_free(e);
    return rc;
}

void
enginei_free(struct engine *e)
{
    if (e == NULL)
        return;
    e->env->ops->task_stop(e->env, e->keeper);
    while (e->parts != NULL)
        remove_part(e, e->parts);
    e->env->ops->task_stop(e->env, e->pusher);
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}

void
enginei_reload(void *engine)
{
    struct engine *e = engine;

    if (e->cli->opt[OPT_CONF] == NULL) {
        say(SAY_WARN, "there is no configuration file to read again", NULL);
        return;
    }
    atomic_store(&e->reload, true);
    e->env->ops->task_wake(e->env, e->keeper);
}
