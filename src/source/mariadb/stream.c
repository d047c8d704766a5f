/*
 * The binary log as a stream: events become drafts, groups of events move the
 * place. A group is what one GTID stands for; the server sends only whole ones
 * that are committed.
 */
#include <errmsg.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/mariadb/mariadb_int.h"

/* After mysql.h, which it needs and does not include. */
#include <ma_pvio.h>

#define HEARTBEAT_NS "1000000000"

static int
take_checksum(struct my_source *s, struct err *err)
{
    MYSQL_RES *r = NULL;
    MYSQL_ROW  row;
    int        rc;

    TRY(mariadbi_run(s, s->stream, err, "SET @master_binlog_checksum = @@global.binlog_checksum"));
    TRY(mariadbi_ask(s, s->stream, &r, err, "SELECT @@global.binlog_checksum"));
    row = mysql_fetch_row(r);
    s->crc = row != NULL && row[0] != NULL && strcmp(row[0], "CRC32") == 0;
out:
    mysql_free_result(r);
    return rc;
}

int
mariadbi_stream_open(struct my_source *s, struct err *err)
{
    struct buf from = {0};
    int        rc;

    TRY(mariadbi_connect(s, &s->stream, err));
    TRY(take_checksum(s, err));
    mariadbi_gtids_write(s->place.gtids, s->place.gtid_count, &from);
    buf_add_byte(&from, 0);
    if (from.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    TRY(mariadbi_run(s, s->stream, err,
                     "SET @mariadb_slave_capability = 4, @master_heartbeat_period = " HEARTBEAT_NS
                     ", @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0, "
                     "@slave_connect_state = '%s'",
                     (const char *)from.data));
    s->rpl = mariadb_rpl_init(s->stream);
    if (s->rpl == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    (void)mariadb_rpl_optionsv(s->rpl, MARIADB_RPL_SERVER_ID, s->server_id);
    (void)mariadb_rpl_optionsv(s->rpl, MARIADB_RPL_START, 4UL);
    (void)mariadb_rpl_optionsv(s->rpl, MARIADB_RPL_FLAGS, 0U);
    if (mariadb_rpl_open(s->rpl) != 0)
        TRY(mariadbi_fail(s, s->stream, "binlog dump", true, err));
    s->heard_us = s->base.env->ops->mono_us(s->base.env);
out:
    buf_fini(&from);
    return rc;
}

bool
mariadbi_stream_ready(struct my_source *s, int wait_ms)
{
    const MARIADB_PVIO *io = s->stream->net.pvio;
    struct pollfd       p = {.fd = (int)mysql_get_socket(s->stream), .events = POLLIN};

    /* What the library has read ahead does not show at the socket. */
    if (io->cache != NULL && io->cache_pos < io->cache + io->cache_size)
        return true;
    return poll(&p, 1, wait_ms) != 0;
}

struct my_draft *
mariadbi_draft(struct my_source *s, enum change_op op, uint32_t want)
{
    struct my_draft *d;

    must(s->count < s->room);
    d = &s->drafts[s->count++];
    *d = (struct my_draft){.op = op, .want = want, .time_us = op == CHANGE_READ ? 0 : s->time_us};
    return d;
}

/* Whether this change is to be handed out: those of a part that is done are not. */
static bool
is_new(const struct my_source *s, uint64_t number)
{
    return s->place.done == 0 || s->place.part.domain != s->gtid.domain ||
           s->place.part.seq != s->gtid.seq || number >= s->place.done;
}

static void
put_position(struct my_source *s, struct my_draft *d, uint64_t number)
{
    d->position.at = s->bytes.len;
    buf_add_slice(&s->bytes, buf_slice(&s->gtid_text));
    buf_add_u64(&s->bytes, number);
    if (s->next.era > 0) {
        buf_add_byte(&s->bytes, '~');
        buf_add_u64(&s->bytes, s->next.era);
    }
    d->position.len = s->bytes.len - d->position.at;
    s->next.part = s->gtid;
    s->next.done = number + 1;
}

static int
end_group(struct my_source *s, uint32_t end, struct err *err)
{
    int rc = mariadbi_place_pass(&s->next, &s->gtid, err);

    s->in_group = false;
    memcpy(s->next.file, s->file, sizeof s->next.file);
    s->next.position = end;
    return rc;
}

static int
take_gtid(struct my_source *s, const struct my_event *e, struct err *err)
{
    int rc = mariadbi_gtid_take(e, &s->gtid, &s->gtid_flags, err);

    buf_clear(&s->gtid_text);
    mariadbi_gtids_write(&s->gtid, 1, &s->gtid_text);
    buf_add_byte(&s->gtid_text, ':');
    if (rc == 0 && s->gtid_text.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->in_group = rc == 0;
    s->number = 0;
    s->time_us = (int64_t)e->time * 1000000;
    return rc;
}

static int
lossy(const struct my_source *s, const char *table, const char *what, struct err *err)
{
    RETURN_ERR(err, E_STATE, ERR_FATAL,
               "source %s: GTID %u-%u-%" PRIu64 "%s%s %s; set `restart:` to a new text to start "
               "over with a snapshot",
               s->base.instance, s->gtid.domain, s->gtid.server, s->gtid.seq,
               table == NULL ? "" : ": table ", table == NULL ? "" : table, what);
}

static int
take_effects(struct my_source *s, const struct my_query *q, struct err *err)
{
    for (uint32_t i = 0; i < s->want_count; i++) {
        const struct my_want *w = &s->wants[i];
        enum my_effect        effect = mariadbi_effect(q->sql, q->db, w->db, w->name);

        if (effect == MY_EFFECT_ROWS)
            return lossy(s, NULL,
                         "changed rows in statement format: the log does not say which (set "
                         "binlog_format=ROW everywhere)",
                         err);
        if (effect == MY_EFFECT_LOST)
            return lossy(s, w->table, "was given other rows, by a rename or a partition's move",
                         err);
        s->emptied[i] = effect == MY_EFFECT_EMPTIED;
        s->emptied_left += s->emptied[i];
    }
    return 0;
}

static int
take_query(struct my_source *s, const struct my_event *e, struct err *err)
{
    struct my_query q;
    int             rc;

    TRY(mariadbi_query_take(e, &s->unpacked, &q, err));
    if (!s->in_group)
        goto out;
    if (slice_is(q.sql, "COMMIT") || slice_is(q.sql, "ROLLBACK")) {
        rc = end_group(s, e->end, err);
        goto out;
    }
    TRY(take_effects(s, &q, err));
    s->emptied_end = e->end;
    if ((s->gtid_flags & MY_GTID_STANDALONE) != 0 && s->emptied_left == 0)
        TRY(end_group(s, e->end, err));
out:
    return rc;
}

static void
forget_maps(struct my_source *s)
{
    for (uint32_t i = 0; i < s->map_count; i++)
        mariadbi_table_fini(&s->maps[i].table);
    s->map_count = s->map_next = 0;
    s->map = NULL;
}

static uint32_t
want_of(const struct my_source *s, struct slice db, struct slice name)
{
    uint32_t i = 0;

    while (i < s->want_count && !(slice_is(db, s->wants[i].db) && slice_is(name, s->wants[i].name)))
        i++;
    return i;
}

/* `u8 len, db, 00, u8 len, name` behind id and flags. */
static bool
peek_names(const struct my_event *e, struct slice *db, struct slice *name)
{
    struct my_cursor c;

    mariadbi_cursor_init(&c, e->body);
    (void)mariadbi_cursor_bytes(&c, 8);
    *db = mariadbi_cursor_bytes(&c, (size_t)mariadbi_cursor_le(&c, 1));
    (void)mariadbi_cursor_le(&c, 1);
    *name = mariadbi_cursor_bytes(&c, (size_t)mariadbi_cursor_le(&c, 1));
    return !c.failed;
}

/* What information_schema knew of the columns, by name; false: one is not known. */
static bool
take_hints(const struct my_want *w, struct my_table *t)
{
    bool all = true;

    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t j = 0;

        while (j < w->field_count && !slice_is(t->columns[i].name, w->fields[j].name))
            j++;
        if (j < w->field_count)
            t->columns[i].hint = w->fields[j].hint;
        all = all && j < w->field_count;
    }
    return all;
}

static uint32_t
column_named(const struct my_table *t, const char *name)
{
    uint32_t i = 0;

    while (i < t->count && !slice_is(t->columns[i].name, name))
        i++;
    return i;
}

/* Whether the map's primary key is the one that streams are named by. */
static bool
same_key(const struct my_want *w, const struct my_table *t)
{
    if (w->order_count != t->key_count)
        return false;
    for (uint32_t i = 0; i < t->key_count; i++) {
        if (!slice_is(t->columns[t->key[i]].name, w->fields[w->order[i]].name))
            return false;
    }
    return true;
}

/* The configured key instead of the map's, and that there is one. */
static int
take_key(struct my_source *s, const struct my_want *w, struct my_table *t, struct err *err)
{
    if (t->columns[0].name.len == 0)
        return lossy(s, w->table,
                     "was logged without its columns' names: set "
                     "binlog_row_metadata=FULL",
                     err);
    if (w->key_count > 0)
        t->key_count = 0;
    for (uint32_t i = 0; i < w->key_count && t->key_count < t->count; i++) {
        uint32_t at = column_named(t, w->key[i]);

        if (at == t->count)
            return lossy(s, w->table, "has lost a column of its key", err);
        t->key[t->key_count++] = at;
    }
    if (!same_key(w, t))
        return lossy(s, w->table, "has another primary key than at the start", err);
    return 0;
}

static struct my_map *
map_with(struct my_source *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->map_count; i++) {
        if (s->maps[i].table.id == id)
            return &s->maps[i];
    }
    return NULL;
}

static int
take_map(struct my_source *s, const struct my_event *e, struct err *err)
{
    struct my_map *m = map_with(s, mariadbi_table_id(e));
    struct slice   db, name;
    uint32_t       want;
    int            rc;

    if (m != NULL && m->want < s->want_count && slice_eq(buf_slice(&m->table.raw), e->body))
        return 0;
    if (!peek_names(e, &db, &name))
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: a TABLE_MAP is damaged");
    want = want_of(s, db, name);
    if (m == NULL) {
        m = &s->maps[s->map_next];
        s->map_next = (s->map_next + 1) % MARIADBI_MAPS;
        if (s->map_count < MARIADBI_MAPS)
            s->map_count++;
    }
    mariadbi_table_fini(&m->table);
    m->want = want;
    if (want == s->want_count) {
        m->table.id = mariadbi_table_id(e);
        return 0;
    }
    TRY(mariadbi_table_take(e, &m->table, err));
    TRY(take_key(s, &s->wants[want], &m->table, err));
    if (!take_hints(&s->wants[want], &m->table)) {
        TRY(mariadbi_look_again(s, &s->wants[want], err));
        (void)take_hints(&s->wants[want], &m->table);
    }
    TRY(mariadbi_shape_take(s, m, err));
out:
    return rc;
}

static int
take_rows(struct my_source *s, const struct my_event *e, struct err *err)
{
    struct my_map *m = map_with(s, mariadbi_table_id(e));
    int            rc;

    if (!s->in_group)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: rows without a GTID");
    /* Only a statement's end. */
    if (mariadbi_table_id(e) == 0xffffff)
        return 0;
    if (m == NULL)
        RETURN_ERR(err, E_DAMAGED, ERR_FATAL, "binlog: rows of a table without its TABLE_MAP");
    if (m->want == s->want_count)
        return 0;
    if ((s->gtid_flags & MY_GTID_PREPARED_XA) != 0)
        return lossy(s, s->wants[m->want].table,
                     "was changed in an XA transaction, which is not supported", err);
    if (s->cell_room < m->table.count) {
        for (int i = 0; i < 2; i++) {
            free(s->cells[i]);
            s->cells[i] = calloc(m->table.count, sizeof s->cells[i][0]);
        }
        s->cell_room = s->cells[0] == NULL || s->cells[1] == NULL ? 0 : m->table.count;
        if (s->cell_room == 0)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    }
    TRY(mariadbi_rows_take(e, &m->table, &s->unpacked, &s->rows, err));
    s->map = m;
    s->half = false;
out:
    return rc;
}

static int
take_rotate(struct my_source *s, const struct my_event *e, struct err *err)
{
    struct slice file;
    uint64_t     position;
    int          rc = mariadbi_file_take(e, &file, &position, err);

    if (rc == 0)
        (void)snprintf(s->file, sizeof s->file, "%.*s", SLICE_FMT(file));
    return rc;
}

static int
take_event(struct my_source *s, const struct my_event *e, struct err *err)
{
    bool last;

    if (mariadbi_rows_last(e, &last))
        return take_rows(s, e, err);
    switch (e->type) {
    case MY_FORMAT:
        forget_maps(s);
        return mariadbi_format_take(e, &s->crc, err);
    case MY_ROTATE:
        return take_rotate(s, e, err);
    case MY_GTID:
        return take_gtid(s, e, err);
    case MY_TABLE_MAP:
        return take_map(s, e, err);
    case MY_QUERY:
    case MY_QUERY_COMPRESSED:
        return take_query(s, e, err);
    case MY_XID:
    case MY_XA_PREPARE:
        return s->in_group ? end_group(s, e->end, err) : 0;
    case MY_INCIDENT:
        return lossy(s, NULL, "was followed by an incident: the server may have lost changes", err);
    case 18: /* EXECUTE_LOAD_QUERY */
        return lossy(s, NULL, "loaded a file in statement format", err);
    case MY_STOP:
    case MY_HEARTBEAT:
    case MY_ANNOTATE:
    case MY_CHECKPOINT:
    case MY_GTID_LIST:
    case MY_START_ENCRYPTION:
    case 5:  /* INTVAR, which goes before a statement */
    case 13: /* RAND, likewise */
    case 14: /* USER_VAR, likewise */
    case 9:  /* APPEND_BLOCK */
    case 11: /* DELETE_FILE */
    case 17: /* BEGIN_LOAD_QUERY */
        return 0;
    default:
        if ((e->flags & MY_EVENT_IGNORABLE) != 0)
            return 0;
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "binlog: event type %u is not known", e->type);
    }
}

