/*
 * What a driver has in flight: an item and what the far side calls it, until it is decided. For the
 * drivers whose far side answers each message by itself. Errors at submitting are kept and told at
 * the next poll.
 */
#ifndef OX_SINK_SLOTS_H
#define OX_SINK_SLOTS_H

#include "sink/sink.h"

#define SINK_SLOTS_MAX 32768
#define SINK_SLOTS_TAGGED_MAX 4096 /* for those who call sink_slot_sent */
#define SINK_SLOTS_RING 8192       /* a power of 2 */

struct sink_slot {
    struct sink_item *item; /* NULL: free */
    uint64_t          tag;  /* what the far side calls it; 0: it was not sent */
    uint64_t          due_us;
    bool              returned;
    bool              decided; /* without the far side */
};

struct sink_slots {
    struct sink      *sink;
    struct sink_slot *slot;
    uint32_t         *free;
    struct err       *why; /* of each slot: what was decided */
    uint32_t          count, free_count, decided;
    /* Tags to slots. Where a tag outlives so many others, it is looked for. */
    uint32_t by_tag[SINK_SLOTS_RING];
    bool     straggles;
    uint64_t look_at_us;
};

/* Sets the sink's credit. */
int  sink_slots_init(struct sink_slots *, struct sink *, uint32_t count, struct err *);
void sink_slots_fini(struct sink_slots *); /* tells nobody */

struct sink_slot *sink_slot_take(struct sink_slots *, struct sink_item *);
void              sink_slot_decide(struct sink_slots *, struct sink_slot *, const struct err *);
/* Tells the core; the slot is free. err NULL: it arrived. */
void sink_slot_end(struct sink_slots *, struct sink_slot *, const struct err *);

struct err *sink_slot_err(struct sink_slots *, const struct sink_slot *);
/* Tags ascend. The slot waits for the far side until due_us. */
void sink_slot_sent(struct sink_slots *, struct sink_slot *, uint64_t tag, uint64_t due_us);
/* The one that waits under this tag; NULL: none does. */
struct sink_slot *sink_slot_find(struct sink_slots *, uint64_t tag);

/* Tells what was decided; whether that was anything. */
bool sink_slots_tell(struct sink_slots *);
/* Ends all that the far side has not answered. */
void sink_slots_end_all(struct sink_slots *, const struct err *);
/* The same, told at the next poll only; what has no tag yet was not sent, and stays. */
void sink_slots_decide_all(struct sink_slots *, const struct err *err);
/* Whether any is due at `now_us`, to 100 ms. */
bool sink_slots_overdue(struct sink_slots *, uint64_t now_us);
/* How many wait for the far side. */
uint32_t sink_slots_flying(const struct sink_slots *);

#endif
