/*
 * The manifest: lines of JSON, so that whoever looks into a backup can read it.
 * The last line is the checksum of the others.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/json.h"
#include "base/must.h"
#include "log/backup_int.h"

#define MANIFEST_VERSION 1u
#define MANIFEST_MAX ((size_t)256 << 20)
#define SEGMENTS_MAX 1000000u
#define HEX_MAX 32

void
logi_manifest_fini(struct manifest *m)
{
    free(m->segs);
    memset(m, 0, sizeof *m);
}

int
logi_manifest_add(struct manifest *m, const struct manifest_seg *seg, struct err *err)
{
    must(m->count <= m->room);
    must(m->count == 0 || seg->first > m->segs[m->count - 1].first); /* they are found by halving */
    if (m->count == SEGMENTS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "a backup has at most %u segments", SEGMENTS_MAX);
    if (m->count == m->room) {
        uint32_t             room = m->room == 0 ? 16 : m->room * 2;
        struct manifest_seg *segs = realloc(m->segs, room * sizeof *segs);

        if (segs == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the list of copies");
        m->segs = segs;
        m->room = room;
    }
    m->segs[m->count++] = *seg;
    return 0;
}

const struct manifest_seg *
logi_manifest_find(const struct manifest *m, uint64_t first)
{
    uint32_t lo = 0, hi = m->count;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (m->segs[mid].first < first)
            lo = mid + 1;
        else
            hi = mid;
    }
    must(lo == m->count || m->segs[lo].first >= first);
    must(lo == 0 || m->segs[lo - 1].first < first);
    return lo < m->count && m->segs[lo].first == first ? &m->segs[lo] : NULL;
}

/* writing */