int
mariadbi_stream_take(struct my_source *s, struct err *err)
{
    unsigned long   len = mysql_net_read_packet(s->stream);
    const uint8_t  *p = s->stream->net.read_pos;
    struct my_event e;
    int             rc;

    if (len == packet_error)
        return mariadbi_fail(s, s->stream, "binlog", true, err);
    if (len > 0 && p[0] == 0xfe && len < 9)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: the server ended the stream",
                   s->base.instance);
    if (len < 1 || p[0] != 0)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "source %s: an unknown packet", s->base.instance);
    s->heard_us = s->base.env->ops->mono_us(s->base.env);
    TRY(mariadbi_event_take(slice_of(p + 1, len - 1), s->crc, &e, err));
    TRY(take_event(s, &e, err));
out:
    return rc;
}

/* rows */

static int
put_key(struct my_source *s, const struct my_cell *row, const struct my_cell *other,
        struct my_span *out, struct err *err)
{
    const struct my_table *t = &s->map->table;
    int                    rc = 0;

    out->at = s->bytes.len;
    for (uint32_t i = 0; i < t->key_count; i++) {
        uint32_t              at = t->key[i];
        const struct my_cell *cell = &row[at];

        if (cell->state == MY_CELL_ABSENT && other != NULL)
            cell = &other[at];
        if (cell->state == MY_CELL_ABSENT)
            TRY(lossy(s, s->wants[s->map->want].table, "has a row without its key", err));
        if (i > 0)
            buf_add_byte(&s->bytes, '|');
        TRY(mariadbi_cell_key(&s->charsets, &t->columns[at], cell, t->key_count > 1, &s->scratch,
                              &s->bytes, err));
    }
    out->len = s->bytes.len - out->at;
out:
    return rc;
}

