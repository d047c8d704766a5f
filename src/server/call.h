/*
 * One request and its answer, as a handler sees them.
 *
 * A handler (server_route.fn) runs on the server's loop and does exactly one
 * of these before it returns: call_answer or call_fail, call_later (answered
 * afterwards, from any thread), or call_stream (server-sent events). The
 * request's slices are valid until the handler returns.
 */
#ifndef OX_SERVER_CALL_H
#define OX_SERVER_CALL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

struct call;
struct later;

#define CALL_JSON "application/json"

/* A segment that the route's path names in braces; decoded. */
struct slice call_param(const struct call *call, const char *name);

/* A parameter of the query; decoded. False: not there. */
bool call_query(const struct call *call, const char *name, struct slice *value);

/* A header field; `name` in lower case. False: not there. */
bool call_header(const struct call *call, const char *name, struct slice *value);

struct slice call_body(const struct call *call);

/* May whoever asks append to this stream? */
bool call_may_write(struct call *call, struct slice stream);

/* Did it come from this machine? */
bool call_is_local(const struct call *call);

/* The whole answer; `type` is its Content-Type. */
void call_answer(struct call *call, int status, const char *type, struct slice body);

/* {"error":…,"message":…} with the status that the error's code has. */
void call_fail(struct call *call, const struct err *err);

/* The same with a status and name of the caller's. */
void call_refuse(struct call *call, int status, const char *name, const char *message);

/* 400, 404, 409, 413, 503, …: for err.code and err.kind. */
int call_status(const struct err *err);

/* Answering afterwards. */

/*
 * Takes the answer out of the handler's hands. Whoever holds the later must
 * call later_answer, later_fail or later_drop once, from any thread. When
 * timeout_ms pass first, the client gets 504 and the answer is dropped.
 * NULL where memory is out: the call was answered.
 */
struct later *call_later(struct call *call, uint32_t timeout_ms);

/* What the client gets then instead of 504; on the loop, and the text is not copied. */
void later_if_late(struct later *later, int status, const char *type, const char *body);

void later_answer(struct later *later, int status, const char *type, struct slice body);
void later_fail(struct later *later, const struct err *err);

/* Server-sent events. */

/* Begins a stream; comments keep it alive. NULL where memory is out: the call was answered. */
struct later *call_stream(struct call *call);

/*
 * One event, from any thread; `event` and `id` may be NULL. E_CLOSED: the
 * client is gone; E_LIMIT: it reads too slowly and was cut off: it comes back
 * with Last-Event-ID. After an error there is only later_drop.
 */
int later_send(struct later *later, const char *event, const char *id, struct slice data,
               struct err *err);

/* Ends a stream, or drops the connection of a call that is never answered. */
void later_drop(struct later *later);

#endif
