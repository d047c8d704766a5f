/*
 * The proof `verify-postgres`. The token of a message says which cluster, which
 * life of it and which transaction; the proof is a row with the message's id,
 * inserted by that transaction.
 *
 * A row that is there is the answer. Where it is not, the transaction's state
 * counts as long as the token's life is the present one; after a crash or a
 * failover ids may be used again and their states say nothing, but then the
 * transaction has ended, unless it was prepared: no row, never committed. That
 * also holds of a savepoint that was rolled back.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "pq/pq.h"
#include "source/proof/proof_drivers.h"
#include "source/proof/proof_int.h"

static const struct conf_field fields[] = {
    {.name = "connection",
     .type = {.kind = CONF_SECRET, .min = 1, .max = 4000},
     .required = true,
     .doc = "of the primary, as libpq has it"},
    {.name = "proof",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "oxbow_proof",
     .doc = "the table with a row for each message, TABLE or SCHEMA.TABLE"},
    {.name = "lifetime",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "oxbow_lifetime",
     .doc = "the function that names the server's present life"},
    {.name = "keep",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "whether proofs stay once their verdict is durable"},
    {.name = "query",
     .type = {.kind = CONF_STRING, .min = 1, .max = 8000},
     .doc = "instead: a query with {data.PATH} that finds a row where the message is true"},
    PROOF_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct pg_proof {
    struct proof     base;
    const char      *connection;
    bool             keep;
    struct buf       table, lifetime; /* quoted, with a NUL */
    struct template *query;
    struct pg_conn  *conn;
    struct buf       sql, scratch;
};

enum pg_state {
    STATE_NONE = 0, /* not asked for: no token */
    STATE_OTHER,    /* the token is of an earlier life of the server */
    STATE_STRANGE,  /* … of another cluster, or of a life that is yet to come */
    STATE_RUNNING,
    STATE_COMMITTED,
    STATE_ABORTED,
    STATE_OLD, /* the server does not know any more */
};

struct asked {
    struct proofi_token token;
    enum pg_state       state;
    bool                found;
};

static struct pg_proof *
mine(struct proof *p)
{
    return (struct pg_proof *)p;
}

static const char *
who(const struct pg_proof *s)
{
    return s->base.instance;
}

static void
close_proof(struct proof *base)
{
    struct pg_proof *s = mine(base);

    pq_close(&s->conn);
    template_free(s->query);
    buf_fini(&s->table);
    buf_fini(&s->lifetime);
    buf_fini(&s->sql);
    buf_fini(&s->scratch);
}

