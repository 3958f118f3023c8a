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
#   TLS          1 measures with TLS on both
#   LIMITS       1 measures fanwire with tokens and all limits too, their values above the load
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=compare
fanwire=$1
rounds=${2:-3}
subscribers=${SUBSCRIBERS:-9000}
each_s=${EACH_S:-3}
serve_options=(--dev)
# shellcheck source=servers.sh
source "$here/servers.sh"
baseline=${BASELINE:-}
if [ -n "$baseline" ]; then
    [ -x "$baseline" ] || { echo "compare: $baseline is not a program" >&2; exit 2; }
    servers+=(baseline)
fi

if [ "${LIMITS:-}" = 1 ]; then
    # Each limit is counted and checked, and none is reached.
    limits=(
        FANWIRE_JWT_SECRET="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
        FANWIRE_CONNECTIONS_MAX=1000000
        FANWIRE_UNAUTHENTICATED_MAX=100000
        FANWIRE_UNAUTHENTICATED_PER_IP_MAX=100000
        FANWIRE_GATEWAY__SESSIONS_MAX=1000000
        FANWIRE_GATEWAY__SESSIONS_PER_IP_MAX=1000000
        FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX=1000000
        FANWIRE_GATEWAY__SESSIONS_PER_TENANT_MAX=1000000
        FANWIRE_GATEWAY__RATE_LIMIT__PER_MINUTE=60000000
        FANWIRE_GATEWAY__RATE_LIMIT__BURST=60000000
    )
    limited_token=$("$fanwire" token --user load --tenant load --permission publish --ttl 4h \
        --jwt-secret "${limits[0]#*=}")
    servers+=(limited)
fi

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
    measure connect_together connect --connections 3000 --subscribe --in-flight 100
    measure idle idle --connections "$subscribers" --subscribe --hold 1
    if [ "$fanwire" != - ]; then measure_ids; fi
done

TLS=${TLS:-} python3 - "$results" <<'PYTHON'
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
    ("the same, 100 connections at a time, ns", "connect_together", CONNECTION, None, "≤ 50,000 ns"),
    ("user memory per idle connection, bytes", "idle", "server_bytes_per_connection", None, "≤ 1,024 bytes"),
]
if os.environ["TLS"] == "1":
    budgets = {"fanout_1": "≥ 1.3", "fanout_64": "≥ 1.3", "connect": "≥ 1", "idle": "≤ 8,192 bytes"}
    table = [(label, what, key, None, budgets.get(what, "")) for label, what, key, *_ in table]
rounds = len(values("uws", "fanout_1", DELIVERY))
print(f"{rounds} interleaved rounds, medians (least–most); {os.cpu_count()} cores, Linux {platform.release()}. "
      "Ratios above 1: fanwire is cheaper.\n")
has_baseline = bool(values("baseline", "fanout_1", DELIVERY))
names = ["what", "fanwire", "uWebSockets", "floor", "uWS / fanwire", "floor / fanwire", "budget"]
names += ["baseline", "fanwire / baseline"] * has_baseline
has_limits = bool(values("limited", "fanout_1", DELIVERY))
names += ["with limits", "with limits / without"] * has_limits
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
    if has_limits:
        limited, limited_median = show(values("limited", what, key))
        cells += [limited, f"{limited_median / our_median:.2f}" if our_median and limited_median else ""]
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
