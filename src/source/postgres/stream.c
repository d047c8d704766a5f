/*
 * The replication connection: opened where `place` stands, read without
 * waiting, and the one place where the server is told what is durable.
 */
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "source/postgres/postgres_int.h"

#define TELL_US UINT64_C(5000000)
#define SILENCE_US UINT64_C(45000000)      /* a server that was asked and says nothing */
#define BYTES_SOFT ((size_t)4 << 20)       /* a batch ends after the change that passes this */
#define BYTES_XACT_SOFT ((size_t)24 << 20) /* … and a part of a transaction */

void
postgresi_stream_close(struct pg_source *s)
{
    postgresi_disconnect(&s->stream);
    postgresi_relations_forget(s);
    postgresi_spills_drop(s);
    postgresi_snapshot_drop(s);
    postgresi_steps_drop(s);
    s->in_xact = s->drop = false;
    s->held_count = 0;
}

/* The cluster and where its log is. */
static int
identify(struct pg_source *s, struct pg_lsn *head, struct err *err)
{
    PGresult *r = NULL;
    uint64_t  timeline = 0;
    int       rc;

    TRY(postgresi_query(s, s->stream, "IDENTIFY_SYSTEM", &r, err));
    if (PQntuples(r) != 1 || !postgresi_lsn_parse(postgresi_cell(r, 0, 2), head) ||
        !postgresi_cell_u64(r, 0, 1, &timeline) ||
        PQgetlength(r, 0, 0) >= (int)sizeof s->place.system)
        FAIL(err, E_FORMAT, ERR_FATAL, "source %s: IDENTIFY_SYSTEM is not answered as it should be",
             s->base.instance);
    s->other = s->place.system[0] != '\0' && strcmp(s->place.system, PQgetvalue(r, 0, 0)) != 0;
    (void)snprintf(s->place.system, sizeof s->place.system, "%s", PQgetvalue(r, 0, 0));
    s->timeline = (uint32_t)timeline;
out:
    PQclear(r);
    return rc;
}

/* Where the timeline that was captured ended, by a history of "TIMELINE LSN REASON" lines. */
static bool
find_switch(const char *history, uint32_t timeline, struct pg_lsn *out)
{
    for (const char *line = history; *line != '\0';) {
        const char   *end = strchrnul(line, '\n'), *tab = strchrnul(line, '\t');
        unsigned long number = strtoul(line, NULL, 10);

        if (*tab == '\t' && tab < end && number == timeline)
            return postgresi_lsn_parse(slice_of(tab + 1, strcspn(tab + 1, "\t\n ")), out);
        line = *end == '\0' ? end : end + 1;
    }
    return false;
}

/* *upto: what this server has in common with the one that was captured; all: one timeline. */
static int
look_at_timeline(struct pg_source *s, struct pg_lsn *upto, struct err *err)
{
    PGresult *r = NULL;
    char      sql[40];
    int       rc = 0;

    upto->v = UINT64_MAX;
    if (s->place.timeline == 0 || s->place.timeline == s->timeline || s->other)
        return 0;
    upto->v = 0;
    if (s->place.timeline > s->timeline)
        return 0;
    (void)snprintf(sql, sizeof sql, "TIMELINE_HISTORY %" PRIu32, s->timeline);
    TRY(postgresi_query(s, s->stream, sql, &r, err));
    if (PQntuples(r) != 1 || !find_switch(PQgetvalue(r, 0, 1), s->place.timeline, upto))
        upto->v = 0;
out:
    PQclear(r);
    return rc;
}

/* The operator takes the gap that ends at the slot's position: all tables are read again. */
static bool
accept_gap(struct pg_source *s, struct pg_lsn confirmed, struct pg_lsn head)
{
    struct pg_lsn accepted;

    if (!s->place.gap &&
        (s->accept == NULL || !postgresi_lsn_parse(slice_str(s->accept), &accepted) ||
         accepted.v != confirmed.v))
        return false;
    s->forgiven = head;
    s->place.lsn = confirmed;
    s->place.held.v = 0;
    s->place.commit.v = 0;
    s->place.done = 0;
    s->place.gap = false;
    s->place.timeline = s->timeline;
    s->durable = confirmed;
    s->place.era++;
    postgresi_place_gap(s);
    return true;
}

/* A slot that is where it should be, or what has become of it. */
static int
judge_slot(struct pg_source *s, PGresult *r, struct pg_lsn head, struct pg_lsn common,
           struct err *err)
{
    const char   *name = s->base.instance;
    char          here[PG_LSN_TEXT], there[PG_LSN_TEXT];
    struct pg_lsn confirmed = {0};

