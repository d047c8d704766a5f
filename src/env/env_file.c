/*
 * Files and folders of the machine. Every call handles EINTR and short counts
 * itself, so that callers see all or an error. A crash leaves what the kernel
 * had: nothing is durable before envi_file_sync (and, for names, the sync of
 * the folder) returned 0.
 *
 * A sync that failed is fatal whatever its errno says: the kernel may have
 * dropped the dirty pages, so a second sync that succeeds proves nothing.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/must.h"
#include "env/env_real_int.h"

#define FILE_MAGIC 0x0f11e0f1U

/* Data may be confidential: only the owner reads it. */
#define FILE_MODE 0600
#define DIR_MODE 0700

struct ox_file {
    unsigned magic;
    int      fd;
    bool     writable;
    char     path[];
};

static enum err_kind
kind_of(int code)
{
    return code == E_NOSPC || code == E_NOMEM || code == E_BUSY ? ERR_RETRY : ERR_FATAL;
}

int
envi_fail(struct err *err, const char *path, const char *what, int errnum)
{
    char buf[128];
    int  code = err_of_errno(errnum);

    return err_set(err, __FILE__, __LINE__, code, kind_of(code), "%s: %s: %s", path, what,
                   strerror_r(errnum, buf, sizeof buf));
}

static int
fail_sync(struct err *err, const char *path, int errnum)
{
    int code = envi_fail(err, path, "sync", errnum);

    if (err != NULL)
        err->kind = ERR_FATAL;
    return code;
}

static struct ox_file *
checked(struct ox_file *file)
{
    must(file != NULL);
    must(file->magic == FILE_MAGIC);
    return file;
}

