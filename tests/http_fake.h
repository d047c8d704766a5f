/*
 * An HTTP server inside the test: on 127.0.0.1 at a free port, answering by a
 * script and, where that is empty, by a function. Misbehaves on request.
 */
#ifndef OX_TESTS_HTTP_FAKE_H
#define OX_TESTS_HTTP_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

enum fake_mode {
    FAKE_ANSWER,  /* as HTTP has it, and the connection stays open */
    FAKE_CLOSE,   /* reads the request, then closes */
    FAKE_HALF,    /* half of the answer's bytes, then closes */
    FAKE_GARBAGE, /* the body alone, raw, then closes */
    FAKE_HANG,    /* says nothing until the client goes away */
};

struct fake_request {
    char         method[16];
    char         path[2048]; /* with the query, as it was sent */
    struct slice head;       /* all header lines */
    struct slice body;
};

struct fake_reply {
    int            status; /* 0: 200 */
    enum fake_mode mode;
    char           headers[512]; /* lines with "\r\n" */
    struct buf     body;
};

/* Called for one request at a time. */
typedef void fake_fn(void *arg, const struct fake_request *, struct fake_reply *);

struct http_fake;

struct http_fake *http_fake_new(fake_fn *, void *arg);
void              http_fake_free(struct http_fake *);
uint16_t          http_fake_port(const struct http_fake *);

/* The next request is answered so; called before it comes. `headers` and `body` may be NULL. */
void http_fake_push(struct http_fake *, enum fake_mode, int status, const char *headers,
                    const char *body);
/* `times`: that many in a row. `effect`: the function is called first, its answer thrown away. */
void http_fake_push_many(struct http_fake *, uint32_t times, bool effect, enum fake_mode,
                         int status, const char *headers, const char *body);

/* How many requests came; the text of the last: "METHOD PATH\nHEADERS\nBODY". */
uint32_t http_fake_count(struct http_fake *);
uint32_t http_fake_connections(struct http_fake *);
bool     http_fake_last_has(struct http_fake *, const char *text);
/* The most requests that were waiting for their answers at one time. */
uint32_t http_fake_at_once(struct http_fake *);

/* The value of a header in a request's head; false where it is not there. */
bool http_fake_header(const struct fake_request *, const char *name, struct slice *value);

#endif