    postgresi_lsn_format(postgresi_place_from(&s->place), here);
    if (PQntuples(r) == 0) {
        if (s->place.lsn.v == 0)
            RETURN_ERR(
                err, E_STATE, ERR_FATAL,
                "source %s is not prepared: there is no slot %s; run `oxbow source prepare %s`",
                name, s->slot, name);
        RETURN_ERR(err, E_GONE, ERR_FATAL,
                   "source %s: gap: the slot %s is gone, and changes after %s with it; run `oxbow "
                   "source prepare %s`, then `oxbow source snapshot %s --gap`",
                   name, s->slot, here, name, name);
    }
    if (strcmp(PQgetvalue(r, 0, 0), "pgoutput") != 0)
        RETURN_ERR(err, E_STATE, ERR_FATAL, "source %s: the slot %s is one of the plugin %s", name,
                   s->slot, PQgetvalue(r, 0, 0));
    if (strcmp(PQgetvalue(r, 0, 2), "lost") == 0)
        RETURN_ERR(
            err, E_GONE, ERR_FATAL,
            "source %s: gap: the server removed the WAL that the slot %s needs "
            "(max_slot_wal_keep_size); changes after %s are lost; run `oxbow source unprepare "
            "%s` and `prepare`, then `oxbow source snapshot %s --gap`",
            name, s->slot, here, name, name);
    if (!postgresi_lsn_parse(postgresi_cell(r, 0, 1), &confirmed))
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "source %s: the slot %s is still being made", name,
                   s->slot);
    postgresi_lsn_format(confirmed, there);
    if (s->place.lsn.v == 0)
        s->place.lsn = confirmed;
    if (s->place.gap)
        s->forgiven = head;
    /* One that has not begun is where the slot is. */
    if (s->other && !accept_gap(s, confirmed, head))
        RETURN_ERR(
            err, E_GONE, ERR_FATAL,
            "source %s: gap: this is another cluster than was captured up to %s; `oxbow source "
            "snapshot %s --gap`, or `accept: %s`, goes on with it",
            name, here, name, there);
    if (confirmed.v > postgresi_place_from(&s->place).v && !accept_gap(s, confirmed, head))
        RETURN_ERR(
            err, E_GONE, ERR_FATAL,
            "source %s: gap: captured up to %s, but the slot %s begins at %s: it was made anew "
            "or read by others; `oxbow source snapshot %s --gap`, or `accept: %s`, goes on there",
            name, here, s->slot, there, name, there);
    if (head.v < s->place.lsn.v && !accept_gap(s, confirmed, head))
        RETURN_ERR(
            err, E_STATE, ERR_FATAL,
            "source %s: gap: captured up to %s, but the server's log ends before it: it is an "
            "older copy; `oxbow source snapshot %s --gap` goes on with it",
            name, here, name);
    if (s->place.timeline != s->timeline && common.v < s->place.lsn.v &&
        !accept_gap(s, confirmed, head))
        RETURN_ERR(
            err, E_STATE, ERR_FATAL,
            "source %s: gap: captured up to %s, but the server, on timeline %" PRIu32 " now, left "
            "timeline %" PRIu32 " before it: it is an older copy, or a standby that had not got "
            "all; `oxbow source snapshot %s --gap` goes on with it",
            name, here, s->timeline, s->place.timeline, name);
    s->place.timeline = s->timeline;
    return 0;
}

