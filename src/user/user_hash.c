/* What proves a user: passwords by scrypt, tokens by SHA-256, and what is made by chance. */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/env.h"
#include "user/user_int.h"

/* 16 MiB and about a quarter of a second for each guess. */
#define SCRYPT_N 16384
#define SCRYPT_R 8
#define SCRYPT_P 5
#define SCRYPT_N_MAX (1U << 20)
#define SCRYPT_BYTES_MAX (256U << 20)

static bool
scrypt(const struct user_password *with, struct slice password, uint8_t out[USERI_HASH])
{
    return EVP_PBE_scrypt(password.len == 0 ? "" : password.data, password.len, with->salt,
                          USERI_SALT, with->n, with->r, with->p, SCRYPT_BYTES_MAX, out,
                          USERI_HASH) == 1;
}

int
useri_password_set(struct ox_env *env, struct slice password, struct user_password *out,
                   struct err *err)
{
    if (password.len < USER_PASSWORD_MIN || password.len > USER_PASSWORD_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "a password has %d to %d bytes", USER_PASSWORD_MIN,
                   USER_PASSWORD_MAX);
    *out = (struct user_password){.n = SCRYPT_N, .r = SCRYPT_R, .p = SCRYPT_P};
    env->ops->random(env, out->salt, sizeof out->salt);
    if (!scrypt(out, password, out->hash))
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "the password cannot be hashed: no memory");
    out->there = true;
    return 0;
}

bool
useri_same(const uint8_t *a, const uint8_t *b, size_t len)
{
    return CRYPTO_memcmp(a, b, len) == 0;
}

/* As much work whether there is one or not, so that time tells nobody which names there are. */
bool
useri_password_holds(const struct user_password *kept, struct slice password)
{
    struct user_password with = {.n = SCRYPT_N, .r = SCRYPT_R, .p = SCRYPT_P};
    uint8_t              hash[USERI_HASH] = {0};
    bool                 known = kept != NULL && kept->there && kept->n <= SCRYPT_N_MAX;

    if (known)
        with = *kept;
    return scrypt(&with, password, hash) && known && useri_same(hash, kept->hash, sizeof hash);
}

int
useri_token_hash(struct slice token, uint8_t out[USERI_HASH])
{
    unsigned len = USERI_HASH;

    return EVP_Digest(token.data, token.len, out, &len, EVP_sha256(), NULL) == 1 ? 0 : E_NOMEM;
}

void
user_secret(struct ox_env *env, char out[USER_SECRET_BYTES])
{
    static const char digits[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    uint8_t           bytes[32];

    env->ops->random(env, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        out[i] = digits[bytes[i] & 63];
    out[sizeof bytes] = '\0';
    OPENSSL_cleanse(bytes, sizeof bytes);
}
