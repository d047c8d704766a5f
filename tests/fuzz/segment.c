/*
 * The segment reader: any bytes behind a segment's header. Nothing is read
 * outside them, every walk ends, and what is said to be a whole commit holds
 * together: its records are as many as it says and lie inside it, forwards and
 * backwards alike.
 *
 * The first byte says what is put right before (bits: 1 frame headers, 2 record
 * checksums, 4 positions, 8 trailers), with 16 that the bytes lie in two
 * segments, and with 32 that the first of them is a scavenged one, whose last bytes are
 * its table; the second where the end is. With all put right a mutation gets
 * past the checksums, as a bug of the writer or an attacker would.
 */
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "log/scan.h"

#define BYTES_MAX 16384u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Stands in for the files of src/log/seg.c. */
struct segments {
    uint8_t *bytes[2]; /* a block each, of its own size: an overrun is seen */
    uint64_t len[2];
    uint32_t seed;
    bool     sparse; /* the first one */
    uint64_t entries, frames_len;
};

uint32_t
logi_segs_seed(struct segments *s)
{
    return s->seed;
}

uint64_t
logi_segs_first(struct segments *s)
{
    (void)s;
    return FMT_FIRST_POS;
}

bool
logi_segs_at(struct segments *s, uint64_t pos, struct seg_view *out)
{
    uint64_t first = FMT_FIRST_POS;

    for (unsigned i = 0; i < 2; first += s->len[i], i++) {
        if (pos >= first && pos < first + s->len[i]) {
            *out =
                (struct seg_view){.first = first, .end = first + s->len[i], .bytes = s->bytes[i]};
            if (i == 0 && s->sparse) {
                out->sparse = true;
                out->entries = s->entries;
                out->length = s->frames_len;
                out->table = s->bytes[0] + s->len[0] - s->entries * SEG_TABLE_ENTRY - SEG_TABLE_END;
                out->whole = logi_scan_table(out, s->seed);
            }
            return true;
        }
    }
    return false;
}

/* putting right */

static void
fix_records(uint8_t *p, uint32_t length, uint64_t pos, unsigned mode, uint32_t seed)
{
    uint32_t off = FRAME_HEADER;
    uint64_t gap = (mode & 32) != 0 ? pos % 256 / 8 * 8 : 0;

    while (off + RECORD_MIN <= length - FRAME_TRAILER) {
        uint32_t len = get_u32(p + off);

        if (len < RECORD_MIN || len % 8 != 0 || len > length - FRAME_TRAILER - off)
            return;
        if ((mode & 4) != 0) {
            put_u64(p + off + 8, pos + gap + off);
            put_u32(p + off + 68, off);
        }
        if ((mode & 2) != 0)
            fmt_record_seal(p + off, len, seed);
        off += len;
    }
}

/*
 * Puts at most *count frames right, and says how many there are; `table`, where there is one,
 * gets an entry for each. Returns where they end.
 */
static uint64_t
fix(uint8_t *p, uint64_t size, uint64_t pos, unsigned mode, uint32_t seed, uint8_t *table,
    uint64_t *frames)
{
    uint64_t off = 0, count = 0, most = *frames;

    while (size - off >= FRAME_MIN && count < most) {
        uint8_t *f = p + off;
        uint32_t length = get_u32(f + 40);
        bool     fits = length >= FRAME_MIN && length % 8 == 0 && length <= size - off;

        if (!fmt_frame_magic(f))
            break;
        if ((mode & 4) != 0)
            put_u64(f + 8, pos + off);
        if ((mode & 1) != 0)
            put_u32(f + 4, crc32c(seed, f + 8, FRAME_HEADER - 8));
        if (!fits)
            break;
        fix_records(f, length, pos + off, mode, seed);
        if ((mode & 8) != 0) {
            put_u32(f + length - 8, length);
            put_u32(f + length - 4, FRAME_END_MAGIC);
        }
        if (table != NULL && (mode & 4) != 0) {
            put_u64(table + count * SEG_TABLE_ENTRY, pos + off);
            put_u64(table + count * SEG_TABLE_ENTRY + 8, SEG_HEADER + off);
        }
        count++;
        off += length;
    }
    *frames = count;
    return off;
}

