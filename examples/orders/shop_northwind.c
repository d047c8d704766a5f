/* The classic data set as the shop's past: wholesale orders instead of meals. */
#include "shop.h"
#include "shop_csv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct northwind {
    struct csv *orders, *details, *customers, *shippers;
};

static bool
has_columns(const struct csv *csv, const char *name, const char *const *columns)
{
    for (; *columns != NULL; columns++) {
        if (csv_rows(csv) > 0 && csv_get(csv, 0, *columns) == NULL) {
            complain("%s: there is no column %s", name, *columns);
            return false;
        }
    }
    return true;
}

static bool
check_columns(const struct northwind *nw)
{
    static const char *const orders[] = {
        "OrderID",     "CustomerID", "OrderDate",      "ShippedDate", "ShipVia", "ShipName",
        "ShipAddress", "ShipCity",   "ShipPostalCode", "ShipCountry", NULL};
    static const char *const details[] = {"OrderID",  "ProductID", "UnitPrice",
                                          "Quantity", "Discount",  NULL};
    static const char *const customers[] = {"CustomerID", "CompanyName", NULL};
    static const char *const shippers[] = {"ShipperID", "CompanyName", NULL};

    return has_columns(nw->orders, "orders.csv", orders) &&
           has_columns(nw->details, "order_details.csv", details) &&
           has_columns(nw->customers, "customers.csv", customers) &&
           has_columns(nw->shippers, "shippers.csv", shippers);
}

/* A name by its key; the key itself when the other file does not know it. */
static char *
look_up(const struct csv *csv, const char *column, const char *key)
{
    for (size_t i = 0; i < csv_rows(csv); i++)
        if (strcmp(csv_get(csv, i, column), key) == 0)
            return strdup(csv_get(csv, i, "CompanyName"));
    return strdup(key);
}

static char *
make_items(const struct csv *details, const char *order, int64_t *total)
{
    json_t *items = json_array();
    char   *text;

    *total = 0;
    for (size_t i = 0; i < csv_rows(details); i++) {
        long   qty, cents;
        double off;

        if (strcmp(csv_get(details, i, "OrderID"), order) != 0)
            continue;
        qty = strtol(csv_get(details, i, "Quantity"), NULL, 10);
        cents = lround(strtod(csv_get(details, i, "UnitPrice"), NULL) * 100);
        off = strtod(csv_get(details, i, "Discount"), NULL);
        *total += lround((double)(cents * qty) * (1 - off));
        (void)json_array_append_new(items, json_pack("{s:s, s:I, s:I, s:I}", "product",
                                                     csv_get(details, i, "ProductID"), "qty",
                                                     (json_int_t)qty, "cents", (json_int_t)cents,
                                                     "off_bp", (json_int_t)lround(off * 10000)));
    }
    text = json_dumps(items, JSON_COMPACT);
    json_decref(items);
    return text;
}

static int
make_sale(const struct northwind *nw, size_t row, struct sale *sale)
{
    sale->customer = look_up(nw->customers, "CustomerID", csv_get(nw->orders, row, "CustomerID"));
    sale->items = make_items(nw->details, csv_get(nw->orders, row, "OrderID"), &sale->amount_cents);
    sale->currency = strdup("USD");
    sale->placed_at = strdup(csv_get(nw->orders, row, "OrderDate"));
    return sale->customer != NULL && sale->items != NULL && sale->currency != NULL &&
                   sale->placed_at != NULL
               ? 0
               : -1;
}

static int
make_part(const struct northwind *nw, size_t row, struct part *part)
{
    bool shipped = csv_get(nw->orders, row, "ShippedDate")[0] != '\0';

    part->restaurant = strdup(csv_get(nw->orders, row, "ShipName"));
    part->state = strdup(shipped ? "delivered" : "placed");
    if (shipped)
        part->driver = look_up(nw->shippers, "ShipperID", csv_get(nw->orders, row, "ShipVia"));
    if (asprintf(&part->note, "%s, %s %s, %s", csv_get(nw->orders, row, "ShipAddress"),
                 csv_get(nw->orders, row, "ShipPostalCode"), csv_get(nw->orders, row, "ShipCity"),
                 csv_get(nw->orders, row, "ShipCountry")) < 0)
        part->note = NULL;
    return part->restaurant != NULL && part->state != NULL && part->note != NULL &&
                   (!shipped || part->driver != NULL)
               ? 0
               : -1;
}

static int
add_order(const struct northwind *nw, size_t row, struct books *books, struct journal *journal)
{
    struct sale sale = {0};
    struct part part = {0};
    int64_t     id = 0;
    int         rc = -1;

    if (!parse_int(csv_get(nw->orders, row, "OrderID"), 1, INT64_MAX, &id)) {
        complain("orders.csv: row %zu: OrderID is not a number", row + 1);
        return -1;
    }
    if (make_sale(nw, row, &sale) == 0 && make_part(nw, row, &part) == 0)
        rc = init_add(books, journal, id, &sale, &part);
    sale_fini(&sale);
    part_fini(&part);
    return rc;
}

int
init_northwind(struct books *books, struct journal *journal, const char *dir)
{
    struct northwind nw = {
        .orders = csv_open(dir, "orders.csv"),
        .details = csv_open(dir, "order_details.csv"),
        .customers = csv_open(dir, "customers.csv"),
        .shippers = csv_open(dir, "shippers.csv"),
    };
    int rc = -1;

    if (nw.orders != NULL && nw.details != NULL && nw.customers != NULL && nw.shippers != NULL &&
        check_columns(&nw))
        rc = 0;
    for (size_t row = 0; rc == 0 && row < csv_rows(nw.orders); row++)
        rc = add_order(&nw, row, books, journal);
    csv_free(nw.orders);
    csv_free(nw.details);
    csv_free(nw.customers);
    csv_free(nw.shippers);
    return rc;
}
