/*
 * Consumer groups over HTTP (core/group.h): routes under /v1/groups, and
 * figures of each group in /metrics. The groups stay the caller's and must
 * outlive the server.
 */
#ifndef OX_SERVER_GROUP_FRONT_H
#define OX_SERVER_GROUP_FRONT_H

#include "base/err.h"

struct groups;
struct server;

/* Before server_run, once. */
int server_add_groups(struct server *server, struct groups *groups, struct err *err);

#endif
