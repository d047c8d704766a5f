/* The store's inside, for ful_store.c and ful_write.c. */
#ifndef ORDERS_FUL_INT_H
#define ORDERS_FUL_INT_H

#include "ful.h"
#include <pthread.h>

enum ful_stmt {
    ST_BEGIN,
    ST_COMMIT,
    ST_ROLLBACK,
    ST_SAVE,
    ST_RELEASE,
    ST_UNDO,
    ST_GET,
    ST_UPSERT,
    ST_DELETE,
    ST_LOG,
    ST_TRIM_LOG,
    ST_REPLY_GET,
    ST_REPLY_PUT,
    ST_REPLY_TRIM,
    ST_FENCE_GET,
    ST_FENCE_SET,
    ST_COUNT
};

struct ful_store {
    sqlite3      *write_db; /* the writer thread's */
    sqlite3_stmt *st[ST_COUNT];
    char         *migrator;
    int64_t       keep_changes; /* 0: all of them */

    sqlite3        *read_db; /* under read_lock */
    sqlite3_stmt   *read_get, *read_scan, *read_changes, *read_fence, *read_head, *read_oldest;
    pthread_mutex_t read_lock;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t  work; /* a job waits, or the store closes */
    pthread_cond_t  done; /* some jobs are decided */
    pthread_cond_t  news; /* the head moved, or the service stops */
    struct ful_job *first, *last;
    int64_t         head;
    bool            closing, waking;
    pthread_t       writer;
};

void ful_row_load(sqlite3_stmt *st, struct ful_row *row); /* id, restaurant, … version */

#endif
