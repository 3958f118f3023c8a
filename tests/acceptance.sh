#!/usr/bin/env bash
# The two promises that need a whole machine, checked with release builds on two shards:
#
#   1. 10,000 subscribers of one channel each get 1,000 publications, all and in order, and each
#      publication is encoded once.
#   2. One process holds 30,000 connections although it may open only 20,000 descriptors.
#
#   tests/acceptance.sh [FANWIRE_BINARY] [LOADTEST_BINARY]
#
# Builds with cargo what is not given. Needs about 2 GiB of memory and takes a few minutes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SUBSCRIBERS=10000
PUBLICATIONS=1000
CONNECTIONS=30000
DESCRIPTORS_MAX=20000
HOLD_S=10
# Publications of the generator before it measures (loadtest/README.md).
WARM_UP_PUBLICATIONS=20
# What a process needs beside its connections: rings, listeners, wakers, standard streams.
DESCRIPTORS_EXPECTED=200
# Longest wait for anything that should be quick.
PATIENCE_S=20

release=${CARGO_TARGET_DIR:-$here/../target}/release
if [ $# -lt 1 ]; then (cd "$here/.." && cargo build --release --locked -p fanwire); fi
if [ $# -lt 2 ]; then (cd "$here/.." && cargo build --release --locked -p fanwire-loadtest); fi
fanwire=${1:-$release/fanwire}
loadtest=${2:-$release/fanwire-loadtest}
for program in "$fanwire" "$loadtest"; do
    [ -x "$program" ] || { echo "acceptance: $program is not a program" >&2; exit 2; }
done

scratch=$(mktemp -d)
server_pid=
stop_server() {
    if [ -n "$server_pid" ]; then
        kill -KILL "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
        server_pid=
    fi
}
trap 'stop_server; rm -rf "$scratch"' EXIT

failures=0
check() { # WHAT ACTUAL EXPECTED
    if [ "$2" = "$3" ]; then
        printf '  ok    %-58s %s\n' "$1" "$2"
    else
        printf '  FAIL  %-58s %s, expected %s\n' "$1" "$2" "$3"
        failures=$((failures + 1))
    fi
}
check_at_most() { # WHAT ACTUAL LIMIT
    if [ "$2" -le "$3" ]; then
        printf '  ok    %-58s %s (at most %s)\n' "$1" "$2" "$3"
    else
        printf '  FAIL  %-58s %s, more than %s\n' "$1" "$2" "$3"
        failures=$((failures + 1))
    fi
}

start_server() { # sets server_pid and address
    : >"$scratch/server.log"
    # With the limit of descriptors that the second promise is about, also where more are allowed.
    (ulimit -n "$DESCRIPTORS_MAX" && exec "$fanwire" serve --dev --listen 127.0.0.1:0 --shards 2) \
        >"$scratch/server.log" 2>&1 </dev/null &
    server_pid=$!
    for _ in $(seq $((PATIENCE_S * 20))); do
        address=$(sed -n 's/^fanwire .* listening on //p' "$scratch/server.log")
        if [ -n "$address" ]; then return; fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "acceptance: the server did not start:" >&2
    cat "$scratch/server.log" >&2
    exit 1
}

# The sum over shards of one metric's series; LABEL as in the text, such as variant="gateway".
metric() { # NAME [LABEL]
    python3 - "$address" "$1" "${2:-}" <<'PYTHON'
import sys, urllib.request

address, name, label = sys.argv[1:]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
text = direct.open(f"http://{address}/metrics/prometheus", timeout=20).read().decode()
series = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name + "{")]
values = [int(value) for names, value in series if label in names]
if not values:
    sys.exit(f"acceptance: no series {name} {label}")
print(sum(values))
PYTHON
}

# All encoders' counts but the gateway's.
other_encodes() {
    echo $(($(metric fanwire_encodes_total) - $(metric fanwire_encodes_total 'variant="gateway"')))
}

await_metric() { # EXPECTED NAME [LABEL]: the last value, after waiting for the expected one
    local value end=$((SECONDS + PATIENCE_S))
    while value=$(metric "${@:2}") && [ "$value" != "$1" ] && [ $SECONDS -lt $end ]; do sleep 0.1; done
    echo "$value"
}

figure() { # KEY: a count of the generator's last result
    python3 -c 'import json, sys; print(round(json.load(open(sys.argv[1]))[sys.argv[2]]))' "$scratch/result" "$1"
}

show_result() { # the generator's last result, a line per figure
    python3 - "$scratch/result" <<'PYTHON'
import json, sys

result = json.load(open(sys.argv[1]))
words = result.pop("failures") + result.pop("notes")
print(f'  {result.pop("title")}')
for key, value in result.items():
    print(f"        {key:<42} {value:>16,.{0 if value == int(value) else 1}f}")
for line in words:
    print(f"        {line}")
PYTHON
}

