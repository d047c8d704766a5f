/*
 * Stands in for libFuzzer in the ordinary build: feeds a fuzz target every file
 * of the folders named, and every short prefix of each, since a decoder's
 * commonest mistake is to read past an input that ends too soon.
 * Each input is passed in a block of its own size, so that ASan sees an overrun.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX ((size_t)32 << 20)
#define PREFIX_MAX 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long inputs;

static void
feed(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);

    if (copy == NULL) {
        perror("replay");
        exit(1);
    }
    if (size > 0)
        memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    inputs++;
}

static int
replay_file(const char *path)
{
    uint8_t *data = malloc(INPUT_MAX);
    FILE    *f = fopen(path, "rb");
    size_t   size, n;
    int      rc = 1;

    if (data == NULL || f == NULL) {
        perror(path);
        goto out;
    }
    size = fread(data, 1, INPUT_MAX, f);
    if (ferror(f) || fgetc(f) != EOF) {
        fprintf(stderr, "%s: cannot be read, or is over %zu bytes\n", path, INPUT_MAX);
        goto out;
    }
    for (n = 0; n < size && n <= PREFIX_MAX; n++)
        feed(data, n);
    feed(data, size);
    rc = 0;
out:
    if (f != NULL)
        (void)fclose(f);
    free(data);
    return rc;
}

static int
visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int
replay_folder(const char *folder)
{
    struct dirent **entries = NULL;
    char            path[4096];
    int             n, i, rc = 0;

    n = scandir(folder, &entries, visible, alphasort);
    if (n <= 0) {
        fprintf(stderr, "%s: %s\n", folder, n < 0 ? "cannot be read" : "is empty");
        free(entries);
        return 1;
    }
    for (i = 0; i < n; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (replay_file(path) != 0)
            rc = 1;
        free(entries[i]);
    }
    free(entries);
    return rc;
}

int
main(int argc, char **argv)
{
    int i, rc = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS...\n", argv[0]);
        return 2;
    }
    for (i = 1; i < argc; i++) {
        if (replay_folder(argv[i]) != 0)
            rc = 1;
    }
    printf("%lu inputs\n", inputs);
    return rc;
}
