/*
 * Surgeries at a running server: POST /v1/surgeries/NAME begins one, GET says how far it is,
 * POST /v1/surgeries/NAME/COMMAND changes it. What was running when the server stopped goes on
 * when it starts.
 */
#ifndef OX_CLI_SURGERIES_INT_H
#define OX_CLI_SURGERIES_INT_H

#include "base/env.h"
#include "base/err.h"

struct log;
struct server;
struct surgeries;

int  surgeriesi_new(struct ox_env *env, struct log *log, struct surgeries **out, struct err *err);
int  surgeriesi_routes(struct surgeries *list, struct server *server, struct err *err);
void surgeriesi_free(struct surgeries *list); /* stops what runs, before the server; NULL is fine */

#endif
