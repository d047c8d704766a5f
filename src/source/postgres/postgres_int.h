/*
 * What the files of the source share.
 *
 * Two connections: `stream` is a replication connection in COPY BOTH; `query`
 * is an ordinary one for the catalog, snapshots and the server's position.
 *
 * The messages become *steps*, which wait in a queue. A step is a change to
 * hand out, or where the source stands after it, or both. What was handed out
 * moves `place`; a connection that is lost empties the queue, and all goes on
 * from `place`.
 */
#ifndef OX_SOURCE_POSTGRES_POSTGRES_INT_H
#define OX_SOURCE_POSTGRES_POSTGRES_INT_H

#include "source/postgres/pgoutput.h"
#include "source/source.h"

struct pg_conn; /* libpq's */
struct pg_result;

#define POSTGRESI_TABLES_MAX 1000
#define POSTGRESI_KEY_MAX 32
#define POSTGRESI_READERS_MAX 8
#define POSTGRESI_COLUMNS_MAX 1600 /* of a table, as PostgreSQL has it */
/* Logical messages of our own: they only move the log's position. */
#define POSTGRESI_MARK "oxbow"

/* values */

enum pg_shape {
    PG_SHAPE_TEXT = 1,
    PG_SHAPE_BOOL,
    PG_SHAPE_NUMBER,
    PG_SHAPE_JSON,
};

struct pg_type {
    uint32_t      oid;
    enum pg_shape shape; /* of an array: of its items */
    bool          array;
    char          delim;
};

/* false: not one of pg_catalog's common ones. */
bool postgresi_type_builtin(uint32_t oid, struct pg_type *out);
/* One value that is not NULL. */
void postgresi_value_json(struct buf *out, const struct pg_type *type, struct slice text);
/* A value as it stands in a stream's name; parts of a longer key escape '\' and '|'. */
void postgresi_value_key(struct buf *out, struct slice text, bool part);

/* tables */

/* A table as the configuration names it. */
struct pg_want {
    char        *schema, *name;
    char        *table; /* as in streams' names: without "public." */
    const char **key;   /* NULL: the replica identity's or the primary key */
    uint32_t     key_count;
};

struct pg_field {
    char          *name;
    struct buf     member; /* `"name":`, as JSON has it */
    bool           key;    /* of the replica identity */
    struct pg_type type;
};

/* A table as the server described it last. */
struct pg_relation {
    uint32_t         oid;
    uint32_t         want; /* which one; want_count: none of ours */
    char             identity;
    struct pg_field *fields;
    uint32_t         count;
    uint16_t         key[POSTGRESI_KEY_MAX]; /* places in fields, in their order */
    uint32_t         key_count;
    struct buf       body;  /* of the message that described it last, as the server knows */
    bool             fresh; /* … and which was not taken yet: no row came since then */
};

struct pg_relations {
    struct pg_relation *at;
    uint32_t            count, room;
};

/* A row's values as they came. */
struct pg_cells {
    uint32_t        count;
    struct pg_value values[POSTGRESI_COLUMNS_MAX];
};

/* the place */

/* What a checkpoint says. */
struct pg_place {
    char          system[24]; /* the cluster's own number */
    struct pg_lsn lsn;        /* all transactions that end here or before are done */
    struct pg_lsn held;       /* … but those that were prepared from here on; 0: none */
    struct pg_lsn commit;     /* of the one that is done in part; 0: none */
    uint64_t      done;       /* … and how many of its changes are */
    uint32_t      timeline;   /* of the server's log; 0: not known */
    uint64_t     *shapes;     /* per wanted table: a hash of its columns; 0: never seen */
    struct buf   *keys;       /* … JSON object: columns that name its rows; empty: not known */
    bool         *read;       /* … whether its snapshot is complete */
    uint8_t      *again;      /* … enum pg_again: asked for while streaming goes on */
    uint32_t      reading;    /* whose snapshot is under way, where `after` is not empty */
    struct buf    after;      /* JSON array: the last key of it that was read */
    bool          missing;   /* all rows are read: captured keys without a row are looked for … */
    struct buf    after_key; /* … and this is behind the last one, as the core calls it */
    uint64_t      rows;      /* that were read of it */
    uint32_t      parts;     /* of the transaction that is done in part; with transactions */
    bool          gap;       /* whatever the slot begins with is taken */
    uint32_t      era;       /* gaps that were accepted: positions may come again after one */
};

