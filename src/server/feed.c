#include "server/server_int.h"

void
serveri_feed_free(struct feed *f)
{
}

void
serveri_feed_wake(struct feed *f)
{
}

void
serveri_feed_end(struct feed *f)
{
}

void
serveri_feed_tick(struct feed *f, uint64_t now)
{
}

void
serveri_feeds_run(struct server *s)
{
}

void
serveri_feeds_wake(struct server *s)
{
}

int
serveri_feed_routes(struct server *s, struct err *err)
{
    return 0;
}
