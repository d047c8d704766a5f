/* A server over a log in a folder of its own, in a thread of its own, and a plain client. */
#ifndef OX_TESTS_SERVER_FIX_H
#define OX_TESTS_SERVER_FIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/slice.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "server/call.h"
#include "server/server.h"

struct fix {
    char               dir[64];
    struct log_conf    log_conf;
    struct server_conf conf;
    struct log        *log;
    struct server     *server;
    pthread_t          thread;
    bool               running;
    struct err         err;
};

/* Opens and starts; `routes` may be NULL. */
void fix_start(struct fix *f, const struct server_route *routes, size_t count, void *arg);
void fix_stop(struct fix *f);

/* With everything at its default. */
int fix_setup(void **state);
int fix_teardown(void **state);

struct client {
    int        fd;
    struct buf in; /* received and not yet used */
    bool       closed;
};

struct answer {
    int        status;
    struct buf head, body;
};

void client_open(struct client *c, const struct fix *f);
void client_close(struct client *c);
void client_send(struct client *c, const char *text);
void client_send_bytes(struct client *c, const void *data, size_t len);

/* Waits for more; false: the server has closed. Fails the test when nothing comes for 10 s. */
bool client_more(struct client *c);

/* Reads one whole answer. `has_body` false: to a HEAD. */
void client_answer(struct client *c, struct answer *a, bool has_body);

/* Until this text has arrived; it and all before it are used up. */
void client_until(struct client *c, const char *text);

/* The server closes and sends nothing more. */
void client_expect_end(struct client *c);

void answer_fini(struct answer *a);
bool answer_has(const struct answer *a, const char *text);

/* One request on a connection of its own: the status, and the body in `body` if not NULL. */
int ask(const struct fix *f, const char *request, struct buf *body);

/* The same with a method, path and body, and header fields that end in CR LF ("" : none). */
int ask_with(const struct fix *f, const char *method, const char *path, const char *fields,
             struct slice content, struct buf *body);

/* POST and GET, with header fields that end in CR LF ("": none). */
int
post(const struct fix *f, const char *path, const char *fields, const char *text, struct buf *body);
int get(const struct fix *f, const char *path, const char *fields, struct buf *body);

/* Stops the server and opens the same folder again. */
void fix_restart(struct fix *f);

void expect_body(const struct buf *body, const char *text);

/* A number of GET /metrics. */
uint64_t metric(const struct fix *f, const char *name);

/* The text is somewhere in the buffer. */
bool buf_has(const struct buf *b, const char *text);

#define HOST "Host: localhost\r\n"

#endif
