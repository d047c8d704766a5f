/*
 * Lines of JSON out of a stream that comes in pieces. Lines end in LF or CRLF,
 * the last one may end with the stream; blank lines are counted and skipped.
 * The lines themselves are not checked. Memory: one line.
 */
#ifndef OX_BASE_NDJSON_H
#define OX_BASE_NDJSON_H

#include "base/err.h"
#include "base/slice.h"

struct ndjson {
    struct slice chunk;
    struct buf   carry; /* the beginning of a line that is not whole yet */
    size_t       line_max;
    uint64_t     line; /* lines that ended so far */
    bool         carried, finished, failed;
};

void ndjson_init(struct ndjson *n, size_t line_max);
void ndjson_fini(struct ndjson *n);

/* Only when ndjson_next said E_END. The piece must stay until it says so again. */
void ndjson_feed(struct ndjson *n, struct slice chunk);

/* The stream has ended: what is left is the last line. */
void ndjson_finish(struct ndjson *n);

/*
 * The next line, good until the next call, and its number from 1. E_END: feed
 * more, or the stream is at its end. E_LIMIT, for good: a line over the limit.
 */
int ndjson_next(struct ndjson *n, struct slice *line, uint64_t *number, struct err *err);

#endif