static int
find_slot(struct pg_source *s, struct pg_lsn head, struct err *err)
{
    struct buf    sql = {0};
    PGresult     *r = NULL;
    struct pg_lsn common;
    int           rc;

    TRY(look_at_timeline(s, &common, err));
    TRY(postgresi_need_query(s, err));
    buf_printf(&sql,
               "SELECT plugin, confirmed_flush_lsn, %s FROM pg_catalog.pg_replication_slots "
               "WHERE slot_name = ",
               s->version >= 130000 ? "wal_status" : "''");
    postgresi_add_literal(s->query, &sql, s->slot);
    TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
    TRY(judge_slot(s, r, head, common, err));
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

static int
protocol(const struct pg_source *s)
{
    return s->version >= 160000 ? 4 : s->version >= 150000 ? 3 : s->version >= 140000 ? 2 : 1;
}

/* Names within the option's list are quoted as identifiers, the list as a literal. */
static int
start_streaming(struct pg_source *s, struct err *err)
{
    struct buf sql = {0}, names = {0};
    char       at[PG_LSN_TEXT];
    int        rc;

    s->from = postgresi_place_from(&s->place);
    postgresi_lsn_format(s->from, at);
    buf_add_str(&sql, "START_REPLICATION SLOT ");
    postgresi_add_name(s->stream, &sql, s->slot);
    buf_printf(&sql, " LOGICAL %s (proto_version '%d', ", at, protocol(s));
    if (s->version >= 140000)
        buf_printf(&sql, "streaming '%s', messages '%s', ",
                   s->version >= 160000 ? "parallel" : "on", s->messages ? "true" : "false");
    if (s->two_phase && s->version >= 150000)
        buf_add_str(&sql, "two_phase 'on', ");
    postgresi_add_name(s->stream, &names, s->publication);
    buf_add_byte(&names, 0);
    buf_add_str(&sql, "publication_names ");
    if (!names.failed)
        postgresi_add_literal(s->stream, &sql, (const char *)names.data);
    buf_add_byte(&sql, ')');
    TRY(postgresi_query_buf(s, s->stream, &sql, NULL, err));
out:
    buf_fini(&sql);
    buf_fini(&names);
    return rc;
}

int
postgresi_stream_open(struct pg_source *s, struct err *err)
{
    struct ox_env *env = s->base.env;
    struct pg_lsn  head;
    int            rc;

    postgresi_stream_close(s);
    TRY(postgresi_connect(s, true, &s->stream, err));
    TRY(identify(s, &head, err));
    TRY(find_slot(s, head, err));
    postgresi_keep_near(s->stream);
    TRY(start_streaming(s, err));
    memcpy(s->shapes, s->place.shapes, s->want_count * sizeof s->shapes[0]);
    s->skip_commit = s->place.commit;
    s->skip_done = s->place.done;
    s->received = s->place.lsn;
    s->confirmed.v = 0;
    s->settled = false;
    s->told_us = s->heard_us = s->advanced_us = env->ops->mono_us(env);
    s->place.gap = false;
out:
    if (rc != 0)
        postgresi_stream_close(s);
    return rc;
}

int
postgresi_stream_tell(struct pg_source *s, bool reply, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint8_t        status[PG_STATUS_BYTES];

    if (s->stream == NULL)
        return 0;
    /* Never more than the log has for good. */
    must(s->confirmed.v <= s->durable.v);
    s->confirmed = s->durable;
    postgresi_status_build(status, s->received.v > s->durable.v ? s->received : s->durable,
                           s->confirmed, env->ops->wall_us(env), reply);
    if (PQputCopyData(s->stream, (const char *)status, sizeof status) <= 0 ||
        PQflush(s->stream) < 0)
        RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: the replication connection was lost",
                   s->base.instance);
    s->told_us = env->ops->mono_us(env);
    return 0;
}

int
postgresi_mark(struct pg_source *s, struct err *err)
{
    int rc;

    TRY(postgresi_need_query(s, err));
    TRY(postgresi_query(s, s->query,
                        "SET synchronous_commit = local; SELECT "
                        "pg_catalog.pg_logical_emit_message(true, '" POSTGRESI_MARK "', '')",
                        NULL, err));
out:
    return rc;
}

bool
postgresi_full(const struct pg_source *s, uint32_t max)
{
    return s->waiting >= max ||
           s->bytes.len >= (s->base.transactions ? BYTES_XACT_SOFT : BYTES_SOFT);
}

