#!/usr/bin/env bash
# Measures fanwire against uWebSockets and against the kernel's own floor, interleaved, and prints
# markdown tables: medians with least and most, and the ratios that the budgets are about.
#
#   loadtest/compare.sh FANWIRE_BINARY [ROUNDS]
#
# FANWIRE_BINARY may be - to measure the peer and the floor alone.
#
# Needs two cores: servers run on core 0, the generator on core 1. A round takes about a minute
# per server. Settings by environment:
#   SUBSCRIBERS  9000 unless given
#   EACH_S       seconds of each measurement, 3 unless given
#   LOADTEST     the generator; built if not given
#   PEERS        folder of the peers, target/peers unless given
#   TOKEN        shown to fanwire; none unless given
#   KEEP         file that gets the raw results, one JSON object per line
#   BASELINE     another build of fanwire, measured in the same rounds
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
fanwire=$1
rounds=${2:-3}
subscribers=${SUBSCRIBERS:-9000}
each_s=${EACH_S:-3}
peers=${PEERS:-$here/../target/peers}
uws=$("$here/peers/setup.sh" "$peers")
loadtest=${LOADTEST:-}
if [ -z "$loadtest" ]; then
    (cd "$here/.." && cargo build --quiet --release -p fanwire-loadtest)
    loadtest=${CARGO_TARGET_DIR:-$here/../target}/release/fanwire-loadtest
fi
results=${KEEP:-$(mktemp)}
: >"$results"
server_pid=
stop_server() {
    if [ -n "$server_pid" ]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
        server_pid=
    fi
}
trap stop_server EXIT

servers=(uws)
if [ "$fanwire" != - ]; then
    [ -x "$fanwire" ] || { echo "compare: $fanwire is not a program" >&2; exit 2; }
    servers+=(fanwire)
fi
baseline=${BASELINE:-}
if [ -n "$baseline" ]; then
    [ -x "$baseline" ] || { echo "compare: $baseline is not a program" >&2; exit 2; }
    servers+=(baseline)
fi

# A port of its own for each run: connections of the run before are still in TIME_WAIT.
port=$((20000 + RANDOM % 8000))

# Runs a program on core 0 without transparent huge pages (PR_SET_THP_DISABLE, 41): in steps of 2 MiB
# nobody can tell what ten thousand connections take.
serve() { # PROGRAM ARGUMENTS...
    exec taskset -c 0 python3 -c '
import ctypes, os, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])' "$@" >/dev/null 2>&1
}

start_server() { # NAME: sets server_pid and target
    port=$((port + 1))
    case $1 in
        uws)
            serve "$uws" "$port" &
            target=(--url "ws://127.0.0.1:$port/" --dialect verbatim)
            ;;
        fanwire | analytics | baseline)
            local program=$fanwire
            if [ "$1" = baseline ]; then program=$baseline; fi
            serve "$program" serve --dev --shards 1 --listen "127.0.0.1:$port" &
            target=(--url "ws://127.0.0.1:$port/ws" --dialect gateway)
            if [ "$1" = analytics ]; then
                target=(--url "ws://127.0.0.1:$port/analytics" --dialect analytics)
            fi
            if [ -n "${TOKEN:-}" ]; then target+=(--token "$TOKEN"); fi
            ;;
    esac
    server_pid=$!
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "compare: $1 does not listen on port $port" >&2
    exit 1
}

record() { # WHO WHAT JSON
    [ -n "$3" ] || { echo "compare: no result of $1 in $2" >&2; exit 1; }
    printf '{"who":"%s","what":"%s","result":%s}\n' "$1" "$2" "$3" >>"$results"
}

measure_one() { # WHO WHAT COMMAND OPTIONS...: on a server freshly started
    local who=$1 what=$2 json
    shift 2
    start_server "$who"
    # A run with failures still has figures; the table says so.
    json=$(timeout 120 "$loadtest" "$@" "${target[@]}" --pid "$server_pid" --core 1 --json) || true
    stop_server
    record "$who" "$what" "$json"
}

measure() { # WHAT COMMAND OPTIONS...: on every server in turn
    local who
    for who in "${servers[@]}"; do measure_one "$who" "$@"; done
}

