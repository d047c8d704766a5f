/*
 * The store: what is in its file, in memory, by key id and by name.
 *
 * Invariants: an entry that was erased has no key in memory; a record of an
 * erasure is durable before the key's record is overwritten, and before anybody
 * is told. A key is durable before `sync` returns, and only then may anything
 * be acknowledged that was sealed under it. What a crash leaves: records that were
 * never synced (nothing acknowledged is sealed under them), and keys
 * whose erasure is recorded and whose bytes are still there: wiped when opened.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/lock.h"
#include "base/must.h"
#include "subject/subject_fmt.h"
#include "subject/subject_int.h"

#define STORE_MAGIC 0x6f784b73u
#define PATH_BYTES 4200
#define KEYS_MAX 10000000u
#define READ_RECORDS 256u
#define NONE UINT32_MAX

struct entry {
    struct ox_id id;
    uint64_t     number; /* of its record */
    int64_t      created_us, erased_us;
    size_t       name_at; /* in `names` */
    uint32_t     older;   /* the subject's key before this one; NONE */
    uint8_t      name_len;
    bool         erased, wiped, keyless; /* keyless: its record cannot be read */
    uint8_t      key[SUBJECT_KEY_BYTES];
};

/* Entries by a hash, as numbers from 1; 0 is free. */
struct table {
    uint32_t *slots;
    uint32_t  room;
};

struct store {
    struct ox_subjects subjects; /* first */
    uint32_t           magic;
    struct ox_env     *env;
    char              *dir;
    bool               read_only, wrapped, failed;
    uint8_t            master[SUBJECT_KEY_BYTES];
    struct ox_id       id;
    struct ox_file    *lock_file, *file; /* NULL: there is none yet */
    struct ox_lock     lock;             /* all below */
    struct entry      *entries;
    uint32_t           count, cap;
    struct table       by_id, by_name;
    struct buf         names;
    uint64_t           next; /* the number of the next record; the header is number 0 */
    uint64_t           damaged;
    uint64_t           written, synced; /* how many records */
};

static struct store *
store_of(struct ox_subjects *subjects)
{
    struct store *s = (struct store *)subjects;

    must(s->magic == STORE_MAGIC);
    return s;
}

/* entries */

static struct slice
name_of(const struct store *s, const struct entry *e)
{
    return slice_of(s->names.data + e->name_at, e->name_len);
}

static uint64_t
hash_of(const struct store *s, const struct entry *e, bool by_name)
{
    if (!by_name)
        return XXH3_64bits(e->id.b, sizeof e->id.b);
    return XXH3_64bits(s->names.data + e->name_at, e->name_len);
}

static bool
same(const struct store *s, const struct entry *a, const struct entry *b, bool by_name)
{
    return by_name ? slice_eq(name_of(s, a), name_of(s, b)) : id_eq(&a->id, &b->id);
}

/* Puts entry n in, in the place of one that is the same; that one's number, or NONE. */
static uint32_t
table_put(struct store *s, struct table *t, uint32_t n, bool by_name)
{
    uint64_t at = hash_of(s, &s->entries[n], by_name);

    for (;; at++) {
        uint32_t *slot = &t->slots[at & (t->room - 1)];

        if (*slot == 0) {
            *slot = n + 1;
            return NONE;
        }
        if (same(s, &s->entries[*slot - 1], &s->entries[n], by_name)) {
            uint32_t older = *slot - 1;

            *slot = n + 1;
            return older;
        }
    }
}