enum pg_again {
    PG_AGAIN_NOT,
    PG_AGAIN_ROWS,
    PG_AGAIN_DIFFERENCES,
};

/* steps */

enum pg_step_kind {
    STEP_CHANGE, /* of a transaction: done = number + 1 */
    STEP_END,    /* of a transaction; no change */
    STEP_SHAPE,  /* a change that tells of columns */
    STEP_ROW,    /* of the snapshot */
    STEP_READ,   /* a table's rows are all read; no change */
    STEP_KEY,    /* of the keys that are looked for */
    STEP_LOOKED, /* all keys are looked for; no change */
};

struct pg_span {
    size_t at, len;
};

struct pg_step {
    enum pg_step_kind kind;
    enum change_op    op; /* 0: no change */
    bool              compare;
    uint32_t          want;
    int64_t           time_us;
    struct pg_span    key, before, after, origin, unchanged, position, place_after;
    struct pg_lsn     lsn;    /* CHANGE: of the commit; END: the end */
    uint64_t          number; /* CHANGE: within its transaction; SHAPE: the hash; END: the xid */
};

/* transactions that the server sends before they are committed, on disk */

struct pg_spill;

struct pg_held { /* one that is prepared and not done */
    uint32_t      xid;
    struct pg_lsn at; /* of the record that prepares it */
};

/* the snapshot */

struct pg_visible { /* what a snapshot sees, as txid_snapshot says */
    uint64_t  low, high;
    uint64_t *running;
    size_t    count;
};

struct pg_row {
    struct pg_span key, row, place; /* of a key that has no row, `row` is empty */
    uint64_t       hash;
    uint32_t       next; /* of the same bucket; UINT32_MAX: none */
    bool           dropped;
};

/* Rows of one table as one snapshot saw them, until the stream has caught up with it. */
struct pg_chunk {
    bool              last;    /* … of its table */
    bool              spoiled; /* has to be read again */
    bool              seen;    /* it sees the transaction that is being taken */
    bool              keys;    /* of captured keys without a row */
    bool              compare; /* only what is not as it was captured last */
    uint32_t          want;
    struct pg_lsn     upto; /* all transactions that it sees ended here or before */
    struct pg_visible sees;
    struct pg_row    *rows;
    uint32_t          room, count, given;
    uint64_t          first; /* the number of its first row in its round */
    uint64_t          about; /* rows of the table, as the server estimates; 0: not asked */
    uint32_t         *buckets;
    uint32_t          bucket_count;
    struct buf        bytes; /* it and `rows` serve the next one too */
};

struct pg_source {
    struct source   base;
    const char     *connection, *spill_folder, *accept;
    char            slot[64], publication[64];
    bool            snapshot, messages, failover, two_phase, own_publication;
    uint32_t        chunk_rows;
    uint64_t        idle_us;
    struct pg_want *wants;
    uint32_t        want_count;

    struct pg_conn *query, *stream;
    int             version;
    uint32_t        timeline;
    bool            other; /* the cluster is not the one that the checkpoint is of */

    /* the stream */
    struct pg_relations relations;
    struct pg_relations outer;       /* … the stream's, while a held transaction is read */
    uint64_t           *shapes;      /* per wanted table, as of the last message */
    struct pg_lsn       from;        /* where this connection begins */
    struct pg_lsn       forgiven;    /* up to here what was prepared and lost is read anew */
    struct pg_lsn       skip_commit; /* of a transaction that is done in part … */
    uint64_t            skip_done;   /* … and its changes that are */
    struct pg_lsn       received;    /* the server has sent all up to here */
    struct pg_lsn       durable;     /* what the core confirmed */
    struct pg_lsn       confirmed;   /* what the server was told */
    uint64_t            told_us, heard_us, advanced_us, marked_us;
    bool                in_xact, drop;
    uint32_t            xid;
    struct pg_lsn       xact; /* the commit's record */
    int64_t             xact_time_us;
    uint64_t            number; /* of the next change in it */
    struct buf          origin;
    struct pg_cells    *old, *now;
    struct pg_spill    *spills;    /* not committed yet */
    struct pg_spill    *filling;   /* within S … E, or … */
    bool                preparing; /* … b … P */
    struct pg_spill    *replay;    /* committed, being read */
    uint32_t            spill_count;
    struct pg_held     *held;
    uint32_t            held_count, held_room;
    uint64_t            spilled_bytes;

