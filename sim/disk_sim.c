/*
 * Every write and every change of a folder waits in a list until a sync takes
 * it to the stored side. A power cut decides about each one that waits. The
 * bytes of one granule (a sector, a page, a file) go through their versions in
 * order, as a page cache writes them: any earlier version may be the stored
 * one, and the write after it may be there in part.
 *
 * Bytes past a file's size are zero on both sides, always.
 */
#include "sim/disk_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/must.h"

struct pending {
    uint64_t seq; /* order over all files */
    uint64_t at, len;
    uint64_t size_after;
    uint8_t *data; /* NULL: zeros */
    bool     cuts; /* the file was made shorter: its blocks are given back, all or none */
};

struct disk_file {
    uint8_t          *live, *disk;
    uint64_t          size, disk_size;
    struct pending   *pending;
    size_t            count, cap;
    unsigned          refs; /* entries and open handles */
    bool              lost; /* a sync failed: what a reader sees may not be stored */
    struct disk_file *next;
};

struct entry {
    char              path[DISK_PATH_MAX];
    struct disk_file *file; /* NULL: a folder */
};

struct entries {
    struct entry *v;
    size_t        count, cap;
};

enum dir_op_kind { OP_ADD, OP_REMOVE, OP_RENAME };

struct dir_op {
    enum dir_op_kind  kind;
    uint64_t          seq;
    char              from[DISK_PATH_MAX], to[DISK_PATH_MAX];
    struct disk_file *file;
};

struct disk {
    disk_pick_fn     *pick;
    void             *pick_arg;
    struct entries    live, disk;
    struct dir_op    *ops;
    size_t            op_count, op_cap;
    struct disk_file *files;
    uint64_t          seq;
    char              name[DISK_PATH_MAX];
};

static uint64_t
pick(struct disk *disk, uint64_t below)
{
    return disk->pick(disk->pick_arg, below);
}

static void *
grown(void *old, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return old;
    *cap = need < 16 ? 16 : need * 2;
    old = realloc(old, *cap * size);
    must(old != NULL);
    return old;
}

static void
copy_path(char out[DISK_PATH_MAX], const char *path)
{
    size_t len = strlen(path);

    must(len < DISK_PATH_MAX);
    memcpy(out, path, len + 1);
}

/* Length of the folder's part of a path: "/a/b" is in "/a", "/a" in "". */
static size_t
dir_len(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? 0 : (size_t)(slash - path);
}

static bool
is_in(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    while (len > 0 && dir[len - 1] == '/')
        len--;
    return dir_len(path) == len && strncmp(path, dir, len) == 0 && path[len] == '/';
}

