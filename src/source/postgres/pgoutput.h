/*
 * pgoutput's messages and the envelopes they travel in, as bytes: protocols 1
 * to 4, with `in_stream` what protocol 2 adds. Nothing here allocates; slices point into the
 * message. A message that was parsed was checked to its last byte, so going
 * through its columns and values cannot fail.
 */
#ifndef OX_SOURCE_POSTGRES_PGOUTPUT_H
#define OX_SOURCE_POSTGRES_PGOUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

/* A byte position in a server's write-ahead log. */
struct pg_lsn {
    uint64_t v;
};

#define PG_LSN_TEXT 24
#define PG_STATUS_BYTES 34

/* "16/B374D848" */
void postgresi_lsn_format(struct pg_lsn lsn, char out[PG_LSN_TEXT]);
bool postgresi_lsn_parse(struct slice text, struct pg_lsn *out);

struct pg_envelope {
    char          kind;    /* 'w': a message is in `payload`; 'k': keepalive */
    struct pg_lsn wal_end; /* all up to here was sent, of a keepalive */
    int64_t       sent_us; /* by the server's clock, since 1970 */
    bool          reply;   /* the server wants to hear of us now */
    struct slice  payload;
};

int  postgresi_envelope_parse(struct slice bytes, struct pg_envelope *out, struct err *err);
void postgresi_status_build(uint8_t out[PG_STATUS_BYTES], struct pg_lsn received,
                            struct pg_lsn durable, int64_t now_us, bool reply);

enum pg_message_kind {
    PG_BEGIN = 'B',
    PG_COMMIT = 'C',
    PG_ORIGIN = 'O',
    PG_RELATION = 'R',
    PG_TYPE = 'Y',
    PG_INSERT = 'I',
    PG_UPDATE = 'U',
    PG_DELETE = 'D',
    PG_TRUNCATE = 'T',
    PG_MESSAGE = 'M',
    PG_STREAM_START = 'S',
    PG_STREAM_STOP = 'E',
    PG_STREAM_COMMIT = 'c',
    PG_STREAM_ABORT = 'A',
    PG_BEGIN_PREPARE = 'b',
    PG_PREPARE = 'P',
    PG_COMMIT_PREPARED = 'K',
    PG_ROLLBACK_PREPARED = 'r',
    PG_STREAM_PREPARE = 'p',
};

struct pg_message {
    enum pg_message_kind kind;
    uint32_t             xid;    /* of the transaction; in a stream: of the subtransaction */
    uint32_t             subxid; /* A: what was rolled back */
    struct pg_lsn commit;  /* B, C, c, K: of the commit's record; b, P, p: of the preparation's;
                              r: after the preparation's */
    struct pg_lsn end;     /* after that record, r: after the rollback's: what to confirm */
    int64_t       time_us; /* of that record, since 1970 */
    uint32_t      relation;
    char          identity; /* R: d, n, f or i */
    struct slice  schema,
        name;              /* R; name also of O, M's prefix, and what one that is prepared has */
    uint32_t     count;    /* R: columns; T: relations */
    uint8_t      flags;    /* M: 1 transactional; T: 1 cascade, 2 restart identity */
    struct slice list;     /* R: columns; T: relations */
    char         old_kind; /* U, D: 'K' only the key, 'O' all; 0: no old row */
    struct slice old, new; /* rows */
    struct slice content;  /* M */
    struct slice body;     /* all behind its kind, and the number that it has in a stream */
};

/* E_FORMAT, ERR_FATAL. `in_stream`: between the messages S and E. */
int postgresi_message_parse(struct slice bytes, bool in_stream, struct pg_message *out,
                            struct err *err);

struct pg_column {
    bool         key; /* of the replica identity */
    struct slice name;
    uint32_t     type;
    int32_t      typmod;
};

/* The next column of a relation's `list`, which is moved on; false: none. */
bool postgresi_column_next(struct slice *list, struct pg_column *out);
/* The next relation of a truncation. */
bool postgresi_relation_next(struct slice *list, uint32_t *out);

struct pg_value {
    char         kind; /* 'n' null, 'u' unchanged and not sent, 't' text */
    struct slice text;
};

/* How many values a row has; and the next one of `row`, at first all of it after that count. */
uint32_t postgresi_row_begin(struct slice *row);
bool     postgresi_value_next(struct slice *row, struct pg_value *out);

#endif
