/* oxbow check, and oxbow source|sink check: every system that is named, looked at. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "cli/cli_int.h"
#include "cli/engine_int.h"
#include "core/upcast.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "sink/sink.h"
#include "source/proof.h"
#include "source/queue.h"
#include "source/source.h"
#include "store/store.h"

struct probe {
    struct cli *cli;
    char        part[256]; /* "sources.shop" */
    unsigned    missing, unreachable;
};

static void
say_finding(struct probe *p, const char *level, const char *text)
{
    struct buf      line = {0};
    struct json_out o;

    if (clii_json(p->cli)) {
        json_out_init(&o, &line);
        json_out_object(&o);
        json_out_key(&o, "part");
        json_out_str(&o, p->part);
        json_out_key(&o, "level");
        json_out_str(&o, level);
        json_out_key(&o, "text");
        json_out_str(&o, text);
        json_out_object_end(&o);
    } else {
        buf_printf(&line, "%-8s %s: ", level, p->part);
        clii_add_plain(&line, slice_str(text));
    }
    buf_add_byte(&line, '\n');
    clii_put_buf(p->cli, &line);
    buf_fini(&line);
}

static void
on_finding(void *arg, int level, const char *text)
{
    static const char *const names[] = {"ok", "warn", "missing"};
    struct probe            *p = arg;

    must(level >= 0);
    must(level <= FINDING_MISSING);
    if (level == FINDING_MISSING)
        p->missing++;
    say_finding(p, names[level], text);
}

static void
on_source_finding(void *arg, enum finding_level level, const char *text)
{
    on_finding(arg, (int)level, text);
}

static void
say_failure(struct probe *p, const struct err *err)
{
    p->unreachable++;
    say_finding(p, "fails", err->text);
}

static void
probe_proof(struct probe *p, const struct proof_ops *ops, const struct conf *conf, const char *name)
{
    struct proof *proof = NULL;
    struct err    err;

    if (source_proof_new(env_real(), ops, name, conf, &proof, &err) != 0 ||
        ops->check(proof, on_source_finding, p, &err) != 0)
        say_failure(p, &err);
    source_proof_free(proof);
}

static void
probe_queue(struct probe *p, const struct queue_ops *ops, const struct conf *conf, const char *name)
{
    struct queue_reader *reader = NULL;
    struct err           err;

    if (source_queue_new(env_real(), ops, name, conf, &reader, &err) != 0 ||
        ops->check(reader, on_source_finding, p, &err) != 0)
        say_failure(p, &err);
    source_queue_free(reader);
}

static void
probe_source(struct probe *p, const struct conf *conf, const char *name)
{
    const struct proof_ops *verifies = enginei_proof(conf_str(conf, "type"));
    struct source          *source = NULL;
    struct err              err;

    if (verifies != NULL) {
        probe_proof(p, verifies, conf, name);
        return;
    }
    if (enginei_queue(conf_str(conf, "type")) != NULL) {
        probe_queue(p, enginei_queue(conf_str(conf, "type")), conf, name);
        return;
    }
    if (source_new(env_real(), enginei_source(NULL, conf_str(conf, "type")), name, conf, &source,
                   &err) != 0 ||
        source->ops->check(source, on_source_finding, p, &err) != 0)
        say_failure(p, &err);
    source_free(source);
}

static void
probe_sink(struct probe *p, const struct conf *conf, const char *name)
{
    struct sink *sink = NULL;
    struct err   err;

    if (sink_new(env_real(), enginei_sink(NULL, conf_str(conf, "type")), name, conf, &sink, &err) !=
            0 ||
        sink->ops->check(sink, on_finding, p, &err) != 0)
        say_failure(p, &err);
    sink_free(sink);
}

static void
probe_store(struct probe *p, const struct conf *conf, const char *name)
{
    struct store *store = NULL;
    struct err    err;

    if (store_new(env_real(), enginei_store(NULL, conf_str(conf, "type")), name, conf, &store,
                  &err) != 0 ||
        store->ops->check(store, on_finding, p, &err) != 0)
        say_failure(p, &err);
    store_free(store);
}