static int
table_grow(struct store *s, struct table *t, bool by_name, struct err *err)
{
    uint32_t  room = t->room == 0 ? 64 : t->room * 2;
    uint32_t *slots;

    if (t->room > s->count * 2)
        return 0;
    slots = calloc(room, sizeof *slots);
    if (slots == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the keys of subjects");
    free(t->slots);
    t->slots = slots;
    t->room = room;
    /* Later ones take the place of earlier ones of the same name, as they did before. */
    for (uint32_t n = 0; n < s->count; n++)
        (void)table_put(s, t, n, by_name);
    return 0;
}

static struct entry *
find_id(struct store *s, const struct ox_id *id)
{
    if (s->by_id.room == 0)
        return NULL;
    for (uint64_t at = XXH3_64bits(id->b, sizeof id->b);; at++) {
        uint32_t slot = s->by_id.slots[at & (s->by_id.room - 1)];

        if (slot == 0)
            return NULL;
        if (id_eq(&s->entries[slot - 1].id, id))
            return &s->entries[slot - 1];
    }
}

/* The subject's newest key. */
static struct entry *
find_name(struct store *s, struct slice name)
{
    if (s->by_name.room == 0)
        return NULL;
    for (uint64_t at = XXH3_64bits(name.data, name.len);; at++) {
        uint32_t slot = s->by_name.slots[at & (s->by_name.room - 1)];

        if (slot == 0)
            return NULL;
        if (slice_eq(name_of(s, &s->entries[slot - 1]), name))
            return &s->entries[slot - 1];
    }
}

/* Growing must not leave keys behind in what it gives back. */
static int
make_room(struct store *s, struct err *err)
{
    uint32_t      cap = s->cap == 0 ? 64 : s->cap * 2;
    struct entry *entries;

    if (s->count < s->cap)
        return 0;
    if (s->count >= KEYS_MAX)
        RETURN_ERR(err, E_LIMIT, ERR_FATAL, "%s: has %u keys, the most that are possible", s->dir,
                   KEYS_MAX);
    entries = malloc(cap * sizeof *entries);
    if (entries == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the keys of subjects");
    if (s->count > 0)
        memcpy(entries, s->entries, s->count * sizeof *entries);
    if (s->entries != NULL)
        subjecti_wipe(s->entries, s->cap * sizeof *entries);
    free(s->entries);
    s->entries = entries;
    s->cap = cap;
    return 0;
}

static int
add_entry(struct store *s, const struct keys_record *r, uint64_t number, struct entry **out,
          struct err *err)
{
    struct entry *e;
    int           rc;

    TRY(make_room(s, err));
    TRY(table_grow(s, &s->by_id, false, err));
    TRY(table_grow(s, &s->by_name, true, err));
    e = &s->entries[s->count];
    *e = (struct entry){.id = r->id,
                        .number = number,
                        .created_us = r->time_us,
                        .name_at = s->names.len,
                        .name_len = r->name_len};
    buf_add(&s->names, r->name, r->name_len);
    if (s->names.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the names of subjects");
    s->count++;
    (void)table_put(s, &s->by_id, s->count - 1, false);
    e->older = table_put(s, &s->by_name, s->count - 1, true);
    *out = e;
out:
    return rc;
}

static void
forget_key(struct entry *e, int64_t us)
{
    subjecti_wipe(e->key, sizeof e->key);
    e->erased = true;
    e->erased_us = us;
}

/* records */

static struct slice
bound_to(const struct store *s, const struct ox_id *id, uint8_t out[32])
{
    memcpy(out, s->id.b, 16);
    memcpy(out + 16, id->b, 16);
    return slice_of(out, 32);
}

static int
write_record(struct store *s, const struct keys_record *r, uint64_t number, struct err *err)
{
    uint8_t bytes[KEYS_RECORD];
    int     rc;

    keys_record_put(bytes, r, &s->id, number);
    rc = s->env->ops->file_write(s->env, s->file, bytes, sizeof bytes, number * KEYS_RECORD, err);
    subjecti_wipe(bytes, sizeof bytes);
    return rc;
}

/* A failed sync is final, as everywhere: nobody knows what the disk has. */
static int
sync_file(struct store *s, struct err *err)
{
    int rc = s->env->ops->file_sync(s->env, s->file, err);

    if (rc != 0)
        s->failed = true;
    return rc;
}

static int
check_failed(const struct store *s, struct err *err)
{
    if (s->failed)
        RETURN_ERR(
            err, E_IO, ERR_FATAL,
            "%s: a write of the keystore failed: it takes no more keys and erases none until "
            "it is opened again",
            s->dir);
    if (s->read_only)
        RETURN_ERR(err, E_RDONLY, ERR_DATA, "%s: the keystore was opened read-only", s->dir);
    return 0;
}

/* Overwrites the key of an erased entry; durable when it returns 0. */
static int
wipe_entry(struct store *s, struct entry *e, struct err *err)
{
    struct keys_record r = {
        .kind = KEYS_WIPED, .id = e->id, .time_us = e->created_us, .name_len = e->name_len};
    int rc;

    memcpy(r.name, s->names.data + e->name_at, e->name_len);
    TRY(write_record(s, &r, e->number, err));
    TRY(sync_file(s, err));
    e->wiped = true;
out:
    return rc;
}

/* the file */

static int
take_lock(struct store *s, struct err *err)
{
    char path[PATH_BYTES];
    int  rc;

    (void)snprintf(path, sizeof path, "%s/LOCK", s->dir);
    rc = s->env->ops->file_open(s->env, path, s->read_only ? ENV_READ : ENV_WRITE | ENV_CREATE,
                                &s->lock_file, err);
    if (rc != 0 && s->read_only)
        return 0;
    if (rc != 0)
        return rc;
    rc = s->env->ops->file_lock(s->env, s->lock_file, err);
    if (rc == E_BUSY)
        RETURN_ERR(err, E_BUSY, ERR_RETRY, "%s: another process has this keystore open", s->dir);
    return rc;
}

static int
sync_parent(struct store *s, struct err *err)
{
    char        path[PATH_BYTES];
    const char *slash = strrchr(s->dir, '/');

    if (slash == NULL)
        return s->env->ops->dir_sync(s->env, ".", err);
    (void)snprintf(path, sizeof path, "%.*s", slash == s->dir ? 1 : (int)(slash - s->dir), s->dir);
    return s->env->ops->dir_sync(s->env, path, err);
}

static int
put_head(struct store *s, struct err *err)
{
    uint8_t          bytes[KEYS_RECORD], nonce[12], check[16], tag[16];
    uint8_t          zeros[16] = {0}, bound[32];
    struct keys_head h = {.version = KEYS_VERSION, .flags = s->wrapped ? KEYS_WRAPPED : 0};
    int              rc = 0;

    s->env->ops->random(s->env, s->id.b, sizeof s->id.b);
    h.id = s->id;
    if (s->wrapped) {
        s->env->ops->random(s->env, nonce, sizeof nonce);
        TRY(subjecti_encrypt(s->master, nonce, bound_to(s, &s->id, bound), slice_of(zeros, 16),
                             check, tag, err));
        h.nonce = nonce;
        h.check = check;
        h.tag = tag;
    }
    keys_head_put(bytes, &h);
    TRY(s->env->ops->file_write(s->env, s->file, bytes, sizeof bytes, 0, err));
    TRY(s->env->ops->file_sync(s->env, s->file, err));
    s->next = 1;
out:
    return rc;
}

/* With the first key. Under another name until its header is durable. */
static int
create(struct store *s, struct err *err)
{
    const struct ox_env_ops *ops = s->env->ops;
    char                     path[PATH_BYTES], new_path[PATH_BYTES];
    int                      rc;

    (void)snprintf(path, sizeof path, "%s/subjects", s->dir);
    (void)snprintf(new_path, sizeof new_path, "%s/subjects.new", s->dir);
    TRY(ops->dir_make(s->env, s->dir, err));
    if (s->lock_file == NULL)
        TRY(take_lock(s, err));
    TRY(ops->file_open(s->env, new_path, ENV_WRITE | ENV_CREATE, &s->file, err));
    TRY(put_head(s, err));
    TRY(ops->path_rename(s->env, new_path, path, err));
    TRY(ops->dir_sync(s->env, s->dir, err));
    TRY(sync_parent(s, err));
out:
    if (rc != 0) {
        ops->file_close(s->env, s->file);
        s->file = NULL;
    }
    return rc;
}

static int
read_head(struct store *s, struct err *err)
{
    uint8_t          bytes[KEYS_RECORD], zeros[16] = {0}, check[16], bound[32];
    struct keys_head h;
    size_t           got;
    int              rc;

    TRY(s->env->ops->file_read(s->env, s->file, bytes, sizeof bytes, 0, &got, err));
    if (got < sizeof bytes || !keys_head_get(bytes, &h))
        FAIL(err, E_DAMAGED, ERR_FATAL, "%s/subjects: the header is damaged", s->dir);
    if (h.version != KEYS_VERSION)
        FAIL(err, E_FORMAT, ERR_FATAL,
             "%s/subjects: version %u is not known here: use a newer oxbow", s->dir, h.version);
    s->id = h.id;
    if (((h.flags & KEYS_WRAPPED) != 0) != s->wrapped)
        FAIL(err, E_AUTH, ERR_FATAL,
             s->wrapped ? "%s: the keystore was made without a master key, but one is given"
                        : "%s: the keystore needs its master key (keys_master, or "
                          "OXBOW_KEYS_MASTER)",
             s->dir);
    if (s->wrapped) {
        rc = subjecti_decrypt(s->master, h.nonce, bound_to(s, &s->id, bound), slice_of(h.check, 16),
                              h.tag, check, err);
        if (rc == E_DAMAGED || (rc == 0 && memcmp(check, zeros, 16) != 0))
            FAIL(err, E_AUTH, ERR_FATAL, "%s: this is not the keystore's master key", s->dir);
    }
out:
    return rc;
}

static int
take_key(struct store *s, const struct keys_record *r, struct entry *e, struct err *err)
{
    uint8_t bound[32];
    int     rc;

    if (!s->wrapped) {
        memcpy(e->key, r->key, sizeof e->key);
        return 0;
    }
    rc = subjecti_decrypt(s->master, r->nonce, bound_to(s, &r->id, bound),
                          slice_of(r->key, sizeof r->key), r->tag, e->key, err);
    if (rc == E_DAMAGED) {
        e->keyless = true;
        s->damaged++;
        rc = 0;
    }
    return rc;
}

static int
take_record(struct store *s, const uint8_t *bytes, uint64_t number, struct err *err)
{
    struct keys_record r;
    struct entry      *e;
    int                rc = 0;

    if (!keys_record_get(bytes, &s->id, number, &r)) {
        s->damaged++; /* never synced, or torn by wiping, or damage: that key is missing */
        return 0;
    }
    switch (r.kind) {
    case KEYS_KEY:
        TRY(add_entry(s, &r, number, &e, err));
        TRY(take_key(s, &r, e, err));
        break;
    case KEYS_WIPED:
        TRY(add_entry(s, &r, number, &e, err));
        e->keyless = true; /* until its erasure is read */
        e->wiped = true;
        break;
    case KEYS_ERASED:
        e = find_id(s, &r.id);
        if (r.of == 0 || r.of >= number)
            FAIL(err, E_DAMAGED, ERR_FATAL, "%s/subjects: record %" PRIu64 " says what cannot be",
                 s->dir, number);
        if (e == NULL) { /* torn while it was wiped */
            TRY(add_entry(s, &r, r.of, &e, err));
            s->damaged -= s->damaged > 0;
        }
        forget_key(e, r.time_us);
        break;
    default:
        FAIL(err, E_FORMAT, ERR_FATAL, "%s/subjects: a record of kind %u is not known here", s->dir,
             r.kind);
    }
out:
    subjecti_wipe(&r, sizeof r);
    return rc;
}

static int
load(struct store *s, struct err *err)
{
    uint8_t *bytes = malloc(READ_RECORDS * KEYS_RECORD);
    size_t   got;
    int      rc = 0;

    if (bytes == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->next = 1;
    do {
        TRY(s->env->ops->file_read(s->env, s->file, bytes, READ_RECORDS * KEYS_RECORD,
                                   s->next * KEYS_RECORD, &got, err));
        for (size_t at = 0; at + KEYS_RECORD <= got; at += KEYS_RECORD)
            TRY(take_record(s, bytes + at, s->next++, err));
    } while (got == READ_RECORDS * KEYS_RECORD);
    if (got % KEYS_RECORD != 0)
        s->next++; /* a piece of a record that was never synced is passed over */
out:
    if (bytes != NULL)
        subjecti_wipe(bytes, READ_RECORDS * KEYS_RECORD);
    free(bytes);
    return rc;
}

/* Erasures that were recorded and not finished. */
static int
finish_wiping(struct store *s, struct err *err)
{
    int rc = 0;

    if (s->read_only || s->file == NULL)
        return 0;
    /* What a crash left unsynced may be read now and be gone later. */
    TRY(sync_file(s, err));
    for (uint32_t n = 0; n < s->count; n++)
        if (s->entries[n].erased && !s->entries[n].wiped)
            TRY(wipe_entry(s, &s->entries[n], err));
out:
    return rc;
}

static int
open_file(struct store *s, struct err *err)
{
    char path[PATH_BYTES];
    int  rc;

    (void)snprintf(path, sizeof path, "%s/subjects", s->dir);
    rc = s->env->ops->file_open(s->env, path, ENV_READ, &s->file, err);
    if (rc == E_NOTFOUND)
        return 0;
    if (rc != 0)
        goto out;
    s->env->ops->file_close(s->env, s->file);
    s->file = NULL;
    TRY(take_lock(s, err));
    TRY(s->env->ops->file_open(s->env, path, s->read_only ? ENV_READ : ENV_WRITE, &s->file, err));
    TRY(read_head(s, err));
    TRY(load(s, err));
    TRY(finish_wiping(s, err));
out:
    return rc;
}

/* what the log calls */

static int
new_key(struct store *s, struct slice name, struct entry **out, struct err *err)
{
    struct keys_record r = {.kind = KEYS_KEY, .name_len = (uint8_t)name.len};
    uint8_t            key[SUBJECT_KEY_BYTES], bound[32];
    int                rc;

    TRY(check_failed(s, err));
    if (s->file == NULL)
        TRY(create(s, err));
    r.id = id_new(s->env);
    r.time_us = s->env->ops->wall_us(s->env);
    memcpy(r.name, name.data, name.len);
    s->env->ops->random(s->env, key, sizeof key);
    memcpy(r.key, key, sizeof key);
    if (s->wrapped) {
        s->env->ops->random(s->env, r.nonce, sizeof r.nonce);
        TRY(subjecti_encrypt(s->master, r.nonce, bound_to(s, &r.id, bound),
                             slice_of(key, sizeof key), r.key, r.tag, err));
    }
    /* The number is used up in any case: what a failed write left is not written over. */
    TRY(write_record(s, &r, s->next++, err));
    TRY(add_entry(s, &r, s->next - 1, out, err));
    memcpy((*out)->key, key, sizeof key);
    s->written++;
out:
    subjecti_wipe(key, sizeof key);
    subjecti_wipe(&r, sizeof r);
    return rc;
}

/* What the tag covers besides the data. */
static struct slice
bound_of(const uint8_t *head, const struct ox_id *event, uint8_t out[36])
{
    memcpy(out, head, 16);
    memcpy(out + 16, head + 28, 4);
    memcpy(out + 20, event->b, 16);
    return slice_of(out, 36);
}

static int
store_seal(struct ox_subjects *subjects, struct slice name, const struct ox_id *event,
           struct slice data, uint8_t *out, struct err *err)
{
    struct store *s = store_of(subjects);
    struct entry *e;
    uint8_t       key[SUBJECT_KEY_BYTES], bound[36];
    int           rc;

    TRY(subject_name_check(name, err));
    lock_take(&s->lock);
    rc = check_failed(s, err);
    e = rc == 0 ? find_name(s, name) : NULL;
    if (rc == 0 && (e == NULL || e->erased || e->keyless))
        rc = new_key(s, name, &e, err);
    if (rc == 0) {
        memcpy(key, e->key, sizeof key);
        memcpy(out, e->id.b, 16);
    }
    lock_give(&s->lock);
    TRY(rc);
    s->env->ops->random(s->env, out + 16, 12);
    put_u32(out + 28, 1);
    rc = subjecti_encrypt(key, out + 16, bound_of(out, event, bound), data, out + SUBJECTS_HEAD,
                          out + SUBJECTS_HEAD + data.len, err);
out:
    subjecti_wipe(key, sizeof key);
    return rc;
}

static int
take_out(struct store *s, const struct ox_id *id, uint8_t *key, char *name, size_t *name_len,
         struct err *err)
{
    char                text[ID_TEXT_LEN + 1];
    const struct entry *e = find_id(s, id);

    if (e == NULL || (e->keyless && !e->erased)) {
        id_format(id, text);
        RETURN_ERR(err, E_NOTFOUND, ERR_FATAL,
                   "its subject's key %s is not in the keystore %s%s: name the right one (keys, or "
                   "--keys), or restore it",
                   text, s->dir, s->damaged > 0 ? ", which has damaged records" : "");
    }
    *name_len = e->name_len;
    if (e->name_len > 0)
        memcpy(name, s->names.data + e->name_at, e->name_len);
    if (e->erased)
        RETURN_ERR(err, E_GONE, ERR_DATA, "its subject's key was shredded");
    memcpy(key, e->key, sizeof e->key);
    return 0;
}

static int
store_open(struct ox_subjects *subjects, const struct ox_id *event, struct slice sealed,
           uint8_t *out, char *name, size_t *name_len, struct err *err)
{
    struct store  *s = store_of(subjects);
    const uint8_t *p = sealed.data;
    struct ox_id   id;
    uint8_t        key[SUBJECT_KEY_BYTES], bound[36];
    int            rc;

    *name_len = 0;
    if (!subject_key_of(sealed, &id))
        FAIL(err, E_DAMAGED, ERR_FATAL, "its data is too short for what is under a subject's key");
    if (get_u32(p + 28) != 1)
        FAIL(err, E_FORMAT, ERR_FATAL,
             "its data is sealed in a way that is not known here: use a "
             "newer oxbow");
    lock_take(&s->lock);
    rc = take_out(s, &id, key, name, name_len, err);
    lock_give(&s->lock);
    TRY(rc);
    rc = subjecti_decrypt(key, p + 16, bound_of(p, event, bound),
                          slice_of(p + SUBJECTS_HEAD, sealed.len - SUBJECTS_OVERHEAD),
                          p + sealed.len - SUBJECTS_TAG, out, err);
    if (rc == E_DAMAGED)
        FAIL(err, E_DAMAGED, ERR_FATAL, "its data is not what was sealed for it");
out:
    subjecti_wipe(key, sizeof key);
    return rc;
}

static int
store_sync(struct ox_subjects *subjects, struct err *err)
{
    struct store *s = store_of(subjects);
    uint64_t      target, synced;
    int           rc;

    lock_take(&s->lock);
    target = s->written;
    synced = s->synced;
    rc = synced < target ? check_failed(s, err) : 0;
    lock_give(&s->lock);
    if (rc != 0 || synced >= target)
        return rc;
    /* Not under the lock: whoever seals or opens does not wait for the disk. */
    rc = s->env->ops->file_sync(s->env, s->file, err);
    lock_take(&s->lock);
    if (rc != 0)
        s->failed = true;
    else if (s->synced < target)
        s->synced = target;
    lock_give(&s->lock);
    return rc;
}

static const struct ox_subject_ops ops = {store_seal, store_open, store_sync};

/* the contract */

int
subject_open(struct ox_env *env, const struct subject_conf *conf, struct ox_subjects **out,
             struct err *err)
{
    struct store *s = calloc(1, sizeof *s);
    int           rc;

    *out = NULL;
    if (s == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_FATAL, "out of memory");
    s->subjects.ops = &ops;
    s->magic = STORE_MAGIC;
    s->env = env;
    s->read_only = conf->read_only;
    lock_init(&s->lock, LOCK_SUBJECTS);
    if (conf->master != NULL) {
        s->wrapped = true;
        memcpy(s->master, conf->master, sizeof s->master);
    }
    s->dir = strdup(conf->dir);
    if (s->dir == NULL || strlen(conf->dir) > 4000)
        FAIL(err, E_INVALID, ERR_FATAL, "the keystore's path is too long");
    TRY(open_file(s, err));
    *out = &s->subjects;
    s = NULL;
out:
    if (s != NULL)
        subject_close(&s->subjects);
    return rc;
}

void
subject_close(struct ox_subjects *subjects)
{
    struct store *s;

    if (subjects == NULL)
        return;
    s = store_of(subjects);
    s->env->ops->file_close(s->env, s->file);
    s->env->ops->file_close(s->env, s->lock_file);
    if (s->entries != NULL)
        subjecti_wipe(s->entries, s->cap * sizeof *s->entries);
    subjecti_wipe(s->master, sizeof s->master);
    free(s->entries);
    free(s->by_id.slots);
    free(s->by_name.slots);
    buf_fini(&s->names);
    free(s->dir);
    lock_fini(&s->lock);
    s->magic = 0;
    free(s);
}

int
subject_each(struct ox_subjects *subjects, struct slice name, subject_key_fn *fn, void *arg,
             struct err *err)
{
    struct store      *s = store_of(subjects);
    struct subject_key key;
    char               text[SUBJECTS_NAME_MAX];
    bool               there;
    int                rc = 0;

    for (uint32_t n = 0; rc == 0; n++) {
        bool wanted = false;

        lock_take(&s->lock);
        there = n < s->count;
        if (there) {
            const struct entry *e = &s->entries[n];

            wanted = name.len == 0 || slice_eq(name, name_of(s, e));
            if (e->name_len > 0)
                memcpy(text, s->names.data + e->name_at, e->name_len);
            key = (struct subject_key){.id = e->id,
                                       .name = slice_of(text, e->name_len),
                                       .created_us = e->created_us,
                                       .erased_us = e->erased ? e->erased_us : 0};
        }
        lock_give(&s->lock);
        if (!there)
            break;
        if (wanted)
            rc = fn(arg, &key, err);
    }
    return rc;
}

void
subject_count(struct ox_subjects *subjects, struct subject_counts *out)
{
    struct store *s = store_of(subjects);

    memset(out, 0, sizeof *out);
    lock_take(&s->lock);
    out->keys = s->count;
    out->damaged = s->damaged;
    for (uint32_t n = 0; n < s->count; n++)
        out->erased += s->entries[n].erased;
    lock_give(&s->lock);
}

/* Under the lock. */
static int
erase_one(struct store *s, struct entry *e, struct err *err)
{
    struct keys_record r = {.kind = KEYS_ERASED,
                            .id = e->id,
                            .time_us = s->env->ops->wall_us(s->env),
                            .of = e->number,
                            .name_len = e->name_len};
    int                rc;

    memcpy(r.name, s->names.data + e->name_at, e->name_len);
    rc = write_record(s, &r, s->next++, err);
    if (rc == 0)
        rc = sync_file(s, err);
    if (rc != 0) {
        s->failed = true;
        err_prefix(err,
                   "it is unknown whether the key is shredded: open the keystore again and look");
        if (err != NULL)
            err->kind = ERR_UNSURE;
        return rc;
    }
    forget_key(e, r.time_us);
    return 0;
}

int
subject_erase(struct ox_subjects *subjects, struct slice name, bool *again, struct err *err)
{
    struct store *s = store_of(subjects);
    struct entry *e;
    int           rc;

    *again = false;
    rc = subject_name_check(name, err);
    if (rc != 0)
        return rc;
    lock_take(&s->lock);
    TRY(check_failed(s, err));
    e = find_name(s, name);
    if (e == NULL)
        FAIL(err, E_NOTFOUND, ERR_DATA, "there is no subject of this name in the keystore %s",
             s->dir);
    *again = e->erased;
    for (;; e = &s->entries[e->older]) {
        if (!e->erased)
            TRY(erase_one(s, e, err));
        if (!e->wiped)
            TRY(wipe_entry(s, e, err));
        if (e->older == NONE)
            break;
    }
out:
    lock_give(&s->lock);
    return rc;
}
