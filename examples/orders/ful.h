/*
 * The parts of the fulfilment service. One writer thread owns every change to
 * the database; requests hand it jobs and wait. So epoch, authority,
 * precondition and write are decided in one transaction, changes have one
 * order, and many waiting jobs share one sync.
 */
#ifndef ORDERS_FUL_H
#define ORDERS_FUL_H

#include "misc.h"
#include <jansson.h>

#define FUL_BODY_MAX (64 * 1024)

struct ful_row {
    int64_t id;
    int64_t version; /* the cursor of the change that made it, so never used twice */
    char   *restaurant;
    char   *driver; /* may be NULL */
    char   *state;
    char   *note; /* may be NULL, which is not the same as empty */
};

void    ful_row_fini(struct ful_row *row);
json_t *ful_row_json(const struct ful_row *row);

/* Checks a request's body; NULL, or the one-line reason for a 422. Takes what it needs. */
const char *ful_row_parse(const json_t *body, int64_t id, struct ful_row *row);

enum ful_kind { FUL_PUT, FUL_DELETE, FUL_EPOCH };

#define FUL_MATCH_NONE (-1) /* no If-Match */
#define FUL_MATCH_ANY (-2)  /* If-Match: * */

/* What a request asks of the writer, and what the writer answers. */
struct ful_job {
    enum ful_kind  kind;
    struct ful_row row; /* PUT: all of it; DELETE: the id */
    bool           if_absent;
    int64_t        if_match;
    const char    *key;     /* Idempotency-Key, or NULL */
    const char    *request; /* what a repeated key must have sent the first time */
    const char    *origin;  /* or NULL */
    int64_t        epoch;   /* -1: the caller gave none */
    const char    *authority;

    unsigned        status;
    json_t         *body;
    int64_t         etag; /* 0: none */
    bool            replayed;
    bool            done;
    struct ful_job *next;
};

struct ful_store;

/* `migrator` is the origin whose writes pass while the authority is elsewhere. */
struct ful_store *ful_store_open(const char *path, const char *migrator, int64_t keep_changes);
void              ful_store_close(struct ful_store *store);

/* Blocks until the job is durable or refused; fills status and body. */
void ful_store_run(struct ful_store *store, struct ful_job *job);

/* Reads. Each returns a new object, or NULL after a storage failure. */
json_t *ful_store_get(struct ful_store *store, int64_t id); /* JSON null: not there */
json_t *ful_store_scan(struct ful_store *store, int64_t after, int64_t limit);
json_t *ful_store_epoch(struct ful_store *store);
json_t *ful_store_changes(struct ful_store *store, int64_t after, int64_t limit);
int64_t ful_store_oldest(struct ful_store *store); /* the first cursor that can be asked for */
int64_t ful_store_head(struct ful_store *store);
/* The head as the database has it, which readers see a moment before it is announced. */
int64_t ful_store_committed(struct ful_store *store);

/* Until there is a change after `after`, the time is up, or the service stops. */
void ful_store_wait(struct ful_store *store, int64_t after, int64_t wait_ms);
void ful_store_wake(struct ful_store *store);

/* Inside ful_store.c and ful_write.c only. */
int ful_write_batch(struct ful_store *store, struct ful_job *jobs, int64_t *head);

enum ful_fault {
    FUL_FAULT_NONE,
    FUL_FAULT_500,
    FUL_FAULT_500_AFTER,
    FUL_FAULT_SLOW,
    FUL_FAULT_GARBAGE,
    FUL_FAULT_CLOSE,
    FUL_FAULT_422,
};

/* NULL, or the reason why the body of POST /fault is refused. */
const char    *ful_fault_set(const json_t *body);
enum ful_fault ful_fault_take(const char *method, const char *url, int64_t *delay_ms);
json_t        *ful_fault_json(void);

struct ful_http;
struct ful_http *ful_http_start(struct ful_store *store, uint16_t port, uint16_t *bound);
void             ful_http_stop(struct ful_http *http);

#endif
