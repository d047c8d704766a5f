/*
 * The journal of acknowledged writes: what the auditor believes instead of
 * either database. A line is one write() to a file opened for appending, so
 * that a killed shop leaves whole lines.
 */
#include "shop.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct journal {
    int fd; /* -1: keeps nothing */
};

/* A second run goes on counting where the first one ended. */
static int64_t
find_last_seq(const char *path)
{
    FILE   *f = fopen(path, "re");
    char   *line = NULL;
    size_t  size = 0;
    int64_t last = 0;

    if (f == NULL)
        return 0;
    while (getline(&line, &size, f) >= 0) {
        const char *at = strstr(line, "\"seq\":");
        int64_t     seq = at != NULL ? strtoll(at + 6, NULL, 10) : 0;

        last = seq > last ? seq : last;
    }
    free(line);
    (void)fclose(f);
    return last;
}

struct journal *
journal_open(const char *path, int64_t *seq_max)
{
    struct journal *j = calloc(1, sizeof(*j));

    *seq_max = 0;
    if (j == NULL)
        return NULL;
    j->fd = -1;
    if (path == NULL)
        return j;
    *seq_max = find_last_seq(path);
    j->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (j->fd >= 0)
        return j;
    complain("%s: %s", path, strerror(errno));
    free(j);
    return NULL;
}

void
journal_close(struct journal *j)
{
    if (j == NULL)
        return;
    if (j->fd >= 0)
        (void)close(j->fd);
    free(j);
}

static char *
make_line(const struct entry *e)
{
    const struct part *p = e->part;
    json_t            *row;
    char              *text;
    char              *line = NULL;

    /* The order of members is kept, and `seq` comes before any text of a row. */
    row =
        json_pack("{s:I, s:I, s:s, s:b, s:s, s:I, s:s?, s:s?, s:s?, s:s?}", "id", (json_int_t)e->id,
                  "seq", (json_int_t)e->seq, "op", e->op, "acked", e->acked, "side",
                  e->side == SIDE_NEW ? "new" : "old", "epoch", (json_int_t)e->epoch, "restaurant",
                  p->restaurant, "driver", p->driver, "state", p->state, "note", p->note);
    (void)json_object_update_new(
        row, json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "start_us", (json_int_t)e->start_us,
                       "end_us", (json_int_t)e->end_us, "held_us", (json_int_t)e->held_us,
                       "refusals", (json_int_t)e->refusals, "retries", (json_int_t)e->retries,
                       "stubborn", e->stubborn, "surprise", e->surprise));
    text = json_dumps(row, JSON_COMPACT);
    json_decref(row);
    if (text != NULL && asprintf(&line, "%s\n", text) < 0)
        line = NULL;
    free(text);
    return line;
}

int
journal_add(struct journal *j, const struct entry *e)
{
    char   *line;
    size_t  length;
    ssize_t n;

    if (j->fd < 0)
        return 0;
    line = make_line(e);
    if (line == NULL)
        return -1;
    length = strlen(line);
    do {
        n = write(j->fd, line, length);
    } while (n < 0 && errno == EINTR);
    free(line);
    if (n == (ssize_t)length)
        return 0;
    complain("the journal cannot be written: %s", n < 0 ? strerror(errno) : "short write");
    return -1;
}
