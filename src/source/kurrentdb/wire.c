/* The messages that this client sends and reads; field numbers stand where they are used. */
#include <stdio.h>

#include "base/json.h"
#include "base/kdb.h"
#include "base/pb.h"
#include "source/kurrentdb/kurrentdb_int.h"

/* Streams of users and their metadata; .NET and POSIX understand it alike. */
#define WANTED "^([^$]|\\$\\$[^$])"
#define WINDOW 32      /* events of a page */
#define MULTIPLIER 128 /* pages between two checkpoints */

static void
put_all(struct buf *out, const struct kurrentdbi_pos *pos)
{
    struct pb_mark all = pb_begin(out, 2, 0), at;

    if (pos == NULL) {
        pb_put_empty(out, 2);
    } else {
        at = pb_begin(out, 1, 0);
        pb_put_varint(out, 1, pos->commit);
        pb_put_varint(out, 2, pos->prepare);
        pb_end(out, at);
    }
    pb_end(out, all);
}

static void
put_text_ids(struct buf *out)
{
    struct pb_mark ids = pb_begin(out, 9, 0);

    pb_put_empty(out, 1);
    pb_end(out, ids);
}

void
kurrentdbi_put_subscribe(struct buf *out, const struct kurrentdbi_pos *after)
{
    struct pb_mark options = pb_begin(out, 1, 200), filter, names;

    put_all(out, after);
    pb_put_empty(out, 6);
    filter = pb_begin(out, 7, 0);
    names = pb_begin(out, 1, 0);
    pb_put_str(out, 1, WANTED);
    pb_end(out, names);
    pb_put_varint(out, 3, WINDOW);
    pb_put_varint(out, 5, MULTIPLIER);
    pb_end(out, filter);
    put_text_ids(out);
    pb_end(out, options);
}

void
kurrentdbi_put_read_one(struct buf *out, const struct kurrentdbi_pos *at)
{
    struct pb_mark options = pb_begin(out, 1, 0);

    put_all(out, at);
    pb_put_varint(out, 5, 1);
    pb_put_empty(out, 8);
    put_text_ids(out);
    pb_end(out, options);
}

/* An entry of the map of system metadata: 1 key, 2 value. */
static void
read_pair(struct slice message, struct slice *key, struct slice *value)
{
    struct pb_in    in;
    struct pb_field f;

    *key = *value = (struct slice){0};
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_BYTES(1))
            *key = f.bytes;
        else if (f.key == PB_BYTES(2))
            *value = f.bytes;
    }
}

static void
take_pair(struct slice pair, struct kurrentdbi_answer *out)
{
    struct slice key, value;
    int64_t      ticks;

    read_pair(pair, &key, &value);
    if (slice_is(key, "type"))
        out->event.type = value;
    else if (slice_is(key, "content-type"))
        out->event.json = slice_is(value, "application/json");
    else if (slice_is(key, "created") && json_int64(value, &ticks))
        out->created_us = ticks / 10;
}

/* RecordedEvent */
static bool
read_recorded(struct slice message, struct kurrentdbi_answer *out)
{
    struct change_event *e = &out->event;
    struct pb_in         in;
    struct pb_field      f;
    bool                 id = false;

    *e = (struct change_event){0};
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        switch (f.key) {
        case PB_BYTES(1):
            id = kdb_read_uuid(f.bytes, &e->id);
            break;
        case PB_BYTES(2):
            if (!kdb_read_name(f.bytes, &e->stream))
                return false;
            break;
        case PB_VARINT(3):
            e->version = f.value;
            break;
        case PB_VARINT(4):
            out->pos.prepare = f.value;
            break;
        case PB_VARINT(5):
            out->pos.commit = f.value;
            break;
        case PB_BYTES(6):
            take_pair(f.bytes, out);
            break;
        case PB_BYTES(7):
            e->meta = f.bytes;
            break;
        case PB_BYTES(8):
            e->data = f.bytes;
            break;
        default:
            break;
        }
    }
    e->tombstone = e->version == INT64_MAX && slice_is(e->type, "$streamDeleted");
    e->link = slice_is(e->type, "$>");
    if (e->json && json_check(e->data, NULL) != 0)
        e->json = false;
    return id && !in.bad && e->stream.len > 0 && (e->version < INT64_MAX || e->tombstone);
}

