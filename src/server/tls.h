/*
 * Inside src/server only: TLS of one connection, in memory. What the network brings is fed, what
 * the network is to get is taken; in between are plain bytes. One thread.
 */
#ifndef OX_SERVER_TLS_H
#define OX_SERVER_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/slice.h"

struct server_tls;
struct tls_context; /* certificate, key, and whom to believe; shared by connections */
struct tls;

/* E_NOTFOUND, E_INVALID with the file's name; E_NOMEM. */
int serveri_tls_context(const struct server_tls *conf, struct tls_context **out, struct err *err);
void
serveri_tls_context_free(struct tls_context *context); /* connections keep theirs; NULL is fine */

/* NULL: out of memory. */
struct tls *serveri_tls_new(struct tls_context *context);
void        serveri_tls_free(struct tls *tls); /* NULL is fine */

enum tls_result {
    TLS_OK,
    TLS_MORE, /* nothing is there until the network has brought more */
    TLS_END,  /* the other side has said that nothing more comes */
    TLS_BAD,  /* not TLS, forged, or refused: what serveri_tls_take has says so to the other side */
};

bool serveri_tls_feed(struct tls *tls, const void *data, size_t len); /* false: out of memory */

/* At most `room` plain bytes; goes on with the handshake as far as it can. */
enum tls_result serveri_tls_read(struct tls *tls, void *to, size_t room, size_t *len);

bool serveri_tls_ready(const struct tls *tls); /* the handshake is done */

/* Only when ready. */
enum tls_result serveri_tls_write(struct tls *tls, struct slice plain);
void            serveri_tls_close(struct tls *tls); /* nothing more will be written */

bool serveri_tls_has(const struct tls *tls); /* something for the network */

/* Appends what the network is to get. */
void serveri_tls_take(struct tls *tls, struct buf *out);

/* Why TLS_BAD, for a line of the log; valid until the next call. */
const char *serveri_tls_why(const struct tls *tls);

#endif
