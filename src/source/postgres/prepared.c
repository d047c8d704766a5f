/*
 * Two-phase: a transaction that is prepared is sent then, and waits here for
 * its outcome. COMMIT PREPARED makes it events at its place in the order of
 * commits; ROLLBACK PREPARED leaves nothing.
 *
 * What waits is in no durable place. So the server is never told a position
 * behind the PREPARE of one that is not done, and sends it again to the next
 * connection; what was done since then is known by its commit's position.
 */
#include <stdlib.h>

#include "source/postgres/postgres_int.h"

static int
hold(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    /* The server says this one with each COMMIT PREPARED: it was prepared before the slot had
     * two-phase. */
    if (m->commit.v < s->from.v)
        return 0;
    if (s->held_count == s->held_room) {
        uint32_t        room = s->held_room == 0 ? 16 : s->held_room * 2;
        struct pg_held *more = realloc(s->held, room * sizeof *more);

        if (more == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
        s->held = more;
        s->held_room = room;
    }
    s->held[s->held_count++] = (struct pg_held){m->xid, m->commit};
    return 0;
}

struct pg_lsn
postgresi_prepared_first(const struct pg_source *s)
{
    struct pg_lsn first = {0};

    for (uint32_t i = 0; i < s->held_count; i++)
        if (first.v == 0 || s->held[i].at.v < first.v)
            first = s->held[i].at;
    return first;
}

void
postgresi_prepared_done(struct pg_source *s, uint32_t xid)
{
    for (uint32_t i = 0; i < s->held_count; i++) {
        if (s->held[i].xid != xid)
            continue;
        s->held_count--;
        memmove(&s->held[i], &s->held[i + 1], (s->held_count - i) * sizeof s->held[0]);
        return;
    }
}

int
postgresi_prepared_begin(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    if (postgresi_spill_there(s, m->xid))
        RETURN_ERR(err, E_FORMAT, ERR_FATAL, "source %s: a transaction is prepared twice",
                   s->base.instance);
    return postgresi_spill_start(s, m, err);
}

static void
note_received(struct pg_source *s, struct pg_lsn end)
{
    if (end.v > s->received.v)
        s->received = end;
}

int
postgresi_prepared_end(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    int rc;

    TRY(postgresi_spill_hold(s, m, err));
    TRY(hold(s, m, err));
    note_received(s, m->end);
out:
    return rc;
}

void
postgresi_prepared_undo(struct pg_source *s, const struct pg_message *m)
{
    postgresi_spill_drop(s, m->xid);
    postgresi_prepared_done(s, m->xid);
    note_received(s, m->end);
}

int
postgresi_prepared_commit(struct pg_source *s, const struct pg_message *m, struct err *err)
{
    char at[PG_LSN_TEXT];

    if (m->commit.v < s->place.lsn.v ||
        (m->commit.v < s->forgiven.v && !postgresi_spill_there(s, m->xid))) {
        postgresi_snapshot_remember(s, m->xid);
        postgresi_prepared_undo(s, m);
        return 0;
    }
    if (postgresi_spill_there(s, m->xid))
        return postgresi_spill_commit(s, m, err);
    postgresi_lsn_format(m->commit, at);
    RETURN_ERR(err, E_GONE, ERR_FATAL,
               "source %s: gap: what was prepared before the slot %s began and committed at %s was "
               "sent to another reader; `oxbow source snapshot %s --gap` goes on after it",
               s->base.instance, s->slot, at, s->base.instance);
}
