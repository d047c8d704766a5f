/* Between the files that make messages only. */
#ifndef OX_SINK_MESSAGE_INT_H
#define OX_SINK_MESSAGE_INT_H

#include "sink/sink.h"

/* Onto `out`; ERR_DATA: the event is no captured change. */
int sinki_put_debezium(const struct sink_item *, struct buf *out, struct err *);

#endif
