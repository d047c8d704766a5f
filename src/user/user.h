/*
 * Users: who they are, what proves it, and what they may do in general. They are kept in the log,
 * a stream "$user-NAME" for each, of which the last event is all there is to know of one; no
 * reader is given those streams (log_read.secret). Passwords are kept as scrypt hashes, tokens,
 * which nobody can guess, as SHA-256.
 *
 * Any thread. What changes users waits for the log, what proves a password works for a quarter of a
 * second: neither belongs on a loop. A struct user is what a user was at one time; it never
 * changes but for user_is_valid, and is held by counting.
 */
#ifndef OX_USER_USER_H
#define OX_USER_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

struct json_out;
struct log;
struct ox_env;
struct user;
struct users;

#define USER_NAME_MAX 64
#define USER_FULL_NAME_MAX 255
#define USER_GROUPS_MAX 32
#define USER_TOKENS_MAX 32
#define USER_PASSWORD_MIN 8
#define USER_PASSWORD_MAX 1024
#define USERS_MAX 10000
#define USER_TOKEN_PREFIX "oxb_"
#define USER_SECRET_BYTES 64 /* a generated password or a token, with its NUL */

enum user_role {
    USER_ADMIN = 1, /* everything */
    USER_OPS = 2,   /* what keeps the server going; no events */
    USER_READ = 4,  /* events that nothing else decides about */
    USER_WRITE = 8,
};

/* "admin,read" as roles; false: one of them is none. */
bool user_roles_parse(struct slice text, unsigned *roles);
/* A JSON array of their names. */
int         user_roles_read(struct slice array, unsigned *roles, struct err *err);
const char *user_role_name(enum user_role role);

/* opening */

/* Reads what there is. The log stays the caller's, and outlives them. */
int  user_open(struct ox_env *env, struct log *log, struct users **out, struct err *err);
void user_close(struct users *users); /* NULL is fine */

bool user_any(const struct users *users);

/*
 * Where there is no user yet: `admin` (admin) and `ops` (ops), KurrentDB's names, with these
 * passwords. NULL: a generated one, which is put into the room for it.
 */
int
user_first(struct users *users, const char *admin, const char *ops,
           char admin_made[USER_SECRET_BYTES], char ops_made[USER_SECRET_BYTES], struct err *err);

/* changes: each is durable when it returns */

/* What is NULL (data) stays as it is. */
struct user_spec {
    struct slice name, full_name, password;
    struct slice groups; /* a JSON array of strings */
    unsigned     roles;  /* enum user_role */
    bool         has_roles;
};

/* E_EXISTS, E_INVALID, E_LIMIT. The first user has to be an admin. */
int user_add(struct users *users, const struct user_spec *spec, struct err *err);
/* E_NOTFOUND; E_STATE: the last admin cannot go, be disabled or be none. */
int user_change(struct users *users, const struct user_spec *spec, struct err *err);
int user_enable(struct users *users, struct slice name, bool enabled, struct err *err);
int user_delete(struct users *users, struct slice name, struct err *err);
/* A token that proves the user until then (0: for ever); its id is what revokes it. */
int user_token_add(struct users *users, struct slice name, struct slice label, int64_t expires_us,
                   char token[USER_SECRET_BYTES], char id[9], struct err *err);
int user_token_revoke(struct users *users, struct slice name, struct slice id, struct err *err);

/* As many bytes of chance as nobody guesses, as text. */
void user_secret(struct ox_env *env, char out[USER_SECRET_BYTES]);

/* proofs: the user, to be given back; NULL: none */

struct user *user_check_password(struct users *users, struct slice name, struct slice password);
struct user *user_check_token(struct users *users, struct slice token);
struct user *user_get(struct users *users, struct slice name);

/* one of them */

struct user *user_hold(struct user *user); /* NULL is fine */
void         user_put(struct user *user);  /* likewise */
/* Neither changed nor gone since. */
bool         user_is_valid(const struct user *user);
const char  *user_name(const struct user *user);
const char  *user_full_name(const struct user *user);
bool         user_is(const struct user *user, enum user_role role);
bool         user_is_disabled(const struct user *user);
int64_t      user_changed_us(const struct user *user);
unsigned     user_group_count(const struct user *user);
struct slice user_group(const struct user *user, unsigned i);

/* {"name":…,"full_name":…,"roles":[…],"groups":[…],"disabled":…,"tokens":[…]}: no secrets */
void user_json(const struct user *user, struct json_out *o);

/* Each in the order of the names, held during the call; stops where `fn` returns non-zero. */
typedef int user_fn(void *arg, struct user *user);
int         user_each(struct users *users, user_fn *fn, void *arg);

#endif
