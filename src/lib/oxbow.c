/*
 * liboxbow: include/oxbow.h over the log on this machine. It translates and
 * decides nothing.
 */
#include "oxbow.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/must.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "migrate/stream/stream.h"
#include "subject/subject.h"

#define OX_MAGIC 0x6f784462u
#define READER_MAGIC 0x6f785264u

struct ox {
    uint32_t              magic;
    struct log           *log;
    struct ox_subjects   *subjects;
    struct stream_router *router;
};

struct ox_reader {
    uint32_t                  magic;
    struct ox                *db;
    struct log_iter          *it;
    struct log_listener       listener;
    _Atomic(struct ox_gate *) gate; /* of the thread that waits */
    atomic_bool               stopped;
    struct buf                names; /* the event's stream and type, each with a NUL */
    struct log_link           link;  /* of the event; its stream is in `names` */
    size_t                    link_at;
    bool                      dangling;
};

static int
status_of(int rc, enum err_kind kind)
{
    if (kind == ERR_UNSURE)
        return OX_UNSURE;
    switch (rc) {
    case 0:
        return OX_OK;
    case E_END:
        return OX_END;
    case E_WRONG_VERSION:
        return OX_WRONG_VERSION;
    case E_NOTFOUND:
        return OX_NOT_FOUND;
    case E_GONE:
    case E_MOVED:
        return OX_GONE;
    case E_LIMIT:
        /* Over a limit for good, or too much is waiting just now. */
        return kind == ERR_RETRY ? OX_BUSY : OX_INVALID;
    case E_INVALID:
    case E_SYNTAX:
        return OX_INVALID;
    case E_BUSY:
        return OX_BUSY;
    case E_NOSPC:
        return OX_NO_SPACE;
    case E_DAMAGED:
        return OX_DAMAGED;
    case E_IO:
    case E_RDONLY:
        return OX_IO;
    case E_CLOSED:
        return OX_CLOSED;
    default:
        return OX_ERROR;
    }
}

/* Fills the caller's error and returns its status. */
static int
answer(struct ox_error *error, int rc, const struct err *err)
{
    int status = status_of(rc, rc == 0 ? ERR_NONE : err->kind);

    if (error == NULL)
        return status;
    error->status = status;
    (void)snprintf(error->text, sizeof error->text, "%s", rc == 0 || rc == E_END ? "" : err->text);
    return status;
}

static int
invalid(struct ox_error *error, const char *text)
{
    if (error != NULL) {
        error->status = OX_INVALID;
        (void)snprintf(error->text, sizeof error->text, "%s", text);
    }
    return OX_INVALID;
}

static int
out_of_memory(struct ox_error *error)
{
    return answer(error, E_NOMEM, &(struct err){.kind = ERR_RETRY, .text = "out of memory"});
}

static int
open_keys(const char *dir, const struct ox_options *options, struct ox_subjects **out,
          struct err *err)
{
    uint8_t             master[SUBJECT_KEY_BYTES];
    struct buf          path = {0};
    struct subject_conf conf = {0};
    const char         *keys = options == NULL ? NULL : options->keys;
    int                 rc = 0;

