# The servers that compare.sh, compression.sh and neighbours.sh measure, and how one measurement is
# made. Sourced by them, after they have set:
#   here           the folder of this file
#   name           of the script, for errors
#   fanwire        path of the program, or - for none
#   serve_options  options of `fanwire serve` beside shards and address
# Sets servers (names in the order of measuring), loadtest, results; a script may add to servers.
# shellcheck shell=bash disable=SC2154

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
# With TLS=1 the servers speak TLS, all with one certificate of an elliptic curve.
scheme=ws
uws_options=()
if [ "${TLS:-}" = 1 ]; then
    scheme=wss
    certificates=$(mktemp -d)
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 2 \
        -keyout "$certificates/key.pem" -out "$certificates/certificate.pem" 2>/dev/null
    uws_options=(-t "$certificates/certificate.pem" "$certificates/key.pem")
    serve_options+=(--tls-certificates "$certificates/certificate.pem $certificates/key.pem")
fi
stop_server() {
    if [ -n "$server_pid" ]; then
        kill "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
        server_pid=
    fi
}
clean_up() {
    stop_server
    if [ -n "${certificates:-}" ]; then rm -r "$certificates"; fi
}
trap clean_up EXIT

servers=(uws)
if [ "$fanwire" != - ]; then
    [ -x "$fanwire" ] || { echo "$name: $fanwire is not a program" >&2; exit 2; }
    servers+=(fanwire)
fi

# A port of its own for each run: connections of the run before are still in TIME_WAIT.
port=$((20000 + RANDOM % 8000))

# Runs a program on core 0 without transparent huge pages (PR_SET_THP_DISABLE, 41): in steps of 2 MiB
# nobody can tell what ten thousand connections take. SERVER_NICE is its priority, from -20 to 19,
# where that is permitted; with autogroups the kernel compares those of sessions, so it gets its own.
serve() { # PROGRAM ARGUMENTS...
    exec taskset -c 0 python3 -c '
import ctypes, os, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
nice = os.environ.get("SERVER_NICE")
try:
    if nice:
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, int(nice))
        open("/proc/self/autogroup", "w").write(nice)
except OSError:
    pass
os.execv(sys.argv[1], sys.argv[1:])' "$@" >/dev/null 2>&1
}

start_server() { # NAME: sets server_pid and target
    port=$((port + 1))
    case $1 in
        uws | uws_shared | uws_dedicated)
            local -a compressor=()
            if [ "$1" != uws ]; then compressor=(-c "${1#uws_}"); fi
            serve "$uws" "${uws_options[@]}" "${compressor[@]}" "$port" &
            target=(--url "$scheme://127.0.0.1:$port/" --dialect verbatim)
            ;;
        fanwire | deflate | analytics | baseline | limited)
            local program=$fanwire token=${TOKEN:-}
            local -a options=("${serve_options[@]}") environment=()
            if [ "$1" = baseline ]; then program=$baseline; fi
            if [ "$1" = deflate ]; then options+=(--compression deflate); fi
            if [ "$1" = limited ]; then
                token=$limited_token
                options=()
                environment=("${limits[@]}")
            fi
            (
                for variable in "${environment[@]}"; do export "${variable?}"; done
                serve "$program" serve "${options[@]}" --shards 1 --listen "127.0.0.1:$port"
            ) &
            target=(--url "$scheme://127.0.0.1:$port/ws" --dialect gateway)
            if [ "$1" = analytics ]; then
                target=(--url "$scheme://127.0.0.1:$port/analytics" --dialect analytics)
            fi
            if [ -n "$token" ]; then target+=(--token "$token"); fi
            ;;
    esac
    server_pid=$!
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "$name: $1 does not listen on port $port" >&2
    exit 1
}

record() { # WHO WHAT JSON
    [ -n "$3" ] || { echo "$name: no result of $1 in $2" >&2; exit 1; }
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

