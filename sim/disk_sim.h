/*
 * The simulator's disk: files and directory entries, each with what a reader
 * sees and what a power cut leaves. No faults, no time: env_sim.c adds those.
 */
#ifndef OX_SIM_DISK_SIM_H
#define OX_SIM_DISK_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_PATH_MAX 256
#define DISK_FILE_MAX (UINT64_C(32) << 20) /* of one file: address space kept for its map */

struct disk;
struct disk_file; /* the thing itself, not a name of it */

/* A number below `below`. */
typedef uint64_t disk_pick_fn(void *arg, uint64_t below);

struct disk *disk_new(disk_pick_fn *pick, void *arg);
void         disk_free(struct disk *disk);

/* NULL where there is none. */
struct disk_file *disk_find(struct disk *disk, const char *path);
bool              disk_is_dir(struct disk *disk, const char *path);
bool              disk_parent_is_dir(struct disk *disk, const char *path);
struct disk_file *disk_create(struct disk *disk, const char *path);
void              disk_make_dir(struct disk *disk, const char *path);
bool              disk_rename(struct disk *disk, const char *from, const char *to);
bool              disk_remove(struct disk *disk, const char *path);
void              disk_sync_dir(struct disk *disk, const char *path);

/* The nth name directly in the folder (NULL: all files, whole paths), in byte order. */
const char *disk_name(struct disk *disk, const char *dir, size_t nth);

void disk_hold(struct disk_file *file);
void disk_drop(struct disk_file *file);

uint8_t *disk_bytes(struct disk_file *file, uint64_t *size);
uint8_t *disk_durable(struct disk *disk, const char *path, uint64_t *size);
void
disk_write(struct disk *disk, struct disk_file *file, const void *data, uint64_t len, uint64_t at);
void     disk_resize(struct disk *disk, struct disk_file *file, uint64_t size);
void     disk_sync(struct disk_file *file);
uint64_t disk_used(const struct disk *disk);

/* What a failed sync does: some of it is stored, none of it is dirty any more. */
void disk_sync_failed(struct disk *disk, struct disk_file *file);

/* Power cut. all: everything that was not synced is gone; else the pick function decides. */
void disk_lose(struct disk *disk, bool all);

/* The process ended, the machine did not: where a sync failed a reader may see what is stored. */
void disk_evict(struct disk *disk);

void disk_damage(struct disk_file *file, uint64_t at, uint64_t len, uint8_t mask);

#endif
