#!/usr/bin/env bash
# Measures what a bystander notices of greedy and hostile neighbours on the same shard, on fanwire and
# on uWebSockets, interleaved, and prints a markdown table: medians with least and most.
#
#   loadtest/neighbours.sh FANWIRE_BINARY [ROUNDS]
#
# Needs two cores: servers run on core 0, with the highest priority of ordinary programs where that is
# permitted, and the generator on core 1. A measurement during which others had the server's core for more than 2 % of the
# time is repeated, up to three times in all, and the least disturbed one counts. A round takes two
# minutes, and six where each measurement is made three times. Settings by environment:
#   EACH_S       seconds of each measurement, alone and beside the load, 2 unless given
#   LOADTEST     the generator; built if not given
#   PEERS        folder of the peers, target/peers unless given
#   KEEP         file that gets the raw results, one JSON object per line
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ] || [ "$1" = - ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=neighbours
fanwire=$1
rounds=${2:-3}
each_s=${EACH_S:-2}
# Authentication and all checks are on, as by default. The rate limit is off, because a flood must
# not be stopped by it, nor the bystander; the limits of sessions are above the load.
serve_options=()
FANWIRE_JWT_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export FANWIRE_JWT_SECRET FANWIRE_GATEWAY__RATE_LIMIT=off FANWIRE_GATEWAY__SESSIONS_PER_IP_MAX=0
export FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX=0 FANWIRE_GATEWAY__SESSIONS_PER_TENANT_MAX=0
export SERVER_NICE=-20
# shellcheck source=servers.sh
source "$here/servers.sh"
TOKEN=$("$fanwire" token --user bystander --permission publish --ttl 4h)

# Percent of the time in which others had the server's core, in the last result.
waiting() {
    tail -n 1 "$results" | python3 -c '
import json, sys
print(int(json.load(sys.stdin)["result"].get("server_waiting_percent", 0)))'
}

neighbours() { # WHAT SERVERS OPTIONS...: what each server's bystander notices of this load
    local what=$1 who attempt
    local -a among
    read -ra among <<<"$2"
    shift 2
    for who in "${among[@]}"; do
        for attempt in 1 2 3; do
            measure_one "$who" "$what@$round" neighbours --seconds "$each_s" "$@"
            if [ "$(waiting)" -lt 2 ]; then break; fi
        done
    done
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    neighbours "1 publisher" "${servers[*]}" --publishers 1
    neighbours "8 publishers" "${servers[*]}" --publishers 8
    neighbours "1 session with pings" "${servers[*]}" --pings 1
    neighbours "20 unauthenticated" "${servers[*]}" --unauthenticated 20
    neighbours "1,000 leavers, 128 channels each" fanwire --leavers 1000 --channels 128
    neighbours "5,000 reconnecting" "${servers[*]}" --reconnecting 5000
    neighbours "600 KB to 8 readers" "${servers[*]}" --large
    neighbours "50 that never read" "${servers[*]}" --never-read 50
done

python3 - "$results" <<'PYTHON'
import json, os, platform, statistics, sys

best = {}
for line in open(sys.argv[1]):
    run = json.loads(line)
    what, number = run["what"].split("@")
    key = (what, run["who"], number)
    waited = lambda it: it.get("server_waiting_percent", 0)
    if key not in best or waited(run["result"]) < waited(best[key]):
        best[key] = run["result"]

def values(what, who, key):
    return [result[key] for (a, b, _), result in best.items() if (a, b) == (what, who) and key in result]

def show(figures, scale=1):
    if not figures:
        return ""
    form = lambda value: f"{value / scale:,.2f}" if value / scale < 10 else f"{value / scale:,.0f}"
    return f"{form(statistics.median(figures))} ({form(min(figures))}–{form(max(figures))})"

loads = list(dict.fromkeys(what for what, _, _ in best))
rounds = len({number for _, _, number in best})
waits = [result.get("server_waiting_percent", 0) for result in best.values()]
print(f"{rounds} interleaved rounds, medians (least–most), round trips of the bystander in ms; {os.cpu_count()} cores, "
      f"Linux {platform.release()}. Others had the server's core for {show(waits)} % of the time.\n")
columns = ["p50", "p99", "max"]
names = ["load"] + [f"{who} {column}" for who in ("fanwire", "uWebSockets") for column in columns]
names += ["fanwire, load per s", "uWebSockets, load per s"]
print("| " + " | ".join(names) + " |")
print("|" + " --- |" * len(names))
def row(label, what, when):
    cells = [label]
    for who in ("fanwire", "uws"):
        cells += [show(values(what, who, f"{when}_round_trip_{column}_us"), 1000) for column in columns]
    rates = [show(values(what, who, "load_per_s")) for who in ("fanwire", "uws")]
    print("| " + " | ".join(cells + (rates if when == "beside" else ["", ""])) + " |")
row("none", loads[0], "alone")
for what in loads:
    row(what, what, "beside")
print()
for (what, who, number), result in best.items():
    for words in result["failures"]:
        print(f"**{who}, {what}, round {number}: {words}**")
late = sum(any("late" in note for note in result["notes"]) for result in best.values())
plain = sum(any("SCHED_FIFO" in note for note in result["notes"]) for result in best.values())
print(f"In {late} of {len(best)} measurements the bystander's own thread was late by more than 0.2 ms (p99); "
      f"in {plain} it ran without SCHED_FIFO.")
PYTHON
