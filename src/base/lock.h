/*
 * Mutexes with a rank: a thread takes them in growing rank only, which debug
 * builds check. In the simulator there is one thread and no lock ever waits.
 */
#ifndef OX_BASE_LOCK_H
#define OX_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>

/* The order in which locks may be taken. */
enum lock_rank {
    LOCK_NONE = 0,
    LOCK_CORE = 10,      /* core: pipelines, subscriptions */
    LOCK_CORE_PART = 15, /* … what their own lock may be held over */
    LOCK_LOG_ADMIN = 20, /* log: listeners */
    LOCK_LOG_QUEUE = 30,
    LOCK_LOG_MEM = 40,  /* log: what is not indexed yet */
    LOCK_LOG_FILL = 45, /* log: zeros into the next segment */
    LOCK_LOG_SEGS = 50, /* log: table of segments */
    LOCK_INDEX = 60,
    LOCK_SUBJECTS = 65, /* keys of subjects */
    LOCK_ENV = 70,
    LOCK_TEXT = 80, /* the log of lines on stderr */
};

struct ox_lock {
    pthread_mutex_t mutex;
    int             rank;
};

void lock_init(struct ox_lock *, enum lock_rank);
void lock_fini(struct ox_lock *);
void lock_take(struct ox_lock *);
void lock_give(struct ox_lock *);

/* Does this thread hold any? Known in debug and simulator builds; others say true. */
bool lock_held(void);

#endif
