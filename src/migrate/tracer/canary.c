/*
 * The canary: one row that preflight writes to the new side, reads back and
 * takes away again, before anything else goes there. It is a row of the old
 * side after the mapping, under a key that no row has.
 *
 * The record says that a canary may be there before it is written, so whatever
 * happens in between, the next preflight or the end of the migration takes it
 * away first. Where that cannot be done, the error names the key.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/id.h"
#include "base/json.h"
#include "base/say.h"
#include "migrate/tracer/tracer_int.h"

#define SAMPLE 100
#define COLUMNS_MAX 256

struct canary {
    struct tracer *t;
    struct store  *store; /* of the new side */
    char           key[TRACERI_KEY_MAX + 1];
    struct buf     mapped, row; /* the sample; what is written */
    uint32_t       seen;
    bool           fresh;               /* the sample is not at the new side yet */
    bool           is_key[COLUMNS_MAX]; /* this field has been the key in every row */
};

/* The same one for the whole life of a migration: a restart finds it again. */
static void
make_key(struct canary *c)
{
    uint64_t seed = c->t->rec.seed;

    if (c->t->canary_key != NULL)
        (void)snprintf(c->key, sizeof c->key, "%s", c->t->canary_key);
    else if (c->store->key_order == STORE_KEY_INTEGER)
        /* Below zero: counters of keys do not jump, and 32 bits hold it. */
        (void)snprintf(c->key, sizeof c->key, "-%" PRIu64, 1000000000 + seed % 1000000000);
    else
        (void)snprintf(c->key, sizeof c->key, "oxbow-canary-%016" PRIx64, seed);
}

static struct store_write
write_of(const struct canary *c, struct slice fields, enum store_cond_kind cond,
         char request[ID_TEXT_LEN + 1])
{
    struct ox_id id = id_new(c->t->env);

    id_format(&id, request);
    return (struct store_write){.key = slice_str(c->key),
                                .fields = fields,
                                .cond = cond,
                                .epoch = c->t->rec.epoch,
                                .origin = slice_str(c->t->mark),
                                .request_id = slice_str(request)};
}

static int
note(struct tracer *t, bool there, struct err *err)
{
    struct traceri_record next = t->rec;

    next.canary = there;
    return traceri_save(t, &next, err);
}

/* 0: there; E_NOTFOUND: not. */
static int
look(struct canary *c, enum tracer_side side, struct store_row *row, struct err *err)
{
    struct store *s = c->t->ends[side].store;

    return s->ops->get(s, slice_str(c->key), row, err);
}

/* the row */

static bool
is_text(struct slice raw, struct slice text)
{
    if (json_type(raw) == JSON_STRING)
        return json_key_is(slice_of((const char *)raw.data + 1, raw.len - 2), text);
    return json_type(raw) == JSON_NUMBER && slice_eq(raw, text);
}