    /* the snapshot */
    struct pg_chunk chunks[POSTGRESI_READERS_MAX]; /* a round, in the order to give them */
    uint32_t        chunk_count, parallel;
    struct pg_conn *readers[POSTGRESI_READERS_MAX]; /* where it is more than one at once */
    uint32_t        fit, fit_want; /* rows of that table that a chunk has room for; 0: all */
    uint64_t        about;         /* rows of the table, as the server estimates */
    bool            by_text; /* captured keys may be none by the types of the columns of today */
    bool            settled; /* nothing that an earlier connection was sent is still unseen */
    uint32_t       *recent;  /* transactions that were streamed since the last chunk, or lately */
    size_t          recent_count, recent_room;
    bool            recent_failed;

    struct pg_place place;
    struct pg_step *steps;
    uint32_t        step_at, step_count, step_room, waiting; /* waiting: changes in the queue */
    uint32_t        ends;                                    /* of transactions, in the queue */
    struct buf      bytes;                                   /* of the steps */
    struct change  *changes;
    uint32_t        change_room;
    struct buf      checkpoint;
    char            xact_name[PG_LSN_TEXT]; /* of the batch's transaction */
    bool            caught_up;
    struct pg_lsn   head;     /* of the server's log, at the last look */
    char            wal[16];  /* of the slot: reserved, extended, unreserved, lost */
    uint64_t        safe_wal; /* bytes until the server gives the slot up; UINT64_MAX: never */
    uint64_t        keep_wal; /* … of so many that it keeps */
    uint64_t        slot_us;  /* … when that was looked at */
};

/* link.c: connections. RETRY where a server cannot be reached or is busy. */
int postgresi_connect(struct pg_source *s, bool replication, struct pg_conn **out, struct err *err);
void postgresi_disconnect(struct pg_conn **conn); /* NULL is fine */
/* Runs one statement; `out` may be NULL, else has rows and the caller clears it. */
int  postgresi_query(struct pg_source *s, struct pg_conn *conn, const char *sql,
                     struct pg_result **out, struct err *err);
int  postgresi_query_buf(struct pg_source *s, struct pg_conn *conn, struct buf *sql,
                         struct pg_result **out, struct err *err);
void postgresi_add_literal(struct pg_conn *conn, struct buf *sql, const char *text);
void postgresi_add_name(struct pg_conn *conn, struct buf *sql, const char *text);
/* The result's error as ours. */
int postgresi_fail(struct pg_source *s, const struct pg_result *result, const char *what,
                   struct err *err);
/* Waits until the socket can be read; false: not in time. */
bool postgresi_wait(struct pg_conn *conn, uint64_t us);
/* Lets the server be for so long, unless the connection breaks. */
void postgresi_pause(struct pg_conn *conn, uint64_t us);
/*
 * A server on the same machine has no way to fill: a small buffer suffices, and what waits in it is
 * still in the processor's caches. Where it is full, the server's side puts many messages together.
 */
void         postgresi_keep_near(struct pg_conn *conn);
struct slice postgresi_cell(const struct pg_result *result, int row, int col);
bool         postgresi_cell_u64(const struct pg_result *result, int row, int col, uint64_t *out);
/* The query connection, made where it is not there. */
int postgresi_need_query(struct pg_source *s, struct err *err);

/* relation.c */
int postgresi_relation_take(struct pg_source *s, const struct pg_message *m, struct err *err);
struct pg_relation *postgresi_relation_find(const struct pg_relations *all, uint32_t oid);
/* The stream's for a change of it: as described last. NULL: never described. */
int postgresi_relation_use(struct pg_source *s, uint32_t oid, struct pg_relation **out,
                           struct err *err);
/* Only remembers what was said: it counts from the next change of the table on. */
int
postgresi_relation_note(struct pg_relations *all, uint32_t oid, struct slice body, struct err *err);
void postgresi_relations_fini(struct pg_relations *r);
void postgresi_relations_forget(struct pg_source *s);
/* From here on nothing is described; and back to what was. */
void postgresi_relations_apart(struct pg_source *s);
void postgresi_relations_back(struct pg_source *s);
void postgresi_relation_fini(struct pg_relation *r);
int  postgresi_type_find(struct pg_source *s, uint32_t oid, struct pg_type *out, struct err *err);
/* {"columns":[{"name":…,"type":…},…],…} */
void     postgresi_relation_json(const struct pg_relation *r, struct buf *out);
uint64_t postgresi_hash(struct slice bytes);
/* What names a row of a table, in the order of its index: rows of one column; none: no key. */
int
postgresi_key_columns(struct pg_source *s, uint32_t want, struct pg_result **out, struct err *err);

