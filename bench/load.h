/* What the load generators share: clock, chance, samples, connections. One thread. */
#ifndef OX_BENCH_LOAD_H
#define OX_BENCH_LOAD_H

#include <stdint.h>

uint64_t load_now_us(void);
uint64_t load_random(void);

/* One answer, after so many µs. */
void     load_sample(uint64_t us);
uint64_t load_answered(void);

/* Answers per second over `us`; p50, p99 and the largest in µs; how many; `each`, of the caller's.
 */
void load_report(uint64_t us, double each);

/* To 127.0.0.1, without delay; watched for input by `poll`. Ends the program where it fails. */
int load_connect(int poll, uint16_t port, void *arg);

#endif
