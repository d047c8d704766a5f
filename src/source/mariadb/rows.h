/*
 * TABLE_MAP and ROWS events: what a table looks like, and its rows' images as
 * cells; then a cell, or a column of a query's result, as a value. Pure: what
 * the server alone knows (charsets, JSON, UUID) comes as hints.
 *
 * Needs binlog_row_metadata=FULL: a map without names is taken, and has none.
 */
#ifndef OX_SOURCE_MARIADB_ROWS_H
#define OX_SOURCE_MARIADB_ROWS_H

#include "source/mariadb/binlog.h"

#define MARIADBI_COLUMNS_MAX 4096u
#define MARIADBI_COLLATIONS 4096u

enum my_type {
    MYT_TINY = 1,
    MYT_SHORT = 2,
    MYT_LONG = 3,
    MYT_FLOAT = 4,
    MYT_DOUBLE = 5,
    MYT_LONGLONG = 8,
    MYT_INT24 = 9,
    MYT_DATE = 10,
    MYT_YEAR = 13,
    MYT_NEWDATE = 14,
    MYT_VARCHAR = 15,
    MYT_BIT = 16,
    MYT_TIMESTAMP2 = 17,
    MYT_DATETIME2 = 18,
    MYT_TIME2 = 19,
    MYT_DECIMAL = 246,
    MYT_ENUM = 247,
    MYT_SET = 248,
    MYT_BLOB = 252,
    MYT_VAR_STRING = 253,
    MYT_STRING = 254,
    MYT_GEOMETRY = 255,
};

/* How the bytes of a column are to be understood where its type alone does not say. */
enum my_hint {
    MY_HINT_NONE = 0,
    MY_HINT_JSON,
    MY_HINT_UUID,
    MY_HINT_INET4,
    MY_HINT_INET6,
};

enum my_charset {
    MY_CHARSET_UNKNOWN = 0,
    MY_CHARSET_BINARY,
    MY_CHARSET_UTF8, /* of three bytes or four, and ascii */
    MY_CHARSET_LATIN1,
};

/* By the collation's number. */
struct my_charsets {
    uint8_t of[MARIADBI_COLLATIONS]; /* enum my_charset */
};

/* The collations of MariaDB 10.11 that are known without asking. */
void mariadbi_charsets_preset(struct my_charsets *c);
/* By the server's name of a character set. */
enum my_charset mariadbi_charset_named(struct slice name);

struct my_column {
    struct slice name;  /* empty: the map has no names */
    struct slice label; /* the name as JSON, and a colon */
    uint8_t      type;  /* enum my_type; ENUM and SET as such */
    bool         is_unsigned;
    uint16_t     meta; /* as the map has it; STRING: its bytes, ENUM and SET: bytes of a value */
    uint32_t     collation; /* of text, labels and bytes; 63: binary */
    struct slice labels;    /* ENUM, SET: `lenenc n, n × (lenenc len, bytes)` */
    uint8_t      hint;      /* enum my_hint; set by whoever knows */
};

struct my_table {
    uint64_t          id;
    struct slice      db, name;
    struct my_column *columns;
    uint32_t          count;
    uint32_t         *key; /* the primary key's columns, in its order */
    uint32_t          key_count;
    struct buf        raw, json; /* the event's body and the labels, which the slices point into */
};

/* A number to SQL, which may be unsigned; not a BIT. */
bool mariadbi_is_numeric(const struct my_column *);

/* Also of a table that is there already: it is replaced. E_SCHEMA names a type that is not known.
 */
int  mariadbi_table_take(const struct my_event *e, struct my_table *t, struct err *err);
void mariadbi_table_fini(struct my_table *t);

/* Of a TABLE_MAP or ROWS event; UINT64_MAX where it is too short. */
uint64_t mariadbi_table_id(const struct my_event *e);

enum my_cell_state {
    MY_CELL_ABSENT = 0, /* not in this image */
    MY_CELL_NULL,
    MY_CELL_VALUE,
};

struct my_cell {
    const uint8_t *data;
    uint32_t       len;
    uint8_t        state; /* enum my_cell_state */
};

struct my_rows {
    const struct my_table *table;
    uint8_t                op;      /* MY_WRITE_ROWS, MY_UPDATE_ROWS or MY_DELETE_ROWS */
    bool                   last;    /* of the statement: its maps end here */
    const uint8_t         *has[2];  /* bits of the columns in each image */
    uint32_t               some[2]; /* how many these are */
    struct my_cursor       c;
};

/* The map with this event's id must be `table`. Compressed rows go into `scratch`. */
int mariadbi_rows_take(const struct my_event *e, const struct my_table *table, struct buf *scratch,
                       struct my_rows *out, struct err *err);
/* True for rows of any kind; *last as above. */
bool mariadbi_rows_last(const struct my_event *e, bool *last);
/* One row: table->count cells each. Writes have no `before`, deletes no `after`. E_END. */
int mariadbi_rows_next(struct my_rows *r, struct my_cell *before, struct my_cell *after,
                       struct err *err);

/* values */

enum my_value_kind {
    MY_NULL = 0,
    MY_NUMBER, /* text is a number of JSON's */
    MY_TEXT,   /* text is UTF-8 */
    MY_BYTES,
    MY_JSON, /* text is one valid value */
};

struct my_value {
    enum my_value_kind kind;
    struct slice       text;
};

/* Slices point into the cell or into `scratch`, which is cleared first. */
int mariadbi_cell_value(const struct my_charsets *charsets, const struct my_column *column,
                        const struct my_cell *cell, struct buf *scratch, struct my_value *out,
                        struct err *err);

/* What an SQL query answered for a column, in UTF-8. */
enum my_sql_kind {
    MY_SQL_INTEGER, /* and decimals, years: digits, maybe zeros before them */
    MY_SQL_FLOAT,   /* cast to DOUBLE */
    MY_SQL_DOUBLE,
    MY_SQL_BIT,
    MY_SQL_TEXT,
    MY_SQL_BYTES,
    MY_SQL_JSON,
};
void mariadbi_sql_value(enum my_sql_kind kind, struct slice text, struct buf *scratch,
                        struct my_value *out);

/* {"$blob":"hex"} for bytes. */
void mariadbi_value_json(struct buf *out, const struct my_value *v);
/* A cell's value behind `out`, as mariadbi_value_json has it … */
int mariadbi_cell_json(const struct my_charsets *charsets, const struct my_column *column,
                       const struct my_cell *cell, struct buf *scratch, struct buf *out,
                       struct err *err);
/* … and as mariadbi_value_key has it. */
int mariadbi_cell_key(const struct my_charsets *charsets, const struct my_column *column,
                      const struct my_cell *cell, bool part, struct buf *scratch, struct buf *out,
                      struct err *err);
/* As in a stream's name: bytes as \xHEX; parts of a longer key escape '\' and '|'. */
void mariadbi_value_key(struct buf *out, const struct my_value *v, bool part);

#endif
