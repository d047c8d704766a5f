/* Users over HTTP: /v1/users, and what each route asks for: /v1/access. */
#include "base/json.h"
#include "base/must.h"
#include "server/grpc_int.h"
#include "server/users_int.h"

#define TIMEOUT_MS 60000
#define BODY_MAX 16384

static void
answer_user(struct call *call, int status, struct slice name)
{
    struct server  *s = call->conn->server;
    struct user    *u = user_get(s->users, name);
    struct json_out o;

    if (u == NULL) {
        call_refuse(call, 404, "not-found", "there is no such user");
        return;
    }
    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    user_json(u, &o);
    call_answer(call, status, CALL_JSON, buf_slice(&s->scratch));
    user_put(u);
}

static int
put_one(void *arg, struct user *user)
{
    user_json(user, arg);
    return 0;
}

static void
get_users(struct call *call, void *arg)
{
    struct server  *s = call->conn->server;
    struct json_out o;

    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    json_out_object(&o);
    json_out_key(&o, "users");
    json_out_array(&o);
    (void)user_each(s->users, put_one, &o);
    json_out_array_end(&o);
    json_out_object_end(&o);
    call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
}

static void
get_user(struct call *call, void *arg)
{
    answer_user(call, 200, call_param(call, "user"));
}

/* Changes. */

static void
on_done(struct user_job *job)
{
    struct server  *s = job->server;
    struct user    *u = user_get(s->users, buf_slice(&job->name));
    struct json_out o;

    if (job->rc != 0) {
        user_put(u);
        later_fail(job->later, &job->err);
        return;
    }
    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    if (job->op == USER_OP_TOKEN_ADD) {
        json_out_object(&o);
        json_out_key(&o, "user");
        json_out_string(&o, buf_slice(&job->name));
        json_out_key(&o, "id");
        json_out_str(&o, job->id);
        json_out_key(&o, "token");
        json_out_str(&o, job->token);
        json_out_object_end(&o);
    } else if (u != NULL) {
        user_json(u, &o);
    } else {
        buf_add_str(&s->scratch, "{}");
    }
    user_put(u);
    later_answer(job->later, job->op == USER_OP_ADD || job->op == USER_OP_TOKEN_ADD ? 201 : 200,
                 CALL_JSON, buf_slice(&s->scratch));
}

static struct user_job *
begin(struct call *call, enum user_op op)
{
    struct user_job *job = serveri_user_job(call->conn->server, op, call->who, &call->conn->peer);

    if (job == NULL)
        call_refuse(call, 503, "overloaded", "too many changes of users are under way");
    else if (op != USER_OP_ADD)
        buf_add_slice(&job->name, call_param(call, "user"));
    return job;
}

static void
run(struct call *call, struct user_job *job)
{
    job->later = call_later(call, TIMEOUT_MS);
    if (job->later == NULL)
        serveri_user_job_free(job);
    else
        serveri_user_job_run(job, on_done);
}

enum field { NAME, FULL_NAME, ROLES, GROUPS, PASSWORD, CURRENT, LABEL, EXPIRES, FIELDS };

static const char *const field_names[FIELDS] = {"name",     "full_name", "roles", "groups",
                                                "password", "current",   "label", "expires_us"};

static int
read_text(struct slice raw, const char *name, struct buf *out, struct err *err)
{
    if (raw.data == NULL)
        return 0;
    if (json_type(raw) != JSON_STRING)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "\"%s\": must be a string", name);
    return json_string_decode(raw, out, err);
}

/* Those of `mask` may be there, and nothing else. */
static int
read_body(struct call *call, struct user_job *job, unsigned mask, struct err *err)
{
    struct buf *const texts[FIELDS] = {[NAME] = &job->name,
                                       [FULL_NAME] = &job->full_name,
                                       [PASSWORD] = &job->password,
                                       [CURRENT] = &job->current,
                                       [LABEL] = &job->text};
    struct json_field f[FIELDS];
    struct slice      raw, body = call_body(call);
    size_t            n = 0;
    int               rc = 0;

    for (unsigned i = 0; i < FIELDS; i++)
        f[i] = (struct json_field){.name = field_names[i], .required = i == NAME && (mask & 1)};
    if (body.len == 0)
        body = slice_str("{}");
    TRY(json_value(body, &raw, err));
    TRY(json_pick(raw, f, FIELDS, JSON_PICK_ONLY, err));
    for (n = 0; n < FIELDS; n++) {
        if (f[n].value.data == NULL)
            continue;
        if (!(mask & 1U << n))
            FAIL(err, E_INVALID, ERR_DATA, "\"%s\": is not taken here", field_names[n]);
        if (texts[n] != NULL)
            TRY(read_text(f[n].value, field_names[n], texts[n], err));
    }
    job->has_full_name = f[FULL_NAME].value.data != NULL;
    job->has_password = f[PASSWORD].value.data != NULL;
    job->has_groups = f[GROUPS].value.data != NULL;
    job->has_roles = f[ROLES].value.data != NULL;
    if (job->has_groups)
        buf_add_slice(&job->groups, f[GROUPS].value);
    if (job->has_roles)
        TRY(user_roles_read(f[ROLES].value, &job->roles, err));
    if (f[EXPIRES].value.data != NULL && !json_int64(f[EXPIRES].value, &job->expires_us))
        FAIL(err, E_INVALID, ERR_DATA, "\"expires_us\": must be a time in microseconds");
out:
    return rc;
}

