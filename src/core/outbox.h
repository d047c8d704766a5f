/*
 * A row of an outbox as the event that it means: stream, type, data, id and
 * metadata come out of its columns. Nothing is kept from one row to the next.
 */
#ifndef OX_CORE_OUTBOX_H
#define OX_CORE_OUTBOX_H

#include "base/err.h"
#include "base/id.h"
#include "base/slice.h"
#include "source/outbox.h"
#include "source/source.h"

struct outbox;

struct outbox_span {
    size_t at, len;
};

/* Spans are of the buffer that outbox_event was given. */
struct outbox_event {
    struct outbox_span name, type, meta, text;
    struct slice       raw; /* the data, where it stands in the row as it is; empty: `text` */
    struct ox_id       id;
    int64_t            created_us; /* 0: not said */
    bool               json;       /* the data is */
};

/* `conf` and its texts are copied; `source` names the source. E_SYNTAX: the stream's template. */
int  outbox_new(const struct outbox_conf *conf, const char *source, struct outbox **out,
                struct err *err);
void outbox_free(struct outbox *o); /* NULL is fine */

/* Whether the change is one of the outbox's. */
bool outbox_owns(const struct outbox *o, const struct change *ch);

/*
 * Appends to `text`. E_END: it is no event, and that is fine (a row that is taken away again).
 * Of kind ERR_DATA: it should be one and cannot; the text says why, without data.
 */
int outbox_event(struct outbox *o, const struct change *ch, struct buf *text,
                 struct outbox_event *out, struct err *err);

#endif
