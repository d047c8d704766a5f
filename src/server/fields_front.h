/*
 * Indexes on fields over HTTP (core/fields.h): routes under /v1/indexes, and
 * figures of each index in /metrics. The indexes stay the caller's and must
 * outlive the server.
 */
#ifndef OX_SERVER_FIELDS_FRONT_H
#define OX_SERVER_FIELDS_FRONT_H

#include "base/err.h"

struct fields;
struct server;

/* Before server_run, once. */
int server_add_fields(struct server *server, struct fields *fields, struct err *err);

#endif
