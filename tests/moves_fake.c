#include "tests/moves_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define EVENTS 16

struct copies {
    struct log_new_event e[EVENTS + 1];
    char                 texts[EVENTS + 1][3][300];
    uint32_t             count;
    uint64_t             first, last;
};

/* Copies of all that can be read, behind a place for their mark. */
static void
copy_all(struct log *log, const char *from, struct copies *c)
{
    struct log_read  read = {.stream = slice_str(from)};
    struct log_iter *it;
    struct log_event ev;
    struct err       err;

    c->count = 1;
    assert_int_equal(log_iter_open(log, &read, &it, &err), 0);
    while (log_iter_next(it, &ev, &err) == 0) {
        char(*text)[300] = c->texts[c->count];

        assert_true(c->count <= EVENTS);
        c->first = c->count == 1 ? ev.version : c->first;
        c->last = ev.version;
        (void)snprintf(text[0], sizeof text[0], "%.*s", SLICE_FMT(ev.type));
        (void)snprintf(text[1], sizeof text[1], "%.*s", SLICE_FMT(ev.data));
        (void)snprintf(text[2], sizeof text[2],
                       "{\"$copiedFrom\":[{\"stream\":\"%s\",\"type\":\"%.*s\",\"version\":%llu,"
                       "\"position\":%llu,\"created\":\"2026-01-01T00:00:00Z\",\"id\":\"x\"}]}",
                       from, SLICE_FMT(ev.type), (unsigned long long)ev.version,
                       (unsigned long long)ev.pos.v);
        c->e[c->count++] = (struct log_new_event){.type = slice_str(text[0]),
                                                  .data = slice_str(text[1]),
                                                  .meta = slice_str(text[2]),
                                                  .id = ev.id,
                                                  .created_us = ev.created_us,
                                                  .flags = ev.flags};
    }
    log_iter_close(it);
    (void)snprintf(c->texts[0][0], sizeof c->texts[0][0],
                   "{\"stream\":\"%s\",\"first\":%llu,\"last\":%llu,\"surgery\":\"x\"}", from,
                   (unsigned long long)c->first, (unsigned long long)c->last);
    c->e[0] = (struct log_new_event){
        .type = slice_str("MigratedFrom"), .data = slice_str(c->texts[0][0]), .flags = LOG_JSON};
}

void
moves_fake(struct log *log, const char *from, const char *to)
{
    bool                 here = slice_is(slice_str(from), to);
    struct copies        c = {0};
    char                 moved[300];
    struct log_new_event mark = {.type = slice_str(LOG_MOVED_TYPE), .flags = LOG_JSON};
    struct log_write     w[2];
    struct log_change    change = {.stream = slice_str(from), .expected = LOG_ANY};
    struct log_req       req = {
              .writes = w, .write_count = here ? 1 : 2, .changes = &change, .change_count = 1};

    copy_all(log, from, &c);
    (void)snprintf(moved, sizeof moved, "{\"streams\":[\"%s\"],\"reason\":\"\",\"surgery\":\"x\"}",
                   to);
    mark.data = slice_str(moved);
    w[0] = (struct log_write){
        .stream = slice_str(to), .expected = LOG_ANY, .events = c.e, .count = c.count};
    w[1] = (struct log_write){
        .stream = slice_str(from), .expected = (int64_t)c.last, .events = &mark, .count = 1};
    change.what = here ? LOG_SET_TRUNCATE : LOG_SET_MOVED;
    change.truncate = c.last + 1;
    if (log_append(log, &req) != 0)
        fail_msg("move: %s", req.err.text);
}
