#include "contract.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/json.h"

#define FOLD_ROOM 65536U

struct fold {
    char  *keys[FOLD_ROOM], *rows[FOLD_ROOM]; /* a row of NULL: deleted */
    size_t used;
};

void
contract_ok(int rc, const struct err *err)
{
    if (rc != 0)
        fail_msg("%s at %s:%d: %s", err_name(rc), err->file, err->line, err->text);
}

static const char *
no_variable(void *arg, const char *name)
{
    return NULL;
}

static int
no_file(void *arg, const char *path, struct buf *out, struct err *err)
{
    return err_set(err, __FILE__, __LINE__, E_NOTFOUND, ERR_FATAL, "no files in tests");
}

struct conf *
contract_conf(const struct conf_type *schema, const char *fmt, ...)
{
    struct conf_opts opts = {.file = "test.yaml", .getenv = no_variable, .read_file = no_file};
    struct conf     *conf;
    struct buf       problems = {0};
    struct err       err;
    char             text[4096];
    va_list          args;
    int              rc;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    rc = conf_load(slice_str(text), schema, &opts, &conf, &problems, &err);
    buf_fini(&problems);
    contract_ok(rc, &err);
    return conf;
}

char *
contract_folder(void)
{
    char *folder = strdup("/tmp/oxbow-test-XXXXXX");

    assert_non_null(folder);
    assert_non_null(mkdtemp(folder));
    return folder;
}

void
contract_folder_remove(char *folder)
{
    DIR           *dir = opendir(folder);
    struct dirent *e;
    char           path[512];

    while (dir != NULL && (e = readdir(dir)) != NULL) {
        (void)snprintf(path, sizeof path, "%s/%.200s", folder, e->d_name);
        if (e->d_name[0] != '.')
            (void)unlink(path);
    }
    if (dir != NULL)
        (void)closedir(dir);
    (void)rmdir(folder);
    free(folder);
}

struct fold *
fold_new(void)
{
    struct fold *f = calloc(1, sizeof *f);

    assert_non_null(f);
    return f;
}

void
fold_free(struct fold *f)
{
    if (f == NULL)
        return;
    for (size_t i = 0; i < FOLD_ROOM; i++) {
        free(f->keys[i]);
        free(f->rows[i]);
    }
    free(f);
}

static size_t
find(const struct fold *f, struct slice key)
{
    const uint8_t *p = key.data;
    uint32_t       at = 2166136261U;

    for (size_t i = 0; i < key.len; i++)
        at = (at ^ p[i]) * 16777619U;
    for (at %= FOLD_ROOM; f->keys[at] != NULL; at = (at + 1) % FOLD_ROOM) {
        if (slice_is(key, f->keys[at]))
            break;
    }
    return at;
}

void
fold_put(struct fold *f, struct slice key, struct slice row)
{
    size_t     at = find(f, key);
    struct buf text = {0};
    struct err err;

    contract_ok(json_canonical(row, &text, &err), &err);
    if (f->keys[at] == NULL) {
        assert_true(f->used++ < FOLD_ROOM / 2);
        f->keys[at] = strndup(key.len == 0 ? "" : key.data, key.len);
    }
    free(f->rows[at]);
    f->rows[at] = strndup((const char *)text.data, text.len);
    buf_fini(&text);
}

void
fold_del(struct fold *f, struct slice key)
{
    size_t at = find(f, key);

    if (f->keys[at] != NULL) {
        free(f->rows[at]);
        f->rows[at] = NULL;
    }
}

const char *
fold_get(const struct fold *f, struct slice key)
{
    size_t at = find(f, key);

    return f->keys[at] == NULL ? NULL : f->rows[at];
}

size_t
fold_count(const struct fold *f)
{
    size_t count = 0;

    for (size_t i = 0; i < FOLD_ROOM; i++)
        count += f->rows[i] != NULL;
    return count;
}

void
fold_each(const struct fold *f, void (*fn)(void *, const char *, const char *), void *arg)
{
    for (size_t i = 0; i < FOLD_ROOM; i++) {
        if (f->rows[i] != NULL)
            fn(arg, f->keys[i], f->rows[i]);
    }
}

void
fold_equal(const struct fold *is, const struct fold *should)
{
    for (size_t i = 0; i < FOLD_ROOM; i++) {
        const char *other;

        if (should->rows[i] == NULL)
            continue;
        other = fold_get(is, slice_str(should->keys[i]));
        if (other == NULL || strcmp(other, should->rows[i]) != 0)
            fail_msg("key %s is %s, not %s", should->keys[i], other == NULL ? "missing" : other,
                     should->rows[i]);
    }
    for (size_t i = 0; i < FOLD_ROOM; i++) {
        if (is->rows[i] != NULL && fold_get(should, slice_str(is->keys[i])) == NULL)
            fail_msg("key %s should not be there", is->keys[i]);
    }
}

uint32_t
contract_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

void
contract_fold_message(struct fold *f, struct slice key, struct slice type, struct slice data)
{
    if (slice_is(type, "Deleted"))
        fold_del(f, key);
    else
        fold_put(f, key, data);
}

const char *
contract_large(void)
{
    static char text[70000];

    if (text[0] == '\0') {
        memset(text, 'x', sizeof text);
        memcpy(text, "{\"a\":\"", 6);
        memcpy(text + sizeof text - 9, "\",\"b\":1}", 9); /* with its NUL */
    }
    return text;
}

const char *
contract_server(const char *name)
{
    const char *address = getenv(name);

    if (address == NULL)
        fail_msg("%s is not set: run this below tests/brokers.py", name);
    return address;
}
