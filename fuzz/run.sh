#!/usr/bin/env bash
# Fuzzes the dialects, beginning with what their transcripts say.
#
#   fuzz/run.sh [SECONDS [DIALECT...]]
#
# 60 seconds for each of the five unless said otherwise. Needs a nightly compiler and cargo-fuzz
# (`cargo install cargo-fuzz`). Found inputs lie in fuzz/corpus, what failed in fuzz/artifacts.
set -euo pipefail

seconds=${1:-60}
shift || true
[ $# -gt 0 ] || set -- gateway monitoring analytics assist notifications
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
transcripts=$here/../tests/it/transcripts
cd "$here"

# A transcript as an input: its clients by number, its tokens as fuzz/src/lib.rs reads them, and what
# the program publishes as messages of the publisher.
as_input() { # FILE
    awk '
        function number(name) { if (!(name in numbers)) numbers[name] = count++ % 4; return numbers[name] }
        function named(text) {
            for (name in tokens) gsub("[$]" name, tokens[name], text)
            gsub(/[$]subscription:[a-z]+/, "sub_0000000000000001", text)
            return text
        }
        function published(channel, data) {
            sub(/^\[/, "", data); sub(/\]$/, "", data)
            print "+{\"type\":\"publish\",\"data\":{\"channel\":\"" channel "\",\"type\":\"m\",\"data\":" data "}}"
        }
        BEGIN { streams["event"] = "events"; streams["metrics"] = "metrics"; streams["alert"] = "alerts" }
        { rest = $0; sub(/^[^ ]+ */, "", rest) }
        $1 == ">" { print named(rest) }
        $1 == "@token" { tokens[$2] = $2 "/" (/admin/ ? "admin" : "user") "/publish/" (/tenant_id/ ? "t1" : "") }
        $1 == "@connect" {
            sub(/\|.*/, "", rest); query = index(rest, "?") ? substr(rest, index(rest, "?")) : ""
            print "!leave " number($2); print "!connect " number($2) " " named(query)
        }
        $1 == "@as" || $1 == "@nothing" { print "!as " number($2) }
        $1 == "@leave" { print "!leave " number($2) }
        $1 == "@close" { print "!wait 30000"; print "!end " number($2) }
        $1 == "@api" && $2 ~ /^broadcast_(event|metrics|alert)$/ {
            stream = streams[substr($2, 11)]; sub(/^[^ ]+ */, "", rest); published("stream:" stream, rest)
        }
        $1 == "@api" && $2 ~ /^(broadcast|broadcast_property|send_to_room)$/ {
            prefix = $2 == "broadcast" ? "" : $2 == "send_to_room" ? "room:" : "prop:"
            split(rest, quoted, "\""); data = substr(rest, index(rest, ", ") + 2)
            if ($2 == "broadcast") data = substr(data, index(data, ", ") + 2)
            published(prefix quoted[2], data)
        }
    ' "$1"
}

dictionary=$(mktemp)
trap 'rm -f "$dictionary"' EXIT
cat "$transcripts"/*/*.txt | grep -o '"[a-zA-Z_]*"' | sort -u | sed 's/"\(.*\)"/"\\"\1\\""/' >"$dictionary"
printf '"!connect "\n"!leave "\n"!wait "\n"!as "\n"!end "\n"?token="\n"ann/admin/publish/t1"\n' >>"$dictionary"

for dialect in "$@"; do
    mkdir -p "corpus/$dialect"
    for file in "$transcripts/$dialect"/*.txt; do
        as_input "$file" >"corpus/$dialect/$(basename "$file" .txt)"
    done
    cargo +nightly fuzz run --fuzz-dir . "$dialect" -- \
        -max_total_time="$seconds" -max_len=4096 -dict="$dictionary" -print_final_stats=1
done