fan_out() { # IN_FLIGHT
    printf '\nFan-out: two shards, %s subscribers, %s publications, %s in flight\n' $SUBSCRIBERS $PUBLICATIONS "$1"
    start_server
    local publications encodes others deliveries dropped made key code=0
    publications=$(metric fanwire_publications_total)
    encodes=$(metric fanwire_encodes_total 'variant="gateway"')
    others=$(other_encodes)
    deliveries=$(metric fanwire_deliveries_total)
    dropped=$(metric fanwire_dropped_total)
    timeout 400 "$loadtest" fanout --url "ws://$address/ws" --pid "$server_pid" --json \
        --subscribers $SUBSCRIBERS --publications $PUBLICATIONS --in-flight "$1" \
        >"$scratch/result" </dev/null || code=$?
    check "exit code of the generator" $code 0
    if [ $code -le 1 ] && [ -s "$scratch/result" ]; then show_result; else stop_server; return; fi
    check "publications measured" "$(figure publications)" $PUBLICATIONS
    check "deliveries, each the next and exactly as published" "$(figure deliveries)" $((SUBSCRIBERS * PUBLICATIONS))
    for key in lost out_of_order duplicates altered disconnects samples_lost samples_altered; do
        check "$key" "$(figure ${key}_total)" 0
    done
    # The generator warms up before it measures. Its sample clients, an independent WebSocket
    # implementation, count all that it publishes.
    made=$(($(figure samples_received) / $(figure samples)))
    check "publications with those of the warm-up" $made $((PUBLICATIONS + WARM_UP_PUBLICATIONS))
    check "  rise of fanwire_publications_total" $(($(metric fanwire_publications_total) - publications)) $made
    check "  rise of fanwire_encodes_total, variant gateway" \
        $(($(metric fanwire_encodes_total 'variant="gateway"') - encodes)) $made
    check "  rise of fanwire_encodes_total, all other variants" $(($(other_encodes) - others)) 0
    # The server counts a delivery when the kernel has reported the send, the client may be earlier.
    local expected=$((deliveries + made * SUBSCRIBERS))
    check "  rise of fanwire_deliveries_total: publications x subscribers" \
        $(($(await_metric $expected fanwire_deliveries_total) - deliveries)) $((made * SUBSCRIBERS))
    check "  rise of fanwire_dropped_total" $(($(metric fanwire_dropped_total) - dropped)) 0
    stop_server
}

hold_idle() {
    printf '\nIdle: two shards, %s connections, at most %s descriptors\n' $CONNECTIONS $DESCRIPTORS_MAX
    start_server
    grep 'Max open files' "/proc/$server_pid/limits" | sed 's/^/  /'
    check "hard limit of descriptors of the server" \
        "$(awk '/Max open files/ { print $5 }' "/proc/$server_pid/limits")" $DESCRIPTORS_MAX
    local generator code=0 end=$((SECONDS + 120))
    timeout 180 "$loadtest" idle --url "ws://$address/ws" --pid "$server_pid" --json \
        --connections $CONNECTIONS --hold $HOLD_S >"$scratch/result" </dev/null &
    generator=$!
    local sessions=0
    while [ "$sessions" -lt $CONNECTIONS ] && [ $SECONDS -lt $end ] && kill -0 $generator 2>/dev/null; do
        sleep 0.2
        sessions=$(metric fanwire_sessions)
    done
    check "WebSocket sessions (fanwire_sessions)" "$sessions" $CONNECTIONS
    check "connections (fanwire_connections), the question's own with them" \
        "$(metric fanwire_connections)" $((CONNECTIONS + 1))
    printf '        of them on shard 0: %s, on shard 1: %s\n' \
        "$(metric fanwire_connections 'shard="0"')" "$(metric fanwire_connections 'shard="1"')"
    check_at_most "open descriptors of the server" "$(find "/proc/$server_pid/fd" -mindepth 1 | wc -l)" $DESCRIPTORS_EXPECTED
    wait $generator || code=$?
    check "exit code of the generator" $code 0
    if [ $code -le 1 ] && [ -s "$scratch/result" ]; then show_result; else stop_server; return; fi
    check "connections held for $HOLD_S s" "$(figure connections)" $CONNECTIONS
    check "disconnects" "$(figure disconnects_total)" 0
    check "sessions after the generator has left" "$(await_metric 0 fanwire_sessions)" 0
    stop_server
}

echo "$("$fanwire" --version), $(nproc) cores, Linux $(uname -r), ulimit -Hn $(ulimit -Hn)"
fan_out 1
fan_out 8
hold_idle
echo
if [ $failures -gt 0 ]; then
    echo "tests/acceptance.sh: $failures checks FAILED"
    exit 1
fi
echo "tests/acceptance.sh: all checks passed"
