/* Inside the JSON reader only: scanning of one piece at a time. */
#ifndef OX_BASE_JSON_INT_H
#define OX_BASE_JSON_INT_H

#include "base/bytes.h"
#include "base/json.h"

/* After a failure `at` is the place and `why` the reason. */
struct basei_json_scan {
    const uint8_t *start, *at, *end;
    const char    *why;
    bool           limit; /* the reason is a limit, not the syntax */
};

#define JSON_WHY_END "the text ends too early"

static inline bool
basei_json_fail(struct basei_json_scan *s, const uint8_t *at, const char *why)
{
    s->at = at;
    s->why = why;
    return false;
}

static inline void
basei_json_space(struct basei_json_scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
}

/* `at` is on the opening quote, and then after the closing one. */
bool basei_json_string(struct basei_json_scan *s);

/* A key with its colon: `raw` is the key without quotes. Whitespace before each is passed. */
bool basei_json_key(struct basei_json_scan *s, struct slice *raw);

/* A string, number or literal: `at` is on its first byte, and then after it. */
bool basei_json_scalar(struct basei_json_scan *s);

/* Any value, with the whitespace before it; `raw` is without. */
bool basei_json_value(struct basei_json_scan *s, struct slice *raw);

/* `p` is on a backslash of a checked string: the character it stands for; returns after it. */
const uint8_t *basei_json_unescape(const uint8_t *p, uint32_t *code);

/* The text of a checked raw key, without the quotes. */
void basei_json_decode(struct slice raw_key, struct buf *out);

/* Two checked raw keys, in the order of the bytes they spell. */
int basei_json_key_cmp(struct slice a, struct slice b);

/* The error for a scan that failed. */
int basei_json_error(const struct basei_json_scan *s, struct err *err);

#endif
