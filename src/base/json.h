/*
 * JSON (RFC 8259) as bytes, never as trees: check it, pick members out of it,
 * write it. Nothing here allocates but into the caller's struct buf.
 *
 * A *raw* slice is the text of one value without whitespace around it; a raw
 * string has its quotes, a raw key has not. Raw slices point into the text
 * they came from and were checked when they were handed out.
 *
 * Stricter than the grammar in two places: text must be valid UTF-8, and an
 * escape must not name half a surrogate pair, since no reader could decode it.
 * A byte order mark is refused. Errors are E_SYNTAX or, for nesting, E_LIMIT,
 * of kind ERR_DATA; their texts give the byte offset and never the data.
 */
#ifndef OX_BASE_JSON_H
#define OX_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

/* Arrays and objects within one another, at most. */
#define JSON_DEPTH_MAX 128

enum json_type {
    JSON_NONE = 0,
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,  /* as a token: its beginning */
    JSON_OBJECT, /* as a token: its beginning */
    JSON_KEY,    /* only as a token */
    JSON_ARRAY_END,
    JSON_OBJECT_END,
};

/* Exactly one value, whitespace around it allowed. */
int json_check(struct slice text, struct err *err);

/* The same, and its raw slice: without the whitespace around it. */
int json_value(struct slice text, struct slice *raw, struct err *err);

/* Of a raw value, by its first byte; JSON_NONE where it starts none. */
enum json_type json_type(struct slice raw);

/* "a string", "an object", …: for error texts. */
const char *json_type_name(enum json_type type);

/* tokens: one text from its start to its end */

struct json_reader {
    const uint8_t *start, *at, *end;
    uint64_t       kinds[JSON_DEPTH_MAX / 64]; /* a bit each: 1 where an object */
    unsigned       depth;
    bool           ended, value_due;
};

void json_reader_init(struct json_reader *r, struct slice text);

/* The next token; `raw` as said above (a key without its quotes), or the bracket. E_END at the end.
 */
int json_next(struct json_reader *r, enum json_type *token, struct slice *raw, struct err *err);

/* members and elements */

struct json_iter {
    const uint8_t *start, *at, *end;
    bool           object, first;
};

/* E_SCHEMA where the text is another type. The outer bracket does not count for the depth. */
int json_object_iter(struct json_iter *it, struct slice text, struct err *err);
int json_array_iter(struct json_iter *it, struct slice text, struct err *err);

/* E_END after the last one, when all of the text was checked. `key` is NULL for an array. */
int json_iter_next(struct json_iter *it, struct slice *key, struct slice *value, struct err *err);

/* The last member with this key, as most readers have it. False: none, or no valid object. */
bool json_get(struct slice object, const char *key, struct slice *value);

/* By "a.b.0.c": member names, and positions in arrays. Names hold no dots or escapes. */
bool json_get_path(struct slice value, struct slice path, struct slice *out);

/* Whether a raw key (or a raw string without its quotes) spells this text. */
bool json_key_is(struct slice raw_key, struct slice text);

struct json_field {
    const char  *name;
    bool         required;
    struct slice value; /* out: .data is NULL where it is not there */
};

enum json_pick_flags {
    JSON_PICK_ANY = 0,
    JSON_PICK_ONLY = 1, /* any other key is E_SCHEMA */
};

/* One pass over an object. A field that comes twice is E_SYNTAX, a missing one E_SCHEMA. */
int json_pick(struct slice object, struct json_field *fields, size_t count, unsigned flags,
              struct err *err);

/* decoding of raw values */

/* Appends the text of a raw string. */
int json_string_decode(struct slice raw, struct buf *out, struct err *err);

/* The same without a copy where nothing is escaped; else decoded into `scratch`, cleared first. */
int json_string_view(struct slice raw, struct buf *scratch, struct slice *out, struct err *err);

/* Exact: false for any other type, a fraction, an exponent, or out of range. */
bool json_int64(struct slice raw, int64_t *out);
bool json_uint64(struct slice raw, uint64_t *out);
bool json_bool(struct slice raw, bool *out);
bool json_is_null(struct slice raw);

/*
 * The form in which equal values are equal bytes: keys sorted by their bytes,
 * no whitespace, strings with as few escapes as possible, numbers as exact
 * decimals (1.0, 1 and 1e0 are "1", -0 is "0"; no digit is ever rounded).
 * A key that comes twice in one object is E_SYNTAX.
 */
int json_canonical(struct slice text, struct buf *out, struct err *err);

/* writing; failures stay in the buffer (see struct buf) */

/* With its quotes. A byte that is no UTF-8 becomes U+FFFD. */
void json_put_string(struct buf *b, struct slice text);
void json_put_str(struct buf *b, const char *text);

/* Commas, colons and brackets in their places. */
struct json_out {
    struct buf *buf;
    uint64_t    kinds[JSON_DEPTH_MAX / 64];
    unsigned    depth;
    bool        comma, key;
};

void json_out_init(struct json_out *o, struct buf *buf);
void json_out_object(struct json_out *o);
void json_out_object_end(struct json_out *o);
void json_out_array(struct json_out *o);
void json_out_array_end(struct json_out *o);
void json_out_key(struct json_out *o, const char *key);
void json_out_key_slice(struct json_out *o, struct slice key);
void json_out_string(struct json_out *o, struct slice text);
void json_out_str(struct json_out *o, const char *text); /* NULL is null */
void json_out_u64(struct json_out *o, uint64_t v);
void json_out_i64(struct json_out *o, int64_t v);
void json_out_double(struct json_out *o, double v); /* null where it is not finite */
void json_out_bool(struct json_out *o, bool v);
void json_out_null(struct json_out *o);
void json_out_raw(struct json_out *o, struct slice raw); /* must be one valid value */

#endif
