/* Inside src/user only. */
#ifndef OX_USER_USER_INT_H
#define OX_USER_USER_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "user/user.h"

#define USERI_SALT 16
#define USERI_HASH 32

/* What a password was hashed with. */
struct user_password {
    bool     there;
    uint32_t n, r, p;
    uint8_t  salt[USERI_SALT], hash[USERI_HASH];
};

struct user_token {
    char    id[9];
    uint8_t hash[USERI_HASH];
    int64_t created_us, expires_us; /* 0: never */
    char    label[USER_NAME_MAX + 1];
};

struct user {
    atomic_uint          refs;
    atomic_bool          stale;
    uint64_t             version; /* in its stream */
    char                 name[USER_NAME_MAX + 1];
    char                 full_name[USER_FULL_NAME_MAX + 1];
    unsigned             roles;
    bool                 disabled;
    int64_t              changed_us;
    unsigned             group_count, token_count;
    char                 groups[USER_GROUPS_MAX][USER_NAME_MAX + 1];
    struct user_password password;
    struct user_token    tokens[USER_TOKENS_MAX];
};

struct users {
    struct ox_env  *env;
    struct log     *log;
    pthread_mutex_t change; /* one change at a time; taken before `lock` */
    pthread_mutex_t lock;   /* the table */
    struct user   **all;    /* by name */
    unsigned        count, cap;
    atomic_uint     shown; /* count, for those who hold no lock */
};

/* user_hash.c */
int  useri_password_set(struct ox_env *env, struct slice password, struct user_password *out,
                        struct err *err);
bool useri_password_holds(const struct user_password *kept, struct slice password);
int  useri_token_hash(struct slice token, uint8_t out[USERI_HASH]);
bool useri_same(const uint8_t *a, const uint8_t *b, size_t len);

/* user_text.c */
void useri_write(const struct user *u, struct buf *out);
int  useri_read(struct slice json, struct user *u, struct err *err);
/* A JSON array of at most USER_GROUPS_MAX names. */
int  useri_groups_read(struct slice array, struct user *u, struct err *err);
bool useri_name_is_good(struct slice name);

#endif