/* key.c */
struct pg_key_column {
    const char *name;
    bool        key;
};
/* E_SCHEMA: it is not the one that the captured rows are named by. */
int postgresi_key_note(struct pg_source *s, uint32_t want, const struct pg_key_column *columns,
                       uint32_t count, struct err *err);

/* change.c: messages within a transaction become steps. */
void postgresi_xact_begin(struct pg_source *s, uint32_t xid, struct pg_lsn commit, int64_t time_us);
int  postgresi_change_take(struct pg_source *s, const struct pg_message *m, struct err *err);
/* Makes room for one more; NULL: out of memory. */
struct pg_step *postgresi_step_new(struct pg_source *s, enum pg_step_kind kind);
struct pg_span  postgresi_span(const struct pg_source *s, size_t at); /* to the end of `bytes` */
/* "0/1A:7", with a mark "0/1A:r7", after an accepted gap "0/1A:7~1" */
struct pg_span
     postgresi_position(struct pg_source *s, struct pg_lsn at, const char *mark, uint64_t number);
void postgresi_steps_drop(struct pg_source *s);
/* A change that tells of a table's columns. */
int postgresi_step_shape(struct pg_source *s, const struct pg_relation *r, struct slice json,
                         uint64_t hash, struct err *err);

/* spill.c */
int postgresi_spill_start(struct pg_source *s, const struct pg_message *m, struct err *err);
int postgresi_spill_add(struct pg_source *s, struct slice message, const struct pg_message *m,
                        struct err *err);
int postgresi_spill_abort(struct pg_source *s, const struct pg_message *m, struct err *err);
/* It is prepared: it waits for its outcome. */
int  postgresi_spill_hold(struct pg_source *s, const struct pg_message *m, struct err *err);
bool postgresi_spill_there(struct pg_source *s, uint32_t xid);
void postgresi_spill_drop(struct pg_source *s, uint32_t xid);
/* The transaction is committed: it is read from now on by postgresi_spill_next. */
int postgresi_spill_commit(struct pg_source *s, const struct pg_message *m, struct err *err);
/* Its next message that was not rolled back; E_END after the last. */
int postgresi_spill_next(struct pg_source *s, struct pg_message *m, struct err *err);
/* Where it ended, and nothing more of it. */
struct pg_lsn postgresi_spill_finish(struct pg_source *s);
void          postgresi_spills_drop(struct pg_source *s);

/* prepared.c: two-phase. Nothing of a prepared transaction is an event before COMMIT PREPARED. */
int postgresi_prepared_begin(struct pg_source *s, const struct pg_message *m, struct err *err);
int postgresi_prepared_end(struct pg_source *s, const struct pg_message *m, struct err *err);
int postgresi_prepared_commit(struct pg_source *s, const struct pg_message *m, struct err *err);
/* Nothing of it is handed out. */
void postgresi_prepared_undo(struct pg_source *s, const struct pg_message *m);
/* All of it was handed out. */
void postgresi_prepared_done(struct pg_source *s, uint32_t xid);
/* Where the first one that is not done was prepared; 0: there is none. */
struct pg_lsn postgresi_prepared_first(const struct pg_source *s);

/* stream.c */
int  postgresi_stream_open(struct pg_source *s, struct err *err);
void postgresi_stream_close(struct pg_source *s);
/* Takes what is there into the queue until it has max changes; *dry: there is no more now. */
int postgresi_stream_take(struct pg_source *s, uint32_t max, bool *dry, struct err *err);
/* The one place where the server is told what is durable. */
int postgresi_stream_tell(struct pg_source *s, bool reply, struct err *err);
/* Writes a mark, so that the server's position moves and is flushed. */
int  postgresi_mark(struct pg_source *s, struct err *err);
bool postgresi_full(const struct pg_source *s, uint32_t max);
/* All tables' differences, from where the slot begins. */
void postgresi_place_gap(struct pg_source *s);

