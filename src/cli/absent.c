/* In a build without the controller of migrations: they cannot be opened. */
#include "migrate/tracer/tracer.h"

int
tracer_open(const struct tracer_deps *deps, const char *name, const struct conf *conf,
            struct tracer **out, struct err *err)
{
    RETURN_ERR(err, E_STATE, ERR_FATAL, "this build has no migrations");
}
void
tracer_close(struct tracer *t)
{
}
const char *
tracer_command_name(enum tracer_command command)
{
    return "";
}
bool
tracer_command_parse(const char *word, const char *more, enum tracer_command *out)
{
    return false;
}
void
tracer_submit(struct tracer *t, struct tracer_call *call)
{
}
void
tracer_route(struct tracer *t, struct slice key, struct slice consumer, struct tracer_route *out)
{
}
const char *
tracer_side_name(enum tracer_side side)
{
    return "";
}
void
tracer_listen(struct tracer *t, struct tracer_listener *l)
{
}
void
tracer_unlisten(struct tracer *t, struct tracer_listener *l)
{
}
void
tracer_status_json(struct tracer *t, struct buf *out)
{
}
void
tracer_report_json(struct tracer *t, struct buf *out)
{
}
