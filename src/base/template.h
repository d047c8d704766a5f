/*
 * Templates: text with placeholders {name} that are filled in per event.
 * Compiled once, expanded many times. A name is a dotted path of letters,
 * digits, "_", "-" and "$".
 *
 * In URL and TEXT "{{" and "}}" are a brace each. A JSON template is JSON with
 * placeholders in the place of values, as in {"state":{data.state}}, or within
 * strings, as in "order-{key}"; there "{{name}}" is plain text.
 */
#ifndef OX_BASE_TEMPLATE_H
#define OX_BASE_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/slice.h"

enum template_kind {
    TEMPLATE_TEXT, /* values as they are */
    TEMPLATE_URL,  /* values percent-encoded */
    TEMPLATE_JSON, /* values are raw JSON; within a string their text, escaped */
};

#define TEMPLATE_MAX ((size_t)64 << 10)

struct template;

/* Whether there is such a placeholder. */
typedef bool template_known_fn(void *arg, struct slice name);

/* E_SYNTAX, ERR_FATAL, with the column from 1 in bytes. `known` NULL takes every name. */
int  template_new(struct slice text, enum template_kind kind, template_known_fn *known, void *arg,
                  struct template **out, struct err *err);
void template_free(struct template *t); /* NULL is fine */

size_t       template_count(const struct template *t);
struct slice template_name(const struct template *t, size_t i);

/*
 * Appends the value of a placeholder to `value`: with `raw` as JSON, else as
 * text. A value that is not there is for the callback to refuse or to leave empty.
 */
typedef int
template_lookup_fn(void *arg, struct slice name, bool raw, struct buf *value, struct err *err);

/*
 * Appends to `out`; `scratch` is used up. In a URL an empty value, "." and
 * ".." are refused (E_SCHEMA, ERR_DATA): they would name something else.
 * In JSON an empty raw value is null.
 */
int template_expand(const struct template *t, template_lookup_fn *lookup, void *arg,
                    struct buf *scratch, struct buf *out, struct err *err);

/* For callbacks: appends a raw JSON value as it is, or as text: strings decoded, null as nothing.
 */
int template_put_json(struct slice json, bool raw, struct buf *value, struct err *err);

#endif
