/* A shop that has been in business for a while. */
#include "shop.h"
#include <stdlib.h>
#include <string.h>

int
init_add(struct books *books, struct journal *journal, int64_t id, const struct sale *sale,
         const struct part *part)
{
    int64_t      now = clock_wall_us();
    struct entry entry = {
        .id = id,
        .op = "init",
        .acked = true,
        .side = SIDE_OLD,
        .part = part,
        .start_us = now,
        .end_us = now,
    };

    if (books_insert(books, id, sale, part) != DONE)
        return -1;
    return journal_add(journal, &entry);
}

/* Seven orders of ten are long delivered; the rest are on their way. */
static int
age_part(struct dice *dice, struct part *part)
{
    static const char *const states[] = {"placed",    "preparing", "ready",
                                         "picked_up", "delivered", "cancelled"};
    unsigned                 roll = dice_below(dice, 100);
    unsigned                 state = roll < 70 ? 4 : roll < 75 ? 5 : dice_below(dice, 4);

    free(part->state);
    part->state = strdup(states[state]);
    if (part->state == NULL)
        return -1;
    if (state >= 3 && state != 5)
        return invent_text(dice, "driver", &part->driver);
    return 0;
}

int
init_invented(struct books *books, struct journal *journal, int64_t orders, uint64_t seed)
{
    struct dice   dice = {.state = seed};
    const int64_t opened_us = INT64_C(1767225600) * 1000000; /* 2026-01-01 */
    int           rc = 0;

    for (int64_t id = 1; rc == 0 && id <= orders; id++) {
        struct sale sale = {0};
        struct part part = {0};

        rc = invent_sale(&dice, opened_us + id * 61 * 1000000, &sale);
        if (rc == 0)
            rc = invent_part(&dice, &part);
        if (rc == 0)
            rc = age_part(&dice, &part);
        if (rc == 0)
            rc = init_add(books, journal, id, &sale, &part);
        sale_fini(&sale);
        part_fini(&part);
    }
    return rc;
}
