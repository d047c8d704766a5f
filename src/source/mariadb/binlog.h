/*
 * Events of MariaDB's binary log as bytes: a pure decoder. An event is checked
 * once (length, checksum), then read by the function for its type. Slices
 * point into the event, or for compressed ones into the caller's buffer.
 * Anything that is not as it must be is E_DAMAGED, of kind ERR_FATAL: going on
 * would lose changes.
 */
#ifndef OX_SOURCE_MARIADB_BINLOG_H
#define OX_SOURCE_MARIADB_BINLOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

#define MARIADBI_HEADER 19
#define MARIADBI_EVENT_MAX ((size_t)1 << 30)

enum my_event_type {
    MY_QUERY = 2,
    MY_STOP = 3,
    MY_ROTATE = 4,
    MY_FORMAT = 15,
    MY_XID = 16,
    MY_TABLE_MAP = 19,
    MY_WRITE_ROWS = 23,
    MY_UPDATE_ROWS = 24,
    MY_DELETE_ROWS = 25,
    MY_INCIDENT = 26,
    MY_HEARTBEAT = 27,
    MY_WRITE_ROWS_V2 = 30,
    MY_UPDATE_ROWS_V2 = 31,
    MY_DELETE_ROWS_V2 = 32,
    MY_XA_PREPARE = 38,
    MY_ANNOTATE = 160,
    MY_CHECKPOINT = 161,
    MY_GTID = 162,
    MY_GTID_LIST = 163,
    MY_START_ENCRYPTION = 164,
    MY_QUERY_COMPRESSED = 165,
    MY_WRITE_ROWS_COMPRESSED = 166,
    MY_UPDATE_ROWS_COMPRESSED = 167,
    MY_DELETE_ROWS_COMPRESSED = 168,
};

enum my_event_flags {
    MY_EVENT_ARTIFICIAL = 0x20, /* made up by the server: it stands in no file */
    MY_EVENT_IGNORABLE = 0x80,
};

struct my_event {
    uint32_t     time; /* s since 1970; 0 for artificial ones */
    uint8_t      type; /* enum my_event_type, or one that is not known */
    uint32_t     server;
    uint32_t     end; /* the position after it in its file */
    uint16_t     flags;
    struct slice body; /* without header and checksum */
};

/* `crc`: whether events carry a checksum, as the last FORMAT said. A FORMAT says it of itself. */
int mariadbi_event_take(struct slice bytes, bool crc, struct my_event *out, struct err *err);

/* Whether the events that follow carry a checksum; one that is not CRC32 is refused. */
int mariadbi_format_take(const struct my_event *e, bool *crc, struct err *err);

struct my_gtid {
    uint32_t domain, server;
    uint64_t seq;
};

enum my_gtid_flags {
    MY_GTID_STANDALONE = 1, /* one event follows, no end of a transaction */
    MY_GTID_COMMIT_ID = 2,
    MY_GTID_DDL = 0x20,
    MY_GTID_PREPARED_XA = 0x40,
    MY_GTID_COMPLETED_XA = 0x80,
};

int
mariadbi_gtid_take(const struct my_event *e, struct my_gtid *out, uint8_t *flags, struct err *err);

/* The entries of a GTID_LIST, one at a time; at 0 first. E_END after the last. */
int mariadbi_gtid_list_next(const struct my_event *e, uint32_t at, struct my_gtid *out,
                            struct err *err);

/* ROTATE and HEARTBEAT: the file, and for ROTATE the position in it. */
int mariadbi_file_take(const struct my_event *e, struct slice *file, uint64_t *position,
                       struct err *err);

struct my_query {
    struct slice db, sql;
    uint16_t     error;
};

/* QUERY, compressed or not. */
int mariadbi_query_take(const struct my_event *e, struct buf *scratch, struct my_query *out,
                        struct err *err);

/* What a compressed field holds: `u8 0x80 | length's bytes, length BE, zlib`. */
int mariadbi_inflate(struct slice packed, struct buf *out, struct err *err);

/* A cursor over bytes: past the end it gives zeros and stays `failed`. */
struct my_cursor {
    const uint8_t *at, *end;
    bool           failed;
};

void         mariadbi_cursor_init(struct my_cursor *c, struct slice bytes);
struct slice mariadbi_cursor_bytes(struct my_cursor *c, size_t len);
uint64_t     mariadbi_cursor_le(struct my_cursor *c, unsigned len); /* at most 8 bytes */
uint64_t     mariadbi_cursor_be(struct my_cursor *c, unsigned len);
uint64_t     mariadbi_cursor_lenenc(struct my_cursor *c); /* NULL (251) fails */

static inline size_t
mariadbi_cursor_left(const struct my_cursor *c)
{
    return (size_t)(c->end - c->at);
}

#endif
