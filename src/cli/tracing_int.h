/* Spans to a collector, by OTLP over HTTP (JSON), on a task of its own. */
#ifndef OX_CLI_TRACING_INT_H
#define OX_CLI_TRACING_INT_H

#include "base/env.h"
#include "base/err.h"

struct conf;
struct trace_queue;
struct tracing;

/* *out is NULL where the configuration has no `tracing`. */
int
tracingi_new(struct ox_env *env, const struct conf *root, struct tracing **out, struct err *err);
void tracingi_free(struct tracing *t); /* tries once more to send what waits; NULL is fine */

/* Where spans are put; NULL where there is no tracing. */
struct trace_queue *tracingi_queue(struct tracing *t);

#endif
