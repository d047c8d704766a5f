/* AES-256-GCM by OpenSSL. */
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/must.h"
#include "subject/subject_int.h"

#define TAG 16

void
subjecti_wipe(void *bytes, size_t len)
{
    OPENSSL_cleanse(bytes, len);
}

static int
no_cipher(struct err *err)
{
    RETURN_ERR(err, E_NOMEM, ERR_RETRY, "the cipher could not be set up: out of memory?");
}

int
subjecti_encrypt(const uint8_t *key, const uint8_t *nonce, struct slice bound, struct slice data,
                 uint8_t *out, uint8_t *tag, struct err *err)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int             len, rc = 0;

    must(data.len < INT_MAX);
    if (ctx == NULL || EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) != 1 ||
        EVP_EncryptUpdate(ctx, NULL, &len, bound.data, (int)bound.len) != 1 ||
        (data.len > 0 && EVP_EncryptUpdate(ctx, out, &len, data.data, (int)data.len) != 1) ||
        EVP_EncryptFinal_ex(ctx, out + data.len, &len) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG, tag) != 1)
        rc = no_cipher(err);
    EVP_CIPHER_CTX_free(ctx);
    return rc;
}

int
subjecti_decrypt(const uint8_t *key, const uint8_t *nonce, struct slice bound, struct slice sealed,
                 const uint8_t *tag, uint8_t *out, struct err *err)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t         own[TAG];
    int             len, rc = 0;

    must(sealed.len < INT_MAX);
    memcpy(own, tag, TAG);
    if (ctx == NULL || EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG, own) != 1 ||
        EVP_DecryptUpdate(ctx, NULL, &len, bound.data, (int)bound.len) != 1 ||
        (sealed.len > 0 && EVP_DecryptUpdate(ctx, out, &len, sealed.data, (int)sealed.len) != 1))
        FAIL(err, E_NOMEM, ERR_RETRY, "the cipher could not be set up: out of memory?");
    if (EVP_DecryptFinal_ex(ctx, out + sealed.len, &len) != 1) {
        subjecti_wipe(out, sealed.len);
        FAIL(err, E_DAMAGED, ERR_FATAL, "the tag does not hold");
    }
out:
    EVP_CIPHER_CTX_free(ctx);
    return rc;
}
