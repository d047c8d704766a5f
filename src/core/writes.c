#include "core/writes.h"

#include <stdlib.h>

#include "base/bytes.h"
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

/* Eight bytes at a time; the last ones may be taken twice. */
static uint32_t
hash_of(struct slice text)
{
    const uint64_t factor = UINT64_C(0x9e3779b97f4a7c15);
    const uint8_t *p = text.data;
    uint64_t       h = text.len * factor;
    size_t         left = text.len;

    for (; left > 8; left -= 8, p += 8) {
        h = (h ^ get_u64(p)) * factor;
        h ^= h >> 32;
    }
    if (left == 8)
        h ^= get_u64(p);
    else if (left >= 4)
        h ^= get_u32(p) | (uint64_t)get_u32(p + left - 4) << 32;
    else
        for (size_t i = 0; i < left; i++)
            h ^= (uint64_t)p[i] << 8 * i;
    h *= factor;
    return (uint32_t)((h ^ h >> 29) * factor >> 32);
}

uint32_t
writes_add(struct writes *w, struct slice stream)
{
    uint32_t i;

    must(w->made < w->room);
    must(w->filled == 0);
    must(w->count <= w->made);
    i = hash_of(stream) & w->mask;
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
