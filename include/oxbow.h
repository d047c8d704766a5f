/*
 * liboxbow: the Oxbow log in your own process, as SQLite is a database in your
 * own process. One process at a time owns a data folder.
 *
 * Thread-safe: every function may be called from any thread; one reader or
 * subscription belongs to one thread at a time. Strings are UTF-8 and end in a
 * NUL; data is bytes with a length. Nothing here ends the process.
 *
 *     struct ox *db;
 *     struct ox_error e;
 *     if (ox_open("data", NULL, &db, &e) != OX_OK)
 *         fprintf(stderr, "%s\n", e.text);
 */
#ifndef OXBOW_H
#define OXBOW_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define OX_API __attribute__((visibility("default")))
#else
#define OX_API
#endif

/* What a call returns. Stable; new ones may be added. */
enum ox_status {
    OX_OK = 0,
    OX_END = 1,           /* nothing more to read: not a failure */
    OX_WRONG_VERSION = 2, /* the expected version does not hold; nothing was written */
    OX_NOT_FOUND = 3,
    OX_INVALID = 4,  /* an argument is out of its limits */
    OX_BUSY = 5,     /* another process has the folder, or too much is waiting */
    OX_NO_SPACE = 6, /* the disk is full or below its watermark */
    OX_DAMAGED = 7,  /* the log is damaged: the text has the position */
    OX_IO = 8,       /* the disk failed; the log takes no more writes */
    OX_TIMEOUT = 9,
    OX_CLOSED = 10,
    OX_UNSURE = 11, /* the outcome is unknown: read before you write again */
    OX_ERROR = 12,  /* anything else: see the text */
    OX_GONE = 13    /* the stream was deleted for good, closed, or moved */
};

struct ox_error {
    int  status;    /* enum ox_status */
    char text[512]; /* one line: what, where, what to do */
};

/* Expected versions; 0 and above: the version of the stream's last event. */
#define OX_ANY (-2)
#define OX_NO_STREAM (-1)
#define OX_EXISTS (-4)

struct ox;        /* an open data folder */
struct ox_reader; /* reads a stream or $all */

struct ox_options {
    size_t      size;          /* sizeof(struct ox_options): later versions add members */
    int         read_only;     /* open without the right to write */
    uint32_t    sync_delay_ms; /* gather appends this long for larger groups; never less durable */
    uint64_t    segment_bytes; /* 0: 256 MiB; fixed when the folder is made */
    const char *keys;          /* the keystore of subjects; NULL: keys in the folder */
    const char *keys_master;   /* 64 hexadecimal digits that wrap its keys; NULL: none */
};

/* Opens or creates the data folder. `options` may be NULL. */
OX_API int
ox_open(const char *dir, const struct ox_options *options, struct ox **out, struct ox_error *error);

/*
 * Waits for what was submitted, then gives the folder up. NULL is fine. Close
 * its readers first; no other call may be in progress but appends that wait.
 */
OX_API void ox_close(struct ox *db);

/* One event to append. */
struct ox_new_event {
    const char *type; /* 1 to 255 bytes */
    const void *data; /* JSON by convention; any bytes are kept as they are */
    size_t      data_len;
    const void *metadata; /* NULL with 0: none */
    size_t      metadata_len;
    const char *id;      /* a UUID as text; NULL: one is made */
    const char *subject; /* whose data it is: kept under that subject's key; NULL: nobody's */
};

/* Where an append went. */
struct ox_appended {
    uint64_t first_version, last_version;
    uint64_t position; /* of the commit's last event */
};

/*
 * Appends the events to the stream as one commit, and returns when they are
 * durable. `appended` may be NULL. The same event ids again, at the same
 * expected version, answer as the first time and write nothing.
 */
OX_API int
ox_append(struct ox *db, const char *stream, int64_t expected, const struct ox_new_event *events,
          size_t count, struct ox_appended *appended, struct ox_error *error);

/* One stream's part of a commit over several streams. */
struct ox_write {
    const char                *stream;
    int64_t                    expected;
    const struct ox_new_event *events;
    size_t                     count;    /* 0: only checks the expected version */
    struct ox_appended         appended; /* the result */
};

/* All of it or nothing. A stream may be named once. */
OX_API int ox_commit(struct ox *db, struct ox_write *writes, size_t count, struct ox_error *error);

/* One event as read; everything it points at is valid until the reader's next call. */
struct ox_event {
    uint64_t    position, version;
    const char *stream, *type;
    const void *data;
    size_t      data_len;
    const void *metadata;
    size_t      metadata_len;
    char        id[37];
    int64_t     created_us; /* µs since 1970-01-01 UTC */
    const char *subject;    /* under whose key the data was; NULL: nobody's */
    int         erased;     /* that key was shredded: there is no data any more */
};

/* The link through which a resolved event was read. */
struct ox_link {
    uint64_t    position, version;
    const char *stream; /* valid until the reader's next call */
    char        id[37];
};

#define OX_FORWARDS 0
#define OX_BACKWARDS 1
/* As `from` backwards: the end. */
#define OX_FROM_END UINT64_MAX

/*
 * `stream` may also be "$ce-NAME" (the events of a category), "$et-TYPE" (those of a type) or
 * "$streams" (for each stream a link to its first event), which are read by position as $all is.
 */
