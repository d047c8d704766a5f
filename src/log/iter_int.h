/*
 * Between the files of the iterators: iter.c has what all share, iter_all.c
 * the scan, iter_stream.c one stream by version, iter_list.c the native reads.
 */
#ifndef OX_LOG_ITER_INT_H
#define OX_LOG_ITER_INT_H

#include "log/log_int.h"
#include "log/window.h"

#define ITER_BATCH 64u
#define ITER_VIEWS 64u
#define ITER_GIVEN 64u /* copies of several originals, remembered */

enum iter_kind { ITER_ALL, ITER_STREAM, ITER_CATEGORY, ITER_TYPE, ITER_FIRSTS };

/* What was found out about a stream that has a state or a limit. */
struct seen_view {
    uint64_t    id, epoch, end; /* epoch 0: none */
    struct view view;
};

struct log_iter {
    uint32_t        magic;
    enum iter_kind  kind;
    struct log     *log;
    struct log_read read;
    char            name[LOG_NAME_MAX + 1];
    struct buf      text;    /* copies of the filter's slices */
    struct buf      payload; /* of a continued record */
    struct buf      plain;   /* what was sealed */
    char            subject[SUBJECTS_NAME_MAX];
    bool            over; /* E_END for good */
    struct seg_pin  pin;  /* while it holds a frame or has given an event */
    uint64_t        passed;
    uint64_t        looked; /* bytes, in this call */
    bool            held;   /* in this call: what comes next is of an open stage */

    /* what may be seen */
    struct retention *retention;
    uint64_t          epoch; /* of `retention`, and of the stream's view */
    struct seen_view *views; /* ITER_VIEWS; made when needed */

    /* a scan */
    uint64_t          pos;      /* a frame's start; backwards a frame's end */
    uint64_t          floor;    /* backwards: nothing below it */
    struct seg_view   seg;      /* forwards: the segment that it is in */
    bool              seg_held; /* … seen through the pin, which was not given up since */
    struct log_window window;   /* forwards, while there is much to go through */
    struct frame      frame;
    bool              in_frame;
    uint32_t          off, left;
    uint64_t          known_id; /* filter: the last stream asked about, and the answer */
    bool              known, known_answer;

    /* skip_moved: positions of copies that stood for one of their originals */
    uint64_t given[ITER_GIVEN];
    unsigned given_next;

    /* a stream, or a list */
    uint64_t    id, version;
    struct view view;                 /* of the stream */
    uint64_t    shown;                /* raw: the first version that is not hidden */
    uint64_t    view_end, view_epoch; /* what it is of */
    uint64_t    positions[ITER_BATCH], ids[ITER_BATCH];
    uint32_t    count, next;

    /* a list */
    struct slice label; /* of `name` */
    uint64_t     at;    /* the next position wanted */
    bool         scanning;
    char         first_text[LOG_NAME_MAX + 8]; /* "0@NAME" */
};

/* iter.c */
/* The record at pos, with its frame, while the iterator holds no frame; false: not there. */
bool logi_iter_record(struct log_iter *, uint64_t pos, struct record *, struct frame *);
int  logi_iter_damaged(const struct log_iter *, uint64_t pos, struct err *);
bool logi_iter_wanted(struct log_iter *, const struct record *);
/* May readers see it? */
int logi_iter_visible(struct log_iter *, const struct record *, bool *yes, struct err *);
/* $streams: is the stream wanted, and there for its readers? */
int logi_iter_there(struct log_iter *, uint64_t id, struct slice stream, bool *yes, struct err *);
/* What it shows of a stream whose head this is. */
void logi_iter_view_of(struct log_iter *, uint64_t id, struct slice stream,
                       const struct index_head *, struct view *);
/* A stream's view as it is now. */
int
logi_iter_view(struct log_iter *, uint64_t id, struct slice stream, struct view *, struct err *);
/* Is it of a stage that is still open? Nobody who reads on by position passes it: it->held. */
int logi_iter_hold(struct log_iter *, const struct record *, const struct frame *, struct err *);
/* The record to the caller, where it wants it and may see it: *given. Not where it->held. */
int logi_iter_offer(struct log_iter *, const struct record *, const struct frame *,
                    struct log_event *out, bool *given, struct err *);
/* Do its names pass the filter? */
bool logi_filter_holds(const struct log_filter *, struct slice stream, struct slice type);
/* The event as the caller gets it, its link followed where that was asked for. */
int logi_iter_give(struct log_iter *, const struct record *, const struct frame *,
                   struct log_event *, struct err *);
/* Counts what was looked at; true: patience ran out. */
bool logi_iter_tired(struct log_iter *, uint64_t bytes);
/* Follows the link in `data` from `out`, which is the link. */
int logi_iter_resolve(struct log_iter *, struct log_event *out, struct err *);

/* copied_read.c */

/* One move of a stream: the mark that it left in it, and which versions it hid: first to
 * below last. */
struct logi_move {
    struct slice stream;
    uint64_t     first, last;
    bool         moved;  /* to others; else rewritten in place */
    bool         routed; /* it had been routed: its copies stand anywhere in the others */
    uint64_t     staged; /* moved in stages, of which the first one stands here; 0: in one commit */
    struct record mark;
    struct frame  frame;
};

/* Each move that hid something of the stream, the last one first; E_MORE: `fn` did not return 0.
 * The segments are pinned. */
typedef int logi_move_fn(void *arg, const struct logi_move *move);
int logi_moves(struct log *, uint64_t id, struct slice stream, const struct index_head *head,
               logi_move_fn *fn, void *arg);
/* Each copy that the move made, with a position of a first original; stops where not 0. */
typedef int logi_copy_fn(void *arg, uint64_t original, uint64_t copy);
int         logi_move_copies(struct log *, const struct logi_move *, logi_copy_fn *fn, void *arg);
/* view.shown */
uint64_t logi_moved_shown(struct log *, uint64_t id, struct slice stream, const struct index_head *,
                          const struct view *);
/* skip_moved: is the event, which may be seen, for this reader? */
int logi_copied_wanted(struct log_iter *, const struct record *, const struct log_event *,
                       bool *yes, struct err *);
/* skip_moved: the copy that a stub leads to, at the stub's position. */
int logi_stub_give(struct log_iter *, const struct record *, const struct frame *,
                   struct log_event *out, bool *given, struct err *);

/* iter_all.c */
int logi_all_open(struct log_iter *, struct err *);
int logi_all_forward(struct log_iter *, struct log_event *, struct err *);
int logi_all_backward(struct log_iter *, struct log_event *, struct err *);

/* streams.c: what a stream is, of its head and view */
void logi_describe(struct slice name, uint64_t id, const struct index_head *, const struct view *,
                   struct log_stream *out);

/* iter_stream.c */
/* info: what readers see of the stream then, for a read of no more than that; may be NULL. */
int logi_stream_open(struct log_iter *, struct log_stream *info, struct err *);
int logi_stream_next(struct log_iter *, struct log_event *, struct err *);
/* A reader's view of a stream: what is published. E_NOTFOUND, E_GONE. */
int logi_stream_head(struct log *, struct slice name, uint64_t end, uint64_t *id,
                     struct index_head *, struct err *);

/* iter_list.c */
int logi_list_open(struct log_iter *, struct err *);
int logi_list_next(struct log_iter *, struct log_event *, struct err *);

#endif
