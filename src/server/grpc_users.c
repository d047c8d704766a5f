/*
 * The service event_store.client.users. $admins and $ops among a user's groups are the roles admin
 * and ops; a user that is made here may read and write as the role says, as there everybody may.
 */
#include "base/json.h"
#include "base/must.h"
#include "server/grpc_int.h"
#include "server/users_int.h"

#define USERS "/event_store.client.users.Users/"

/* What the options of all its requests have; the texts lie in the message. */
struct options {
    struct slice login, second, third; /* fields 1 to 3 */
    struct buf   groups;               /* JSON */
    unsigned     roles;
};

static void
take_group(struct json_out *o, struct slice name, unsigned *roles)
{
    if (slice_is(name, "$admins"))
        *roles |= USER_ADMIN;
    else if (slice_is(name, "$ops"))
        *roles |= USER_OPS;
    else
        json_out_string(o, name);
}

/* {1 options {1 login, 2, 3, 4 groups}} */
static bool
read_options(struct slice message, struct options *out)
{
    struct slice *const texts[3] = {&out->login, &out->second, &out->third};
    struct pb_in        in, options;
    struct pb_field     f, option;
    struct json_out     o;
    bool                ok = true;

    json_out_init(&o, &out->groups);
    json_out_array(&o);
    pb_in_init(&in, message);
    while (pb_next(&in, &f)) {
        if (f.key != PB_BYTES(1))
            continue;
        pb_in_init(&options, f.bytes);
        while (pb_next(&options, &option)) {
            for (uint32_t i = 0; i < 3; i++)
                if (option.key == PB_BYTES(i + 1))
                    *texts[i] = option.bytes;
            if (option.key == PB_BYTES(4))
                take_group(&o, option.bytes, &out->roles);
        }
        ok = ok && !options.bad;
    }
    json_out_array_end(&o);
    return ok && !in.bad;
}

static void
refuse_user(struct rpc *r, enum rpc_status status, const char *exception, struct slice login,
            const char *text)
{
    rpc_trailer(r, "login-name", login);
    grpci_refuse(r, status, exception, (struct slice){0}, text);
}

static void
fail(struct rpc *r, const struct err *err, struct slice login)
{
    if (err->code == E_NOTFOUND)
        refuse_user(r, RPC_NOT_FOUND, "user-not-found", login, err->text);
    else if (err->code == E_EXISTS)
        refuse_user(r, RPC_FAILED_PRECONDITION, "user-conflict", login, err->text);
    else
        grpci_fail(r, err, (struct slice){0});
}

static void
on_done(struct user_job *job)
{
    struct rpc *r = job->hold.rpc;

    if (r == NULL)
        return;
    rpc_keep(r, NULL);
    if (job->rc != 0)
        fail(r, &job->err, buf_slice(&job->name));
    else
        grpci_answer(r, (struct slice){0});
}

static bool
fill(struct user_job *job, struct options *o)
{
    static const enum user_role both[2] = {USER_READ, USER_WRITE};
    struct user                *now;

    buf_add_slice(&job->name, o->login);
    if (job->op == USER_OP_PASSWORD) {
        buf_add_slice(&job->password, job->proves ? o->third : o->second);
        buf_add_slice(&job->current, job->proves ? o->second : (struct slice){0});
        job->has_password = true;
    } else if (job->op == USER_OP_ADD || job->op == USER_OP_CHANGE) {
        now = job->op == USER_OP_ADD ? NULL : user_get(job->server->users, o->login);
        job->roles = o->roles;
        for (unsigned i = 0; i < 2; i++)
            if (job->op == USER_OP_ADD || (now != NULL && user_is(now, both[i])))
                job->roles |= both[i];
        user_put(now);
        job->has_roles = job->has_groups = job->has_full_name = true;
        buf_add_slice(&job->full_name, o->third);
        buf_add_slice(&job->groups, buf_slice(&o->groups));
        job->has_password = job->op == USER_OP_ADD;
        if (job->has_password)
            buf_add_slice(&job->password, o->second);
    }
    return !job->name.failed && !job->password.failed && !job->groups.failed;
}

