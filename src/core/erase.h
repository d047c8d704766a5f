/*
 * The erasure of one data subject: the key is shredded, what is touched is
 * counted, and an event says so. docs/erasure.md has what is guaranteed when.
 */
#ifndef OX_CORE_ERASE_H
#define OX_CORE_ERASE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "base/slice.h"
#include "log/log.h"
#include "subject/subject.h"

#define ERASE_STREAM "$subjects"
#define ERASE_TYPE "$subject-erased"
#define ERASE_STREAMS_MAX 100000u /* that a report names */

struct erase_stream {
    struct slice name;
    uint64_t     id, events; /* events: under the subject's keys */
    bool         deleted;    /* as asked for */
};

struct erase_report {
    struct buf           text; /* what the slices point into, once it is whole */
    struct subject_key  *keys;
    uint32_t             key_count;
    uint64_t             events; /* under its keys, in all streams */
    struct erase_stream *streams;
    uint32_t             stream_count, stream_cap;
    uint64_t             more; /* events in streams beyond ERASE_STREAMS_MAX */
    bool                 erased, again;
    uint32_t            *slots; /* streams by id */
    uint32_t             slot_room;
    uint64_t             deleted;
};

void erase_report_fini(struct erase_report *report);

/* What a report has, as one JSON object. */
void erase_report_json(const struct erase_report *report, struct slice subject, struct buf *out);

/* Reads the whole log for what is under the subject's keys. E_NOTFOUND: no such subject. */
int erase_look(struct log *log, struct ox_subjects *subjects, struct slice subject,
               log_progress_fn *fn, void *arg, struct erase_report *out, struct err *err);

/*
 * Shreds the key, writes ERASE_TYPE to ERASE_STREAM, deletes `streams` for good (names with a comma
 * between; one that ends in '*' is a prefix; empty: none), and looks as above. Done again it
 * finishes what was interrupted. A subject without a key, but with streams to delete, is fine.
 */
int erase_subject(struct log *log, struct ox_subjects *subjects, struct slice subject,
                  struct slice streams, log_progress_fn *fn, void *arg, struct erase_report *out,
                  struct err *err);

#endif
