/*
 * For the tests of the pipelines: a log in a folder of its own, a source over
 * an array, and a sink that fails when told to. The sink's driver runs on the
 * pipeline's task, the test looks on from its own thread: hence the lock.
 */
#ifndef OX_TESTS_CORE_FAKE_H
#define OX_TESTS_CORE_FAKE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "log/log.h"
#include "sink/sink.h"
#include "source/source.h"

struct fake_log {
    char            dir[64];
    struct log     *log;
    struct log_conf conf;
};

void fake_log_open(struct fake_log *f);
void fake_log_reopen(struct fake_log *f);
void fake_log_close(struct fake_log *f);

/* One event; its position. */
struct log_pos fake_append(struct fake_log *f, const char *stream, const char *data);
uint64_t       fake_count(struct fake_log *f, const char *stream);

/* What the log has written is not durable for as long as this is so. */
void fake_log_hold(bool hold);

/* An environment with one task, which runs only where a test says so, or waits for it. */
struct fake_hand {
    struct ox_env_ops  ops;
    struct ox_env      env;
    struct ox_task_def task;
};

extern struct fake_hand fake_hand;

struct ox_env *fake_hand_env(void); /* anew */
void           fake_hand_step(void);

/* Until `fn` holds, at most 30 s; then the test fails with `what`. */
void fake_until(bool (*fn)(void *arg), void *arg, const char *what);
void fake_ok(int rc, const struct err *err);

/* A far side: what arrived, in the order of arrival. */
#define FAKE_ARRIVALS_MAX 65536

struct fake_arrival {
    struct log_pos pos;
    uint64_t       version;
    struct ox_id   id;
    uint32_t       run;
    char           stream[64];
};

struct fake_world {
    pthread_mutex_t      lock;
    struct fake_arrival *arrivals;
    uint32_t             count;
    uint64_t             tries, checkpoint;
    uint32_t             peak;       /* items with the driver at once */
    bool                 overlapped; /* two of a stream at once */
    /* What it is to do. */
    uint32_t        credit;
    bool            paused;       /* takes items and decides nothing */
    bool            polling;      /* the driver is at work, or waits for `stuck` … */
    pthread_mutex_t stuck;        /* … which a test may hold */
    bool            down;         /* poll itself fails */
    bool            away;         /* it cannot be reached: each try fails */
    bool            unsure_after; /* the next transaction is kept, and its answer lost */
    /* What becomes of a try: 0, or a kind. Called with the lock held. */
    enum err_kind (*judge)(struct fake_world *w, const struct sink_item *item);
    char     refuse[64]; /* for judges: which stream */
    uint32_t budget;
    uint64_t random;
};

struct fake_world *fake_world_new(void);
void               fake_world_free(struct fake_world *w);
struct sink       *fake_sink(struct fake_world *w, bool transactional);
uint32_t           fake_arrived(struct fake_world *w);

/* A source over `count` changes; a checkpoint is the number of those taken. */
struct fake_feed {
    pthread_mutex_t lock;
    uint32_t        count, keys;
    uint32_t        huge; /* the number of the change with a row over the limit; 0: none */
    uint32_t        row_bytes;
    uint32_t        confirmed, starts, polls;
    uint32_t        fail_polls; /* so many polls fail first */
    enum err_kind   fail_kind;
    bool            went_back; /* started below what was confirmed */
};

struct fake_feed *fake_feed_new(uint32_t count, uint32_t keys);
void              fake_feed_free(struct fake_feed *f);
struct source    *fake_source(struct fake_feed *f);

#endif
