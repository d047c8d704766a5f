/* The oracle of the index's contract: what was applied, and checks of what is read against it. */
#ifndef OX_TESTS_INDEX_ORACLE_H
#define OX_TESTS_INDEX_ORACLE_H

#include "env/env_real.h"
#include "log/index.h"
#include "sim/index_map.h"

#define STREAMS 300
#define EVENTS_MAX 60000
#define LABELS 7

struct known {
    uint64_t id, version, pos;
    uint32_t label; /* of its category; its type is another number of it */
};

struct listing {
    struct slice prefix, after;
    char         last[300];
    uint32_t     count, stop_after;
};

extern const uint8_t              log_id[16];
extern const uint8_t              other_id[16];
extern const struct ox_index_ops *ops;
extern struct ox_env             *env;
extern struct index_maps         *maps;
extern struct ox_index           *ix;
extern char                       dir[64];
extern struct err                 err;
extern uint64_t                   seed;
extern struct known               events[EVENTS_MAX];
extern uint32_t                   event_count;
extern struct index_head          heads[STREAMS];
extern bool                       exists[STREAMS];
extern uint64_t                   end_pos;
extern const char *const          categories[LABELS];
extern const char *const          types[LABELS];

uint64_t            pick(uint64_t below);
char               *stream_name(uint64_t id);
void                forget_all(void);
void                apply_events(uint32_t from);
void                add_event(uint64_t id);
void                apply_random(uint32_t count);
void                check_head(const struct index_head *head, uint64_t id);
void                check_stream(uint64_t id);
const struct known *event_of(uint64_t id, uint64_t version);
void                check_positions(uint64_t id, uint64_t from, bool backwards, uint32_t max);
void check_list(bool by_type, struct slice name, uint64_t from, bool backwards, uint32_t max);
void check_some(uint32_t rounds);
void check_all_lists(void);
int
list_one(void *arg, struct slice name, uint64_t id, const struct index_head *head, struct err *e);
void check_streams(const char *prefix, const char *after);
void open_again(const uint8_t *id);
int  remove_one(void *arg, const char *name, struct err *e);
int  set_up(void **state);
int  tear_down(void **state);

/* Tests of what only one driver can show (index_only.c). */
void test_map_grows(void **state);
void test_opened_again(void **state);
void test_no_room(void **state);
void test_damage(void **state);
void test_read_while_applying(void **state);
void test_killed(void **state);
void test_reader_process(void **state);
void test_power_cut(void **state);
void test_refused_calls(void **state);

#endif
