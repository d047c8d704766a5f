/* The placeholders of a sink's templates: {stream}, {data.a.b} and so on, out of one event. */
#ifndef OX_SINK_FILL_H
#define OX_SINK_FILL_H

#include "base/template.h"
#include "sink/sink.h"

#define SINK_PLACEHOLDERS                                                                          \
    "{key}, {stream}, {category}, {type}, {id}, {version}, {position}, {created}, {data.a.b}, "    \
    "{meta.a.b}"

/* For template_new and, with arg a struct sink_item, for template_expand. */
bool sink_fill_known(void *arg, struct slice name);
int  sink_fill(void *arg, struct slice name, bool raw, struct buf *value, struct err *err);

#endif
