/* Between the files of src/store/http only. */
#ifndef OX_STORE_HTTP_HTTP_INT_H
#define OX_STORE_HTTP_HTTP_INT_H

#include "net/http.h"
#include "net/rows.h"
#include "net/service.h"
#include "store/store.h"

#define HTTPI_FENCED_MAX 16
#define HTTPI_HEADERS_MAX (NET_HEADERS_MAX + 8)

/* Statuses, and within them words of the member "error", that mean an older epoch. */
struct httpi_fenced {
    int  status;
    char error[64]; /* empty: any */
};

struct httpi_store {
    struct store        store;
    struct net_service *service;
    struct net_scan    *scan;
    struct net_shape   *shape;
    struct template    *item, *position, *guard;
    bool                version_in_row;
    char                epoch_header[65], origin_header[65], row_path[257], position_path[257];
    char                epoch_name[65], authority_name[65], here[65], elsewhere[65];
    char                moved_to_name[65]; /* empty: the service has none */
    uint32_t            fenced_count;
    struct httpi_fenced fenced[HTTPI_FENCED_MAX];
    char                item_get[160], item_put[160], item_del[160], position_get[160]; /* labels */
    char                guard_get[160], guard_put[160];
    struct buf          url, scratch, etag, body, text;
};

extern const struct conf_type storei_http_schema;

/* Headers of the configuration first; `count` grows with each. */
struct httpi_headers {
    struct net_header list[HTTPI_HEADERS_MAX];
    uint32_t          count;
};
void storei_http_headers_start(struct httpi_store *, struct httpi_headers *);
void storei_http_headers_add(struct httpi_headers *, const char *name, struct slice value);

/* GET of s->url: 0 with a 2xx answer; E_NOTFOUND for 404. */
int storei_http_get(struct httpi_store *, const char *label, struct net_answer *, struct err *);
/* The URL of an item or of anything without placeholders, into s->url. */
int storei_http_url(struct httpi_store *, const struct template *, struct slice key, struct err *);

/* A status as an error of a store: E_FENCED where the configuration says so, else net_status. */
int storei_http_status(struct httpi_store *, const struct net_answer *, const char *label,
                       bool changes, struct err *);

int storei_http_put(struct store *, const struct store_write *, struct err *);
int storei_http_del(struct store *, const struct store_write *, struct err *);
int storei_http_row(struct store *, struct slice key, struct store_row *, struct err *);

int storei_http_guard_set(struct store *, const struct store_guard *, struct err *);
int storei_http_guard_install(struct store *, const struct store_guard *, struct err *);
int storei_http_guard_get(struct store *, struct store_guard *, struct err *);
int storei_http_guard_remove(struct store *, struct err *);

#endif
