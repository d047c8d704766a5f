/*
 * One JSON service as the configuration describes it: where it is, what every
 * request carries, how long to wait. The source, the sink and the store of
 * type `http` begin with the same keys, NET_SERVICE_FIELDS.
 */
#ifndef OX_NET_SERVICE_H
#define OX_NET_SERVICE_H

#include "base/conf.h"
#include "base/template.h"
#include "net/http.h"

#define NET_HEADERS_MAX 16 /* of the configuration */

struct net_service;

extern const struct conf_type net_header_type;
extern const char *const      net_versions[]; /* in the order of enum net_version */

/* The first entries of a schema; field by field, as a table is const. */
#define NET_SERVICE_FIELDS                                                                         \
    {.name = "url",                                                                                \
     .type = {.kind = CONF_URL},                                                                   \
     .required = true,                                                                             \
     .doc = "where the service is; the other URLs go on from here"},                               \
        {.name = "headers",                                                                        \
         .type = {.kind = CONF_MAP,                                                                \
                  .max = NET_HEADERS_MAX,                                                          \
                  .chars = "A-Za-z0-9_-",                                                          \
                  .of = &net_header_type},                                                         \
         .preset = "{}",                                                                           \
         .doc = "sent with every request"},                                                        \
        {.name = "connect_timeout",                                                                \
         .type = {.kind = CONF_DURATION, .min = 1000, .max = 3600000000},                          \
         .preset = "5s",                                                                           \
         .doc = "to wait for a connection"},                                                       \
        {.name = "timeout",                                                                        \
         .type = {.kind = CONF_DURATION, .min = 1000, .max = 3600000000},                          \
         .preset = "10s",                                                                          \
         .doc = "to wait for a whole answer"},                                                     \
        {.name = "answer_max",                                                                     \
         .type = {.kind = CONF_SIZE, .min = 4096, .max = 1 << 30},                                 \
         .preset = "16MiB",                                                                        \
         .doc = "a larger answer is refused"},                                                     \
        {.name = "http_version",                                                                   \
         .type = {.kind = CONF_ENUM, .values = net_versions},                                      \
         .preset = "auto",                                                                         \
         .doc = "auto: HTTP/2 where the server offers it under TLS; or 1.1"},                      \
    {                                                                                              \
        .name = "ca_file", .type = {.kind = CONF_PATH},                                            \
        .doc = "certificates to trust instead of the system's"                                     \
    }

int  net_service_new(struct ox_env *, const struct conf *, uint32_t in_flight_max,
                     struct net_service **, struct err *);
void net_service_free(struct net_service *); /* NULL is fine */

struct net_client *net_service_client(struct net_service *);
struct slice       net_service_url(const struct net_service *);
uint32_t           net_service_timeout_ms(const struct net_service *);

/* A URL of the service with placeholders: "/orders/{key}", or a whole one. conf's key names it. */
int net_service_template(struct net_service *, const struct conf *, const char *key,
                         template_known_fn *, void *arg, struct template **, struct err *);

/* Fills `out` (room for NET_HEADERS_MAX); how many. They live as long as the service. */
uint32_t net_service_headers(const struct net_service *, struct net_header *out);

struct net_var {
    const char  *name; /* NULL ends a table */
    struct slice value;
};

/* For net_service_template: arg is a table of struct net_var, of which only names are read. */
bool net_var_known(void *arg, struct slice name);
/* For template_expand: arg is a table of struct net_var. */
int net_var_lookup(void *arg, struct slice name, bool raw, struct buf *value, struct err *);

/* The text of a scalar: a string's characters, a number as it stands. E_SCHEMA for anything else.
 */
int net_text_of(struct slice raw, const char *what, struct buf *out, struct err *);

#endif
