/*
 * What the files of the source share.
 *
 * Two connections: `stream` carries the binary log, `query` everything else.
 * A poll gathers drafts and the place after them in `next`; both are handed
 * out together or, where the poll fails, dropped with the connection. All goes
 * on from `place`.
 */
#ifndef OX_SOURCE_MARIADB_MARIADB_INT_H
#define OX_SOURCE_MARIADB_MARIADB_INT_H

#include <mysql.h>

#include <mariadb_rpl.h>

#include "source/mariadb/rows.h"
#include "source/source.h"

#define MARIADBI_TABLES_MAX 1000
#define MARIADBI_KEY_MAX 32
#define MARIADBI_DOMAINS_MAX 64
#define MARIADBI_MAPS 64
#define MARIADBI_BYTES_SOFT ((size_t)4 << 20) /* a batch ends after the change that passes this */

/* tables */

struct my_field {
    char            *name;
    enum my_sql_kind kind;
    uint8_t          hint;    /* enum my_hint */
    bool             ordered; /* a key of it can be gone on from */
};

/* A table as the configuration names it, and as the server had it at the start. */
struct my_want {
    char            *db, *name;
    char            *table; /* in streams' names: without the source's own database */
    const char     **key;   /* configured; NULL: the primary key */
    uint32_t         key_count;
    struct my_field *fields;
    uint32_t         field_count;
    uint32_t         order[MARIADBI_KEY_MAX]; /* the key's places in fields */
    uint32_t         order_count;
};

/* the place */

struct my_place {
    struct my_gtid gtids[MARIADBI_DOMAINS_MAX]; /* the last transaction of each domain */
    uint32_t       gtid_count;
    char           file[256]; /* for people */
    uint64_t       position;
    struct my_gtid part;    /* of the transaction that is done in part … */
    uint64_t       done;    /* … its changes that are, two numbers a row; 0: none is */
    uint32_t       parts;   /* … in so many commits, with transactions */
    bool          *read;    /* per wanted table: its snapshot is complete */
    uint8_t       *again;   /* … enum my_again: asked for while streaming goes on */
    uint32_t       reading; /* whose snapshot is under way, where `after` or `missing` is there */
    struct buf     after;   /* JSON array: the last key of the snapshot under way */
    bool           missing; /* all rows are read: captured keys without a row are looked for … */
    struct buf     after_key; /* … and this is behind the last one, as the core calls it */
    uint64_t       rows;      /* that it has read */
    uint64_t      *shapes;    /* per wanted table: a hash of its columns; 0: never seen */
    uint32_t       era;       /* times that it began anew: positions may come again */
};

enum my_again {
    MY_AGAIN_NOT,
    MY_AGAIN_ROWS,
    MY_AGAIN_DIFFERENCES,
};

/* drafts */

struct my_span {
    size_t at, len;
};

/* A change while its bytes still move. */
struct my_draft {
    enum change_op op;
    bool           compare;
    uint32_t       want;
    int64_t        time_us;
    struct my_span key, before, after, position;
};

struct my_chunk_row {
    struct my_span key, row, after;
};

/* Rows of one table as of one position, until the stream has reached that. */
struct my_chunk {
    bool                 open, last;
    bool                 keys;    /* of captured keys without a row */
    bool                 compare; /* only what is not as it was captured last */
    uint32_t             want, count, given, room;
    struct my_gtid       at[MARIADBI_DOMAINS_MAX];
    uint32_t             at_count;
    struct buf           bytes, position, last_key;
    struct buf           asked; /* the position that `at` is of; empty: none */
    struct my_chunk_row *rows;
};

struct my_host {
    char    *name;
    unsigned port;
};

struct my_map {
    struct my_table table;
    uint32_t        want; /* want_count: none of ours */
};

struct my_source {
    struct source   base;
    const char     *socket, *user, *password, *database, *ca_file, *restart;
    struct my_host *hosts; /* the first is `host`; tried in turn */
    uint32_t        host_count, host_at;
    uint32_t        server_id, chunk_rows;
    size_t          tls; /* off, on, verify */
    bool            snapshot, any_images, any_cascades;
    struct my_want *wants;
    uint32_t        want_count;

    MYSQL             *query, *stream;
    MARIADB_RPL       *rpl;
    struct my_charsets charsets;
    bool               looked; /* charsets and tables are known */

    /* the stream */
    bool                 crc, in_group;
    struct my_gtid       gtid;
    struct buf           gtid_text; /* "0-1-47:" */
    uint8_t              gtid_flags;
    int64_t              time_us;
    uint64_t             number; /* of the next row in the group */
    char                 file[256];
    uint64_t             heard_us, kept_us;
    struct my_map        maps[MARIADBI_MAPS];
    uint32_t             map_count, map_next;
    const struct my_map *map; /* of the rows under way; NULL: none */
    struct my_rows       rows;
    bool                 half;    /* of a key's change, the delete is out */
    bool                *emptied; /* wanted tables that a statement emptied, not handed out yet */
    uint32_t             emptied_left, emptied_end;
    struct buf           shape;     /* of a table, to be handed out … */
    bool                 shape_due; /* … now */
    uint32_t             shape_want;
    uint64_t             shape_hash;
    struct my_cell      *cells[2];
    uint32_t             cell_room;
    struct buf           unpacked, scratch, text;

    struct my_chunk chunk;
    uint64_t        rows_read;

