/*
 * What the files of the source share.
 *
 * In the application's database live
 *   oxbow_changes  one row per change of a captured table: seq is dense and
 *                  grows by one, b0… are the values before, a0… those after,
 *                  in the columns' order of the capture
 *   oxbow_notes    rows that share a unique key with a row about to be
 *                  written; used up by the trigger after it, for REPLACE
 *   oxbow_tables   each capture of a table: its columns and key. A table that
 *                  changed its shape gets a new capture, old changes keep theirs
 *   oxbow_readers  who reads, and up to where they confirmed
 *   oxbow_feed     the feed's own id: a change table made anew is another feed
 *   oxbow_origin   the mark of Oxbow's own writes, while one is being made
 *
 * The last row of oxbow_changes is never deleted: the next seq is the highest
 * one plus 1, so no seq is ever used twice and a hole is a loss.
 */
#ifndef OX_SOURCE_SQLITE_SQLITE_INT_H
#define OX_SOURCE_SQLITE_SQLITE_INT_H

#include "source/source.h"
#include "sql/sql.h"

#define SQLITEI_TABLES_MAX 256
#define SQLITEI_COLUMNS_MAX 900 /* twice in the change table, whose limit is 2,000 */

struct sqlite3;
struct sqlite3_stmt;

/* A table as the configuration names it. */
struct sqlitei_want {
    const char  *name;
    const char **columns; /* NULL: all */
    uint32_t     column_count;
    const char **key; /* NULL: the primary key */
    uint32_t     key_count;
};

/* One capture of a table: which columns, and which of them are the key. */
struct sqlitei_capture {
    int64_t                  id;     /* in oxbow_tables */
    struct sql_table        *shape;  /* NULL for old ones */
    const struct sql_unique *unique; /* of the key, in shape */
    char                    *name;
    char                   **columns;
    uint32_t                 count;
    uint32_t                *key; /* places in columns */
    uint32_t                 key_count;
};

enum sqlitei_verdict {
    CAPTURE_SAME,
    CAPTURE_NEW,     /* was never captured */
    CAPTURE_CHANGED, /* columns or unique keys were added: can go on with a new snapshot */
    CAPTURE_BROKEN,  /* triggers or columns are gone: changes may be missing */
};

void sqlitei_capture_fini(struct sqlitei_capture *c);

/* What the configuration wants, against the table as it is now. id is 0. */
int sqlitei_capture_plan(struct sqlite3 *db, const struct sqlitei_want *want,
                         struct sqlitei_capture *out, struct err *err);
/* The capture with this id as it was recorded; E_NOTFOUND. */
int
sqlitei_capture_load(struct sqlite3 *db, int64_t id, struct sqlitei_capture *out, struct err *err);
/* Sets plan->id to that of the present capture; BROKEN and CHANGED say in `why` what it is. */
int sqlitei_capture_judge(struct sqlite3 *db, struct sqlitei_capture *plan,
                          enum sqlitei_verdict *verdict, struct err *why, struct err *err);
/* Within a write transaction: a new capture with its triggers; sets plan->id. */
int sqlitei_capture_install(struct sqlite3 *db, struct sqlitei_capture *plan, struct err *err);
/* Within a write transaction. */
int sqlitei_capture_remove(struct sqlite3 *db, const char *table, struct err *err);

/* The tables of Oxbow; within a write transaction. */
int
sqlitei_feed_install(struct sqlite3 *db, struct ox_env *env, const char *reader, struct err *err);
int sqlitei_feed_remove(struct sqlite3 *db, struct err *err);
/* Whether oxbow_changes is there. */
int sqlitei_feed_there(struct sqlite3 *db, bool *there, struct err *err);

/* The triggers of a capture; kinds 0 to 4. Appends the name or the statement. */
#define SQLITEI_TRIGGERS 5
void sqlitei_trigger_name(struct buf *b, const char *table, unsigned kind);
void sqlitei_trigger_sql(struct buf *b, const struct sqlitei_capture *c, unsigned kind);

/* The instance. */

struct sqlitei_span {
    size_t at, len;
};

/* A change while its bytes still move. */
struct sqlitei_draft {
    enum change_op      op;
    int64_t             time_us;
    struct sqlitei_span table, key, before, after, origin, position;
};

/* Where the feed stands: what a checkpoint says. */
struct sqlitei_place {
    int64_t    seq;
    int64_t   *done;  /* for each wanted table: the capture whose snapshot is complete */
    uint32_t   table; /* whose snapshot is under way; want_count: none */
    int64_t    capture;
    struct buf after; /* JSON array: the key of the last row read; empty: at the start */
};

struct sqlitei_source {
    struct source        base;
    struct sqlite3      *db;
    const char          *path;
    const char          *accept; /* a feed made anew that the operator accepts, or NULL */
    bool                 snapshot;
    struct sqlitei_want *wants;
    uint32_t             want_count;
    uint64_t             file; /* the inode: a file put in its place is another database */

    /* as of the last look at the schema */
    bool                    verified;
    int64_t                 schema;
    struct sqlitei_capture *plans; /* for each wanted table */
    struct sqlitei_capture *olds;  /* others that changes were found of */
    uint32_t                old_count;
    uint32_t                width; /* b columns of the change table */
    struct sqlite3_stmt    *select;
    char                    feed[32];

    struct sqlitei_place place, next;
    uint64_t             rows_read; /* by snapshots, since the start */
    int64_t              trimmed;
    uint64_t             trimmed_us;

    struct change        *changes;
    struct sqlitei_draft *drafts;
    uint32_t              count, room;
    struct buf            bytes, checkpoint;
};

/* In a read transaction: whether the schema is what it was, or can be gone on with. */
int  sqlitei_schema_check(struct sqlitei_source *s, bool *refresh, struct err *err);
int  sqlitei_schema_refresh(struct sqlitei_source *s, struct err *err);
void sqlitei_schema_forget(struct sqlitei_source *s);

int  sqlitei_place_init(struct sqlitei_place *p, uint32_t tables, struct err *err);
void sqlitei_place_fini(struct sqlitei_place *p);
int  sqlitei_place_copy(struct sqlitei_place *to, const struct sqlitei_place *from, uint32_t tables,
                        struct err *err);
/* Fills s->place from a checkpoint; needs the feed's own id in s->feed. */
int sqlitei_place_read(struct sqlitei_source *s, struct slice checkpoint, struct err *err);
void
sqlitei_place_write(const struct sqlitei_source *s, const struct sqlitei_place *p, struct buf *out);
/* Only the seq of a checkpoint. */
int sqlitei_place_seq(struct slice checkpoint, int64_t *seq, struct err *err);

/* Gathers at most max changes, then rows of the snapshot, into s->drafts and s->next. */
int sqlitei_read_batch(struct sqlitei_source *s, uint32_t max, bool *caught_up, struct err *err);

#endif
