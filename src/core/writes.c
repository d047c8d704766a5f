#include "core/writes.h"

#include <stdlib.h>

#include "base/must.h"

/* At most half of the slots are taken. */
static uint32_t
table_size(uint32_t n)
{
    uint32_t size = 4;

    must(n <= UINT32_MAX / 8);
    while (size < n * 2)
        size *= 2;
    return size;
}

static bool
grow(struct writes *w, uint32_t n)
{
    writes_fini(w);
    w->list = calloc(n + 1, sizeof w->list[0]);
    w->events = calloc(n + 1, sizeof w->events[0]);
    w->order = calloc(n + 1, sizeof w->order[0]);
    w->table = malloc(table_size(n) * sizeof w->table[0]);
    if (w->list == NULL || w->events == NULL || w->order == NULL || w->table == NULL) {
        writes_fini(w);
        return false;
    }
    w->room = n;
    return true;
}

bool
writes_begin(struct writes *w, uint32_t n)
{
    if ((w->room < n || w->list == NULL) && !grow(w, n))
        return false;
    w->count = w->made = w->filled = 0;
    w->mask = table_size(n) - 1;
    memset(w->table, 0, table_size(n) * sizeof w->table[0]);
    return true;
}

uint32_t
writes_add(struct writes *w, struct slice stream)
{
    uint64_t h = 1469598103934665603u;
    uint32_t i;

    must(w->made < w->room);
    must(w->filled == 0);
    must(w->count <= w->made);
    for (size_t k = 0; k < stream.len; k++)
        h = (h ^ ((const uint8_t *)stream.data)[k]) * 1099511628211u;
    i = (uint32_t)(h >> 32) & w->mask;
    while (w->table[i] != 0 && !slice_eq(w->list[w->table[i] - 1].stream, stream))
        i = (i + 1) & w->mask;
    if (w->table[i] == 0) {
        w->list[w->count] = (struct log_write){.stream = stream, .expected = LOG_ANY};
        w->table[i] = ++w->count;
    }
    w->list[w->table[i] - 1].count++;
    w->order[w->made++] = w->table[i] - 1;
    return w->table[i] - 1;
}

void
writes_lay_out(struct writes *w)
{
    uint32_t sum = 0;

    must(w->filled == 0);
    for (uint32_t i = 0; i < w->count; i++) {
        w->list[i].events = &w->events[sum];
        w->table[i] = sum;
        sum += w->list[i].count;
    }
    must(sum == w->made);
}

struct log_new_event *
writes_next(struct writes *w)
{
    uint32_t write, at;

    must(w->filled < w->made);
    write = w->order[w->filled++];
    must(write < w->count);
    at = w->table[write]++;
    must(at < w->made);
    return &w->events[at];
}

void
writes_end(struct writes *w, struct slice stream, int64_t expected,
           const struct log_new_event *event, struct log_req *req)
{
    must(w->filled == w->made);
    must(w->count <= w->made);
    w->events[w->made] = *event;
    w->list[w->count] = (struct log_write){
        .stream = stream, .expected = expected, .events = &w->events[w->made], .count = 1};
    w->order[w->made] = w->count++;
    req->writes = w->list;
    req->write_count = w->count;
    req->order = w->order;
}

void
writes_fini(struct writes *w)
{
    free(w->list);
    free(w->events);
    free(w->order);
    free(w->table);
    *w = (struct writes){0};
}
