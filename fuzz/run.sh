#!/usr/bin/env bash
# Fuzzes the dialects, beginning with what their transcripts say, the decoder of frames, compression, request
# heads, those of a trusted proxy, publications through the ring, configuration files, and connections with TLS;
# all begin with what fuzz/corpora has of earlier runs, too.
#
#   fuzz/run.sh [SECONDS [TARGET...]]
#
# A target is a dialect, `decoder`, `deflate`, `head`, `proxy`, `records`, `settings` or `tls`; 60 seconds for each of
# the twelve unless said otherwise. With KEEP=1, fuzz/corpora is made anew from the inputs that reach most for their
# length (fuzz/choose.py, which needs Python 3); tests/fuzz replays those.
# FANWIRE_FUZZ_TARGET_DIR may name a folder for what is built. Needs a nightly compiler and cargo-fuzz
# (`cargo install cargo-fuzz`). Found inputs lie in fuzz/corpus, what failed in fuzz/artifacts.
set -euo pipefail

seconds=${1:-60}
shift || true
[ $# -gt 0 ] || set -- gateway monitoring analytics assist notifications decoder deflate head proxy records settings tls
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
trap 'rm -f "$dictionary" "$dictionary.more"' EXIT
cat "$transcripts"/*/*.txt | grep -o '"[a-zA-Z_]*"' | sort -u | sed 's/"\(.*\)"/"\\"\1\\""/' >"$dictionary"
printf '"~\\x01\\x01\\x00\\x04"\n"!connect "\n"!leave "\n"!wait "\n"!as "\n"!end "\n"!cut "\n"?token="\n"ann/admin/publish/t1"\n' >>"$dictionary"

# Request heads: a listener and a way of cutting in two bytes, then the head without its empty line.
heads() { # FOLDER
    local key="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    local space=$'\xc2\xa0'
    local upgrade="Host: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n$key"
    printf "\0\1GET /ws?token=a%%2Eb&tenant=t HTTP/1.1\r\n$upgrade" >"$1/upgrade"
    printf "\1\2GET /ws/tenant/t%%31 HTTP/1.1\r\n$upgrade\r\nAuthorization: Bearer t" >"$1/tenant"
    printf "\2\3GET / HTTP/1.1\r\n$upgrade\r\nOrigin: https://app.example" >"$1/origin"
    printf "\0\4GET http://t.example.org/x HTTP/1.1\r\n%s\r\n$upgrade" \
        "Sec-WebSocket-Protocol: bearer, t, fanwire.analytics.v1" >"$1/subprotocols"
    printf "\0\5GET /ws HTTP/1.1\r\n$upgrade\r\nX-Tenant-ID: t\r\n\r\n\x89\x80\0\0\0\0" >"$1/ping"
    printf "\0\7GET /ws HTTP/1.1\r\n$upgrade\r\nSec-WebSocket-Version: 13" >"$1/versions"
    printf "\0\1GET /ws HTTP/1.1\r\n${upgrade/: web/: ${space}web}" >"$1/space"
    printf "\0\6POST /notify HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}" >"$1/notify"
    {
        printf '"%s"\n' "Host: h" "Upgrade: websocket" "Connection: Upgrade" "HTTP/1.1" "HTTP/1.0" \
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" "Sec-WebSocket-Version: 13" \
            "Sec-WebSocket-Protocol: bearer, t" "Content-Length: 0" "Transfer-Encoding: chunked" \
            "Origin: https://app.example" "X-Tenant-ID: t" "Authorization: Bearer t" \
            "\\x0d\\x0a" "?token=%41" "/ws/tenant/t" "\\xc2\\xa0"
    } >"$dictionary.more"
}

# The same from proxies, in each of the ways.
proxies() { # FOLDER
    local upgrade="GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    upgrade+="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    local start='\r\n\r\n\0\r\nQUIT\n'
    printf "\0\1PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n$upgrade" >"$1/v1"
    printf "\0\2PROXY TCP6 2001:db8::1 ::1 1 2\r\n$upgrade" >"$1/v1-ipv6"
    printf "\0\3PROXY UNKNOWN\r\n$upgrade" >"$1/v1-unknown"
    printf "\0\4$start\x21\x11\0\x0c\xc0\0\2\1\x0a\0\0\1\0\1\0\2$upgrade" >"$1/v2"
    printf "\0\5$start\x20\0\0\0$upgrade" >"$1/v2-local"
    printf "\0\6PROXY TCP4 10.0.0.2 10.0.0.1 1 2\r\n$upgrade\r\nX-Forwarded-For: 7.7.7.7, 192.0.2.1:9" >"$1/chain"
    printf "\0\7$upgrade\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: [2001:db8::1]:5, 10.0.0.2" >"$1/x-forwarded-for"
    printf "\x80\1$upgrade\r\nForwarded: for=\"[2001:db8::1]:_p\";by=_x, for=10.0.0.2;host=\"a,b\"" >"$1/forwarded"
    {
        printf '"%s"\n' "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\\x0d\\x0a" "PROXY UNKNOWN\\x0d\\x0a" \
            "\\x0d\\x0a\\x0d\\x0a\\x00\\x0d\\x0aQUIT\\x0a\\x21\\x11\\x00\\x0c" \
            "X-Forwarded-For: 10.0.0.2" "Forwarded: for=10.0.0.2" ", 10.0.0.2" ", for=10.0.0.2" "unknown" "_x" \
            "\\x22" "\\x5c"
    } >>"$dictionary.more"
}

# Connections with TLS: how each begins, and acts in pairs of bytes, as fuzz/src/tls.rs reads them.
connections() { # FOLDER
    # Something is said, before and behind the handshake, in records that are cut, and is answered.
    local talk="\0\5hello\2\377\4\0\5\11\6\310\2\3\1\1\2\143\5\1\0\3bye\16\0"
    printf "\0$talk" >"$1/tls13"
    printf "\1$talk" >"$1/tls12"
    printf "\40\2\377\4\0\6\377\6\377\6\377\15\0$talk" >"$1/resumed-tls13"
    printf "\41$talk" >"$1/resumed-tls12"
    printf "\100$talk" >"$1/small-tls13"
    printf "\141$talk\7\0" >"$1/small-resumed-tls12"
    local header
    for header in 1 2 3 4 5 6 7; do
        printf "\\$(printf %o $((2 + 4 * header)))\3\0\3\1$talk" >"$1/proxy-$header"
        printf "\\$(printf %o $((130 + 4 * header)))\1\26\3\1\0\1\0" >"$1/cut-proxy-$header"
    done
    printf "\4$talk" >"$1/proxy-unexpected"
    printf '\0\2\377\4\0\6\377\6\377\2\377\1\372\2\3\1\372\2\377' >"$1/large"
    # Much follows the last message of the handshake before that is handled.
    printf '\1\2\376\4\0\6\377\6\377\6\377\6\377\6\377\1\143\2\376\4\0' >"$1/much-behind"
    local act
    for act in 10 11 12 13; do
        printf "\0\\$act\5$talk" >"$1/damaged-hello-$act"
        printf "\0\2\3\4\0\6\377\6\377\6\377\6\377\0\3abc\0\3def\\$act\2$talk" >"$1/damaged-$act"
    done
    printf '\0\2\377\4\0\6\377\6\377\6\377\6\377\2\377\4\0\14\6\27\3\3\0\1\0\0\2hi' >"$1/foreign-record"
    printf '\0\2\377\4\0\6\377\6\377\0\4some\17\0' >"$1/cut-off"
    printf '\200\1GET / HTTP/1.1\r\nHost: h\r\n\r\n' >"$1/http"
    printf '\202\1PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nGET / HTTP/1.1\r\n\r\n' >"$1/proxy-http"
    # New keys, an answer and an end, all while a send is in flight.
    local open='\2\377\4\0\6\377\6\377\6\377\6\377\6\377\6\377\2\377\4\0\6\377\6\377\6\377\6\377'
    printf "\0$open\5\10\6\20\15\0\2\377\4\0\6\377\5\1\6\377\1\1\2\377" >"$1/keys-in-flight"
    printf "\0$open\5\10\6\20\7\0\2\377\6\377" >"$1/end-in-flight-tls13"
    printf "\1$open\5\10\6\20\7\0\2\377\6\377" >"$1/end-in-flight-tls12"
    # Records, 29 times: what a message of the handshake announces is too long, and alerts.
    printf '\200\342\26\3\1\4\0\1\0\377\377%01020d' 0 >"$1/long-hello"
    printf '\200\301\26\3\1\0\5\1\0\377\3\3' >"$1/short-records"
    printf '\200\1\25\3\3\0\2\1\0' >"$1/close-notify"
    printf '\200\1\24\3\3\0\1\1' >"$1/change-cipher-spec"
    # A client's first message, not longer than it has to be.
    printf '\200\7\26\3\1\0\164\1\0\0\160\3\3%032d\0\0\4\23\1\300\53\1\0\0\103' 0 >"$1/hello"
    printf '\0\53\0\5\4\3\4\3\3\0\12\0\4\0\2\0\35\0\15\0\4\0\2\4\3\0\63\0\46\0\44\0\35\0\40%032d' 0 >>"$1/hello"
    printf '%s\n' '"\x16\x03\x01"' '"\x16\x03\x03"' '"\x17\x03\x03"' '"\x15\x03\x03\x00\x02\x02"' \
        '"\x14\x03\x03\x00\x01\x01"' '"GET / HTTP/1.1"' '"PROXY UNKNOWN\x0d\x0a"' '"\x02\xff\x04\x00"' \
        '"\x06\xff\x06\xff"' >"$dictionary.more"
}

# The inputs of earlier runs: one in each line, in base64.
unpack() { # TARGET
    local number=0 line
    [ -f "corpora/$1.txt" ] || return 0
    while read -r line; do
        number=$((number + 1))
        base64 -d <<<"$line" >"corpus/$1/kept-$number"
    done <"corpora/$1.txt"
}

# Of all inputs those that reach most for their length, up to 24 KiB of lines.
keep() { # TARGET
    local merged
    merged=$(mktemp -d)
    mkdir "$merged/inputs"
    cargo +nightly fuzz run --fuzz-dir . ${FANWIRE_FUZZ_TARGET_DIR:+--target-dir "$FANWIRE_FUZZ_TARGET_DIR"} \
        "$1" "$merged/inputs" "corpus/$1" -- -set_cover_merge=1 -merge_control_file="$merged/features" \
        -malloc_limit_mb=64
    mkdir -p corpora
    ./choose.py "$merged/features" 24576 >"$merged/chosen"
    mv "$merged/chosen" "corpora/$1.txt"
    rm -rf "$merged"
}

for target in "$@"; do
    mkdir -p "corpus/$target"
    unpack "$target"
    words=$dictionary
    case $target in
        decoder)
            # Headers: text, binary, a control frame, lengths in two and in eight bytes.
            printf '"%s"\n' '\x81\x85' '\x02\xfe\x00\x7e' '\x80\xff' '\x89\x80' '\x88\x82' >"$dictionary.more"
            words=$dictionary.more
            ;;
        deflate)
            # RFC 7692 7.2.3: compressed, stored, final, in two blocks.
            printf '\xf2\x48\xcd\xc9\xc9\x07\x00' >corpus/deflate/compressed
            printf '\x00\x05\x00\xfa\xffHello\x00' >corpus/deflate/stored
            printf '\xf3\x48\xcd\xc9\xc9\x07\x00\x00' >corpus/deflate/final
            printf '\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00' >corpus/deflate/blocks
            printf '%s\n' '"\x00\x00\xff\xff"' '"\x03\x00"' '"\x01\x00\x00\xff\xff"' >"$dictionary.more"
            words=$dictionary.more
            ;;
        head)
            heads "corpus/$target"
            words=$dictionary.more
            ;;
        proxy)
            heads "corpus/$target"
            proxies "corpus/$target"
            words=$dictionary.more
            ;;
        records)
            for first in 0 1 8 9 24 25 241; do
                printf "\\$(printf %o "$first")some data" >"corpus/records/$first"
            done
            ;;
        settings)
            cp "$transcripts/../../clients/three_listeners.toml" corpus/settings/listeners
            printf 'dev = true\nshards = 2\nring_bytes = "1 MiB"\nhistory = ["news* messages=9 age=1h"]\n' >corpus/settings/dev
            printf '%s\n' 'jwt_secret = "0123456789abcdef0123456789abcdef"' '[gateway]' \
                'rate_limit = { messages = 9, window = "60s" }' '[[publish_rules]]' 'channels = ["room:*"]' \
                'require = "role:a"' >corpus/settings/rules
            grep -oE '`[a-z_.]+`' "$here/../docs/CONFIGURATION.md" | sort -u | tr '`' '"' >"$dictionary.more"
            words=$dictionary.more
            ;;
        tls)
            connections corpus/tls
            words=$dictionary.more
            ;;
        *)
            for file in "$transcripts/$target"/*.txt; do
                name=$(basename "$file" .txt)
                as_input "$file" >"corpus/$target/$name"
                # The same in fragments, and in several reads.
                { echo "!cut ${#name}"; as_input "$file"; } >"corpus/$target/$name.cut"
            done
            printf '%s\n' '!leave 0' '!connect 0 ?token=ann/admin/publish/' \
                '{"type":"subscribe","data":{"channel":"news","binary":true}}' >"corpus/$target/binary"
            printf '~\1\1\0\4newsbytes\n~\1\1\377\377news\n~{"type":"ping"}\n' >>"corpus/$target/binary"
            ;;
    esac
    cargo +nightly fuzz run --fuzz-dir . ${FANWIRE_FUZZ_TARGET_DIR:+--target-dir "$FANWIRE_FUZZ_TARGET_DIR"} \
        "$target" -- -max_total_time="$seconds" -max_len=4096 -dict="$words" -print_final_stats=1 \
        -malloc_limit_mb=64 -timeout=60
    [ -z "${KEEP:-}" ] || keep "$target"
done
