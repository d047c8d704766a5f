#!/bin/sh
# Checks a model in full, then broken ones, each of which must be found. Of the cutover's, the
# last one by the property of one authority in an epoch (D), and by no other.
# usage: check.sh [MODEL]; status 77 where spin is not installed.
set -u
model=$(realpath "${1:-$(dirname "$0")/tracer.pml}")
command -v spin > /dev/null || { echo "skipped: spin is not installed (Debian package spin)"; exit 77; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# BUG [more options of spin]: how many errors
verify() {
    bug=$1
    shift
    rm -f pan ./*.trail
    spin -DBUG="$bug" "$@" -a "$model" > spin.txt 2>&1 || { cat spin.txt; exit 1; }
    # What breaks is soon found; what holds is searched through, in little memory.
    cc $([ "$bug" = 0 ] && echo -O2 -DCOLLAPSE || echo -O0) -w -DSAFETY -DNFAIR=3 -o pan pan.c || exit 1
    ./pan -m200000 > "out.$bug" 2>&1
    grep -q '^State-vector' "out.$bug" || { cat "out.$bug"; exit 1; }
    if grep -q 'max search depth too small\|out of memory' "out.$bug"; then
        cat "out.$bug"
        exit 1
    fi
    sed -n 's/.*errors: //p' "out.$bug"
}

# [options of spin]
holds() {
    [ "$(verify 0 "$@")" = 0 ] || { cat out.0; echo "the protocol does not hold $*"; exit 1; }
    sed -n '/states, stored/p' out.0
}

# BUG [options of spin]
breaks() {
    [ "$(verify "$@")" != 0 ] || { echo "the broken model $* was not found"; exit 1; }
    echo "broken model $*: found"
}

tracer() {
    holds
    for bug in 1 2 3 4 5; do
        breaks $bug
    done
    grep -q 'assertion violated .*holder' out.5 || { cat out.5; echo "not found by D"; exit 1; }
    [ "$(verify 5 -DWITHOUT_D)" = 0 ] || { cat out.5; echo "other properties see broken model 5"; exit 1; }
    echo "broken model 5: only D sees it"
}

moves() {
    for kind in ATOMIC STAGED ROUTE STAGED_ROUTE BACK; do
        holds -DKIND=$kind
    done
    for bug in 1 2 3 4 5 6 7 12; do
        breaks $bug -DKIND=ATOMIC
    done
    grep -q 'invalid end state' out.3 || { cat out.3; echo "not found by D"; exit 1; }
    for bug in 8 9 10; do
        breaks $bug -DKIND=STAGED
    done
    breaks 14 -DKIND=BACK
    for bug in 11 13; do
        breaks $bug -DKIND=ROUTE
        breaks $bug -DKIND=STAGED_ROUTE
    done
}

case $(basename "$model") in
moves.pml) moves ;;
*) tracer ;;
esac
