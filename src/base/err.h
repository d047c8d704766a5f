/*
 * Errors: one fixed-size value that the caller owns, and the two macros that
 * carry it to the single `out:` of a function.
 *
 * A function that can fail returns an int: 0, or one of `enum err_code`, which
 * is also in err->code. The core decides by `kind` alone. Texts are one line,
 * say what, where and what to do, and never carry row data or secrets.
 */
#ifndef OX_BASE_ERR_H
#define OX_BASE_ERR_H

#include <stdbool.h>

enum err_kind {
    ERR_NONE = 0,
    ERR_RETRY,  /* may succeed later, unchanged */
    ERR_DATA,   /* this input is refused; everything else goes on */
    ERR_UNSURE, /* the outcome is unknown: look before sending again */
    ERR_FATAL,  /* the component cannot go on */
};

/* Stable: programs branch on the names (err_name). Append only. */
enum err_code {
    E_OK = 0,
    E_NOMEM,         /* out of memory, or over a memory limit */
    E_IO,            /* a system call on a file failed */
    E_NOSPC,         /* the disk is full, or below its watermark */
    E_RDONLY,        /* the file system or the log does not take writes */
    E_BUSY,          /* somebody else holds it */
    E_EXISTS,        /* is there already */
    E_NOTFOUND,      /* is not there */
    E_FORMAT,        /* unknown format or format version */
    E_DAMAGED,       /* bytes that were durable are not what was written */
    E_INVALID,       /* a value that the caller gave is out of its range */
    E_LIMIT,         /* over a documented limit */
    E_WRONG_VERSION, /* expected version does not hold */
    E_GONE,          /* deleted for good */
    E_SYNTAX,        /* malformed JSON, YAML, NDJSON, HTTP */
    E_SCHEMA,        /* well-formed, but not what was asked for */
    E_CONNECT,       /* a server cannot be reached */
    E_TIMEOUT,       /* no answer in time */
    E_REMOTE,        /* a server answered with an error */
    E_REJECTED,      /* a server refused this item for good */
    E_STATE,         /* not possible in the present state */
    E_CLOSED,        /* is being closed */
    E_USAGE,         /* command line */
    E_DIVERGED,      /* two sides that should be equal are not */
    E_FENCED,        /* an older epoch, or the authority is elsewhere */
    E_AUTH,          /* not allowed */
    E_INTERRUPTED,   /* stopped by a signal or a cancel */
    E_END,           /* nothing more: not a failure */
    E_MORE,          /* not finished: ask again; not a failure */
    E_MOVED,         /* the stream was moved: its events go to others now */
    E_COUNT
};

#define ERR_TEXT_MAX 512

struct err {
    int           code; /* enum err_code */
    enum err_kind kind;
    int           line;
    unsigned      retry_ms; /* ERR_RETRY: not before so many ms; 0: at the caller's own pace */
    const char   *file;
    char          text[ERR_TEXT_MAX];
};

/* Sets every field; `err` may be NULL. Returns `code`, which must not be 0. */
int err_set(struct err *err, const char *file, int line, int code, enum err_kind kind,
            const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* Puts "what: " before the text that is there. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void err_clear(struct err *err);

/* Copies; either may be NULL. */
void err_copy(struct err *to, const struct err *from);

/* "wrong-expected-version", "not-found", …: stable, for programs. */
const char *err_name(int code);
const char *err_kind_name(enum err_kind kind);

/* The code and kind for an errno value: ENOSPC is E_NOSPC, EROFS is E_RDONLY, … */
int err_of_errno(int errnum);

/* Needs `int rc` and a label `out:` in the function. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        rc = (call);                                                                               \
        if (rc != 0)                                                                               \
            goto out;                                                                              \
    } while (0)

#define FAIL(err, errcode, errkind, ...)                                                           \
    do {                                                                                           \
        rc = (errcode);                                                                            \
        (void)err_set((err), __FILE__, __LINE__, (errcode), (errkind), __VA_ARGS__);               \
        goto out;                                                                                  \
    } while (0)

/* For functions without anything to free. */
#define RETURN_ERR(err, errcode, errkind, ...)                                                     \
    do {                                                                                           \
        (void)err_set((err), __FILE__, __LINE__, (errcode), (errkind), __VA_ARGS__);               \
        return (errcode);                                                                          \
    } while (0)

#endif