    if (options != NULL && options->keys_master != NULL) {
        if (!subject_master_parse(slice_str(options->keys_master), master))
            FAIL(err, E_INVALID, ERR_DATA, "ox_options.keys_master: must be 64 hexadecimal digits");
        conf.master = master;
    }
    conf.read_only = options != NULL && options->read_only != 0;
    buf_printf(&path, "%s%s", keys != NULL ? keys : dir, keys != NULL ? "" : "/keys");
    buf_add_byte(&path, '\0');
    if (path.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    conf.dir = (const char *)path.data;
    rc = subject_open(env_real(), &conf, out, err);
out:
    memset(master, 0, sizeof master);
    buf_fini(&path);
    return rc;
}

int
ox_open(const char *dir, const struct ox_options *options, struct ox **out, struct ox_error *error)
{
    struct log_conf conf = {.index = &log_index_lmdb};
    struct err      err;
    struct ox      *db;
    int             rc;

    *out = NULL;
    if (dir == NULL || dir[0] == '\0')
        return invalid(error, "no folder was given");
    if (options != NULL && options->size != sizeof *options)
        return invalid(error, "ox_options.size is not sizeof(struct ox_options)");
    if (options != NULL) {
        conf.read_only = options->read_only != 0;
        conf.sync_delay_us = (uint64_t)options->sync_delay_ms * 1000;
        conf.segment_bytes = options->segment_bytes;
    }
    db = calloc(1, sizeof *db);
    if (db == NULL)
        return out_of_memory(error);
    db->magic = OX_MAGIC;
    err_clear(&err);
    rc = open_keys(dir, options, &db->subjects, &err);
    conf.subjects = db->subjects;
    if (rc == 0)
        rc = log_open(env_real(), dir, &conf, NULL, &db->log, &err);
    if (rc == 0)
        rc = stream_router_new(env_real(), db->log, &db->router, &err);
    if (rc != 0) {
        log_close(db->log);
        subject_close(db->subjects);
        free(db);
        return answer(error, rc, &err);
    }
    *out = db;
    return answer(error, 0, &err);
}

void
ox_close(struct ox *db)
{
    if (db == NULL)
        return;
    must(db->magic == OX_MAGIC);
    log_close(db->log);
    stream_router_free(db->router);
    subject_close(db->subjects);
    db->magic = 0;
    free(db);
}

/* appending */

/* Is it one JSON value? What is not is kept as bytes. */
static uint32_t
flags_of(const struct ox_new_event *e)
{
    struct slice data = slice_of(e->data, e->data_len);

    return e->data_len > 0 && json_check(data, NULL) == 0 ? LOG_JSON : 0u;
}

static bool
take_events(const struct ox_new_event *from, size_t count, struct log_new_event *to)
{
    for (size_t i = 0; i < count; i++) {
        to[i] = (struct log_new_event){.type = slice_str(from[i].type),
                                       .data = slice_of(from[i].data, from[i].data_len),
                                       .meta = slice_of(from[i].metadata, from[i].metadata_len),
                                       .flags = flags_of(&from[i]),
                                       .subject = slice_str(from[i].subject)};
        if (slice_is(to[i].type, "$>"))
            to[i].flags = LOG_LINK;
        if (from[i].id != NULL && !id_parse(slice_str(from[i].id), &to[i].id))
            return false;
    }
    return true;
}

struct commit_build {
    struct log_write     *writes;
    struct log_check     *checks;
    struct log_new_event *events;
    uint32_t              write_count, check_count;
};

/* E_INVALID with a text, or 0. The arrays are the caller's to free. */
static int
build(const struct ox_write *writes, size_t count, struct commit_build *b, struct err *err)
{
    size_t all = 0, at = 0;

    if (count == 0 || count > UINT32_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a commit without an append");
    for (size_t i = 0; i < count; i++)
        all += writes[i].count;
    b->writes = calloc(count, sizeof *b->writes);
    b->checks = calloc(count, sizeof *b->checks);
    b->events = calloc(all + 1, sizeof *b->events);
    if (b->writes == NULL || b->checks == NULL || b->events == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct slice stream = slice_str(writes[i].stream);

        if (writes[i].count == 0) {
            b->checks[b->check_count++] = (struct log_check){stream, writes[i].expected};
            continue;
        }
        if (!take_events(writes[i].events, writes[i].count, &b->events[at]))
            RETURN_ERR(err, E_INVALID, ERR_DATA, "an event's id is not a UUID");
        b->writes[b->write_count++] = (struct log_write){.stream = stream,
                                                         .expected = writes[i].expected,
                                                         .events = &b->events[at],
                                                         .count = (uint32_t)writes[i].count};
        at += writes[i].count;
    }
    return 0;
}

static void
give_results(struct ox_write *writes, size_t count, const struct commit_build *b, uint64_t position)
{
    uint32_t w = 0;

    for (size_t i = 0; i < count; i++) {
        if (writes[i].count == 0)
            continue;
        writes[i].appended = (struct ox_appended){.first_version = b->writes[w].first_version,
                                                  .last_version = b->writes[w].last_version,
                                                  .position = position};
        w++;
    }
}

int
ox_commit(struct ox *db, struct ox_write *writes, size_t count, struct ox_error *error)
{
    struct commit_build b = {0};
    struct log_req      req = {0};
    struct err          err;
    int                 rc;

    must(db->magic == OX_MAGIC);
    err_clear(&err);
    rc = build(writes, count, &b, &err);
    if (rc == 0) {
        req.writes = b.writes;
        req.write_count = b.write_count;
        req.checks = b.checks;
        req.check_count = b.check_count;
        rc = log_append(db->log, &req);
        err = req.err;
    }
    if (rc == 0)
        give_results(writes, count, &b, req.last.v);
    free(b.writes);
    free(b.checks);
    free(b.events);
    return answer(error, rc, &err);
}

int
ox_append(struct ox *db, const char *stream, int64_t expected, const struct ox_new_event *events,
          size_t count, struct ox_appended *appended, struct ox_error *error)
{
    struct ox_write write = {
        .stream = stream, .expected = expected, .events = events, .count = count};
    int status;

    if (count == 0)
        return invalid(error, "no events were given");
    status = ox_commit(db, &write, 1, error);
    if (status == OX_OK && appended != NULL)
        *appended = write.appended;
    return status;
}

/* reading */

static void
wake_reader(struct log_listener *l)
{
    struct ox_reader *r = l->arg;
    struct ox_gate   *gate = atomic_exchange(&r->gate, NULL);

    if (gate != NULL)
        env_real()->ops->gate_open(env_real(), gate);
}

static int
bound_of(struct ox *db, const struct ox_read *read, struct log_pos *at, struct err *err)
{
    int rc;

    *at = LOG_POS(read->at);
    if (read->at_us == 0)
        return 0;
    rc = log_pos_of_time(db->log, read->at_us, at, err);
    if (rc == 0 && at->v == 0)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "nothing was in the log at that time");
    if (read->at != 0 && read->at < at->v)
        *at = LOG_POS(read->at); /* both bounds hold */
    return rc;
}

/* Before `resolve` was there. */
#define READ_SIZE_1 offsetof(struct ox_read, resolve)

/* What the system has is seen where its names are asked for. */
static bool
is_system_read(const struct ox_read *read)
{
    const char *s = read->stream;

    return (read->prefix != NULL && read->prefix[0] == '$') ||
           (s != NULL && (strncmp(s, "$ce-$", 5) == 0 || strncmp(s, "$et-$", 5) == 0));
}

int
ox_read_open(struct ox *db, const struct ox_read *read, struct ox_reader **out,
             struct ox_error *error)
{
    struct log_read   lr = {0};
    struct ox_reader *r;
    struct err        err;
    int               rc;