/* The first segment's last bytes become its table, with an entry for each frame. */
static void
make_sparse(struct segments *s, unsigned mode, uint64_t entries)
{
    uint64_t most = entries * SEG_TABLE_ENTRY + SEG_TABLE_END, size;
    uint8_t *table;

    if (s->len[0] < most)
        return;
    s->sparse = true;
    s->entries = entries;
    (void)fix(s->bytes[0], s->len[0] - most, FMT_FIRST_POS, mode, s->seed, NULL, &s->entries);
    size = s->entries * SEG_TABLE_ENTRY + SEG_TABLE_END;
    table = s->bytes[0] + s->len[0] - size;
    s->frames_len =
        fix(s->bytes[0], s->len[0] - most, FMT_FIRST_POS, mode, s->seed, table, &s->entries);
    if ((mode & 2) != 0)
        put_u32(table + size - SEG_TABLE_END, crc32c(s->seed, table, size - SEG_TABLE_END));
}

/* looking */

struct walk {
    struct segments *segs;
    uint64_t         bound, records;
    volatile uint8_t sum;
};

static void
touch(struct walk *w, const uint8_t *p, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++)
        w->sum = (uint8_t)(w->sum + p[i]);
}

/* What the writer makes of what was read is read as the same. */
static void
write_record(struct walk *w, const struct record *r)
{
    uint8_t      *p = calloc(1, r->length);
    struct record again;

    must(p != NULL);
    fmt_record_put(p, r);
    memcpy(p + RECORD_HEADER, r->body, r->body_len);
    fmt_record_seal(p, r->length, w->segs->seed);
    must(fmt_record_get(p, r->length, w->segs->seed, true, &again));
    must(again.kind == r->kind);
    must(again.flags == r->flags);
    must(again.pos == r->pos);
    must(again.version == r->version);
    must(again.data_len == r->data_len);
    must(again.frame_off == r->frame_off);
    must(memcmp(again.id, r->id, 16) == 0);
    must(memcmp(again.body, r->body, r->body_len) == 0);
    free(p);
}

static void
write_frame(struct walk *w, const struct frame *f)
{
    uint8_t          *p = calloc(1, f->head.length);
    struct frame_head again;

    must(p != NULL);
    fmt_frame_put(p, &f->head, w->segs->seed);
    must(fmt_frame_get(p, w->segs->seed, &again));
    must(again.pos == f->head.pos);
    must(again.commit == f->head.commit);
    must(again.durable == f->head.durable);
    must(again.flags == f->head.flags);
    must(again.number == f->head.number);
    must(fmt_frame_length_before(p + f->head.length) == f->head.length);
    free(p);
}

/* The bytes as a segment's header. */
static void
look_at_header(const uint8_t *data, size_t size, unsigned mode)
{
    static uint8_t  p[SEG_HEADER], q[SEG_HEADER];
    struct seg_head head, again;

    memset(p, 0, sizeof p);
    memcpy(p, data, size < SEG_HEADER ? size : SEG_HEADER);
    if ((mode & 1) != 0) {
        memcpy(p, SEG_MAGIC, 8);
        put_u32(p + 8, crc32c(0, p + 12, SEG_HEADER_CRC_END - 12));
    }
    if (!fmt_seg_get(p, &head))
        return;
    fmt_seg_put(q, &head);
    must(fmt_seg_get(q, &again));
    must(again.version == head.version);
    must(again.kind == head.kind);
    must(again.generation == head.generation);
    must(again.table_at == head.table_at);
    must(again.table_count == head.table_count);
    must(again.first == head.first);
    must(again.span == head.span);
    must(again.segment_bytes == head.segment_bytes);
    must(id_eq(&again.log_id, &head.log_id));
}

static int
on_record(void *arg, const struct frame *f, const struct record *r, struct err *err)
{
    struct walk *w = arg;
    uint64_t     bytes = (uint64_t)r->meta_len + r->data_len;
    uint8_t     *payload;

    w->records++;
    must(r->pos >= f->head.pos);
    must(r->pos + r->length <= f->next);
    touch(w, r->body, r->body_len);
    write_record(w, r);
    if (bytes > BYTES_MAX)
        return 0;
    payload = malloc(bytes == 0 ? 1 : bytes);
    must(payload != NULL);
    if (logi_scan_assemble(w->segs, r, f, w->bound, payload, err) == 0)
        touch(w, payload, bytes);
    free(payload);
    return 0;
}

static void
look_at_commits(struct walk *w)
{
    struct commit c;
    struct err    err;
    uint64_t      pos = FMT_FIRST_POS;

    while (logi_scan_commit(w->segs, pos, w->bound, &c)) {
        must(c.first >= pos);
        must(c.end > c.first);
        must(c.end <= w->bound);
        w->records = 0;
        must(logi_scan_commit_records(w->segs, &c, on_record, w, &err) == 0);
        must(w->records == c.records);
        pos = c.end;
    }
}

