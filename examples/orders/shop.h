/*
 * The parts of the shop, a legacy application.
 *
 * An order is a sale, which stays in the shop's own database, and a fulfilment
 * part, which may be there or at a service; the route says which. A worker
 * owns the orders whose id it is modulo the number of workers, so that one
 * order's changes happen one after another.
 */
#ifndef ORDERS_SHOP_H
#define ORDERS_SHOP_H

#include "misc.h"
#include <jansson.h>

/* The fulfilment part. Without a state there is none. */
struct part {
    char *restaurant;
    char *driver; /* may be NULL */
    char *state;
    char *note; /* may be NULL, which is not the same as empty */
};

int  part_copy(const struct part *from, struct part *to);
bool part_equal(const struct part *a, const struct part *b);
bool part_is_final(const struct part *part); /* delivered or cancelled */
void part_fini(struct part *part);

struct sale {
    char   *customer;
    char   *items; /* JSON */
    char   *currency;
    char   *placed_at;
    int64_t amount_cents;
};

void  sale_fini(struct sale *sale);
char *stamp_text(int64_t wall_us); /* 2026-01-31T12:00:00.000000Z */

/* Plausible data out of a seeded sequence. */
int invent_sale(struct dice *dice, int64_t placed_us, struct sale *sale);
int invent_part(struct dice *dice, struct part *part);             /* as first placed */
int invent_text(struct dice *dice, const char *what, char **text); /* replaces; note, driver */

/* What became of an attempt to write. */
enum outcome {
    DONE,
    MOVED,    /* refused here: the truth is, or is going, elsewhere */
    UNSURE,   /* no clear answer: look again, and repeat */
    REJECTED, /* refused for good */
};

/* The shop's own database; one connection per thread. */
struct books;
struct books *books_open(const char *path);
void          books_close(struct books *books);
int           books_create(const char *path); /* refuses one that is there */
int           books_begin(struct books *books);
int           books_commit(struct books *books);
/* `part` NULL: the sale alone. */
enum outcome
books_insert(struct books *books, int64_t id, const struct sale *sale, const struct part *part);
/* Also says whether the row was neither `now` nor already `want`. */
enum outcome books_update(struct books *books, int64_t id, const struct part *now,
                          const struct part *want, bool *surprise);
enum outcome books_correct(struct books *books, int64_t id, const struct sale *sale);
enum outcome books_read(struct books *books, int64_t id, struct part *part);
int64_t      books_max_id(struct books *books);
int64_t      books_count(struct books *books);
/* Calls back with each order of this worker that is not final. */
int books_load(struct books *books, unsigned workers, unsigned worker,
               int (*take)(void *cls, int64_t id, struct part *part), void *cls);

/* One thread's HTTP client. */
struct wire;
struct wire *wire_new(void);
void         wire_free(struct wire *wire);
/* The answer's status, or 0 when there was none. Up to two headers, NULL to skip. */
long        wire_call(struct wire *wire, const char *method, const char *url, const char *head1,
                      const char *head2, const char *body, long timeout_ms);
const char *wire_text(const struct wire *wire);
bool        wire_may_cache(const struct wire *wire);

/* Which side has the truth. Shared by all threads. */
enum side { SIDE_OLD, SIDE_NEW, SIDE_HOLD };
struct route {
    enum side side;
    int64_t   epoch;
    int64_t   retry_us; /* of SIDE_HOLD */
    bool      known;    /* false: no answer ever came, and the old side is a guess */
};
struct router;
struct router *router_new(const char *url, int64_t cache_ms);
void           router_free(struct router *router);
void
router_ask(struct router *router, struct wire *wire, int64_t id, bool afresh, struct route *out);

/* The service. */
enum outcome remote_put(struct wire *wire, const char *service, int64_t id, const struct part *part,
                        int64_t epoch, const char *key);
/* A part without a state: the service has no such row. */
enum outcome remote_get(struct wire *wire, const char *service, int64_t id, struct part *part);

/* The journal: a line for every acknowledged write. */
struct entry {
    int64_t            id;
    int64_t            seq;
    const char        *op;
    bool               acked;
    enum side          side;
    int64_t            epoch;
    const struct part *part;
    int64_t            start_us, end_us, held_us;
    int64_t            refusals, retries;
    bool               stubborn, surprise;
};
struct journal;
struct journal *journal_open(const char *path, int64_t *seq_max); /* path NULL: keeps nothing */
int             journal_add(struct journal *journal, const struct entry *entry);
void            journal_close(struct journal *journal);

int init_invented(struct books *books, struct journal *journal, int64_t orders, uint64_t seed);
int init_northwind(struct books *books, struct journal *journal, const char *dir);
int init_add(struct books *books, struct journal *journal, int64_t id, const struct sale *sale,
             const struct part *part);

struct run_options {
    const char *db, *route, *service, *stubborn_file, *journal, *stats;
    int64_t     rate, workers, seconds, route_cache_ms; /* seconds 0: until SIGTERM */
};
int run_shop(const struct run_options *options); /* the exit status */

#endif
