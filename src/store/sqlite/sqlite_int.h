/* What the files of the store share. */
#ifndef OX_STORE_SQLITE_SQLITE_INT_H
#define OX_STORE_SQLITE_SQLITE_INT_H

#include "sql/sql.h"
#include "store/store.h"

struct sqlite3;
struct sqlite3_stmt;

struct sqlitei_store {
    struct store         base;
    struct sqlite3      *db;
    const char          *path, *table, *key, *where, *version_column, *scope;
    const char         **columns; /* those that move; spelled as in the configuration */
    uint32_t             count;
    bool                 null_columns; /* a row whose moved columns are all NULL is not there */
    struct sql_table    *shape;
    uint32_t             key_at;
    struct buf           subset; /* the row condition as SQL over the table's bare columns */
    struct sqlite3_stmt *get;
    /* the row handed out */
    struct buf row_key, row_raw, row_fields, row_version;
};

static inline struct sqlitei_store *
sqlitei_store(struct store *s)
{
    return (struct sqlitei_store *)s;
}

/* A column other than the key. */
static inline bool
sqlitei_is_key(const struct sqlitei_store *s, uint32_t i)
{
    return slice_is(slice_str(s->columns[i]), s->key);
}

/* The row in the subset, as store_ops.get. */
int
sqlitei_row_get(struct sqlitei_store *s, struct slice key, struct store_row *row, struct err *err);
/* Column 0 the key, then the moved ones, then the version column, to the row handed out. */
int  sqlitei_row_take(struct sqlitei_store *s, struct sqlite3_stmt *stmt, struct store_row *row,
                      struct err *err);
int  sqlitei_key_bind(struct sqlitei_store *s, struct sqlite3_stmt *stmt, int at, struct slice key,
                      struct err *err);
void sqlitei_row_select(const struct sqlitei_store *s, struct buf *text);

int sqlitei_write_put(struct store *base, const struct store_write *w, struct err *err);
int sqlitei_write_del(struct store *base, const struct store_write *w, struct err *err);

int sqlitei_guard_install(struct store *base, const struct store_guard *g, struct err *err);
int sqlitei_guard_set(struct store *base, const struct store_guard *g, struct err *err);
int sqlitei_guard_get(struct store *base, struct store_guard *g, struct err *err);
int sqlitei_guard_remove(struct store *base, struct err *err);
/* E_FENCED where the guard knows a newer epoch. */
int sqlitei_guard_admit(struct sqlitei_store *s, uint64_t epoch, struct err *err);

#endif
