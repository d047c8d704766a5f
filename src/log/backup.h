/*
 * A backup of a log, taken while it runs, and a log made of a backup again.
 * docs/backup.md has the rules for who uses it, docs/format.md the bytes.
 *
 * A backup is a folder of its own: copies of segments, and a manifest that is
 * replaced as the last step. Copies that a manifest names are never changed
 * below the bytes that it names, so whatever interrupts a backup leaves the
 * one before it whole.
 */
#ifndef OX_LOG_BACKUP_H
#define OX_LOG_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/env.h"
#include "base/err.h"
#include "base/id.h"
#include "base/pos.h"
#include "log/log.h"

struct log_backup_conf {
    const char      *dir;  /* made where it is missing; its parent has to be there */
    uint64_t         rate; /* bytes read in a second; 0: no limit */
    log_progress_fn *fn;   /* may be NULL; stops by a non-zero return */
    void            *arg;
};

struct log_backup_report {
    struct ox_id   log_id;
    struct log_pos end;                           /* first position that is not in it */
    int64_t        time_us;                       /* of its last commit */
    uint64_t       segments;                      /* in all */
    uint64_t       bytes;                         /* of all copies */
    uint64_t       copied_segments, copied_bytes; /* what was written this time */
    uint64_t       commits, events;               /* among what was read this time */
};

/*
 * Copies all that is durable when it is called; blocks until it is done, and may run beside
 * appends, readers and a scavenge. E_DAMAGED with the position where a checksum does not hold;
 * E_STATE: the folder holds something else, or another history of this log; E_BUSY: another
 * backup is writing there. After any error the backup that was there before is still there.
 */
int log_backup(struct log *log, const struct log_backup_conf *conf, struct log_backup_report *out,
               struct err *err);

struct log_restore_conf {
    const char            *from; /* the backup */
    const char            *to;   /* a folder that is not there or empty; NULL: only verifies */
    const struct log_conf *log;  /* for opening it: the index */
    uint64_t               rate; /* as above */
    log_progress_fn       *fn;
    void                  *arg;
};

/*
 * Every copy's checksum and every frame's and record's; then, where `to` is given, a log that
 * opens as after a clean close, with its index. E_EXISTS: `to` is not empty; E_BUSY: somebody
 * has it open; E_NOTFOUND: no backup there; E_DAMAGED: names the copy. A restore that was
 * interrupted leaves a folder that no log opens.
 */
int log_restore(struct ox_env *env, const struct log_restore_conf *conf,
                struct log_backup_report *out, struct err *err);

#endif
