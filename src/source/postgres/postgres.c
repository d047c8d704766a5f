/*
 * The source `postgres`. All that it knows lies in the checkpoint and at the
 * server; a connection that is lost is made anew from the place of the last
 * batch, which the core has committed before it asks for the next one.
 */
#include "source/postgres/postgres.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "source/postgres/postgres_int.h"

#define BATCH_BYTES_MAX ((size_t)1 << 30)
#define ASK_US UINT64_C(20000)    /* between questions where the server is, while that matters */
#define MARK_US UINT64_C(100000)  /* how long unflushed ends of its log are waited for */
#define SLOT_US UINT64_C(5000000) /* between looks at the slot and the publication */
#define PLENTY 64u                /* changes that came at once: the next are on their way */
#define PLENTY_US UINT64_C(1000)
#define PLENTY_PAUSES 10

static const struct conf_type name_type = {.kind = CONF_STRING, .min = 1, .max = 63};

static const struct conf_field table_fields[] = {
    {.name = "name",
     .type = {.kind = CONF_STRING, .min = 1, .max = 127},
     .required = true,
     .doc = "TABLE or SCHEMA.TABLE"},
    {.name = "key",
     .type = {.kind = CONF_LIST, .of = &name_type, .min = 1, .max = POSTGRESI_KEY_MAX},
     .doc = "columns to name rows by, instead of the replica identity or primary key"},
    {0},
};

static const struct conf_type table_type = {.kind = CONF_OBJECT, .fields = table_fields};

static const struct conf_field fields[] = {
    {.name = "connection",
     .type = {.kind = CONF_SECRET, .min = 1, .max = 4000},
     .required = true,
     .doc = "as libpq has it: key words, a URI, service=NAME"},
    {.name = "tables",
     .type = {.kind = CONF_LIST, .of = &table_type, .max = POSTGRESI_TABLES_MAX},
     .preset = "[]",
     .doc = "which tables to capture; none where it is messages only"},
    {.name = "slot",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63, .chars = "a-z0-9_"},
     .doc = "the replication slot; oxbow_NAME when not given"},
    {.name = "publication",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .doc = "the publication; oxbow_NAME when not given"},
    {.name = "snapshot",
     .type = {.kind = CONF_BOOL},
     .preset = "true",
     .doc = "whether to read the rows that are there already"},
    {.name = "chunk",
     .type = {.kind = CONF_INT, .min = 1, .max = 100000},
     .preset = "5000",
     .doc = "rows that the snapshot reads at once"},
    {.name = "snapshot_parallel",
     .type = {.kind = CONF_INT, .min = 1, .max = POSTGRESI_READERS_MAX},
     .preset = "1",
     .doc = "how many chunks are read at once, each over a connection of its own"},
    {.name = "messages",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "whether to capture logical messages of transactions"},
    {.name = "failover",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "whether the slot is to be kept on standbys too (PostgreSQL 17 and later)"},
    {.name = "two_phase",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "whether prepared transactions are sent when they are prepared (PostgreSQL 15 and "
            "later)"},
    {.name = "idle",
     .type = {.kind = CONF_DURATION, .min = 100000, .max = INT64_C(3600000000)},
     .preset = "10s",
     .doc = "how often the position of a server is confirmed that has nothing for us"},
    {.name = "spill",
     .type = {.kind = CONF_PATH, .min = 1},
     .preset = "/var/tmp",
     .doc = "the folder where large transactions wait for their commit"},
    {.name = "accept",
     .type = {.kind = CONF_STRING, .min = 3, .max = 20},
     .doc = "accepts a gap, by the position that the refusal names"},
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct pg_source *
mine(struct source *s)
{
    return (struct pg_source *)s;
}

/* opening */

/* "oxbow_NAME" of the source's name, in the letters that a slot may have. */
static void
preset_name(const char *given, const char *instance, char out[64])
{
    (void)snprintf(out, 64, "%s%s", given == NULL ? "oxbow_" : given,
                   given == NULL ? instance : "");
    for (char *p = out; given == NULL && *p != '\0'; p++)
        if ((*p < 'a' || *p > 'z') && (*p < '0' || *p > '9'))
            *p = '_';
}

