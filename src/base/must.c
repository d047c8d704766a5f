#include "base/must.h"

#include <stdio.h>
#include <stdlib.h>

noreturn void
must_failed(const char *file, int line, const char *what)
{
    (void)fprintf(stderr, "oxbow: bug: %s:%d: must(%s)\n", file, line, what);
    (void)fflush(stderr);
    abort();
}
