/* Scripts in a build without Lua: refused as a transform is compiled. */
#include "base/must.h"
#include "transform/transform_int.h"

int
transformi_script_new(const char *file, struct slice text, const struct transformi_limits *limits,
                      struct transformi_script **out, struct err *err)
{
    *out = NULL;
    RETURN_ERR(err, E_SCHEMA, ERR_FATAL,
               "%s: this build has no Lua; rules are possible, or a build with -Dlua=enabled",
               file);
}

void
transformi_script_free(struct transformi_script *s)
{
    must(s == NULL);
}

bool
transformi_script_stateful(const struct transformi_script *s)
{
    return false;
}

int
transformi_script_run_new(const struct transformi_script *s, unsigned may, const atomic_bool *stop,
                          struct transformi_script_run **out, struct err *err)
{
    must(s != NULL);
    *out = NULL;
    return E_STATE;
}

void
transformi_script_run_free(struct transformi_script_run *run)
{
    must(run == NULL);
}

bool
transformi_script_reusable(const struct transformi_script_run *run)
{
    return false;
}

int
transformi_script_begin(struct transformi_script_run *run, struct slice stream, struct err *err)
{
    must(run != NULL);
    return E_STATE;
}

int
transformi_script_event(struct transformi_script_run *run, const struct transform_event *in,
                        uint64_t ordinal, transform_emit_fn *emit, void *arg, struct err *err)
{
    must(run != NULL);
    return E_STATE;
}

int
transformi_script_end(struct transformi_script_run *run, transform_emit_fn *emit, void *arg,
                      struct err *err)
{
    must(run != NULL);
    return E_STATE;
}
