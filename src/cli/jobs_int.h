/*
 * Long work on a running log, asked for over HTTP: POST /v1/NAME begins it, GET
 * says how far it is and how it ended, DELETE stops it. Each kind runs once
 * at a time, on a task of its own; only for clients on this machine.
 */
#ifndef OX_CLI_JOBS_INT_H
#define OX_CLI_JOBS_INT_H

#include "base/env.h"
#include "base/err.h"

struct jobs;
struct log;
struct ox_subjects;
struct server;

int  jobsi_new(struct ox_env *env, struct log *log, struct ox_subjects *subjects, struct jobs **out,
               struct err *err);
int  jobsi_routes(struct jobs *jobs, struct server *server, struct err *err);
void jobsi_free(struct jobs *jobs); /* stops what runs, after the server; NULL is fine */

#endif
