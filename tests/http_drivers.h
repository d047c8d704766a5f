/* What the tests of the HTTP drivers share: configurations and worlds. */
#ifndef OX_TESTS_HTTP_DRIVERS_H
#define OX_TESTS_HTTP_DRIVERS_H

#include <stdint.h>

#include "base/conf.h"
#include "sink/sink.h"
#include "source/source.h"
#include "store/store.h"

/* A checked tree from YAML; fails the test where it is wrong. */
struct conf *http_conf(const struct conf_type *schema, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The first problem of a tree that must be refused. */
void http_conf_refused(const struct conf_type *schema, const char *problem, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Fails the test with the error's text. */
void http_ok(int rc, const struct err *err);

/* Opened for the service of tests/http_service.h or examples/orders at this port. */
struct source *http_source(uint16_t port, bool snapshot, const char *more);
struct store  *http_store(uint16_t port, const char *fields, const char *more);
struct sink   *http_sink(uint16_t port, const char *rules);

#endif
