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
#define HTTPI_BATCH_MAX 1000

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
    bool                     waiting; /* for a token */
    int                      rc;
    struct err               err;
};

struct httpi_sink {
    struct sink         sink;
    struct net_service *service;
    struct httpi_rule  *rules;
    uint32_t            rule_count, credit, decided, waiting;
    struct httpi_auth  *auth;
    /* The breaker: after `fail_max` failures in a row nothing is sent for a while, then one. */
    uint32_t fails, fail_max;
    uint64_t fail_pause_us;
    bool     tripped;
    /* batch.c */
    bool               batch, batch_array;
    size_t             batch_bytes;
    uint64_t           batch_wait_us;
    struct sink_item **items;
    uint32_t           count;
    bool               skip_others;
    enum sink_format   format; /* raw: requests as the rules say */
    struct sink_form  *form;
    struct httpi_slot *slots;
    struct buf         url, body, scratch, signature, values[HTTPI_RULE_HEADERS_MAX];
};

extern const struct conf_type  sinki_http_schema;
extern const struct conf_field sinki_http_sign_fields[], sinki_http_oauth_fields[],
    sinki_http_batch_fields[];

/* auth.c */
struct httpi_auth;
int  sinki_http_auth_open(struct ox_env *, const struct conf *, struct httpi_auth **, struct err *);
void sinki_http_auth_free(struct httpi_auth *); /* NULL is fine */
bool sinki_http_auth_is_stale(const struct httpi_auth *, uint64_t now_us);
void sinki_http_auth_refused(struct httpi_auth *); /* a new token is needed */
int  sinki_http_auth_renew(struct httpi_auth *, uint64_t now_us, struct err *);
/* Adds at most two; `text` is used. */
int sinki_http_auth_headers(struct httpi_auth *, int64_t wall_us, struct slice body,
                            struct buf *text, struct net_header *, uint32_t *count, struct err *);

/* batch.c */
int sinki_http_batch_open(struct httpi_sink *, const struct conf *, struct err *);
int sinki_http_batch_poll(struct httpi_sink *, struct err *);

/* http.c */
int  sinki_http_rule_headers(struct httpi_sink *, const struct httpi_rule *, struct sink_item *,
                             struct net_header *, uint32_t *count, struct err *);
int  sinki_http_judge(struct httpi_sink *, const struct httpi_rule *, const struct net_answer *,
                      struct err *);
void sinki_http_breaker_count(struct httpi_sink *, int rc, struct err *);

int  sinki_http_conf(struct httpi_sink *, const struct conf *, struct err *);
void sinki_http_conf_free(struct httpi_sink *);

/* NULL: none. */
const struct httpi_rule *sinki_http_match(const struct httpi_sink *, struct slice type);

#endif
