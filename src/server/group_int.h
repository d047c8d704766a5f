/* Inside src/server only: what the two files of the groups' front share. */
#ifndef OX_SERVER_GROUP_INT_H
#define OX_SERVER_GROUP_INT_H

#include <pthread.h>

#include "core/group.h"
#include "server/group_front.h"
#include "server/server_int.h"

#define SERVERI_ACKS_MAX GROUP_BUFFER_MAX /* events in one acknowledgement */

struct front {
    struct server_extra extra; /* first */
    struct server      *server;
    struct groups      *groups;
    struct consumer    *consumers;
    uv_timer_t          timer; /* leases and waits of those that pull */
    bool                stopped;

    pthread_mutex_t cast_lock; /* what follows: the groups' own, beside the loop's */
    struct upcast  *upcast;    /* NULL: not yet */
};

/*
 * On the groups' task: the event as it is read now. What it points at is the front's until
 * serveri_group_cast_end, which comes always. An error: the event is as it is stored.
 */
int  serveri_group_cast(struct front *f, struct log_event *event, struct err *err);
void serveri_group_cast_end(struct front *f);

/* group_api.c */
extern const struct server_route serveri_group_routes[];
extern const size_t              serveri_group_route_count;
void                             serveri_group_metrics(struct server_extra *extra, struct buf *out);

/* group_front.c: the routes of members */
void serveri_group_events(struct call *call, void *arg);
void serveri_group_ack(struct call *call, void *arg);
void serveri_group_nack(struct call *call, void *arg);
void serveri_group_leave(struct call *call, void *arg);

/* A query's number from `least` to `most`; absent: as it is. E_INVALID. */
int serveri_group_number(const struct call *call, const char *name, uint64_t least, uint64_t most,
                         uint64_t *out, struct err *err);
/* E_INVALID for a parameter that is none of `names`, which ends with NULL. */
int serveri_group_query(const struct call *call, const char *const *names, struct err *err);

#endif
