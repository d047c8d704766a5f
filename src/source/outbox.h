/*
 * An outbox: a table into which an application writes its messages, in the
 * transaction that makes them true. What its columns are called, and what is
 * made of a row, as the configuration says it; Debezium's names are the presets.
 */
#ifndef OX_SOURCE_OUTBOX_H
#define OX_SOURCE_OUTBOX_H

#include <stddef.h>

#include "base/conf.h"

#define OUTBOX_METADATA_MAX 32

/* How the payload's column is read; enum outbox_payload is its place in the list. */
enum outbox_payload {
    OUTBOX_PAYLOAD_AUTO, /* text that is JSON is JSON, other text and bytes are as they are */
    OUTBOX_PAYLOAD_JSON, /* as JSON: a text is a string */
    OUTBOX_PAYLOAD_TEXT, /* text, never looked into */
    OUTBOX_PAYLOAD_HEX,  /* PostgreSQL's \x…, as the WAL has a bytea */
};

struct outbox_columns {
    const char *id, *aggregatetype, *aggregateid, *type, *payload;
    const char *headers;   /* may be no column of the table */
    const char *timestamp; /* NULL: the transaction's time */
};

/* Texts are the tree's. */
struct outbox_conf {
    const char           *table;   /* NULL: any */
    const char           *message; /* prefix of logical messages; NULL: none */
    struct outbox_columns columns;
    const char           *stream; /* a template over the columns */
    enum outbox_payload   payload;
    const char           *metadata[OUTBOX_METADATA_MAX]; /* further columns */
    size_t                metadata_count;
    bool                  updates_ignored; /* else they are parked */
};

extern const char *const source_outbox_payloads[];

/* What sources that poll an outbox and those that read a log have in common. */
#define SOURCE_OUTBOX_FIELDS                                                                       \
    {.name = "columns",                                                                            \
     .type = {.kind = CONF_OBJECT, .fields = source_outbox_column_fields},                         \
     .preset = "{}",                                                                               \
     .doc = "what the outbox's columns are called"},                                               \
        {.name = "stream",                                                                         \
         .type = {.kind = CONF_STRING, .min = 1, .max = 400},                                      \
         .preset = "{aggregatetype}-{aggregateid}",                                                \
         .doc = "the stream's name, of columns as they are called in the table"},                  \
        {.name = "payload",                                                                        \
         .type = {.kind = CONF_ENUM, .values = source_outbox_payloads},                            \
         .preset = "auto",                                                                         \
         .doc = "how the payload is read: auto, json, text or hex"},                               \
    {                                                                                              \
        .name = "metadata",                                                                        \
        .type = {.kind = CONF_LIST, .of = &source_outbox_name_type, .max = OUTBOX_METADATA_MAX},   \
        .preset = "[]", .doc = "further columns that go into the metadata"                         \
    }

extern const struct conf_field source_outbox_column_fields[];
extern const struct conf_type  source_outbox_name_type;

/* `outbox` of a source that reads a log. */
extern const struct conf_field source_outbox_fields[];

/* Of an object with SOURCE_OUTBOX_FIELDS. */
void source_outbox_read(const struct conf *conf, struct outbox_conf *out);
/* Of an object with source_outbox_fields. */
void source_outbox_read_all(const struct conf *conf, struct outbox_conf *out);

#endif
