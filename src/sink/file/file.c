/*
 * The sinks `file` and `stdout`. A line an event. What was gathered is written and synced at a
 * poll, and done only then. A crash leaves whole lines and at most one that is torn, which the next
 * start cuts off: it was not confirmed. A file that is full is renamed, its name reserved before,
 * so that no file is ever written over.
 *
 * To stdout nothing is synced: done means written.
 */
#include "sink/file/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/conf.h"
#include "sink/message.h"
#include "sink/slots.h"

#define SLOTS 1000
#define PATH_BYTES 4096
#define LOOK_BYTES 65536 /* of a file's end at a time, for its last line */
#define GATHER_BYTES ((size_t)4 << 20)

struct file_sink {
    struct sink       base;
    const char       *path; /* NULL: stdout */
    char              dir[PATH_BYTES];
    struct ox_file   *file;
    uint64_t          size, rotate, message_max;
    struct sink_slots slots;
    struct sink_form *form;
    struct buf        text;
};

static const char *const formats[] = {"structured", "raw", NULL};

#define LINE_FIELDS                                                                                \
    {.name = "format",                                                                             \
     .type = {.kind = CONF_ENUM, .values = formats},                                               \
     .preset = "structured",                                                                       \
     .doc = "a CloudEvent a line; raw: the data alone"},                                           \
        {.name = "source",                                                                         \
         .type = {.kind = CONF_STRING, .min = 1, .max = 1024},                                     \
         .preset = "oxbow",                                                                        \
         .doc = "the CloudEvents attribute, a URI with placeholders"},                             \
    {                                                                                              \
        .name = "message_max", .type = {.kind = CONF_SIZE, .min = 1024, .max = 64 << 20},          \
        .preset = "32MiB", .doc = "a longer line is parked"                                        \
    }

static const struct conf_field file_fields[] = {
    {.name = "path",
     .type = {.kind = CONF_PATH, .min = 1, .max = PATH_BYTES - 64},
     .required = true,
     .doc = "the file that is written now"},
    {.name = "rotate",
     .type = {.kind = CONF_SIZE, .max = INT64_MAX},
     .preset = "64MiB",
     .doc = "a larger file is renamed to PATH.TIME; 0: never"},
    LINE_FIELDS,
    {.name = NULL},
};
static const struct conf_type file_schema = {.kind = CONF_OBJECT, .fields = file_fields};

static const struct conf_field stdout_fields[] = {LINE_FIELDS, {.name = NULL}};
static const struct conf_type  stdout_schema = {.kind = CONF_OBJECT, .fields = stdout_fields};

static struct file_sink *
mine(struct sink *s)
{
    return (struct file_sink *)s;
}

/* the file */

