/*
 * What the program says while it runs: one line of logfmt on stderr for each
 * thing, with level, time, message and pairs. Any thread. Never row data.
 *
 *     say(SAY_INFO, "listening", "address", "127.0.0.1:2113", NULL);
 */
#ifndef OX_BASE_SAY_H
#define OX_BASE_SAY_H

#include <stddef.h>
#include <stdint.h>

struct ox_env;

enum say_level {
    SAY_DEBUG,
    SAY_INFO,
    SAY_WARN,
    SAY_ERROR,
};

/* Longer lines are cut and end in "…". */
#define SAY_LINE_MAX 2048

/* The clock for the lines' times (NULL: no times), and the least level that is said. */
void say_init(struct ox_env *env, enum say_level least);

/* Where lines go instead of stderr, for tests; NULL: stderr again. `line` has its LF. */
typedef void say_fn(void *arg, const char *line, size_t len);
void         say_to(say_fn *fn, void *arg);

/* Pairs of const char * name and value, ended by a NULL name. A NULL value is left out. */
void say(enum say_level level, const char *message, ...) __attribute__((sentinel));

/* A number as text for say(), in a buffer of the caller's. */
struct say_num {
    char text[24];
};
const char *say_u64(struct say_num *num, uint64_t v);

#endif