    *out = NULL;
    must(db->magic == OX_MAGIC);
    if (read->size != sizeof *read && read->size != READ_SIZE_1)
        return invalid(error, "ox_read.size is not sizeof(struct ox_read)");
    if (read->stream != NULL && read->stream[0] == '\0')
        return invalid(error, "a stream's name may not be empty; NULL reads all streams");
    r = calloc(1, sizeof *r);
    /* Room for the longest name and type, so that no event fails for it. */
    if (r == NULL ||
        !buf_reserve(&r->names, 2 * LOG_NAME_MAX + LOG_TYPE_MAX + SUBJECTS_NAME_MAX + 4)) {
        free(r);
        return out_of_memory(error);
    }
    err_clear(&err);
    lr.stream = slice_str(read->stream);
    lr.from = read->from;
    lr.backwards = read->direction == OX_BACKWARDS;
    lr.filter.prefix = slice_str(read->prefix);
    lr.filter.type = slice_str(read->type);
    lr.filter.system = is_system_read(read);
    lr.resolve = read->size != READ_SIZE_1 && read->resolve != 0;
    rc = bound_of(db, read, &lr.at, &err);
    if (rc == 0)
        rc = log_iter_open(db->log, &lr, &r->it, &err);
    if (rc != 0) {
        buf_fini(&r->names);
        free(r);
        return answer(error, rc, &err);
    }
    r->magic = READER_MAGIC;
    r->db = db;
    r->listener.wake = wake_reader;
    r->listener.arg = r;
    log_listen(db->log, &r->listener);
    *out = r;
    return answer(error, 0, &err);
}

static void
show(struct ox_reader *r, const struct log_event *from, struct ox_event *to)
{
    size_t type_at, subject_at;

    buf_clear(&r->names);
    buf_add_slice(&r->names, from->stream);
    buf_add_byte(&r->names, 0);
    type_at = r->names.len;
    buf_add_slice(&r->names, from->type);
    buf_add_byte(&r->names, 0);
    r->link_at = r->names.len;
    buf_add_slice(&r->names, from->link.stream);
    buf_add_byte(&r->names, 0);
    subject_at = r->names.len;
    buf_add_slice(&r->names, from->subject);
    buf_add_byte(&r->names, 0);
    must(!r->names.failed);
    r->link = from->link;
    r->dangling = from->dangling;
    to->position = from->pos.v;
    to->version = from->version;
    to->stream = (const char *)r->names.data;
    to->type = (const char *)r->names.data + type_at;
    to->data = from->data.data;
    to->data_len = from->data.len;
    to->metadata = from->meta.data;
    to->metadata_len = from->meta.len;
    id_format(&from->id, to->id);
    to->created_us = from->created_us;
    to->subject = from->subject.len > 0 ? (const char *)r->names.data + subject_at : NULL;
    to->erased = (from->flags & LOG_ERASED) != 0;
}

int
ox_read_next(struct ox_reader *r, struct ox_event *event, struct ox_error *error)
{
    struct log_event ev = {0};
    struct err       err;
    int              rc;

    must(r->magic == READER_MAGIC);
    err_clear(&err);
    do
        rc = log_iter_next(r->it, &ev, &err);
    while (rc == E_MORE);
    if (rc == 0)
        show(r, &ev, event);
    return answer(error, rc, &err);
}

int
ox_read_link(struct ox_reader *r, struct ox_link *link)
{
    must(r->magic == READER_MAGIC);
    if (r->dangling)
        return -1;
    if (r->link.stream.len == 0)
        return 0;
    if (link != NULL) {
        link->position = r->link.pos.v;
        link->version = r->link.version;
        link->stream = (const char *)r->names.data + r->link_at;
        id_format(&r->link.id, link->id);
    }
    return 1;
}

int
ox_read_wait(struct ox_reader *r, int timeout_ms, struct ox_event *event, struct ox_error *error)
{
    struct ox_env *env = env_real();
    uint64_t       left = timeout_ms < 0 ? UINT64_MAX : (uint64_t)timeout_ms * 1000;
    uint64_t       until = left == UINT64_MAX ? UINT64_MAX : env->ops->mono_us(env) + left;

    for (;;) {
        struct ox_gate gate, *mine;
        uint64_t       now;
        int            status;
        bool           opened;

        gate_init(&gate);
        atomic_store(&r->gate, &gate);
        /* Looked at after the gate stands: what comes later opens it. */
        status = ox_read_next(r, event, error);
        opened = false;
        if (status == OX_END && !atomic_load(&r->stopped)) {
            now = env->ops->mono_us(env);
            if (until > now)
                opened =
                    env->ops->gate_wait(env, &gate, until == UINT64_MAX ? UINT64_MAX : until - now);
        }
        mine = &gate;
        if (!opened && !atomic_compare_exchange_strong(&r->gate, &mine, NULL))
            (void)env->ops->gate_wait(env, &gate, UINT64_MAX); /* somebody is opening it */
        if (status != OX_END)
            return status;
        if (atomic_load(&r->stopped))
            return answer(error, E_CLOSED,
                          &(struct err){.kind = ERR_DATA, .text = "the reader was stopped"});
        if (!opened) {
            if (error != NULL) {
                error->status = OX_TIMEOUT;
                (void)snprintf(error->text, sizeof error->text, "no event within %d ms",
                               timeout_ms);
            }
            return OX_TIMEOUT;
        }
    }
}

void
ox_read_stop(struct ox_reader *r)
{
    must(r->magic == READER_MAGIC);
    atomic_store(&r->stopped, true);
    wake_reader(&r->listener);
}

void
ox_read_close(struct ox_reader *r)
{
    if (r == NULL)
        return;
    must(r->magic == READER_MAGIC);
    log_unlisten(r->db->log, &r->listener);
    log_iter_close(r->it);
    buf_fini(&r->names);
    r->magic = 0;
    free(r);
}

int
ox_subject_erase(struct ox *db, const char *subject, struct ox_error *error)
{
    struct err err;
    bool       again;
    int        rc;

    must(db->magic == OX_MAGIC);
    err_clear(&err);
    rc = subject_erase(db->subjects, slice_str(subject), &again, &err);
    return answer(error, rc, &err);
}

uint64_t
ox_end(struct ox *db)
{
    return log_end(db->log).v;
}

int
ox_head(struct ox *db, const char *stream, uint64_t *version, struct ox_error *error)
{
    struct log_stream s;
    struct err        err;
    int               rc;

    err_clear(&err);
    rc = log_stream_info(db->log, slice_str(stream), &s, &err);
    if (rc == 0)
        *version = s.head;
    return answer(error, rc, &err);
}

/* changing a stream */

/* A change without an expected version asks for a stream that is there. */
static int
change_stream(struct ox *db, struct log_change c, const char *stream,
              const struct ox_change *change, uint64_t *position, struct ox_error *error)
{
    struct log_req req = {.changes = &c, .change_count = 1};
    struct err     err;
    int            rc;

    must(db->magic == OX_MAGIC);
    if (change != NULL && change->size != sizeof *change)
        return invalid(error, "ox_change.size is not sizeof(struct ox_change)");
    c.stream = slice_str(stream);
    c.expected = change == NULL ? LOG_EXISTS : change->expected;
    err_clear(&err);
    rc = log_name_check(c.stream, false, &err);
    if (rc == 0) {
        rc = log_append(db->log, &req);
        err = req.err;
    }
    if (rc == E_WRONG_VERSION && change == NULL)
        rc = E_NOTFOUND;
    if (rc == 0 && position != NULL)
        *position = req.last.v;
    return answer(error, rc, &err);
}

int
ox_delete(struct ox *db, const char *stream, const struct ox_change *change, uint64_t *position,
          struct ox_error *error)
{
    return change_stream(db, (struct log_change){.what = LOG_SET_DELETED}, stream, change, position,
                         error);
}

int
ox_tombstone(struct ox *db, const char *stream, const struct ox_change *change, uint64_t *position,
             struct ox_error *error)
{
    return change_stream(db, (struct log_change){.what = LOG_SET_TOMBSTONE}, stream, change,
                         position, error);
}

int
ox_truncate(struct ox *db, const char *stream, uint64_t before, const struct ox_change *change,
            uint64_t *position, struct ox_error *error)
{
    return change_stream(db, (struct log_change){.what = LOG_SET_TRUNCATE, .truncate = before},
                         stream, change, position, error);
}

int
ox_set_closed(struct ox *db, const char *stream, int closed, const struct ox_change *change,
              uint64_t *position, struct ox_error *error)
{
    return change_stream(db,
                         (struct log_change){.what = closed != 0 ? LOG_SET_CLOSED : LOG_SET_OPEN},
                         stream, change, position, error);
}

/* The name of the stream that holds a stream's metadata. */
static int
metadata_name(const char *stream, struct buf *name, struct err *err)
{
    int rc = log_name_check(slice_str(stream), false, err);

    if (rc != 0)
        return rc;
    buf_add_str(name, "$$");
    buf_add_str(name, stream);
    if (name->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return log_name_check(buf_slice(name), true, err);
}

int
ox_set_metadata(struct ox *db, const char *stream, int64_t expected, const void *json,
                size_t json_len, uint64_t *version, struct ox_error *error)
{
    struct log_new_event event = {
        .type = slice_str(LOG_META_TYPE), .data = slice_of(json, json_len), .flags = LOG_JSON};
    struct log_write write = {.expected = expected, .events = &event, .count = 1};
    struct log_req   req = {.writes = &write, .write_count = 1, .flags = LOG_SYSTEM};
    struct log_meta  meta;
    struct buf       name = {0};
    struct err       err;
    int              rc = 0;

    must(db->magic == OX_MAGIC);
    err_clear(&err);
    TRY(metadata_name(stream, &name, &err));
    TRY(log_meta_parse(event.data, &meta, &err));
    write.stream = buf_slice(&name);
    rc = log_append(db->log, &req);
    err = req.err;
    if (rc == 0 && version != NULL)
        *version = write.last_version;
out:
    buf_fini(&name);
    return answer(error, rc, &err);
}

static int
read_metadata(struct ox *db, const char *stream, struct log_iter **it, struct log_event *event,
              struct err *err)
{
    struct log_read read = {.from = UINT64_MAX, .backwards = true};
    struct buf      name = {0};
    int             rc = 0;

    TRY(metadata_name(stream, &name, err));
    read.stream = buf_slice(&name);
    TRY(log_iter_open(db->log, &read, it, err));
    rc = log_iter_next(*it, event, err);
    if (rc == E_END)
        FAIL(err, E_NOTFOUND, ERR_DATA, "stream \"%s\" has no metadata", stream);
out:
    buf_fini(&name);
    return rc;
}

int
ox_get_metadata(struct ox *db, const char *stream, char *json, size_t json_size, size_t *json_len,
                uint64_t *version, struct ox_error *error)
{
    struct log_iter *it = NULL;
    struct log_event event;
    struct err       err;
    int              rc = 0;

    must(db->magic == OX_MAGIC);
    err_clear(&err);
    TRY(read_metadata(db, stream, &it, &event, &err));
    *json_len = event.data.len;
    if (event.data.len >= json_size)
        FAIL(&err, E_INVALID, ERR_DATA, "the metadata needs %zu bytes", event.data.len + 1);
    memcpy(json, event.data.data, event.data.len);
    json[event.data.len] = '\0';
    if (version != NULL)
        *version = event.version;
out:
    log_iter_close(it);
    return answer(error, rc, &err);
}

int
ox_stream_info(struct ox *db, const char *stream, struct ox_stream *out, struct ox_error *error)
{
    struct log_stream s;
    struct err        err;
    int               rc;

    must(db->magic == OX_MAGIC);
    if (out->size != sizeof *out)
        return invalid(error, "ox_stream.size is not sizeof(struct ox_stream)");
    err_clear(&err);
    rc = log_stream_info(db->log, slice_str(stream), &s, &err);
    if (rc == 0)
        *out = (struct ox_stream){.size = sizeof *out,
                                  .head = s.head,
                                  .first = s.first,
                                  .count = s.first > s.head ? 0 : s.head - s.first + 1,
                                  .max_count = s.max_count,
                                  .max_age_us = s.max_age_us,
                                  .closed = (s.flags & LOG_STREAM_CLOSED) != 0};
    return answer(error, rc, &err);
}

const char *
ox_version(void)
{
    return OX_VERSION;
}
