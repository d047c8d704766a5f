/*
 * MariaDB over libmariadb, for drivers that ask short questions: connecting
 * within seconds, errors mapped to ours. A connection belongs to one thread.
 */
#ifndef OX_MY_MY_H
#define OX_MY_MY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/conf.h"
#include "base/err.h"
#include "base/slice.h"

struct st_mysql;     /* libmariadb's MYSQL */
struct st_mysql_res; /* libmariadb's MYSQL_RES */

extern const char *const my_tls_words[];

/* Settings of whoever connects. */
#define MY_FIELDS                                                                                  \
    {.name = "host",                                                                               \
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},                                          \
     .preset = "127.0.0.1",                                                                        \
     .doc = "the server"},                                                                         \
        {.name = "port",                                                                           \
         .type = {.kind = CONF_INT, .min = 1, .max = 65535},                                       \
         .preset = "3306",                                                                         \
         .doc = "its port"},                                                                       \
        {.name = "socket",                                                                         \
         .type = {.kind = CONF_PATH},                                                              \
         .doc = "a Unix socket instead of host and port"},                                         \
        {.name = "user",                                                                           \
         .type = {.kind = CONF_STRING, .min = 1, .max = 128},                                      \
         .required = true,                                                                         \
         .doc = "who connects"},                                                                   \
        {.name = "password", .type = {.kind = CONF_SECRET}, .doc = "the user's password"},         \
        {.name = "database",                                                                       \
         .type = {.kind = CONF_STRING, .min = 1, .max = 64},                                       \
         .required = true,                                                                         \
         .doc = "where the tables are"},                                                           \
        {.name = "tls",                                                                            \
         .type = {.kind = CONF_ENUM, .values = my_tls_words},                                      \
         .preset = "off",                                                                          \
         .doc = "on: encrypted; verify: and the server's certificate and name are checked"},       \
    {                                                                                              \
        .name = "ca_file", .type = {.kind = CONF_PATH},                                            \
        .doc = "certificates to trust instead of the system's"                                     \
    }

/* `conf` has MY_FIELDS; `who` names the part of the configuration in all texts. */
int  my_connect(const struct conf *conf, const char *who, struct st_mysql **out, struct err *err);
void my_close(struct st_mysql **conn); /* NULL is fine; leaves NULL */

/* The number of the last statement's error; 0: none. */
unsigned my_errno(struct st_mysql *conn);

/* `out` may be NULL, else has all rows and the caller frees them. E_CONNECT: the connection is
 * gone. */
int my_run(struct st_mysql *conn, const char *who, struct slice sql, struct st_mysql_res **out,
           struct err *err);
int my_run_buf(struct st_mysql *conn, const char *who, struct buf *sql, struct st_mysql_res **out,
               struct err *err);
/* Several statements with ';' between them, none of which answers rows; the first error ends it. */
int  my_run_many(struct st_mysql *conn, const char *who, struct buf *sql, struct err *err);
void my_free(struct st_mysql_res *r); /* NULL is fine */

unsigned     my_columns(struct st_mysql_res *r);
struct slice my_column(struct st_mysql_res *r, unsigned col); /* its name */
/* The next row's cells; false: there is none. */
bool my_next(struct st_mysql_res *r);
/* Of the row: false where it is NULL. */
bool my_cell(struct st_mysql_res *r, unsigned col, struct slice *out);
/* Whether the column holds bytes and not text. */
bool my_is_binary(struct st_mysql_res *r, unsigned col);

void my_add_name(struct buf *sql, const char *name);
void my_add_text(struct st_mysql *conn, struct buf *sql, struct slice text);

#endif
