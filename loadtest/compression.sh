#!/usr/bin/env bash
# Measures what a compressed delivery of 1 KiB of JSON costs: fanwire without and with compression, and
# uWebSockets without, with its shared compressor and with one for each connection, interleaved.
# Prints a markdown table: medians with least and most, and the ratios that the budgets are about.
#
#   loadtest/compression.sh FANWIRE_BINARY [ROUNDS]
#
# Needs two cores: servers run on core 0, the generator on core 1. uWebSockets' compressors of 10,000
# connections take 4 GiB. Settings by environment:
#   SUBSCRIBERS  10000 unless given
#   EACH_S       seconds of each measurement, 3 unless given
#   LOADTEST     the generator; built if not given
#   PEERS        folder of the peers, target/peers unless given
#   KEEP         file that gets the raw results, one JSON object per line
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=compression
fanwire=$1
rounds=${2:-3}
serve_options=(--dev)
# shellcheck source=servers.sh
source "$here/servers.sh"

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    for frames in 1 64; do
        load=(fanout --subscribers "${SUBSCRIBERS:-10000}" --size 1024 --samples 0 --seconds "${EACH_S:-3}" --in-flight "$frames")
        for server in uws fanwire; do measure_one "$server" "$frames" "${load[@]}"; done
        for server in uws_shared deflate; do measure_one "$server" "$frames" "${load[@]}" --deflate; done
        measure_one uws_dedicated "$frames" "${load[@]}" --deflate --context-takeover
    done
done

python3 - "$results" "$rounds" <<'PYTHON'
import json, os, platform, statistics, sys

runs = [json.loads(line) for line in open(sys.argv[1])]
names = {"fanwire": "fanwire", "deflate": "fanwire, compressed", "uws": "uWebSockets", "uws_shared": "uWebSockets, shared compressor",
         "uws_dedicated": "uWebSockets, a compressor each"}
figures = {(who, what): [run["result"]["server_cpu_ns_per_delivery"] for run in runs if (run["who"], run["what"]) == (who, what)]
           for who in names for what in ("1", "64")}
subscribers = {int(run["result"]["subscribers"]) for run in runs}
print(f"{sys.argv[2]} interleaved rounds, {' and '.join(map(str, subscribers))} subscribers, CPU of the server in ns per delivery of 1 KiB, medians "
      f"(least–most), in brackets the multiple of fanwire compressed; {os.cpu_count()} cores, Linux {platform.release()}.\n")
print("| | one publication at a time | 64 in flight in one write |\n| --- | --- | --- |")
for who, name in names.items():
    cells = []
    for what in ("1", "64"):
        all_, base = figures[who, what], statistics.median(figures["deflate", what])
        cells.append(f"{statistics.median(all_):,.0f} ({min(all_):,.0f}–{max(all_):,.0f}) [{statistics.median(all_) / base:.2f}]")
    print("| " + " | ".join([name, *cells]) + " |")
print()
for run in runs:
    for words in run["result"]["failures"] + [note for note in run["result"]["notes"] if "BOTTLENECK" in note]:
        print(f"**{names[run['who']]}, {run['what']}: {words}**")
PYTHON