static int
end_xact(struct pg_source *s, struct pg_lsn end, struct err *err)
{
    struct pg_step *step = postgresi_step_new(s, STEP_END);

    if (step == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    step->lsn = end;
    step->number = s->xid;
    s->ends++;
    s->in_xact = false;
    s->drop = false;
    if (end.v > s->received.v)
        s->received = end;
    return 0;
}

/* A message between S and E, or b and P, belongs to a transaction that may still end in nothing. */
static int
take_early(struct pg_source *s, struct slice bytes, const struct pg_message *m, struct err *err)
{
    if (m->kind == PG_STREAM_STOP && !s->preparing) {
        s->filling = NULL;
        return 0;
    }
    if (m->kind == PG_PREPARE && s->preparing)
        return postgresi_prepared_end(s, m, err);
    return postgresi_spill_add(s, bytes, m, err);
}

static int
take_message(struct pg_source *s, struct slice bytes, struct err *err)
{
    struct pg_message m;
    int               rc;

    TRY(postgresi_message_parse(bytes, s->filling != NULL && !s->preparing, &m, err));
    if (s->filling != NULL)
        return take_early(s, bytes, &m, err);
    switch (m.kind) {
    case PG_BEGIN:
        postgresi_xact_begin(s, m.xid, m.commit, m.time_us);
        break;
    case PG_COMMIT:
        TRY(end_xact(s, m.end, err));
        break;
    case PG_STREAM_START:
        TRY(postgresi_spill_start(s, &m, err));
        break;
    case PG_STREAM_COMMIT:
        TRY(postgresi_spill_commit(s, &m, err));
        break;
    case PG_STREAM_ABORT:
        TRY(postgresi_spill_abort(s, &m, err));
        break;
    case PG_BEGIN_PREPARE:
        TRY(postgresi_prepared_begin(s, &m, err));
        break;
    case PG_STREAM_PREPARE:
        TRY(postgresi_prepared_end(s, &m, err));
        break;
    case PG_COMMIT_PREPARED:
        TRY(postgresi_prepared_commit(s, &m, err));
        break;
    case PG_ROLLBACK_PREPARED:
        postgresi_prepared_undo(s, &m);
        break;
    default:
        if (s->in_xact || m.kind == PG_RELATION || m.kind == PG_TYPE || m.kind == PG_MESSAGE)
            TRY(postgresi_change_take(s, &m, err));
        else
            FAIL(err, E_FORMAT, ERR_FATAL, "source %s: a message %c outside of a transaction",
                 s->base.instance, m.kind);
    }
out:
    return rc;
}

static int
take_envelope(struct pg_source *s, struct slice bytes, struct err *err)
{
    struct pg_envelope e;
    int                rc;

    TRY(postgresi_envelope_parse(bytes, &e, err));
    if (e.kind == 'w') {
        TRY(take_message(s, e.payload, err));
        goto out;
    }
    /* All transactions that ended before this were sent. */
    if (!s->in_xact && !s->preparing && e.wal_end.v > s->received.v)
        s->received = e.wal_end;
    if (e.reply)
        TRY(postgresi_stream_tell(s, false, err));
out:
    return rc;
}

/* The end of the COPY: why. */
static int
copy_ended(struct pg_source *s, struct err *err)
{
    PGresult *r = PQgetResult(s->stream);
    int       rc;

    if (r != NULL && PQresultStatus(r) == PGRES_FATAL_ERROR)
        rc = postgresi_fail(s, r, "replication ended", err);
    else
        rc = err_set(err, __FILE__, __LINE__, E_CONNECT, ERR_RETRY,
                     "source %s: the replication connection was closed", s->base.instance);
    PQclear(r);
    return rc;
}

/* One message of the connection; *dry: there is none now. */
static int
take_one(struct pg_source *s, bool *dry, struct err *err)
{
    char *bytes = NULL;
    int   n, rc;

    *dry = false;
    n = PQgetCopyData(s->stream, &bytes, 1);
    if (n == 0) {
        if (PQconsumeInput(s->stream) == 0)
            RETURN_ERR(err, E_CONNECT, ERR_RETRY, "source %s: the replication connection was lost",
                       s->base.instance);
        n = PQgetCopyData(s->stream, &bytes, 1);
    }
    if (n == 0) {
        *dry = true;
        return 0;
    }
    if (n < 0)
        return copy_ended(s, err);
    rc = take_envelope(s, slice_of(bytes, (size_t)n), err);
    PQfreemem(bytes);
    return rc;
}

static int
take_replayed(struct pg_source *s, struct err *err)
{
    struct pg_message m;
    int               rc = postgresi_spill_next(s, &m, err);

    if (rc == E_END)
        return end_xact(s, postgresi_spill_finish(s), err);
    return rc != 0 ? rc : postgresi_change_take(s, &m, err);
}

int
postgresi_stream_take(struct pg_source *s, uint32_t max, bool *dry, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint64_t       now = env->ops->mono_us(env);
    bool           heard = false;
    int            rc = 0;

    if (now - s->told_us >= TELL_US)
        TRY(postgresi_stream_tell(s, false, err));
    *dry = false;
    for (uint32_t n = 0; !*dry && !postgresi_full(s, max); n++) {
        if (s->replay != NULL)
            TRY(take_replayed(s, err));
        else if (postgresi_snapshot_ripe(s))
            TRY(postgresi_snapshot_give(s, max, err));
        else
            TRY(take_one(s, dry, err));
        heard = heard || !*dry;
        /* Many transactions of others leave ends only: let these be taken too. */
        if (n >= 100000)
            break;
    }
    if (heard)
        s->heard_us = now;
    if (*dry && env->ops->mono_us(env) - s->heard_us > SILENCE_US)
        FAIL(err, E_TIMEOUT, ERR_RETRY, "source %s: the server has said nothing for %u s",
             s->base.instance, (unsigned)(SILENCE_US / 1000000));
out:
    return rc;
}
