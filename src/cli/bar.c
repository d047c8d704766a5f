/* How far long work is. */
#include <stdio.h>

#include "base/must.h"
#include "cli/cli_int.h"
#include "env/env_real.h"

#define CELLS 24
#define DRAW_US UINT64_C(100000)
#define SAY_US UINT64_C(1000000)

static uint64_t
now_us(void)
{
    return env_real()->ops->mono_us(env_real());
}

void
clii_bar_init(struct cli_bar *bar, struct cli *c, const char *what)
{
    uint64_t now = now_us();

    *bar = (struct cli_bar){.cli = c, .what = what, .began_us = now, .said_us = now};
}

void
clii_bytes_text(double bytes, char *out, size_t room)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned                 unit = 0;

    while (bytes >= 1024 && unit < 4) {
        bytes /= 1024;
        unit++;
    }
    (void)snprintf(out, room, bytes < 10 && unit > 0 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

static void
draw(struct cli_bar *bar, uint64_t done, uint64_t all, double rate, uint64_t left_s)
{
    char     cells[CELLS + 1], have[16], whole[16], pace[16];
    unsigned full = all == 0 ? CELLS : (unsigned)((double)done / (double)all * CELLS);

    for (unsigned i = 0; i < CELLS; i++)
        cells[i] = i < full ? '#' : '.';
    cells[CELLS] = '\0';
    clii_bytes_text((double)done, have, sizeof have);
    clii_bytes_text((double)all, whole, sizeof whole);
    clii_bytes_text(rate, pace, sizeof pace);
    clii_progress(bar->cli, "%s [%s] %3u %%  %s of %s  %s/s  %llu:%02llu left", bar->what, cells,
                  all == 0 ? 100 : (unsigned)((double)done / (double)all * 100), have, whole, pace,
                  (unsigned long long)(left_s / 60), (unsigned long long)(left_s % 60));
}

void
clii_bar(struct cli_bar *bar, uint64_t done, uint64_t all)
{
    uint64_t now = now_us(), ran = now - bar->began_us;
    double   rate = ran == 0 ? 0 : (double)done * 1e6 / (double)ran;
    uint64_t left_s = rate < 1 || all < done ? 0 : (uint64_t)((double)(all - done) / rate + 0.5);

    if (now - bar->drawn_us >= DRAW_US) {
        bar->drawn_us = now;
        draw(bar, done, all, rate, left_s);
    }
    if (clii_json(bar->cli) && now - bar->said_us >= SAY_US) {
        bar->said_us = now;
        clii_printf(bar->cli,
                    "{\"progress\":\"%s\",\"done\":%llu,\"all\":%llu,\"per_second\":%.0f,"
                    "\"left_s\":%llu}\n",
                    bar->what, (unsigned long long)done, (unsigned long long)all, rate,
                    (unsigned long long)left_s);
        (void)clii_flush(bar->cli, NULL);
    }
}

int
clii_bar_step(void *arg, uint64_t done, uint64_t all)
{
    clii_bar(arg, done, all);
    return clii_caught() != 0 ? E_INTERRUPTED : 0;
}
