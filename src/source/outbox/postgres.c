/*
 * The source `outbox-postgres`: an outbox that is polled.
 *
 * With an xid8 column that the transaction's own id is written to, rows are
 * read in the order of (xid, seq) below the oldest transaction that still runs:
 * what is to come there is there, so a position is enough to go on from and
 * nothing is ever skipped. Without one, rows are taken that are not marked or
 * deleted yet, in no order. Where rows are marked or deleted, that alone says
 * which are new; a position holds for the life of a connection only, since a
 * server that crashes may use transaction ids again that were not on its disk.
 *
 * Whoever holds the advisory lock of the table reads; the lock belongs to the
 * connection that reads and settles, and goes with it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "pq/pq.h"
#include "source/outbox/outbox.h"
#include "source/outbox/outbox_int.h"

#define HELD_US UINT64_C(4000)     /* between looks while rows wait for older transactions */
#define DROP_US UINT64_C(10000000) /* between looks for partitions that can go */
#define LOCK_CLASS "1869046383"

static const char *const after_words[] = {"mark", "delete", "keep", "drop", NULL};

static const struct conf_field fields[] = {
    {.name = "connection",
     .type = {.kind = CONF_SECRET, .min = 1, .max = 4000},
     .required = true,
     .doc = "as libpq has it: key words, a URI, service=NAME"},
    {.name = "table",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "outbox",
     .doc = "TABLE or SCHEMA.TABLE"},
    {.name = "xid",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .doc = "an xid8 column with pg_current_xact_id() of the writer: rows come in that order"},
    {.name = "seq",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .preset = "seq",
     .doc = "the column that orders rows of one transaction, where `xid` is given"},
    {.name = "after",
     .type = {.kind = CONF_ENUM, .values = after_words},
     .preset = "delete",
     .doc = "what becomes of rows that the log has: mark, delete, keep, or drop of partitions"},
    {.name = "sent",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .preset = "sent_at",
     .doc = "the timestamp column that `after: mark` sets"},
    {.name = "notify",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .preset = "oxbow_outbox",
     .doc = "the channel that wakes the source"},
    SOURCE_OUTBOX_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct pg_outbox {
    struct source        base;
    const char          *connection, *table, *xid, *seq, *sent, *channel, *id;
    enum outboxi_after   after;
    struct buf           name; /* the table's, quoted, with a NUL */
    struct pg_conn      *conn;
    struct outboxi_state state;
    struct outboxi_batch batch;
    char                 system[24], id_type[80], seq_type[80];
    char                 known[24];              /* the cluster that the checkpoint is of */
    char                 xid_at[24], seq_at[40]; /* of the last row handed out; "": none */
    uint64_t             dropped_us, dropped;
};

static struct pg_outbox *
mine(struct source *s)
{
    return (struct pg_outbox *)s;
}

static const char *
who(const struct pg_outbox *s)
{
    return s->base.instance;
}

static void
close_source(struct source *base)
{
    struct pg_outbox *s = mine(base);

    pq_close(&s->conn);
    buf_fini(&s->name);
    buf_fini(&s->state.due);
    outboxi_batch_fini(&s->batch);
}

static int
open_source(struct source *base, const struct conf *conf, struct err *err)
{
    struct pg_outbox *s = mine(base);

    s->connection = conf_str(conf, "connection");
    s->table = conf_str(conf, "table");
    s->xid = conf_str(conf, "xid");
    s->seq = conf_str(conf, "seq");
    s->sent = conf_str(conf, "sent");
    s->channel = conf_str(conf, "notify");
    s->id = conf_str(conf_child(conf, "columns"), "id");
    s->after = (enum outboxi_after)conf_enum(conf, "after");
    if (s->xid == NULL && s->after >= OUTBOXI_KEEP)
        return conf_fail(conf, err,
                         "after: %s needs `xid`: without it there is no position to go "
                         "on from",
                         after_words[s->after]);
    pq_add_name(&s->name, s->table);
    buf_add_byte(&s->name, 0);
    if (s->name.failed) {
        close_source(base);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    }
    return 0;
}

static const char *
name(const struct pg_outbox *s)
{
    return (const char *)s->name.data;
}

/* looking at the table */

enum look_cell {
    LOOK_TABLE,
    LOOK_RECOVERY,
    LOOK_SYSTEM,
    LOOK_ID,
    LOOK_XID,
    LOOK_SEQ,
    LOOK_SENT,
    LOOK_SELECT,
    LOOK_SETTLE,
    LOOK_INDEX,
};

static int
ask_table(struct pg_outbox *s, struct pg_result **out, struct err *err)
{
    static const char *const rights[] = {"UPDATE", "DELETE", "SELECT", "SELECT"};
    const char              *params[] = {name(s),
                                         s->id,
                            s->xid == NULL ? "" : s->xid,
                                         s->seq,
                                         s->sent,
                                         rights[s->after],
                            s->after == OUTBOXI_MARK ? "t" : "f"};

    return pq_run(s->conn, who(s),
                  "SELECT t.oid::text, pg_catalog.pg_is_in_recovery(), (SELECT system_identifier "
                  "FROM pg_catalog.pg_control_system()), a.id, a.xid, a.seq, a.sent, "
                  "has_table_privilege(t.oid, 'SELECT'), has_table_privilege(t.oid, $6), "
                  "EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute x ON "
                  "x.attrelid = t.oid AND x.attnum = i.indkey[0] JOIN pg_catalog.pg_attribute q ON "
                  "q.attrelid = t.oid AND q.attnum = i.indkey[1] WHERE i.indrelid = t.oid AND "
                  "i.indisvalid AND (i.indpred IS NULL OR $7::bool) AND x.attname = $3 AND "
                  "q.attname = $4) FROM "
                  "(SELECT to_regclass($1)::oid AS oid) t, LATERAL (SELECT max(ty) FILTER (WHERE "
                  "attname = $2) AS id, max(ty) FILTER (WHERE attname = $3) AS xid, max(ty) FILTER "
                  "(WHERE attname = $4) AS seq, max(ty) FILTER (WHERE attname = $5) AS sent FROM "
                  "(SELECT attname, format_type(atttypid, atttypmod) AS ty FROM "
                  "pg_catalog.pg_attribute WHERE attrelid = t.oid AND attnum > 0 AND NOT "
                  "attisdropped) x) a",
                  7, params, out, err);
}

/* Each trouble is said. */
static void
judge_table(struct pg_outbox *s, const struct pg_result *r, finding_fn *say, void *arg)
{
    char text[ERR_TEXT_MAX];

#define TELL(condition, ...)                                                                       \
    if (condition) {                                                                               \
        (void)snprintf(text, sizeof text, __VA_ARGS__);                                            \
        say(arg, FINDING_MISSING, text);                                                           \
    }
    TELL(pq_true(r, 0, LOOK_RECOVERY), "the server is a standby: read the outbox at the primary");
    TELL(pq_is_null(r, 0, LOOK_ID), "table %s has no column %s (columns.id)", s->table, s->id);
    TELL(s->xid != NULL && strcmp(pq_text(r, 0, LOOK_XID), "xid8") != 0,
         "table %s has no column %s of type xid8: `oxbow outbox sql --for postgres`", s->table,
         s->xid);
    TELL(s->xid != NULL && pq_is_null(r, 0, LOOK_SEQ),
         "table %s has no column %s, which orders the rows of a transaction", s->table, s->seq);
    TELL(s->after == OUTBOXI_MARK && pq_is_null(r, 0, LOOK_SENT),
         "table %s has no column %s for `after: mark`", s->table, s->sent);
    TELL(!pq_true(r, 0, LOOK_SELECT) || !pq_true(r, 0, LOOK_SETTLE),
         "the role may not read and %s rows of %s: GRANT it",
         s->after == OUTBOXI_MARK ? "update" : "delete", s->table);
#undef TELL
    if (s->xid != NULL && !pq_true(r, 0, LOOK_INDEX)) {
        (void)snprintf(text, sizeof text,
                       "no index of %s begins with (%s, %s): each look sorts all of its rows",
                       s->table, s->xid, s->seq);
        say(arg, FINDING_WARN, text);
    }
}

struct first {
    struct pg_outbox *s;
    struct err        err;
    bool              found;
};

static void
note_first(void *arg, enum finding_level level, const char *text)
{
    struct first *f = arg;

    if (level == FINDING_MISSING && !f->found)
        (void)err_set(&f->err, __FILE__, __LINE__, E_STATE, ERR_RETRY, "source %s: %s", who(f->s),
                      text);
    f->found |= level == FINDING_MISSING;
}

static int
look(struct pg_outbox *s, finding_fn *say, void *arg, struct err *err)
{
    struct pg_result *r = NULL;
    int               rc;

    TRY(ask_table(s, &r, err));
    if (pq_is_null(r, 0, LOOK_TABLE))
        FAIL(err, E_NOTFOUND, ERR_RETRY, "source %s: there is no table %s", who(s), s->table);
    judge_table(s, r, say, arg);
    (void)snprintf(s->system, sizeof s->system, "%s", pq_text(r, 0, LOOK_SYSTEM));
    (void)snprintf(s->id_type, sizeof s->id_type, "%s", pq_text(r, 0, LOOK_ID));
    (void)snprintf(s->seq_type, sizeof s->seq_type, "%s", pq_text(r, 0, LOOK_SEQ));
out:
    pq_clear(r);
    return rc;
}

static int
check(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct pg_outbox *s = mine(base);
    int               rc;

    TRY(pq_connect(s->connection, who(s), &s->conn, err));
    TRY(look(s, say, arg, err));
    say(arg, FINDING_OK,
        s->xid != NULL ? "rows come in the order in which their transactions began"
                       : "rows come in no order: give the table an xid8 column for one");
out:
    pq_close(&s->conn);
    return rc;
}

static int
prepare(struct source *base, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    say(arg, FINDING_OK, "the table is the application's: `oxbow outbox sql` has a schema for it");
    return check(base, say, arg, err);
}

static int
unprepare(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    say(arg, FINDING_OK, "nothing is kept at the server");
    return 0;
}

/* connecting and leading */

static int
lead(struct pg_outbox *s, struct err *err)
{
    struct pg_result *r = NULL;
    const char       *params[] = {name(s)};
    int               rc;

    TRY(pq_run(s->conn, who(s),
               "SELECT pg_catalog.pg_try_advisory_lock(" LOCK_CLASS
               ", (to_regclass($1)::oid::bigint % 2147483647)::int)",
               1, params, &r, err));
    s->state.leads = pq_true(r, 0, 0);
out:
    pq_clear(r);
    return rc;
}

static int
join_server(struct pg_outbox *s, struct err *err)
{
    struct first f = {.s = s};
    struct buf   sql = {0};
    int          rc;

    s->state.leads = false;
    if (s->after <= OUTBOXI_DELETE)
        s->xid_at[0] = '\0';
    TRY(pq_connect(s->connection, who(s), &s->conn, err));
    TRY(look(s, note_first, &f, err));
    if (f.found) {
        rc = f.err.code;
        err_copy(err, &f.err);
        goto out;
    }
    if (s->xid != NULL && s->known[0] != '\0' && strcmp(s->known, s->system) != 0)
        FAIL(err, E_STATE, ERR_FATAL,
             "source %s: a gap: this is another cluster than the one that was read (%s, not %s), "
             "whose transaction ids say nothing here; capture it under another source's name",
             who(s), s->system, s->known);
    /* Rows are settled just after they were read, by their ids: these are found by the index, in
     * memory. A list of thousands would look dear enough for a scan of the whole table. */
    TRY(pq_run(s->conn, who(s),
               "SELECT set_config('enable_seqscan', 'off', false), "
               "set_config('random_page_cost', '0.01', false), "
               "set_config('seq_page_cost', '0.01', false)",
               0, NULL, NULL, err));
    buf_add_str(&sql, "LISTEN ");
    pq_add_name(&sql, s->channel);
    TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, NULL, err));