static void
put_hex(struct json_out *o, const char *key, const uint8_t *bytes, size_t len)
{
    char text[HEX_MAX + 1];

    must(len * 2 <= HEX_MAX);
    for (size_t i = 0; i < len; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    json_out_key(o, key);
    json_out_str(o, text);
}

static void
put_u64_field(struct json_out *o, const char *key, uint64_t v)
{
    json_out_key(o, key);
    json_out_u64(o, v);
}

static void
put_seg(struct buf *out, const struct manifest_seg *s)
{
    struct json_out o;

    json_out_init(&o, out);
    json_out_object(&o);
    put_u64_field(&o, "first", s->first);
    put_u64_field(&o, "span", s->span);
    put_u64_field(&o, "kind", s->kind);
    put_u64_field(&o, "generation", s->generation);
    put_u64_field(&o, "bytes", s->bytes);
    put_u64_field(&o, "mark", s->mark);
    put_hex(&o, "xxh3", s->sum, sizeof s->sum);
    json_out_object_end(&o);
    buf_add_byte(out, '\n');
}

static void
sum_of(struct slice text, uint8_t out[LOGI_SUM_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(text.data, text.len));
    memcpy(out, canonical.digest, LOGI_SUM_BYTES);
}

void
logi_manifest_put(struct buf *out, const struct manifest *m)
{
    struct json_out o;
    char            id[ID_TEXT_LEN + 1];
    uint8_t         sum[LOGI_SUM_BYTES];

    id_format(&m->log_id, id);
    json_out_init(&o, out);
    json_out_object(&o);
    put_u64_field(&o, "oxbow_backup", MANIFEST_VERSION);
    json_out_key(&o, "log");
    json_out_str(&o, id);
    put_u64_field(&o, "segment_bytes", m->segment_bytes);
    put_u64_field(&o, "end", m->end);
    json_out_key(&o, "last_time_us");
    json_out_i64(&o, m->last_time_us);
    json_out_key(&o, "made_us");
    json_out_i64(&o, m->made_us);
    put_u64_field(&o, "segments", m->count);
    json_out_object_end(&o);
    buf_add_byte(out, '\n');
    for (uint32_t i = 0; i < m->count; i++)
        put_seg(out, &m->segs[i]);
    sum_of(buf_slice(out), sum);
    json_out_init(&o, out);
    json_out_object(&o);
    put_hex(&o, "xxh3", sum, sizeof sum);
    json_out_object_end(&o);
    buf_add_byte(out, '\n');
}

/* reading */

static int
nibble(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool
get_sum(struct slice raw, uint8_t out[LOGI_SUM_BYTES])
{
    const uint8_t *p = raw.data;

    if (raw.data == NULL || raw.len != 2 + 2 * LOGI_SUM_BYTES || p[0] != '"')
        return false;
    for (size_t i = 0; i < LOGI_SUM_BYTES; i++) {
        int high = nibble(p[1 + 2 * i]), low = nibble(p[2 + 2 * i]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool
next_line(struct slice *text, struct slice *line)
{
    const uint8_t *p = text->data, *nl = text->len == 0 ? NULL : memchr(p, '\n', text->len);

    if (nl == NULL)
        return false;
    *line = slice_of(p, (size_t)(nl - p));
    *text = slice_of(nl + 1, text->len - line->len - 1);
    return true;
}

static int
get_head(struct slice line, struct manifest *m, uint64_t *count, struct err *err)
{
    struct json_field f[] = {
        {.name = "oxbow_backup", .required = true},  {.name = "log", .required = true},
        {.name = "segment_bytes", .required = true}, {.name = "end", .required = true},
        {.name = "last_time_us", .required = true},  {.name = "made_us", .required = true},
        {.name = "segments", .required = true}};
    uint64_t version;
    int      rc;

    TRY(json_pick(line, f, 1, JSON_PICK_ANY, err));
    if (!json_uint64(f[0].value, &version) || version != MANIFEST_VERSION)
        FAIL(err, E_FORMAT, ERR_FATAL, "the manifest is of another version: use a newer oxbow");
    TRY(json_pick(line, f, sizeof f / sizeof f[0], JSON_PICK_ONLY, err));
    if (json_type(f[1].value) != JSON_STRING || f[1].value.len != ID_TEXT_LEN + 2 ||
        !id_parse(slice_of((const uint8_t *)f[1].value.data + 1, ID_TEXT_LEN), &m->log_id) ||
        !json_uint64(f[2].value, &m->segment_bytes) || !json_uint64(f[3].value, &m->end) ||
        !json_int64(f[4].value, &m->last_time_us) || !json_int64(f[5].value, &m->made_us) ||
        !json_uint64(f[6].value, count))
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest's first line says what cannot be");
out:
    return rc;
}

static bool
u32_of(struct slice raw, uint32_t *out)
{
    uint64_t v;

    if (!json_uint64(raw, &v) || v > UINT32_MAX)
        return false;
    *out = (uint32_t)v;
    return true;
}

/* `next`: where it has to begin; goes along. */
static int
get_seg(struct slice line, struct manifest *m, uint64_t *next, struct err *err)
{
    struct json_field f[] = {
        {.name = "first", .required = true}, {.name = "span", .required = true},
        {.name = "kind", .required = true},  {.name = "generation", .required = true},
        {.name = "bytes", .required = true}, {.name = "mark", .required = true},
        {.name = "xxh3", .required = true}};
    struct manifest_seg s;
    int                 rc;

    TRY(json_pick(line, f, sizeof f / sizeof f[0], JSON_PICK_ONLY, err));
    if (!json_uint64(f[0].value, &s.first) || !json_uint64(f[1].value, &s.span) ||
        !u32_of(f[2].value, &s.kind) || !u32_of(f[3].value, &s.generation) ||
        !json_uint64(f[4].value, &s.bytes) || !json_uint64(f[5].value, &s.mark) ||
        !get_sum(f[6].value, s.sum) || s.first != *next || s.span == 0 ||
        s.span > UINT64_MAX / 2 - s.first || s.bytes < SEG_HEADER || s.bytes % 8 != 0 ||
        (s.first >= m->end && s.first != FMT_FIRST_POS) ||
        (s.kind == SEG_PLAIN && s.bytes > SEG_HEADER + s.span))
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest's line %u says what cannot be", m->count + 2);
    *next = s.first + s.span;
    TRY(logi_manifest_add(m, &s, err));
out:
    return rc;
}

static int
get_all(struct slice text, struct manifest *m, struct err *err)
{
    struct slice      rest = text, line;
    uint64_t          count, next = FMT_FIRST_POS;
    struct json_field f = {.name = "xxh3", .required = true};
    uint8_t           sum[LOGI_SUM_BYTES], want[LOGI_SUM_BYTES];
    int               rc;

    if (!next_line(&rest, &line))
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest is empty");
    TRY(get_head(line, m, &count, err));
    if (count > SEGMENTS_MAX)
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest's first line says what cannot be");
    for (uint64_t i = 0; i < count; i++) {
        if (!next_line(&rest, &line))
            FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest ends too soon");
        TRY(get_seg(line, m, &next, err));
    }
    must(m->count == count);
    sum_of(slice_of(text.data, text.len - rest.len), want);
    if (!next_line(&rest, &line) || rest.len != 0)
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest has no end of its own");
    TRY(json_pick(line, &f, 1, JSON_PICK_ONLY, err));
    if (!get_sum(f.value, sum) || memcmp(sum, want, sizeof sum) != 0)
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest's checksum does not hold");
    if (next < m->end || m->end < FMT_FIRST_POS || m->count == 0)
        FAIL(err, E_DAMAGED, ERR_FATAL, "the manifest's copies do not reach its end");
out:
    return rc;
}

int
logi_manifest_get(struct slice text, struct manifest *out, struct err *err)
{
    int rc;

    memset(out, 0, sizeof *out);
    rc = get_all(text, out, err);
    if (rc == E_SYNTAX || rc == E_SCHEMA) {
        rc = E_DAMAGED;
        if (err != NULL) {
            err->code = rc;
            err->kind = ERR_FATAL;
        }
    }
    if (rc != 0)
        logi_manifest_fini(out);
    return rc;
}

/* files */

void
logi_copy_path(char out[LOGI_BACKUP_PATH], const char *dir, uint64_t first, uint32_t generation,
               const char *more)
{
    int n = snprintf(out, LOGI_BACKUP_PATH, "%s/files/%016" PRIx64 "-%" PRIu32 ".seg%s", dir, first,
                     generation, more);

    must(n < LOGI_BACKUP_PATH); /* else it would be another file's */
}

int
logi_manifest_read(struct ox_env *env, const char *dir, struct manifest *out, struct err *err)
{
    char            path[LOGI_BACKUP_PATH];
    struct ox_file *file = NULL;
    struct buf      text = {0};
    uint64_t        size;
    size_t          got;
    int             rc;

    memset(out, 0, sizeof *out);
    (void)snprintf(path, sizeof path, "%s/MANIFEST", dir);
    TRY(env->ops->file_open(env, path, ENV_READ, &file, err));
    TRY(env->ops->file_size(env, file, &size, err));
    if (size > MANIFEST_MAX)
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s: is too long for a manifest", path);
    if (!buf_reserve(&text, (size_t)size + 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "%s: out of memory", path);
    TRY(env->ops->file_read(env, file, text.data, (size_t)size, 0, &got, err));
    rc = logi_manifest_get(slice_of(text.data, got), out, err);
    if (rc != 0)
        err_prefix(err, "%s", path);
out:
    env->ops->file_close(env, file);
    buf_fini(&text);
    return rc;
}

int
logi_manifest_write(struct ox_env *env, const char *dir, const struct manifest *m, struct err *err)
{
    char            path[LOGI_BACKUP_PATH], new_path[LOGI_BACKUP_PATH];
    struct ox_file *file = NULL;
    struct buf      text = {0};
    int             rc;

    must(m->count > 0);
    must(m->end >= FMT_FIRST_POS);
    must(m->segs[0].first == FMT_FIRST_POS);
    (void)snprintf(path, sizeof path, "%s/MANIFEST", dir);
    (void)snprintf(new_path, sizeof new_path, "%s/MANIFEST.new", dir);
    logi_manifest_put(&text, m);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for the manifest");
    TRY(env->ops->file_open(env, new_path, ENV_WRITE | ENV_CREATE, &file, err));
    TRY(env->ops->file_resize(env, file, 0, err));
    TRY(env->ops->file_write(env, file, text.data, text.len, 0, err));
    TRY(env->ops->file_sync(env, file, err));
    TRY(env->ops->path_rename(env, new_path, path, err));
    TRY(env->ops->dir_sync(env, dir, err));
out:
    env->ops->file_close(env, file);
    buf_fini(&text);
    return rc;
}
