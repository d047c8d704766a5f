/*
 * What a configuration makes: sources that are captured, sinks that are
 * delivered to, and migrations, over one log. `oxbow serve` holds it, starts
 * what the configuration has, and shows it over HTTP.
 *
 * Threads: the server's loop looks parts up and reads their snapshots under
 * the engine's lock; a task of its own opens, retries and stops them, which
 * may block; another answers those who wait for a route.
 */
#ifndef OX_CLI_ENGINE_INT_H
#define OX_CLI_ENGINE_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/env.h"
#include "base/err.h"
#include "base/slice.h"
#include "migrate/tracer/tracer.h"

struct trace_queue;
struct upcasts;

struct capture;
struct proof_ops;
struct queue;
struct queue_ops;
struct verify;
struct cli;
struct deliver;
struct later;
struct log;
struct server;
struct sink_ops;
struct source_ops;
struct store_ops;

/* drivers that this build has */

const struct source_ops *enginei_source(void *arg, const char *type); /* NULL: none such */
const struct proof_ops  *enginei_proof(const char *type);
const struct queue_ops  *enginei_queue(const char *type);
const struct sink_ops   *enginei_sink(void *arg, const char *type);
const struct store_ops  *enginei_store(void *arg, const char *type);
/* What no schema can check of a sink: where it starts, its filter and its transform. */
int enginei_sink_check(const struct conf *conf, struct err *err);
/* For conf_opts.driver. */
bool enginei_driver(void *arg, const char *family, size_t i, struct conf_driver *out);

/* the configuration */

/* A file into a checked tree; all problems are on stderr, the first in err. */
/* A file of at most 1 MiB, for the callbacks of a configuration. */
int enginei_read_file(void *arg, const char *path, struct buf *out, struct err *err);
int enginei_config_load(struct cli *c, const char *file, struct conf **out, struct err *err);

/* retention, quotas, limits */

struct log_retention;
struct server;

/* The list is the caller's to free; its texts are the tree's. */
int enginei_retention(const struct conf *root, struct log_retention **list, uint32_t *count,
                      struct err *err);
int enginei_permissions(const struct conf *root, struct server *server, struct err *err);
int enginei_quotas(const struct conf *root, struct server *server, struct err *err);
/* The caller frees them. */
int enginei_upcasts(const struct conf *root, struct upcasts **out, struct err *err);

/* parts */

enum part_kind {
    PART_SOURCE,
    PART_SINK,
    PART_MIGRATION,
};

/* A checked tree that parts hold on to. */
struct engine_tree {
    struct conf *root;
    unsigned     refs;
};

struct part {
    enum part_kind      kind;
    char               *name;
    struct buf          shown; /* its configuration as JSON, without secrets */
    const struct conf  *conf;
    struct engine_tree *tree;
    struct capture     *capture; /* one of these, where it is open */
    struct verify      *verify;  /* of a source that verifies messages */
    struct queue       *queue;   /* of a source that consumes a queue */
    struct deliver     *deliver;
    struct tracer      *tracer;
    char                error[ERR_TEXT_MAX]; /* why it is not open */
    uint64_t            retry_at_us;
    struct part        *next;

    /* migrations: who waits for the route, and who is told of every change */
    struct tracer_listener listener;
    struct engine_waiter  *waiters;
    uint64_t               epoch_said;
    int                    side_said;
};

struct engine_waiter {
    struct later         *later;
    struct engine_waiter *next;
    struct buf            key, consumer;
    uint64_t              until_us; /* of one answer */
    bool                  stream;   /* of all changes, until the client goes */
    bool                  said;
    uint64_t              epoch;
    enum tracer_side      side;
};

struct engine {
    struct ox_env      *env;
    struct log         *log;
    struct cli         *cli;
    struct server      *server; /* once its routes are there */
    pthread_mutex_t     lock;   /* the parts and their waiters */
    struct part        *parts;
    unsigned            waiter_count;
    struct ox_task     *keeper, *pusher;
    atomic_bool         reload;
    struct tracer_deps  deps;
    struct trace_queue *traces; /* NULL: nobody wants spans */
};

/* Starts what the tree has; the tree is taken over. */
int  enginei_new(struct cli *c, struct log *log, struct trace_queue *traces, struct conf **root,
                 struct engine **out, struct err *err);
void enginei_free(struct engine *e); /* stops everything; NULL is fine */

/* Reads the configuration again, soon. Any thread. */
void enginei_reload(void *engine);

/* What the log and the server are told anew when the configuration is read again. */
int enginei_limits_apply(struct engine *e, const struct conf *root, struct err *err);

/* Under the lock. */
struct part *enginei_find(struct engine *e, enum part_kind kind, struct slice name);

/* The routes /v1/sources, /v1/sinks and /v1/migrations. */
int enginei_routes(struct engine *e, struct server *server, struct err *err);

/* log.scavenge of the configuration: what no schema can check, and the task that keeps to it. */
struct scavenge_plan;
int  enginei_scavenge_check(const struct conf *root, struct err *err);
int  enginei_scavenge_new(struct ox_env *env, struct log *log, const struct conf *root,
                          struct scavenge_plan **out, struct err *err);
void enginei_scavenge_free(struct scavenge_plan *p); /* NULL is fine */
/* When the next one begins, not before `now`; `at`: of the day in UTC, -1: none. All in µs. */
int64_t enginei_scavenge_next(int64_t now, int64_t last, int64_t every, int64_t at);

/* POST /v1/sources/{name}/unverified. */
struct call;
void enginei_post_unverified(struct call *call, void *engine);
/* What sources have for people and for metrics; under the lock. */
struct json_out;
void enginei_put_verify(struct json_out *o, struct verify *verify);
void enginei_put_source_metrics(struct engine *e, struct buf *out);

/* Sources that consume a queue (cli/queue.c). */
int enginei_queue_check(const struct conf *root, const struct conf *conf, struct err *err);
int
enginei_queue_open(struct engine *e, struct part *p, const struct queue_ops *ops, struct err *err);
bool enginei_queue_failed(struct queue *queue);
void enginei_put_queue(struct json_out *o, struct queue *queue);
void enginei_put_queue_metrics(struct engine *e, struct buf *out);
/* POST /v1/sources/{name}/{command} */
void enginei_queue_command(struct call *call, struct queue *queue);

/* GET /v1/migrations/{name}/route. */
void enginei_get_route(struct call *call, void *engine);

/* Answers waiters of all migrations whose route is decided; under the lock. µs until the next. */
uint64_t enginei_push(struct engine *e);
/* Ends everybody's waiting; under the lock. */
void enginei_drop_waiters(struct engine *e, struct part *part);

#endif