out:
    buf_fini(&sql);
    return rc;
}

/* settling */

/* ($1::xid8, $2::TYPE) */
static void
add_place(struct pg_outbox *s, struct buf *sql, const char *op, const char *xid, const char *seq)
{
    buf_add_str(sql, "(o.");
    pq_add_name(sql, s->xid);
    buf_add_str(sql, ", o.");
    pq_add_name(sql, s->seq);
    buf_printf(sql, ") %s (", op);
    pq_add_literal(sql, slice_str(xid));
    buf_add_str(sql, "::xid8,");
    pq_add_literal(sql, slice_str(seq));
    buf_printf(sql, "::%s)", s->seq_type);
}

static void
add_settle(struct pg_outbox *s, struct buf *sql)
{
    if (s->after == OUTBOXI_MARK) {
        buf_printf(sql, "UPDATE %s o SET ", name(s));
        pq_add_name(sql, s->sent);
        buf_add_str(sql, " = now() WHERE o.");
        pq_add_name(sql, s->sent);
        buf_add_str(sql, " IS NULL AND ");
    } else {
        buf_printf(sql, "DELETE FROM %s o WHERE ", name(s));
    }
}

static void
read_place(struct slice checkpoint, char xid[24], char seq[40])
{
    struct slice x, q;

    xid[0] = seq[0] = '\0';
    if (json_get(checkpoint, "xid", &x) && json_get(checkpoint, "seq", &q) && x.len > 2 &&
        q.len > 2) {
        (void)snprintf(xid, 24, "%.*s", (int)x.len - 2, (const char *)x.data + 1);
        (void)snprintf(seq, 40, "%.*s", (int)q.len - 2, (const char *)q.data + 1);
    }
}

