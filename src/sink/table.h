/*
 * What the sinks of SQL databases have in common: the keys of their configuration, the items that
 * gather for a transaction, and how it is decided: all of them, or the refused one alone.
 */
#ifndef OX_SINK_TABLE_H
#define OX_SINK_TABLE_H

#include "base/conf.h"
#include "sink/sink.h"

#define SINK_TABLE_GATHER 1000 /* items in a transaction, where the driver has no other number */
#define SINK_TABLE_GATHER_MAX 10000
#define SINK_TABLE_SEEN 32768 /* a power of 2 */
#define SINK_TABLE_COLUMNS_MAX 500
#define SINK_TABLE_STATEMENTS_MAX 200

extern const char *const      sink_table_modes[]; /* upsert, append */
extern const struct conf_type sink_table_text, sink_table_sql;

/* Entries of a schema that sink_table_open reads. */
#define SINK_TABLE_FIELDS                                                                          \
    {.name = "table",                                                                              \
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},                                          \
     .doc = "the table; or `statements`"},                                                         \
        {.name = "key",                                                                            \
         .type = {.kind = CONF_STRING, .min = 1, .max = 200},                                      \
         .preset = "key",                                                                          \
         .doc = "its key column, which takes the key of the event's stream"},                      \
        {.name = "columns",                                                                        \
         .type = {.kind = CONF_MAP,                                                                \
                  .of = &sink_table_text,                                                          \
                  .min = 1,                                                                        \
                  .max = SINK_TABLE_COLUMNS_MAX},                                                  \
         .doc = "column: field of the data; without it each field goes to the column of its "      \
                "name"},                                                                           \
        {.name = "deletes",                                                                        \
         .type = {.kind = CONF_LIST, .of = &sink_table_text, .max = 50},                           \
         .doc = "event types that delete the row; [Deleted] when not given"},                      \
        {.name = "create",                                                                         \
         .type = {.kind = CONF_BOOL},                                                              \
         .preset = "false",                                                                        \
         .doc = "make the table and columns that are missing"},                                    \
    {                                                                                              \
        .name = "statements",                                                                      \
        .type = {.kind = CONF_MAP,                                                                 \
                 .of = &sink_table_sql,                                                            \
                 .min = 1,                                                                         \
                 .max = SINK_TABLE_STATEMENTS_MAX},                                                \
        .doc = "event type, or \"*\": a statement with placeholders; instead of a table"           \
    }
#define SINK_TABLE_MODE                                                                            \
    {                                                                                              \
        .name = "mode", .type = {.kind = CONF_ENUM, .values = sink_table_modes},                   \
        .preset = "upsert", .doc = "a row for each key, or append: a row for each event"           \
    }

struct sink_mapped {
    const char *column, *field; /* the field as a path: "a.b" */
};

/* text[0] value(names[0]) text[1] … text[count]. */
struct sink_statement {
    const char   *type; /* NULL: any */
    char         *copy;
    uint32_t      count;
    struct slice *text, *names;
};

struct sink_table {
    const char            *name, *key; /* name NULL: there are statements */
    const char           **deletes;
    uint32_t               delete_count;
    struct sink_mapped    *map; /* NULL: every field of the data has a column of its name */
    uint32_t               map_count;
    bool                   create, append;
    struct sink_statement *statements;
    uint32_t               statement_count;
    struct sink_item     **items;
    uint32_t               count;
    uint32_t              *seen; /* keys of the group that is being made, hashed: places + 1 */
};

/* What is in there is the configuration's. */
int  sink_table_open(struct sink_table *, const struct conf *, struct err *);
void sink_table_fini(struct sink_table *); /* zeroed is fine */
bool sink_table_deletes(const struct sink_table *, struct slice type);
void sink_table_gather(struct sink_table *, struct sink_item *);

/* E_SCHEMA, ERR_DATA where no statement is for the type. */
int sink_table_statement(const struct sink_table *, struct slice type,
                         const struct sink_statement **, struct err *);
/* As prepared statements have it: MARK1, MARK2, … for the values; ends with a NUL. */
void sink_statement_text(const struct sink_statement *, char mark, struct buf *out);
/* The value of one of its names as JSON, null where the event has none; `out` from its start. */
int sink_statement_value(const struct sink_statement *, uint32_t i, const struct sink_item *,
                         struct buf *out, struct err *);

/* Whether a field of the name can have a column, and the data are an object: else ERR_DATA. */
typedef int sink_field_fn(void *arg, struct slice column, struct slice value, struct err *);
/* Calls for each column that the event has a value for, but for the key's. `name` is used up. */
int sink_table_fields(const struct sink_table *, const struct sink_item *, struct buf *name,
                      sink_field_fn *, void *arg, struct err *);

/* An identifier in this mark, doubled within; TABLE or SCHEMA.TABLE, with a NUL behind it. */
void sink_quote(struct buf *out, char mark, struct slice name);
void sink_quote_table(struct buf *out, char mark, const char *name);
/* C = BEFORE C AFTER, …: for each of the list's columns, which are quoted, ", " before each. */
void sink_quote_updates(struct buf *out, char mark, struct slice list, const char *before,
                        const char *after);

/* The rows of one statement: as many items as have the same columns, all deleted or none. */
struct sink_group {
    struct buf *values;    /* the rows, a comma between them */
    struct buf *list;      /* their columns, as sink_quote_updates has them */
    size_t      bytes_max; /* or one row that is larger */
    bool        keys_once; /* no key comes twice */
};
/* A row onto `values`, its columns onto `list`. */
typedef int sink_row_fn(struct sink *, const struct sink_item *, struct err *);
/* Items from `from` on, no more than `limit`; *next is the first one that is not among them. */
int sink_table_group(struct sink *, const struct sink_table *, const struct sink_group *,
                     sink_row_fn *, uint32_t from, uint32_t limit, uint32_t *next, struct err *);

/*
 * One transaction with all items and the checkpoint, a statement for as many as `limit` items. It
 * is undone where it fails, and *bad is then the one that was refused, or count: none, or it is not
 * known with so many in a statement.
 */
typedef int sink_table_apply_fn(struct sink *, uint32_t limit, struct log_pos upto, uint32_t *bad,
                                struct err *);
int sink_table_poll(struct sink *, struct sink_table *, sink_table_apply_fn *, struct log_pos upto,
                    struct err *);

#endif
