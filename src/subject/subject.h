/*
 * The keystore: one AES-256 key for each data subject, in a folder of its own
 * outside the log and outside of backups. To shred a key makes all that was
 * sealed under it unreadable, wherever copies of it are (docs/erasure.md).
 *
 * A shredding is a record of its own (key id, time), durable before the key's
 * bytes are overwritten: what a crash leaves is finished when the store is
 * opened again. A key that is missing is therefore never taken for one that was shredded.
 *
 * Thread-safe. One process at a time has a store open.
 */
#ifndef OX_SUBJECT_SUBJECT_H
#define OX_SUBJECT_SUBJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"
#include "base/slice.h"
#include "base/subjects.h"

#define SUBJECT_KEY_BYTES 32

struct subject_conf {
    const char    *dir;    /* made with the first key; its parent has to be there */
    const uint8_t *master; /* SUBJECT_KEY_BYTES that wrap the keys; NULL: none. Not kept */
    bool           read_only;
};

/*
 * A store that is not there yet is empty. E_BUSY: another process has it; E_AUTH: the master key
 * is missing or not the right one; E_DAMAGED, E_FORMAT. Goes on with a shredding that was
 * interrupted.
 */
int  subject_open(struct ox_env *env, const struct subject_conf *conf, struct ox_subjects **out,
                  struct err *err);
void subject_close(struct ox_subjects *subjects); /* wipes its memory; NULL is fine */

/* E_INVALID: 1 to 255 bytes of UTF-8 without control characters. */
int subject_name_check(struct slice name, struct err *err);

/* One key. A subject that got data again after its erasure has several. */
struct subject_key {
    struct ox_id id;
    struct slice name;                  /* valid during the callback */
    int64_t      created_us, erased_us; /* erased_us 0: it is there */
};

/* In the order in which they were made; stop by a non-zero return. `name` empty: all. */
typedef int subject_key_fn(void *arg, const struct subject_key *key, struct err *err);
int subject_each(struct ox_subjects *subjects, struct slice name, subject_key_fn *fn, void *arg,
                 struct err *err);

struct subject_counts {
    uint64_t keys, erased, damaged; /* damaged: records of the store that cannot be read */
};

void subject_count(struct ox_subjects *subjects, struct subject_counts *out);

/*
 * Shreds the subject's key: from when it returns 0 nothing opens what was sealed under it. *again:
 * it was shredded before. E_NOTFOUND: no such subject. After E_IO it is unknown whether the
 * record is durable: the store seals and erases no more until it is opened again.
 */
int subject_erase(struct ox_subjects *subjects, struct slice name, bool *again, struct err *err);

/* The key id of sealed data; false: too short to be any. */
bool subject_key_of(struct slice sealed, struct ox_id *out);

/* 64 hexadecimal digits. */
bool subject_master_parse(struct slice text, uint8_t out[SUBJECT_KEY_BYTES]);

#endif