    struct my_place  place, next;
    struct my_gtid   target[MARIADBI_DOMAINS_MAX]; /* the server's position, at the last look */
    uint32_t         target_count;
    struct change   *changes;
    struct my_draft *drafts;
    uint32_t         count, room;
    struct buf       bytes, checkpoint, xact_name;
};

/* mariadb.c */
int
mariadbi_ask_position(struct my_source *s, struct my_gtid *out, uint32_t *count, struct err *err);

/* link.c */
int  mariadbi_connect(struct my_source *s, MYSQL **out, struct err *err);
void mariadbi_disconnect(MYSQL **conn);
/* The connection's error as ours; `what` says what was being done. Texts of the server's may hold
 * what was sent: only `say` adds them. */
int mariadbi_fail(struct my_source *s, MYSQL *conn, const char *what, bool say, struct err *err);
/* Runs a statement that answers nothing. */
int mariadbi_run(struct my_source *s, MYSQL *conn, struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Its rows, all in memory; the caller frees them. */
int mariadbi_ask(struct my_source *s, MYSQL *conn, MYSQL_RES **out, struct err *err,
                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The query connection, made where it is not there. */
int  mariadbi_need_query(struct my_source *s, struct err *err);
void mariadbi_add_name(struct buf *sql, const char *name);
void mariadbi_add_text(MYSQL *conn, struct buf *sql, struct slice text);
void mariadbi_drop(struct my_source *s); /* both connections and what came over them */

/* place.c */
int  mariadbi_place_init(struct my_place *p, uint32_t wants, struct err *err);
void mariadbi_place_fini(struct my_place *p);
int  mariadbi_place_copy(struct my_place *to, const struct my_place *from, uint32_t wants,
                         struct err *err);
void mariadbi_place_write(const struct my_source *s, const struct my_place *p, struct buf *out);
/* Into s->place; *anew: it was made under another `restart`. */
int mariadbi_place_read(struct my_source *s, struct slice checkpoint, bool *anew, struct err *err);
/* "0-1-47,7-1-1" */
int  mariadbi_gtids_read(struct slice text, struct my_gtid *out, uint32_t *count, struct err *err);
void mariadbi_gtids_write(const struct my_gtid *gtids, uint32_t count, struct buf *out);
/* Whether all of b's transactions are in a. */
bool mariadbi_gtids_reach(const struct my_gtid *a, uint32_t a_count, const struct my_gtid *b,
                          uint32_t b_count);
/* All tables' differences. */
void mariadbi_place_all_again(struct my_source *s, struct my_place *p);
/* For source.again. */
int
mariadbi_again(struct source *, const struct source_again *, struct source_batch *, struct err *);
int mariadbi_place_pass(struct my_place *p, const struct my_gtid *gtid, struct err *err);

/* schema.c */
/* Asks for charsets and tables and holds them against what is needed; each trouble is said. */
int mariadbi_look(struct my_source *s, finding_fn *say, void *arg, struct err *err);
/* One table's columns, where the log knows one that was not there before. */
int  mariadbi_look_again(struct my_source *s, struct my_want *w, struct err *err);
void mariadbi_want_forget(struct my_want *w);

/* ddl.c */
enum my_effect {
    MY_EFFECT_NONE,
    MY_EFFECT_ROWS,    /* it changes rows, and the log holds its text only */
    MY_EFFECT_EMPTIED, /* the table has no rows any more */
    MY_EFFECT_LOST,    /* it has other rows now, and nobody says which */
};
enum my_effect
mariadbi_effect(struct slice sql, struct slice current_db, const char *db, const char *table);

/* stream.c */
int  mariadbi_stream_open(struct my_source *s, struct err *err);
bool mariadbi_stream_ready(struct my_source *s, int wait_ms);
/* One packet: 0, and rows may be under way then. */
int mariadbi_stream_take(struct my_source *s, struct err *err);
/* Whether changes of the last packet are not handed out yet; mariadbi_stream_row is next then. */
bool mariadbi_stream_pending(const struct my_source *s);
/* The next one: at most one draft. */
int              mariadbi_stream_row(struct my_source *s, struct err *err);
struct my_draft *mariadbi_draft(struct my_source *s, enum change_op op, uint32_t want);

/* shape.c */
/* What the map says of a wanted table: due where it is not what was said last. */
int  mariadbi_shape_take(struct my_source *s, const struct my_map *m, struct err *err);
void mariadbi_shape_put(struct my_source *s);

/* snapshot.c */
/* The columns of a table's rows, FROM and the table. */
void            mariadbi_snapshot_select(const struct my_want *w, struct buf *sql);
struct my_value mariadbi_snapshot_value(struct my_source *s, const struct my_field *f,
                                        const char *text, unsigned long len);
/* A transaction whose place in the log the chunk has; *seen: it sees all that was streamed. */
int mariadbi_snapshot_begin(struct my_source *s, bool *seen, struct err *err);
int mariadbi_snapshot_room(struct my_source *s, uint32_t rows, struct err *err);
/* Captured keys whose rows may be gone: a chunk of those that are. */
int mariadbi_missing_read(struct my_source *s, uint32_t want, struct err *err);
/* The table whose snapshot is due; want_count: none. */
uint32_t mariadbi_snapshot_due(const struct my_source *s);
uint32_t mariadbi_snapshot_due_of(const struct my_source *s, const struct my_place *p);
int      mariadbi_snapshot_read(struct my_source *s, struct err *err);
bool     mariadbi_snapshot_ripe(const struct my_source *s);
int      mariadbi_snapshot_give(struct my_source *s, uint32_t max, struct err *err);
void     mariadbi_snapshot_drop(struct my_source *s);

#endif
