/* What was delivered and is not acknowledged, in its order; and what a delivery says of itself. */
#include <stdlib.h>

#include "base/must.h"
#include "source/nats/nats_int.h"

#define TOKENS_MAX 16

/* "$JS.ACK.STREAM.CONSUMER.TIMES.SEQUENCE.DELIVERY.NS.PENDING", or with two more before STREAM. */
bool
natsi_place_parse(const char *reply, struct natsi_place *out)
{
    const char *token[TOKENS_MAX];
    char       *end;
    uint64_t    n[5];
    uint32_t    count = 1, first;

    if (reply == NULL || strncmp(reply, "$JS.ACK.", 8) != 0)
        return false;
    token[0] = reply;
    for (const char *p = reply; *p != '\0' && count < TOKENS_MAX; p++)
        if (*p == '.')
            token[count++] = p + 1;
    if (count != 9 && count < 11)
        return false;
    first = count == 9 ? 4 : 6;
    for (uint32_t i = 0; i < 5; i++) {
        n[i] = strtoull(token[first + i], &end, 10);
        if (end == token[first + i] || (*end != '.' && *end != '\0'))
            return false;
    }
    *out = (struct natsi_place){.delivered = n[0],
                                .sequence = n[1],
                                .delivery = n[2],
                                .time_us = (int64_t)(n[3] / 1000),
                                .pending = n[4]};
    return out->sequence > 0;
}

static uint32_t
find(const struct natsi_hold *h, uint64_t sequence)
{
    for (uint32_t i = h->count; i-- > 0;)
        if (h->at[i].sequence == sequence)
            return i;
    return h->count;
}

static bool
grow(struct natsi_hold *h)
{
    uint32_t           room = h->room == 0 ? 256 : h->room * 2;
    struct natsi_held *at = realloc(h->at, room * sizeof *at);

    if (at == NULL)
        return false;
    h->at = at;
    h->room = room;
    return true;
}

int
natsi_hold_put(struct natsi_hold *h, const struct natsi_place *place, uint64_t now_us, natsMsg *msg,
               bool *added, struct err *err)
{
    struct natsi_held held = {place->sequence, now_us, *place, msg};
    uint32_t          i = h->count;

    if (place->sequence <= h->last)
        i = find(h, place->sequence);
    *added = i == h->count;
    if (!*added) { /* an answer to either is one to both */
        h->at[i].touched_us = now_us;
        natsMsg_Destroy(msg);
        return 0;
    }
    if (h->count == h->room && !grow(h)) {
        natsMsg_Destroy(msg);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    }
    while (i > h->out && h->at[i - 1].sequence > held.sequence) {
        h->at[i] = h->at[i - 1];
        i--;
    }
    h->at[i] = held;
    h->count++;
    if (held.sequence > h->last)
        h->last = held.sequence;
    return 0;
}

void
natsi_hold_drop(struct natsi_hold *h, uint32_t first, uint32_t count)
{
    must(first + count <= h->count);
    for (uint32_t i = first; i < first + count; i++)
        natsMsg_Destroy(h->at[i].msg);
    if (count == 0)
        return;
    memmove(&h->at[first], &h->at[first + count], (h->count - first - count) * sizeof h->at[0]);
    h->count -= count;
    if (first < h->out)
        h->out -= h->out - first < count ? h->out - first : count;
    if (h->count == 0)
        h->last = 0;
}

void
natsi_hold_fini(struct natsi_hold *h)
{
    natsi_hold_drop(h, 0, h->count);
    free(h->at);
    *h = (struct natsi_hold){0};
}
