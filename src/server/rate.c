/*
 * How many requests an address, or a user where he is known, may make in a second: a bucket for
 * each that is known, of one second's worth. What is asked least is forgotten first.
 */
#include <stdlib.h>

#include "server/access_int.h"

#define SETS 4096u
#define WAYS 4u

struct bucket {
    uint64_t key; /* 0: nobody's */
    uint64_t at_ms;
    uint64_t left; /* in thousandths of a request */
};

struct rates {
    uint64_t      seed;
    struct bucket sets[SETS][WAYS];
};

void
serveri_rate_free(struct server *s)
{
    free(s->rates);
    s->rates = NULL;
}

static uint64_t
key_of(const struct rates *r, const struct address *from, const struct user *who)
{
    const uint8_t *p = who != NULL ? (const uint8_t *)user_name(who) : from->b;
    size_t         len = who != NULL ? strlen(user_name(who)) : sizeof from->b;
    uint64_t       h = UINT64_C(14695981039346656037) ^ r->seed;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    h ^= h >> 29;
    return h == 0 ? 1 : h;
}

static struct bucket *
bucket_of(struct rates *r, uint64_t key, uint64_t now, uint64_t full)
{
    struct bucket *set = r->sets[(key ^ key >> 32) % SETS], *oldest = set;

    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].key == key)
            return &set[i];
        if (set[i].at_ms < oldest->at_ms)
            oldest = &set[i];
    }
    *oldest = (struct bucket){key, now, full};
    return oldest;
}

bool
serveri_rate_take(struct server *s, const struct address *from, const struct user *who)
{
    uint64_t       full = (uint64_t)s->conf.requests_per_s * 1000, now = serveri_now_ms(s);
    struct bucket *b;

    if (full == 0)
        return true;
    if (s->rates == NULL) {
        s->rates = calloc(1, sizeof *s->rates);
        if (s->rates == NULL)
            return true;
        s->env->ops->random(s->env, &s->rates->seed, sizeof s->rates->seed);
    }
    b = bucket_of(s->rates, key_of(s->rates, from, who), now, full);
    b->left += (now - b->at_ms) * s->conf.requests_per_s;
    if (b->left > full)
        b->left = full;
    b->at_ms = now;
    if (b->left < 1000) {
        s->stats.rate_refused++;
        return false;
    }
    b->left -= 1000;
    return true;
}