# Deliveries of equal length: plain ones, with the subscriber's own id, and through filters.
measure_ids() {
    local frames filters
    local fanout=(fanout --subscribers "$subscribers" --seconds "$each_s" --size 256)
    for frames in 1 64; do
        measure_one fanwire "ids_$frames" "${fanout[@]}" --in-flight "$frames"
        for filters in 0 100 "$subscribers"; do
            measure_one analytics "ids_${frames}_$filters" "${fanout[@]}" --in-flight "$frames" --filters "$filters"
        done
    done
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    for frames in 1 64; do
        record floor "floor_$frames" "$("$loadtest" floor --connections "$subscribers" --frames $frames --core 1 --json)"
    done
    measure fanout_1 fanout --subscribers "$subscribers" --in-flight 1 --seconds "$each_s"
    measure fanout_64 fanout --subscribers "$subscribers" --in-flight 64 --seconds "$each_s"
    measure fanout_64_separate fanout --subscribers "$subscribers" --in-flight 64 --seconds "$each_s" --separate-writes
    measure echo_200 echo --connections 200 --seconds "$each_s"
    measure echo_1 echo --connections 1 --seconds "$each_s"
    measure connect connect --connections 3000
    measure connect_subscribe connect --connections 3000 --subscribe
    measure idle idle --connections "$subscribers" --subscribe --hold 1
    if [ "$fanwire" != - ]; then measure_ids; fi
done

python3 - "$results" <<'PYTHON'
import json, os, platform, statistics, sys

runs = [json.loads(line) for line in open(sys.argv[1])]

def values(who, what, key):
    return [run["result"][key] for run in runs if (run["who"], run["what"]) == (who, what) and key in run["result"]]

def show(figures):
    if not figures:
        return "", None
    form = lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    median = statistics.median(figures)
    return f"{form(median)} ({form(min(figures))}–{form(max(figures))})", median

DELIVERY, REQUEST, CONNECTION = (f"server_cpu_ns_per_{name}" for name in ("delivery", "request", "connection"))
table = [
    ("one publication at a time, ns per delivery", "fanout_1", DELIVERY, ("floor_1", "ring_ns_per_frame"), "≥ 1.25, ≥ 0.95"),
    ("64 in flight in one write, ns per delivery", "fanout_64", DELIVERY, ("floor_64", "ring_vector_ns_per_frame"), "≥ 20, ≥ 0.7"),
    ("64 in flight in 64 writes, ns per delivery", "fanout_64_separate", DELIVERY, ("floor_64", "ring_vector_ns_per_frame"), "≥ 20, ≥ 0.7"),
    ("request/response, 200 connections, ns per request", "echo_200", REQUEST, None, "≥ 1.1"),
    ("request/response, 1 connection, ns per request", "echo_1", REQUEST, None, "≥ 0.77"),
    ("the same, round trip p50, µs", "echo_1", "round_trip_p50_us", None, "≥ 1"),
    ("accept + upgrade, ns per connection", "connect", CONNECTION, None, "≥ 0.83"),
    ("accept + upgrade + subscription (+ token), ns", "connect_subscribe", CONNECTION, None, "≤ 60,000 ns"),
    ("user memory per idle connection, bytes", "idle", "server_bytes_per_connection", None, "≤ 1,024 bytes"),
]
rounds = len(values("uws", "fanout_1", DELIVERY))
print(f"{rounds} interleaved rounds, medians (least–most); {os.cpu_count()} cores, Linux {platform.release()}. "
      "Ratios above 1: fanwire is cheaper.\n")
has_baseline = bool(values("baseline", "fanout_1", DELIVERY))
names = ["what", "fanwire", "uWebSockets", "floor", "uWS / fanwire", "floor / fanwire", "budget"]
names += ["baseline", "fanwire / baseline"] * has_baseline
print("| " + " | ".join(names) + " |")
print("|" + " --- |" * len(names))
for label, what, key, floor, budget in table:
    ours, our_median = show(values("fanwire", what, key))
    peers, peer_median = show(values("uws", what, key))
    floors, floor_median = show(values("floor", *floor)) if floor else ("", None)
    ratio = lambda median: f"{median / our_median:.2f}" if median and our_median else ""
    cells = [label, ours, peers, floors, ratio(peer_median), ratio(floor_median), budget]
    if has_baseline:
        earlier, earlier_median = show(values("baseline", what, key))
        cells += [earlier, f"{our_median / earlier_median:.2f}" if our_median and earlier_median else ""]
    print("| " + " | ".join(cells) + " |")
print()
subscribers = int(values("fanwire", "ids_1", "subscribers")[0]) if values("fanwire", "ids_1", "subscribers") else 0
if subscribers:
    print("Deliveries of 256 bytes, ns each; in brackets the multiple of a plain one. Budget with own ids: ≤ 1.3.\n")
    print("| | one publication at a time | 64 in flight in one write |\n| --- | --- | --- |")
for label, who, filters in (
    ("plain", "fanwire", ""), ("with own ids", "analytics", "_0"), ("the same, 100 filters", "analytics", "_100"),
    ("the same, a filter each", "analytics", f"_{subscribers}"),
) if subscribers else ():
    cells = [label]
    for frames in (1, 64):
        figures, median = show(values(who, f"ids_{frames}{filters}", DELIVERY))
        _, plain = show(values("fanwire", f"ids_{frames}", DELIVERY))
        cells.append(f"{figures} [{median / plain:.2f}]" if median and plain else "")
    print("| " + " | ".join(cells) + " |")
print()
for what, name in (("floor_1", "1 frame"), ("floor_64", "64 frames")):
    parts = [f"{label} {show(values('floor', what, key))[0]}" for key, label in (
        ("call_ns_per_frame", "send()"), ("ring_ns_per_frame", "io_uring SEND"), ("ring_vector_ns_per_frame", "io_uring SENDMSG"),
    ) if values("floor", what, key)]
    print(f"Floor of {name} per send, ns per frame: " + "; ".join(parts) + ".")
for run in runs:
    for words in run["result"]["failures"] + [note for note in run["result"]["notes"] if "BOTTLENECK" in note]:
        print(f"**{run['who']} {run['what']}: {words}**")
PYTHON
