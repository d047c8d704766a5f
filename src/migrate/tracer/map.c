/*
 * The mapping between the two sides: columns by name, texts by table, and the
 * row condition. It is total: a row that cannot be mapped is an error that
 * names the column, never a row that is left out.
 *
 * What is hashed and compared is the canonical JSON under the new side's
 * names: NULL, empty text, number and text are all different bytes there.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "migrate/tracer/tracer_int.h"

#define COLUMNS_MAX 256
#define TERMS_MAX 64
#define WORDS_MAX 64

struct column {
    const char        *names[2]; /* by side */
    const struct conf *values;   /* old text to new text; may be NULL */
};

enum test { IS_NULL, IS_NOT_NULL, IS_IN, IS_NOT_IN };

struct term {
    char     *column;
    enum test test;
    char     *words[WORDS_MAX]; /* raw text of the constants */
    uint32_t  count;
};

struct traceri_map {
    struct column columns[COLUMNS_MAX];
    uint32_t      count;
    struct term   terms[TERMS_MAX];
    uint32_t      term_count;
};

/* the row condition */

static void
skip(const char **p)
{
    while (isspace((unsigned char)**p))
        (*p)++;
}

/* A word of the grammar, whatever its case. */
static bool
take(const char **p, const char *word)
{
    size_t n = strlen(word);

    skip(p);
    if (strncasecmp(*p, word, n) != 0)
        return false;
    if (isalnum((unsigned char)word[n - 1]) && (isalnum((unsigned char)(*p)[n]) || (*p)[n] == '_'))
        return false;
    *p += n;
    return true;
}

static char *
take_name(const char **p)
{
    const char *from;

    skip(p);
    from = *p;
    while (isalnum((unsigned char)**p) || **p == '_')
        (*p)++;
    return *p == from ? NULL : strndup(from, (size_t)(*p - from));
}

/* 'text' with '' for a quote, or a number: as the text it has in JSON without quotes. */
static char *
take_constant(const char **p)
{
    struct buf text = {0};
    char      *out;

    skip(p);
    if (**p == '\'') {
        for ((*p)++; **p != '\0' && (**p != '\'' || (*p)[1] == '\''); (*p)++) {
            *p += **p == '\'';
            buf_add_byte(&text, (uint8_t) * *p);
        }
        if (**p != '\'')
            goto none;
        (*p)++;
    } else {
        while (isdigit((unsigned char)**p) || (text.len == 0 && **p == '-'))
            buf_add_byte(&text, (uint8_t) * (*p)++);
        if (text.len == 0)
            goto none;
    }
    buf_add_byte(&text, 0);
    out = text.failed ? NULL : strdup((const char *)text.data);
    buf_fini(&text);
    return out;
none:
    buf_fini(&text);
    return NULL;
}

static bool
take_list(const char **p, struct term *t)
{
    if (!take(p, "("))
        return false;
    do {
        if (t->count == WORDS_MAX || (t->words[t->count] = take_constant(p)) == NULL)
            return false;
        t->count++;
    } while (take(p, ","));
    return take(p, ")");
}

static bool
take_term(const char **p, struct term *t)
{
    t->column = take_name(p);
    if (t->column == NULL)
        return false;
    if (take(p, "is")) {
        t->test = take(p, "not") ? IS_NOT_NULL : IS_NULL;
        return take(p, "null");
    }
    if (take(p, "not")) {
        t->test = IS_NOT_IN;
        return take(p, "in") && take_list(p, t);
    }
    if (take(p, "in")) {
        t->test = IS_IN;
        return take_list(p, t);
    }
    t->test = take(p, "!=") || take(p, "<>") ? IS_NOT_IN : IS_IN;
    if (t->test == IS_IN && !take(p, "="))
        return false;
    t->words[0] = take_constant(p);
    t->count = t->words[0] != NULL;
    return t->count > 0;
}

