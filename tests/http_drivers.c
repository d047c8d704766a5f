#include "http_drivers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "env/env_real.h"
#include "sink/http/http.h"
#include "source/http/http.h"
#include "store/http/http.h"

void
http_ok(int rc, const struct err *err)
{
    if (rc != 0)
        fail_msg("%s at %s:%d: %s", err_name(rc), err->file, err->line, err->text);
}

static const char *
no_variable(void *arg, const char *name)
{
    (void)arg;
    (void)name;
    return NULL;
}

static int
no_file(void *arg, const char *path, struct buf *out, struct err *err)
{
    (void)arg;
    (void)path;
    (void)out;
    RETURN_ERR(err, E_NOTFOUND, ERR_FATAL, "no files in tests");
}

static int
load(const struct conf_type *schema, const char *fmt, va_list args, struct conf **out,
     struct err *err)
{
    struct conf_opts opts = {.file = "test", .getenv = no_variable, .read_file = no_file};
    struct buf       text = {0}, problems = {0};
    char             yaml[8192];
    int              rc;

    (void)vsnprintf(yaml, sizeof yaml, fmt, args);
    rc = conf_load(slice_str(yaml), schema, &opts, out, &problems, err);
    buf_fini(&text);
    buf_fini(&problems);
    return rc;
}

struct conf *
http_conf(const struct conf_type *schema, const char *fmt, ...)
{
    struct conf *conf = NULL;
    struct err   err = {0};
    va_list      args;
    int          rc;

    va_start(args, fmt);
    rc = load(schema, fmt, args, &conf, &err);
    va_end(args);
    http_ok(rc, &err);
    return conf;
}

void
http_conf_refused(const struct conf_type *schema, const char *problem, const char *fmt, ...)
{
    struct conf *conf = NULL;
    struct err   err = {0};
    va_list      args;

    va_start(args, fmt);
    assert_int_equal(load(schema, fmt, args, &conf, &err), E_SCHEMA);
    va_end(args);
    if (strstr(err.text, problem) == NULL)
        fail_msg("%s", err.text);
}

struct source *
http_source(uint16_t port, bool snapshot, const char *more)
{
    struct conf *conf =
        http_conf(source_http_ops.schema,
                  "url: http://127.0.0.1:%u\ntable: orders\n"
                  "changes: /changes?after={cursor}&limit={limit}&wait_ms={wait_ms}\n"
                  "ops: {put: update, delete: delete}\npaths: {head: head}\ngone: [409, 410]\n%s%s",
                  port,
                  snapshot ? "snapshot: {position_url: /position, scan: {url: "
                             "'/orders?after={after}&limit={limit}', rows: orders, next: next}}\n"
                           : "",
                  more);
    struct source *s;
    struct err     err = {0};

    http_ok(source_new(env_real(), &source_http_ops, "feed", conf, &s, &err), &err);
    conf_free(conf);
    return s;
}

struct store *
http_store(uint16_t port, const char *fields, const char *more)
{
    struct conf *conf = http_conf(
        store_http_ops.schema,
        "url: http://127.0.0.1:%u/\nfields: %s\nitem: /orders/{key}\n"
        "scan: {url: '/orders?after={after}&limit={limit}', rows: orders, next: next, page: 3}\n"
        "position: {url: /position}\nguard: {url: /epoch}\n"
        "fenced: [{status: 409, error: stale-epoch}, {status: 409, error: not-authority}]\n%s",
        port, fields, more);
    struct store *s;
    struct err    err = {0};

    http_ok(store_new(env_real(), &store_http_ops, "side", conf, &s, &err), &err);
    conf_free(conf);
    return s;
}

struct sink *
http_sink(uint16_t port, const char *rules)
{
    struct conf *conf =
        http_conf(sink_http_ops.schema, "url: http://127.0.0.1:%u\nrules:\n%s", port, rules);
    struct sink *s;
    struct err   err = {0};

    http_ok(sink_new(env_real(), &sink_http_ops, "out", conf, &s, &err), &err);
    conf_free(conf);
    return s;
}
