/*
 * Data as it is in a database that real people have typed into for years:
 * several scripts, quotes, line breaks, blanks at the ends, words that look
 * like numbers or like NULL, notes that are absent, empty, or far too long.
 */
#include "shop.h"
#include <stdlib.h>
#include <string.h>

#define COUNT(a) ((unsigned)(sizeof(a) / sizeof((a)[0])))

static const char *const restaurants[] = {
    "Osteria da Nino",
    "Zum Grünen Jäger",
    "L'Échoppe",
    "寿司まる",
    "Ресторан «Дружба»",
    "مطعم الشام",
    "Burger \"No. 1\"",
    "Phở Hà Nội",
    "Πλάκα",
    "Curry & Co.",
    "O'Malley's",
    "Null Bar",
    "007",
    "  Two Spaces  ",
    "Cafe\u0301 Noir",
    "Café Noir",
    "🍕 Pizza Express",
    "Al-Andalus\\Grill",
    "การอาหาร",
    "Świat Pierogów",
};
static const char *const drivers[] = {
    "Ana",         "Björn",   "Chidi",  "Đặng Thị Lan", "Émile",
    "Fatma Şahin", "Γιώργος", "花子",   "Ivan",         "J. R. \"Ricky\" O'Neil",
    "NULL",        "42",      "Łukasz", "Мария",        "Noor",
    "Øystein",
};
static const char *const customers[] = {
    "Ada Lovelace",
    "Bogdan Ionescu",
    "Carla Núñez",
    "Dmitri Орлов",
    "Elif Yılmaz",
    "François D.",
    "George Ó Briain",
    "Hanako 山田",
    "Ingrid Sørensen",
    "Company \"X\", Ltd.",
    "Joe, c/o Jane",
    "Kwame",
    "أحمد",
    "Ζωή",
};
static const char *const notes[] = {
    "leave at the door",
    "ring twice",
    "no onions, please",
    "allergic: nuts!",
    "3. Stock, links",
    "code 0000#",
    "gate\nthen second house\non the left",
    "\ttab first",
    "say \"hello\"",
    "C:\\back\\slash",
    "0",
    "null",
    "門の前に置いてください",
    "اتصل قبل الوصول",
    "🙏🏽 danke",
    " trailing blank ",
    "1e3",
    "it's fine; -- really",
    "don’t knock: baby sleeps",
    "е́",
};
static const char *const dishes[] = {
    "Margherita", "Pad Thai", "Döner",           "Ramen",   "Crème brûlée",
    "Falafel",    "Борщ",     "Tacos al pastor", "Poutine", "Fish & Chips",
};
static const char *const currencies[] = {"EUR", "USD", "GBP", "JPY"};

static char *
pick(struct dice *dice, const char *const *from, unsigned count)
{
    return strdup(from[dice_below(dice, count)]);
}

int
invent_sale(struct dice *dice, int64_t placed_us, struct sale *sale)
{
    unsigned lines = 1 + dice_below(dice, 4);
    json_t  *items = json_array();

    sale->amount_cents = 0;
    for (unsigned i = 0; i < lines; i++) {
        unsigned qty = 1 + dice_below(dice, 3);
        unsigned cents = 250 + dice_below(dice, 2500);

        sale->amount_cents += (int64_t)qty * cents;
        (void)json_array_append_new(items, json_pack("{s:s, s:i, s:i}", "name",
                                                     dishes[dice_below(dice, COUNT(dishes))], "qty",
                                                     (int)qty, "cents", (int)cents));
    }
    sale->customer = pick(dice, customers, COUNT(customers));
    sale->currency = pick(dice, currencies, COUNT(currencies));
    sale->items = json_dumps(items, JSON_COMPACT);
    sale->placed_at = stamp_text(placed_us);
    json_decref(items);
    return sale->customer != NULL && sale->currency != NULL && sale->items != NULL &&
                   sale->placed_at != NULL
               ? 0
               : -1;
}

static char *
long_note(struct dice *dice)
{
    size_t length = 500 + dice_below(dice, 3000);
    char  *text = malloc(length + 1);

    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < length; i++)
        text[i] = (char)('a' + dice_below(dice, 26));
    text[length] = '\0';
    return text;
}

/* Half of all orders have no note, some have an empty one. */
static int
invent_note(struct dice *dice, char **note)
{
    unsigned roll = dice_below(dice, 100);

    *note = NULL;
    if (roll < 50)
        return 0;
    if (roll < 62)
        *note = strdup("");
    else if (roll < 64)
        *note = long_note(dice);
    else
        *note = pick(dice, notes, COUNT(notes));
    return *note != NULL ? 0 : -1;
}

int
invent_part(struct dice *dice, struct part *part)
{
    part->restaurant = pick(dice, restaurants, COUNT(restaurants));
    part->state = strdup("placed");
    if (part->restaurant == NULL || part->state == NULL)
        return -1;
    return invent_note(dice, &part->note);
}

int
invent_text(struct dice *dice, const char *what, char **text)
{
    free(*text);
    *text = NULL;
    if (strcmp(what, "note") == 0)
        return invent_note(dice, text);
    *text = pick(dice, drivers, COUNT(drivers));
    return *text != NULL ? 0 : -1;
}
