#!/bin/sh
# Checks the model of the cutover in full, then four broken ones, each of which must be found.
# usage: check.sh [MODEL]; status 77 where spin is not installed.
set -u
model=$(realpath "${1:-$(dirname "$0")/tracer.pml}")
command -v spin > /dev/null || { echo "skipped: spin is not installed (Debian package spin)"; exit 77; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

verify() {
    rm -f pan ./*.trail
    spin -DBUG="$1" -a "$model" > spin.txt 2>&1 || { cat spin.txt; exit 1; }
    cc -O2 -w -DSAFETY -DNFAIR=3 -o pan pan.c || exit 1
    ./pan -m200000 > "out.$1" 2>&1
    grep -q '^State-vector' "out.$1" || { cat "out.$1"; exit 1; }
    if grep -q 'max search depth too small\|out of memory' "out.$1"; then
        cat "out.$1"
        exit 1
    fi
    sed -n 's/.*errors: //p' "out.$1"
}

[ "$(verify 0)" = 0 ] || { cat out.0; echo "the protocol does not hold"; exit 1; }
sed -n '/states, stored/p' out.0
for bug in 1 2 3 4; do
    [ "$(verify $bug)" != 0 ] || { echo "the broken model $bug was not found"; exit 1; }
    echo "broken model $bug: found"
done
