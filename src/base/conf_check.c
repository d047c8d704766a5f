/* The tree against its schema. Goes on after a problem, so that one run names all. */
#include "base/conf_int.h"
#include "base/must.h"

static enum conf_shape
shape_of(const struct conf_type *t)
{
    switch (t->kind) {
    case CONF_LIST:
        return CONF_SEQUENCE;
    case CONF_MAP:
    case CONF_OBJECT:
    case CONF_DRIVER:
        return CONF_MAPPING;
    default:
        return CONF_SCALAR;
    }
}

static bool
is_null(const struct conf *c)
{
    return c->shape == CONF_SCALAR && c->plain &&
           (*c->text == '\0' || strcmp(c->text, "~") == 0 || strcmp(c->text, "null") == 0);
}

static void
drop_child(struct conf *parent, struct conf *child)
{
    struct conf **p = &parent->first, *last = NULL;

    while (*p != child) {
        last = *p;
        p = &last->next;
    }
    *p = child->next;
    if (parent->last == child)
        parent->last = last;
    parent->count--;
}

/* keys that are not known */

/* How many letters to change, add, drop or swap with the next one; 3 is "many". */
static unsigned
distance(const char *a, const char *b)
{
    unsigned rows[3][33];
    size_t   na = strlen(a), nb = strlen(b);

    if (na > 32 || nb > 32)
        return 3;
    for (size_t j = 0; j <= nb; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *now = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

        now[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned d = up[j - 1] + (a[i - 1] != b[j - 1]);

            if (d > up[j] + 1)
                d = up[j] + 1;
            if (d > now[j - 1] + 1)
                d = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d > up2[j - 2] + 1)
                d = up2[j - 2] + 1;
            now[j] = d;
        }
    }
    return rows[na % 3][nb] > 3 ? 3 : rows[na % 3][nb];
}

struct guess {
    const char *key, *best;
    unsigned    best_distance;
    struct buf  all;
};

static void
guess_add(struct guess *g, const char *name)
{
    unsigned d = distance(g->key, name);

    if (d < g->best_distance && (size_t)2 * d < strlen(name)) {
        g->best = name;
        g->best_distance = d;
    }
    buf_printf(&g->all, "%s%s", g->all.len == 0 ? "" : ", ", name);
}

static void
guess_fields(struct guess *g, const struct conf_type *t)
{
    for (const struct conf_field *f = t->fields; f != NULL && f->name != NULL; f++)
        guess_add(g, f->name);
}

/* Either what was probably meant, or all there is. */
static void
guess_report(struct guess *g, struct conf_job *job, const struct conf *parent, uint32_t line,
             uint32_t column, const char *what)
{
    struct buf path = {0};

    basei_conf_path(parent, &path);
    if (g->best != NULL)
        basei_conf_problem(job, line, column, "%.*sunknown %s \"%.100s\": did you mean \"%s\"?",
                           SLICE_FMT(buf_slice(&path)), what, g->key, g->best);
    else
        basei_conf_problem(job, line, column, "%.*sunknown %s \"%.100s\"; allowed: %.*s",
                           SLICE_FMT(buf_slice(&path)), what, g->key,
                           SLICE_FMT(buf_slice(&g->all)));
    buf_fini(&path);
    buf_fini(&g->all);
}

static void
refuse_key(struct conf_job *job, const struct conf *c, const struct conf *child,
           const struct conf_type *t)
{
    struct guess g = {child->key, NULL, 3, {0}};

    if (t->kind == CONF_DRIVER)
        guess_add(&g, "type");
    guess_fields(&g, t);
    if (c->driver != NULL)
        guess_fields(&g, c->driver);
    guess_report(&g, job, c, child->key_line, child->key_column, "key");
}

/* objects */

static struct conf *
child_of(const struct conf *c, const char *key)
{
    struct conf *e;

    for (e = c->first; e != NULL && strcmp(e->key, key) != 0; e = e->next)
        ;
    return e;
}

static const struct conf_field *
field_of(const struct conf_type *t, const char *key)
{
    const struct conf_field *f = t == NULL ? NULL : t->fields;

    for (; f != NULL && f->name != NULL; f++) {
        if (strcmp(f->name, key) == 0)
            return f;
    }
    return NULL;
}

