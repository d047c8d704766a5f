/*
 * The commit point on this machine: a group is durable when fdatasync returns.
 * A failed write or sync is UNSURE, never refused: nobody knows what the disk
 * has of it, and what it says of a second sync is worth nothing.
 */
#include "log/journal.h"

#include <stdlib.h>

#include "base/must.h"
#include "log/seg.h"

struct ox_journal {
    struct segments *segs;
    struct log_pos   end; /* of the last group */
};

static int
local_open(struct segments *segs, struct ox_journal **out, struct err *err)
{
    struct ox_journal *j = calloc(1, sizeof *j);

    *out = j;
    if (j == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    j->segs = segs;
    return 0;
}

static void
local_close(struct ox_journal *j)
{
    free(j);
}

static enum journal_verdict
local_commit(struct ox_journal *j, const struct journal_group *group, struct err *err)
{
    must(group->frames > 0);
    must(group->bytes.len % 8 == 0);
    must(group->first.v == j->end.v || j->end.v == 0); /* nothing is left out between two */
    must(group->end.v == group->first.v + group->bytes.len);
    must(group->end.v <= logi_segs_end(j->segs));
    if (logi_segs_write(j->segs, group->first.v, group->bytes.data, group->bytes.len, err) != 0)
        return JOURNAL_UNSURE;
    if (logi_segs_sync(j->segs, err) != 0)
        return JOURNAL_UNSURE;
    j->end = group->end;
    return JOURNAL_DURABLE;
}

const struct ox_journal_ops log_journal_local = {
    .name = "local",
    .open = local_open,
    .close = local_close,
    .commit = local_commit,
};
