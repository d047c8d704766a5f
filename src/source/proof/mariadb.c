/*
 * The proof `verify-mariadb`: a row with the message's id, inserted by its
 * transaction before the message is published. A locking read that does not
 * wait is refused while that transaction goes on; afterwards the row is there
 * or it is not.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "my/my.h"
#include "source/proof/proof_drivers.h"
#include "source/proof/proof_int.h"

#define LOCK_WAIT 1205 /* of the server: somebody else has the row */

static const struct conf_field fields[] = {
    MY_FIELDS,
    {.name = "proof",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "oxbow_proof",
     .doc = "the table with a row for each message, TABLE or DATABASE.TABLE"},
    {.name = "keep",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "whether proofs stay once their verdict is durable"},
    PROOF_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct my_proof {
    struct proof       base;
    const struct conf *conf;
    const char        *table;
    bool               keep;
    struct st_mysql   *conn;
    struct buf         sql;
};

static struct my_proof *
mine(struct proof *p)
{
    return (struct my_proof *)p;
}

static void
close_proof(struct proof *base)
{
    struct my_proof *s = mine(base);

    my_close(&s->conn);
    buf_fini(&s->sql);
}

static int
open_proof(struct proof *base, const struct conf *conf, struct err *err)
{
    struct my_proof *s = mine(base);

    s->conf = conf;
    s->table = conf_str(conf, "proof");
    s->keep = conf_bool(conf, "keep");
    return 0;
}

static int
join_server(struct my_proof *s, struct err *err)
{
    const char          *who = s->base.instance;
    struct st_mysql_res *r = NULL;
    struct slice         cell;
    int                  rc;

    TRY(my_connect(s->conf, who, &s->conn, err));
    TRY(my_run(s->conn, who, slice_str("SELECT @@global.read_only"), &r, err));
    if (my_next(r) && my_cell(r, 0, &cell) && !slice_is(cell, "0"))
        FAIL(err, E_STATE, ERR_RETRY,
             "source %s: the server takes no writes: only the primary knows", who);
out:
    my_free(r);
    return rc;
}

static int
ask_one(struct my_proof *s, struct proof_item *item, struct err *err)
{
    const char          *who = s->base.instance;
    struct st_mysql_res *r = NULL;
    int                  rc;

    item->by = "proof";
    buf_clear(&s->sql);
    buf_add_str(&s->sql, "SELECT id FROM ");
    my_add_name(&s->sql, s->table);
    buf_add_str(&s->sql, " WHERE id = ");
    my_add_text(s->conn, &s->sql, item->id);
    buf_add_str(&s->sql, " FOR UPDATE NOWAIT");
    rc = my_run_buf(s->conn, who, &s->sql, &r, err);
    if (rc != 0 && my_errno(s->conn) == LOCK_WAIT) {
        item->verdict = PROOF_RUNNING;
        rc = 0;
    } else if (rc == 0) {
        item->verdict = my_next(r) ? PROOF_COMMITTED : PROOF_ABORTED;
    }
    my_free(r);
    return rc;
}

static int
ask(struct proof *base, struct proof_item *items, uint32_t count, struct err *err)
{
    struct my_proof *s = mine(base);
    int              rc = 0;

    if (s->conn == NULL)
        TRY(join_server(s, err));
    for (uint32_t i = 0; i < count; i++)
        TRY(ask_one(s, &items[i], err));
out:
    if (rc != 0)
        my_close(&s->conn);
    return rc;
}

/* One statement a row: each looks its id up, and waits for nobody else's. */
static int
forget(struct proof *base, const struct slice *ids, uint32_t count, struct err *err)
{
    struct my_proof *s = mine(base);

    if (s->keep || s->conn == NULL || count == 0)
        return 0;
    buf_clear(&s->sql);
    buf_add_str(&s->sql, "BEGIN;");
    for (uint32_t i = 0; i < count; i++) {
        buf_add_str(&s->sql, "DELETE FROM ");
        my_add_name(&s->sql, s->table);
        buf_add_str(&s->sql, " WHERE id = ");
        my_add_text(s->conn, &s->sql, ids[i]);
        buf_add_byte(&s->sql, ';');
    }
    buf_add_str(&s->sql, "COMMIT");
    return my_run_many(s->conn, base->instance, &s->sql, err);
}

static int
check(struct proof *base, finding_fn *say, void *arg, struct err *err)
{
    struct my_proof  *s = mine(base);
    struct proof_item none = {.id = slice_str("")};
    int               rc = ask(base, &none, 1, err);

    if (rc == 0)
        say(arg, FINDING_OK, "the proofs can be read");
    my_close(&s->conn);
    return rc;
}

const struct proof_ops proof_mariadb_ops = {
    .name = "verify-mariadb",
    .size = sizeof(struct my_proof),
    .schema = &schema,
    .open = open_proof,
    .close = close_proof,
    .check = check,
    .ask = ask,
    .forget = forget,
};
