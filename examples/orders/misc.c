#include "misc.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUSY_LIMIT_MS 5000

static int64_t
read_clock(clockid_t id)
{
    struct timespec ts;

    (void)clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t
clock_wall_us(void)
{
    return read_clock(CLOCK_REALTIME);
}

int64_t
clock_mono_us(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

void
nap_us(int64_t us)
{
    struct timespec ts;

    if (us <= 0)
        return;
    ts.tv_sec = (time_t)(us / 1000000);
    ts.tv_nsec = (long)(us % 1000000) * 1000;
    (void)nanosleep(&ts, NULL);
}

void
complain(const char *fmt, ...)
{
    char    line[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "%s: %s\n", program_invocation_short_name, line);
}

/* Steele, Lea and Flood's SplitMix64. */
uint64_t
dice_next(struct dice *d)
{
    uint64_t z = (d->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

unsigned
dice_below(struct dice *d, unsigned limit)
{
    return (unsigned)((dice_next(d) >> 32) % limit);
}

static int
write_all(int fd, const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        ssize_t n = write(fd, text, left);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        text += n;
        left -= (size_t)n;
    }
    return 0;
}

int
file_replace(const char *path, const char *text)
{
    char tmp[4096];
    int  fd = -1;
    int  rc = -1;

    if (snprintf(tmp, sizeof(tmp), "%s.tmp", path) >= (int)sizeof(tmp)) {
        complain("%s: the path is too long", path);
        return -1;
    }
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write_all(fd, text) != 0)
        goto out;
    rc = rename(tmp, path);
out:
    if (rc != 0)
        complain("%s: %s", tmp, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

bool
parse_int(const char *text, int64_t low, int64_t high, int64_t *out)
{
    char     *end = NULL;
    long long value;

    if (text == NULL || (*text != '-' && (*text < '0' || *text > '9')))
        return false;
    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < low || value > high)
        return false;
    *out = value;
    return true;
}

/* SQLite's own handler sleeps up to 100 ms at a time, which would make every
 * collision with another writer look like a slow database. */
static int
wait_while_busy(void *cls, int count)
{
    (void)cls;
    if (count >= BUSY_LIMIT_MS)
        return 0;
    nap_us(1000);
    return 1;
}

sqlite3 *
sq_open(const char *path, bool create)
{
    sqlite3 *db = NULL;
    int      flags = SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0);

    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) {
        complain("%s: %s", path, db != NULL ? sqlite3_errmsg(db) : "out of memory");
        goto fail;
    }
    (void)sqlite3_extended_result_codes(db, 1);
    (void)sqlite3_busy_handler(db, wait_while_busy, NULL);
    if (sq_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL") != 0)
        goto fail;
    return db;
fail:
    (void)sqlite3_close(db);
    return NULL;
}

int
sq_exec(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    complain("%s: %s", sqlite3_db_filename(db, "main"), sqlite3_errmsg(db));
    return -1;
}

sqlite3_stmt *
sq_prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = NULL;

    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) != SQLITE_OK)
        complain("%s: %s: %s", sqlite3_db_filename(db, "main"), sqlite3_errmsg(db), sql);
    return st;
}

void
sq_bind_text(sqlite3_stmt *st, int n, const char *text)
{
    if (text == NULL)
        (void)sqlite3_bind_null(st, n);
    else
        (void)sqlite3_bind_text(st, n, text, -1, SQLITE_TRANSIENT);
}

char *
sq_text(sqlite3_stmt *st, int column)
{
    const unsigned char *text = sqlite3_column_text(st, column);

    return text != NULL ? strdup((const char *)text) : NULL;
}
