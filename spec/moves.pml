/*
 * The move of a stream (docs/surgery.md): S is rewritten in place by one surgery and moved to T
 * by another, at the same time, while old software writes to S, new software to T, scavenge takes
 * what the moves hid, and a consumer with `moved: skip` reads from any position. Before every step
 * a surgery may die, and an answer to a writer may be lost.
 *
 * KIND says how S is moved to T: ATOMIC in one commit; STAGED in several, which nobody reads and
 * none but the surgery writes to until the last one ends it: cut off before that, they have never
 * been; ROUTE with the old name left open, what is written to one stream being added to the
 * other one in the same commit (copies in T, links in S); STAGED_ROUTE both; BACK not at all,
 * but the rewrite is taken back, maybe: the originals come again, and what was written since.
 *
 * The log is an array; a position is an index into it. An event is its number, 1 to EVENTS: its
 * id, which its copies keep, and whose first original's position they carry (`opos`).
 *
 *   A  whatever was acknowledged stands once where readers find it: in T where S was moved, else
 *      in S; routed, in both
 *   B  in the order in which it was acknowledged, and routed in one order in both streams
 *   C  a consumer with `moved: skip` gets each event whose original lies at or after its start
 *      and passes its filter once, in order, and of the others each copy in T that it asks for
 *   D  no writer waits for ever (an end state where one does is an error)
 *
 * BUG=1: the move's commit does not check the head.
 * BUG=2: a retry is refused by the moved stream before it is looked up.
 * BUG=3: a surgery that dies leaves its fence.
 * BUG=4: scavenge leaves no stub.
 * BUG=5: a copy is skipped wherever its original passes the filter, started after it or not.
 * BUG=6: what a move hid is not delivered.
 * BUG=7: a copy is never skipped.
 * BUG=8: staged: a surgery that died begins again without discarding what it had.
 * BUG=9: staged: who reads everything does not wait for the end of the stage.
 * BUG=10: staged: the last commit does not check the head.
 * BUG=11: routed: the copy is in a commit of its own.
 * BUG=12: a stub names the first copy there was, which has no stub of its own.
 * BUG=13: routed: a commit does not check that the routing is the one that it was made for.
 * BUG=14: the commit that takes a rewrite back does not check the head.
 *
 * Routed, a writer's commit is made for the routing as it was seen, and written later; and the
 * routing ends, maybe: then S is moved.
 */
#ifndef BUG
#define BUG 0
#endif
#define ATOMIC 0
#define STAGED 1
#define ROUTE 2
#define STAGED_ROUTE 3
#define BACK 4
#ifndef KIND
#define KIND ATOMIC
#endif
#define IN_STAGES (KIND == STAGED || KIND == STAGED_ROUTE)
#define ROUTES (KIND == ROUTE || KIND == STAGED_ROUTE)
#define OLD_EVENTS 2
#define EVENTS 3 /* and one by new software */
#define CRASHES 1
#define LOST_ANSWERS (!IN_STAGES && KIND != BACK)
#define LOSSES 1 /* then a fence */

#define S 0
#define T 1
#define ALL 2 /* a filter */

#define NONE 0
#define EVENT 1
#define COPY 2
#define LINK 3
#define MARK 4 /* MigratedFrom and StreamMovedTo */

#define LEN 20

/* The log, and what it knows of the streams. */
byte kind[LEN], stream[LEN], ev[LEN];
byte leads[LEN];       /* of a stub: where the copy is */
byte end = 1;
byte version[2];       /* how many events */
byte floor[2];        /* what lies below this position in the stream is hidden by a move */
byte discarded;        /* what lies below it in T never took effect */
bool moved, routed, staged, fence;
bool rewritten;        /* the record of the surgery in place: done */
byte hid;              /* from where on it hid what was there */
bool back;             /* it was taken back */

byte opos[EVENTS + 1]; /* the position of its first original, ... */
byte ostream[EVENTS + 1];
bool acked[EVENTS + 1];
byte order[EVENTS + 1], acks; /* in which they took effect */

byte crashes, lost;
bool ended;            /* the routing, by which S is moved */
byte routing;          /* grows with each change of it, as its metadata's version does */
byte running = 5;      /* writers, surgeries or the end of the routing, consumer */

#define PASSES(filter, s) (filter == ALL || filter == s)
#define READABLE(p) (p >= floor[stream[p]] && !(stream[p] == T && p < discarded) &&               \
    (kind[p] == EVENT || kind[p] == COPY || kind[p] == LINK))