static int
add_id(void *arg, struct slice id, bool hex, struct err *err)
{
    struct buf *list = arg;

    if (list->len > 1)
        buf_add_byte(list, ',');
    buf_add_byte(list, '"');
    if (hex)
        buf_add_str(list, "\\\\x");
    for (size_t i = 0; i < id.len; i++) {
        uint8_t c = ((const uint8_t *)id.data)[i];

        if (c == '"' || c == '\\')
            buf_add_byte(list, '\\');
        buf_add_byte(list, c);
    }
    buf_add_byte(list, '"');
    return 0;
}

static int
settle_ids(struct pg_outbox *s, struct err *err)
{
    struct buf sql = {0}, list = {0};
    uint32_t   count;
    int        rc;

    buf_add_byte(&list, '{');
    TRY(outboxi_each_taken(buf_slice(&s->state.due), add_id, &list, &count, err));
    buf_add_byte(&list, '}');
    if (count == 0)
        goto out;
    add_settle(s, &sql);
    buf_add_str(&sql, "o.");
    pq_add_name(&sql, s->id);
    buf_add_str(&sql, " = ANY (");
    pq_add_literal(&sql, buf_slice(&list));
    buf_printf(&sql, "::%s[])", s->id_type);
    TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, NULL, err));
out:
    buf_fini(&sql);
    buf_fini(&list);
    return rc;
}