static int
open_proof(struct proof *base, const struct conf *conf, struct err *err)
{
    struct pg_proof *s = mine(base);
    const char      *query = conf_str(conf, "query");
    int              rc = 0;

    s->connection = conf_str(conf, "connection");
    s->keep = conf_bool(conf, "keep");
    pq_add_name(&s->table, conf_str(conf, "proof"));
    buf_add_byte(&s->table, 0);
    pq_add_name(&s->lifetime, conf_str(conf, "lifetime"));
    buf_add_byte(&s->lifetime, 0);
    if (s->table.failed || s->lifetime.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    if (query != NULL)
        TRY(template_new(slice_str(query), TEMPLATE_TEXT, proofi_known, NULL, &s->query, err));
out:
    if (rc != 0)
        close_proof(base);
    return rc;
}

/* look-ups */

/* The value as a literal of SQL. */
static int
put_literal(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    struct buf text = {0};
    int        rc;

    TRY(proofi_look_up(arg, name, false, &text, err));
    pq_add_literal(value, buf_slice(&text));
out:
    buf_fini(&text);
    return rc;
}

static int
ask_query(struct pg_proof *s, struct proof_item *item, struct err *err)
{
    struct pg_result *r = NULL;
    struct err        why;
    int               rc;

    buf_clear(&s->sql);
    item->by = "query";
    rc = template_expand(s->query, put_literal, &item->event, &s->scratch, &s->sql, &why);
    if (rc != 0 && why.kind == ERR_DATA) {
        item->by = "query: the message lacks a value";
        return 0;
    }
    if (rc != 0) {
        err_copy(err, &why);
        return rc;
    }
    TRY(pq_run_buf(s->conn, who(s), &s->sql, 0, NULL, &r, err));
    if (pq_rows(r) > 0)
        item->verdict = PROOF_COMMITTED;
out:
    pq_clear(r);
    return rc;
}

/* the states of transactions */

static void
judge_state(struct asked *a, const struct pg_result *r, int row, const char *life)
{
    struct proofi_token now;
    char                full[64];
    struct slice        said = pq_cell(r, row, 1);

    if (slice_is(said, "in progress")) {
        a->state = STATE_RUNNING;
    } else if (slice_is(said, "committed")) {
        a->state = STATE_COMMITTED;
    } else if (slice_is(said, "aborted")) {
        a->state = STATE_ABORTED;
    } else if (pq_is_null(r, row, 1)) {
        a->state = STATE_OLD;
    } else {
        (void)snprintf(full, sizeof full, "%s/0", life);
        a->state = proofi_token_read(slice_str(full), &now) &&
                           strcmp(now.system, a->token.system) == 0 && a->token.start < now.start
                       ? STATE_OTHER
                       : STATE_STRANGE;
    }
}

/* What the server says of each token's transaction, all by one statement. */
static int
ask_states(struct pg_proof *s, struct asked *asked, uint32_t count, bool *others, struct err *err)
{
    struct pg_result *r = NULL;
    bool              any = false;
    int               rc;

    buf_clear(&s->sql);
    buf_printf(&s->sql,
               "WITH l AS MATERIALIZED (SELECT %s() AS life, pg_snapshot_xmax(pg_current_snapshot()"
               ") AS xmax, pg_is_in_recovery() AS standby) SELECT v.i, CASE WHEN v.life <> l.life "
               "THEN 'other' WHEN v.xid >= l.xmax THEN 'in progress' ELSE pg_xact_status(v.xid) "
               "END, l.life, l.standby FROM l LEFT JOIN (VALUES (-1, '', '3'::xid8)",
               (const char *)s->lifetime.data);
    for (uint32_t i = 0; i < count; i++) {
        if (asked[i].token.life[0] == '\0')
            continue;
        any = true;
        buf_printf(&s->sql, ",(%u,'%s','%s'::xid8)", i, asked[i].token.life, asked[i].token.xid);
    }
    buf_add_str(&s->sql, ") AS v(i, life, xid) ON true");
    TRY(pq_run_buf(s->conn, who(s), &s->sql, 0, NULL, &r, err));
    if (pq_rows(r) == 0 || pq_true(r, 0, 3))
        FAIL(err, E_STATE, ERR_RETRY, "source %s: the server is a standby: only the primary knows",
             who(s));
    if (any && pq_is_null(r, 0, 2))
        FAIL(err, E_STATE, ERR_RETRY,
             "source %s: the function %s sees no checkpointer: its owner "
             "has to be a superuser or a member of pg_read_all_stats",
             who(s), (const char *)s->lifetime.data);
    for (int i = 0; i < pq_rows(r); i++) {
        long at = strtol(pq_text(r, i, 0), NULL, 10);

        if (at < 0)
            continue;
        judge_state(&asked[at], r, i, pq_text(r, i, 2));
        *others |= asked[at].state == STATE_OTHER;
    }
out:
    pq_clear(r);
    return rc;
}

/* Transactions that were prepared outlive the server: those have not ended. */
static int
ask_prepared(struct pg_proof *s, struct asked *asked, uint32_t count, struct err *err)
{
    struct pg_result *r = NULL;
    int               rc;

    TRY(pq_run(s->conn, who(s), "SELECT transaction::text FROM pg_catalog.pg_prepared_xacts", 0,
               NULL, &r, err));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t low = (uint32_t)strtoull(asked[i].token.xid, NULL, 10);

        for (int k = 0; asked[i].state == STATE_OTHER && k < pq_rows(r); k++)
            if ((uint32_t)strtoull(pq_text(r, k, 0), NULL, 10) == low)
                asked[i].state = STATE_RUNNING;
    }
out:
    pq_clear(r);
    return rc;
}

/* proofs */

static void
add_ids(struct pg_proof *s, const struct slice *ids, size_t stride, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct slice *id = (const struct slice *)((const char *)ids + i * stride);

        buf_add_str(&s->sql, i == 0 ? "(" : ",");
        pq_add_literal(&s->sql, *id);
    }
    buf_add_byte(&s->sql, ')');
}