static uint8_t *
reserve(void)
{
    void *p = mmap(NULL, DISK_FILE_MAX, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    must(p != MAP_FAILED);
    return p;
}

static struct disk_file *
file_new(struct disk *disk)
{
    struct disk_file *file = calloc(1, sizeof *file);

    must(file != NULL);
    file->live = reserve();
    file->disk = reserve();
    file->next = disk->files;
    disk->files = file;
    return file;
}

static void
clear_pending(struct disk_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        free(file->pending[i].data);
    file->count = 0;
}

static void
file_free(struct disk_file *file)
{
    clear_pending(file);
    free(file->pending);
    (void)munmap(file->live, DISK_FILE_MAX);
    (void)munmap(file->disk, DISK_FILE_MAX);
    free(file);
}

void
disk_hold(struct disk_file *file)
{
    file->refs++;
}

void
disk_drop(struct disk_file *file)
{
    must(file->refs > 0);
    file->refs--;
}

/* Frees the files that nobody names or holds. */
static void
sweep(struct disk *disk)
{
    struct disk_file **link = &disk->files, *file;

    while ((file = *link) != NULL) {
        if (file->refs > 0) {
            link = &file->next;
            continue;
        }
        *link = file->next;
        file_free(file);
    }
}

uint8_t *
disk_bytes(struct disk_file *file, uint64_t *size)
{
    *size = file->size;
    return file->live;
}

static struct pending *
add_pending(struct disk *disk, struct disk_file *file, const void *data, uint64_t len, uint64_t at)
{
    struct pending *p;

    file->pending = grown(file->pending, &file->cap, file->count + 1, sizeof *p);
    p = &file->pending[file->count++];
    p->seq = ++disk->seq;
    p->at = at;
    p->len = len;
    p->size_after = file->size;
    p->data = NULL;
    p->cuts = false;
    if (data != NULL && len > 0) {
        p->data = malloc(len);
        must(p->data != NULL);
        memcpy(p->data, data, len);
    }
    return p;
}

void
disk_write(struct disk *disk, struct disk_file *file, const void *data, uint64_t len, uint64_t at)
{
    must(at <= DISK_FILE_MAX);
    must(len <= DISK_FILE_MAX - at);
    if (len == 0)
        return;
    memcpy(file->live + at, data, len);
    if (at + len > file->size)
        file->size = at + len;
    (void)add_pending(disk, file, data, len, at);
}

void
disk_resize(struct disk *disk, struct disk_file *file, uint64_t size)
{
    uint64_t old = file->size;

    must(size <= DISK_FILE_MAX);
    file->size = size;
    if (size < old) {
        memset(file->live + size, 0, old - size);
        add_pending(disk, file, NULL, old - size, size)->cuts = true;
    } else if (size > old) {
        (void)add_pending(disk, file, NULL, 0, size);
    }
}

static void
put(uint8_t *to, const struct pending *p, uint64_t from, uint64_t end)
{
    if (p->data == NULL)
        memset(to + from, 0, end - from);
    else
        memcpy(to + from, p->data + (from - p->at), end - from);
}

void
disk_sync(struct disk_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        put(file->disk, &file->pending[i], file->pending[i].at,
            file->pending[i].at + file->pending[i].len);
    if (file->count > 0)
        file->disk_size = file->size;
    clear_pending(file);
}

static uint64_t
mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* How many of the n writes that wait are stored in this granule. */
static size_t
granule_cut(uint64_t salt, uint64_t granule, size_t n)
{
    uint64_t h = mix(salt ^ mix(granule));

    if (h % 3 == 0)
        return n;
    if (h % 3 == 1)
        return 0;
    return (h >> 8) % (n + 1);
}

/*
 * Stores write i, below `bound`, where its granule got that far; sometimes a
 * part of the write after that.
 */
static void
scatter(struct disk_file *file, size_t i, uint64_t salt, uint64_t granule, uint64_t bound)
{
    const struct pending *p = &file->pending[i];
    uint64_t              end = p->at + p->len, from, to, h;
    size_t                cut;

    if (end > bound)
        end = bound;
    for (from = p->at; from < end; from = to) {
        to = (from / granule + 1) * granule;
        if (to > end)
            to = end;
        cut = granule_cut(salt, from / granule, file->count);
        if (i < cut) {
            put(file->disk, p, from, to);
            continue;
        }
        h = mix(salt + from);
        if (i > cut || (h & 3) != 0)
            continue;
        h = (h >> 2) % (to - from + 1);
        if ((h & 1) != 0)
            put(file->disk, p, from, from + h);
        else
            put(file->disk, p, from + h, to);
    }
}

/* The first shortening that is lost; the number of all where none is. */
static size_t
pick_lost_cut(struct disk *disk, const struct disk_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        if (file->pending[i].cuts && pick(disk, 3) == 0)
            return i;
    return file->count;
}

/*
 * A shortening is stored as a whole, and what was written into blocks that the
 * file got after one that is lost is lost with it.
 */
static void
store_some(struct disk *disk, struct disk_file *file)
{
    static const uint64_t granules[] = {512, 4096, 65536, DISK_FILE_MAX};
    uint64_t              granule = granules[pick(disk, 4)];
    uint64_t              salt = pick(disk, UINT64_MAX), bound = UINT64_MAX;
    size_t                lost = pick_lost_cut(disk, file), sizes;

    for (size_t i = 0; i < file->count; i++) {
        const struct pending *p = &file->pending[i];

        if (p->cuts && i < lost)
            put(file->disk, p, p->at, p->at + p->len);
        else if (p->cuts)
            bound = p->at < bound ? p->at : bound;
        else
            scatter(file, i, salt, granule, bound);
    }
    sizes = pick(disk, 2) == 0 ? lost : pick(disk, lost + 1);
    for (size_t i = sizes; i < lost; i++)
        if (file->pending[i].cuts)
            sizes = i + 1; /* what was given back is gone: so is the old size */
    if (sizes > 0)
        file->disk_size = file->pending[sizes - 1].size_after;
}

/* All writes up to `seq` are stored, the one after it torn. */
static void
store_until(struct disk *disk, struct disk_file *file, uint64_t seq)
{
    uint64_t salt = pick(disk, UINT64_MAX);
    size_t   i;

    for (i = 0; i < file->count && file->pending[i].seq <= seq; i++) {
        const struct pending *p = &file->pending[i];

        put(file->disk, p, p->at, p->at + p->len);
        file->disk_size = p->size_after;
    }
    if (i < file->count && file->pending[i].seq == seq + 1 && !file->pending[i].cuts) {
        scatter(file, i, salt, 512, UINT64_MAX);
        if (pick(disk, 2) == 0)
            file->disk_size = file->pending[i].size_after;
    }
}

static void
zero_beyond(struct disk_file *file)
{
    uint64_t end = file->disk_size;

    for (size_t i = 0; i < file->count; i++)
        if (file->pending[i].at + file->pending[i].len > end)
            end = file->pending[i].at + file->pending[i].len;
    memset(file->disk + file->disk_size, 0, end - file->disk_size);
}

void
disk_sync_failed(struct disk *disk, struct disk_file *file)
{
    if (file->count == 0)
        return;
    if (pick(disk, 3) != 0)
        store_some(disk, file);
    zero_beyond(file);
    clear_pending(file);
    file->lost = true;
}

/* A reader sees what is stored, and only that. */
static void
revert(struct disk_file *file)
{
    uint64_t max = file->size > file->disk_size ? file->size : file->disk_size;

    memcpy(file->live, file->disk, max);
    file->size = file->disk_size;
    file->lost = false;
}

static struct entry *
find(struct entries *e, const char *path)
{
    for (size_t i = 0; i < e->count; i++)
        if (strcmp(e->v[i].path, path) == 0)
            return &e->v[i];
    return NULL;
}

static void
drop_entry(struct entries *e, struct entry *x)
{
    struct disk_file *file = x->file;

    *x = e->v[--e->count];
    if (file != NULL)
        disk_drop(file);
}

static void
set_entry(struct entries *e, const char *path, struct disk_file *file)
{
    struct entry *x = find(e, path);

    if (file != NULL)
        disk_hold(file);
    if (x != NULL)
        drop_entry(e, x);
    e->v = grown(e->v, &e->cap, e->count + 1, sizeof *e->v);
    x = &e->v[e->count++];
    copy_path(x->path, path);
    x->file = file;
}

static void
apply_op(struct entries *e, const struct dir_op *op)
{
    struct entry *x;

    if (op->kind != OP_ADD && (x = find(e, op->from)) != NULL)
        drop_entry(e, x);
    if (op->kind != OP_REMOVE)
        set_entry(e, op->to, op->file);
}

static void
add_op(struct disk *disk, enum dir_op_kind kind, const char *from, const char *to,
       struct disk_file *file)
{
    struct dir_op *op;

    disk->ops = grown(disk->ops, &disk->op_cap, disk->op_count + 1, sizeof *op);
    op = &disk->ops[disk->op_count++];
    memset(op, 0, sizeof *op);
    op->kind = kind;
    op->seq = ++disk->seq;
    copy_path(op->from, from);
    copy_path(op->to, to);
    op->file = file;
    if (file != NULL)
        disk_hold(file);
    apply_op(&disk->live, op);
}

static void
end_op(struct dir_op *op)
{
    if (op->file != NULL)
        disk_drop(op->file);
    op->file = NULL;
}

bool
disk_is_dir(struct disk *disk, const char *path)
{
    struct entry *x = find(&disk->live, path);

    return strcmp(path, "/") == 0 || (x != NULL && x->file == NULL);
}

bool
disk_parent_is_dir(struct disk *disk, const char *path)
{
    char   dir[DISK_PATH_MAX];
    size_t len = dir_len(path);

    if (len == 0)
        return path[0] == '/';
    copy_path(dir, path);
    dir[len] = '\0';
    return disk_is_dir(disk, dir);
}

struct disk_file *
disk_find(struct disk *disk, const char *path)
{
    struct entry *x = find(&disk->live, path);

    return x == NULL ? NULL : x->file;
}

struct disk_file *
disk_create(struct disk *disk, const char *path)
{
    struct disk_file *file = file_new(disk);

    add_op(disk, OP_ADD, "", path, file);
    return file;
}

void
disk_make_dir(struct disk *disk, const char *path)
{
    if (!disk_is_dir(disk, path))
        add_op(disk, OP_ADD, "", path, NULL);
}

bool
disk_rename(struct disk *disk, const char *from, const char *to)
{
    struct disk_file *file = disk_find(disk, from);

    if (file == NULL || disk_is_dir(disk, to) || !disk_parent_is_dir(disk, to))
        return false;
    must(dir_len(from) == dir_len(to)); /* renames between folders are not modelled */
    add_op(disk, OP_RENAME, from, to, file);
    return true;
}

bool
disk_remove(struct disk *disk, const char *path)
{
    if (disk_find(disk, path) == NULL)
        return false;
    add_op(disk, OP_REMOVE, path, "", NULL);
    return true;
}

void
disk_sync_dir(struct disk *disk, const char *path)
{
    size_t kept = 0;

    for (size_t i = 0; i < disk->op_count; i++) {
        struct dir_op *op = &disk->ops[i];

        if (is_in(op->kind == OP_ADD ? op->to : op->from, path)) {
            apply_op(&disk->disk, op);
            end_op(op);
        } else {
            disk->ops[kept++] = *op;
        }
    }
    disk->op_count = kept;
    sweep(disk);
}

static int
by_path(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *
disk_name(struct disk *disk, const char *dir, size_t nth)
{
    const char **names = malloc((disk->live.count + 1) * sizeof *names);
    const char  *name = NULL;
    size_t       count = 0;

    must(names != NULL);
    for (size_t i = 0; i < disk->live.count; i++) {
        struct entry *x = &disk->live.v[i];

        if (dir == NULL ? x->file != NULL : is_in(x->path, dir))
            names[count++] = x->path;
    }
    qsort(names, count, sizeof *names, by_path);
    if (nth < count) {
        copy_path(disk->name, names[nth]);
        name = dir == NULL ? disk->name : disk->name + dir_len(disk->name) + 1;
    }
    free(names);
    return name;
}

/* Folder changes that wait: a journalling file system keeps a prefix, others any of them. */
static void
lose_names(struct disk *disk, bool all)
{
    uint64_t mode = all ? 0 : pick(disk, 4);
    size_t   prefix = mode == 2 ? pick(disk, disk->op_count + 1) : 0;

    for (size_t i = 0; i < disk->op_count; i++) {
        if (mode == 1 || i < prefix || (mode == 3 && pick(disk, 2) == 0))
            apply_op(&disk->disk, &disk->ops[i]);
        end_op(&disk->ops[i]);
    }
    disk->op_count = 0;
}

static bool
has_parent(struct disk *disk, const char *path)
{
    char          dir[DISK_PATH_MAX];
    struct entry *x;

    copy_path(dir, path);
    dir[dir_len(path)] = '\0';
    if (dir[0] == '\0')
        return true;
    x = find(&disk->disk, dir);
    return x != NULL && x->file == NULL;
}

/* What is in a folder that is gone is gone as well. */
static void
drop_orphans(struct disk *disk)
{
    bool again = true;

    while (again) {
        again = false;
        for (size_t i = 0; i < disk->disk.count; i++) {
            if (has_parent(disk, disk->disk.v[i].path))
                continue;
            drop_entry(&disk->disk, &disk->disk.v[i]);
            again = true;
            break;
        }
    }
}

static void
lose_bytes(struct disk *disk, bool all)
{
    struct disk_file *file;
    uint64_t          mode = all ? 0 : pick(disk, 5);
    uint64_t          until = mode == 1 ? disk->seq - pick(disk, 40) % (disk->seq + 1) : 0;

    for (file = disk->files; file != NULL; file = file->next) {
        if (file->count == 0 && !file->lost)
            continue;
        if (mode == 1)
            store_until(disk, file, until);
        else if (mode == 2)
            disk_sync(file);
        else if (mode > 2)
            store_some(disk, file);
        zero_beyond(file);
        clear_pending(file);
        revert(file);
    }
}

void
disk_lose(struct disk *disk, bool all)
{
    lose_bytes(disk, all);
    lose_names(disk, all);
    drop_orphans(disk);
    while (disk->live.count > 0)
        drop_entry(&disk->live, &disk->live.v[0]);
    for (size_t i = 0; i < disk->disk.count; i++)
        set_entry(&disk->live, disk->disk.v[i].path, disk->disk.v[i].file);
    sweep(disk);
}

void
disk_evict(struct disk *disk)
{
    for (struct disk_file *file = disk->files; file != NULL; file = file->next) {
        if (!file->lost || pick(disk, 2) == 0)
            continue;
        must(file->refs > 0);
        memcpy(file->live, file->disk, file->size > file->disk_size ? file->size : file->disk_size);
        file->size = file->count > 0 ? file->size : file->disk_size;
        for (size_t i = 0; i < file->count; i++)
            put(file->live, &file->pending[i], file->pending[i].at,
                file->pending[i].at + file->pending[i].len);
        file->lost = false;
    }
}

uint8_t *
disk_durable(struct disk *disk, const char *path, uint64_t *size)
{
    struct entry *x = find(&disk->disk, path);

    if (x == NULL || x->file == NULL)
        return NULL;
    *size = x->file->disk_size;
    return x->file->disk;
}

uint64_t
disk_used(const struct disk *disk)
{
    uint64_t used = 0;

    for (const struct disk_file *file = disk->files; file != NULL; file = file->next)
        used += file->refs > 0 ? file->size : 0;
    return used;
}

void
disk_damage(struct disk_file *file, uint64_t at, uint64_t len, uint8_t mask)
{
    for (uint64_t i = at; i < at + len; i++) {
        file->live[i] ^= mask;
        file->disk[i] ^= mask;
    }
}

struct disk *
disk_new(disk_pick_fn *fn, void *arg)
{
    struct disk *disk = calloc(1, sizeof *disk);

    must(disk != NULL);
    disk->pick = fn;
    disk->pick_arg = arg;
    return disk;
}

void
disk_free(struct disk *disk)
{
    if (disk == NULL)
        return;
    for (size_t i = 0; i < disk->op_count; i++)
        end_op(&disk->ops[i]);
    while (disk->live.count > 0)
        drop_entry(&disk->live, &disk->live.v[0]);
    while (disk->disk.count > 0)
        drop_entry(&disk->disk, &disk->disk.v[0]);
    sweep(disk);
    must(disk->files == NULL); /* somebody holds one */
    free(disk->ops);
    free(disk->live.v);
    free(disk->disk.v);
    free(disk);
}