static int
put_row(struct my_source *s, const struct my_cell *row, const struct my_cell *other,
        struct my_span *out, struct err *err)
{
    const struct my_table *t = &s->map->table;
    bool                   first = true;
    int                    rc = 0;

    out->at = s->bytes.len;
    for (uint32_t i = 0; i < t->count; i++) {
        const struct my_cell *cell = &row[i];

        if (cell->state == MY_CELL_ABSENT && other != NULL)
            cell = &other[i];
        if (cell->state == MY_CELL_ABSENT && !s->any_images)
            TRY(lossy(s, s->wants[s->map->want].table,
                      "was logged with rows in part: set binlog_row_image=FULL, or `images: any`",
                      err));
        if (cell->state == MY_CELL_ABSENT)
            continue;
        buf_add_byte(&s->bytes, first ? '{' : ',');
        first = false;
        buf_add_slice(&s->bytes, t->columns[i].label);
        TRY(mariadbi_cell_json(&s->charsets, &t->columns[i], cell, &s->scratch, &s->bytes, err));
    }
    buf_add_byte(&s->bytes, '}');
    out->len = s->bytes.len - out->at;
out:
    return rc;
}

static bool
same_bytes(const struct my_source *s, struct my_span a, struct my_span b)
{
    return a.len == b.len && memcmp(s->bytes.data + a.at, s->bytes.data + b.at, a.len) == 0;
}

