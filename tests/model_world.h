/* One world of the model's test: a folder with a log, its model, and what drives both. */
#ifndef OX_TESTS_MODEL_WORLD_H
#define OX_TESTS_MODEL_WORLD_H

#include "oxbow.h"
#include "tests/model.h"

#define WORLD_OPS_MAX 50000
#define WORLD_SLOTS 28
#define WORLD_BATCH 12 /* commits in flight at once */
#define WORLD_LIVE 4   /* readers that stay open */

struct live {
    struct log_iter    *it;
    struct log_read     read;
    char                name[LOG_NAME_MAX + 1];
    struct model_cursor cursor;
};

struct world {
    uint64_t     seed, rng;
    uint32_t     step;
    uint64_t     ops; /* that were answered and looked at */
    bool         say, failed;
    char         why[4096];
    char         dir[128];
    struct model model;
    /* One of the two is open. */
    struct log *log;
    struct ox  *ox;
    struct live live[WORLD_LIVE];
    char        names[WORLD_SLOTS][LOG_NAME_MAX + 1];
    uint32_t    name_count; /* ever made */
    uint32_t    tags;       /* events ever made */
    uint64_t    gone;       /* events that scavenges took */
    struct err  err;
};

/* Where folders are made: TMPDIR, or memory where there is such a folder. */
const char *world_tmp(void);

void     world_differ(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint64_t world_random(struct world *w);
uint32_t world_pick(struct world *w, uint32_t below);

void world_begin(struct world *w);
void world_end(struct world *w);
/* One operation, or a batch of commits. */
void world_step(struct world *w);
void world_compare_all(struct world *w);

/* model_commits.c */
void world_know_position(struct world *w, uint32_t event, uint64_t pos, const char *what);
void world_commits(struct world *w);

/* model_reads.c */
void world_read(struct world *w);
void world_live(struct world *w);
void world_live_close(struct world *w);
void world_stream(struct world *w, const char *name);
void world_list(struct world *w);
/* A name of the world's, sometimes one that is nobody's. */
const char *world_name(struct world *w);
void        world_read_through(struct world *w, struct log_read *read, uint32_t limit);

#endif
