/* The sinks `file` and `stdout`: events as lines of JSON (docs/sinks.md). */
#ifndef OX_SINK_FILE_FILE_H
#define OX_SINK_FILE_FILE_H

#include "sink/sink.h"

extern const struct sink_ops sink_file_ops, sink_stdout_ops;

#endif
