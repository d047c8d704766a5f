/* The fulfilment part and the sale as values. */
#include "shop.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int
copy_text(const char *from, char **to)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from != NULL && *to == NULL ? -1 : 0;
}

int
part_copy(const struct part *from, struct part *to)
{
    int rc = 0;

    rc |= copy_text(from->restaurant, &to->restaurant);
    rc |= copy_text(from->driver, &to->driver);
    rc |= copy_text(from->state, &to->state);
    rc |= copy_text(from->note, &to->note);
    if (rc != 0)
        part_fini(to);
    return rc;
}

static bool
same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool
part_equal(const struct part *a, const struct part *b)
{
    return same_text(a->restaurant, b->restaurant) && same_text(a->driver, b->driver) &&
           same_text(a->state, b->state) && same_text(a->note, b->note);
}

bool
part_is_final(const struct part *part)
{
    return same_text(part->state, "delivered") || same_text(part->state, "cancelled");
}

void
part_fini(struct part *part)
{
    free(part->restaurant);
    free(part->driver);
    free(part->state);
    free(part->note);
    memset(part, 0, sizeof(*part));
}

void
sale_fini(struct sale *sale)
{
    free(sale->customer);
    free(sale->items);
    free(sale->currency);
    free(sale->placed_at);
    memset(sale, 0, sizeof(*sale));
}

char *
stamp_text(int64_t wall_us)
{
    time_t    seconds = (time_t)(wall_us / 1000000);
    struct tm tm;
    char      day[32];
    char     *out = NULL;

    (void)gmtime_r(&seconds, &tm);
    (void)strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
    return asprintf(&out, "%s.%06dZ", day, (int)(wall_us % 1000000)) < 0 ? NULL : out;
}
