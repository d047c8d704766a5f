/*
 * Inside of the table of segments: what seg.c (growing, writing) and seg_swap.c
 * (scavenged segments that take another's place) share.
 */
#ifndef OX_LOG_SEG_INT_H
#define OX_LOG_SEG_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "log/log_fmt.h"
#include "log/seg.h"

#define LOGI_SEG_PATH_MAX 4096

enum table_state {
    TABLE_UNKNOWN, /* nobody has looked yet */
    TABLE_WHOLE,
    TABLE_DAMAGED,
};

struct segment {
    struct ox_file *file;
    const uint8_t  *map;
    size_t          map_len;
    uint64_t        first, span;
    uint64_t        filled; /* zeros are written below this offset of the span */
    bool            in_use; /* frames may be in it: no more zeros (under `fill`) */
    bool            dirty;  /* written since the last sync; the journal's */

    /* scavenged */
    uint32_t        generation; /* 0: plain */
    uint64_t        table_at, table_count;
    _Atomic int     table; /* enum table_state */
    uint64_t        gone;  /* the epoch that no longer sees it */
    struct segment *next;  /* retired */
};

struct segments {
    struct ox_env   *env;
    char            *dir;
    bool             read_only;
    struct ox_id     log_id;
    uint32_t         seed;
    uint64_t         setting;
    struct ox_lock   fill; /* held while zeros are written; before `lock` */
    struct ox_lock   lock; /* table, count, pins, retired */
    struct segment **table;
    uint32_t         count, room;
    uint8_t         *zeros;
    _Atomic uint64_t epoch; /* grows with every segment that is replaced; from 1 */
    struct seg_pin  *pins;
    struct segment  *retired;
    uint64_t         retired_bytes;
};

/* A header that is whole was written by somebody, but maybe not by this program. */
bool logi_seg_head_can_be(const struct seg_head *);

/* The segment that holds the position, or NULL; under `lock`. */
struct segment *logi_segs_find(struct segments *, uint64_t pos);
int  logi_segs_path(struct segments *, uint64_t first, const char *end, char out[LOGI_SEG_PATH_MAX],
                    struct err *);
void logi_segment_free(struct ox_env *, struct segment *); /* NULL is fine */
int  logi_segment_map(struct segments *, struct segment *, struct err *);

/* Fills the view; under `lock`. What it says of a scavenged one's table is not known yet. */
void logi_segment_view(const struct segment *, struct seg_view *out);

/* Removes what scavenges that were cut short have left behind. */
int logi_segs_sweep(struct segments *, struct err *);

#endif
