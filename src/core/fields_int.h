/*
 * Between the files of the indexes on fields: fields_def.c what an index is and
 * what it finds in an event, fields_set.c the set and its changes, fields_build.c
 * the task that reads the log, fields_read.c those who read by a value.
 */
#ifndef OX_CORE_FIELDS_INT_H
#define OX_CORE_FIELDS_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "core/fields.h"

#define FIELDSI_MAGIC 0xf1e1d5U
#define FIELDSI_DEAD_MAX 1024u /* entries of events that are gone, to be taken out */

/* fields_def.c */

struct fieldsi_path {
    struct buf   text;
    struct slice steps[FIELDS_DEPTH_MAX];
    unsigned     count;
};

/* A definition with texts of its own, ready to be used. */
struct fieldsi_rule {
    struct fields_def   def;
    struct buf          texts;
    struct fieldsi_path path;
    bool                system; /* takes events of streams that begin with '$' */
};

int  fieldsi_rule_init(struct fieldsi_rule *, const struct fields_def *, struct err *);
void fieldsi_rule_fini(struct fieldsi_rule *);

/* The values of one event, canonical and each once. */
struct fieldsi_found {
    struct buf text;
    uint32_t   ends[FIELDS_EACH_MAX];
    uint32_t   count;
    uint32_t   skipped; /* too long, too many, or under a subject's key */
    struct buf scratch;
};

/* What the rule finds; none where the event is not of it. Only memory can be out. */
int fieldsi_find(const struct fieldsi_rule *, const struct log_event *, struct fieldsi_found *,
                 struct err *);
struct slice fieldsi_found_at(const struct fieldsi_found *, uint32_t n);
void         fieldsi_found_fini(struct fieldsi_found *);

/* The set. */

struct fieldsi_index {
    uint64_t              id;
    char                  name[FIELDS_NAME_MAX + 1];
    struct fieldsi_rule   rule;
    struct values_state   state; /* as the store has it */
    struct fieldsi_index *next;
};

struct fieldsi_reader {
    struct log_iter *it;
    uint64_t         at, bound; /* its position; nothing from `bound` on */
};

/* Entries of one transaction; their values lie in `text`. */
struct fieldsi_batch {
    struct values_entry *entries;
    uint32_t             count, room;
    struct buf           text;
    bool                 done; /* at the end of the log, or of what was wanted */
    uint64_t             reached;
};

struct fields {
    unsigned                    magic;
    struct ox_env              *env;
    struct log                 *log;
    const struct ox_values_ops *ops;
    struct ox_values           *values;
    bool                        eager;
    struct ox_task             *task;
    struct log_listener         listener;
    atomic_bool                 stopping;
    atomic_bool                 listening; /* there are indexes that want what the log gets */
    struct ox_gate              stopped;

    struct ox_lock         lock; /* of what follows, which the task alone changes but for `dead` */
    struct fieldsi_index  *list;
    uint32_t               count;
    char                   error[ERR_TEXT_MAX];
    struct fields_command *commands, *command_last;
    bool                   refusing;
    struct values_entry    dead[FIELDSI_DEAD_MAX];
    uint8_t               *dead_values; /* VALUES_BYTES_MAX each */
    uint32_t               dead_count;

    /* the task's own */
    int64_t                config_version;
    struct fields_command *running;
    struct log_req         req;
    struct log_write       write;
    struct log_new_event   event;
    struct buf             text;
    bool                   committing;
    atomic_bool            commit_done;
    bool                   orphans; /* the store may have entries of nobody */
    struct fieldsi_reader  readers[2];
    struct fieldsi_batch   batch;
    struct fieldsi_found   found;
    uint64_t               front_us, commits_seen;
};

/* fields_set.c */
int                   fieldsi_load(struct fields *, struct err *);
bool                  fieldsi_commands(struct fields *); /* true: did something */
void                  fieldsi_refuse(struct fields *);
struct fieldsi_index *fieldsi_named(struct fields *, struct slice name); /* with the lock */
struct fieldsi_index *fieldsi_numbered(struct fields *, uint64_t id);
void                  fieldsi_free_all(struct fields *);

/* fields_build.c */
uint64_t fieldsi_step(void *arg);
void     fieldsi_build_fini(struct fields *);

/* fields_read.c: an entry whose event is gone; taken out when there is time. */
void fieldsi_note_dead(struct fields *, uint64_t id, struct slice value, uint64_t pos);

#endif
