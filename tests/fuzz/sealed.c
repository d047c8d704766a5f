/*
 * Sealed data from outside: nothing is opened that was not sealed for this
 * event, whatever the bytes are; what was sealed is opened as it was.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/must.h"
#include "env/env_real.h"
#include "subject/subject.h"

#define BYTES_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ox_subjects *subjects;
static char                dir[] = "/tmp/oxbow-fuzz-XXXXXX";

static void
clean_up(void)
{
    static const char *const names[] = {"/subjects", "/LOCK", ""};
    char                     path[64];

    subject_close(subjects);
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s%s", dir, names[i]);
        (void)remove(path);
    }
}

static struct ox_subjects *
keys(void)
{
    struct subject_conf conf = {.dir = dir};

    if (subjects != NULL)
        return subjects;
    must(mkdtemp(dir) != NULL);
    must(subject_open(env_real(), &conf, &subjects, NULL) == 0);
    (void)atexit(clean_up);
    return subjects;
}

static int
try_open(const struct ox_id *event, struct slice sealed, uint8_t *plain)
{
    char   name[SUBJECTS_NAME_MAX];
    size_t name_len;

    return keys()->ops->open(keys(), event, sealed, plain, name, &name_len, NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ox_id event = {{7}}, other = {{8}};
    uint8_t     *sealed, *plain;
    size_t       len = size + SUBJECTS_OVERHEAD;

    if (size > BYTES_MAX)
        return 0;
    sealed = malloc(len);
    plain = malloc(size + 1);
    must(sealed != NULL && plain != NULL);
    must(try_open(&event, slice_of(data, size), plain) != 0);
    must(keys()->ops->seal(keys(), slice_str("a"), &event, slice_of(data, size), sealed, NULL) ==
         0);
    must(try_open(&event, slice_of(sealed, len), plain) == 0);
    must(size == 0 || memcmp(plain, data, size) == 0);
    must(try_open(&other, slice_of(sealed, len), plain) != 0);
    /* The key id is right, and what follows is the input's. */
    if (size >= SUBJECTS_OVERHEAD) {
        uint8_t *forged = malloc(size);

        must(forged != NULL);
        memcpy(forged, data, size);
        memcpy(forged, sealed, 16);
        must(try_open(&event, slice_of(forged, size), plain) != 0);
        /* The way of sealing too. */
        memcpy(forged + 28, sealed + 28, 4);
        must(try_open(&event, slice_of(forged, size), plain) != 0);
        free(forged);
    }
    free(sealed);
    free(plain);
    return 0;
}
