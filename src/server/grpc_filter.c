/* Which events of $all: by the beginnings of streams or types, or by a pattern. */
#include <stdlib.h>

#include "server/grpc_int.h"

#define WINDOW 32 /* events, where the client names none */

static const char *
read_expression(struct slice message, struct grpc_filter *f)
{
    struct pb_in    in;
    struct pb_field field;
    char            pattern[GRPCI_REGEX_MAX + 1];

    pb_in_init(&in, message);
    f->prefix_count = 0;
    while (pb_next(&in, &field)) {
        if (field.key == PB_BYTES(1) && field.bytes.len != 0) {
            if (field.bytes.len > GRPCI_REGEX_MAX || f->has_regex)
                return "filter: the pattern is longer than 1024 bytes, or there are two";
            memcpy(pattern, field.bytes.data, field.bytes.len);
            pattern[field.bytes.len] = '\0';
            if (regcomp(&f->regex, pattern, REG_EXTENDED | REG_NOSUB) != 0)
                return "filter: the pattern is no POSIX extended regular expression";
            f->has_regex = true;
            f->pattern = field.bytes;
        } else if (field.key == PB_BYTES(2)) {
            if (f->prefix_count == GRPCI_PREFIXES_MAX || field.bytes.len > LOG_TYPE_MAX)
                return "filter: more than 64 prefixes, or one longer than 255 bytes";
            f->prefixes[f->prefix_count++] = slice_of(NULL, field.bytes.len);
            buf_add_slice(&f->texts, field.bytes);
        }
    }
    return in.bad || f->texts.failed ? "filter: is malformed" : NULL;
}

const char *
grpci_filter_read(struct slice message, struct grpc_filter *f)
{
    struct pb_in    in;
    struct pb_field field;
    const char     *why = NULL;
    size_t          at = 0;

    f->there = true;
    f->window = WINDOW;
    f->multiplier = 1;
    pb_in_init(&in, message);
    while (why == NULL && pb_next(&in, &field)) {
        if (field.key == PB_BYTES(1) || field.key == PB_BYTES(2)) {
            f->by_type = field.key == PB_BYTES(2);
            why = read_expression(field.bytes, f);
        } else if (field.key == PB_VARINT(3)) {
            f->window = (uint32_t)field.value;
        } else if (field.key == PB_VARINT(5)) {
            f->multiplier = (uint32_t)field.value;
        }
    }
    for (unsigned i = 0; i < f->prefix_count; at += f->prefixes[i++].len)
        f->prefixes[i].data = f->texts.data + at;
    if (why == NULL && in.bad)
        why = "filter: is malformed";
    if (why == NULL && f->window == 0)
        why = "filter: the window is 0";
    return why;
}

bool
grpci_filter_wants(const struct grpc_filter *f, const struct log_event *e)
{
    struct slice text = f->by_type ? e->type : e->stream;
    regmatch_t   whole = {.rm_so = 0, .rm_eo = (regoff_t)text.len};

    if (!f->there)
        return true;
    if (f->has_regex)
        return regexec(&f->regex, text.len == 0 ? "" : text.data, 1, &whole, REG_STARTEND) == 0;
    for (unsigned i = 0; i < f->prefix_count; i++)
        if (slice_starts(text, f->prefixes[i]))
            return true;
    return f->prefix_count == 0;
}

void
grpci_filter_fini(struct grpc_filter *f)
{
    if (f->has_regex)
        regfree(&f->regex);
    buf_fini(&f->texts);
}
