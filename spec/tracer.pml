/*
 * The cutover of a tracer write (src/migrate/tracer/cutover.c): a fence at the
 * side that has the authority, a drain, the record by compare-and-set, then the
 * other side opens. The controller may die before every step and is started
 * again; the lease may run out at any moment before the record is written; one
 * writer ignores its route and always tries the old side; events are under way
 * between a side and the other one for as long as they like.
 *
 * Rows are one counter: each acknowledged write is a greater number. `acked` is
 * the last acknowledged one, `val[s]` what side s holds.
 *
 *   A  never may applications write at both sides, nor at one under two epochs
 *   B  whichever side may be written holds the last acknowledged write
 *   C  the fence is released in the end
 *   D  one authority in an epoch: at most one side is ever named by the record or open under
 *      its guard in it, and it stays that one for good
 *
 * BUG=1: the position is taken before the guard is closed.
 * BUG=2: the record is written without waiting for the drain.
 * BUG=3: a restart leaves a switch where it was.
 * BUG=4: the other side opens before the record is written.
 * BUG=5: a switch goes on in the epoch of before. Only D sees it: WITHOUT_D leaves D out.
 */
#ifndef BUG
#define BUG 0
#endif
#define WRITES 3
#define SWITCHES 2
#define CRASHES 2
#define LEASES 1

#define OLD 0
#define NEW 1
#define NOBODY 2

#define EPOCHS 8 /* more than there can be: one a switch, one for its way back */

/* At the sides: durable. */
byte val[2];
byte seq[2];         /* how many changes its feed has had */
bool writable[2] = false;
byte guard[2];       /* epoch */

/* In the log: durable. A feed's changes under way, and how many were applied. */
byte feed_val[2];    /* the last change captured: state transfer, so only the newest counts */
byte applied[2];

/* The record: durable. */
byte authority = OLD, fenced = OLD, epoch = 1;

#define LEADER (authority == NOBODY -> fenced : authority)

byte acked, written, switches, crashes, leases;

/* What never was undone: who has held each epoch. */
byte holder[EPOCHS] = NOBODY;

/* D: side s has the authority in epoch e. */
inline hold(s, e)
{
    assert(e < EPOCHS);
#ifndef WITHOUT_D
    assert(holder[e] == NOBODY || holder[e] == s);
#endif
    holder[e] = s
}

inline check()
{
    assert(!(writable[OLD] && writable[NEW]));
    assert(!writable[OLD] || val[OLD] == acked);
    assert(!writable[NEW] || val[NEW] == acked);
}

/* One write by an application at side s, where the guard there lets it. */
inline write(s)
{
    assert(val[s] == acked);
    written++;
    val[s] = written;
    acked = written;
    seq[s]++;
    check()
}

/* The well-behaved one goes where it may; the stubborn one tries the old side only. */
active proctype writer()
{
end:
    do
    :: atomic { writable[OLD] && written < WRITES -> write(OLD) }
    :: atomic { writable[NEW] && written < WRITES -> write(NEW) }
    od
}

active proctype stubborn()
{
end:
    do
    :: atomic { writable[OLD] && written < WRITES -> write(OLD) }
    od
}

/* The feed away from the authority: takes what is there and applies it, later. */
active proctype mover()
{
    byte from, got, upto;
end:
    do
    :: atomic {
        applied[LEADER] < seq[LEADER] ->
        from = LEADER;
        got = val[from];
        upto = seq[from]
       };
       /* Read, not yet applied: anything may happen here. An older epoch is refused there. */
       atomic {
        if
        :: from == LEADER ->
            val[1 - from] = got;
            applied[from] = upto
        :: else -> skip
        fi;
        check()
       }
    od
}

inline close_side(s)
{
    atomic {
        if
        :: guard[s] <= epoch -> guard[s] = epoch; writable[s] = false
        :: else -> skip
        fi
    }
}

inline open_side(s)
{
    atomic {
        if
        :: guard[s] <= epoch -> guard[s] = epoch; writable[s] = true; hold(s, guard[s])
        :: else -> skip
        fi;
        check()
    }
}

/* Dies here, perhaps: what it knew is gone. */
#define MAY_DIE                                                                                    \
    if                                                                                             \
    :: crashes < CRASHES -> crashes++; goto restart                                                \
    :: skip                                                                                        \
    fi

#define MAY_BE_LATE                                                                                \
    if                                                                                             \
    :: leases < LEASES -> leases++; goto back                                                      \
    :: skip                                                                                        \
    fi

active proctype controller()
{
    byte from, position;

restart:
    from = 0;
    position = 0;
    if
    :: authority == NOBODY && BUG != 3 -> goto back
    :: authority == NOBODY && BUG == 3 -> goto done
    :: else -> skip
    fi;
    open_side(authority);

next:
    if
    :: switches < SWITCHES -> switches++
    :: goto done
    fi;
    MAY_DIE;
    from = authority;
    atomic {
        fenced = from;
        authority = NOBODY;
        if
        :: BUG != 5 -> epoch++
        :: else -> skip
        fi
    }; /* 1 */
    MAY_DIE;
    if
    :: BUG == 1 -> position = seq[from]
    :: else -> skip
    fi;
    close_side(from); /* 2 */
    MAY_DIE;
    if
    :: BUG != 1 -> position = seq[from] /* 3 */
    :: else -> skip
    fi;
    if
    :: BUG != 2 -> /* 4 and 5 */
        do
        :: applied[from] >= position -> break
        :: applied[from] < position -> MAY_BE_LATE; (applied[from] >= position)
        od
    :: else -> skip
    fi;
    MAY_DIE;
    MAY_BE_LATE;
    if
    :: BUG == 4 -> open_side(1 - from); MAY_DIE
    :: else -> skip
    fi;
    /* 6. The feed of the new authority goes on from where its side is now: what it had before
     * were Oxbow's own writes. */
    atomic {
        authority = 1 - from;
        hold(authority, epoch);
        applied[1 - from] = seq[1 - from]
    };
    MAY_DIE;
    open_side(1 - from); /* 7, 8 */
    MAY_DIE;
    goto next;

back:
    MAY_DIE;
    if
    :: authority == NOBODY -> atomic { authority = fenced; epoch++; hold(authority, epoch) }
    :: else -> skip
    fi;
    MAY_DIE;
    open_side(authority);
    goto next;

done:
    /* C: the one that is left alone at the end has an open side. */
    assert(authority != NOBODY && writable[authority]);
}