static int
add_preset(struct conf_job *job, struct conf *c, const struct conf_field *f, struct err *err)
{
    struct conf *child = basei_conf_node(job->tree, c, shape_of(&f->type));

    if (child == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for the configuration");
    child->key = f->name;
    child->text = child->shape == CONF_SCALAR ? f->preset : NULL;
    child->line = child->key_line = c->line;
    child->column = child->key_column = c->column;
    return basei_conf_check(job, child, &f->type, err);
}

static int
check_missing(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    const struct conf_field *f = t->fields;
    int                      rc = 0;

    for (; f != NULL && f->name != NULL; f++) {
        if (child_of(c, f->name) != NULL)
            continue;
        if (f->required)
            basei_conf_problem_at(job, c, "the key \"%s\" is missing%s%s", f->name,
                                  f->doc == NULL ? "" : ": ", f->doc == NULL ? "" : f->doc);
        else if (f->preset != NULL)
            TRY(add_preset(job, c, f, err));
    }
out:
    return rc;
}

static int
check_object(struct conf_job *job, struct conf *c, const struct conf_type *t, bool known,
             struct err *err)
{
    struct conf *child, *next;
    int          rc = 0;

    for (child = c->first; child != NULL; child = next) {
        const struct conf_field *f = field_of(c->driver, child->key);

        next = child->next;
        if (f == NULL)
            f = field_of(t, child->key);
        if (is_null(child))
            drop_child(c, child);
        if (t->kind == CONF_DRIVER && strcmp(child->key, "type") == 0)
            continue;
        if (f != NULL && !is_null(child))
            TRY(basei_conf_check(job, child, &f->type, err));
        else if (f == NULL && known)
            refuse_key(job, c, child, t);
    }
    TRY(check_missing(job, c, t, err));
    if (c->driver != NULL)
        TRY(check_missing(job, c, c->driver, err));
out:
    return rc;
}

static bool
driver_at(const struct conf_job *job, const struct conf_type *t, size_t i, struct conf_driver *out)
{
    if (t->drivers != NULL) {
        *out = t->drivers[i];
        return out->name != NULL;
    }
    return job->opts->driver(job->opts->arg, t->family, i, out);
}

static int
check_driver(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    static const struct conf_type name_type = {.kind = CONF_STRING, .min = 1};
    struct conf                  *type = child_of(c, "type");
    struct conf_driver            d;
    struct guess                  g = {.key = NULL};
    size_t                        before = job->count;
    int                           rc = 0;

    if (type == NULL || is_null(type)) {
        basei_conf_problem_at(job, c, "the key \"type\" is missing");
        goto check;
    }
    TRY(basei_conf_check(job, type, &name_type, err));
    if (job->count > before)
        goto check;
    for (size_t i = 0; c->driver == NULL && driver_at(job, t, i, &d); i++) {
        must(d.type->kind == CONF_OBJECT);
        if (strcmp(d.name, type->text) == 0)
            c->driver = d.type;
    }
    if (c->driver == NULL) {
        g = (struct guess){type->hidden ? "..." : type->text, NULL, 3, {0}};
        for (size_t i = 0; driver_at(job, t, i, &d); i++)
            guess_add(&g, d.name);
        guess_report(&g, job, c, type->line, type->column, "type");
    }
check:
    /* Without a driver nobody knows which keys are allowed. */
    TRY(check_object(job, c, t, c->driver != NULL, err));
out:
    return rc;
}

/* the others */

static void
check_count(struct conf_job *job, const struct conf *c, const struct conf_type *t)
{
    if (t->min == 0 && t->max == 0)
        return;
    if (c->count < t->min)
        basei_conf_problem_at(job, c, "must have at least %lld, has %u", (long long)t->min,
                              c->count);
    if (t->max != 0 && c->count > t->max)
        basei_conf_problem_at(job, c, "must have at most %lld, has %u", (long long)t->max,
                              c->count);
}

static int
check_items(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    struct conf *e;
    int          rc = 0;

    check_count(job, c, t);
    for (e = c->first; e != NULL; e = e->next) {
        if (e->key != NULL && t->chars != NULL && !basei_conf_chars(e->key, t->chars))
            basei_conf_problem(job, e->key_line, e->key_column,
                               "the name \"%.100s\" may only hold the characters %s", e->key,
                               t->chars);
        TRY(basei_conf_check(job, e, t->of, err));
    }
out:
    return rc;
}

static int
check_any(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    struct conf *e;
    int          rc = 0;

    if (c->shape == CONF_SCALAR)
        return basei_conf_expand(job, c, err);
    for (e = c->first; e != NULL; e = e->next)
        TRY(basei_conf_check(job, e, t, err));
out:
    return rc;
}

static const char *
shape_name(enum conf_shape shape)
{
    static const char *const names[] = {"a single value", "a list", "a mapping of keys to values"};

    return names[shape];
}

int
basei_conf_check(struct conf_job *job, struct conf *c, const struct conf_type *t, struct err *err)
{
    size_t before = job->count;
    int    rc;

    c->type = t;
    if (t->kind == CONF_ANY)
        return check_any(job, c, t, err);
    if (c->shape != shape_of(t)) {
        basei_conf_problem_at(job, c, "must be %s, not %s", shape_name(shape_of(t)),
                              is_null(c) ? "nothing" : shape_name(c->shape));
        return 0;
    }
    if (t->kind == CONF_OBJECT)
        return check_object(job, c, t, true, err);
    if (t->kind == CONF_DRIVER)
        return check_driver(job, c, t, err);
    if (c->shape != CONF_SCALAR)
        return check_items(job, c, t, err);
    TRY(basei_conf_expand(job, c, err));
    if (job->count == before) /* else its text is not what it was meant to be */
        TRY(basei_conf_value(job, c, t, err));
out:
    return rc;
}
