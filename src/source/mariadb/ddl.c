/*
 * What a statement that stands in the log as text does to a table. Only what
 * changes rows without a row event is looked for; how a table's columns change
 * comes with each TABLE_MAP. Names compare without regard to case, which may
 * find a table too many, never one too few.
 */
#include <ctype.h>
#include <strings.h>

#include "source/mariadb/mariadb_int.h"

#define NAME_MAX_BYTES 256

enum token_kind {
    TOKEN_END = 0,
    TOKEN_WORD,
    TOKEN_NAME, /* in backquotes or double quotes */
    TOKEN_OTHER,
};

struct lexer {
    const char     *at, *end;
    enum token_kind kind;
    char            text[NAME_MAX_BYTES];
};

static bool
starts(const struct lexer *l, const char *what)
{
    size_t len = strlen(what);

    return (size_t)(l->end - l->at) >= len && memcmp(l->at, what, len) == 0;
}

static void
skip_line(struct lexer *l)
{
    while (l->at < l->end && *l->at != '\n')
        l->at++;
}

/* Spaces and comments; what stands in an executable comment counts. */
static void
skip_space(struct lexer *l)
{
    while (l->at < l->end) {
        if (isspace((unsigned char)*l->at)) {
            l->at++;
        } else if (starts(l, "/*!") || starts(l, "/*M!")) {
            l->at += starts(l, "/*!") ? 3 : 4;
            while (l->at < l->end && isdigit((unsigned char)*l->at))
                l->at++;
        } else if (starts(l, "*/")) {
            l->at += 2;
        } else if (starts(l, "/*")) {
            for (l->at += 2; l->at < l->end && !starts(l, "*/"); l->at++)
                continue;
            l->at += l->end - l->at < 2 ? l->end - l->at : 2;
        } else if (*l->at == '#' || starts(l, "-- ")) {
            skip_line(l);
        } else {
            return;
        }
    }
}

static void
add(struct lexer *l, size_t *len, char c)
{
    if (*len + 1 < sizeof l->text)
        l->text[(*len)++] = c;
}

static void
quoted(struct lexer *l, char quote)
{
    size_t len = 0;

    for (l->at++; l->at < l->end; l->at++) {
        if (*l->at == '\\' && quote == '\'' && l->at + 1 < l->end)
            l->at++;
        else if (*l->at == quote && (l->at + 1 == l->end || *++l->at != quote))
            break;
        add(l, &len, *l->at);
    }
    if (l->at < l->end && *l->at == quote)
        l->at++;
    l->text[len] = '\0';
}

static bool
in_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || (unsigned char)c >= 0x80;
}

static void
next(struct lexer *l)
{
    size_t len = 0;
    char   c;

    l->text[0] = '\0';
    skip_space(l);
    if (l->at == l->end) {
        l->kind = TOKEN_END;
        return;
    }
    c = *l->at;
    if (c == '`' || c == '"' || c == '\'') {
        quoted(l, c);
        l->kind = c == '\'' ? TOKEN_OTHER : TOKEN_NAME;
    } else if (in_word(c)) {
        while (l->at < l->end && in_word(*l->at))
            add(l, &len, *l->at++);
        l->text[len] = '\0';
        l->kind = TOKEN_WORD;
    } else {
        l->text[0] = c;
        l->text[1] = '\0';
        l->at++;
        l->kind = TOKEN_OTHER;
    }
}

static bool
word(const struct lexer *l, const char *what)
{
    return l->kind == TOKEN_WORD && strcasecmp(l->text, what) == 0;
}

/* Passes a word where it is there. */
static bool
pass(struct lexer *l, const char *what)
{
    if (!word(l, what))
        return false;
    next(l);
    return true;
}

struct target {
    struct slice current;
    const char  *db, *table;
};

/* A table's name with or without its database; true where it is the target. */
static bool
take_table(struct lexer *l, const struct target *t)
{
    char         first[NAME_MAX_BYTES];
    struct slice db = t->current;

    memcpy(first, l->text, sizeof first);
    next(l);
    if (l->kind == TOKEN_OTHER && strcmp(l->text, ".") == 0) {
        db = slice_str(first);
        next(l);
        if (strcasecmp(l->text, t->table) != 0) {
            next(l);
            return false;
        }
        next(l);
    } else if (strcasecmp(first, t->table) != 0) {
        return false;
    }
    return db.len == strlen(t->db) && strncasecmp(db.data, t->db, db.len) == 0;
}

static void
pass_if_exists(struct lexer *l)
{
    if (pass(l, "IF")) {
        (void)pass(l, "NOT");
        (void)pass(l, "EXISTS");
    }
}

static bool
comma(struct lexer *l)
{
    if (l->kind != TOKEN_OTHER || strcmp(l->text, ",") != 0)
        return false;
    next(l);
    return true;
}

