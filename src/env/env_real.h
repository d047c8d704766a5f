/*
 * The machine itself behind struct ox_env: its clock, its disk, its threads.
 * One for the whole process, without state of its own: any thread may use it,
 * and nothing has to be closed.
 */
#ifndef OX_ENV_ENV_REAL_H
#define OX_ENV_ENV_REAL_H

#include "base/env.h"

struct ox_env *env_real(void);
/* The calling thread is to run as soon as it wakes, as tasks are that are not of the background. */
void env_real_prompt(void);

#endif
