/* A stream's move as one commit, as docs/surgery.md has it, for tests of what consumers see. */
#ifndef OX_TESTS_MOVES_FAKE_H
#define OX_TESTS_MOVES_FAKE_H

#include "log/log.h"

/* Of at most 16 events, none of them copies; the same stream: rewritten in place. */
void moves_fake(struct log *log, const char *from, const char *to);

#endif
