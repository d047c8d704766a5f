/* One user, as it was at a time: beside the rest, since it needs no log. */
#include <stdlib.h>

#include "base/must.h"
#include "user/user_int.h"

struct user *
user_hold(struct user *u)
{
    if (u != NULL)
        (void)atomic_fetch_add(&u->refs, 1);
    return u;
}

void
user_put(struct user *u)
{
    if (u == NULL || atomic_fetch_sub(&u->refs, 1) != 1)
        return;
#ifndef __clang_analyzer__ /* which takes any release for the last one */
    free(u);
#endif
}

bool
user_is_valid(const struct user *u)
{
    return !atomic_load(&u->stale);
}

const char *
user_name(const struct user *u)
{
    return u->name;
}

const char *
user_full_name(const struct user *u)
{
    return u->full_name;
}

bool
user_is(const struct user *u, enum user_role role)
{
    return (u->roles & role) != 0;
}

bool
user_is_disabled(const struct user *u)
{
    return u->disabled;
}

int64_t
user_changed_us(const struct user *u)
{
    return u->changed_us;
}

unsigned
user_group_count(const struct user *u)
{
    return u->group_count;
}

struct slice
user_group(const struct user *u, unsigned i)
{
    must(i < u->group_count);
    return slice_str(u->groups[i]);
}
