/* Between the files of src/sink/http only. */
#ifndef OX_SINK_HTTP_HTTP_INT_H
#define OX_SINK_HTTP_HTTP_INT_H

#include "net/http.h"
#include "net/service.h"
#include "sink/fill.h"
#include "sink/message.h"
#include "sink/sink.h"

#define HTTPI_RULES_MAX 256
#define HTTPI_RULE_HEADERS_MAX 8
#define HTTPI_STATUSES_MAX 16
#define HTTPI_CREDIT_MAX 256

/* What becomes of the events of a type. */
struct httpi_rule {
    char            *type, *type_prefix; /* NULL: any */
    char             method[16], label[160];
    struct template *url;
    struct template *body; /* NULL: the event's data, or nothing where `bare` */
    bool             bare; /* DELETE and GET carry no body unless one is configured */
    uint32_t         header_count, done_count, retry_count;
    char            *header_names[HTTPI_RULE_HEADERS_MAX];
    struct template *headers[HTTPI_RULE_HEADERS_MAX];
    int              done[HTTPI_STATUSES_MAX], retry[HTTPI_STATUSES_MAX];
};

/* An item between submit and sink_done. */
struct httpi_slot {
    struct sink_item        *item; /* NULL: free */
    const struct httpi_rule *rule;
    bool                     decided; /* without a request */
    int                      rc;
    struct err               err;
};

struct httpi_sink {
    struct sink         sink;
    struct net_service *service;
    struct httpi_rule  *rules;
    uint32_t            rule_count, credit, decided;
    bool                skip_others;
    enum sink_format    format; /* raw: requests as the rules say */
    struct sink_form   *form;
    struct httpi_slot  *slots;
    struct buf          url, body, scratch, values[HTTPI_RULE_HEADERS_MAX];
};

extern const struct conf_type sinki_http_schema;

int  sinki_http_conf(struct httpi_sink *, const struct conf *, struct err *);
void sinki_http_conf_free(struct httpi_sink *);

/* NULL: none. */
const struct httpi_rule *sinki_http_match(const struct httpi_sink *, struct slice type);

#endif