inline put(k, s, e)
{
    assert(end < LEN);
    kind[end] = k;
    stream[end] = s;
    ev[end] = e;
    version[s]++;
    end++
}

inline original(s, e)
{
    opos[e] = end;
    ostream[e] = s;
    order[acks] = e;
    acks++;
    put(EVENT, s, e)
}

/* Was this event written to S before? */
inline look_up(e)
{
    known = (opos[e] != 0 && ostream[e] == S)
}

/* Old software: reads the head, appends with it as the expected version; refused for good, it is
 * new software's turn: the event goes to T. */
active proctype old_writer()
{
    byte e = 1, v, at;
    bool known, late, on;
    do
    :: e > OLD_EVENTS -> break
    :: else ->
        atomic { v = version[S]; on = routed; at = routing };
again:
        atomic {
            !fence ->
            look_up(e);
            if
            :: known && !(BUG == 2 && moved) -> acked[e] = true; e++; known = false; goto next
            :: else -> skip
            fi;
            known = false;
            if
            :: moved -> goto follow
            :: !moved && version[S] != v -> goto next
            :: !moved && version[S] == v && at != routing && BUG != 13 -> goto next
            :: else -> skip
            fi;
            original(S, e);
            if
            :: on && BUG != 11 -> put(COPY, T, e)
            :: on && BUG == 11 -> late = true
            :: else -> skip
            fi
        };
        if
        :: late -> atomic { put(COPY, T, e); late = false }
        :: else -> skip
        fi;
        atomic {
            if
            :: lost < LOST_ANSWERS -> lost++; goto again
            :: acked[e] = true; e++; v = 0
            fi
        };
        goto next;
follow:
        atomic {
            !staged ->
            assert(opos[e] == 0 || BUG != 0);
            if
            :: opos[e] == 0 -> original(T, e)
            :: else -> put(EVENT, T, e)
            fi;
            acked[e] = true;
            e++
        };
next:
        atomic { v = 0; on = false; at = 0 }
    od;
    running--
}

/* New software: writes to T once it is there. */
active proctype new_writer()
{
    byte at;
    bool on;
#if KIND == BACK
    goto done;
#endif
#if ROUTES
again:
    atomic { moved || routed -> on = routed; at = routing };
#endif
    atomic {
        (moved || routed) && !staged ->
#if ROUTES
        if
        :: at != routing && BUG != 13 -> goto again
        :: else -> skip
        fi;
#endif
        original(T, EVENTS);
        if
        :: on -> put(LINK, S, EVENTS)
        :: else -> skip
        fi;
        acked[EVENTS] = true
    };
done:
    running--
}

/* Appends the copies of what is readable in S at first <= position < upto, as it was when read. */
inline copy(to, first, upto)
{
    i = first;
    do
    :: i >= upto -> break
    :: else ->
        if
        :: stream[i] == S && (kind[i] == EVENT || kind[i] == COPY) ->
            put(COPY, to, ev[i])
        :: else -> skip
        fi;
        i++
    od;
    i = 0
}

/* The same of S to S, but for what are copies: what was written since those were. */
inline copy_new(first, upto)
{
    i = first;
    do
    :: i >= upto -> break
    :: else ->
        if
        :: stream[i] == S && kind[i] == EVENT -> put(COPY, S, ev[i])
        :: else -> skip
        fi;
        i++
    od;
    i = 0
}

/* A stage without an end is no move: what it wrote has never been. */
#define NO_END                                                                                     \
    if                                                                                             \
    :: staged && BUG != 8 -> discarded = end; staged = false                                       \
    :: else -> skip                                                                                \
    fi

/* Dies here, perhaps: what it knew is gone, and what only memory has: a fence, who fills T. */
#define MAY_DIE                                                                                    \
    if                                                                                             \
    :: atomic { crashes < CRASHES -> crashes++;                                                    \
        if                                                                                         \
        :: BUG != 3 && fenced -> fence = false                                                     \
        :: else -> skip                                                                            \
        fi;                                                                                        \
        NO_END;                                                                                    \
        fenced = false; goto restart }                                                             \
    :: skip                                                                                        \
    fi

#define LOST                                                                                       \
    losses++;                                                                                      \
    if                                                                                             \
    :: losses >= LOSSES && !fenced && !fence -> fence = true; fenced = true                        \
    :: else -> skip                                                                                \
    fi

