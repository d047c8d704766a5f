/*
 * Data under a subject's key: sealed on the thread that appends, opened on the
 * one that reads. The keys are behind base/subjects.h.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "log/log_int.h"

/* What stands in for the caller's events until the answer. */
struct log_sealed {
    const struct log_new_event **callers; /* of each write */
    struct log_new_event        *events;
    uint8_t                     *bytes, *end;
};

static void
sizes(const struct log_req *req, size_t *events, size_t *bytes)
{
    *events = *bytes = 0;
    for (uint32_t n = 0; n < req->write_count; n++) {
        const struct log_write *w = &req->writes[n];

        *events += w->count;
        for (uint32_t i = 0; i < w->count; i++)
            if (w->events[i].subject.len > 0)
                *bytes += w->events[i].data.len + SUBJECTS_OVERHEAD;
    }
}

static void
free_sealed(struct log_sealed *s)
{
    if (s == NULL)
        return;
    free(s->callers);
    free(s->events);
    free(s->bytes);
    free(s);
}

static struct log_sealed *
new_sealed(const struct log_req *req)
{
    struct log_sealed *s = calloc(1, sizeof *s);
    size_t             events, bytes;

    if (s == NULL)
        return NULL;
    sizes(req, &events, &bytes);
    must(req->write_count > 0);
    must(events >= req->subjects);
    must(bytes >= req->subjects * (uint64_t)SUBJECTS_OVERHEAD);
    must(bytes > 0);
    s->callers = calloc(req->write_count, sizeof *s->callers);
    s->events = calloc(events, sizeof *s->events);
    s->bytes = malloc(bytes);
    if (s->callers != NULL && s->events != NULL && s->bytes != NULL) {
        s->end = s->bytes + bytes;
        return s;
    }
    free_sealed(s);
    return NULL;
}

static int
seal_event(struct log *log, const struct log_new_event *from, struct log_new_event *to,
           uint8_t **bytes, const uint8_t *end, struct err *err)
{
    struct ox_subjects *subjects = log->conf.subjects;
    int                 rc;

    *to = *from;
    if (from->subject.len == 0)
        return 0;
    if (id_is_zero(&to->id))
        to->id = id_new(log->env); /* the data is bound to it */
    must((to->flags & LOG_SEALED) == 0);
    must((size_t)(end - *bytes) >= from->data.len + SUBJECTS_OVERHEAD);
    rc = subjects->ops->seal(subjects, from->subject, &to->id, from->data, *bytes, err);
    to->data = slice_of(*bytes, from->data.len + SUBJECTS_OVERHEAD);
    to->flags |= LOG_SEALED;
    *bytes += to->data.len;
    return rc;
}

int
logi_seal(struct log *log, struct log_req *req, struct err *err)
{
    struct log_sealed    *s = new_sealed(req);
    struct log_new_event *to;
    uint8_t              *bytes;
    int                   rc = 0;

    must(req->subjects > 0);
    must(req->sealed == NULL);
    if (s == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    to = s->events;
    bytes = s->bytes;
    for (uint32_t n = 0; n < req->write_count; n++)
        for (uint32_t i = 0; i < req->writes[n].count; i++)
            TRY(seal_event(log, &req->writes[n].events[i], to++, &bytes, s->end, err));
    must(bytes == s->end);
    to = s->events;
    for (uint32_t n = 0; n < req->write_count; n++) {
        s->callers[n] = req->writes[n].events;
        req->writes[n].events = to;
        to += req->writes[n].count;
    }
    req->sealed = s;
    s = NULL;
out:
    free_sealed(s);
    return rc;
}

void
logi_unseal(struct log_req *req)
{
    must(req->sealed != NULL);
    for (uint32_t n = 0; n < req->write_count; n++)
        req->writes[n].events = req->sealed->callers[n];
    free_sealed(req->sealed);
    req->sealed = NULL;
}

int
logi_seal_sync(struct log *log, struct err *err)
{
    return log->conf.subjects->ops->sync(log->conf.subjects, err);
}

int
logi_seal_open(struct log *log, struct log_event *e, struct buf *plain, char *name, struct err *err)
{
    struct ox_subjects *subjects = log->conf.subjects;
    size_t              name_len = 0;
    int                 rc;

    must((e->flags & LOG_SEALED) != 0);
    if (e->data.len < SUBJECTS_OVERHEAD)
        FAIL(err, E_DAMAGED, ERR_FATAL, "its data is too short for what is under a subject's key");
    if (subjects == NULL)
        FAIL(err, E_NOTFOUND, ERR_FATAL,
             "its data is under a subject's key, and no keystore is open: name it (keys, or "
             "--keys)");
    buf_clear(plain);
    if (!buf_reserve(plain, e->data.len))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    rc = subjects->ops->open(subjects, &e->id, e->data, plain->data, name, &name_len, err);
    if (rc != 0 && rc != E_GONE)
        goto out;
    must(name_len <= SUBJECTS_NAME_MAX);
    e->flags &= ~(uint32_t)LOG_SEALED;
    e->subject = slice_of(name, name_len);
    e->data = slice_of(plain->data, e->data.len - SUBJECTS_OVERHEAD);
    if (rc == E_GONE) {
        err_clear(err);
        e->data = slice_of(NULL, 0);
        e->flags |= LOG_ERASED;
        e->flags &= ~(uint32_t)LOG_JSON;
        rc = 0;
    }
out:
    if (rc != 0)
        err_prefix(err, "%s: the event at position %" PRIu64, log->dir, e->pos.v);
    return rc;
}
