/*
 * Assertions that stay in the release build. Never on outside input: that is
 * an error, not a bug. One condition each.
 */
#ifndef OX_BASE_MUST_H
#define OX_BASE_MUST_H

#include <stdnoreturn.h>

noreturn void must_failed(const char *file, int line, const char *what);

#define must(cond)                                                                                 \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            must_failed(__FILE__, __LINE__, #cond);                                                \
    } while (0)

/* For checks whose cost grows with the data: debug and simulator builds. */
#ifdef OX_SLOW_CHECKS
#define must_slow(cond) must(cond)
#else
#define must_slow(cond) ((void)sizeof(!(cond)))
#endif

#endif
