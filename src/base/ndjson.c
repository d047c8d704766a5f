#include "base/ndjson.h"

#include "base/must.h"

void
ndjson_init(struct ndjson *n, size_t line_max)
{
    memset(n, 0, sizeof *n);
    n->line_max = line_max;
}

void
ndjson_fini(struct ndjson *n)
{
    buf_fini(&n->carry);
}

void
ndjson_feed(struct ndjson *n, struct slice chunk)
{
    must(n->chunk.len == 0);
    must(!n->finished);
    n->chunk = chunk;
}

void
ndjson_finish(struct ndjson *n)
{
    must(n->chunk.len == 0);
    n->finished = true;
}

static bool
is_blank(struct slice line)
{
    const char *p = line.data;

    for (size_t i = 0; i < line.len; i++) {
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r')
            return false;
    }
    return true;
}

/* Takes from the chunk up to the next LF, or all of it; true where the line is whole. */
static bool
take(struct ndjson *n, struct slice *part)
{
    const char *p = n->chunk.data, *lf;
    size_t      len;

    *part = slice_of(p, 0);
    if (n->chunk.len == 0)
        return n->finished && n->carry.len > 0;
    lf = memchr(p, '\n', n->chunk.len);
    len = lf == NULL ? n->chunk.len : (size_t)(lf - p);
    *part = slice_of(p, len);
    if (lf != NULL)
        len++;
    n->chunk = slice_of(p + len, n->chunk.len - len);
    return lf != NULL;
}

static int
too_long(struct ndjson *n, struct err *err)
{
    n->failed = true;
    n->chunk = slice_of(NULL, 0);
    RETURN_ERR(err, E_LIMIT, ERR_DATA, "line %llu: longer than %zu bytes",
               (unsigned long long)n->line + 1, n->line_max);
}

int
ndjson_next(struct ndjson *n, struct slice *line, uint64_t *number, struct err *err)
{
    for (;;) {
        struct slice part;
        bool         whole;

        if (n->failed)
            return too_long(n, err);
        if (n->carried) { /* the line handed out last time was in there */
            buf_clear(&n->carry);
            n->carried = false;
        }
        whole = take(n, &part);
        /* One byte more than the limit may be the CR of the line's end. */
        if (part.len > n->line_max + 1 - n->carry.len)
            return too_long(n, err);
        if (!whole || n->carry.len > 0)
            buf_add_slice(&n->carry, part);
        if (n->carry.failed)
            RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for line %llu",
                       (unsigned long long)n->line + 1);
        if (!whole)
            return E_END;
        n->carried = n->carry.len > 0;
        *line = n->carried ? buf_slice(&n->carry) : part;
        if (line->len > 0 && ((const char *)line->data)[line->len - 1] == '\r')
            line->len--;
        if (line->len > n->line_max)
            return too_long(n, err);
        *number = ++n->line;
        if (!is_blank(*line))
            return 0;
    }
}
