/* stdout, the progress line on stderr, and signals. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/json.h"
#include "base/utf8.h"
#include "cli/cli_int.h"

#define OUT_KEEP (64U << 10)

static bool progress_shown;

/* Drops everything once nobody reads: the caller learns it from clii_flush. */
static void
drain(struct cli *c)
{
    size_t at = 0;

    while (at < c->out.len && !c->out_closed) {
        ssize_t n = write(STDOUT_FILENO, c->out.data + at, c->out.len - at);

        if (n >= 0)
            at += (size_t)n;
        else if (errno == EPIPE)
            c->out_closed = true;
        else if (errno != EINTR || clii_caught() != 0)
            break;
    }
    if (c->out_closed)
        at = c->out.len;
    buf_consume(&c->out, at);
}

void
clii_put(struct cli *c, const void *data, size_t len)
{
    buf_add(&c->out, data, len);
    if (c->out.len >= OUT_KEEP)
        drain(c);
}

void
clii_put_str(struct cli *c, const char *text)
{
    clii_put(c, text, strlen(text));
}

void
clii_put_buf(struct cli *c, struct buf *b)
{
    c->out.failed = c->out.failed || b->failed;
    clii_put(c, b->data, b->len);
    buf_clear(b);
}

void
clii_printf(struct cli *c, const char *fmt, ...)
{
    char    line[1024];
    va_list args;
    int     len;

    va_start(args, fmt);
    len = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (len > 0)
        clii_put(c, line, (size_t)len < sizeof line ? (size_t)len : sizeof line - 1);
}

int
clii_flush(struct cli *c, struct err *err)
{
    bool failed = c->out.failed;
    int  why;

    errno = 0;
    drain(c);
    why = errno;
    if (c->out_closed)
        RETURN_ERR(err, E_INTERRUPTED, ERR_FATAL, "nobody reads the output any more");
    if (failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the output");
    if (clii_caught() != 0)
        return clii_go_on(err);
    if (c->out.len > 0)
        RETURN_ERR(err, E_IO, ERR_FATAL, "stdout: %s", strerror(why));
    return 0;
}

void
clii_add_plain(struct buf *out, struct slice text)
{
    const uint8_t *p = text.len == 0 ? (const uint8_t *)"" : text.data, *end = p + text.len;

    while (p < end) {
        size_t n = utf8_char(p, end);

        /* C1 controls (U+0080 to U+009F) steer terminals too. */
        if (n == 0 || *p < 0x20 || *p == 0x7f || (n == 2 && p[0] == 0xc2 && p[1] < 0xa0))
            buf_add_byte(out, '?');
        else
            buf_add(out, p, n);
        p += n == 0 ? 1 : n;
    }
}

void
clii_put_table(struct cli *c, struct slice object)
{
    struct buf       line = {0}, scratch = {0};
    struct json_iter it;
    struct slice     key, value;
    int              widest = 0;

    if (json_object_iter(&it, object, NULL) == 0)
        while (json_iter_next(&it, &key, &value, NULL) == 0)
            widest = (int)key.len > widest ? (int)key.len : widest;
    if (json_object_iter(&it, object, NULL) == 0) {
        while (json_iter_next(&it, &key, &value, NULL) == 0) {
            buf_printf(&line, "%.*s%*s  ", SLICE_FMT(key), widest - (int)key.len, "");
            if (json_type(value) == JSON_STRING)
                (void)json_string_view(value, &scratch, &value, NULL);
            clii_add_plain(&line, json_is_null(value) ? slice_str("-") : value);
            buf_add_byte(&line, '\n');
            clii_put_buf(c, &line);
        }
    }
    buf_fini(&scratch);
    buf_fini(&line);
}

void
clii_progress(struct cli *c, const char *fmt, ...)
{
    char    line[256];
    va_list args;

    if (!c->err_tty)
        return;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    (void)fprintf(stderr, "\r\033[K%s", line);
    (void)fflush(stderr);
    progress_shown = true;
}

void
clii_progress_end(struct cli *c)
{
    if (progress_shown)
        (void)fprintf(stderr, "\r\033[K");
    progress_shown = false;
}

static volatile sig_atomic_t caught;

static void
on_signal(int signum)
{
    caught = signum;
}

void
clii_catch(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    /* A second one ends the program at once. */
    (void)sigaction(SIGINT, &sa, NULL);
    (void)sigaction(SIGTERM, &sa, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

int
clii_caught(void)
{
    return caught;
}

void
clii_reraise(int signum)
{
    (void)signal(signum, SIG_DFL);
    (void)raise(signum);
}

int
clii_go_on(struct err *err)
{
    if (caught == 0)
        return 0;
    RETURN_ERR(err, E_INTERRUPTED, ERR_FATAL, "interrupted");
}