static int
parse_where(struct traceri_map *m, const struct conf *conf, struct err *err)
{
    const char *text = conf_str(conf, "where"), *p = text;

    if (text == NULL)
        return 0;
    do {
        if (m->term_count == TERMS_MAX || !take_term(&p, &m->terms[m->term_count++]))
            return conf_fail(conf, err,
                             "where: not understood from character %zu on: COLUMN is "
                             "[not] null, COLUMN = 'x', != 'x', [not] in ('x', …), joined by and",
                             (size_t)(p - text) + 1);
    } while (take(&p, "and"));
    skip(&p);
    if (*p != '\0')
        return conf_fail(conf, err, "where: not understood from character %zu on",
                         (size_t)(p - text) + 1);
    return 0;
}

/* As in SQL: nothing but "is null" holds of NULL. */
static int
holds(const struct term *t, struct slice raw, bool *out, struct err *err)
{
    struct buf   scratch = {0};
    struct slice text = raw;
    bool         found = false;
    int          rc = 0;

    *out = json_is_null(raw) ? t->test == IS_NULL : t->test == IS_NOT_NULL;
    if (json_is_null(raw) || t->test == IS_NULL || t->test == IS_NOT_NULL)
        goto out;
    if (json_type(raw) == JSON_STRING)
        TRY(json_string_view(raw, &scratch, &text, err));
    for (uint32_t i = 0; i < t->count; i++)
        found = found || slice_is(text, t->words[i]);
    *out = found == (t->test == IS_IN);
out:
    buf_fini(&scratch);
    return rc;
}

int
traceri_map_moves(const struct traceri_map *m, struct slice row, bool *out, struct err *err)
{
    struct slice raw;
    int          rc = 0;

    *out = true;
    for (uint32_t i = 0; i < m->term_count && *out; i++) {
        if (!json_get(row, m->terms[i].column, &raw))
            FAIL(err, E_SCHEMA, ERR_DATA, "the old feed's rows have no column %s any more",
                 m->terms[i].column);
        TRY(holds(&m->terms[i], raw, out, err));
    }
out:
    return rc;
}

/* making it */

static int
take_column(struct traceri_map *m, const struct conf *c, const struct conf *values, struct err *err)
{
    struct column *col = &m->columns[m->count];

    col->names[TRACER_OLD] = conf_key(c);
    col->names[TRACER_NEW] = conf_text(c);
    for (uint32_t i = 0; i < m->count; i++)
        if (strcmp(m->columns[i].names[TRACER_NEW], col->names[TRACER_NEW]) == 0)
            return conf_fail(c, err, "two columns become %s", col->names[TRACER_NEW]);
    for (const struct conf *v = conf_first(values); v != NULL; v = conf_next(v)) {
        if (strcmp(conf_key(v), col->names[TRACER_OLD]) != 0)
            continue;
        col->values = v;
        for (const struct conf *a = conf_first(v); a != NULL; a = conf_next(a))
            for (const struct conf *b = conf_next(a); b != NULL; b = conf_next(b))
                if (strcmp(conf_text(a), conf_text(b)) == 0)
                    return conf_fail(b, err,
                                     "two values become the same one: the way back is "
                                     "not known");
    }
    m->count++;
    return 0;
}

int
traceri_map_new(const struct conf *conf, struct traceri_map **out, struct err *err)
{
    struct traceri_map *m = calloc(1, sizeof *m);
    const struct conf  *values = conf_child(conf, "values");
    int                 rc = 0;

    *out = NULL;
    if (m == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "out of memory");
    for (const struct conf *c = conf_first(conf_child(conf, "columns")); c != NULL;
         c = conf_next(c)) {
        must(m->count < COLUMNS_MAX);
        TRY(take_column(m, c, values, err));
    }
    TRY(parse_where(m, conf, err));
    *out = m;
    m = NULL;
out:
    traceri_map_free(m);
    return rc;
}

void
traceri_map_free(struct traceri_map *m)
{
    if (m == NULL)
        return;
    for (uint32_t i = 0; i < m->term_count; i++) {
        free(m->terms[i].column);
        for (uint32_t j = 0; j < m->terms[i].count; j++)
            free(m->terms[i].words[j]);
    }
    free(m);
}

/* using it */

