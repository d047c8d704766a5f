/*
 * A request's target, decoded where it lies: segments of the path, and the
 * query's parameters. %2F inside a segment is part of it and separates nothing.
 */
#ifndef OX_SERVER_URI_H
#define OX_SERVER_URI_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/slice.h"

#define URI_SEGMENTS_MAX 16
#define URI_PARAMS_MAX 32

struct uri_param {
    struct slice name, value;
};

/* The slices point into the text that was given. */
struct uri {
    struct slice     segments[URI_SEGMENTS_MAX];
    struct uri_param params[URI_PARAMS_MAX];
    unsigned         segment_count, param_count;
};

/* Overwrites the target with what it decodes to. E_SYNTAX, E_LIMIT. */
int uri_parse(struct uri *uri, char *target, size_t len, struct err *err);

/* The first of this name. */
bool uri_get(const struct uri *uri, const char *name, struct slice *value);

/* Decodes %XX in place, with `plus` also '+' as a space; the new length, or -1. */
long uri_decode(char *text, size_t len, bool plus);

#endif
