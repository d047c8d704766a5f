/*
 * Reading by a value: what the index covers from its entries, what is behind
 * that by a scan of the log, so that there is no gap between old and live. Every
 * event is looked at again before it is given: an entry only says where to look.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "core/fields_int.h"

#define BATCH 64u
#define ENTRY_BYTES 256u /* what a look at one entry counts for */

struct fields_read {
    unsigned             magic;
    struct fields       *f;
    uint64_t             id;
    struct fieldsi_rule  rule;
    uint8_t              value[FIELDS_VALUE_MAX];
    size_t               value_len;
    bool                 backwards, scanning, over;
    uint64_t             patience, looked;
    uint64_t             at; /* the list: the next position wanted */
    uint64_t             positions[BATCH];
    uint32_t             count, next;
    struct log_iter     *lookup, *scan;
    struct fieldsi_found found;
};

static struct slice
value_of(const struct fields_read *r)
{
    return slice_of(r->value, r->value_len);
}

void
fieldsi_note_dead(struct fields *f, uint64_t id, struct slice value, uint64_t pos)
{
    must(value.len <= VALUES_BYTES_MAX);
    lock_take(&f->lock);
    must(f->dead_count <= FIELDSI_DEAD_MAX);
    if (f->dead_count < FIELDSI_DEAD_MAX && f->dead_values != NULL) {
        uint8_t *to = f->dead_values + (size_t)f->dead_count * VALUES_BYTES_MAX;

        memcpy(to, value.data, value.len);
        f->dead[f->dead_count++] =
            (struct values_entry){.index = id, .value = slice_of(to, value.len), .pos = pos};
    }
    lock_give(&f->lock);
}

static bool
is_tired(struct fields_read *r, uint64_t bytes)
{
    r->looked += bytes;
    return r->patience != 0 && r->looked >= r->patience;
}

static int
gone(const struct fields_read *r, struct err *err)
{
    RETURN_ERR(err, E_GONE, ERR_DATA, "index %.*s was dropped or begun anew: read it again",
               SLICE_FMT(r->rule.def.name));
}

static int
begin_scan(struct fields_read *r, uint64_t from, uint64_t floor, struct err *err)
{
    const struct fields_def *def = &r->rule.def;
    struct log_read          read = {.from = from,
                                     .backwards = r->backwards,
                                     .floor = {floor},
                                     .patience = r->patience,
                                     .filter = {.prefix = def->prefix,
                                                .category = def->category,
                                                .type = def->type,
                                                .system = r->rule.system}};

    must(r->scan == NULL);
    r->scanning = true;
    return log_iter_open(r->f->log, &read, &r->scan, err);
}

static int
holds(struct fields_read *r, const struct log_event *ev, bool *yes, struct err *err)
{
    int rc = fieldsi_find(&r->rule, ev, &r->found, err);

    *yes = false;
    for (uint32_t i = 0; rc == 0 && i < r->found.count && !*yes; i++)
        *yes = slice_eq(fieldsi_found_at(&r->found, i), value_of(r));
    return rc;
}

static int
scan_next(struct fields_read *r, struct log_event *out, struct err *err)
{
    bool yes;
    int  rc;

    must(r->scan != NULL);
    for (;;) {
        out->link.stream.len = 0;
        TRY(log_iter_next(r->scan, out, err));
        TRY(holds(r, out, &yes, err));
        if (yes)
            break;
        if (is_tired(r, out->data.len + out->meta.len + ENTRY_BYTES))
            return E_MORE;
    }
out:
    return rc;
}

/* E_END: the list is at its end, and what it covers is in *covers. */
static int
load(struct fields_read *r, uint64_t *covers, struct err *err)
{
    struct values_state now;
    int rc = r->f->ops->positions(r->f->values, r->id, value_of(r), r->at, r->backwards,
                                  r->positions, BATCH, &r->count, &now, err);

    must(r->count <= BATCH);
    r->next = 0;
    if (rc == E_NOTFOUND)
        return gone(r, err);
    if (rc != 0)
        return rc;
    *covers = now.covers;
    return r->count == 0 ? E_END : 0;
}

/* One entry further. E_MORE: nothing for the caller there. */
static int
list_step(struct fields_read *r, uint64_t *covers, struct log_event *out, struct err *err)
{
    uint64_t pos;
    bool     yes;
    int      rc = 0;

    if (r->next == r->count)
        TRY(load(r, covers, err));
    must(r->next < r->count);
    pos = r->positions[r->next++];
    r->at = r->backwards ? pos - 1 : pos + 1;
    rc = log_iter_at(r->lookup, LOG_POS(pos), out, err);
    if (rc == E_GONE)
        fieldsi_note_dead(r->f, r->id, value_of(r), pos);
    if (rc == E_GONE || rc == E_NOTFOUND)
        return E_MORE;
    TRY(rc);
    TRY(holds(r, out, &yes, err));
    rc = yes ? 0 : E_MORE;
out:
    return rc;
}

