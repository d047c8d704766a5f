#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/must.h"

static const char *const names[E_COUNT] = {
    [E_OK] = "ok",
    [E_NOMEM] = "out-of-memory",
    [E_IO] = "io-error",
    [E_NOSPC] = "no-space",
    [E_RDONLY] = "read-only",
    [E_BUSY] = "busy",
    [E_EXISTS] = "exists",
    [E_NOTFOUND] = "not-found",
    [E_FORMAT] = "unknown-format",
    [E_DAMAGED] = "damaged",
    [E_INVALID] = "invalid",
    [E_LIMIT] = "over-limit",
    [E_WRONG_VERSION] = "wrong-expected-version",
    [E_GONE] = "gone",
    [E_SYNTAX] = "syntax",
    [E_SCHEMA] = "schema",
    [E_CONNECT] = "cannot-connect",
    [E_TIMEOUT] = "timeout",
    [E_REMOTE] = "remote-error",
    [E_REJECTED] = "rejected",
    [E_STATE] = "wrong-state",
    [E_CLOSED] = "closed",
    [E_USAGE] = "usage",
    [E_DIVERGED] = "diverged",
    [E_FENCED] = "fenced",
    [E_AUTH] = "not-allowed",
    [E_INTERRUPTED] = "interrupted",
    [E_END] = "end",
    [E_MORE] = "more",
    [E_MOVED] = "stream-moved",
};

int
err_set(struct err *err, const char *file, int line, int code, enum err_kind kind, const char *fmt,
        ...)
{
    va_list ap;

    must(code > E_OK && code < E_COUNT);
    if (err == NULL)
        return code;
    err->code = code;
    err->kind = kind;
    err->file = file;
    err->line = line;
    err->retry_ms = 0;
    va_start(ap, fmt);
    (void)vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return code;
}

void
err_prefix(struct err *err, const char *fmt, ...)
{
    char    text[ERR_TEXT_MAX];
    va_list ap;
    int     n;

    if (err == NULL)
        return;
    va_start(ap, fmt);
    n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text - 3)
        return;
    (void)snprintf(text + n, sizeof text - (size_t)n, ": %.*s", (int)(sizeof text - (size_t)n) - 3,
                   err->text);
    memcpy(err->text, text, sizeof text);
}

void
err_clear(struct err *err)
{
    if (err == NULL)
        return;
    err->code = E_OK;
    err->kind = ERR_NONE;
    err->file = NULL;
    err->line = 0;
    err->retry_ms = 0;
    err->text[0] = '\0';
}

void
err_copy(struct err *to, const struct err *from)
{
    if (to != NULL && from != NULL && to != from)
        *to = *from;
}

const char *
err_name(int code)
{
    if (code < 0 || code >= E_COUNT)
        return "unknown";
    return names[code];
}

const char *
err_kind_name(enum err_kind kind)
{
    switch (kind) {
    case ERR_NONE:
        return "none";
    case ERR_RETRY:
        return "retry";
    case ERR_DATA:
        return "data";
    case ERR_UNSURE:
        return "unsure";
    case ERR_FATAL:
        return "fatal";
    }
    return "unknown";
}

int
err_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return E_NOSPC;
    case EROFS:
        return E_RDONLY;
    case ENOENT:
        return E_NOTFOUND;
    case EEXIST:
        return E_EXISTS;
    case EACCES:
    case EPERM:
        return E_AUTH;
    case ENOMEM:
        return E_NOMEM;
    case EBUSY:
        return E_BUSY;
    default:
        return E_IO;
    }
}
