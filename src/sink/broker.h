/*
 * What the sinks of message brokers have in common: an event as a message with the texts that say
 * where it goes, messages in flight, and attempts to connect.
 */
#ifndef OX_SINK_BROKER_H
#define OX_SINK_BROKER_H

#include "sink/message.h"
#include "sink/slots.h"

#define SINK_WAYS 2 /* a topic and a key, an exchange and a routing key, a subject and an id */

struct sink_broker_def {
    enum sink_binding  binding;
    enum template_kind kind;            /* of the ways */
    const char        *ways[SINK_WAYS]; /* keys of the configuration … */
    const char *presets[SINK_WAYS];     /* … and their texts where they are absent; NULL: none */
};

struct sink_broker {
    struct sink_slots   slots;
    struct sink_form   *form;
    struct template    *ways[SINK_WAYS];
    uint64_t            timeout_us, message_max; /* bytes of a body */
    struct sink_message message;                 /* of the item that was filled last */
    struct buf          text[SINK_WAYS], scratch;
    uint64_t            connect_at_us;
    struct err          why; /* of the last attempt to connect */
};

/* Out of SINK_FORM_FIELDS, the ways, `in_flight`, `timeout` and `message_max`. */
int  sink_broker_open(struct sink_broker *, struct sink *, const struct conf *,
                      const struct sink_broker_def *, struct err *);
void sink_broker_close(struct sink_broker *); /* zeroed, and twice, is fine */

/* The item's ways, then its message, each valid until the next of them. ERR_DATA: it is at fault.
 */
int sink_broker_ways(struct sink_broker *, const struct sink_item *, struct err *);
int sink_broker_message(struct sink_broker *, const struct sink_item *, struct err *);
/* With a NUL behind it, which does not count. */
struct slice sink_broker_way(const struct sink_broker *, int i);
const char  *sink_broker_text(const struct sink_broker *, int i);

/* One attempt for all who want it: a far side that does not answer must not be asked by each. */
typedef int sink_connect_fn(struct sink *, struct err *);
int         sink_broker_connect(struct sink_broker *, sink_connect_fn *, struct err *);

/* Takes a slot and gives the item; where that fails it is decided, and told at the next poll. */
typedef int sink_give_fn(struct sink *, struct sink_slot *, struct err *);
int         sink_broker_submit(struct sink_broker *, struct sink_item *, sink_give_fn *);

#endif