static int
ask_proofs(struct pg_proof *s, const struct proof_item *items, struct asked *asked, uint32_t count,
           struct err *err)
{
    struct pg_result *r = NULL;
    int               rc;

    buf_clear(&s->sql);
    buf_printf(&s->sql, "SELECT id::text FROM %s WHERE id IN ", (const char *)s->table.data);
    add_ids(s, &items[0].id, sizeof items[0], count);
    TRY(pq_run_buf(s->conn, who(s), &s->sql, 0, NULL, &r, err));
    for (int k = 0; k < pq_rows(r); k++)
        for (uint32_t i = 0; i < count; i++)
            if (slice_eq(items[i].id, pq_cell(r, k, 0)))
                asked[i].found = true;
out:
    pq_clear(r);
    return rc;
}

static void
judge(struct proof_item *item, const struct asked *a)
{
    item->by = "proof";
    if (a->found) {
        item->verdict = PROOF_COMMITTED;
        return;
    }
    switch (a->state) {
    case STATE_RUNNING:
        item->by = "status";
        item->verdict = PROOF_RUNNING;
        break;
    case STATE_ABORTED:
        item->by = "status";
        item->verdict = PROOF_ABORTED;
        break;
    case STATE_COMMITTED: /* and the savepoint that the proof was in was rolled back */
    case STATE_OLD:
    case STATE_OTHER:
        item->verdict = PROOF_ABORTED;
        break;
    case STATE_STRANGE:
        item->by = "the token is of another server";
        break;
    case STATE_NONE:
        item->by = "there is no token and no proof";
        break;
    }
}

static int
ask_tokens(struct pg_proof *s, struct proof_item *items, uint32_t count, struct err *err)
{
    struct asked *asked = calloc(count, sizeof *asked);
    bool          others = false;
    int           rc = 0;

    if (asked == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (uint32_t i = 0; i < count; i++)
        if (!proofi_token_read(items[i].token, &asked[i].token))
            asked[i].token.life[0] = '\0';
    /* In this order: what was seen to have ended has left its row behind when rows are looked for.
     */
    TRY(ask_states(s, asked, count, &others, err));
    if (others)
        TRY(ask_prepared(s, asked, count, err));
    TRY(ask_proofs(s, items, asked, count, err));
    for (uint32_t i = 0; i < count; i++)
        judge(&items[i], &asked[i]);
out:
    free(asked);
    return rc;
}

static int
ask(struct proof *base, struct proof_item *items, uint32_t count, struct err *err)
{
    struct pg_proof *s = mine(base);
    int              rc = 0;

    if (s->conn == NULL)
        TRY(pq_connect(s->connection, who(s), &s->conn, err));
    if (s->query == NULL)
        TRY(ask_tokens(s, items, count, err));
    for (uint32_t i = 0; s->query != NULL && i < count; i++)
        TRY(ask_query(s, &items[i], err));
out:
    if (rc != 0)
        pq_close(&s->conn);
    /* Tables and rights may be given later. */
    if (rc != 0 && err->kind == ERR_FATAL)
        err->kind = ERR_RETRY;
    return rc;
}

static int
forget(struct proof *base, const struct slice *ids, uint32_t count, struct err *err)
{
    struct pg_proof *s = mine(base);

    if (s->keep || s->query != NULL || s->conn == NULL || count == 0)
        return 0;
    buf_clear(&s->sql);
    buf_printf(&s->sql, "DELETE FROM %s WHERE id IN ", (const char *)s->table.data);
    add_ids(s, ids, sizeof *ids, count);
    return pq_run_buf(s->conn, who(s), &s->sql, 0, NULL, NULL, err);
}

static int
check(struct proof *base, finding_fn *say, void *arg, struct err *err)
{
    struct pg_proof  *s = mine(base);
    struct proof_item none = {.id = slice_str("")};
    int               rc = 0;

    if (s->query != NULL)
        TRY(pq_connect(s->connection, who(s), &s->conn, err));
    else
        TRY(ask(base, &none, 1, err));
    say(arg, FINDING_OK, s->query != NULL ? "the server answers" : "the proofs can be read");
out:
    pq_close(&s->conn);
    return rc;
}

const struct proof_ops proof_postgres_ops = {
    .name = "verify-postgres",
    .size = sizeof(struct pg_proof),
    .schema = &schema,
    .open = open_proof,
    .close = close_proof,
    .check = check,
    .ask = ask,
    .forget = forget,
};
