/*
 * An event as a message: CloudEvents 1.0.2 in the binding of the protocol, or
 * its data as it stands. Pure: the same event always makes the same message.
 *
 * Attributes: id, source, type, subject (the stream), time (`created`), and the extensions
 * partitionkey (the stream), sequence (the version in 20 digits), oxbowposition, and traceparent
 * and tracestate out of the metadata. The last two are headers of their own too, whatever the
 * format.
 *
 *   binary      an attribute a header, the body is the data
 *   structured  the body is the whole as JSON; data that is no JSON becomes data_base64
 *   raw         the body is the data, there are no attributes
 *   debezium    the body is a captured change in Debezium's layout, there are no attributes
 *
 * AMQP 0-9-1 has no binding of the specification's: it gets that of AMQP 1.0, in its headers.
 */
#ifndef OX_SINK_MESSAGE_H
#define OX_SINK_MESSAGE_H

#include "base/conf.h"
#include "base/template.h"
#include "sink/sink.h"

enum sink_binding { SINK_HTTP, SINK_KAFKA, SINK_AMQP, SINK_NATS };
enum sink_format { SINK_BINARY, SINK_STRUCTURED, SINK_RAW, SINK_DEBEZIUM };

#define SINK_HEADERS_OWN_MAX 16
#define SINK_HEADERS_MAX (SINK_HEADERS_OWN_MAX + 16)

extern const char *const      sink_formats[]; /* in the order of the enum; ends with NULL */
extern const struct conf_type sink_header_type;

/* Entries of a schema that sink_form_open reads. */
#define SINK_FORM_FIELDS                                                                           \
    {.name = "format",                                                                             \
     .type = {.kind = CONF_ENUM, .values = sink_formats},                                          \
     .preset = "binary",                                                                           \
     .doc = "CloudEvents binary or structured; raw: the data alone; debezium: its layout"},        \
        {.name = "source",                                                                         \
         .type = {.kind = CONF_STRING, .min = 1, .max = 1024},                                     \
         .preset = "oxbow",                                                                        \
         .doc = "the CloudEvents attribute, a URI with placeholders"},                             \
    {                                                                                              \
        .name = "headers",                                                                         \
        .type = {.kind = CONF_MAP,                                                                 \
                 .max = SINK_HEADERS_OWN_MAX,                                                      \
                 .chars = "A-Za-z0-9_-",                                                           \
                 .of = &sink_header_type},                                                         \
        .preset = "{}", .doc = "further ones, with placeholders"                                   \
    }

struct sink_header {
    const char  *name;
    struct slice value; /* with a NUL behind it, which does not count */
};

/* Lives until the form is filled again or freed, and no longer than the item. */
struct sink_message {
    const char        *content_type; /* NULL: there is no data */
    struct slice       body;         /* .data NULL: no data */
    uint32_t           count;
    struct sink_header headers[SINK_HEADERS_MAX];
};

struct sink_form;

struct sink_form_def {
    enum sink_binding  binding;
    enum sink_format   format;
    const char        *source;
    const struct conf *headers; /* a map of texts; NULL: none */
};

/* Faults of the texts are conf_fail's at `at`. */
int sink_form_new(const struct sink_form_def *, const struct conf *at, struct sink_form **,
                  struct err *);
/* Out of SINK_FORM_FIELDS. */
int  sink_form_open(const struct conf *, enum sink_binding, struct sink_form **, struct err *);
void sink_form_free(struct sink_form *); /* NULL is fine */

/* ERR_DATA: the event lacks what a header needs, or has what no header may hold. */
int
sink_form_fill(struct sink_form *, const struct sink_item *, struct sink_message *, struct err *);

/* A template of the configuration: the text at `key`; NULL where it is absent. */
int sink_template(const struct conf *, const char *key, enum template_kind, struct template **,
                  struct err *);

#endif