static int
settle(struct pg_outbox *s, struct err *err)
{
    int rc;

    rc = s->state.due.len == 0 ? 0 : settle_ids(s, err);
    if (rc == 0)
        buf_clear(&s->state.due);
    return rc;
}

/* partitions */

/* Nobody writes while the lock is held; what was written is there to be seen. */
static int
drop_one(struct pg_outbox *s, const char *part, struct err *err)
{
    struct buf        sql = {0};
    struct pg_result *r = NULL;
    int               rc;

    TRY(pq_run(s->conn, who(s), "BEGIN", 0, NULL, NULL, err));
    TRY(pq_run(s->conn, who(s), "SET LOCAL lock_timeout = '200ms'", 0, NULL, NULL, err));
    buf_printf(&sql, "LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", name(s));
    TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, NULL, err));
    buf_clear(&sql);
    buf_printf(&sql, "SELECT NOT EXISTS (SELECT FROM %s o WHERE NOT ", part);
    add_place(s, &sql, "<=", s->xid_at, s->seq_at);
    buf_add_byte(&sql, ')');
    TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, &r, err));
    if (pq_true(r, 0, 0)) {
        buf_clear(&sql);
        buf_printf(&sql, "DROP TABLE %s", part);
        TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, NULL, err));
        s->dropped++;
    }
out:
    if (s->conn != NULL)
        (void)pq_run(s->conn, who(s), rc == 0 ? "COMMIT" : "ROLLBACK", 0, NULL, NULL, NULL);
    pq_clear(r);
    buf_fini(&sql);
    return rc;
}

/* Partitions whose time is over and whose rows are all in the log. One that is in use stays. */
static int
drop_partitions(struct pg_outbox *s, struct err *err)
{
    uint64_t          now = s->base.env->ops->mono_us(s->base.env);
    const char       *params[] = {name(s)};
    struct pg_result *r = NULL;
    int               rc = 0;

    if (s->after != OUTBOXI_DROP || s->xid_at[0] == '\0' ||
        (s->dropped_us != 0 && now - s->dropped_us < DROP_US))
        return 0;
    s->dropped_us = now;
    TRY(pq_run(s->conn, who(s),
               "SELECT c.oid::regclass::text FROM pg_catalog.pg_inherits i JOIN "
               "pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1) "
               "AND c.relispartition AND (substring(pg_get_expr(c.relpartbound, c.oid) FROM "
               "'TO \\(''(\\d{4}-[^'']+)''\\)'))::timestamptz <= now()",
               1, params, &r, err));
    for (int i = 0; i < pq_rows(r); i++)
        (void)drop_one(s, pq_text(r, i, 0), NULL);
out:
    pq_clear(r);
    return rc;
}

/* reading */

enum {
    OID_BOOL = 16,
    OID_BYTEA = 17,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_JSON = 114,
    OID_JSONB = 3802,
};