static int
open_retry(const char *path, int flags)
{
    int fd;

    do {
        fd = open(path, flags | O_CLOEXEC, FILE_MODE);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

int
envi_file_open(struct ox_env *env, const char *path, unsigned flags, struct ox_file **out,
               struct err *err)
{
    size_t          len = strlen(path) + 1;
    struct ox_file *file = NULL;
    int             how = (flags & ENV_WRITE) != 0 ? O_RDWR : O_RDONLY;
    int             rc = 0;

    *out = NULL;
    must((flags & ENV_CREATE) == 0 || (flags & ENV_WRITE) != 0);
    must((flags & ENV_EXCL) == 0 || (flags & ENV_CREATE) != 0);
    if ((flags & ENV_CREATE) != 0)
        how |= O_CREAT;
    if ((flags & ENV_EXCL) != 0)
        how |= O_EXCL;
    file = malloc(sizeof *file + len);
    if (file == NULL)
        return envi_fail(err, path, "open", ENOMEM);
    file->magic = FILE_MAGIC;
    file->writable = (flags & ENV_WRITE) != 0;
    memcpy(file->path, path, len);
    file->fd = open_retry(path, how);
    if (file->fd < 0) {
        rc = envi_fail(err, path, "open", errno);
        free(file);
        return rc;
    }
    *out = file;
    return 0;
}

void
envi_file_close(struct ox_env *env, struct ox_file *file)
{
    if (file == NULL)
        return;
    (void)checked(file);
    /* Not again on EINTR: Linux has given the number up by then. */
    (void)close(file->fd);
    file->magic = 0;
    free(file);
}

int
envi_file_read(struct ox_env *env, struct ox_file *file, void *out, size_t len, uint64_t at,
               size_t *got, struct err *err)
{
    uint8_t *to = out;
    size_t   done = 0;

    must(checked(file)->fd >= 0);
    *got = 0;
    while (done < len) {
        ssize_t n = pread(file->fd, to + done, len - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return envi_fail(err, file->path, "read", errno);
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *got = done;
    return 0;
}

int
envi_file_write(struct ox_env *env, struct ox_file *file, const void *data, size_t len, uint64_t at,
                struct err *err)
{
    const uint8_t *from = data;
    size_t         done = 0;

    must(checked(file)->writable);
    while (done < len) {
        ssize_t n = pwrite(file->fd, from + done, len - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return envi_fail(err, file->path, "write", errno);
        if (n == 0)
            return envi_fail(err, file->path, "write", EIO);
        done += (size_t)n;
    }
    return 0;
}

/*
 * EINTR may be tried again where other failures may not: the wait was cut
 * short, and an error of the write-back itself is still kept for the next call.
 */
int
envi_file_sync(struct ox_env *env, struct ox_file *file, struct err *err)
{
    int rc;

    must(checked(file)->fd >= 0);
    do {
        rc = fdatasync(file->fd);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : fail_sync(err, file->path, errno);
}

/* A hint: where it cannot be given, the kernel writes in its own time. */
int
envi_file_start(struct ox_env *env, struct ox_file *file, uint64_t at, uint64_t len,
                struct err *err)
{
    must(checked(file)->writable);
    if (sync_file_range(file->fd, (off_t)at, (off_t)len, SYNC_FILE_RANGE_WRITE) != 0 &&
        errno == EIO)
        return envi_fail(err, file->path, "write", EIO);
    return 0;
}

int
envi_file_size(struct ox_env *env, struct ox_file *file, uint64_t *size, struct err *err)
{
    struct stat st;

    *size = 0;
    if (fstat(checked(file)->fd, &st) != 0)
        return envi_fail(err, file->path, "size", errno);
    *size = (uint64_t)st.st_size;
    return 0;
}

static int
cut(struct ox_file *file, uint64_t size)
{
    int rc;

    do {
        rc = ftruncate(file->fd, (off_t)size);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : errno;
}

/* posix_fallocate falls back to writing where the file system cannot reserve blocks. */
static int
grow(struct ox_file *file, uint64_t from, uint64_t to)
{
    int errnum;

    do {
        errnum = posix_fallocate(file->fd, (off_t)from, (off_t)(to - from));
    } while (errnum == EINTR);
    /* What a failed growth got is given back, so that the size is as it was. */
    if (errnum != 0)
        (void)cut(file, from);
    return errnum;
}

int
envi_file_resize(struct ox_env *env, struct ox_file *file, uint64_t size, struct err *err)
{
    uint64_t now = 0;
    int      rc;
    int      errnum = 0;

    must(checked(file)->writable);
    TRY(envi_file_size(env, file, &now, err));
    if (size > now)
        errnum = grow(file, now, size);
    else if (size < now)
        errnum = cut(file, size);
    if (errnum != 0)
        rc = envi_fail(err, file->path, "resize", errnum);
out:
    return rc;
}

int
envi_file_map(struct ox_env *env, struct ox_file *file, size_t len, const uint8_t **out,
              struct err *err)
{
    uint64_t size = 0;
    void    *map;
    int      rc;

    *out = NULL;
    must(len > 0);
    TRY(envi_file_size(env, file, &size, err));
    /* A touch beyond the end would be a SIGBUS, not an error. */
    if (size < len)
        FAIL(err, E_INVALID, ERR_FATAL, "%s: map: %zu bytes asked for, the file has %llu",
             file->path, len, (unsigned long long)size);
    map = mmap(NULL, len, PROT_READ, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED)
        return envi_fail(err, file->path, "map", errno);
    *out = map;
out:
    return rc;
}

void
envi_file_unmap(struct ox_env *env, const uint8_t *map, size_t len)
{
    if (map != NULL)
        must(munmap((void *)(uintptr_t)map, len) == 0);
}

/*
 * flock: it belongs to the open file, so a second open in this process is
 * refused too, and it needs no writable descriptor.
 */
int
envi_file_lock(struct ox_env *env, struct ox_file *file, struct err *err)
{
    int rc;

    must(checked(file)->fd >= 0);
    do {
        rc = flock(file->fd, LOCK_EX | LOCK_NB);
    } while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "%s: lock: in use by another process", file->path);
    return envi_fail(err, file->path, "lock", errno);
}

int
envi_dir_make(struct ox_env *env, const char *path, struct err *err)
{
    struct stat st;
    int         errnum;

    if (mkdir(path, DIR_MODE) == 0)
        return 0;
    errnum = errno;
    if (errnum != EEXIST)
        return envi_fail(err, path, "make folder", errnum);
    if (stat(path, &st) != 0)
        return envi_fail(err, path, "make folder", errno);
    if (!S_ISDIR(st.st_mode))
        return envi_fail(err, path, "make folder", ENOTDIR);
    return 0;
}

int
envi_dir_list(struct ox_env *env, const char *path, env_dir_fn *fn, void *arg, struct err *err)
{
    DIR *dir = opendir(path);
    int  rc = 0;

    if (dir == NULL)
        return envi_fail(err, path, "list", errno);
    for (;;) {
        struct dirent *entry;

        errno = 0;
        entry = readdir(dir);
        if (entry == NULL) {
            if (errno != 0)
                rc = envi_fail(err, path, "list", errno);
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        TRY(fn(arg, entry->d_name, err));
    }
out:
    (void)closedir(dir);
    return rc;
}

int
envi_dir_sync(struct ox_env *env, const char *path, struct err *err)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY);
    int rc;

    if (fd < 0)
        return envi_fail(err, path, "sync", errno);
    do {
        rc = fsync(fd);
    } while (rc != 0 && errno == EINTR);
    rc = rc == 0 ? 0 : fail_sync(err, path, errno);
    (void)close(fd);
    return rc;
}

int
envi_path_rename(struct ox_env *env, const char *from, const char *to, struct err *err)
{
    return rename(from, to) == 0 ? 0 : envi_fail(err, from, "rename", errno);
}

int
envi_path_remove(struct ox_env *env, const char *path, struct err *err)
{
    return unlink(path) == 0 ? 0 : envi_fail(err, path, "remove", errno);
}

int
envi_disk_free(struct ox_env *env, const char *path, uint64_t *bytes, struct err *err)
{
    struct statvfs vfs;
    int            rc;

    *bytes = 0;
    do {
        rc = statvfs(path, &vfs);
    } while (rc != 0 && errno == EINTR);
    if (rc != 0)
        return envi_fail(err, path, "free space", errno);
    *bytes = (uint64_t)vfs.f_bavail * (uint64_t)vfs.f_frsize;
    return 0;
}