/* Rows of public.orders are "orders", of shop.orders "shop.orders". */
static int
take_table(struct pg_source *s, const struct conf *c, struct err *err)
{
    struct pg_want    *w = &s->wants[s->want_count++];
    const char        *name = conf_str(c, "name"), *dot = strchr(name, '.');
    const struct conf *key = conf_child(c, "key");
    bool               plain;

    w->schema = dot == NULL ? strdup("public") : strndup(name, (size_t)(dot - name));
    w->name = strdup(dot == NULL ? name : dot + 1);
    if (w->schema == NULL || w->name == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    plain = strcmp(w->schema, "public") == 0 && strchr(w->name, '.') == NULL;
    w->table = strdup(plain || dot == NULL ? w->name : name);
    if (w->table == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i + 1 < s->want_count; i++)
        if (strcmp(s->wants[i].table, w->table) == 0)
            return conf_fail(c, err, "table %s is named twice", w->table);
    if (conf_count(key) == 0)
        return 0;
    w->key = calloc(conf_count(key), sizeof w->key[0]);
    if (w->key == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (const struct conf *k = conf_first(key); k != NULL; k = conf_next(k))
        w->key[w->key_count++] = conf_text(k);
    return 0;
}

static int
take_conf(struct pg_source *s, const struct conf *conf, struct err *err)
{
    const struct conf *tables = conf_child(conf, "tables");
    int                rc = 0;

    s->connection = conf_str(conf, "connection");
    preset_name(conf_str(conf, "slot"), s->base.instance, s->slot);
    preset_name(conf_str(conf, "publication"), s->base.instance, s->publication);
    s->own_publication = !conf_has(conf, "publication");
    s->snapshot = conf_bool(conf, "snapshot");
    s->messages = conf_bool(conf, "messages");
    s->failover = conf_bool(conf, "failover");
    s->two_phase = conf_bool(conf, "two_phase");
    s->chunk_rows = (uint32_t)conf_int(conf, "chunk");
    s->parallel = (uint32_t)conf_int(conf, "snapshot_parallel");
    s->idle_us = conf_duration_us(conf, "idle");
    s->spill_folder = conf_str(conf, "spill");
    s->accept = conf_str(conf, "accept");
    if (s->two_phase && s->failover)
        return conf_fail(conf, err,
                         "two_phase: no slot of PostgreSQL has it together with "
                         "`failover`");
    if (conf_count(tables) == 0 && !s->messages)
        return conf_fail(conf, err, "tables: must name at least one, unless `messages` is true");
    s->wants = calloc(conf_count(tables) + 1, sizeof s->wants[0]);
    s->shapes = calloc(conf_count(tables) + 1, sizeof s->shapes[0]);
    s->old = calloc(1, sizeof *s->old);
    s->now = calloc(1, sizeof *s->now);
    if (s->wants == NULL || s->shapes == NULL || s->old == NULL || s->now == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (const struct conf *c = conf_first(tables); c != NULL; c = conf_next(c))
        TRY(take_table(s, c, err));
out:
    return rc;
}

static void
close_source(struct source *base)
{
    struct pg_source *s = mine(base);

    postgresi_stream_close(s);
    postgresi_disconnect(&s->query);
    postgresi_place_fini(s);
    for (uint32_t i = 0; s->wants != NULL && i < s->want_count; i++) {
        free(s->wants[i].schema);
        free(s->wants[i].name);
        free(s->wants[i].table);
        free(s->wants[i].key);
    }
    free(s->wants);
    free(s->shapes);
    free(s->old);
    free(s->now);
    free(s->held);
    free(s->recent);
    free(s->steps);
    free(s->changes);
    buf_fini(&s->origin);
    buf_fini(&s->bytes);
    buf_fini(&s->checkpoint);
}

static int
open_source(struct source *base, const struct conf *conf, struct err *err)
{
    struct pg_source *s = mine(base);
    int               rc;

    buf_init(&s->bytes, BATCH_BYTES_MAX);
    s->safe_wal = UINT64_MAX;
    TRY(take_conf(s, conf, err));
    TRY(postgresi_place_init(s, err));
    if (PQisthreadsafe() == 0)
        FAIL(err, E_STATE, ERR_FATAL, "libpq was built without threads");
out:
    if (rc != 0)
        close_source(base);
    return rc;
}

static int
start(struct source *base, struct slice checkpoint, struct err *err)
{
    struct pg_source *s = mine(base);
    int               rc = 0;

    postgresi_stream_close(s);
    postgresi_place_fini(s);
    s->durable.v = 0;
    TRY(postgresi_place_init(s, err));
    if (checkpoint.len > 0)
        TRY(postgresi_place_read(s, checkpoint, err));
    s->durable = postgresi_place_from(&s->place);
out:
    return rc;
}

/* handing out */

static struct slice
text_of(const struct pg_source *s, struct pg_span span)
{
    return span.len == 0 ? slice_of(NULL, 0) : slice_of(s->bytes.data + span.at, span.len);
}

static int
make_room(struct pg_source *s, uint32_t max, struct err *err)
{
    if (s->change_room >= max)
        return 0;
    free(s->changes);
    s->change_room = 0;
    s->changes = calloc(max, sizeof s->changes[0]);
    if (s->changes == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->change_room = max;
    return 0;
}

static void
fill_change(const struct pg_source *s, const struct pg_step *step, struct change *out)
{
    bool message = step->op == CHANGE_MESSAGE;

    *out = (struct change){
        .op = step->op,
        .compare = step->compare,
        .time_us = step->time_us,
        .table = message ? text_of(s, step->key) : slice_str(s->wants[step->want].table),
        .key = message ? slice_of(NULL, 0) : text_of(s, step->key),
        .before = text_of(s, step->before),
        .after = text_of(s, step->after),
        .origin = text_of(s, step->origin),
        .unchanged = text_of(s, step->unchanged),
        .position = text_of(s, step->position),
    };
    if (out->table.len == 0)
        out->table = slice_str("message");
}

static void
lower(struct pg_span *span, size_t *least)
{
    if (span->len > 0 && span->at < *least)
        *least = span->at;
}

/* Where the first byte of the steps that are left is. */
static size_t
first_byte(struct pg_source *s)
{
    size_t least = s->bytes.len;

    for (uint32_t i = s->step_at; i < s->step_count && least == s->bytes.len; i++) {
        struct pg_step *t = &s->steps[i];
        struct pg_span *spans[] = {&t->key,       &t->before,   &t->after,      &t->origin,
                                   &t->unchanged, &t->position, &t->place_after};

        for (size_t k = 0; k < sizeof spans / sizeof spans[0]; k++)
            lower(spans[k], &least);
    }
    return least;
}

/* What was handed out before is with the core: it makes room, at times. */
static void
forget_given(struct pg_source *s)
{
    size_t gone;

    if (s->step_at < s->step_count && s->step_at < s->step_count / 2)
        return;
    if (s->step_at == s->step_count) {
        s->step_at = s->step_count = 0;
        buf_clear(&s->bytes);
        return;
    }
    gone = first_byte(s);
    buf_consume(&s->bytes, gone);
    memmove(s->steps, s->steps + s->step_at, (s->step_count - s->step_at) * sizeof s->steps[0]);
    s->step_count -= s->step_at;
    s->step_at = 0;
    for (uint32_t i = 0; i < s->step_count; i++) {
        struct pg_step *t = &s->steps[i];
        struct pg_span *spans[] = {&t->key,       &t->before,   &t->after,      &t->origin,
                                   &t->unchanged, &t->position, &t->place_after};

        for (size_t k = 0; k < sizeof spans / sizeof spans[0]; k++)
            spans[k]->at = spans[k]->at < gone ? 0 : spans[k]->at - gone;
    }
}

/* A server without anything for us moves on too, and so may its slot. */
static void
advance_idle(struct pg_source *s)
{
    uint64_t now = s->base.env->ops->mono_us(s->base.env);

    if (s->step_at < s->step_count || s->in_xact || s->stream == NULL ||
        now - s->advanced_us < s->idle_us || s->received.v <= s->place.lsn.v ||
        s->place.commit.v != 0)
        return;
    postgresi_place_move(s, s->received);
    s->advanced_us = now;
}

static bool
of_xact(const struct pg_step *step)
{
    return step->kind == STEP_CHANGE || step->kind == STEP_SHAPE;
}

/* With transactions, one that is still being received waits for its end. */
static bool
must_wait(const struct pg_source *s, const struct pg_step *step, uint32_t max)
{
    return s->base.transactions && of_xact(step) && s->ends == 0 && s->replay == NULL &&
           !postgresi_full(s, max);
}

static uint32_t
take_steps(struct pg_source *s, uint32_t max, struct source_batch *batch)
{
    uint32_t n = 0;

    for (bool end = false; !end && s->step_at < s->step_count; s->step_at++) {
        const struct pg_step *step = &s->steps[s->step_at];

        if ((step->op != 0 && n == max) || (n == 0 && must_wait(s, step, max)))
            break;
        if (s->base.transactions && of_xact(step) && batch->transaction.len == 0) {
            if (n > 0)
                break;
            postgresi_lsn_format(step->lsn, s->xact_name);
            batch->transaction = slice_str(s->xact_name);
            batch->part = s->place.parts;
        }
        if (step->op != 0)
            fill_change(s, step, &s->changes[n++]);
        postgresi_place_step(s, step);
        if (step->kind == STEP_END) {
            must(s->ends > 0);
            s->ends--;
            end = batch->transaction.len > 0;
        }
        batch->last = end;
    }
    if (batch->transaction.len > 0 && !batch->last)
        s->place.parts++;
    return n;
}

static int
hand_out(struct pg_source *s, uint32_t max, struct source_batch *batch, struct err *err)
{
    uint32_t n = take_steps(s, max, batch);

    must(n <= s->waiting);
    s->waiting -= n;
    if (n == 0)
        advance_idle(s);
    buf_clear(&s->checkpoint);
    if (s->place.lsn.v != 0)
        postgresi_place_write(s, &s->checkpoint);
    if (s->checkpoint.failed || s->place.after.failed || s->place.after_key.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    batch->changes = s->changes;
    batch->count = n;
    batch->checkpoint = buf_slice(&s->checkpoint);
    batch->caught_up = s->caught_up && s->waiting == 0;
    return 0;
}

/* polling */

/* Where the server's log ends; *flushed: what of it is on its disk. */
static int
look_at_head(struct pg_source *s, struct pg_lsn *flushed, struct err *err)
{
    PGresult *r = NULL;
    int       rc;

    TRY(postgresi_need_query(s, err));
    TRY(postgresi_query(s, s->query,
                        "SELECT pg_catalog.pg_current_wal_insert_lsn(), "
                        "pg_catalog.pg_current_wal_flush_lsn()",
                        &r, err));
    if (!postgresi_lsn_parse(postgresi_cell(r, 0, 0), &s->head) ||
        !postgresi_lsn_parse(postgresi_cell(r, 0, 1), flushed))
        FAIL(err, E_FORMAT, ERR_FATAL, "source %s: the server does not say where its log ends",
             s->base.instance);
out:
    PQclear(r);
    return rc;
}

/* A table that is not published says nothing more: that must not look like silence. */
static int
look_at_tables(struct pg_source *s, struct err *err)
{
    struct buf sql = {0};
    PGresult  *r = NULL;
    char       at[PG_LSN_TEXT];
    int        rc;

    if (s->want_count == 0)
        return 0;
    buf_add_str(&sql, "SELECT w.s, w.t FROM (VALUES (");
    for (uint32_t i = 0; i < s->want_count; i++) {
        buf_add_str(&sql, i == 0 ? "" : "), (");
        postgresi_add_literal(s->query, &sql, s->wants[i].schema);
        buf_add_str(&sql, ", ");
        postgresi_add_literal(s->query, &sql, s->wants[i].name);
    }
    buf_add_str(&sql,
                ")) AS w(s, t) WHERE NOT EXISTS (SELECT FROM "
                "pg_catalog.pg_publication_tables p WHERE p.schemaname = w.s AND p.tablename = "
                "w.t AND p.pubname = ");
    postgresi_add_literal(s->query, &sql, s->publication);
    buf_add_str(&sql, ") LIMIT 1");
    TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
    postgresi_lsn_format(s->place.lsn, at);
    if (PQntuples(r) > 0)
        FAIL(err, E_SCHEMA, ERR_FATAL,
             "source %s: gap: table %s.%s is not in the publication %s, and its changes after %s "
             "may be missing; put it back (`oxbow source prepare %s`), then `oxbow source snapshot "
             "%s TABLE --differences` reads what is missing",
             s->base.instance, PQgetvalue(r, 0, 0), PQgetvalue(r, 0, 1), s->publication, at,
             s->base.instance, s->base.instance);
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

/* How long the server still keeps what the slot needs. */
static int
look_at_slot(struct pg_source *s, struct err *err)
{
    uint64_t   now = s->base.env->ops->mono_us(s->base.env);
    struct buf sql = {0};
    PGresult  *r = NULL;
    int        rc = 0;

    if (s->slot_us != 0 && now - s->slot_us < SLOT_US)
        return 0;
    TRY(postgresi_need_query(s, err));
    TRY(look_at_tables(s, err));
    s->slot_us = now;
    if (s->version < 130000)
        return 0;
    buf_add_str(&sql, "SELECT wal_status, safe_wal_size, (SELECT setting::bigint << 20 FROM "
                      "pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') FROM "
                      "pg_catalog.pg_replication_slots WHERE slot_name = ");
    postgresi_add_literal(s->query, &sql, s->slot);
    TRY(postgresi_query_buf(s, s->query, &sql, &r, err));
    if (PQntuples(r) == 1) {
        (void)snprintf(s->wal, sizeof s->wal, "%s", PQgetvalue(r, 0, 0));
        if (!postgresi_cell_u64(r, 0, 1, &s->safe_wal))
            s->safe_wal = UINT64_MAX;
        if (!postgresi_cell_u64(r, 0, 2, &s->keep_wal))
            s->keep_wal = 0;
    }
out:
    PQclear(r);
    buf_fini(&sql);
    return rc;
}

struct wait {
    uint64_t      until, asked_us, began_us;
    bool          looked, marked;
    struct pg_lsn flushed;
};

/* Nothing is there now: where should the stream get to, and does the server have to be asked? */
static int
wait_for_more(struct pg_source *s, struct wait *w, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint64_t       now = env->ops->mono_us(env), us = w->until > now ? w->until - now : 0;
    struct pg_lsn  upto;
    int            rc = 0;

    if (!w->looked) {
        TRY(look_at_head(s, &w->flushed, err));
        w->looked = true;
        w->began_us = now;
    }
    upto = s->chunk_count > 0 ? postgresi_snapshot_upto(s) : s->head;
    if (s->received.v < upto.v) {
        if (w->asked_us == 0 || now - w->asked_us >= ASK_US) {
            TRY(postgresi_stream_tell(s, true, err));
            w->asked_us = now;
        }
        if (!w->marked && w->flushed.v < upto.v && now - w->began_us >= MARK_US) {
            TRY(postgresi_mark(s, err));
            w->marked = true;
        }
        us = us < ASK_US ? us : ASK_US;
    }
    if (postgresi_snapshot_due(s) && s->chunk_count == 0)
        us = us < ASK_US ? us : ASK_US;
    (void)postgresi_wait(s->stream, us);
out:
    return rc;
}

/*
 * What the stream has now. The server sends each change by itself: whoever waits for it is woken
 * for each, and has few at a time to commit. Where many come, it is let be for a moment instead.
 */
static int
take_plenty(struct pg_source *s, uint32_t max, bool *dry, struct err *err)
{
    uint32_t before = s->waiting;
    int      rc = 0;

    TRY(postgresi_stream_take(s, max, dry, err));
    for (int i = 0; i < PLENTY_PAUSES && *dry && s->waiting - before >= PLENTY; i++) {
        before = s->waiting;
        postgresi_pause(s->stream, PLENTY_US);
        TRY(postgresi_stream_take(s, max, dry, err));
    }
out:
    return rc;
}

static int
gather(struct pg_source *s, uint32_t max, uint32_t wait_ms, struct err *err)
{
    struct ox_env *env = s->base.env;
    struct wait    w = {.until = env->ops->mono_us(env) + wait_ms * UINT64_C(1000)};
    bool           dry;
    int            rc = 0;

    TRY(look_at_slot(s, err));
    do {
        if (!s->in_xact)
            postgresi_snapshot_sift(s);
        if (postgresi_snapshot_due(s) && s->chunk_count == 0 && !s->in_xact &&
            s->step_count == s->step_at)
            TRY(postgresi_snapshot_read(s, err));
        TRY(take_plenty(s, max, &dry, err));
        if (postgresi_full(s, max) || (s->waiting > 0 && (!s->in_xact || s->ends > 0)))
            break;
        if (s->step_count > 0 && postgresi_snapshot_due(s) && s->chunk_count == 0)
            break;
        if (dry && wait_ms == 0)
            break;
        if (dry)
            TRY(wait_for_more(s, &w, err));
    } while (env->ops->mono_us(env) < w.until);
    if (!postgresi_snapshot_due(s))
        postgresi_readers_close(s);
    s->caught_up =
        w.looked && s->received.v >= s->head.v && !postgresi_snapshot_due(s) && !s->in_xact;
out:
    return rc;
}

static int
poll_source(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct pg_source *s = mine(base);
    int               rc;

    max = max < 65536 ? max : 65536;
    TRY(make_room(s, max, err));
    forget_given(s);
    s->caught_up = false;
    if (s->stream == NULL)
        TRY(postgresi_stream_open(s, err));
    if (!postgresi_full(s, max) && !(s->base.transactions && s->ends > 0 && s->waiting > 0))
        TRY(gather(s, max, wait_ms, err));
    TRY(hand_out(s, max, batch, err));
out:
    if (rc != 0)
        postgresi_stream_close(s);
    return rc;
}

static int
confirm(struct source *base, struct slice checkpoint, struct err *err)
{
    struct pg_source *s = mine(base);
    struct pg_lsn     lsn;
    int               rc;

    TRY(postgresi_place_safe(checkpoint, &lsn, err));
    if (lsn.v <= s->durable.v)
        return 0;
    s->durable = lsn; /* also for a connection that is yet to be made */
    rc = postgresi_stream_tell(s, false, err);
    if (rc != 0) {
        /* The next poll connects anew, and the server is told then. */
        postgresi_stream_close(s);
        err_clear(err);
        rc = 0;
    }
out:
    return rc;
}

static void
put_lsn(struct json_out *o, const char *key, struct pg_lsn lsn)
{
    char text[PG_LSN_TEXT];

    postgresi_lsn_format(lsn, text);
    json_out_key(o, key);
    json_out_str(o, text);
}

static int
status(struct source *base, struct buf *out, struct err *err)
{
    struct pg_source *s = mine(base);
    struct json_out   o;
    uint32_t          read = 0;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "connected");
    json_out_bool(&o, s->stream != NULL);
    json_out_key(&o, "slot");
    json_out_str(&o, s->slot);
    put_lsn(&o, "lsn", s->place.lsn);
    put_lsn(&o, "confirmed", s->confirmed);
    put_lsn(&o, "head", s->head);
    json_out_key(&o, "lag_bytes");
    json_out_u64(&o, s->head.v > s->place.lsn.v ? s->head.v - s->place.lsn.v : 0);
    json_out_key(&o, "lag_ms");
    json_out_i64(&o, s->received.v >= s->head.v || s->xact_time_us == 0
                         ? 0
                         : (base->env->ops->wall_us(base->env) - s->xact_time_us) / 1000);
    json_out_key(&o, "wal");
    json_out_str(&o, s->wal[0] == '\0' ? NULL : s->wal);
    json_out_key(&o, "safe_wal_bytes");
    if (s->safe_wal == UINT64_MAX)
        json_out_null(&o);
    else
        json_out_u64(&o, s->safe_wal);
    if (strcmp(s->wal, "extended") == 0 || strcmp(s->wal, "unreserved") == 0 ||
        s->safe_wal < s->keep_wal / 4) {
        json_out_key(&o, "warning");
        json_out_str(&o, "the server keeps much WAL for the slot, and gives it up where this goes "
                         "on (max_slot_wal_keep_size)");
    }
    json_out_key(&o, "spilled_bytes");
    json_out_u64(&o, s->spilled_bytes);
    json_out_key(&o, "prepared");
    json_out_u64(&o, s->held_count);
    for (uint32_t i = 0; i < s->want_count; i++)
        read += s->place.read[i];
    json_out_key(&o, "snapshot");
    json_out_object(&o);
    json_out_key(&o, "tables");
    json_out_u64(&o, s->want_count);
    json_out_key(&o, "read");
    json_out_u64(&o, s->snapshot ? read : s->want_count);
    if (s->place.after.len > 0 || s->place.missing) {
        json_out_key(&o, "table");
        json_out_str(&o, s->wants[s->place.reading].table);
        json_out_key(&o, "rows");
        json_out_u64(&o, s->place.rows);
        json_out_key(&o, "about");
        json_out_u64(&o, s->about);
        json_out_key(&o, "looking_for_missing");
        json_out_bool(&o, s->place.missing);
        json_out_key(&o, "chunks");
        json_out_u64(&o, s->chunk_count);
    }
    json_out_object_end(&o);
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

const struct source_ops source_postgres_ops = {
    .name = "postgres",
    .size = sizeof(struct pg_source),
    .schema = &schema,
    .open = open_source,
    .close = close_source,
    .check = postgresi_check,
    .prepare = postgresi_prepare,
    .unprepare = postgresi_unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
    .again = postgresi_again,
};