static void
put_cell(struct buf *out, uint32_t type, struct slice text)
{
    switch (type) {
    case OID_BOOL:
        buf_add_str(out, *(const char *)text.data == 't' ? "true" : "false");
        break;
    case OID_INT8:
    case OID_INT2:
    case OID_INT4:
    case OID_JSON:
    case OID_JSONB:
        buf_add_slice(out, text);
        break;
    case OID_BYTEA: /* \x… */
        buf_add_str(out, "{\"$blob\":\"");
        if (text.len > 2)
            buf_add(out, (const uint8_t *)text.data + 2, text.len - 2);
        buf_add_str(out, "\"}");
        break;
    default:
        json_put_string(out, text);
    }
}

static void
put_row(struct pg_outbox *s, const struct pg_result *r, int row, int first, int cols)
{
    struct outboxi_batch *b = &s->batch;
    struct outboxi_row   *to = &b->rows[b->count];

    outboxi_row_begin(b);
    for (int c = first; c < cols; c++) {
        size_t at;

        outboxi_member(b, slice_str(pq_column(r, c)));
        at = b->bytes.len;
        if (pq_is_null(r, row, c))
            buf_add_str(&b->bytes, "null");
        else
            put_cell(&b->bytes, pq_type(r, c), pq_cell(r, row, c));
        if (strcmp(pq_column(r, c), s->id) == 0)
            to->id = outboxi_value(b, at);
    }
    outboxi_row_end(b);
    if (s->xid != NULL) {
        size_t at = b->bytes.len;

        buf_printf(&b->bytes, "%s:%s", pq_text(r, row, 0), pq_text(r, row, 1));
        to->position = outboxi_value(b, at);
    }
}

static void
add_select(struct pg_outbox *s, uint32_t max, struct buf *sql)
{
    const char *glue = " WHERE ";

    buf_add_str(sql, "SELECT ");
    if (s->xid != NULL) {
        buf_add_str(sql, "o.");
        pq_add_name(sql, s->xid);
        buf_add_str(sql, "::text, o.");
        pq_add_name(sql, s->seq);
        buf_add_str(sql, "::text, ");
    }
    buf_printf(sql, "o.* FROM %s o", name(s));
    if (s->after == OUTBOXI_MARK) {
        buf_printf(sql, "%so.", glue);
        pq_add_name(sql, s->sent);
        buf_add_str(sql, " IS NULL");
        glue = " AND ";
    }
    if (s->xid != NULL) {
        buf_printf(sql, "%so.", glue);
        pq_add_name(sql, s->xid);
        buf_add_str(sql, " < pg_snapshot_xmin(pg_current_snapshot())");
        if (s->xid_at[0] != '\0') {
            buf_add_str(sql, " AND ");
            add_place(s, sql, ">", s->xid_at, s->seq_at);
        }
        buf_add_str(sql, " ORDER BY o.");
        pq_add_name(sql, s->xid);
        buf_add_str(sql, ", o.");
        pq_add_name(sql, s->seq);
    }
    buf_printf(sql, " LIMIT %u", max);
}

static int
read_rows(struct pg_outbox *s, uint32_t max, struct err *err)
{
    struct pg_result *r = NULL;
    struct buf        sql = {0};
    uint32_t          limit;
    int               rc, n;

    TRY(outboxi_batch_begin(&s->batch, max, &limit, err));
    add_select(s, limit, &sql);
    TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, &r, err));
    n = pq_rows(r);
    for (int i = 0; i < n; i++)
        put_row(s, r, i, s->xid != NULL ? 2 : 0, pq_columns(r));
    if (n > 0 && s->xid != NULL) {
        (void)snprintf(s->xid_at, sizeof s->xid_at, "%s", pq_text(r, n - 1, 0));
        (void)snprintf(s->seq_at, sizeof s->seq_at, "%s", pq_text(r, n - 1, 1));
    }
    s->state.rows += (uint32_t)n;
out:
    pq_clear(r);
    buf_fini(&sql);
    return rc;
}

/* Rows are there that older transactions still hold up. */
static int
look_for_held(struct pg_outbox *s, bool *held, struct err *err)
{
    struct pg_result *r = NULL;
    struct buf        sql = {0};
    int               rc = 0;

    *held = false;
    if (s->xid == NULL)
        return 0;
    buf_printf(&sql, "SELECT EXISTS (SELECT FROM %s o WHERE o.", name(s));
    pq_add_name(&sql, s->xid);
    buf_add_str(&sql, " >= pg_snapshot_xmin(pg_current_snapshot()))");
    TRY(pq_run_buf(s->conn, who(s), &sql, 0, NULL, &r, err));
    *held = pq_true(r, 0, 0);
out:
    pq_clear(r);
    buf_fini(&sql);
    return rc;
}

