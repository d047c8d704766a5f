/*
 * Data under a subject's key, as the log sees it: it is sealed before an event
 * is queued and opened when it is read, by whoever has the keys. The log has no
 * keys and knows nothing of ciphers.
 *
 * Sealed data (docs/format.md): key id 16, nonce 12, format 4, ciphertext as long
 * as the data, tag 16. It is bound to the event's id, not to its stream: a copy
 * under the same id can be opened, a swap cannot.
 */
#ifndef OX_BASE_SUBJECTS_H
#define OX_BASE_SUBJECTS_H

#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "base/slice.h"

#define SUBJECTS_NAME_MAX 255 /* bytes of a subject's name */
#define SUBJECTS_HEAD 32u     /* key id, nonce, format */
#define SUBJECTS_TAG 16u
#define SUBJECTS_OVERHEAD (SUBJECTS_HEAD + SUBJECTS_TAG) /* bytes more than the data */

struct ox_subjects;

/* Any thread; none blocks on anything but the disk. */
struct ox_subject_ops {
    /*
     * Writes data.len + SUBJECTS_OVERHEAD bytes. A subject that has no key gets one, which is
     * durable after `sync`: before that nothing that is sealed under it may be acknowledged.
     */
    int (*seal)(struct ox_subjects *, struct slice subject, const struct ox_id *event,
                struct slice data, uint8_t *out, struct err *err);
    /*
     * Writes sealed.len - SUBJECTS_OVERHEAD bytes; `name` gets the subject's (SUBJECTS_NAME_MAX
     * bytes are enough), *name_len its length. E_GONE: the key was shredded. E_NOTFOUND: it is
     * in no keystore that is open here. E_DAMAGED: these bytes were not sealed for this event.
     */
    int (*open)(struct ox_subjects *, const struct ox_id *event, struct slice sealed, uint8_t *out,
                char *name, size_t *name_len, struct err *err);
    /* Cheap where there is nothing to do. */
    int (*sync)(struct ox_subjects *, struct err *err);
};

/* Implementations put this first. */
struct ox_subjects {
    const struct ox_subject_ops *ops;
};

#endif
