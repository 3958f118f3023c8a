#!/bin/sh
# All tests of several nodes: tests/nodes/all.sh FANWIRE [--long]
set -eu
folder=$(dirname "$0")
for name in run presence users outages admin faults; do
    "$folder/$name.py" "$@"
done
