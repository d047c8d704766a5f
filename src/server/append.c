#include "server/server_int.h"

void
serveri_append_free(struct append *a)
{
}

int
serveri_append_routes(struct server *s, struct err *err)
{
    return 0;
}
