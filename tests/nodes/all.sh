#!/bin/sh
# All tests of several nodes: tests/nodes/all.sh FANWIRE [--long]
set -eu
folder=$(dirname "$0")
for name in run presence users admin faults; do
    "$folder/$name.py" "$@"
done
"$folder/admin.py" "$1"
