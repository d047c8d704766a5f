/*
 * A keyed JSON service in memory, behind http_fake: rows of any members, their
 * versions, conditions, idempotency keys, a feed of changes and an epoch, as
 * the fulfilment service of examples/orders has them.
 */
#ifndef OX_TESTS_HTTP_SERVICE_H
#define OX_TESTS_HTTP_SERVICE_H

#include "http_fake.h"

struct http_service;

struct http_service *http_service_new(void);
void                 http_service_free(struct http_service *);
void                 http_service_reset(struct http_service *); /* no rows, no feed, epoch 0 */
struct http_fake    *http_service_fake(struct http_service *);

/* A write as an application makes it. `row` is a JSON object; NULL deletes. */
void     http_service_write(struct http_service *, const char *key, const char *row);
uint64_t http_service_head(struct http_service *);
/* The row's members as they were written; false where there is none. `out` is cleared first. */
bool http_service_read(struct http_service *, const char *key, struct buf *out);
/* From now on the feed has nothing at or before its head. */
void http_service_forget(struct http_service *);
/* While true, versions are given as ETag only. */
void http_service_hide_versions(struct http_service *, bool hide);
/* Rows with a member that is not in this list, which ends with NULL, are refused (422). */
void     http_service_only(struct http_service *, const char *const *members);
uint32_t http_service_rows(struct http_service *);

#endif
