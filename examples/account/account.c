/*
 * The textbook bank account in one's own process, with liboxbow: opened, paid
 * in 100, paid out 30, paid in 50. Its balance is no row anywhere: it is what
 * the events add up to, at any version and any time.
 *
 * usage: account FOLDER    makes the folder, and prints a line for each balance
 */
#include <inttypes.h>
#include <oxbow.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
quit(const char *what, const struct ox_error *error)
{
    (void)fprintf(stderr, "account: %s: %s\n", what, error->text);
    exit(EXIT_FAILURE);
}

static void
append(struct ox *db, int64_t expected, const char *type, const char *data)
{
    struct ox_new_event event = {.type = type, .data = data, .data_len = strlen(data)};
    struct ox_error     error;

    if (ox_append(db, "account-lib", expected, &event, 1, NULL, &error) != OX_OK)
        quit("append", &error);
}

/* This program wrote the events, so it knows how they look. */
static long
amount_of(const struct ox_event *event)
{
    const char *colon = memchr(event->data, ':', event->data_len);
    long        amount = colon == NULL ? 0 : strtol(colon + 1, NULL, 10);

    return strcmp(event->type, "PaidOut") == 0 ? -amount : amount;
}

/* What the account held right after its event of this version, or as of a time. */
static long
balance(struct ox *db, int64_t version, int64_t at_us, int64_t *last_us)
{
    struct ox_read    read = {.size = sizeof read, .stream = "account-lib", .at_us = at_us};
    struct ox_reader *reader;
    struct ox_event   event;
    struct ox_error   error;
    long              sum = 0;
    int               status;

    if (ox_read_open(db, &read, &reader, &error) != OX_OK)
        quit("read", &error);
    while ((status = ox_read_next(reader, &event, &error)) == OX_OK) {
        if (version >= 0 && event.version > (uint64_t)version)
            break;
        sum += amount_of(&event);
        if (last_us != NULL)
            *last_us = event.created_us;
    }
    if (status != OX_OK && status != OX_END)
        quit("read", &error);
    ox_read_close(reader);
    return sum;
}

/* A clerk who saw version 1 only is told so, and nothing is written. */
static bool
is_refused(struct ox *db)
{
    struct ox_new_event event = {.type = "PaidOut", .data = "{\"amount\":120}", .data_len = 14};
    struct ox_error     error;

    return ox_append(db, "account-lib", 1, &event, 1, NULL, &error) == OX_WRONG_VERSION;
}

int
main(int argc, char **argv)
{
    struct ox_error error;
    struct ox      *db;
    int64_t         times[4];

    if (argc != 2) {
        (void)fprintf(stderr, "usage: account FOLDER\n");
        return 2;
    }
    if (ox_open(argv[1], NULL, &db, &error) != OX_OK)
        quit("open", &error);
    append(db, OX_NO_STREAM, "Opened", "{\"amount\":0}");
    append(db, 0, "PaidIn", "{\"amount\":100}");
    append(db, 1, "PaidOut", "{\"amount\":30}");
    append(db, 2, "PaidIn", "{\"amount\":50}");
    for (int version = 0; version < 4; version++)
        (void)printf("version %d %ld\n", version, balance(db, version, 0, &times[version]));
    for (int version = 0; version < 4; version++)
        (void)printf("time %d %ld\n", version, balance(db, -1, times[version], NULL));
    (void)printf("refused %s\n", is_refused(db) ? "yes" : "no");
    (void)printf("balance %ld\n", balance(db, -1, 0, NULL));
    ox_close(db);
    return 0;
}
