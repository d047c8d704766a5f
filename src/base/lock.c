#include "base/lock.h"

#include "base/must.h"

#ifdef OX_SLOW_CHECKS
#define HELD_MAX 16
static _Thread_local int held[HELD_MAX];
static _Thread_local int held_count;
#endif

void
lock_init(struct ox_lock *lock, enum lock_rank rank)
{
    pthread_mutexattr_t attr;

    /* What a lock covers is shorter than a sleep: who meets it taken looks again for a while. */
    must(pthread_mutexattr_init(&attr) == 0);
    must(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP) == 0);
    must(pthread_mutex_init(&lock->mutex, &attr) == 0);
    must(pthread_mutexattr_destroy(&attr) == 0);
    lock->rank = (int)rank;
}

void
lock_fini(struct ox_lock *lock)
{
    must(pthread_mutex_destroy(&lock->mutex) == 0);
}

void
lock_take(struct ox_lock *lock)
{
#ifdef OX_SLOW_CHECKS
    must(held_count < HELD_MAX);
    must(held_count == 0 || held[held_count - 1] < lock->rank);
    held[held_count++] = lock->rank;
#endif
    must(pthread_mutex_lock(&lock->mutex) == 0);
}

void
lock_give(struct ox_lock *lock)
{
#ifdef OX_SLOW_CHECKS
    must(held_count > 0);
    must(held[held_count - 1] == lock->rank);
    held_count--;
#endif
    must(pthread_mutex_unlock(&lock->mutex) == 0);
}

bool
lock_held(void)
{
#ifdef OX_SLOW_CHECKS
    return held_count > 0;
#else
    return true;
#endif
}
