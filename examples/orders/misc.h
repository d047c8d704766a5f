/*
 * The few things that both example programs need and C has not got: clocks,
 * a seeded random sequence, one-line complaints, a file replaced in one step,
 * and SQLite with the rough edges off.
 *
 * These programs stand for somebody's existing software. They are no part of
 * Oxbow and share no code with it.
 */
#ifndef ORDERS_MISC_H
#define ORDERS_MISC_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t clock_wall_us(void);
int64_t clock_mono_us(void);
void    nap_us(int64_t us);

/* One line on stderr, prefixed with the program's name. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The same seed gives the same sequence. */
struct dice {
    uint64_t state;
};
uint64_t dice_next(struct dice *d);
unsigned dice_below(struct dice *d, unsigned limit); /* limit > 0 */

/* A reader sees the old text or the new one, never half of either. */
int file_replace(const char *path, const char *text);

/* A whole decimal number within [low, high], nothing else. */
bool parse_int(const char *text, int64_t low, int64_t high, int64_t *out);

/* WAL, synchronous=FULL, waits up to 5 s for another writer. NULL after a complaint. */
sqlite3      *sq_open(const char *path, bool create);
int           sq_exec(sqlite3 *db, const char *sql);
sqlite3_stmt *sq_prepare(sqlite3 *db, const char *sql);
void          sq_bind_text(sqlite3_stmt *st, int n, const char *text); /* NULL binds NULL */
char         *sq_text(sqlite3_stmt *st, int column);                   /* strdup, or NULL */

#endif
