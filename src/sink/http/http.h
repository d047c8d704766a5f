/* Events as requests to an HTTP service: a method, a URL and a body by type (docs/http.md). */
#ifndef OX_SINK_HTTP_HTTP_H
#define OX_SINK_HTTP_HTTP_H

#include "sink/sink.h"

extern const struct sink_ops sink_http_ops;

#endif
