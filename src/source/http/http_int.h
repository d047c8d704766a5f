/* Between the files of src/source/http only. */
#ifndef OX_SOURCE_HTTP_HTTP_INT_H
#define OX_SOURCE_HTTP_HTTP_INT_H

#include "net/http.h"
#include "net/rows.h"
#include "net/service.h"
#include "source/source.h"

#define HTTPI_OPS_MAX 16
#define HTTPI_GONE_MAX 8
#define HTTPI_PATH_MAX 128

struct httpi_op {
    char           word[64];
    enum change_op op;
};

/* Where things stand in an answer and in a change: dotted paths, empty where there is none. */
struct httpi_paths {
    char list[HTTPI_PATH_MAX], next[HTTPI_PATH_MAX], head[HTTPI_PATH_MAX];
    char cursor[HTTPI_PATH_MAX], op[HTTPI_PATH_MAX], key[HTTPI_PATH_MAX], row[HTTPI_PATH_MAX];
    char before[HTTPI_PATH_MAX], origin[HTTPI_PATH_MAX], time[HTTPI_PATH_MAX];
};

/* Where the bytes of a change lie in `bytes`, which moves while it grows. */
struct httpi_span {
    size_t at, len;
};

struct httpi_change {
    enum change_op    op;
    struct httpi_span key, before, after, origin, position;
    int64_t           time_us;
};

struct httpi_source {
    struct source       source;
    struct net_service *service;
    struct net_scan    *scan; /* NULL: no snapshot */
    struct net_shape   *shape;
    struct template    *changes_url, *position_url;
    struct httpi_paths  paths;
    struct httpi_op     ops[HTTPI_OPS_MAX];
    uint32_t            op_count, gone_count;
    int                 gone[HTTPI_GONE_MAX];
    uint32_t            limit, wait_ms;
    char                table[256], begin[256], position_path[HTTPI_PATH_MAX];
    char                changes_label[160], position_label[160];

    struct buf cursor;     /* raw JSON: where the feed goes on */
    struct buf head;       /* raw JSON: as the last answer said; empty: it did not */
    struct buf scan_after; /* while `scanning`: the last key that was read */
    bool       scanning, caught_up;
    uint64_t   scanned;

    /* The request in flight, and what became of it. */
    bool              asked, answered;
    uint32_t          asked_max;
    int               answer_rc;
    struct err        answer_err;
    struct net_answer answer;

    /* The batch that was given out last. */
    struct buf           bytes, checkpoint, url, scratch, text;
    struct httpi_change *found;
    struct change       *changes;
    uint32_t             count, room;
};

extern const struct conf_type sourcei_http_schema;

/* Fills in what the configuration says; the rest is zero. */
int  sourcei_http_conf(struct httpi_source *, const struct conf *, struct err *);
void sourcei_http_conf_free(struct httpi_source *);

/* Reads an answer of the feed, at most max changes of it, and moves the cursor. */
int sourcei_http_read_feed(struct httpi_source *, struct slice body, uint32_t max, struct err *);
/* Reads a page of the snapshot and moves on. */
int sourcei_http_read_page(struct httpi_source *, struct slice body, uint32_t max, struct err *);
/* The changes that were found, in the shape of the contract. */
int sourcei_http_give(struct httpi_source *, struct source_batch *, struct err *);
/* {"cursor":…} or, within the snapshot, {"cursor":…,"scan_after":"…","scanned":…}. */
int sourcei_http_put_checkpoint(struct httpi_source *, struct err *);
int sourcei_http_get_checkpoint(struct httpi_source *, struct slice checkpoint, struct err *);

#endif
