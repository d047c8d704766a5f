#!/bin/sh
# Checks the model of the cutover in full, then five broken ones, each of which must be found; the
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
    cc -O2 -w -DSAFETY -DNFAIR=3 -o pan pan.c || exit 1
    ./pan -m200000 > "out.$bug" 2>&1
    grep -q '^State-vector' "out.$bug" || { cat "out.$bug"; exit 1; }
    if grep -q 'max search depth too small\|out of memory' "out.$bug"; then
        cat "out.$bug"
        exit 1
    fi
    sed -n 's/.*errors: //p' "out.$bug"
}

[ "$(verify 0)" = 0 ] || { cat out.0; echo "the protocol does not hold"; exit 1; }
sed -n '/states, stored/p' out.0
for bug in 1 2 3 4 5; do
    [ "$(verify $bug)" != 0 ] || { echo "the broken model $bug was not found"; exit 1; }
    echo "broken model $bug: found"
done
grep -q 'assertion violated .*holder' out.5 || { cat out.5; echo "not found by D"; exit 1; }
[ "$(verify 5 -DWITHOUT_D)" = 0 ] || { cat out.5; echo "other properties see broken model 5"; exit 1; }
echo "broken model 5: only D sees it"