static int
see_keys(struct canary *c, struct slice key, struct err *err)
{
    struct json_iter it;
    struct slice     name, value;
    uint32_t         at = 0;
    int              rc;

    TRY(json_object_iter(&it, buf_slice(&c->mapped), err));
    while ((rc = json_iter_next(&it, &name, &value, err)) == 0) {
        must(at < COLUMNS_MAX);
        c->is_key[at] = (c->seen == 0 || c->is_key[at]) && is_text(value, key);
        at++;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

/* Takes the first row that the new side does not have, else the last one. */
static int
on_row(void *arg, const struct store_row *row, struct err *err)
{
    struct canary   *c = arg;
    struct store_row there;
    bool             fresh;
    int              rc;

    TRY(traceri_map_row(c->t->map, TRACER_OLD, row->fields, &c->mapped, err));
    TRY(see_keys(c, row->key, err));
    c->seen++;
    if (c->fresh)
        goto out;
    rc = c->store->ops->get(c->store, row->key, &there, err);
    fresh = rc == E_NOTFOUND;
    if (fresh) {
        err_clear(err);
        rc = 0;
    }
    TRY(rc);
    c->fresh = fresh;
    buf_clear(&c->row);
    buf_add_slice(&c->row, buf_slice(&c->mapped));
out:
    return rc;
}

/* The sample, with the canary's key where the row has its key among its fields. */
static int
put_key(struct canary *c, struct err *err)
{
    struct json_iter it;
    struct slice     name, value;
    struct buf       text = {0};
    uint32_t         at = 0;
    int              rc;

    TRY(json_object_iter(&it, buf_slice(&c->row), err));
    while ((rc = json_iter_next(&it, &name, &value, err)) == 0) {
        must(at < COLUMNS_MAX);
        buf_add_byte(&text, at == 0 ? '{' : ',');
        buf_add_byte(&text, '"');
        buf_add_slice(&text, name);
        buf_add_str(&text, "\":");
        if (!c->is_key[at])
            buf_add_slice(&text, value);
        else if (json_type(value) == JSON_NUMBER)
            buf_add_str(&text, c->key);
        else
            json_put_str(&text, c->key);
        at++;
    }
    if (rc != E_END)
        goto out;
    buf_add_byte(&text, '}');
    if (text.failed || c->row.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    buf_clear(&c->row);
    rc = json_canonical(buf_slice(&text), &c->row, err);
out:
    buf_fini(&text);
    return rc;
}

/* there and away */

/* Whatever became of it: the key is the canary's. */
static int
take_away(struct canary *c, struct err *err)
{
    char               request[ID_TEXT_LEN + 1];
    struct store_write w = write_of(c, slice_str(""), STORE_ANY, request);
    struct store_row   row;
    int                rc;

    TRY(c->store->ops->del(c->store, &w, err));
    rc = look(c, TRACER_NEW, &row, err);
    if (rc == 0)
        FAIL(err, E_STATE, ERR_FATAL, "it is still read after its deletion");
    if (rc != E_NOTFOUND)
        goto out;
    err_clear(err);
    TRY(note(c->t, false, err));
out:
    if (rc != 0)
        err_prefix(err,
                   "the canary row %s may still be at %s: the next `start` or `cancel` takes it "
                   "away (with `canary: false` it stays, remove it there)",
                   c->key, c->t->ends[TRACER_NEW].label);
    return rc;
}

static int
read_back(struct canary *c, struct err *err)
{
    struct store_row row;
    struct buf       names = {0};
    int              rc = look(c, TRACER_NEW, &row, err);

    if (rc == E_NOTFOUND)
        FAIL(err, E_STATE, ERR_FATAL, "it was written, and is not there");
    TRY(rc);
    if (slice_eq(row.fields, buf_slice(&c->row)))
        goto out;
    traceri_map_differing(c->t->map, row.fields, buf_slice(&c->row), &names);
    FAIL(err, E_STATE, ERR_FATAL, "it is read back with other values in %.*s",
         SLICE_FMT(buf_slice(&names)));
out:
    buf_fini(&names);
    return rc;
}

/* Written, read and taken away; a failure on the way takes it away too, or says that it stays. */
static int
there_and_away(struct canary *c, struct err *err)
{
    char               request[ID_TEXT_LEN + 1];
    struct store_write w = write_of(c, buf_slice(&c->row), STORE_ABSENT, request);
    struct err         left = {0};
    int                rc;

    TRY(note(c->t, true, err));
    rc = c->store->ops->put(c->store, &w, err);
    if (rc == E_WRONG_VERSION && err->kind != ERR_UNSURE) {
        (void)note(c->t, false, &left); /* somebody else's, since just now */
        goto out;
    }
    if (rc == 0)
        rc = read_back(c, err);
    if (take_away(c, rc == 0 ? err : &left) == 0 || rc != 0)
        goto out;
    rc = err->code;
out:
    if (rc != 0 && left.code != 0) {
        char why[ERR_TEXT_MAX];

        (void)snprintf(why, sizeof why, "%s", err->text);
        rc = err_set(err, __FILE__, __LINE__, err->code, err->kind, "%.300s; and %.600s", why,
                     left.text);
    }
    return rc;
}

static int
must_be_free(struct canary *c, struct err *err)
{
    struct store_row row;
    int              rc = 0;

    for (enum tracer_side side = TRACER_OLD; side <= TRACER_NEW; side++) {
        rc = look(c, side, &row, err);
        if (rc == 0)
            FAIL(err, E_STATE, ERR_FATAL,
                 "%s has a row with this key: set `canary_key` to one that no row ever has",
                 c->t->ends[side].label);
        if (rc != E_NOTFOUND)
            goto out;
        err_clear(err);
        rc = 0;
    }
out:
    return rc;
}

/* Not every side can be tried. */
static const char *
why_not(const struct canary *c)
{
    if (!c->t->canary)
        return "`canary: false`";
    if (c->store->del_keeps_row)
        return "the new side keeps a row whose fields are deleted";
    return c->seen == 0 ? "the old side has no row to take" : NULL;
}

static int
sing(struct canary *c, struct err *err)
{
    struct store *old = c->t->ends[TRACER_OLD].store;
    const char   *reason;
    int           rc = 0;

    if (c->t->canary && !c->store->del_keeps_row)
        TRY(old->ops->scan(old, slice_str(""), SAMPLE, on_row, c, err));
    reason = why_not(c);
    if (reason != NULL) {
        say(SAY_WARN, "no canary is written", "name", c->t->name, "why", reason, NULL);
        goto out;
    }
    TRY(put_key(c, err));
    TRY(must_be_free(c, err));
    TRY(there_and_away(c, err));
    say(SAY_INFO, "canary written, read and removed", "name", c->t->name, "key", c->key, NULL);
out:
    return rc;
}

int
traceri_canary_clear(struct tracer *t, struct err *err)
{
    struct canary c = {.t = t, .store = t->ends[TRACER_NEW].store};

    if (!t->rec.canary)
        return 0;
    make_key(&c);
    if (t->canary)
        return take_away(&c, err);
    say(SAY_WARN, "a canary row may be left: remove it there", "name", t->name, "at",
        t->ends[TRACER_NEW].label, "key", c.key, NULL);
    return note(t, false, err);
}

int
traceri_canary_run(struct tracer *t, struct err *err)
{
    struct canary c = {.t = t, .store = t->ends[TRACER_NEW].store};
    int           rc;

    make_key(&c);
    TRY(traceri_canary_clear(t, err));
    rc = sing(&c, err);
    if (rc != 0)
        err_prefix(err, "preflight, the canary row %s at %s", c.key, t->ends[TRACER_NEW].label);
out:
    buf_fini(&c.mapped);
    buf_fini(&c.row);
    return rc;
}
