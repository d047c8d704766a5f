/* The streams that a spec selects, some thousand at a time, in order. */
#include "base/bytes.h"
#include "migrate/stream/stream_int.h"

struct filling {
    struct streami_page       *page;
    const struct streami_spec *spec;
    uint32_t                   set, looked;
};

static void
add_name(struct streami_page *p, struct slice name)
{
    uint8_t len[2];

    put_u16(len, (uint16_t)name.len);
    buf_add(&p->names, len, 2);
    buf_add_slice(&p->names, name);
    p->count++;
}

static int
take(void *arg, const struct log_stream *stream, struct err *err)
{
    struct filling *f = arg;

    (void)err;
    if (f->page->count == STREAMI_PAGE) {
        f->page->last = false;
        return E_END;
    }
    if (streami_wanted(f->spec, f->set, stream->name))
        add_name(f->page, stream->name);
    return 0;
}

int
streami_page_fill(struct log *log, const struct streami_spec *spec, uint32_t set,
                  struct slice after, struct streami_page *p, struct err *err)
{
    struct filling f = {p, spec, set, 0};
    struct buf     prefix = {0};
    int            rc = 0;

    buf_clear(&p->names);
    p->count = 0;
    p->at = 0;
    p->last = true;
    if (spec->listed) {
        if (after.len == 0 && streami_wanted(spec, set, slice_str(spec->sets[set])))
            add_name(p, slice_str(spec->sets[set]));
    } else {
        buf_add_str(&prefix, spec->sets[set]);
        if (spec->categories)
            buf_add_byte(&prefix, '-');
        rc = log_streams(log, buf_slice(&prefix), after, take, &f, err);
        if (rc == E_END)
            rc = 0;
    }
    if (rc == 0 && p->names.failed)
        rc = err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory for a list");
    buf_fini(&prefix);
    return rc;
}

bool
streami_page_next(struct streami_page *p, struct slice *name)
{
    if (p->at == p->names.len)
        return false;
    name->len = get_u16(p->names.data + p->at);
    name->data = p->names.data + p->at + 2;
    p->at += 2 + name->len;
    return true;
}

static int
count_one(void *arg, const struct log_stream *stream, struct err *err)
{
    (void)stream;
    (void)err;
    ++*(uint64_t *)arg;
    return 0;
}

int
streami_page_estimate(struct log *log, const struct streami_spec *spec, uint64_t *all,
                      struct err *err)
{
    struct buf prefix = {0};
    int        rc = 0;

    *all = spec->listed ? spec->set_count : 0;
    for (uint32_t i = 0; !spec->listed && i < spec->set_count; i++) {
        buf_clear(&prefix);
        buf_add_str(&prefix, spec->sets[i]);
        if (spec->categories)
            buf_add_byte(&prefix, '-');
        TRY(log_streams(log, buf_slice(&prefix), slice_str(""), count_one, all, err));
    }
out:
    buf_fini(&prefix);
    return rc;
}