static void
run(struct rpc *r, struct slice message, enum user_op op, bool proves)
{
    struct conn     *c = grpci_conn(r);
    struct options   o = {0};
    struct user_job *job = NULL;

    if (!read_options(message, &o)) {
        grpci_bad(r, "the request is malformed");
    } else if (c->server->users == NULL) {
        rpc_end(r, RPC_UNIMPLEMENTED, "there are no users here");
    } else if (proves && rpc_who(r) != NULL && !user_is(rpc_who(r), USER_ADMIN) &&
               !slice_is(o.login, user_name(rpc_who(r)))) {
        grpci_refuse(r, RPC_PERMISSION_DENIED, "access-denied", (struct slice){0},
                     "only one's own password");
    } else {
        job = serveri_user_job(c->server, op, rpc_who(r), &c->peer);
        if (job != NULL)
            job->proves = proves;
        if (job == NULL || !fill(job, &o)) {
            serveri_user_job_free(job);
            rpc_end(r, RPC_UNAVAILABLE, "too many changes of users are under way");
        } else {
            rpc_keep(r, &job->hold);
            serveri_user_job_run(job, on_done);
        }
    }
    buf_fini(&o.groups);
}

static void
create(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_ADD, false);
}

static void
update(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_CHANGE, false);
}

static void
delete_user(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_DELETE, false);
}

static void
enable(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_ENABLE, false);
}

static void
disable(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_DISABLE, false);
}

static void
change_password(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_PASSWORD, true);
}

static void
reset_password(struct rpc *r, struct slice message)
{
    run(r, message, USER_OP_PASSWORD, false);
}

/* Details. */

static int
put_details(void *arg, struct user *u)
{
    struct rpc    *r = arg;
    size_t         mark;
    struct buf    *out;
    struct pb_mark details, updated;

    if (rpc_who(r) != NULL && !user_is(rpc_who(r), USER_ADMIN) &&
        strcmp(user_name(rpc_who(r)), user_name(u)) != 0)
        return 0;
    out = rpc_begin(r, &mark);
    details = pb_begin(out, 1, 0);
    pb_put_str(out, 1, user_name(u));
    pb_put_str(out, 2, user_full_name(u));
    if (user_is(u, USER_ADMIN))
        pb_put_str(out, 3, "$admins");
    if (user_is(u, USER_OPS))
        pb_put_str(out, 3, "$ops");
    for (unsigned i = 0; i < user_group_count(u); i++)
        pb_put_bytes(out, 3, user_group(u, i));
    updated = pb_begin(out, 4, 0);
    pb_put_varint(out, 1, (uint64_t)user_changed_us(u) * 10);
    pb_end(out, updated);
    pb_put_varint(out, 5, user_is_disabled(u));
    pb_end(out, details);
    rpc_commit(r, mark);
    return 0;
}

static void
details(struct rpc *r, struct slice message)
{
    struct server *s = grpci_server(r);
    struct options o = {0};
    bool           ok = read_options(message, &o);
    struct user   *u = ok && s->users != NULL ? user_get(s->users, o.login) : NULL;

    buf_fini(&o.groups);
    if (!ok)
        grpci_bad(r, "the request is malformed");
    else if (o.login.len != 0 && u == NULL)
        refuse_user(r, RPC_NOT_FOUND, "user-not-found", o.login, "there is no such user");
    else if (u != NULL)
        (void)put_details(r, u);
    else if (s->users != NULL)
        (void)user_each(s->users, put_details, r);
    user_put(u);
    rpc_end(r, RPC_OK, NULL);
}

static const struct rpc_method methods[] = {
    {.path = USERS "Create", .message = create},
    {.path = USERS "Update", .message = update},
    {.path = USERS "Delete", .message = delete_user},
    {.path = USERS "Enable", .message = enable},
    {.path = USERS "Disable", .message = disable},
    {.path = USERS "Details", .message = details},
    {.path = USERS "ChangePassword", .message = change_password},
    {.path = USERS "ResetPassword", .message = reset_password},
};

const struct rpc_table grpci_users = {methods, sizeof methods / sizeof methods[0]};