static void
probe_migration(struct probe *p, const struct conf *conf, const char *name)
{
    static const char *const sides[] = {"old", "new"};

    for (int i = 0; i < 2; i++) {
        const struct conf *side = conf_child(conf, sides[i]);

        (void)snprintf(p->part, sizeof p->part, "migrations.%s.%s.source", name, sides[i]);
        probe_source(p, conf_child(side, "source"), name);
        (void)snprintf(p->part, sizeof p->part, "migrations.%s.%s.store", name, sides[i]);
        probe_store(p, conf_child(side, "store"), name);
    }
}

/* The folder is only read; one that a server has is at work. */
static void
probe_log(struct probe *p, struct cli *c)
{
    struct log_conf conf = {.index = &log_index_lmdb, .read_only = true};
    struct log     *log = NULL;
    struct err      err;
    char            text[ERR_TEXT_MAX];
    int             rc = log_open(env_real(), clii_data(c), &conf, NULL, &log, &err);

    (void)snprintf(p->part, sizeof p->part, "data");
    if (rc == 0)
        (void)snprintf(text, sizeof text, "%s is a data folder", clii_data(c));
    else if (rc == E_NOTFOUND)
        (void)snprintf(text, sizeof text, "%s is not there yet: it is made at the first start",
                       clii_data(c));
    else if (rc == E_BUSY)
        (void)snprintf(text, sizeof text, "%s is in use by another process", clii_data(c));
    if (rc != 0 && rc != E_NOTFOUND && rc != E_BUSY)
        say_failure(p, &err);
    else
        on_finding(p, rc == E_BUSY ? FINDING_WARN : FINDING_OK, text);
    log_close(log);
}

static int
load(struct cli *c, struct conf **root, struct err *err)
{
    if (c->opt[OPT_CONF] == NULL)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "%s: needs -c FILE, the configuration",
                   c->command->name);
    return enginei_config_load(c, c->opt[OPT_CONF], root, err);
}

static int
verdict(struct probe *p, struct err *err)
{
    if (p->unreachable > 0) {
        p->cli->opening = true; /* exit status 3 */
        RETURN_ERR(err, E_CONNECT, ERR_FATAL, "%u of the systems named cannot be used; see above",
                   p->unreachable);
    }
    if (p->missing > 0)
        RETURN_ERR(err, E_STATE, ERR_FATAL, "%u thing%s missing; the lines above say how to set %s",
                   p->missing, p->missing == 1 ? " is" : "s are", p->missing == 1 ? "it" : "them");
    return 0;
}

int
clii_check(struct cli *c, struct err *err)
{
    struct probe       p = {.cli = c};
    struct upcasts    *upcasts = NULL;
    struct conf       *root = NULL;
    const struct conf *x;
    int                rc = 0;

    TRY(load(c, &root, err));
    (void)snprintf(p.part, sizeof p.part, "%s", c->opt[OPT_CONF]);
    TRY(enginei_upcasts(root, &upcasts, err));
    say_finding(&p, "ok", "the configuration is well-formed");
    if (c->opt[OPT_DATA] == NULL)
        c->opt[OPT_DATA] = conf_str(root, "data");
    probe_log(&p, c);
    for (x = conf_first(conf_child(root, "sources")); x != NULL; x = conf_next(x)) {
        (void)snprintf(p.part, sizeof p.part, "sources.%s", conf_key(x));
        probe_source(&p, x, conf_key(x));
    }
    for (x = conf_first(conf_child(root, "sinks")); x != NULL; x = conf_next(x)) {
        (void)snprintf(p.part, sizeof p.part, "sinks.%s", conf_key(x));
        probe_sink(&p, x, conf_key(x));
    }
    for (x = conf_first(conf_child(root, "migrations")); x != NULL; x = conf_next(x))
        probe_migration(&p, x, conf_key(x));
    rc = verdict(&p, err);
out:
    c->opt[OPT_DATA] = NULL;
    upcast_set_free(upcasts);
    conf_free(root);
    return rc;
}

/* source prepare|unprepare|check NAME */

