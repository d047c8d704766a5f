/* A side of a migration that is an HTTP service with rows of JSON (docs/http.md). */
#ifndef OX_STORE_HTTP_HTTP_H
#define OX_STORE_HTTP_HTTP_H

#include "store/store.h"

extern const struct store_ops store_http_ops;

#endif
