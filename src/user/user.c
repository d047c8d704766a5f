/*
 * The table of users, and its changes. The log is first: the table says nothing that is not
 * durable. Whoever holds a user that was changed since finds it stale.
 */
#include "user/user.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/json.h"
#include "base/must.h"
#include "log/log.h"
#include "user/user_int.h"

#define STREAM_MAX (sizeof LOG_SECRET_PREFIX + USER_NAME_MAX)

/* The table. */

static void
lock(struct users *users)
{
    (void)pthread_mutex_lock(&users->lock);
}

static void
unlock(struct users *users)
{
    (void)pthread_mutex_unlock(&users->lock);
}

/* Where it is, or would be. */
static unsigned
place_of(const struct users *users, struct slice name, bool *there)
{
    unsigned low = 0, high = users->count;

    *there = false;
    while (low < high) {
        unsigned mid = low + (high - low) / 2;
        int      order = slice_cmp(slice_str(users->all[mid]->name), name);

        if (order == 0) {
            *there = true;
            return mid;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Takes the user over. Room was made before. */
static void
put_in(struct users *users, struct user *u)
{
    bool     there;
    unsigned i;

    lock(users);
    i = place_of(users, slice_str(u->name), &there);
    if (there) {
        atomic_store(&users->all[i]->stale, true);
        user_put(users->all[i]);
    } else {
        must(users->count < users->cap);
        memmove(&users->all[i + 1], &users->all[i], (users->count - i) * sizeof(struct user *));
        users->count++;
    }
    users->all[i] = u;
    atomic_store(&users->shown, users->count);
    unlock(users);
}

static void
take_out(struct users *users, struct slice name)
{
    bool     there;
    unsigned i;

    lock(users);
    i = place_of(users, name, &there);
    must(there);
    atomic_store(&users->all[i]->stale, true);
    user_put(users->all[i]);
    users->count--;
    memmove(&users->all[i], &users->all[i + 1], (users->count - i) * sizeof(struct user *));
    atomic_store(&users->shown, users->count);
    unlock(users);
}

static int
make_room(struct users *users, struct err *err)
{
    struct user **all;
    int           rc = 0;

    lock(users);
    if (users->count == users->cap) {
        all = realloc(users->all, ((size_t)users->cap * 2 + 8) * sizeof(struct user *));
        if (all == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a user");
        users->all = all;
        users->cap = users->cap * 2 + 8;
    }
    if (users->count == USERS_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "there are %d users: no more are taken", USERS_MAX);
out:
    unlock(users);
    return rc;
}

struct user *
user_get(struct users *users, struct slice name)
{
    struct user *u = NULL;
    bool         there;
    unsigned     i;

    lock(users);
    i = place_of(users, name, &there);
    if (there)
        u = user_hold(users->all[i]);
    unlock(users);
    return u;
}

bool
user_any(const struct users *users)
{
    return atomic_load(&users->shown) != 0;
}

int
user_each(struct users *users, user_fn *fn, void *arg)
{
    int rc = 0;

    lock(users);
    for (unsigned i = 0; i < users->count && rc == 0; i++)
        rc = fn(arg, users->all[i]);
    unlock(users);
    return rc;
}

/* The log. */

static struct slice
stream_of(const char *name, char out[STREAM_MAX])
{
    return slice_of(out, (size_t)snprintf(out, STREAM_MAX, "%s%s", LOG_SECRET_PREFIX, name));
}

static int
commit(struct users *users, struct log_write *write, struct log_change *change, struct err *err)
{
    struct log_req req = {.writes = write,
                          .write_count = write != NULL,
                          .changes = change,
                          .change_count = 1,
                          .flags = LOG_SYSTEM | LOG_QUIET};
    int            rc = log_append(users->log, &req);

    if (rc != 0)
        err_copy(err, &req.err);
    return rc;
}

/* All there is to know of the user, as its stream's only event. */
static int
store(struct users *users, struct user *u, struct err *err)
{
    char                 name[STREAM_MAX];
    struct buf           json = {0};
    struct log_new_event event = {.type = slice_str("$User"), .flags = LOG_JSON};
    struct log_write     write = {.expected = LOG_ANY, .events = &event, .count = 1};
    struct log_change    change = {.expected = LOG_ANY, .what = LOG_SET_LIMITS, .max_count = 1};
    int                  rc = 0;

    write.stream = change.stream = stream_of(u->name, name);
    u->changed_us = users->env->ops->wall_us(users->env);
    useri_write(u, &json);
    if (json.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a user");
    event.data = buf_slice(&json);
    TRY(commit(users, &write, &change, err));
out:
    buf_fini(&json);
    return rc;
}

static struct user *
user_new(void)
{
    struct user *u = calloc(1, sizeof *u);

    if (u != NULL)
        atomic_init(&u->refs, 1);
    return u;
}

static int
load(struct users *users, struct slice stream, struct err *err)
{
    struct log_read read = {
        .stream = stream, .from = UINT64_MAX, .backwards = true, .secret = true};
    struct log_iter *it = NULL;
    struct log_event event;
    struct user     *u = user_new();
    int              rc = 0;

    if (u == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a user");
    TRY(log_iter_open(users->log, &read, &it, err));
    TRY(log_iter_next(it, &event, err));
    TRY(useri_read(event.data, u, err));
    TRY(make_room(users, err));
    put_in(users, u);
    u = NULL;
out:
    user_put(u);
    log_iter_close(it);
    return rc;
}

static int
note_name(void *arg, const struct log_stream *stream, struct err *err)
{
    struct buf *names = arg;

    buf_add_slice(names, stream->name);
    buf_add_byte(names, 0);
    return 0;
}

int
user_open(struct ox_env *env, struct log *log, struct users **out, struct err *err)
{
    struct users *users = calloc(1, sizeof *users);
    struct buf    names = {0};
    int           rc = 0;

    *out = NULL;
    if (users == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "no memory for users");
    users->env = env;
    users->log = log;
    (void)pthread_mutex_init(&users->change, NULL);
    (void)pthread_mutex_init(&users->lock, NULL);
    TRY(log_streams(log, slice_str(LOG_SECRET_PREFIX), (struct slice){0}, note_name, &names, err));
    if (names.failed)
        FAIL(err, E_NOMEM, ERR_FATAL, "no memory for users");
    for (size_t at = 0; at < names.len; at += strlen((char *)names.data + at) + 1)
        TRY(load(users, slice_str((char *)names.data + at), err));
    *out = users;
    users = NULL;
out:
    if (rc != 0)
        err_prefix(err, "users");
    buf_fini(&names);
    user_close(users);
    return rc;
}

void
user_close(struct users *users)
{
    if (users == NULL)
        return;
    for (unsigned i = 0; i < users->count; i++)
        user_put(users->all[i]);
    free(users->all);
    (void)pthread_mutex_destroy(&users->change);
    (void)pthread_mutex_destroy(&users->lock);
    free(users);
}

/* Changes. */

static int
apply(struct users *users, const struct user_spec *spec, struct user *u, struct err *err)
{
    int rc = 0;

    if (spec->full_name.data != NULL) {
        if (spec->full_name.len > USER_FULL_NAME_MAX ||
            memchr(spec->full_name.data, 0, spec->full_name.len) != NULL)
            FAIL(err, E_INVALID, ERR_DATA, "a full name has at most %d bytes", USER_FULL_NAME_MAX);
        memcpy(u->full_name, spec->full_name.data, spec->full_name.len);
        u->full_name[spec->full_name.len] = '\0';
    }
    if (spec->groups.data != NULL)
        TRY(useri_groups_read(spec->groups, u, err));
    if (spec->has_roles)
        u->roles = spec->roles;
    if (spec->password.data != NULL)
        TRY(useri_password_set(users->env, spec->password, &u->password, err));
out:
    return rc;
}

/* Who else could undo it? Under `change`. */
static bool
has_other_admin(struct users *users, const char *name)
{
    bool found = false;

    lock(users);
    for (unsigned i = 0; i < users->count && !found; i++)
        found = !users->all[i]->disabled && user_is(users->all[i], USER_ADMIN) &&
                users->all[i]->password.there && strcmp(users->all[i]->name, name) != 0;
    unlock(users);
    return found;
}

static int
check_admins(struct users *users, const struct user *before, const struct user *after,
             struct err *err)
{
    bool was = user_is(before, USER_ADMIN) && !before->disabled;
    bool is = after != NULL && user_is(after, USER_ADMIN) && !after->disabled;

    if (!was || is || has_other_admin(users, before->name))
        return 0;
    RETURN_ERR(err, E_STATE, ERR_DATA, "user \"%s\" is the last admin: make another one first",
               before->name);
}

int
user_add(struct users *users, const struct user_spec *spec, struct err *err)
{
    struct user *u = user_new(), *other = NULL;
    int          rc = 0;

    (void)pthread_mutex_lock(&users->change);
    if (u == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "no memory for a user");
    if (!useri_name_is_good(spec->name))
        FAIL(err, E_INVALID, ERR_DATA,
             "a user's name has 1 to %d of the letters a to z and A to Z, digits and . _ @ + -",
             USER_NAME_MAX);
    other = user_get(users, spec->name);
    if (other != NULL)
        FAIL(err, E_EXISTS, ERR_DATA, "user \"%.*s\" is there already", SLICE_FMT(spec->name));
    if (!user_any(users) &&
        (!spec->has_roles || (spec->roles & USER_ADMIN) == 0 || spec->password.data == NULL))
        FAIL(err, E_STATE, ERR_DATA,
             "there is no user yet: the first one has to be an admin with a password");
    memcpy(u->name, spec->name.data, spec->name.len);
    TRY(apply(users, spec, u, err));
    TRY(make_room(users, err));
    TRY(store(users, u, err));
    put_in(users, u);
    u = NULL;
out:
    (void)pthread_mutex_unlock(&users->change);
    user_put(other);
    user_put(u);
    return rc;
}

/* A copy that can be changed; under `change`. */
static int
begin(struct users *users, struct slice name, struct user **before, struct user **after,
      struct err *err)
{
    *before = user_get(users, name);
    if (*before == NULL)
        RETURN_ERR(err, E_NOTFOUND, ERR_DATA, "there is no user \"%.*s\"", SLICE_FMT(name));
    *after = user_new();
    if (*after == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for a user");
    **after = **before;
    atomic_init(&(*after)->refs, 1);
    atomic_init(&(*after)->stale, false);
    return 0;
}

/* Takes *after over where it is stored; gives all the rest back, and the lock. */
static int
end(struct users *users, int rc, struct user *before, struct user *after, struct err *err)
{
    if (rc == 0)
        rc = check_admins(users, before, after, err);
    if (rc == 0)
        rc = store(users, after, err);
    if (rc == 0)
        put_in(users, after);
    else
        user_put(after);
    user_put(before);
    (void)pthread_mutex_unlock(&users->change);
    return rc;
}

int
user_change(struct users *users, const struct user_spec *spec, struct err *err)
{
    struct user *before = NULL, *after = NULL;
    int          rc = 0;

    (void)pthread_mutex_lock(&users->change);
    TRY(begin(users, spec->name, &before, &after, err));
    TRY(apply(users, spec, after, err));
out:
    return end(users, rc, before, after, err);
}

int
user_enable(struct users *users, struct slice name, bool enabled, struct err *err)
{
    struct user *before = NULL, *after = NULL;
    int          rc = 0;

    (void)pthread_mutex_lock(&users->change);
    TRY(begin(users, name, &before, &after, err));
    after->disabled = !enabled;
out:
    return end(users, rc, before, after, err);
}

int
user_delete(struct users *users, struct slice name, struct err *err)
{
    char              text[STREAM_MAX];
    struct user      *u;
    struct log_change change = {.expected = LOG_ANY, .what = LOG_SET_DELETED};
    int               rc = 0;

    (void)pthread_mutex_lock(&users->change);
    u = user_get(users, name);
    if (u == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no user \"%.*s\"", SLICE_FMT(name));
    TRY(check_admins(users, u, NULL, err));
    change.stream = stream_of(u->name, text);
    TRY(commit(users, NULL, &change, err));
    take_out(users, name);
out:
    (void)pthread_mutex_unlock(&users->change);
    user_put(u);
    return rc;
}

/* Tokens. */

static void
drop_expired(struct user *u, int64_t now)
{
    for (unsigned i = 0; i < u->token_count;) {
        if (u->tokens[i].expires_us == 0 || u->tokens[i].expires_us > now)
            i++;
        else
            u->tokens[i] = u->tokens[--u->token_count];
    }
}

static int
add_token(struct users *users, struct user *u, struct slice label, int64_t expires_us,
          char token[USER_SECRET_BYTES], struct err *err)
{
    struct user_token *t;
    size_t             prefix = strlen(USER_TOKEN_PREFIX);
    char               made[USER_SECRET_BYTES];
    int64_t            now = users->env->ops->wall_us(users->env);
    uint8_t            id[4];

    drop_expired(u, now);
    if (u->token_count == USER_TOKENS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "a user has at most %d tokens: revoke one",
                   USER_TOKENS_MAX);
    if (label.len > USER_NAME_MAX || (label.len != 0 && memchr(label.data, 0, label.len) != NULL))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a token's label has at most %d bytes", USER_NAME_MAX);
    if (expires_us != 0 && expires_us <= now)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the token would have expired already");
    t = &u->tokens[u->token_count];
    *t = (struct user_token){.created_us = now, .expires_us = expires_us};
    if (label.len != 0)
        memcpy(t->label, label.data, label.len);
    user_secret(users->env, made);
    (void)snprintf(token, USER_SECRET_BYTES, "%s%.*s", USER_TOKEN_PREFIX,
                   (int)(USER_SECRET_BYTES - prefix - 1), made);
    users->env->ops->random(users->env, id, sizeof id);
    (void)snprintf(t->id, sizeof t->id, "%02x%02x%02x%02x", id[0], id[1], id[2], id[3]);
    if (useri_token_hash(slice_str(token), t->hash) != 0)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for a token");
    u->token_count++;
    return 0;
}

int
user_token_add(struct users *users, struct slice name, struct slice label, int64_t expires_us,
               char token[USER_SECRET_BYTES], char id[9], struct err *err)
{
    struct user *before = NULL, *after = NULL;
    int          rc = 0;

    (void)pthread_mutex_lock(&users->change);
    TRY(begin(users, name, &before, &after, err));
    TRY(add_token(users, after, label, expires_us, token, err));
    memcpy(id, after->tokens[after->token_count - 1].id, 9);
out:
    return end(users, rc, before, after, err);
}

int
user_token_revoke(struct users *users, struct slice name, struct slice id, struct err *err)
{
    struct user *before = NULL, *after = NULL;
    unsigned     i = 0;
    int          rc = 0;

    (void)pthread_mutex_lock(&users->change);
    TRY(begin(users, name, &before, &after, err));
    while (i < after->token_count && !slice_is(id, after->tokens[i].id))
        i++;
    if (i == after->token_count)
        FAIL(err, E_NOTFOUND, ERR_DATA, "user \"%s\" has no token \"%.*s\"", before->name,
             SLICE_FMT(id));
    after->tokens[i] = after->tokens[--after->token_count];
out:
    return end(users, rc, before, after, err);
}

/* Proofs. */

struct user *
user_check_password(struct users *users, struct slice name, struct slice password)
{
    struct user *u = user_get(users, name);

    /* As long for a name that is nobody's. */
    if (useri_password_holds(u == NULL ? NULL : &u->password, password) && u != NULL &&
        !u->disabled)
        return u;
    user_put(u);
    return NULL;
}

struct user *
user_check_token(struct users *users, struct slice token)
{
    uint8_t      hash[USERI_HASH];
    int64_t      now = users->env->ops->wall_us(users->env);
    struct user *found = NULL;

    if (useri_token_hash(token, hash) != 0)
        return NULL;
    lock(users);
    for (unsigned i = 0; i < users->count && found == NULL; i++) {
        struct user *u = users->all[i];

        for (unsigned k = 0; k < u->token_count && !u->disabled; k++)
            if (useri_same(u->tokens[k].hash, hash, sizeof hash) &&
                (u->tokens[k].expires_us == 0 || u->tokens[k].expires_us > now))
                found = u;
    }
    (void)user_hold(found);
    unlock(users);
    return found;
}

/* The first start. */

static int
add_first(struct users *users, const char *name, const char *full_name, enum user_role role,
          const char *password, char made[USER_SECRET_BYTES], struct err *err)
{
    struct user_spec spec = {.name = slice_str(name),
                             .full_name = slice_str(full_name),
                             .roles = role,
                             .has_roles = true};

    made[0] = '\0';
    if (password == NULL) {
        user_secret(users->env, made);
        password = made;
    }
    spec.password = slice_str(password);
    return user_add(users, &spec, err);
}

int
user_first(struct users *users, const char *admin, const char *ops,
           char admin_made[USER_SECRET_BYTES], char ops_made[USER_SECRET_BYTES], struct err *err)
{
    int rc = 0;

    TRY(add_first(users, "admin", "Administrator", USER_ADMIN, admin, admin_made, err));
    TRY(add_first(users, "ops", "Operations", USER_OPS, ops, ops_made, err));
out:
    return rc;
}