/* ReadEvent: 1 event, 2 link */
static bool
read_event(struct slice message, struct kurrentdbi_answer *out)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = false;

    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(1) || f.key == PB_BYTES(2))
            ok = read_recorded(f.bytes, out);
    return ok && !in.bad;
}

bool
kurrentdbi_read_answer(struct slice message, struct kurrentdbi_answer *out)
{
    struct pb_in    in;
    struct pb_field f;
    bool            ok = true;

    *out = (struct kurrentdbi_answer){0};
    pb_in_init(&in, message);
    while (ok && pb_next(&in, &f)) {
        switch (f.key) {
        case PB_BYTES(1):
            out->kind = KURRENTDBI_EVENT;
            ok = read_event(f.bytes, out);
            break;
        case PB_BYTES(3):
            out->kind = KURRENTDBI_PLACE;
            ok = kdb_read_position(f.bytes, &out->pos.commit, &out->pos.prepare);
            break;
        case PB_BYTES(8):
            out->kind = KURRENTDBI_CAUGHT_UP;
            break;
        case PB_BYTES(9):
            out->kind = KURRENTDBI_FELL_BEHIND;
            break;
        default:
            break;
        }
    }
    return ok && !in.bad;
}

/* gossip */

struct member {
    uint64_t     state;
    bool         alive;
    struct slice address;
    uint64_t     port;
};

/* MemberInfo: 3 state, 4 alive, 5 {1 address, 2 port} */
static bool
read_member(struct slice message, struct member *out)
{
    struct pb_in    in, at;
    struct pb_field f, g;

    *out = (struct member){0};
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key == PB_VARINT(3))
            out->state = f.value;
        else if (f.key == PB_VARINT(4))
            out->alive = f.value != 0;
        if (f.key != PB_BYTES(5))
            continue;
        pb_in_init(&at, f.bytes);
        while (pb_next(&at, &g)) {
            if (g.key == PB_BYTES(1))
                out->address = g.bytes;
            else if (g.key == PB_VARINT(2))
                out->port = g.value;
        }
    }
    return !in.bad;
}

/* The leader best, then one that has all that the leader has, then a copy. */
static unsigned
rank(const struct member *m)
{
    enum { FOLLOWER = 6, LEADER = 8, READ_ONLY_REPLICA = 14 };

    if (!m->alive || m->address.len == 0 || m->port == 0 || m->port > UINT16_MAX ||
        memchr(m->address.data, '\0', m->address.len) != NULL)
        return 0;
    return m->state == LEADER              ? 3
           : m->state == FOLLOWER          ? 2
           : m->state == READ_ONLY_REPLICA ? 1
                                           : 0;
}

bool
kurrentdbi_read_members(struct slice message, struct kurrentdbi_host *out)
{
    struct pb_in    in;
    struct pb_field f;
    struct member   m;
    unsigned        best = 0;

    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key != PB_BYTES(1) || !read_member(f.bytes, &m) || rank(&m) <= best ||
            m.address.len >= sizeof out->name)
            continue;
        best = rank(&m);
        out->port = (uint16_t)m.port;
        (void)snprintf(out->name, sizeof out->name, "%.*s", SLICE_FMT(m.address));
    }
    return best > 0 && !in.bad;
}

struct slice
kurrentdbi_read_version(struct slice message)
{
    struct slice    version = {0};
    struct pb_in    in;
    struct pb_field f;

    pb_in_init(&in, message);
    while (pb_next(&in, &f))
        if (f.key == PB_BYTES(2))
            version = f.bytes;
    return version;
}