static void
look_back(struct walk *w, const struct frame *f)
{
    struct record r;
    uint32_t      off = f->head.length - FRAME_TRAILER;

    while (logi_scan_record_before(f, w->segs->seed, off, true, &r)) {
        must(r.length <= off - FRAME_HEADER);
        off -= r.length;
        touch(w, r.body, r.body_len);
    }
}

static void
look_at(struct walk *w, uint64_t pos)
{
    struct record r;
    struct frame  f, again;
    struct commit c;
    struct err    err;
    uint64_t      found;

    if (logi_scan_frame(w->segs, pos, w->bound, &f)) {
        touch(w, f.bytes, f.head.length);
        must(f.next >= pos + f.head.length);
        must(logi_scan_back(w->segs, f.next, &again) == SCAN_FRAME);
        must(again.head.pos == pos);
        look_back(w, &f);
        write_frame(w, &f);
    }
    if (logi_scan_from(w->segs, pos, w->bound, &f) == SCAN_FRAME) {
        must(f.head.pos >= pos);
        must(f.head.pos + f.head.length <= w->bound);
        must(f.sparse || f.head.pos == pos || w->segs->sparse);
        touch(w, f.bytes, f.head.length);
    }
    if (logi_scan_back(w->segs, pos, &f) == SCAN_FRAME) {
        must(f.head.pos < pos); /* in a scavenged segment `pos` may be inside of it */
        must(f.sparse || f.head.pos + f.head.length == pos);
    }
    if (logi_scan_record_at(w->segs, pos, w->bound, true, &r, &f)) {
        must(r.pos == pos);
        must(!logi_scan_gone(w->segs, pos));
        (void)on_record(w, &f, &r, &err);
    }
    if (logi_scan_commit(w->segs, pos, w->bound, &c))
        w->records = 0, (void)logi_scan_commit_records(w->segs, &c, on_record, w, &err);
    if (logi_scan_seek(w->segs, pos, w->bound, &found, &err) == 0)
        must(found < w->bound);
    (void)logi_scan_gone(w->segs, pos);
    (void)logi_scan_seek(w->segs, pos + 1, w->bound, &found, &err);
}

static uint8_t *
copy(const uint8_t *data, size_t len)
{
    uint8_t *p = malloc(len == 0 ? 1 : len);

    must(p != NULL);
    memcpy(p, data, len);
    return p;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ox_id id = {{'o', 'x', 'b', 'o', 'w'}};
    struct segments           segs = {.seed = fmt_seed(&id)};
    struct walk               w = {.segs = &segs};
    uint64_t                  last, step, all = UINT64_MAX;
    unsigned                  mode;

    if (size < 2 + FRAME_MIN || size > BYTES_MAX)
        return 0;
    mode = data[0];
    w.bound = data[1];
    data += 2;
    size = (size - 2) & ~(size_t)7;
    segs.len[0] = (mode & 16) != 0 ? (size / 2) & ~(uint64_t)7 : size;
    segs.len[1] = size - segs.len[0];
    segs.bytes[0] = copy(data, segs.len[0]);
    segs.bytes[1] = copy(data + segs.len[0], segs.len[1]);
    w.bound = FMT_FIRST_POS + size - (w.bound * 8 < size ? w.bound * 8 : 0);
    if ((mode & 32) != 0)
        make_sparse(&segs, mode, data[0] % 8);
    if (!segs.sparse)
        (void)fix(segs.bytes[0], segs.len[0], FMT_FIRST_POS, mode, segs.seed, NULL, &all);
    all = UINT64_MAX;
    (void)fix(segs.bytes[1], segs.len[1], FMT_FIRST_POS + segs.len[0], mode, segs.seed, NULL, &all);
    look_at_header(data, size, mode);
    look_at_commits(&w);
    (void)logi_scan_proof_behind(&segs, FMT_FIRST_POS, w.bound - 8, &last);
    (void)logi_scan_proof_behind(&segs, FMT_FIRST_POS, 0, &last);
    must(last <= FMT_FIRST_POS + size);
    step = size > 2048 ? 64 : 8; /* quick enough for a million runs */
    for (uint64_t pos = FMT_FIRST_POS; pos <= FMT_FIRST_POS + size; pos += step)
        look_at(&w, pos);
    free(segs.bytes[0]);
    free(segs.bytes[1]);
    return 0;
}