static int
list_next(struct fields_read *r, struct log_event *out, struct err *err)
{
    uint64_t covers = 0;
    int      rc;

    must(!r->scanning);
    while ((rc = list_step(r, &covers, out, err)) == E_MORE)
        if (is_tired(r, ENTRY_BYTES))
            return E_MORE;
    if (rc != E_END)
        return rc;
    if (r->backwards) {
        r->over = true;
        return E_END;
    }
    return begin_scan(r, r->at > covers ? r->at : covers, 0, err);
}

int
fields_read_next(struct fields_read *r, struct log_event *out, struct err *err)
{
    int rc;

    must(r->magic == FIELDSI_MAGIC);
    r->looked = 0;
    if (r->over)
        return E_END;
    memset(out, 0, sizeof *out);
    if (r->scanning && r->backwards) {
        rc = scan_next(r, out, err);
        if (rc != E_END)
            return rc;
        r->scanning = false; /* down to what the index covered; the list has the rest */
    }
    if (!r->scanning) {
        rc = list_next(r, out, err);
        if (rc != 0 || !r->scanning)
            return rc;
    }
    rc = scan_next(r, out, err);
    /* A live reader of an index that is not there any more should know. */
    if (rc == E_END) {
        bool there;

        lock_take(&r->f->lock);
        there = fieldsi_numbered(r->f, r->id) != NULL;
        lock_give(&r->f->lock);
        return there ? E_END : gone(r, err);
    }
    return rc;
}

struct log_pos
fields_read_pos(const struct fields_read *r)
{
    return r->scanning ? log_iter_pos(r->scan) : LOG_POS(r->at);
}

static int
not_built(const struct fields *f, const struct fieldsi_index *ix, struct err *err)
{
    uint64_t end = log_end(f->log).v;

    if (f->error[0] != '\0')
        RETURN_ERR(err, E_STATE, ERR_RETRY, "index %s is not built: %s", ix->name, f->error);
    RETURN_ERR(err, E_STATE, ERR_RETRY,
               "index %s is still being built: %u %%, position %" PRIu64 " of %" PRIu64, ix->name,
               end == 0 ? 0 : (unsigned)((double)ix->state.covers * 100 / (double)end),
               ix->state.covers, end);
}

static int
not_there(struct slice name, struct err *err)
{
    RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "index %.*s is not there",
               (int)(name.len > FIELDS_NAME_MAX ? FIELDS_NAME_MAX : name.len),
               (const char *)name.data);
}

/* What the set has of this name, if it can be read. */
static int
find_built(struct fields *f, struct slice name, uint64_t *id, struct values_state *state,
           struct fieldsi_rule *rule, struct err *err)
{
    struct fieldsi_index *ix;
    int                   rc;

    lock_take(&f->lock);
    ix = fieldsi_named(f, name);
    if (ix == NULL)
        rc = not_there(name, err);
    else if (!ix->state.built)
        rc = not_built(f, ix, err);
    else
        rc = rule == NULL ? 0 : fieldsi_rule_init(rule, &ix->rule.def, err);
    if (rc == 0) {
        *id = ix->id;
        *state = ix->state;
    }
    lock_give(&f->lock);
    return rc;
}

int
fields_read_open(struct fields *f, const struct fields_query *q, struct fields_read **out,
                 struct err *err)
{
    struct log_read     read = {.filter = {.system = true}};
    struct values_state now;
    struct fields_read *r = calloc(1, sizeof *r);
    int                 rc = 0;

    *out = NULL;
    must(f->magic == FIELDSI_MAGIC);
    if (r == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a reader");
    must(q->value.len <= FIELDS_VALUE_MAX);
    r->magic = FIELDSI_MAGIC;
    r->f = f;
    TRY(find_built(f, q->name, &r->id, &now, &r->rule, err));
    memcpy(r->value, q->value.data, q->value.len);
    r->value_len = q->value.len;
    r->backwards = q->backwards;
    r->patience = q->patience;
    r->at = q->from;
    TRY(log_iter_open(f->log, &read, &r->lookup, err));
    if (r->backwards && r->at >= now.covers) {
        TRY(begin_scan(r, r->at, now.covers, err));
        r->at = now.covers == 0 ? 0 : now.covers - 1;
    }
    *out = r;
    r = NULL;
out:
    fields_read_close(r);
    return rc;
}

void
fields_read_close(struct fields_read *r)
{
    if (r == NULL)
        return;
    must(r->magic == FIELDSI_MAGIC);
    log_iter_close(r->lookup);
    log_iter_close(r->scan);
    fieldsi_rule_fini(&r->rule);
    fieldsi_found_fini(&r->found);
    r->magic = 0;
    free(r);
}

int
fields_values(struct fields *f, struct slice name, struct slice after, values_fn *fn, void *arg,
              struct err *err)
{
    struct values_state now;
    uint64_t            id;
    int                 rc;

    TRY(find_built(f, name, &id, &now, NULL, err));
    TRY(f->ops->values(f->values, id, after, fn, arg, err));
out:
    return rc;
}