/* Where its last whole line ends. */
static int
find_end(struct file_sink *s, uint64_t size, uint64_t *end, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint8_t       *part = malloc(LOOK_BYTES);
    size_t         got;
    int            rc = 0;

    *end = 0;
    if (part == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a file's last line");
    while (size > 0 && *end == 0) {
        uint64_t at = size > LOOK_BYTES ? size - LOOK_BYTES : 0;

        TRY(env->ops->file_read(env, s->file, part, (size_t)(size - at), at, &got, err));
        for (size_t i = got; i > 0 && *end == 0; i--)
            if (part[i - 1] == '\n')
                *end = at + i;
        size = at;
    }
out:
    free(part);
    return rc;
}

static void
close_file(struct file_sink *s)
{
    s->base.env->ops->file_close(s->base.env, s->file);
    s->file = NULL;
}

static int
need_file(struct file_sink *s, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint64_t       size, end;
    int            rc = 0;

    if (s->file != NULL)
        return 0;
    TRY(env->ops->file_open(env, s->path, ENV_WRITE | ENV_CREATE, &s->file, err));
    TRY(env->ops->file_lock(env, s->file, err));
    TRY(env->ops->file_size(env, s->file, &size, err));
    TRY(find_end(s, size, &end, err));
    if (end < size)
        TRY(env->ops->file_resize(env, s->file, end, err));
    TRY(env->ops->file_sync(env, s->file, err));
    TRY(env->ops->dir_sync(env, s->dir, err));
    s->size = end;
out:
    if (rc != 0) {
        close_file(s);
        err->kind = ERR_RETRY;
    }
    return rc;
}

/* A name that no file has, made so that none gets it. */
static int
reserve(struct file_sink *s, char *out, size_t size, struct err *err)
{
    struct ox_env  *env = s->base.env;
    struct ox_file *file;
    int64_t         us = env->ops->wall_us(env);
    int             rc;

    do {
        time_t    seconds = (time_t)(us / 1000000);
        struct tm tm;
        char      when[32];

        (void)gmtime_r(&seconds, &tm);
        (void)strftime(when, sizeof when, "%Y%m%dT%H%M%S", &tm);
        (void)snprintf(out, size, "%s.%s.%06d", s->path, when, (int)(us++ % 1000000));
        rc = env->ops->file_open(env, out, ENV_WRITE | ENV_CREATE | ENV_EXCL, &file, err);
    } while (rc == E_EXISTS);
    if (rc == 0)
        env->ops->file_close(env, file);
    return rc;
}

static int
rotate(struct file_sink *s, struct err *err)
{
    struct ox_env *env = s->base.env;
    char           name[PATH_BYTES + 64];
    int            rc;

    TRY(reserve(s, name, sizeof name, err));
    close_file(s);
    TRY(env->ops->path_rename(env, s->path, name, err));
    rc = need_file(s, err);
out:
    return rc;
}

/* All of it, or nothing that counts: a torn end is cut off before the next write. */
static int
write_file(struct file_sink *s, struct err *err)
{
    struct ox_env *env = s->base.env;
    int            rc;

    TRY(need_file(s, err));
    if (s->rotate > 0 && s->size > 0 && s->size + s->text.len > s->rotate)
        TRY(rotate(s, err));
    TRY(env->ops->file_write(env, s->file, s->text.data, s->text.len, s->size, err));
    TRY(env->ops->file_sync(env, s->file, err));
    s->size += s->text.len;
out:
    if (rc != 0) {
        close_file(s); /* what is in it is looked at again */
        err->kind = ERR_UNSURE;
    }
    return rc;
}

static int
write_stdout(struct file_sink *s, struct err *err)
{
    for (size_t at = 0; at < s->text.len;) {
        ssize_t n = write(STDOUT_FILENO, s->text.data + at, s->text.len - at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            RETURN_ERR(err, E_IO, ERR_UNSURE, "stdout: %s", strerror(errno));
        at += (size_t)n;
    }
    return 0;
}

/* the sink */

static void
close_sink(struct sink *base)
{
    struct file_sink *s = mine(base);

    close_file(s);
    sink_slots_fini(&s->slots);
    sink_form_free(s->form);
    buf_fini(&s->text);
}

static int
open_any(struct sink *base, const struct conf *conf, const char *path, struct err *err)
{
    struct file_sink    *s = mine(base);
    const char          *slash = path == NULL ? NULL : strrchr(path, '/');
    struct sink_form_def def = {.binding = SINK_KAFKA,
                                .format =
                                    conf_enum(conf, "format") == 0 ? SINK_STRUCTURED : SINK_RAW,
                                .source = conf_str(conf, "source")};
    int                  rc;

    s->path = path;
    s->message_max = conf_size(conf, "message_max");
    if (slash == NULL)
        (void)snprintf(s->dir, sizeof s->dir, ".");
    else
        (void)snprintf(s->dir, sizeof s->dir, "%.*s", slash == path ? 1 : (int)(slash - path),
                       path);
    TRY(sink_form_new(&def, conf, &s->form, err));
    TRY(sink_slots_init(&s->slots, base, SLOTS, err));
out:
    if (rc != 0)
        close_sink(base);
    return rc;
}

static int
open_file(struct sink *base, const struct conf *conf, struct err *err)
{
    mine(base)->rotate = conf_size(conf, "rotate");
    return open_any(base, conf, conf_str(conf, "path"), err);
}

static int
open_stdout(struct sink *base, const struct conf *conf, struct err *err)
{
    return open_any(base, conf, NULL, err);
}

/* One line: within JSON a line's end is nothing but white space. */
static int
add_line(struct file_sink *s, const struct sink_item *item, struct err *err)
{
    struct sink_message m;
    size_t              from = s->text.len;
    int                 rc;

    TRY(sink_form_fill(s->form, item, &m, err));
    if (m.body.len > s->message_max)
        FAIL(err, E_LIMIT, ERR_DATA, "the line is longer than message_max");
    if (m.content_type != NULL && strcmp(m.content_type, "application/octet-stream") == 0)
        FAIL(err, E_SCHEMA, ERR_DATA, "data that is no JSON makes no line of its own");
    /* What was whole before stays whole. */
    if (!buf_reserve(&s->text, m.body.len + sizeof "null\n"))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a line");
    if (m.body.data == NULL)
        buf_add_str(&s->text, "null");
    else
        buf_add_slice(&s->text, m.body);
    buf_add_byte(&s->text, '\n');
    must(!s->text.failed);
    for (size_t i = from; i + 1 < s->text.len; i++)
        if (s->text.data[i] == '\n' || s->text.data[i] == '\r')
            s->text.data[i] = ' ';
out:
    return rc;
}

static int
submit(struct sink *base, struct sink_item *item, struct err *err)
{
    (void)sink_slot_take(&mine(base)->slots, item);
    return 0;
}

/* Lines are made here, so that an error undoes nothing that others rely on. */
static void
write_some(struct file_sink *s, uint32_t *next)
{
    struct err err;
    uint32_t   from = *next;
    int        rc = 0;

    buf_clear(&s->text);
    for (; *next < s->slots.count && s->text.len < GATHER_BYTES; ++*next) {
        struct sink_slot *slot = &s->slots.slot[*next];

        if (slot->item != NULL && !slot->decided && add_line(s, slot->item, &err) != 0)
            sink_slot_decide(&s->slots, slot, &err);
    }
    if (s->text.len > 0)
        rc = s->path == NULL ? write_stdout(s, &err) : write_file(s, &err);
    for (uint32_t i = from; i < *next; i++) {
        struct sink_slot *slot = &s->slots.slot[i];

        if (slot->item != NULL && !slot->decided)
            sink_slot_end(&s->slots, slot, rc == 0 ? NULL : &err);
    }
}

static int
poll_sink(struct sink *base, bool flush, struct log_pos upto, uint32_t wait_ms, struct err *err)
{
    struct file_sink *s = mine(base);

    for (uint32_t next = 0; sink_slots_flying(&s->slots) > 0 && next < s->slots.count;)
        write_some(s, &next);
    (void)sink_slots_tell(&s->slots);
    return 0;
}

static int
check(struct sink *base, finding_line_fn *say, void *arg, struct err *err)
{
    struct file_sink *s = mine(base);
    int               rc = s->path == NULL ? 0 : need_file(s, err);

    if (rc == 0)
        say(arg, 0, s->path == NULL ? "stdout is there" : "the file takes writes");
    close_file(s);
    return rc;
}

const struct sink_ops sink_file_ops = {
    .name = "file",
    .size = sizeof(struct file_sink),
    .schema = &file_schema,
    .transactional = false,
    .open = open_file,
    .close = close_sink,
    .check = check,
    .checkpoint = sink_noop_checkpoint,
    .submit = submit,
    .poll = poll_sink,
};

const struct sink_ops sink_stdout_ops = {
    .name = "stdout",
    .size = sizeof(struct file_sink),
    .schema = &stdout_schema,
    .transactional = false,
    .open = open_stdout,
    .close = close_sink,
    .check = check,
    .checkpoint = sink_noop_checkpoint,
    .submit = submit,
    .poll = poll_sink,
};
