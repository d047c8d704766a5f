/*
 * Upcasters: transforms that events go through as they are read, so that readers
 * see today's form of what was written long ago. One event in, one event out,
 * under its own id, version and position; filters and indexes see what is stored.
 *
 * The set may be shared by threads; a struct upcast belongs to one at a time.
 */
#ifndef OX_CORE_UPCAST_H
#define OX_CORE_UPCAST_H

#include "log/log.h"
#include "transform/transform.h"

struct upcasts;
struct upcast;

int  upcast_set_new(struct upcasts **out, struct err *err);
void upcast_set_free(struct upcasts *set); /* NULL is fine; its readers are gone already */

/*
 * One more, after those that are there, which it sees the outputs of. `category`
 * and `type` may be NULL: any; the type is the one that the ones before it made. Takes the
 * transform over, in any case. E_SCHEMA: it is more than an upcaster (transform_upcast_check).
 */
int upcast_set_add(struct upcasts *set, const char *name, const char *category, const char *type,
                   struct transform **transform, struct err *err);

/* `set` outlives it, and may be NULL: then nothing is changed. */
int  upcast_new(const struct upcasts *set, struct upcast **out, struct err *err);
void upcast_free(struct upcast *upcast); /* NULL is fine */

/* Whether an upcaster may have a say in this event: cheap, any thread. */
bool upcast_wants(const struct upcasts *set, const struct log_event *event);

/*
 * The event as it is read now; false in *changed where it is as stored. What it points at is the
 * upcast's until its next call. Links, events of the system and erased ones stay as they are.
 * ERR_DATA, with the upcaster's name: the event is as it was.
 */
int upcast_apply(struct upcast *upcast, struct log_event *event, bool *changed, struct err *err);

#endif
