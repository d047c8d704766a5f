/* Inside src/server only: changes of users, which wait for the log and for scrypt, on the pool. */
#ifndef OX_SERVER_USERS_INT_H
#define OX_SERVER_USERS_INT_H

#include "server/access_int.h"
#include "server/h2.h"

enum user_op {
    USER_OP_ADD,
    USER_OP_CHANGE,
    USER_OP_DELETE,
    USER_OP_ENABLE,
    USER_OP_DISABLE,
    USER_OP_PASSWORD,
    USER_OP_TOKEN_ADD,
    USER_OP_TOKEN_REVOKE,
};

struct user_job {
    uv_work_t      work; /* first */
    struct server *server;
    enum user_op   op;
    struct user   *actor; /* NULL: nobody had to say who he is */
    struct address from;
    struct buf     name, full_name, password, current, groups, text; /* text: a label, or an id */
    bool           has_full_name, has_password, has_groups, has_roles;
    bool           proves; /* `current` has to hold */
    unsigned       roles;
    int64_t        expires_us;
    int            rc;
    struct err     err;
    char           token[USER_SECRET_BYTES], id[9];
    /* On the loop; the job is freed afterwards. */
    void (*done)(struct user_job *);
    struct later   *later;
    struct rpc_hold hold;
};

/* NULL: no memory, or too many are at work. */
struct user_job *
serveri_user_job(struct server *s, enum user_op op, struct user *actor, const struct address *from);
void serveri_user_job_free(struct user_job *job);
/* Takes the job over. */
void serveri_user_job_run(struct user_job *job, void (*done)(struct user_job *));

#endif
