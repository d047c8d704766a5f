/* A folder for one test, and its end. */
#ifndef OX_TESTS_TMP_H
#define OX_TESTS_TMP_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

/* In $TMPDIR, or /tmp. */
static inline void
tmp_dir(char *out, size_t room)
{
    const char *base = getenv("TMPDIR");

    if ((size_t)snprintf(out, room, "%s/oxbow-test-XXXXXX",
                         base == NULL || base[0] == '\0' ? "/tmp" : base) >= room) {
        (void)fprintf(stderr, "TMPDIR is too long: %s\n", base);
        exit(1);
    }
    if (mkdtemp(out) == NULL) {
        perror(out);
        exit(1);
    }
}

static inline int
tmp_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void
tmp_remove(const char *dir)
{
    (void)nftw(dir, tmp_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
