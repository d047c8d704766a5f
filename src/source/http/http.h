/* A service's feed of changes, polled over HTTP with a cursor (docs/http.md). */
#ifndef OX_SOURCE_HTTP_HTTP_H
#define OX_SOURCE_HTTP_HTTP_H

#include "source/source.h"

extern const struct source_ops source_http_ops;

#endif
