/*
 * A histogram over powers of two: how often something took so long, or was so much. One task at a
 * time counts, without a lock; any may read meanwhile, and sees each count or does not yet.
 */
#ifndef OX_BASE_HIST_H
#define OX_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

/* Bucket i has the values above 2^(i-1) up to 2^i, the first also 0; the last one what is more. */
#define HIST_BUCKETS 26

struct hist {
    _Atomic uint64_t count[HIST_BUCKETS], sum;
};

struct hist_view {
    uint64_t count[HIST_BUCKETS], sum;
};

void     hist_add(struct hist *h, uint64_t v);
void     hist_read(const struct hist *h, struct hist_view *out);
uint64_t hist_count(const struct hist_view *h);
uint64_t hist_bound(unsigned bucket); /* inclusive; UINT64_MAX for the last one */

#endif