static enum my_effect
drop(struct lexer *l, const struct target *t)
{
    bool hit = false;

    if (word(l, "TEMPORARY"))
        return MY_EFFECT_NONE;
    if (pass(l, "DATABASE") || pass(l, "SCHEMA")) {
        pass_if_exists(l);
        return strcasecmp(l->text, t->db) == 0 ? MY_EFFECT_EMPTIED : MY_EFFECT_NONE;
    }
    if (!pass(l, "TABLE") && !pass(l, "TABLES"))
        return MY_EFFECT_NONE;
    pass_if_exists(l);
    do
        hit = take_table(l, t) || hit;
    while (comma(l));
    return hit ? MY_EFFECT_EMPTIED : MY_EFFECT_NONE;
}

static enum my_effect
rename_tables(struct lexer *l, const struct target *t)
{
    bool hit = false;

    if (!pass(l, "TABLE") && !pass(l, "TABLES"))
        return MY_EFFECT_NONE;
    pass_if_exists(l);
    do {
        hit = take_table(l, t) || hit;
        while (l->kind == TOKEN_WORD && !word(l, "TO"))
            next(l); /* WAIT n, NOWAIT */
        (void)pass(l, "TO");
        hit = take_table(l, t) || hit;
    } while (comma(l));
    return hit ? MY_EFFECT_LOST : MY_EFFECT_NONE;
}

/* The parts of ALTER TABLE that move rows. */
static enum my_effect
alter(struct lexer *l, const struct target *t)
{
    bool hit, moves = false;

    while (l->kind == TOKEN_WORD && !word(l, "TABLE")) {
        moves = moves || word(l, "IGNORE"); /* a new unique key drops rows then */
        next(l);
    }
    if (!pass(l, "TABLE"))
        return MY_EFFECT_NONE;
    pass_if_exists(l);
    hit = take_table(l, t);
    while (l->kind != TOKEN_END) {
        if (pass(l, "RENAME")) {
            if (word(l, "COLUMN") || word(l, "INDEX") || word(l, "KEY"))
                continue;
            (void)(pass(l, "TO") || pass(l, "AS"));
            hit = take_table(l, t) || hit;
            moves = true;
        } else if (pass(l, "TRUNCATE") || pass(l, "DROP") || pass(l, "CONVERT") ||
                   pass(l, "DISCARD") || pass(l, "IMPORT")) {
            moves = moves || word(l, "PARTITION") || word(l, "TABLESPACE");
        } else if (pass(l, "EXCHANGE")) {
            moves = true;
        } else if (moves && pass(l, "TABLE")) {
            hit = take_table(l, t) || hit;
        } else {
            next(l);
        }
    }
    return hit && moves ? MY_EFFECT_LOST : MY_EFFECT_NONE;
}

static enum my_effect
create(struct lexer *l, const struct target *t)
{
    bool replace = pass(l, "OR") && pass(l, "REPLACE");

    if (!pass(l, "TABLE"))
        return MY_EFFECT_NONE;
    pass_if_exists(l);
    if (!take_table(l, t))
        return MY_EFFECT_NONE;
    /* In row format the log has the columns and then the rows, never the SELECT. */
    for (; l->kind != TOKEN_END; next(l)) {
        if (word(l, "SELECT"))
            return MY_EFFECT_LOST;
    }
    return replace ? MY_EFFECT_EMPTIED : MY_EFFECT_NONE;
}

static bool
changes_rows(struct lexer *l)
{
    static const char *const rows[] = {"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD",
                                       "WITH",   "SELECT", "CALL",   "DO"};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (word(l, rows[i]))
            return true;
    }
    if (pass(l, "SET"))
        return word(l, "STATEMENT");
    /* ANALYZE TABLE does not, ANALYZE UPDATE does. */
    return pass(l, "ANALYZE") && !word(l, "TABLE") && !word(l, "LOCAL") &&
           !word(l, "NO_WRITE_TO_BINLOG");
}

enum my_effect
mariadbi_effect(struct slice sql, struct slice current_db, const char *db, const char *table)
{
    struct target t = {current_db, db, table};
    struct lexer  l = {.at = sql.data, .end = (const char *)sql.data + sql.len};

    next(&l);
    if (changes_rows(&l))
        return MY_EFFECT_ROWS;
    if (pass(&l, "TRUNCATE")) {
        (void)pass(&l, "TABLE");
        return take_table(&l, &t) ? MY_EFFECT_EMPTIED : MY_EFFECT_NONE;
    }
    if (pass(&l, "DROP"))
        return drop(&l, &t);
    if (pass(&l, "RENAME"))
        return rename_tables(&l, &t);
    if (pass(&l, "ALTER"))
        return alter(&l, &t);
    return pass(&l, "CREATE") ? create(&l, &t) : MY_EFFECT_NONE;
}
