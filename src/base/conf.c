/* The tree of the configuration, its life, and how it is read. */
#include "base/conf.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/conf_int.h"
#include "base/json.h"
#include "base/must.h"
#include "base/url.h"
#include "base/utf8.h"

/* Presets may lie a little deeper than the file can. */
#define PATH_KEYS_MAX ((size_t)2 * CONF_DEPTH_MAX)

#define BLOCK_SIZE ((size_t)16 << 10)

struct conf_block {
    struct conf_block *next;
    size_t             used, size;
    max_align_t        data[];
};

void *
basei_conf_alloc(struct conf_tree *tree, size_t size)
{
    struct conf_block *b = tree->blocks;
    void              *p;

    size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (b == NULL || b->size - b->used < size) {
        size_t room = size > BLOCK_SIZE ? size : BLOCK_SIZE;

        b = calloc(1, sizeof *b + room);
        if (b == NULL)
            return NULL;
        b->size = room;
        b->next = tree->blocks;
        tree->blocks = b;
    }
    p = (uint8_t *)b->data + b->used;
    b->used += size;
    return p;
}

char *
basei_conf_copy(struct conf_tree *tree, const void *data, size_t len)
{
    char *p = basei_conf_alloc(tree, len + 1);

    if (p != NULL && len > 0)
        memcpy(p, data, len);
    return p;
}

struct conf *
basei_conf_node(struct conf_tree *tree, struct conf *parent, enum conf_shape shape)
{
    struct conf *c = basei_conf_alloc(tree, sizeof *c);

    if (c == NULL)
        return NULL;
    c->tree = tree;
    c->shape = shape;
    c->parent = parent;
    tree->nodes++;
    if (parent == NULL) {
        tree->root = c;
        return c;
    }
    if (parent->last == NULL)
        parent->first = c;
    else
        parent->last->next = c;
    parent->last = c;
    parent->count++;
    return c;
}

