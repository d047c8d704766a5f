/*
 * For the tests of the consumer groups: members that note what they are given.
 * The callbacks run on the groups' task, the test looks on from its own thread.
 */
#ifndef OX_TESTS_GROUP_FAKE_H
#define OX_TESTS_GROUP_FAKE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/group.h"
#include "core_fake.h"

#define FAKE_GOT_MAX 20000

struct fake_got {
    struct log_pos pos, link;
    struct ox_id   id;
    uint64_t       version;
    uint32_t       retry;
    char           stream[48], data[32];
};

struct fake_member {
    pthread_mutex_t      lock;
    struct group_member *member;
    struct fake_got     *got;
    uint32_t             count, flushes, taken; /* taken: given out by fake_take */
    int                  ended;                 /* the code it was ended with */
    uint32_t             stall_at;              /* takes no more after so many, until group_want */
};

struct fake_member      *
fake_join(struct groups *gs, const char *source, const char *name, uint32_t buffer, bool pull);
void fake_leave(struct fake_member *m); /* and frees it */
uint32_t fake_got(struct fake_member *m);
int      fake_ended(struct fake_member *m);

/* Waits until it has at least so many; then the test's own view of the nth. */
void            fake_wait(struct fake_member *m, uint32_t count);
struct fake_got fake_at(struct fake_member *m, uint32_t n);

/* Waits for the next one that was not taken. */
struct fake_got fake_take(struct fake_member *m);

/* By position; the call's answer. */
int fake_ack(struct fake_member *m, struct log_pos pos);
int
fake_nack(struct fake_member *m, struct log_pos pos, enum group_action action, const char *reason);

/* Commands that must succeed; settings as JSON over what is preset. */
void fake_create(struct groups *gs, const char *source, const char *name, const char *settings);
int  fake_command(struct groups *gs, enum group_verb verb, const char *source, const char *name,
                  const char *settings, uint64_t limit, struct err *err);

struct fake_info {
    enum group_state state;
    uint32_t         members, in_flight, ready, waiting;
    uint64_t         parked, delivered, acked, retries, timeouts, skipped, lag_events, checkpoint;
    uint64_t         next, done;
    bool             replaying;
};

struct fake_info fake_info(struct groups *gs, const char *source, const char *name);

/* Until the number of parked events, or of those that are not settled, is this. */
void fake_wait_parked(struct groups *gs, const char *source, const char *name, uint64_t parked);
void fake_wait_lag(struct groups *gs, const char *source, const char *name, uint64_t lag);

#endif