struct ox_read {
    size_t      size;      /* sizeof(struct ox_read) */
    const char *stream;    /* NULL: $all */
    uint64_t    from;      /* a version; a position for what is read so; included */
    int         direction; /* OX_FORWARDS, OX_BACKWARDS */
    uint64_t    at;        /* time travel: nothing after this position; 0: no bound */
    int64_t     at_us;     /* time travel: as of this time; 0: no bound */
    const char *prefix;    /* by position: streams whose names begin so; NULL: all */
    const char *type;      /* by position: events of this type; NULL: all */
    int resolve; /* 1: follow links (ox_read_link); one that leads nowhere is given itself */
};

OX_API int ox_read_open(struct ox *db, const struct ox_read *read, struct ox_reader **out,
                        struct ox_error *error);

/*
 * The next event; OX_END where there is none now. A forward reader that came
 * to the end may be asked again: it goes on with what was appended since, with
 * no gap and no double.
 */
OX_API int ox_read_next(struct ox_reader *reader, struct ox_event *event, struct ox_error *error);

/*
 * Of the event that was read last, with `resolve`: 1 where it was read through a link, which is put
 * into `link`; -1 where it is a link that leads nowhere; else 0. `link` may be NULL.
 */
OX_API int ox_read_link(struct ox_reader *reader, struct ox_link *link);

/*
 * As ox_read_next, but waits for an event at most timeout_ms (-1: for ever):
 * a catch-up-then-live subscription. OX_TIMEOUT; OX_CLOSED after ox_read_stop.
 */
OX_API int ox_read_wait(struct ox_reader *reader, int timeout_ms, struct ox_event *event,
                        struct ox_error *error);

/* Makes ox_read_wait in another thread return OX_CLOSED. */
OX_API void ox_read_stop(struct ox_reader *reader);

OX_API void ox_read_close(struct ox_reader *reader);

/*
 * Shreds the subject's key: what was sealed under it is unreadable from when this returns OX_OK,
 * wherever copies of it are. OX_NOT_FOUND. After OX_UNSURE open the folder again and look. It
 * writes no event: whoever has to prove it appends one.
 */
OX_API int ox_subject_erase(struct ox *db, const char *subject, struct ox_error *error);

/* First position after the last durable commit. */
OX_API uint64_t ox_end(struct ox *db);

/* The version of the stream's last event; OX_NOT_FOUND. */
OX_API int ox_head(struct ox *db, const char *stream, uint64_t *version, struct ox_error *error);

/* changing a stream */

/* How; NULL is as zeroed, but for `expected`, which is then OX_EXISTS. */
struct ox_change {
    size_t  size; /* sizeof(struct ox_change) */
    int64_t expected;
};

/*
 * Hides all events of the stream at once, from every reader. The next append brings the stream back
 * and goes on with its numbers. OX_NOT_FOUND, OX_WRONG_VERSION, OX_GONE. `position` (of the change)
 * may be NULL, as in the functions below.
 */
OX_API int ox_delete(struct ox *db, const char *stream, const struct ox_change *change,
                     uint64_t *position, struct ox_error *error);

/* The same for good: from then on the stream takes no event, and reading it is OX_GONE. */
OX_API int ox_tombstone(struct ox *db, const char *stream, const struct ox_change *change,
                        uint64_t *position, struct ox_error *error);

/* Hides the events below version `before`; beyond the stream's end it means the end. */
OX_API int ox_truncate(struct ox *db, const char *stream, uint64_t before,
                       const struct ox_change *change, uint64_t *position, struct ox_error *error);

/* 1: the stream can be read only, appends are OX_GONE. 0: it takes events again. */
OX_API int
ox_set_closed(struct ox *db, const char *stream, int closed, const struct ox_change *change,
              uint64_t *position, struct ox_error *error);

/*
 * Replaces the stream's metadata: a JSON object of at most 64 KiB. $maxCount, $maxAge (seconds) and
 * $tb act at once; other members are kept. `expected` is the version of the metadata.
 */
OX_API int ox_set_metadata(struct ox *db, const char *stream, int64_t expected, const void *json,
                           size_t json_len, uint64_t *version, struct ox_error *error);

/*
 * The JSON of the metadata, NUL at its end, into the caller's `json` of `json_size` bytes;
 * *json_len is its length, also where there was no room (OX_INVALID). OX_NOT_FOUND where there is
 * none.
 */
OX_API int ox_get_metadata(struct ox *db, const char *stream, char *json, size_t json_size,
                           size_t *json_len, uint64_t *version, struct ox_error *error);

/* What a stream has. */
struct ox_stream {
    size_t   size;      /* sizeof(struct ox_stream), set by the caller */
    uint64_t head;      /* version of its last event */
    uint64_t first;     /* first readable version; head + 1: none is */
    uint64_t count;     /* readable events, from `first` to `head` */
    uint64_t max_count; /* limits that hold; 0: none */
    int64_t  max_age_us;
    int      closed;
};

/* OX_NOT_FOUND where there is none or it is deleted, OX_GONE where for good. */
OX_API int
ox_stream_info(struct ox *db, const char *stream, struct ox_stream *out, struct ox_error *error);

/* "0.1.0" */
OX_API const char *ox_version(void);

#ifdef __cplusplus
}
#endif

#endif
