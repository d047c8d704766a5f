#include "sink/slots.h"

#include <stdlib.h>

#define LOOK_US 100000

int
sink_slots_init(struct sink_slots *s, struct sink *sink, uint32_t count, struct err *err)
{
    must(count > 0);
    must(count <= SINK_SLOTS_MAX);
    s->sink = sink;
    s->slot = calloc(count, sizeof *s->slot);
    s->free = calloc(count, sizeof *s->free);
    s->why = calloc(count, sizeof *s->why);
    if (s->slot == NULL || s->free == NULL || s->why == NULL) {
        sink_slots_fini(s);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for messages in flight");
    }
    for (uint32_t i = 0; i < count; i++)
        s->free[i] = count - 1 - i;
    s->count = s->free_count = count;
    sink->credit = count;
    return 0;
}

void
sink_slots_fini(struct sink_slots *s)
{
    free(s->slot);
    free(s->free);
    free(s->why);
    *s = (struct sink_slots){0};
}

struct sink_slot *
sink_slot_take(struct sink_slots *s, struct sink_item *item)
{
    struct sink_slot *slot;

    must(s->free_count > 0);
    slot = &s->slot[s->free[--s->free_count]];
    must(slot->item == NULL);
    slot->item = item;
    slot->decided = slot->returned = false;
    slot->tag = 0;
    slot->due_us = UINT64_MAX;
    return slot;
}

struct err *
sink_slot_err(struct sink_slots *s, const struct sink_slot *slot)
{
    return &s->why[slot - s->slot];
}

static bool
waits(const struct sink_slot *slot, uint64_t tag)
{
    return slot->item != NULL && !slot->decided && slot->tag == tag;
}

void
sink_slot_sent(struct sink_slots *s, struct sink_slot *slot, uint64_t tag, uint64_t due_us)
{
    uint32_t *at = &s->by_tag[tag % SINK_SLOTS_RING];

    must(tag != 0);
    must(s->count <= SINK_SLOTS_TAGGED_MAX);
    /* Whose place it is may still wait. */
    if (*at > 0 && s->slot[*at - 1].item != NULL && s->slot[*at - 1].tag != 0 &&
        s->slot[*at - 1].tag % SINK_SLOTS_RING == tag % SINK_SLOTS_RING)
        s->straggles = true;
    *at = (uint32_t)(slot - s->slot) + 1;
    slot->tag = tag;
    slot->due_us = due_us;
}

struct sink_slot *
sink_slot_find(struct sink_slots *s, uint64_t tag)
{
    uint32_t at = s->by_tag[tag % SINK_SLOTS_RING];

    if (at > 0 && waits(&s->slot[at - 1], tag))
        return &s->slot[at - 1];
    for (uint32_t i = 0; s->straggles && i < s->count; i++)
        if (waits(&s->slot[i], tag))
            return &s->slot[i];
    return NULL;
}

void
sink_slot_decide(struct sink_slots *s, struct sink_slot *slot, const struct err *err)
{
    must(!slot->decided);
    must(err->code != 0);
    *sink_slot_err(s, slot) = *err;
    slot->decided = true;
    s->decided++;
}

void
sink_slot_end(struct sink_slots *s, struct sink_slot *slot, const struct err *err)
{
    struct sink_item *item = slot->item;

    must(item != NULL);
    slot->item = NULL;
    s->free[s->free_count++] = (uint32_t)(slot - s->slot);
    sink_done(s->sink, item, err == NULL ? 0 : err->code, err);
}

bool
sink_slots_tell(struct sink_slots *s)
{
    if (s->decided == 0)
        return false;
    for (uint32_t i = 0; i < s->count && s->decided > 0; i++) {
        struct err err;

        if (s->slot[i].item == NULL || !s->slot[i].decided)
            continue;
        s->decided--;
        err = s->why[i]; /* the slot may be taken again at once */
        sink_slot_end(s, &s->slot[i], &err);
    }
    return true;
}

void
sink_slots_end_all(struct sink_slots *s, const struct err *err)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->slot[i].item != NULL && !s->slot[i].decided)
            sink_slot_end(s, &s->slot[i], err);
}

void
sink_slots_decide_all(struct sink_slots *s, const struct err *err)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->slot[i].item != NULL && !s->slot[i].decided && s->slot[i].tag != 0)
            sink_slot_decide(s, &s->slot[i], err);
}

bool
sink_slots_overdue(struct sink_slots *s, uint64_t now_us)
{
    if (now_us < s->look_at_us)
        return false;
    s->look_at_us = now_us + LOOK_US;
    for (uint32_t i = 0; i < s->count; i++)
        if (s->slot[i].item != NULL && !s->slot[i].decided && s->slot[i].due_us <= now_us)
            return true;
    return false;
}

uint32_t
sink_slots_flying(const struct sink_slots *s)
{
    return s->count - s->free_count - s->decided;
}
