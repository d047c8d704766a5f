/*
 * Inside of scavenging: one segment at a time is looked through (scav_look.c),
 * and, where that frees enough, written anew (scav_copy.c). scavenge.c decides
 * which, and when.
 */
#ifndef OX_LOG_SCAV_INT_H
#define OX_LOG_SCAV_INT_H

#include "log/log_int.h"

#define LOGI_SCAV_PIECE (UINT64_C(256) << 10) /* bytes that one step reads or writes */
#define LOGI_SCAV_CACHE 131072u               /* streams whose state is remembered; a power of 2 */
#define LOGI_SCAV_DEAD 1048576u               /* … whose dead versions are; likewise */

/* What is known of a stream while one segment is looked through. */
struct scav_stream {
    uint64_t id_plus_1; /* 0: free */
    uint64_t next, truncate;
    uint64_t below; /* versions that nobody can ever read again */
    uint64_t round; /* of which segment's look */
    bool     moves; /* some of them a move hid: it may have left copies */
    /* what limits hide above that */
    uint64_t count_low;  /* versions that are too many; 0: none */
    int64_t  max_age_us; /* 0: none */
    uint64_t raise;      /* below it the look takes all for dead */
    uint32_t raise_no;   /* 1 + its place in the list; 0: none */
};

/*
 * The same, as short as it can be, of a stream that no limit holds for. It is kept through the
 * whole run: neither `truncate` nor the next version goes back, so what was dead stays dead.
 */
struct scav_dead {
    uint32_t id_plus_1; /* 0: free */
    uint32_t below;     /* the versions that go */
};

struct scav_raise {
    uint64_t id, truncate;
    size_t   name_at;
    uint32_t name_len;
};

/* Streams whose `truncate` is raised before a segment is copied. */
struct scav_raises {
    struct scav_raise *all;
    uint32_t           count, room, next;
    struct buf         names;
    bool               begun;
    struct log_change *changes;
    struct log_req     req;
    _Atomic bool       waiting; /* for `req` */
};

/* A place in a segment, between two of a task's steps. */
struct scav_place {
    uint64_t pos;    /* of the next frame */
    uint64_t record; /* number of its first record in the segment */
};

/* A record that goes and leaves a stub: its number, and where the copy is. */
struct scav_stub {
    uint64_t record, to;
};

/* One segment's look, and what it found. */
struct scav_look {
    uint64_t first, end;
    uint64_t round;
    uint8_t *drop; /* a bit for each record: it goes */
    size_t   drop_room;

    struct scav_place at;
    uint64_t          old_bytes;   /* of the segment's file */
    uint64_t          kept_bytes;  /* of the frames that stay, with what stays in them */
    uint64_t          kept_frames; /* and how many they are */
    uint64_t          dropped, dropped_events;
    struct buf        stubs; /* struct scav_stub */
    int64_t           last_time_us;

    /* The head that continuations belong to, and what became of it. */
    uint64_t head_id, head_version;
    bool     head_known, head_dropped;
};

/* One segment's new file on its way. */
struct scav_copy {
    struct ox_file   *file;
    struct seg_head   head;
    struct scav_place at;
    struct buf        frames, table;       /* not written yet */
    uint64_t          frames_at, table_at; /* where they go */
    uint64_t          entries;
    uint32_t          table_crc;
    size_t            stub; /* the next one's number */
};

enum scav_phase {
    SCAV_NEXT, /* to the next segment */
    SCAV_LOOK,
    SCAV_RAISE,
    SCAV_COPY,
};

struct scavenge {
    struct log             *log;
    struct ox_task         *task;
    struct seg_pin          pin;
    _Atomic bool            wanted, cancel;
    struct ox_gate *_Atomic halt;     /* opened when no run is under way */
    _Atomic uint64_t        reserved; /* bytes on the disk that are given back soon */

    /* Under the log's `admin`. */
    struct log_scavenge      status;
    struct log_scavenge_conf conf;

    /* The task's. */
    enum scav_phase     phase;
    uint64_t            pos;   /* where the next segment begins */
    uint64_t            until; /* what was sealed when the run began: it does not chase the end */
    struct scav_look    look;
    struct scav_copy    copy;
    struct scav_raises  raises;
    struct retention   *retention;
    bool                no_limits; /* what only a limit hides stays */
    struct scav_stream *cache;
    struct scav_dead   *dead;
    struct scav_moves  *moves;
    uint64_t            pace; /* bytes per second that the foreground leaves; 0: no bound */
    uint64_t            seen_syncs, calm_us, moved;
    bool                waits; /* for the index */
};

/* scav_look.c */
int logi_scav_look_begin(struct scavenge *, const struct seg_view *, struct err *);
/* A piece; *done: the segment's end. */
int  logi_scav_look_on(struct scavenge *, bool *done, struct err *);
void logi_scav_look_end(struct scavenge *);
/* Of the whole new file. */
uint64_t logi_scav_new_bytes(const struct scav_look *);

/* scav_raise.c */
/* What limits hide of the stream, into st, whose other fields are set. */
void logi_scav_limits(struct scavenge *, struct slice stream, const struct index_head *,
                      struct scav_stream *st);
/* Is the event, which is not hidden for good, hidden by a limit, and may be for good? */
int logi_scav_by_limit(struct scavenge *, struct scav_stream *, const struct record *, bool *dead,
                       struct err *);
/* Commits what the look has noted; *done: all of it is durable. */
int  logi_scav_raise_on(struct scavenge *, bool *done, struct err *);
void logi_scav_raise_end(struct scavenge *); /* no request may be under way */

/* scav_moves.c */
struct scav_moves;
void logi_scav_moves_free(struct scav_moves *); /* NULL is fine */
/* Did moves hide some of its versions? */
bool
logi_scav_has_moves(struct scavenge *, uint64_t id, struct slice stream, const struct index_head *);
/* A dead event of such a stream: where its copy is, 0: it has none; or it stays after all. */
int logi_scav_stub(struct scavenge *, const struct record *, const struct frame *, uint64_t *to,
                   bool *stays, struct err *);
/* How long the record's stub is. */
uint32_t logi_scav_stub_bytes(const struct record *);

/* scav_mark.c */
void logi_scav_mark(struct scavenge *); /* the run is at `pos` */
void logi_scav_unmark(struct scavenge *);
/* Where the run before was cut short, and one of `conf` may go on; 0: nowhere. */
uint64_t logi_scav_marked(struct log *, const struct log_scavenge_conf *conf);

/* scav_copy.c */
int  logi_scav_copy_begin(struct scavenge *, struct err *);
int  logi_scav_copy_on(struct scavenge *, bool *done, struct err *);
int  logi_scav_copy_swap(struct scavenge *, struct err *); /* synced, renamed, in the table */
void logi_scav_copy_end(struct scavenge *);                /* and what is not in place is removed */

#endif
