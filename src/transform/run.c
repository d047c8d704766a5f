/* One run of a transform over one stream, or event by event at read time. */
#include <stdlib.h>

#include "base/must.h"
#include "base/utf8.h"
#include "transform/transform_int.h"

struct transform_run {
    const struct transform       *t;
    struct transformi_rules_run  *rules;
    struct transformi_script_run *script;
    bool                          open; /* between begin and end */
    bool                          used; /* the script has had a stream before this one */
    uint64_t                      next; /* ordinal of the next input */
    transform_emit_fn            *emit;
    void                         *arg;
    struct buf                    stream;
    atomic_bool                   stop;
};

int
transformi_out_check(const struct transform_out *out, struct slice type, struct err *err)
{
    if (out->type.len == 0 || out->type.len > TRANSFORM_NAME_MAX || !utf8_valid(out->type))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "a type must have 1 to %d bytes of UTF-8, not %zu",
                   TRANSFORM_NAME_MAX, out->type.len);
    if (*(const char *)out->type.data == '$' && !slice_eq(out->type, type))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "types that begin with '$' are the engine's");
    if (out->data.len + out->meta.len > TRANSFORM_EVENT_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "data and metadata of %zu bytes, where %zu are possible",
                   out->data.len + out->meta.len, TRANSFORM_EVENT_MAX);
    if (out->stream.data == NULL)
        return 0;
    if (out->stream.len == 0 || out->stream.len > TRANSFORM_NAME_MAX || !utf8_valid(out->stream))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "a stream's name must have 1 to %d bytes of UTF-8, not %zu", TRANSFORM_NAME_MAX,
                   out->stream.len);
    if (*(const char *)out->stream.data == '$')
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "streams that begin with '$' are the engine's");
    return 0;
}

int
transform_run_new(const struct transform *t, struct transform_run **out, struct err *err)
{
    struct transform_run *run = calloc(1, sizeof *run);
    int                   rc = 0;

    *out = NULL;
    if (run == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for a run of a transform");
    run->t = t;
    atomic_init(&run->stop, false);
    if (t->rules != NULL)
        TRY(transformi_rules_run_new(t->rules, &run->rules, err));
    *out = run;
    run = NULL;
out:
    transform_run_free(run);
    return rc;
}

void
transform_run_free(struct transform_run *run)
{
    if (run == NULL)
        return;
    transformi_rules_run_free(run->rules);
    transformi_script_run_free(run->script);
    buf_fini(&run->stream);
    free(run);
}

void
transform_interrupt(struct transform_run *run)
{
    atomic_store(&run->stop, true);
}

static int
check_stop(const struct transform_run *run, struct err *err)
{
    if (atomic_load(&run->stop))
        RETURN_ERR(err, E_INTERRUPTED, ERR_RETRY, "%s: was stopped", run->t->name);
    return 0;
}

static int
fresh_script(struct transform_run *run, unsigned may, struct err *err)
{
    transformi_script_run_free(run->script);
    run->script = NULL;
    return transformi_script_run_new(run->t->script, may, &run->stop, &run->script, err);
}

/* What failed cannot go on: only a new stream can. */
static void
failed(struct transform_run *run, const struct transform_event *in, struct err *err)
{
    run->open = false;
    transformi_script_run_free(run->script);
    run->script = NULL;
    if (in != NULL)
        err_prefix(err, "event %llu of stream \"%.*s\"", (unsigned long long)in->version,
                   SLICE_FMT(in->stream));
    else
        err_prefix(err, "stream \"%.*s\"", SLICE_FMT(buf_slice(&run->stream)));
}

int
transform_begin(struct transform_run *run, struct slice stream, transform_emit_fn *emit, void *arg,
                struct err *err)
{
    int rc;

    run->open = false;
    run->next = 0;
    run->emit = emit;
    run->arg = arg;
    buf_clear(&run->stream);
    buf_add_slice(&run->stream, stream);
    TRY(check_stop(run, err));
    if (run->t->script != NULL) {
        run->used = run->script != NULL && transformi_script_reusable(run->script);
        if (!run->used)
            TRY(fresh_script(run, run->t->may, err));
        rc = transformi_script_begin(run->script, stream, err);
        if (rc != 0) {
            failed(run, NULL, err);
            goto out;
        }
    }
    run->open = true;
out:
    return rc;
}

bool
transform_again(struct transform_run *run, int rc)
{
    if (rc != E_LIMIT || !run->used)
        return false;
    transformi_script_run_free(run->script);
    run->script = NULL;
    run->open = run->used = false;
    return true;
}

static int
one_event(struct transform_run *run, const struct transform_event *in, transform_emit_fn *emit,
          void *arg, struct err *err)
{
    int rc;

    TRY(check_stop(run, err));
    if (run->rules != NULL)
        rc = transformi_rules_event(run->rules, in, run->next, emit, arg, err);
    else
        rc = transformi_script_event(run->script, in, run->next, emit, arg, err);
    if (rc != 0)
        failed(run, in, err);
out:
    return rc;
}

int
transform_event(struct transform_run *run, const struct transform_event *in, struct err *err)
{
    int rc;

    if (!run->open)
        RETURN_ERR(err, E_STATE, ERR_FATAL, "%s: the run has no stream", run->t->name);
    TRY(one_event(run, in, run->emit, run->arg, err));
    run->next++;
out:
    return rc;
}

int
transform_end(struct transform_run *run, struct err *err)
{
    int rc = 0;

    if (!run->open)
        RETURN_ERR(err, E_STATE, ERR_FATAL, "%s: the run has no stream", run->t->name);
    run->open = false;
    if (run->script == NULL)
        return 0;
    TRY(check_stop(run, err));
    rc = transformi_script_end(run->script, run->emit, run->arg, err);
    if (rc != 0)
        failed(run, NULL, err);
out:
    return rc;
}

struct upcasted {
    struct transform_out *out;
    size_t                count;
};

static int
keep_one(void *arg, const struct transform_out *out, struct err *err)
{
    struct upcasted *u = arg;

    *u->out = *out;
    u->count++;
    return 0;
}

/* By itself, without begin; as many outputs as `may` allows. */
static int
alone(struct transform_run *run, const struct transform_event *in, unsigned may,
      struct upcasted *to, struct err *err)
{
    static const uint64_t none = 0;
    int                   rc = 0;

    must(!run->open);
    run->next = 0;
    if (run->t->script != NULL && run->script == NULL)
        TRY(fresh_script(run, may, err));
    TRY(one_event(run, in, keep_one, to, err));
    to->out->origins = &none;
    to->out->origin_count = 1;
out:
    return rc;
}

int
transform_upcast(struct transform_run *run, const struct transform_event *in,
                 struct transform_out *out, struct err *err)
{
    struct upcasted u = {out, 0};
    int             rc = alone(run, in, TRANSFORM_CHANGE, &u, err);

    must(rc != 0 || u.count == 1); /* the check of upcasters, and `may` */
    return rc;
}

int
transform_one(struct transform_run *run, const struct transform_event *in,
              struct transform_out *out, bool *dropped, struct err *err)
{
    struct upcasted u = {out, 0};
    int             rc = alone(run, in, run->t->may & TRANSFORMI_DELIVER, &u, err);

    must(rc != 0 || u.count <= 1); /* the check of deliveries, and `may` */
    *dropped = u.count == 0;
    return rc;
}