/* "NAME", or "MIGRATION.old" and "MIGRATION.new" for the sides of a migration. */
static const struct conf *
find_source(const struct conf *root, const char *name)
{
    const char *dot = strrchr(name, '.');
    size_t      len = dot == NULL ? strlen(name) : (size_t)(dot - name);

    for (const struct conf *x = conf_first(conf_child(root, "sources")); x != NULL;
         x = conf_next(x))
        if (strcmp(conf_key(x), name) == 0)
            return x;
    if (dot == NULL || (strcmp(dot + 1, "old") != 0 && strcmp(dot + 1, "new") != 0))
        return NULL;
    for (const struct conf *x = conf_first(conf_child(root, "migrations")); x != NULL;
         x = conf_next(x))
        if (strlen(conf_key(x)) == len && strncmp(conf_key(x), name, len) == 0)
            return conf_child(conf_child(x, dot + 1), "source");
    return NULL;
}

enum source_work {
    SOURCE_CHECK,
    SOURCE_PREPARE,
    SOURCE_UNPREPARE,
};

static int
work_on_queue(struct probe *p, enum source_work work, const struct queue_ops *ops,
              const struct conf *conf, const char *instance, struct err *err)
{
    struct queue_reader *reader = NULL;
    bool                 dry = p->cli->opt[OPT_DRY_RUN] != NULL;
    int                  rc;

    if (work == SOURCE_CHECK) {
        probe_queue(p, ops, conf, instance);
        return verdict(p, err);
    }
    p->cli->opening = true;
    TRY(source_queue_new(env_real(), ops, instance, conf, &reader, err));
    p->cli->opening = false;
    if (work == SOURCE_PREPARE)
        rc = ops->prepare(reader, dry, on_source_finding, p, err);
    else
        rc = ops->unprepare(reader, on_source_finding, p, err);
out:
    source_queue_free(reader);
    return rc;
}

static int
work_on_source(struct cli *c, enum source_work work, struct err *err)
{
    struct probe       p = {.cli = c};
    struct conf       *root = NULL;
    struct source     *source = NULL;
    const struct conf *conf;
    const char        *name = c->args[0];
    size_t             len = strcspn(name, ".");
    char               instance[128];
    bool               dry = c->opt[OPT_DRY_RUN] != NULL;
    int                rc = 0;

    TRY(load(c, &root, err));
    conf = find_source(root, name);
    if (conf == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: no such source is in %s", name, c->opt[OPT_CONF]);
    (void)snprintf(instance, sizeof instance, "%.*s", (int)len, name);
    if (enginei_proof(conf_str(conf, "type")) != NULL) {
        (void)snprintf(p.part, sizeof p.part, "%s", name);
        probe_proof(&p, enginei_proof(conf_str(conf, "type")), conf, instance);
        rc = verdict(&p, err);
        goto out;
    }
    (void)snprintf(p.part, sizeof p.part, "%s", name);
    if (enginei_queue(conf_str(conf, "type")) != NULL) {
        rc = work_on_queue(&p, work, enginei_queue(conf_str(conf, "type")), conf, instance, err);
        goto out;
    }
    c->opening = true;
    TRY(source_new(env_real(), enginei_source(NULL, conf_str(conf, "type")), instance, conf,
                   &source, err));
    c->opening = false;
    if (work == SOURCE_PREPARE)
        TRY(source->ops->prepare(source, dry, on_source_finding, &p, err));
    else if (work == SOURCE_UNPREPARE)
        TRY(source->ops->unprepare(source, on_source_finding, &p, err));
    else
        TRY(source->ops->check(source, on_source_finding, &p, err));
    if (work == SOURCE_CHECK)
        rc = verdict(&p, err);
out:
    source_free(source);
    conf_free(root);
    return rc;
}

int
clii_source_check(struct cli *c, struct err *err)
{
    return work_on_source(c, SOURCE_CHECK, err);
}

int
clii_source_prepare(struct cli *c, struct err *err)
{
    return work_on_source(c, SOURCE_PREPARE, err);
}

int
clii_source_unprepare(struct cli *c, struct err *err)
{
    return work_on_source(c, SOURCE_UNPREPARE, err);
}