static void
write_checkpoint(struct pg_outbox *s)
{
    struct buf     *out = &s->batch.checkpoint;
    struct json_out o;

    if (s->after <= OUTBOXI_DELETE) {
        outboxi_checkpoint_taken(&s->batch);
        return;
    }
    buf_clear(out);
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "system");
    json_out_str(&o, s->system);
    json_out_key(&o, "xid");
    json_out_str(&o, s->xid_at);
    json_out_key(&o, "seq");
    json_out_str(&o, s->seq_at);
    json_out_object_end(&o);
}

static int
start(struct source *base, struct slice checkpoint, struct err *err)
{
    struct pg_outbox *s = mine(base);
    struct slice      raw;

    buf_clear(&s->state.due);
    buf_add_slice(&s->state.due, checkpoint);
    buf_clear(&s->batch.checkpoint);
    buf_add_slice(&s->batch.checkpoint, checkpoint);
    read_place(checkpoint, s->xid_at, s->seq_at);
    s->known[0] = '\0';
    if (json_get(checkpoint, "system", &raw) && raw.len > 2)
        (void)snprintf(s->known, sizeof s->known, "%.*s", (int)raw.len - 2,
                       (const char *)raw.data + 1);
    if (s->state.due.failed || s->batch.checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    return 0;
}

/* Looks until there are rows or the time is over. */
static int
gather(struct pg_outbox *s, uint32_t max, uint64_t until, bool *idle, struct err *err)
{
    struct ox_env *env = s->base.env;
    uint64_t       now = env->ops->mono_us(env), us;
    uint32_t       notes;
    bool           held = false, woken;
    int            rc;

    for (;;) {
        TRY(pq_notified(s->conn, who(s), &notes, err));
        TRY(read_rows(s, max, err));
        if (s->batch.count > 0)
            break;
        TRY(look_for_held(s, &held, err));
        *idle = !held;
        now = env->ops->mono_us(env);
        if (now >= until)
            break;
        us = held && until - now > HELD_US ? HELD_US : until - now;
        /* Of the wait's end nothing is known but that it is to be looked again. */
        woken = pq_wait(s->conn, us);
        if (!woken && !held)
            break;
    }
    if (s->batch.count > 0 || !held)
        s->state.held_since_us = 0;
    else if (s->state.held_since_us == 0)
        s->state.held_since_us = now;
out:
    return rc;
}

static int
poll_source(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct pg_outbox *s = mine(base);
    uint64_t          until = base->env->ops->mono_us(base->env) + wait_ms * UINT64_C(1000);
    int               rc = 0;

    if (s->conn == NULL)
        TRY(join_server(s, err));
    if (!s->state.leads)
        TRY(lead(s, err));
    if (!s->state.leads) {
        (void)pq_wait(s->conn, wait_ms * UINT64_C(1000));
        goto out;
    }
    TRY(settle(s, err));
    TRY(drop_partitions(s, err));
    TRY(gather(s, max, until, &batch->caught_up, err));
    if (s->batch.count == 0)
        goto out;
    batch->caught_up = false;
    write_checkpoint(s);
    TRY(outboxi_batch_end(&s->batch, s->table, batch, err));
out:
    if (rc != 0) {
        pq_close(&s->conn);
        s->state.leads = false;
    }
    return rc;
}

static int
confirm(struct source *base, struct slice checkpoint, struct err *err)
{
    struct pg_outbox *s = mine(base);
    int               rc = outboxi_owe(&s->state, checkpoint, err);

    if (rc != 0)
        return rc;
    /* Where it cannot be done now, the next poll does it before it reads. */
    if (s->conn != NULL && s->state.leads && settle(s, err) != 0) {
        pq_close(&s->conn);
        s->state.leads = false;
        err_clear(err);
    }
    return 0;
}

static int
status(struct source *base, struct buf *out, struct err *err)
{
    struct pg_outbox *s = mine(base);

    return outboxi_status(&s->state, base->env, s->conn != NULL, out, err);
}

const struct source_ops source_outbox_postgres_ops = {
    .name = "outbox-postgres",
    .size = sizeof(struct pg_outbox),
    .schema = &schema,
    .outbox = true,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
};
