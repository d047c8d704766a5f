/* Inside the command line only: the state of streams in an export. */
#ifndef OX_CLI_STATES_H
#define OX_CLI_STATES_H

#include "base/err.h"
#include "base/slice.h"

struct cli;
struct log;

/* The lines of all streams that have a state. */
int clii_states_export(struct cli *c, struct log *log, struct err *err);

/* The object of one such line. */
int clii_state_import(struct log *log, struct slice state, struct err *err);

#endif