static void
change(struct call *call, enum user_op op, unsigned mask)
{
    struct user_job *job = begin(call, op);
    struct err       err;

    if (job == NULL)
        return;
    if (read_body(call, job, mask, &err) != 0) {
        serveri_user_job_free(job);
        call_fail(call, &err);
        return;
    }
    if (op == USER_OP_PASSWORD && !job->has_password) {
        serveri_user_job_free(job);
        call_refuse(call, 400, "invalid", "\"password\": is missing");
        return;
    }
    /* Who only found the screen unlocked does not know it. */
    job->proves = op == USER_OP_PASSWORD && call->who != NULL && !user_is(call->who, USER_ADMIN);
    run(call, job);
}

static void
post_users(struct call *call, void *arg)
{
    change(call, USER_OP_ADD,
           1U << NAME | 1U << FULL_NAME | 1U << ROLES | 1U << GROUPS | 1U << PASSWORD);
}

static void
patch_user(struct call *call, void *arg)
{
    change(call, USER_OP_CHANGE, 1U << FULL_NAME | 1U << ROLES | 1U << GROUPS);
}

static void
post_password(struct call *call, void *arg)
{
    change(call, USER_OP_PASSWORD, 1U << PASSWORD | 1U << CURRENT);
}

static void
post_enable(struct call *call, void *arg)
{
    change(call, USER_OP_ENABLE, 0);
}

static void
post_disable(struct call *call, void *arg)
{
    change(call, USER_OP_DISABLE, 0);
}

static void
post_token(struct call *call, void *arg)
{
    change(call, USER_OP_TOKEN_ADD, 1U << LABEL | 1U << EXPIRES);
}

static void
delete_user(struct call *call, void *arg)
{
    struct user_job *job = begin(call, USER_OP_DELETE);

    if (job != NULL)
        run(call, job);
}

static void
delete_token(struct call *call, void *arg)
{
    struct user_job *job = begin(call, USER_OP_TOKEN_REVOKE);

    if (job == NULL)
        return;
    buf_add_slice(&job->text, call_param(call, "token"));
    run(call, job);
}

/* GET /v1/access */

static void
get_access(struct call *call, void *arg)
{
    static const char *const words[] = {"undecided",   "nothing",      "user",         "ops",
                                        "admin",       "self",         "read-all",     "group",
                                        "stream-read", "stream-write", "metadata-read"};
    struct server           *s = call->conn->server;
    struct json_out          o;
    const struct rpc_method *method;

    buf_clear(&s->scratch);
    json_out_init(&o, &s->scratch);
    json_out_object(&o);
    json_out_key(&o, "demanded");
    json_out_bool(&o, serveri_access_on(s));
    json_out_key(&o, "routes");
    json_out_array(&o);
    for (unsigned i = 0; i < s->route_count; i++) {
        json_out_object(&o);
        json_out_key(&o, "method");
        json_out_str(&o, s->routes[i].def.method);
        json_out_key(&o, "path");
        json_out_str(&o, s->routes[i].def.path);
        json_out_key(&o, "needs");
        json_out_str(&o, words[s->routes[i].need]);
        json_out_object_end(&o);
    }
    for (size_t i = 0; (method = grpci_nth(s, i)) != NULL; i++) {
        json_out_object(&o);
        json_out_key(&o, "method");
        json_out_str(&o, "gRPC");
        json_out_key(&o, "path");
        json_out_str(&o, method->path);
        json_out_key(&o, "needs");
        json_out_str(&o, words[serveri_access_need_grpc(slice_str(method->path))]);
        json_out_object_end(&o);
    }
    json_out_array_end(&o);
    json_out_object_end(&o);
    call_answer(call, 200, CALL_JSON, buf_slice(&s->scratch));
}

#define PATH "/v1/users/{user}"

static const struct server_route routes[] = {
    {"GET", "/v1/access", get_access, 0},
    {"GET", "/v1/users", get_users, 0},
    {"POST", "/v1/users", post_users, BODY_MAX},
    {"GET", PATH, get_user, 0},
    {"PATCH", PATH, patch_user, BODY_MAX},
    {"DELETE", PATH, delete_user, 0},
    {"POST", PATH "/password", post_password, BODY_MAX},
    {"POST", PATH "/enable", post_enable, BODY_MAX},
    {"POST", PATH "/disable", post_disable, BODY_MAX},
    {"POST", PATH "/tokens", post_token, BODY_MAX},
    {"DELETE", PATH "/tokens/{token}", delete_token, 0},
};

int
serveri_user_routes(struct server *s, struct err *err)
{
    return server_add_routes(s, routes, sizeof routes / sizeof routes[0], NULL, err);
}
