/* A delivery over a real log to the far side in memory, for its tests. */
#ifndef OX_TESTS_DELIVER_FIX_H
#define OX_TESTS_DELIVER_FIX_H

#include "core/deliver.h"
#include "core_fake.h"

struct fix {
    struct fake_log     log;
    struct fake_world  *world;
    struct deliver     *d;
    struct deliver_conf conf;
    bool                transactional;
    uint32_t            want;
    struct log_pos      last; /* appended */
    struct err          err;
};

int                   setup(void **state);
int                   teardown(void **state);
void                  start(struct fix *f);
void                  stop(struct fix *f);
struct deliver_status status(struct fix *f);
bool                  caught_up(void *arg);
bool                  arrived(void *arg);
bool                  is_failed(void *arg);
bool                  is_retrying(void *arg);
bool                  parked_as_wanted(void *arg);
bool                  tried_as_wanted(void *arg);
void                  until_caught_up(struct fix *f);
void                  append(struct fix *f, uint32_t n, uint32_t streams);
void tell(struct fix *f, enum err_kind (*judge)(struct fake_world *, const struct sink_item *),
          const char *refuse, uint32_t budget);
/* Each waits for its answer. */
int      order_replay(struct deliver *d, struct slice stream, struct err *err);
int      order_skip(struct deliver *d, struct slice stream, bool rest, struct err *err);
int      order_pause(struct deliver *d, bool pause, struct err *err);
int      order_seek(struct deliver *d, struct log_pos pos, struct err *err);
int      order_range(struct deliver *d, struct log_pos from, struct log_pos to, struct err *err);
uint64_t check_order(struct fix *f, bool doubles);
uint32_t count_of(struct fix *f, const char *stream);
enum err_kind refuse_stream(struct fake_world *w, const struct sink_item *item);
enum err_kind refuse_first(struct fake_world *w, const struct sink_item *item);
enum err_kind retry_stream(struct fake_world *w, const struct sink_item *item);
enum err_kind anything(struct fake_world *w, const struct sink_item *item);
enum err_kind fatal(struct fake_world *w, const struct sink_item *item);

#endif
