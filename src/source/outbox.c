#include "source/outbox.h"

const char *const        source_outbox_payloads[] = {"auto", "json", "text", "hex", NULL};
static const char *const update_words[] = {"park", "ignore", NULL};

const struct conf_type source_outbox_name_type = {.kind = CONF_STRING, .min = 1, .max = 63};

#define COLUMN(column, text)                                                                       \
    {                                                                                              \
        .name = (column), .type = {.kind = CONF_STRING, .min = 1, .max = 63}, .preset = (column),  \
        .doc = (text)                                                                              \
    }

const struct conf_field source_outbox_column_fields[] = {
    COLUMN("id", "the event's id: a UUID, or whatever names the row"),
    COLUMN("aggregatetype", "the stream's category"),
    COLUMN("aggregateid", "the rest of the stream's name"),
    COLUMN("type", "the event's type"),
    COLUMN("payload", "the event's data"),
    COLUMN("headers", "a JSON object that goes into the metadata; it need not be there"),
    {.name = "timestamp",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .doc = "when the event was created; not given: as the database's log says"},
    {0},
};

const struct conf_field source_outbox_fields[] = {
    {.name = "table",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .preset = "outbox",
     .doc = "which of the tables is the outbox"},
    {.name = "message",
     .type = {.kind = CONF_STRING, .min = 1, .max = 63},
     .doc = "the prefix of logical messages that are rows of an outbox without a table"},
    {.name = "updates",
     .type = {.kind = CONF_ENUM, .values = update_words},
     .preset = "park",
     .doc = "of rows of the outbox, which are no events: park or ignore"},
    SOURCE_OUTBOX_FIELDS,
    {0},
};

void
source_outbox_read(const struct conf *conf, struct outbox_conf *out)
{
    const struct conf *c = conf_child(conf, "columns"), *m;

    *out = (struct outbox_conf){
        .columns = {.id = conf_str(c, "id"),
                    .aggregatetype = conf_str(c, "aggregatetype"),
                    .aggregateid = conf_str(c, "aggregateid"),
                    .type = conf_str(c, "type"),
                    .payload = conf_str(c, "payload"),
                    .headers = conf_str(c, "headers"),
                    .timestamp = conf_str(c, "timestamp")},
        .stream = conf_str(conf, "stream"),
        .payload = (enum outbox_payload)conf_enum(conf, "payload"),
    };
    for (m = conf_first(conf_child(conf, "metadata"));
         m != NULL && out->metadata_count < OUTBOX_METADATA_MAX; m = conf_next(m))
        out->metadata[out->metadata_count++] = conf_text(m);
}

void
source_outbox_read_all(const struct conf *conf, struct outbox_conf *out)
{
    source_outbox_read(conf, out);
    out->table = conf_str(conf, "table");
    out->message = conf_str(conf, "message");
    out->updates_ignored = conf_enum(conf, "updates") == 1;
}