/* A change of the key is a delete of the old one and an insert of the new one: two numbers. */
static int
put_update(struct my_source *s, struct err *err)
{
    const struct my_cell *before = s->cells[0], *after = s->cells[1];
    struct my_span        old, new;
    struct my_draft      *d;
    size_t                mark = s->bytes.len;
    bool                  moved;
    int                   rc;

    TRY(put_key(s, before, NULL, &old, err));
    TRY(put_key(s, after, before, &new, err));
    if (s->bytes.failed)
        goto out;
    moved = !same_bytes(s, old, new);
    if (moved && !s->half) {
        s->half = true;
        if (!is_new(s, s->number)) {
            s->bytes.len = mark;
            goto out;
        }
        d = mariadbi_draft(s, CHANGE_DELETE, s->map->want);
        d->key = old;
        TRY(put_row(s, before, NULL, &d->before, err));
        put_position(s, d, s->number);
        goto out;
    }
    s->half = false;
    s->number += 2;
    if (!is_new(s, s->number - 2 + moved)) {
        s->bytes.len = mark;
        goto out;
    }
    d = mariadbi_draft(s, moved ? CHANGE_INSERT : CHANGE_UPDATE, s->map->want);
    d->key = new;
    if (!moved)
        TRY(put_row(s, before, NULL, &d->before, err));
    TRY(put_row(s, after, before, &d->after, err));
    put_position(s, d, s->number - 2 + moved);
out:
    return rc;
}

