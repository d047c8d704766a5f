/* The fulfilment service as the shop uses it. */
#include "shop.h"
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_MS 5000

static enum outcome
outcome_of(long status)
{
    if (status == 200 || status == 201)
        return DONE;
    if (status == 409 || status == 412)
        return MOVED;
    if (status == 0 || status >= 500 || status == 408 || status == 429)
        return UNSURE;
    complain("the service refused a write with status %ld", status);
    return REJECTED;
}

static void
order_url(const char *service, int64_t id, char *url, size_t size)
{
    (void)snprintf(url, size, "%s/orders/%lld", service, (long long)id);
}

enum outcome
remote_put(struct wire *wire, const char *service, int64_t id, const struct part *part,
           int64_t epoch, const char *key)
{
    char         url[1024], epoch_head[64], key_head[160];
    json_t      *row = json_pack("{s:s, s:s?, s:s, s:s?}", "restaurant", part->restaurant, "driver",
                                 part->driver, "state", part->state, "note", part->note);
    char        *body = json_dumps(row, JSON_COMPACT);
    json_t      *answer = NULL;
    enum outcome out = REJECTED;

    if (body == NULL)
        goto out;
    order_url(service, id, url, sizeof(url));
    (void)snprintf(epoch_head, sizeof(epoch_head), "Oxbow-Epoch: %lld", (long long)epoch);
    (void)snprintf(key_head, sizeof(key_head), "Idempotency-Key: %s", key);
    out = outcome_of(wire_call(wire, "PUT", url, epoch_head, key_head, body, CALL_TIMEOUT_MS));
    if (out == DONE) {
        /* A success that cannot be read is none: asked again, it is repeated. */
        answer = json_loads(wire_text(wire), 0, NULL);
        if (!json_is_integer(json_object_get(answer, "version")))
            out = UNSURE;
    }
out:
    json_decref(answer);
    json_decref(row);
    free(body);
    return out;
}

static char *
take_text(const json_t *row, const char *name)
{
    const char *text = json_string_value(json_object_get(row, name));

    return text != NULL ? strdup(text) : NULL;
}

enum outcome
remote_get(struct wire *wire, const char *service, int64_t id, struct part *part)
{
    char    url[1024];
    json_t *row;
    long    status;

    order_url(service, id, url, sizeof(url));
    status = wire_call(wire, "GET", url, NULL, NULL, NULL, CALL_TIMEOUT_MS);
    if (status == 404)
        return DONE;
    if (status != 200)
        return UNSURE;
    row = json_loads(wire_text(wire), 0, NULL);
    if (row == NULL)
        return UNSURE;
    part->restaurant = take_text(row, "restaurant");
    part->driver = take_text(row, "driver");
    part->state = take_text(row, "state");
    part->note = take_text(row, "note");
    json_decref(row);
    return part->state != NULL ? DONE : UNSURE;
}
