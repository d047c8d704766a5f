/* A log of its own with surgeries on it, for their tests. */
#ifndef OX_TESTS_SURGERY_FIX_H
#define OX_TESTS_SURGERY_FIX_H

#include "base/env.h"
#include "log/log.h"
#include "migrate/stream/stream.h"

#define WAIT_US UINT64_C(100000000)

struct fix {
    char                  dir[64];
    struct ox_env         env; /* the real one, with a disk that can be full */
    struct ox_env_ops     ops;
    struct log           *log;
    struct stream_router *router;
    struct log_conf       conf;
    struct surgery       *surgery; /* the last one that was begun */
    struct log_req        req;     /* the last append */
    uint64_t              version; /* of its last event */
    struct err            err;
};

int  setup(void **state);
int  teardown(void **state);
void open_log(struct fix *f, bool router);
void close_log(struct fix *f); /* and the surgery */
void set_disk_full(bool full);

/* One event; e.stream is not looked at. */
int
append_event(struct fix *f, const char *stream, int64_t expected, const struct log_new_event *e);
int append(struct fix *f, const char *stream, const char *type, const char *data);
/* Each stream "CATEGORY-I" with `events` events of types A and B by turns. */
void fill(struct fix *f, const char *category, unsigned streams, unsigned events);
int  change(struct fix *f, const char *stream, uint32_t what);
/* So much that what was written before stands in segments that are full; then all is scavenged
 * that can be. How many events went. */
uint64_t scavenge(struct fix *f);

int begin(struct fix *f, const char *name, const char *spec);
/* Goes on with one whose record is there. */
int                  again(struct fix *f, const char *name);
struct stream_status wait_end(struct fix *f, enum stream_state state);
struct stream_status run(struct fix *f, const char *name, const char *spec);
void                 assert_plan(struct fix *f, const char *spec, uint64_t sample, const char *has);
struct stream_audit  audit(struct fix *f); /* which has to find nothing */
void                 assert_clean(struct fix *f, uint64_t streams, uint64_t copies);

bool     there(struct fix *f, const char *stream);
uint32_t flags_of(struct fix *f, const char *stream);
uint64_t count(struct fix *f, const struct log_read *read);
/* What is read, as "TYPE:DATA TYPEn …": n of {"n":n}, links as "VERSION@STREAM", marks by their
 * type alone. */
void assert_read(struct fix *f, const struct log_read *read, const char *should);
void assert_stream(struct fix *f, const char *stream, const char *should);
/* Why the surgery parked its first stream has this in it. */
void assert_parked(struct fix *f, const char *surgery, const char *why);

#endif
