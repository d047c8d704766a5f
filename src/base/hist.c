#include "base/hist.h"

#include "base/must.h"

void
hist_add(struct hist *h, uint64_t v)
{
    unsigned i = v <= 1 ? 0 : 64U - (unsigned)__builtin_clzll(v - 1);

    if (i >= HIST_BUCKETS)
        i = HIST_BUCKETS - 1;
    atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, v, memory_order_relaxed);
}

void
hist_read(const struct hist *h, struct hist_view *out)
{
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        out->count[i] = atomic_load_explicit(&h->count[i], memory_order_relaxed);
    out->sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
}

uint64_t
hist_count(const struct hist_view *h)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        n += h->count[i];
    return n;
}

uint64_t
hist_bound(unsigned bucket)
{
    must(bucket < HIST_BUCKETS);
    return bucket == HIST_BUCKETS - 1 ? UINT64_MAX : UINT64_C(1) << bucket;
}
