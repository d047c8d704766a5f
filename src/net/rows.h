/*
 * Rows as a JSON service shows them, one by one and in pages: where in an
 * answer a row, its key and its version stand, and which of its fields count.
 */
#ifndef OX_NET_ROWS_H
#define OX_NET_ROWS_H

#include "net/service.h"

#define NET_FIELDS_MAX 256

struct net_shape;

struct net_row {
    struct slice key, fields, version; /* valid until the next row is read */
};

/*
 * `key` and `version` are dotted paths in a row, `version` may be NULL. Only
 * the members in the list `fields` count; NULL or an empty one: all of them.
 */
int  net_shape_new(const char *key, const char *version, const struct conf *fields,
                   bool missing_is_null, struct net_shape **, struct err *);
void net_shape_free(struct net_shape *); /* NULL is fine */

/*
 * Reads one checked row; its fields come out in canonical form. E_SCHEMA,
 * ERR_FATAL, where one is missing: the service is no longer what it was. The
 * key may be empty only where none is asked for.
 */
int
net_shape_read(struct net_shape *, struct slice raw, bool want_key, struct net_row *, struct err *);
/* The canonical form of only those fields of a row that count. */
int net_shape_fields(struct net_shape *, struct slice raw, struct buf *out, struct err *);

/* Pages of rows in key order; the fields of its CONF_OBJECT. */
extern const struct conf_field net_scan_fields[];

struct net_scan;

int  net_scan_new(struct net_service *, const struct conf *, struct net_scan **, struct err *);
void net_scan_free(struct net_scan *); /* NULL is fine */

uint32_t    net_scan_page_max(const struct net_scan *);
const char *net_scan_key(const struct net_scan *); /* path in a row */
const char *net_scan_label(const struct net_scan *);

/* The URL of the page after this key (empty: the first), of at most limit rows. */
int
net_scan_url(struct net_scan *, struct slice after, uint32_t limit, struct buf *url, struct err *);

/* Takes a copy of an answer's body; then net_scan_next until E_END. */
int net_scan_open(struct net_scan *, struct slice body, struct err *);
int net_scan_next(struct net_scan *, struct slice *raw, struct err *);
/* After E_END: whether there is a page after this one. */
bool net_scan_more(const struct net_scan *);

#endif
