/* Changes of users on the thread pool: they wait for scrypt and for the log. */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/must.h"
#include "server/users_int.h"

#define JOBS_MAX 32

static const char *const audit_types[] = {
    [USER_OP_ADD] = "UserAdded",        [USER_OP_CHANGE] = "UserChanged",
    [USER_OP_DELETE] = "UserDeleted",   [USER_OP_ENABLE] = "UserEnabled",
    [USER_OP_DISABLE] = "UserDisabled", [USER_OP_PASSWORD] = "PasswordChanged",
    [USER_OP_TOKEN_ADD] = "TokenAdded", [USER_OP_TOKEN_REVOKE] = "TokenRevoked",
};

struct user_job *
serveri_user_job(struct server *s, enum user_op op, struct user *actor, const struct address *from)
{
    struct user_job *job = s->user_jobs == JOBS_MAX ? NULL : calloc(1, sizeof *job);

    if (job == NULL)
        return NULL;
    s->user_jobs++;
    job->server = s;
    job->op = op;
    job->actor = user_hold(actor);
    job->from = *from;
    return job;
}

static void
wipe(struct buf *b)
{
    if (b->data != NULL)
        OPENSSL_cleanse(b->data, b->cap);
    buf_fini(b);
}

void
serveri_user_job_free(struct user_job *job)
{
    if (job == NULL)
        return;
    job->server->user_jobs--;
    user_put(job->actor);
    wipe(&job->password);
    wipe(&job->current);
    buf_fini(&job->name);
    buf_fini(&job->full_name);
    buf_fini(&job->groups);
    buf_fini(&job->text);
    OPENSSL_cleanse(job->token, sizeof job->token);
    free(job);
}

/* An empty one is not an absent one. */
static struct slice
given(const struct buf *b)
{
    return b->data == NULL ? slice_str("") : buf_slice(b);
}

static int
change(struct user_job *job)
{
    struct user_spec spec = {
        .name = given(&job->name), .roles = job->roles, .has_roles = job->has_roles};

    if (job->has_full_name)
        spec.full_name = given(&job->full_name);
    if (job->has_password)
        spec.password = given(&job->password);
    if (job->has_groups)
        spec.groups = given(&job->groups);
    if (job->op == USER_OP_ADD)
        return user_add(job->server->users, &spec, &job->err);
    return user_change(job->server->users, &spec, &job->err);
}

static int
work(struct user_job *job)
{
    struct users *users = job->server->users;
    struct slice  name = given(&job->name);
    struct err   *err = &job->err;
    struct user  *proved;

    if (job->proves) {
        proved = user_check_password(users, name, given(&job->current));
        user_put(proved);
        if (proved == NULL)
            RETURN_ERR(err, E_AUTH, ERR_DATA, "the current password does not hold");
    }
    switch (job->op) {
    case USER_OP_DELETE:
        return user_delete(users, name, err);
    case USER_OP_ENABLE:
    case USER_OP_DISABLE:
        return user_enable(users, name, job->op == USER_OP_ENABLE, err);
    case USER_OP_TOKEN_ADD:
        return user_token_add(users, name, given(&job->text), job->expires_us, job->token, job->id,
                              err);
    case USER_OP_TOKEN_REVOKE:
        return user_token_revoke(users, name, given(&job->text), err);
    default:
        return change(job);
    }
}

static void
on_work(uv_work_t *w)
{
    struct user_job *job = (struct user_job *)w;

    job->rc = work(job);
}

static void
on_worked(uv_work_t *w, int status)
{
    struct user_job *job = (struct user_job *)w;

    if (job->rc == 0)
        serveri_audit(job->server, audit_types[job->op], &job->from,
                      slice_str(job->actor == NULL ? NULL : user_name(job->actor)),
                      slice_str(job->id), buf_slice(&job->name));
    job->server->in_flight--;
    job->done(job);
    serveri_user_job_free(job);
}

void
serveri_user_job_run(struct user_job *job, void (*done)(struct user_job *))
{
    job->done = done;
    job->server->in_flight++; /* it does not stop meanwhile */
    must(uv_queue_work(&job->server->loop, &job->work, on_work, on_worked) == 0);
}
