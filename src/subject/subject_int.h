/* Inside src/subject only: the cipher, and the store. */
#ifndef OX_SUBJECT_SUBJECT_INT_H
#define OX_SUBJECT_SUBJECT_INT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"
#include "subject/subject.h"

/* AES-256-GCM; `tag` has 16 bytes, `nonce` 12. */
int subjecti_encrypt(const uint8_t *key, const uint8_t *nonce, struct slice bound,
                     struct slice data, uint8_t *out, uint8_t *tag, struct err *err);
/* E_DAMAGED where the tag does not hold; `out` is wiped then. */
int  subjecti_decrypt(const uint8_t *key, const uint8_t *nonce, struct slice bound,
                      struct slice sealed, const uint8_t *tag, uint8_t *out, struct err *err);
void subjecti_wipe(void *bytes, size_t len);

#endif
