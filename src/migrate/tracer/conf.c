/* What a migration's part of the configuration looks like. */
#include "migrate/tracer/tracer.h"

static const struct conf_type text = {.kind = CONF_STRING, .max = 4000};
static const struct conf_type name_text = {.kind = CONF_STRING, .min = 1, .max = 200};
static const struct conf_type value_map = {.kind = CONF_MAP, .of = &text, .min = 1, .max = 1000};

static const struct conf_field source_fields[] = {{0}};
static const struct conf_field store_fields[] = {{0}};

static const struct conf_field side_fields[] = {
    {.name = "name",
     .type = {.kind = CONF_STRING, .min = 1, .max = 60, .chars = "a-zA-Z0-9_"},
     .doc = "what people call it; said to writers that come to the wrong side"},
    {.name = "source",
     .type = {.kind = CONF_DRIVER, .fields = source_fields, .family = "source"},
     .required = true,
     .doc = "its feed of changes"},
    {.name = "store",
     .type = {.kind = CONF_DRIVER, .fields = store_fields, .family = "store"},
     .required = true,
     .doc = "its rows"},
    {0},
};

static const struct conf_field verify_fields[] = {
    {.name = "chunk",
     .type = {.kind = CONF_INT, .min = 1, .max = 10000},
     .preset = "500",
     .doc = "rows of a range"},
    {.name = "stale_after",
     .type = {.kind = CONF_DURATION},
     .preset = "1h",
     .doc = "when a clean pass counts no more"},
    {.name = "stale_max",
     .type = {.kind = CONF_INT, .min = 1, .max = 100000},
     .preset = "200",
     .doc = "the most keys that may be left to verify under the fence"},
    {.name = "attempts",
     .type = {.kind = CONF_INT, .min = 1, .max = 1000},
     .preset = "20",
     .doc = "how often a key that keeps changing is read again"},
    {0},
};

static const struct conf_field fields[] = {
    {.name = "old",
     .type = {.kind = CONF_OBJECT, .fields = side_fields},
     .required = true,
     .doc = "where the truth comes from"},
    {.name = "new",
     .type = {.kind = CONF_OBJECT, .fields = side_fields},
     .required = true,
     .doc = "where it goes"},
    {.name = "columns",
     .type = {.kind = CONF_MAP, .of = &name_text, .min = 1, .max = 256},
     .required = true,
     .doc = "what moves: old name to new name"},
    {.name = "values",
     .type = {.kind = CONF_MAP, .of = &value_map, .min = 1, .max = 256},
     .doc = "by old column: old text to new text, one to one"},
    {.name = "where",
     .type = {.kind = CONF_STRING, .min = 1, .max = 4000},
     .doc = "which rows of the old feed move: COLUMN is [not] null, COLUMN = 'x', != 'x', "
            "in ('x', …), joined by and"},
    {.name = "backfill",
     .type = {.kind = CONF_BOOL},
     .preset = "true",
     .doc = "whether the backfill runs; may be stopped and resumed later"},
    {.name = "canary",
     .type = {.kind = CONF_BOOL},
     .preset = "true",
     .doc = "whether preflight writes a row to the new side, reads it back and deletes it"},
    {.name = "canary_key",
     .type = {.kind = CONF_STRING, .min = 1, .max = LOG_NAME_MAX},
     .doc = "its key, where the new side takes neither negative numbers nor any text; one that "
            "no row ever has"},
    {.name = "lease",
     .type = {.kind = CONF_DURATION, .min = 10000, .max = 600000000},
     .preset = "2s",
     .doc = "how long writes may be held before the fence falls back"},
    {.name = "workers",
     .type = {.kind = CONF_INT, .min = 1, .max = 64},
     .preset = "8",
     .doc = "keys that are written at once"},
    {.name = "retries",
     .type = {.kind = CONF_INT, .min = 0, .max = 1000},
     .preset = "3",
     .doc = "how often a write that was refused for good is tried before the migration halts"},
    {.name = "verify",
     .type = {.kind = CONF_OBJECT, .fields = verify_fields},
     .preset = "{}",
     .doc = "how equality is proved"},
    {0},
};

const struct conf_type tracer_conf_type = {.kind = CONF_OBJECT, .fields = fields};
