#include "base/trace.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/lock.h"
#include "base/must.h"

struct trace_queue {
    struct ox_env      *env;
    struct ox_lock      lock; /* all below */
    uint32_t            room, at, sample;
    struct trace_counts counts;
    struct trace_span  *spans; /* a ring: `waiting` of them from `at` on */
};

static int
digit(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* False where one is no digit, or all are 0. */
static bool
read_hex(const uint8_t *text, uint8_t *out, size_t bytes)
{
    uint8_t any = 0;

    for (size_t i = 0; i < bytes; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
        any |= out[i];
    }
    return any != 0;
}

/* version "-" trace "-" span "-" flags; later versions may have more behind it. */
bool
trace_read(struct slice text, struct trace_context *out)
{
    const uint8_t *p = text.data;
    uint8_t        flags = 0, version = 0;

    if (text.len < TRACE_TEXT_LEN || p[2] != '-' || p[35] != '-' || p[52] != '-')
        return false;
    if ((!read_hex(p, &version, 1) && version != 0) || version == 0xff || digit(p[0]) < 0 ||
        digit(p[1]) < 0 ||
        (text.len > TRACE_TEXT_LEN && (version == 0 || p[TRACE_TEXT_LEN] != '-')))
        return false;
    if (!read_hex(p + 3, out->trace, 16) || !read_hex(p + 36, out->span, 8) || digit(p[53]) < 0 ||
        digit(p[54]) < 0)
        return false;
    (void)read_hex(p + 53, &flags, 1);
    out->sampled = (flags & 1) != 0;
    return true;
}

bool
trace_of_metadata(struct slice meta, struct trace_context *out)
{
    struct slice raw;

    return meta.len > TRACE_TEXT_LEN && json_get(meta, TRACE_MEMBER, &raw) && raw.len > 2 &&
           json_type(raw) == JSON_STRING &&
           trace_read(slice_of((const uint8_t *)raw.data + 1, raw.len - 2), out);
}

static char *
put_hex(char *out, const uint8_t *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < count; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    return out;
}

void
trace_write(const struct trace_context *c, char out[TRACE_TEXT_LEN + 1])
{
    uint8_t flags = c->sampled ? 1 : 0;
    char   *p = out;

    *p++ = '0';
    *p++ = '0';
    *p++ = '-';
    p = put_hex(p, c->trace, 16);
    *p++ = '-';
    p = put_hex(p, c->span, 8);
    *p++ = '-';
    p = put_hex(p, &flags, 1);
    *p = '\0';
    must(p == out + TRACE_TEXT_LEN);
}

static struct trace_attr *
add_attr(struct trace_span *s, const char *key)
{
    struct trace_attr *a = &s->attrs[s->attr_count++];

    must(s->attr_count <= TRACE_ATTRS_MAX);
    *a = (struct trace_attr){.key = key};
    return a;
}

void
trace_attr_text(struct trace_span *s, const char *key, struct slice text)
{
    struct trace_attr *a = add_attr(s, key);

    (void)snprintf(a->text, sizeof a->text, "%.*s", SLICE_FMT(text));
}

void
trace_attr_number(struct trace_span *s, const char *key, uint64_t number)
{
    add_attr(s, key)->number = number;
}

struct trace_queue *
trace_new(struct ox_env *env, uint32_t room, uint32_t sample)
{
    struct trace_queue *t = calloc(1, sizeof *t);

    must(room > 0);
    if (t == NULL)
        return NULL;
    t->spans = calloc(room, sizeof *t->spans);
    if (t->spans == NULL) {
        free(t);
        return NULL;
    }
    t->env = env;
    t->room = room;
    t->sample = sample;
    lock_init(&t->lock, LOCK_TEXT);
    return t;
}

void
trace_free(struct trace_queue *t)
{
    if (t == NULL)
        return;
    lock_fini(&t->lock);
    free(t->spans);
    free(t);
}

void
trace_begin(struct trace_queue *t, const struct trace_context *parent, struct trace_context *out)
{
    uint8_t  random[28];
    uint32_t draw;

    t->env->ops->random(t->env, random, sizeof random);
    random[0] |= 1; /* neither may be all zeros */
    random[16] |= 1;
    memcpy(out->trace, parent != NULL ? parent->trace : random, 16);
    memcpy(out->span, random + 16, 8);
    memcpy(&draw, random + 24, 4);
    out->sampled = parent != NULL ? parent->sampled : draw % 1000000 < t->sample;
}

void
trace_put(struct trace_queue *t, const struct trace_span *span)
{
    if (!span->context.sampled)
        return;
    lock_take(&t->lock);
    t->counts.spans++;
    if (t->counts.waiting == t->room)
        t->counts.dropped++;
    else
        t->spans[(t->at + t->counts.waiting++) % t->room] = *span;
    lock_give(&t->lock);
}

uint32_t
trace_take(struct trace_queue *t, struct trace_span *out, uint32_t max)
{
    uint32_t n = 0;

    lock_take(&t->lock);
    for (; n < max && t->counts.waiting > 0; n++, t->counts.waiting--) {
        out[n] = t->spans[t->at];
        t->at = (t->at + 1) % t->room;
    }
    lock_give(&t->lock);
    return n;
}

void
trace_note(struct trace_queue *t, uint64_t sent, uint64_t dropped)
{
    lock_take(&t->lock);
    t->counts.sent += sent;
    t->counts.dropped += dropped;
    lock_give(&t->lock);
}

void
trace_look(struct trace_queue *t, struct trace_counts *out)
{
    lock_take(&t->lock);
    *out = t->counts;
    lock_give(&t->lock);
}
