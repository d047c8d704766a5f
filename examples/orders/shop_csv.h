/* A CSV file (RFC 4180, UTF-8) with a header line, whole in memory. */
#ifndef ORDERS_SHOP_CSV_H
#define ORDERS_SHOP_CSV_H

#include <stddef.h>

struct csv;
struct csv *csv_open(const char *dir, const char *name); /* NULL after a complaint */
void        csv_free(struct csv *csv);
size_t      csv_rows(const struct csv *csv);
/* "" for a column that this row is too short for; NULL for one that is not in the header. */
const char *csv_get(const struct csv *csv, size_t row, const char *column);

#endif