/* A text that the table does not have stays as it is. */
static int
put_value(const struct column *c, enum tracer_side from, struct slice raw, struct buf *scratch,
          struct buf *out, struct err *err)
{
    struct slice text;
    int          rc = 0;

    if (c->values == NULL || json_type(raw) != JSON_STRING) {
        buf_add_slice(out, raw);
        return 0;
    }
    TRY(json_string_view(raw, scratch, &text, err));
    for (const struct conf *v = conf_first(c->values); v != NULL; v = conf_next(v)) {
        const char *pair[2] = {conf_key(v), conf_text(v)};

        if (!slice_is(text, pair[from]))
            continue;
        json_put_str(out, pair[traceri_other(from)]);
        goto out;
    }
    buf_add_slice(out, raw);
out:
    return rc;
}

int
traceri_map_row(const struct traceri_map *m, enum tracer_side from, struct slice row,
                struct buf *out, struct err *err)
{
    struct json_field fields[COLUMNS_MAX];
    struct buf        text = {0}, scratch = {0};
    int               rc = 0;

    buf_clear(out);
    for (uint32_t i = 0; i < m->count; i++)
        fields[i] = (struct json_field){.name = m->columns[i].names[from], .required = true};
    rc = json_pick(row, fields, m->count, JSON_PICK_ANY, err);
    if (rc != 0)
        err_prefix(err, "a row of the %s side", tracer_side_name(from));
    TRY(rc);
    for (uint32_t i = 0; i < m->count; i++) {
        buf_add_byte(&text, i == 0 ? '{' : ',');
        json_put_str(&text, m->columns[i].names[traceri_other(from)]);
        buf_add_byte(&text, ':');
        TRY(put_value(&m->columns[i], from, fields[i].value, &scratch, &text, err));
    }
    buf_add_byte(&text, '}');
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a row");
    TRY(json_canonical(buf_slice(&text), out, err));
out:
    buf_fini(&text);
    buf_fini(&scratch);
    return rc;
}

int
traceri_map_event(const struct traceri_map *m, enum tracer_side from, const struct log_event *ev,
                  struct buf *out, enum traceri_effect *effect, struct err *err)
{
    enum change_op op = capture_type_op(ev->type);
    struct buf     was = {0};
    struct slice   before = {0};
    bool           moves = true, moved = true, known;
    int            rc = 0;

    known = json_get_path(ev->meta, slice_str("$source.before"), &before) &&
            json_type(before) == JSON_OBJECT;
    *effect = EFFECT_NONE;
    if (op == CHANGE_SCHEMA || op == CHANGE_MESSAGE)
        goto out; /* of no row */
    if (op == 0 || op == CHANGE_TRUNCATE)
        FAIL(err, E_STATE, ERR_DATA,
             "%s a table cannot be carried over: empty it at the other "
             "side too, and start again",
             op == 0 ? "an unknown change of" : "truncating");
    if (from == TRACER_OLD && op != CHANGE_DELETE)
        TRY(traceri_map_moves(m, ev->data, &moves, err));
    if (from == TRACER_OLD && known)
        TRY(traceri_map_moves(m, before, &moved, err));
    if (op == CHANGE_DELETE || !moves) {
        *effect = moved ? EFFECT_DEL : EFFECT_NONE;
        goto out;
    }
    TRY(traceri_map_row(m, from, ev->data, out, err));
    *effect = EFFECT_PUT;
    if (!known || !moved || op != CHANGE_UPDATE)
        goto out;
    TRY(traceri_map_row(m, from, before, &was, err));
    if (slice_eq(buf_slice(&was), buf_slice(out)))
        *effect = EFFECT_NONE;
out:
    buf_fini(&was);
    return rc;
}

void
traceri_map_differing(const struct traceri_map *m, struct slice a, struct slice b, struct buf *out)
{
    struct slice x, y;
    bool         first = true;

    for (uint32_t i = 0; i < m->count; i++) {
        const char *name = m->columns[i].names[TRACER_NEW];

        if (json_get(a, name, &x) && json_get(b, name, &y) && slice_eq(x, y))
            continue;
        if (!first)
            buf_add_byte(out, ',');
        json_put_str(out, name);
        first = false;
    }
}