static int
put_single(struct my_source *s, bool deleted, struct err *err)
{
    const struct my_cell *row = s->cells[deleted ? 0 : 1];
    struct my_draft      *d;
    int                   rc = 0;

    s->number += 2;
    if (!is_new(s, s->number - 2))
        return 0;
    d = mariadbi_draft(s, deleted ? CHANGE_DELETE : CHANGE_INSERT, s->map->want);
    TRY(put_key(s, row, NULL, &d->key, err));
    TRY(put_row(s, row, NULL, deleted ? &d->before : &d->after, err));
    put_position(s, d, s->number - 2);
out:
    return rc;
}

/* The next table that a statement emptied. */
static int
put_emptied(struct my_source *s, struct err *err)
{
    uint32_t at = 0;

    while (!s->emptied[at])
        at++;
    s->emptied[at] = false;
    s->emptied_left--;
    s->number += 2;
    if (is_new(s, s->number - 2))
        put_position(s, mariadbi_draft(s, CHANGE_TRUNCATE, at), s->number - 2);
    if (s->emptied_left == 0 && (s->gtid_flags & MY_GTID_STANDALONE) != 0)
        return end_group(s, s->emptied_end, err);
    return 0;
}

bool
mariadbi_stream_pending(const struct my_source *s)
{
    return s->map != NULL || s->emptied_left > 0 || s->shape_due;
}

int
mariadbi_stream_row(struct my_source *s, struct err *err)
{
    int rc = 0;

    if (s->shape_due) {
        mariadbi_shape_put(s);
        return 0;
    }
    if (s->emptied_left > 0)
        return put_emptied(s, err);
    must(s->map != NULL);
    if (!s->half)
        rc = mariadbi_rows_next(&s->rows, s->cells[0], s->cells[1], err);
    if (rc == E_END) {
        s->map = NULL;
        return 0;
    }
    TRY(rc);
    if (s->rows.op == MY_UPDATE_ROWS)
        TRY(put_update(s, err));
    else
        TRY(put_single(s, s->rows.op == MY_DELETE_ROWS, err));
    if (s->bytes.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "source %s: out of memory for a row", s->base.instance);
out:
    return rc;
}
