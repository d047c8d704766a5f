/* Runs a transform over events given as text, and writes what comes out as text. */
#ifndef TRANSFORM_FIX_H
#define TRANSFORM_FIX_H

#include "transform/transform.h"

struct fix_event {
    const char *type, *data, *meta;
    bool        bytes; /* data is no JSON */
};

/*
 * The stream is orders-42. Each output is a line: "STREAM < TYPE DATA META [ORIGINS]", the stream
 * where it is not the default, "*" before the type where it is changed.
 */
int fix_apply(const char *yaml, const struct fix_event *events, size_t count, struct buf *out,
              struct err *err);

/* The same of one event; the text stays until the next call. Fails the test on an error. */
const char *fix_one(const char *yaml, const char *type, const char *data, const char *meta);

/* Compiles and runs over one event, which must fail; the error's text. */
const char *fix_fails(const char *yaml, const char *data, int code);

/* Compiles, which must fail; the error's text. */
const char *fix_refused(const char *yaml, int code);

/* Compiles; fails the test on an error. */
struct transform *fix_compile(const char *yaml);

struct transform_event fix_event(const struct fix_event *e, uint64_t version);

#endif