/* snapshot.c */
/* A chunk is wanted: a table's snapshot is not complete. */
bool postgresi_snapshot_due(const struct pg_source *s);
int  postgresi_snapshot_read(struct pg_source *s, struct err *err);
/* Which table is to be read, from this one on; want_count: none. */
uint32_t postgresi_snapshot_next(const struct pg_source *s, uint32_t from);
/* Captured keys whose rows may be gone: a chunk of those that are. Within a transaction. */
int postgresi_missing_read(struct pg_source *s, uint32_t want, struct err *err);
/* The stream has caught up with the chunk: its rows go into the queue. */
bool postgresi_snapshot_ripe(const struct pg_source *s);
int  postgresi_snapshot_give(struct pg_source *s, uint32_t max, struct err *err);
/* The stream's transaction touches a key; `partial`: it does not say the whole row. */
void postgresi_snapshot_touch(struct pg_source *s, uint32_t want, struct slice key, bool partial);
void postgresi_snapshot_empty(struct pg_source *s, uint32_t want); /* the table was truncated */
void postgresi_snapshot_streamed(struct pg_source *s);             /* a transaction begins */
void postgresi_snapshot_remember(struct pg_source *s, uint32_t xid);
void postgresi_snapshot_drop(struct pg_source *s);
/* Between transactions: what has to be read again goes, and what is behind it. */
void postgresi_snapshot_sift(struct pg_source *s);
/* Where the stream has to get to for all chunks. */
struct pg_lsn postgresi_snapshot_upto(const struct pg_source *s);
int
postgresi_snapshot_end(struct pg_source *s, uint32_t want, enum pg_step_kind kind, struct err *err);

/* rows.c: a round of chunks, each in a transaction of its own. */
int  postgresi_rows_read(struct pg_source *s, uint32_t want, struct err *err);
void postgresi_readers_close(struct pg_source *s);

/* What snapshot.c, rows.c and missing.c share of chunks. */
#define POSTGRESI_SEES                                                                             \
    "SELECT pg_catalog.txid_current_snapshot(), pg_catalog.pg_current_wal_insert_lsn()"
struct pg_plan {
    struct pg_result *key;     /* names, in the index's order */
    struct pg_result *columns; /* names, and the row filter */
    struct buf        sql;
};
bool postgresi_plan_is_key(const struct pg_plan *p, const char *column);
int  postgresi_plan_columns(struct pg_source *s, uint32_t want, struct pg_plan *p, struct err *err);
void postgresi_plan_fini(struct pg_plan *p);
int  postgresi_chunk_room(struct pg_chunk *c, uint32_t rows, struct err *err);
int  postgresi_chunk_sees(struct pg_source *s, struct pg_chunk *c, const struct pg_result *r,
                          struct err *err);
/* All of the first so many see what was streamed. */
bool postgresi_chunks_good(struct pg_source *s, uint32_t count);
/* Their rows are all there: they wait for the stream from now on. */
int postgresi_chunks_open(struct pg_source *s, uint32_t count, struct err *err);
/* Leaves the first so many. */
void postgresi_chunks_cut(struct pg_source *s, uint32_t count);
/* The memory that is kept for others than those. */
void postgresi_chunks_free(struct pg_source *s);
/* One value of a JSON array of strings as a literal. */
int
postgresi_add_json_text(struct pg_source *s, struct buf *sql, struct slice raw, struct err *err);
/* For source.again. */
int
postgresi_again(struct source *, const struct source_again *, struct source_batch *, struct err *);

/* place.c */
int  postgresi_place_init(struct pg_source *s, struct err *err);
void postgresi_place_fini(struct pg_source *s);
int  postgresi_place_read(struct pg_source *s, struct slice checkpoint, struct err *err);
void postgresi_place_write(const struct pg_source *s, struct buf *out);
/* All that ended here or before is done: where the server may begin. */
struct pg_lsn postgresi_place_from(const struct pg_place *p);
/* The same of a checkpoint: what the server may be told. */
int  postgresi_place_safe(struct slice checkpoint, struct pg_lsn *out, struct err *err);
void postgresi_place_move(struct pg_source *s, struct pg_lsn lsn);
void postgresi_place_step(struct pg_source *s, const struct pg_step *step);

/* prepare.c */
int postgresi_check(struct source *, finding_fn *, void *arg, struct err *);
int postgresi_prepare(struct source *, bool dry_run, finding_fn *, void *arg, struct err *);
int postgresi_unprepare(struct source *, finding_fn *, void *arg, struct err *);

#endif
