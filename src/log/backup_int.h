/*
 * Inside of backup and restore: the manifest, and a segment's file that is read
 * apart from the log's own table of segments: opened once, so that whoever
 * replaces it by another file leaves this one as it is.
 */
#ifndef OX_LOG_BACKUP_INT_H
#define OX_LOG_BACKUP_INT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"
#include "base/slice.h"
#include "log/log.h"
#include "log/log_fmt.h"

#define LOGI_BACKUP_PATH 4300
#define LOGI_SUM_BYTES 16

/* One copy, as the manifest has it. */
struct manifest_seg {
    uint64_t first, span;
    uint32_t kind, generation;
    uint64_t bytes;               /* of the file: header, frames, table */
    uint64_t mark;                /* of its header and its last frame: which history it is of */
    uint8_t  sum[LOGI_SUM_BYTES]; /* XXH3-128 of those bytes, big-endian */
};

struct manifest {
    struct ox_id         log_id;
    uint64_t             segment_bytes, end;
    int64_t              last_time_us, made_us;
    struct manifest_seg *segs; /* in the order of their positions */
    uint32_t             count, room;
};

/* E_NOTFOUND: there is none; E_DAMAGED, E_FORMAT. */
int logi_manifest_read(struct ox_env *env, const char *dir, struct manifest *out, struct err *err);
int
logi_manifest_write(struct ox_env *env, const char *dir, const struct manifest *m, struct err *err);
void logi_manifest_fini(struct manifest *m);
int  logi_manifest_add(struct manifest *m, const struct manifest_seg *seg, struct err *err);
/* NULL: none. */
const struct manifest_seg *logi_manifest_find(const struct manifest *m, uint64_t first);

/* The text of a manifest; for the file and for the fuzzer. */
void logi_manifest_put(struct buf *out, const struct manifest *m);
int  logi_manifest_get(struct slice text, struct manifest *out, struct err *err);

/* DIR/files/HEX-GENERATION.seg and what `more` says. */
void logi_copy_path(char out[LOGI_BACKUP_PATH], const char *dir, uint64_t first,
                    uint32_t generation, const char *more);

/* A segment's file, mapped. */
struct seg_file {
    struct ox_env  *env;
    struct ox_file *file;
    const uint8_t  *map;
    uint64_t        size;
    struct seg_head head;
    char            path[LOGI_BACKUP_PATH];
};

/* E_DAMAGED where it has no header or another log's. The file may be closed after any error. */
int  logi_seg_file_open(struct ox_env *env, const char *path, const struct ox_id *log_id,
                        struct seg_file *out, struct err *err);
void logi_seg_file_close(struct seg_file *f);

/* How many bytes of it belong to the log that ends at `end`. */
uint64_t logi_seg_file_bytes(const struct seg_file *f, uint64_t end);

/* Of its first `bytes` bytes, which end with a whole frame or the table. */
uint64_t logi_seg_file_mark(const struct seg_file *f, uint64_t bytes);

/* The time of the last commit in them; false: there is none in this segment. */
bool logi_seg_file_last_time(const struct seg_file *f, uint64_t bytes, int64_t *us);

struct copy_counts {
    uint64_t commits, events;
};

/*
 * From offset *at on, whole frames with every checksum right, at most `upto` and about
 * `stretch` bytes of them; *at goes along. The header is passed over, the table of a scavenged
 * one is verified as a frame is. E_DAMAGED names file and position.
 */
int logi_seg_file_check(const struct seg_file *f, uint64_t *at, uint64_t upto, uint64_t stretch,
                        struct copy_counts *counts, struct err *err);

/* What backup and restore do alike: reading at a pace, and telling how far. */
struct pace {
    struct ox_env   *env;
    uint64_t         rate, began_us, paid; /* paid: bytes that count for the rate */
    uint64_t         done, all;
    log_progress_fn *fn;
    void            *arg;
};

/* `len` bytes more are done; `read` of them were read. Sleeps where that was too quick. */
int logi_pace(struct pace *p, uint64_t len, uint64_t read);

/*
 * The bytes [from, upto) of `f` into `to` at the same offsets, verified on the way where
 * `check`, and into the checksum `sum` (an XXH3_state_t).
 */
int logi_copy(const struct seg_file *f, uint64_t from, uint64_t upto, struct ox_file *to, void *sum,
              struct copy_counts *counts, struct pace *pace, struct err *err);

/* Listing: *found becomes true where there is any name but those of the list (NULL ends it). */
int logi_dir_has_other(struct ox_env *env, const char *dir, const char *const *names, bool *found,
                       struct err *err);

#endif
