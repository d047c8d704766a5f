/* A fulfilment row: its JSON form and what a valid one is. */
#include "ful.h"
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 200
#define NOTE_MAX_BYTES 4000

void
ful_row_fini(struct ful_row *row)
{
    free(row->restaurant);
    free(row->driver);
    free(row->state);
    free(row->note);
    memset(row, 0, sizeof(*row));
}

json_t *
ful_row_json(const struct ful_row *row)
{
    return json_pack("{s:I, s:s, s:s?, s:s, s:s?, s:I}", "id", (json_int_t)row->id, "restaurant",
                     row->restaurant, "driver", row->driver, "state", row->state, "note", row->note,
                     "version", (json_int_t)row->version);
}

static bool
known_state(const char *state)
{
    static const char *const all[] = {"placed",    "preparing", "ready",
                                      "picked_up", "delivered", "cancelled"};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (strcmp(all[i], state) == 0)
            return true;
    return false;
}

static const char *
unknown_field(const json_t *body)
{
    static const char *const all[] = {"id", "restaurant", "driver", "state", "note"};
    const char              *name;
    json_t                  *value;

    json_object_foreach((json_t *)body, name, value)
    {
        bool known = false;

        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
            known = known || strcmp(all[i], name) == 0;
        if (!known)
            return "unknown field: a row has restaurant, driver, state and note, and may have id";
    }
    return NULL;
}

/* False when the value is neither a string that fits nor, where allowed, null. */
static bool
take_text(const json_t *value, bool nullable, size_t max, char **out)
{
    if (nullable && json_is_null(value))
        return true;
    if (!json_is_string(value) || json_string_length(value) > max)
        return false;
    *out = strdup(json_string_value(value));
    return *out != NULL;
}

const char *
ful_row_parse(const json_t *body, int64_t id, struct ful_row *row)
{
    const char   *why;
    const json_t *given = json_object_get(body, "id");

    row->id = id;
    if (!json_is_object(body))
        return "the body must be a JSON object";
    why = unknown_field(body);
    if (why != NULL)
        return why;
    if (given != NULL && (!json_is_integer(given) || json_integer_value(given) != id))
        return "id: is not the number in the path";
    if (!take_text(json_object_get(body, "restaurant"), false, NAME_MAX_BYTES, &row->restaurant) ||
        row->restaurant[0] == '\0')
        return "restaurant: must be a string of 1 to 200 bytes";
    if (!take_text(json_object_get(body, "driver"), true, NAME_MAX_BYTES, &row->driver))
        return "driver: must be null or a string of at most 200 bytes";
    if (!take_text(json_object_get(body, "state"), false, NAME_MAX_BYTES, &row->state) ||
        !known_state(row->state))
        return "state: must be placed, preparing, ready, picked_up, delivered or cancelled";
    if (!take_text(json_object_get(body, "note"), true, NOTE_MAX_BYTES, &row->note))
        return "note: must be null or a string of at most 4000 bytes";
    return NULL;
}