#define RELEASE                                                                                    \
    if                                                                                             \
    :: fenced -> fence = false; fenced = false                                                     \
    :: else -> skip                                                                                \
    fi

/* The rewrite's deaths are looked at with the first kind. */
#define MAY_DIE_TOO                                                                                \
    if                                                                                             \
    :: !IN_STAGES -> MAY_DIE                                                                       \
    :: else -> skip                                                                                \
    fi

#if !ROUTES
active proctype in_place()
{
    byte v, upto, from, losses, i;
    bool fenced;
restart:
    atomic { v = 0; upto = 0; from = 0; losses = 0; i = 0 };
again:
    atomic {
        if
        :: moved || routed -> goto done
        :: !(moved || routed) && rewritten -> goto way_back
        :: else -> v = version[S]; upto = end; from = floor[S]
        fi
    };
    MAY_DIE_TOO;
    atomic {
        if
        :: moved || routed -> RELEASE; goto done
        :: !(moved || routed) && version[S] != v && BUG != 1 -> LOST; goto again
        :: else ->
            hid = (KIND == BACK -> from : 0);
            floor[S] = end;
            put(MARK, S, 0);
            copy(S, from, upto);
            rewritten = true;
            RELEASE
        fi
    };
    MAY_DIE_TOO;
way_back:
    if
    :: KIND == BACK && !back -> skip
    :: goto done
    fi;
    atomic { v = version[S]; upto = end };
    MAY_DIE_TOO;
    atomic {
        if
        :: moved -> RELEASE; goto done
        :: !moved && version[S] != v && BUG != 14 -> LOST; goto way_back
        :: else ->
            from = floor[S];
            floor[S] = end;
            put(MARK, S, 0);
            copy(S, hid, from);
            copy_new(from, upto);
            back = true;
            RELEASE
        fi
    };
    MAY_DIE_TOO;
done:
    atomic { RELEASE; v = 0; upto = 0; from = 0; losses = 0; running-- }
}
#endif

active proctype mover()
{
    byte v, upto, from, low, losses, i;
    bool fenced;
restart:
    atomic {
        v = 0; upto = 0; from = 0; low = 0; losses = 0; i = 0;
        if
        :: moved || routed || KIND == BACK -> goto done
        :: else -> skip
        fi
    };
again:
    atomic { v = version[S]; upto = end; from = floor[S] };
    MAY_DIE;
    if
    :: IN_STAGES ->
        atomic { staged = true; low = from; put(MARK, T, 0); copy(T, from, upto) };
        if /* reads on, with no fence */
        :: atomic { floor[S] == low && end > upto ->
               from = upto; upto = end; copy(T, from, upto) }
        :: skip
        fi;
        MAY_DIE;
        atomic { /* the last time; rewritten meanwhile, nothing of it holds */
            if
            :: fence -> skip
            :: else -> fence = true; fenced = true
            fi
        };
        MAY_DIE;
        atomic {
            if
            :: floor[S] != low ->
                discarded = end; staged = false; RELEASE; goto again
            :: else -> from = upto; v = version[S]; upto = end
            fi
        };
        MAY_DIE
    :: else -> skip
    fi;
    atomic {
        if
        :: version[S] != v && BUG != 1 && BUG != 10 ->
            if
            :: IN_STAGES -> discarded = end; staged = false
            :: else -> skip
            fi;
            LOST;
            goto again
        :: else -> skip
        fi;
        if
        :: !IN_STAGES -> put(MARK, T, 0)
        :: else -> staged = false
        fi;
        copy(T, from, upto);
        if
        :: ROUTES -> routed = true; routing++
        :: else -> put(MARK, S, 0); moved = true
        fi;
        RELEASE
    };
    MAY_DIE;
done:
    atomic { RELEASE; v = 0; upto = 0; from = 0; low = 0; losses = 0; running-- }
}

#if ROUTES
/* The old software is gone, maybe. */
active proctype ender()
{
    atomic {
        routed ->
        if
        :: put(MARK, S, 0); routed = false; moved = true; ended = true; routing++
        :: skip
        fi;
        running--
    }
}
#endif

/* The copy of what stands at p, of the move that hid it. */
inline copy_of(p)
{
    c = p + 1;
    do
    :: c >= end -> c = 0; break
    :: c < end && kind[c] == COPY && ev[c] == ev[p] &&
       stream[c] == (p < floor[S] -> S : T) && !(stream[c] == T && c < discarded) -> break
    :: else -> c++
    od
}

