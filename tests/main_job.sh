#!/bin/sh
# The main job as a test, small. usage: main_job.sh BUILD RUN [NORTHWIND]
set -eu
BUILD=$1
RUN=$2
SOAK=1
export BUILD RUN SOAK
if [ $# -gt 2 ]; then
    if [ ! -f "$3/orders.csv" ]; then
        echo "skip: the data set is not there: $3"
        exit 77
    fi
    NORTHWIND=$3
    export NORTHWIND
else
    ORDERS=2000
    export ORDERS
fi
exec "$(dirname "$0")/../examples/orders/run"
