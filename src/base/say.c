#include "base/say.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/rfc3339.h"

static const char *const level_names[] = {"debug", "info", "warn", "error"};

/* Set once, before the threads start (tests aside). */
static struct ox_env *clock_env;
static _Atomic(int)   level_least = SAY_INFO;
static say_fn        *to_fn;
static void          *to_arg;

struct line {
    char   text[SAY_LINE_MAX];
    size_t len;
    bool   cut;
};

static const char cut_mark[] = "\xe2\x80\xa6";

static void
add(struct line *line, const char *text, size_t len)
{
    size_t room = sizeof line->text - sizeof cut_mark - 1 - line->len;

    if (line->cut)
        return;
    if (len > room) {
        len = room;
        line->cut = true;
    }
    memcpy(line->text + line->len, text, len);
    line->len += len;
}

static bool
is_bare(const char *text)
{
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++)
        if ((unsigned char)*text <= ' ' || *text == '"' || *text == '=' || *text == '\\' ||
            *text == 0x7f)
            return false;
    return true;
}

static void
add_value(struct line *line, const char *text)
{
    if (is_bare(text)) {
        add(line, text, strlen(text));
        return;
    }
    add(line, "\"", 1);
    for (; *text != '\0'; text++) {
        char escape[8];

        if (*text == '"' || *text == '\\') {
            escape[0] = '\\';
            escape[1] = *text;
            add(line, escape, 2);
        } else if ((unsigned char)*text < ' ' || *text == 0x7f) {
            (void)snprintf(escape, sizeof escape, "\\x%02x", (unsigned)(unsigned char)*text);
            add(line, escape, 4);
        } else {
            add(line, text, 1);
        }
    }
    add(line, "\"", 1);
}

static void
add_pair(struct line *line, const char *name, const char *value)
{
    if (line->len != 0)
        add(line, " ", 1);
    add(line, name, strlen(name));
    add(line, "=", 1);
    add_value(line, value);
}

void
say_init(struct ox_env *env, enum say_level least)
{
    clock_env = env;
    atomic_store(&level_least, (int)least);
}

void
say_to(say_fn *fn, void *arg)
{
    to_fn = fn;
    to_arg = arg;
}

const char *
say_u64(struct say_num *num, uint64_t v)
{
    (void)snprintf(num->text, sizeof num->text, "%llu", (unsigned long long)v);
    return num->text;
}

void
say(enum say_level level, const char *message, ...)
{
    struct line line;
    va_list     ap;

    if ((int)level < atomic_load(&level_least))
        return;
    line.len = 0;
    line.cut = false;
    if (clock_env != NULL) {
        char now[TIME_TEXT_MAX];

        time_format(clock_env->ops->wall_us(clock_env), now);
        add_pair(&line, "time", now);
    }
    add_pair(&line, "level", level_names[level]);
    add_pair(&line, "msg", message);
    va_start(ap, message);
    for (;;) {
        const char *name = va_arg(ap, const char *), *value;

        if (name == NULL)
            break;
        value = va_arg(ap, const char *);
        if (value != NULL)
            add_pair(&line, name, value);
    }
    va_end(ap);
    if (line.cut) {
        memcpy(line.text + line.len, cut_mark, sizeof cut_mark - 1);
        line.len += sizeof cut_mark - 1;
    }
    line.text[line.len++] = '\n';
    if (to_fn != NULL) {
        to_fn(to_arg, line.text, line.len);
        return;
    }
    /* One write: lines of two threads never mix. Nobody can be told when it fails. */
    if (write(STDERR_FILENO, line.text, line.len) < 0)
        return;
}