/* Scavenge may have taken what a move hid, when a consumer comes to it or to what a stub leads to:
 * S once it was moved, and what was rewritten in place. */
#define SCAVENGED(p) (stream[p] == S && (p < floor[S] || moved))

/* Where the copy stands that is given for p when all was scavenged that can be; 0: there is none. */
inline resolve(p)
{
    at = p;
    do
    :: at != 0 && SCAVENGED(at) && !(BUG == 4 && kind[at] == EVENT) &&
       !(BUG == 12 && kind[at] == COPY) -> copy_of(at); at = c
    :: at != 0 && !SCAVENGED(at) -> break
    :: else -> at = 0; break
    od
}

byte start, pos, filter = ALL;
byte seen[EVENTS + 1];
byte last; /* position of the last delivered original */

#define MINE(e) (opos[e] >= start && PASSES(filter, ostream[e]))

inline deliver(e)
{
    seen[e]++;
    if
    :: MINE(e) ->
        assert(seen[e] == 1); /* C */
        assert(opos[e] > last || last == 0);
        last = opos[e]
    :: else -> skip
    fi
}

active proctype consumer()
{
    byte c, at;
    atomic {
        if
        :: !IN_STAGES -> filter = S
        :: filter = T
        :: !IN_STAGES -> filter = ALL
        fi
    };
    atomic { /* from the beginning, or from what is the end at any time; it may lag behind */
        if
        :: start = 1
        :: start = end
        fi;
        pos = start
    };
    do
    :: atomic {
        pos < end && !(staged && stream[pos] == T && pos >= discarded && BUG != 9) ->
        if
        :: PASSES(filter, stream[pos]) && kind[pos] == EVENT && !SCAVENGED(pos) ->
            deliver(ev[pos])
        :: PASSES(filter, stream[pos]) && kind[pos] == EVENT && SCAVENGED(pos) ->
            if /* hidden, and still on the disk */
            :: BUG != 6 -> deliver(ev[pos])
            :: else -> skip
            fi
        :: PASSES(filter, stream[pos]) && kind[pos] == EVENT && SCAVENGED(pos) ->
            resolve(pos);
            if
            :: at != 0 -> deliver(ev[at])
            :: else -> assert(BUG != 0)
            fi;
            at = 0;
            c = 0
        :: PASSES(filter, stream[pos]) && kind[pos] == COPY && READABLE(pos) &&
           !(staged && stream[pos] == T) &&
           (BUG == 7 || !(MINE(ev[pos]) || (BUG == 5 && PASSES(filter, ostream[ev[pos]])))) ->
            deliver(ev[pos])
        :: else -> skip
        fi;
        pos++
       }
    :: atomic { running == 1 && pos >= end -> break }
    od;
    running--
}

/* When all is over. */
active proctype judge()
{
    byte p, n, at, e;
    bool in_t;
    atomic {
        (running == 0) ->
        in_t = moved || routed;
        /* A, B: each event that took effect once, in order. */
        p = 0;
        n = 0;
        do
        :: p >= end -> break
        :: else ->
            if
            :: stream[p] == (in_t -> T : S) && READABLE(p) ->
                assert(n < acks && ev[p] == order[n]);
                n++
            :: else -> skip
            fi;
            p++
        od;
        assert(n == acks);
        p = 0;
        n = 0;
        do
        :: !(routed || ended) || p >= end -> break
        :: else ->
            if
            :: stream[p] == S && READABLE(p) ->
                assert(n < acks && ev[p] == order[n]);
                n++
            :: else -> skip
            fi;
            p++
        od;
        assert(!routed || n == acks);
        /* C: nothing missing. */
        e = 1;
        do
        :: e > EVENTS -> break
        :: else ->
            assert(!acked[e] || opos[e] != 0);
            if
            :: acked[e] && MINE(e) -> assert(seen[e] == 1)
            :: acked[e] && !MINE(e) && PASSES(filter, T) && in_t ->
                at = 0; /* its copy in T */
                p = 0;
                do
                :: p >= end -> break
                :: else ->
                    if
                    :: stream[p] == T && kind[p] == COPY && READABLE(p) && ev[p] == e -> at = p
                    :: else -> skip
                    fi;
                    p++
                od;
                assert(at < start || at == 0 || seen[e] >= 1);
                assert(filter != T || seen[e] <= 1)
            :: else -> skip
            fi;
            e++
        od
    }
}