static void
free_tree(struct conf_tree *tree)
{
    struct conf_block *b, *next;

    if (tree == NULL)
        return;
    for (b = tree->blocks; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    free(tree->file);
    free(tree);
}

void
conf_free(struct conf *root)
{
    if (root == NULL)
        return;
    must(root->parent == NULL);
    free_tree(root->tree);
}

/* problems */

static uint32_t
index_in(const struct conf *c)
{
    const struct conf *e = c->parent->first;
    uint32_t           i = 0;

    for (; e != c; e = e->next)
        i++;
    return i;
}

void
basei_conf_path(const struct conf *c, struct buf *out)
{
    const struct conf *up[PATH_KEYS_MAX];
    size_t             n = 0;

    for (; c->parent != NULL && n < PATH_KEYS_MAX; c = c->parent)
        up[n++] = c;
    for (size_t i = n; i-- > 0;) {
        if (up[i]->key == NULL) {
            buf_printf(out, "[%u]", index_in(up[i]));
            continue;
        }
        if (i + 1 < n)
            buf_add_byte(out, '.');
        buf_printf(out, "%.100s", up[i]->key);
    }
    if (n > 0)
        buf_add_str(out, ": ");
}

/* A problem is one line of UTF-8, whatever the keys and values in it are. */
static void
clean(char *text)
{
    uint8_t *p = (uint8_t *)text, *end = p + strlen(text);

    while (p < end) {
        size_t n = utf8_char(p, end);

        if (n == 0 || *p < 0x20 || *p == 0x7f) {
            *p = '?';
            n = 1;
        }
        p += n;
    }
}

static void
add_problem(struct conf_job *job, uint32_t line, uint32_t column, const char *path, const char *fmt,
            va_list ap)
{
    struct conf_problem *p = job->problems, *end = p + job->count;
    int                  n;

    if (job->count++ >= CONF_PROBLEMS_MAX)
        return;
    /* In the order of the file; of one place in the order in which they were found. */
    while (p < end && (p->line < line || (p->line == line && p->column <= column)))
        p++;
    memmove(p + 1, p, (size_t)(end - p) * sizeof *p);
    p->line = line;
    p->column = column;
    n = snprintf(p->text, sizeof p->text, "%s", path);
    must(n >= 0);
    if ((size_t)n < sizeof p->text)
        (void)vsnprintf(p->text + n, sizeof p->text - (size_t)n, fmt, ap);
    clean(p->text);
}

void
basei_conf_problem(struct conf_job *job, uint32_t line, uint32_t column, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add_problem(job, line, column, "", fmt, ap);
    va_end(ap);
}

void
basei_conf_problem_at(struct conf_job *job, const struct conf *c, const char *fmt, ...)
{
    struct buf path = {0};
    va_list    ap;

    basei_conf_path(c, &path);
    buf_add_byte(&path, '\0');
    va_start(ap, fmt);
    add_problem(job, c->line, c->column, path.failed ? "" : (const char *)path.data, fmt, ap);
    va_end(ap);
    buf_fini(&path);
}

/* loading */

static int
report(const struct conf_job *job, struct buf *out, struct err *err)
{
    const struct conf_problem *p = job->problems;
    const char                *file = job->opts->file;
    size_t kept = job->count < CONF_PROBLEMS_MAX ? job->count : CONF_PROBLEMS_MAX;
    char   more[48] = "";

    for (size_t i = 0; i < kept; i++)
        buf_printf(out, "%s:%u:%u: %s\n", file, p[i].line, p[i].column, p[i].text);
    if (job->count > kept)
        buf_printf(out, "%s: and %zu more\n", file, job->count - kept);
    if (job->count > 1)
        (void)snprintf(more, sizeof more, " (and %zu more)", job->count - 1);
    return err_set(err, __FILE__, __LINE__, job->syntax ? E_SYNTAX : E_SCHEMA, ERR_FATAL,
                   "%s:%u:%u: %s%s", file, p[0].line, p[0].column, p[0].text, more);
}

int
conf_load(struct slice text, const struct conf_type *schema, const struct conf_opts *opts,
          struct conf **out, struct buf *problems, struct err *err)
{
    struct conf_job job = {opts, NULL, NULL, 0, false};
    int             rc;

    *out = NULL;
    if (text.len > CONF_FILE_MAX)
        FAIL(err, E_LIMIT, ERR_FATAL, "%s: %zu bytes, where at most %zu are read", opts->file,
             text.len, CONF_FILE_MAX);
    job.tree = calloc(1, sizeof *job.tree);
    job.problems = calloc(CONF_PROBLEMS_MAX + 1, sizeof *job.problems);
    if (job.tree == NULL || job.problems == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "%s: no memory", opts->file);
    job.tree->file = strdup(opts->file);
    if (job.tree->file == NULL)
        FAIL(err, E_NOMEM, ERR_FATAL, "%s: no memory", opts->file);
    TRY(basei_conf_parse(&job, text, err));
    if (!job.syntax)
        TRY(basei_conf_check(&job, job.tree->root, schema, err));
    if (job.count > 0) {
        rc = report(&job, problems, err);
        goto out;
    }
    *out = job.tree->root;
    job.tree = NULL;
out:
    free(job.problems);
    free_tree(job.tree);
    return rc;
}

/* reading */

static const struct conf_field *
field_in(const struct conf_type *type, const char *key)
{
    const struct conf_field *f = type == NULL ? NULL : type->fields;

    for (; f != NULL && f->name != NULL; f++) {
        if (strcmp(f->name, key) == 0)
            return f;
    }
    return NULL;
}

static const struct conf *
find(const struct conf *c, const char *key)
{
    if (c == NULL)
        return NULL;
    must(c->shape == CONF_MAPPING);
    if (c->type->kind == CONF_OBJECT || (c->type->kind == CONF_DRIVER && strcmp(key, "type") != 0))
        must(field_in(c->type, key) != NULL || field_in(c->driver, key) != NULL);
    for (c = c->first; c != NULL; c = c->next) {
        if (strcmp(c->key, key) == 0)
            return c;
    }
    return NULL;
}

static int64_t
number_of(const struct conf *c, const char *key, enum conf_kind kind)
{
    c = find(c, key);
    must(c != NULL);
    must(c->type->kind == kind);
    return c->number;
}

bool
conf_has(const struct conf *c, const char *key)
{
    return find(c, key) != NULL;
}

const char *
conf_str(const struct conf *c, const char *key)
{
    c = find(c, key);
    return c == NULL ? NULL : conf_text(c);
}

int64_t
conf_int(const struct conf *c, const char *key)
{
    return number_of(c, key, CONF_INT);
}

bool
conf_bool(const struct conf *c, const char *key)
{
    return number_of(c, key, CONF_BOOL) != 0;
}

uint64_t
conf_duration_us(const struct conf *c, const char *key)
{
    return (uint64_t)number_of(c, key, CONF_DURATION);
}

uint64_t
conf_size(const struct conf *c, const char *key)
{
    return (uint64_t)number_of(c, key, CONF_SIZE);
}

size_t
conf_enum(const struct conf *c, const char *key)
{
    return (size_t)number_of(c, key, CONF_ENUM);
}

const struct conf *
conf_child(const struct conf *c, const char *key)
{
    return find(c, key);
}

const struct conf *
conf_first(const struct conf *c)
{
    return c == NULL ? NULL : c->first;
}

const struct conf *
conf_next(const struct conf *c)
{
    return c->next;
}

size_t
conf_count(const struct conf *c)
{
    return c == NULL ? 0 : c->count;
}

const char *
conf_key(const struct conf *c)
{
    return c->key;
}

const char *
conf_text(const struct conf *c)
{
    must(c->shape == CONF_SCALAR);
    return c->text;
}

int64_t
conf_number(const struct conf *c)
{
    must(c->shape == CONF_SCALAR);
    return c->number;
}

int
conf_fail(const struct conf *c, struct err *err, const char *fmt, ...)
{
    struct buf path = {0};
    char       text[ERR_TEXT_MAX];
    va_list    ap;
    int        rc;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    basei_conf_path(c, &path);
    rc = err_set(err, __FILE__, __LINE__, E_SCHEMA, ERR_FATAL, "%s:%u:%u: %.*s%s", c->tree->file,
                 c->line, c->column, SLICE_FMT(buf_slice(&path)), text);
    buf_fini(&path);
    return rc;
}

const char *
conf_file(const struct conf *c)
{
    return c->tree->file;
}

static void
put_any_scalar(const struct conf *c, struct buf *out)
{
    struct slice   text = slice_str(c->text), raw;
    enum json_type type = JSON_NONE;

    if (c->plain && (text.len == 0 || slice_is(text, "~")))
        text = slice_str("null");
    if (c->plain && json_value(text, &raw, NULL) == 0 && raw.len == text.len)
        type = json_type(raw);
    if (type >= JSON_NULL && type <= JSON_NUMBER)
        buf_add_slice(out, text);
    else
        json_put_string(out, text);
}

void
conf_put_any(const struct conf *c, struct buf *out, conf_place_fn *place, void *arg)
{
    const struct conf *e;

    if (place != NULL)
        place(arg, out->len, c->line, c->column);
    if (c->shape == CONF_SCALAR) {
        put_any_scalar(c, out);
        return;
    }
    buf_add_byte(out, c->shape == CONF_MAPPING ? '{' : '[');
    for (e = c->first; e != NULL; e = e->next) {
        if (e != c->first)
            buf_add_byte(out, ',');
        if (e->key != NULL) {
            if (place != NULL)
                place(arg, out->len, e->key_line, e->key_column);
            json_put_string(out, slice_str(e->key));
            buf_add_byte(out, ':');
        }
        conf_put_any(e, out, place, arg); /* at most CONF_DEPTH_MAX deep */
    }
    buf_add_byte(out, c->shape == CONF_MAPPING ? '}' : ']');
}

/* Without the user and password that it may hold. */
static void
put_url(const char *text, struct json_out *o)
{
    struct url u;
    struct buf out = {0};

    must(url_parse(slice_str(text), &u, NULL) == 0);
    if (u.user.data != NULL) {
        const char *user = u.user.data;

        buf_add(&out, text, (size_t)(user - text));
        buf_add_str(&out, "***");
        buf_add_str(&out, user + u.user.len);
        o->buf->failed |= out.failed;
        json_out_string(o, buf_slice(&out));
    } else {
        json_out_str(o, text);
    }
    buf_fini(&out);
}

static void
put_scalar(const struct conf *c, struct json_out *o)
{
    switch (c->type->kind) {
    case CONF_INT:
        json_out_i64(o, c->number);
        break;
    case CONF_BOOL:
        json_out_bool(o, c->number != 0);
        break;
    case CONF_DURATION:
    case CONF_SIZE:
    case CONF_ENUM:
        json_out_str(o, c->text);
        break;
    case CONF_URL:
        if (!c->hidden) {
            put_url(c->text, o);
            break;
        }
        /* fall through */
    default:
        json_out_str(o, c->hidden ? "***" : c->text);
    }
}

void
conf_put_json(const struct conf *c, struct json_out *o)
{
    const struct conf *e;

    if (c->shape == CONF_SCALAR) {
        put_scalar(c, o);
        return;
    }
    if (c->shape == CONF_MAPPING)
        json_out_object(o);
    else
        json_out_array(o);
    for (e = c->first; e != NULL; e = e->next) {
        if (e->key != NULL)
            json_out_key(o, e->key);
        conf_put_json(e, o); /* at most CONF_DEPTH_MAX deep */
    }
    if (c->shape == CONF_MAPPING)
        json_out_object_end(o);
    else
        json_out_array_end(o);
}
