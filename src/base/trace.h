/*
 * Traces: W3C trace context as text and as bytes, and a bounded queue of finished spans between
 * whoever makes them and whoever sends them on. Putting never waits for the far side; where the
 * queue is full the span is dropped and counted.
 */
#ifndef OX_BASE_TRACE_H
#define OX_BASE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/slice.h"

#define TRACE_TEXT_LEN 55 /* 00-…-…-01 */
#define TRACE_ATTRS_MAX 4
#define TRACE_MEMBER "traceparent" /* of an event's metadata */

struct trace_context {
    uint8_t trace[16], span[8];
    bool    sampled;
};

/* `traceparent` of a header or of an event's metadata. False: it is none. */
bool trace_read(struct slice text, struct trace_context *out);
/* The one in an event's metadata, where there is one. */
bool trace_of_metadata(struct slice meta, struct trace_context *out);
void trace_write(const struct trace_context *c, char out[TRACE_TEXT_LEN + 1]);

enum trace_kind {
    TRACE_INTERNAL = 1,
    TRACE_SERVER = 2,
    TRACE_PRODUCER = 4,
};

struct trace_attr {
    const char *key;      /* static */
    char        text[64]; /* empty: it is the number */
    uint64_t    number;
};

struct trace_span {
    struct trace_context context;
    struct trace_context parent, link; /* has_…: there is one */
    bool                 has_parent, has_link, failed;
    enum trace_kind      kind;
    const char          *name; /* static */
    int64_t              begin_us, end_us;
    char                 why[48]; /* of a failure */
    unsigned             attr_count;
    struct trace_attr    attrs[TRACE_ATTRS_MAX];
};

void trace_attr_text(struct trace_span *s, const char *key, struct slice text);
void trace_attr_number(struct trace_span *s, const char *key, uint64_t number);

struct trace_queue;

struct trace_counts {
    uint64_t spans, dropped, sent; /* spans: those dropped included */
    uint32_t waiting;
};

/* `sample`: of 1,000,000 traces that begin here so many are kept. NULL: out of memory. */
struct trace_queue *trace_new(struct ox_env *env, uint32_t room, uint32_t sample);
void                trace_free(struct trace_queue *t);

/*
 * A span's context: within its parent's trace, by whose decision it is sampled; without a parent
 * the beginning of a trace, by our own.
 */
void
trace_begin(struct trace_queue *t, const struct trace_context *parent, struct trace_context *out);
/* Where it is sampled. */
void     trace_put(struct trace_queue *t, const struct trace_span *span);
uint32_t trace_take(struct trace_queue *t, struct trace_span *out, uint32_t max);
/* What became of those that were taken. */
void trace_note(struct trace_queue *t, uint64_t sent, uint64_t dropped);
void trace_look(struct trace_queue *t, struct trace_counts *out);

#endif
