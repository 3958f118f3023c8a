#!/usr/bin/env bash
# Requests made from the HTTP API's own description (schemathesis), right ones and wrong ones, against
# the real program: no answer may be a 5xx, or one that /openapi.json does not describe.
#
#   tests/openapi/run.sh BINARY [EXAMPLES]
#
# What is installed lies in target/openapi; the first run downloads it.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binary=$(realpath "$1")
examples=${2:-40}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=${CARGO_TARGET_DIR:-$here/../../target}/openapi
mkdir -p "$place"
place=$(cd "$place" && pwd)
key=0123456789abcdef

if ! cmp -s "$here/requirements.txt" "$place/stamp"; then
    rm -rf "$place/venv"
    python3 -m venv "$place/venv"
    "$place/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$place/stamp"
fi

scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
FANWIRE_JWT_SECRET="a secret of these tests, long enough for HS256" \
    FANWIRE_HISTORY="* messages=10" FANWIRE_PRESENCE="* members" \
    FANWIRE_API_KEYS="tests=$key publish read admin" RUST_LOG=warn \
    "$binary" serve --shards 2 --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 >"$scratch/log" 2>&1 &
server=$!
admin=
for _ in $(seq 200); do
    admin=$(sed -n 's|^  admin *http://\([^/]*\)/docs.*|\1|p' "$scratch/log")
    [ -z "$admin" ] || break
    kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.05
done

# Left out: that every request which fits the description is accepted, as it cannot say which fields exclude
# each other; and that what was deleted is gone, as a channel whose history was deleted still is there.
cd "$scratch"
"$place/venv/bin/st" run "http://$admin/openapi.json" -H "X-API-Key: $key" --checks all \
    --exclude-checks positive_data_acceptance,use_after_free --max-examples "$examples" --seed "${3:-1}" --no-color \
    >report 2>&1 || { tail -100 report; exit 1; }
grep -E "generated|Tested:" report
