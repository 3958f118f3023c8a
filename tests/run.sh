#!/usr/bin/env bash
# Runs all tests of fanwire, and nothing that needs a quiet machine (that is tests/acceptance.sh).
#
#   tests/run.sh
#
# For Debian; elsewhere CHROMIUM names a Chromium for the tests. Rust comes from https://rustup.rs; what
# else is missing is installed with apt, by sudo unless root runs this. Stops at the first part that
# fails. With REQUIRE_ALL=1, it is a failure if a part cannot run here.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Nothing here asks anything.
exec </dev/null
target=${CARGO_TARGET_DIR:-target}

install_missing() {
    local packages=()
    command -v gcc >/dev/null || packages+=(gcc libc6-dev)
    command -v c++ >/dev/null || packages+=(g++)
    command -v valgrind >/dev/null || packages+=(valgrind)
    command -v go >/dev/null || packages+=(golang-go)
    command -v make >/dev/null || packages+=(make)
    command -v cmake >/dev/null || packages+=(cmake)
    command -v pkg-config >/dev/null || packages+=(pkg-config)
    command -v curl >/dev/null || packages+=(curl)
    command -v openssl >/dev/null || packages+=(openssl)
    command -v python3 >/dev/null || packages+=(python3)
    PATH=$PATH:/usr/sbin command -v nginx >/dev/null || packages+=(nginx)
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || packages+=(libnginx-mod-stream)
    PATH=$PATH:/usr/sbin command -v haproxy >/dev/null || packages+=(haproxy)
    PATH=$PATH:/usr/sbin command -v mkfs.ext4 >/dev/null || packages+=(e2fsprogs)
    [ -n "${CHROMIUM:-}" ] || command -v chromium-headless-shell >/dev/null || packages+=(chromium-headless-shell)
    command -v testssl >/dev/null || packages+=(testssl.sh)
    command -v redis-server >/dev/null || packages+=(redis-server)
    PATH=$PATH:/usr/sbin command -v ip >/dev/null || packages+=(iproute2)
    PATH=$PATH:/usr/sbin command -v nft >/dev/null || packages+=(nftables)
    command -v redis-sentinel >/dev/null || packages+=(redis-sentinel)
    command -v promtool >/dev/null || packages+=(prometheus)
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
    if [ ${#packages[@]} -gt 0 ]; then
        local root=()
        [ "$(id -u)" -eq 0 ] || root=(sudo)
        echo "installing ${packages[*]}"
        "${root[@]}" apt-get update -qq
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${packages[@]}"
    fi
    if ! command -v cargo >/dev/null; then
        echo "tests/run.sh: cargo is missing; install Rust from https://rustup.rs" >&2
        exit 2
    fi
}

parts=0
part() { # HEADING COMMAND...
    local heading=$1 began=$SECONDS
    shift
    printf '\n=== %s: %s\n' "$heading" "$*"
    "$@" || { echo "tests/run.sh: FAILED: $heading" >&2; exit 1; }
    parts=$((parts + 1))
    echo "=== $heading: passed in $((SECONDS - began)) s"
}

install_missing
part "Format" cargo fmt --all --check
part "Lints" cargo clippy --workspace --all-targets -- -D warnings
part "Tests" cargo test --workspace
# Under loom the ring's atomics are loom's own, in a folder of their own: other flags would rebuild
# everything each time.
part "Ring under loom" env RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$target/loom" \
    cargo test -p fanwire-ring --test loom --release
part "Ring from C, C++, Python and Go" ring/capi/tests/run.sh "$target"
part "Publishers in shared memory" tests/publishers/run.py "$target/debug/fanwire"
part "Documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace
# Most of the time these wait: they run beside each other and beside those that follow.
# Python 2.7, which the conformance suite needs, is in no current distribution.
if_possible=--if-possible
[ -z "${REQUIRE_ALL:-}" ] || if_possible=
first_beside() {
    part "Several nodes over Redis" tests/nodes/all.sh "$target/debug/fanwire"
    part "WebSocket conformance" tests/conformance/run.py "$target/debug/examples/echo" $if_possible
    part "WebSocket conformance of the load generator" \
        tests/conformance/run.py --client "$target/debug/fanwire-loadtest" $if_possible
}
second_beside() {
    part "TLS by testssl.sh" tests/tls/run.py "$target/debug/fanwire"
    part "Traces by OpenTelemetry" tests/otlp/run.py "$target/debug/fanwire"
    part "Metrics by Prometheus" tests/prometheus/run.py "$target/debug/fanwire"
}
logs=$(mktemp -d)
first_beside >"$logs/first" 2>&1 &
first_id=$!
second_beside >"$logs/second" 2>&1 &
second_id=$!
trap 'kill "$first_id" "$second_id" 2>/dev/null || true; rm -rf "$logs"' EXIT
part "Clients by other hands" tests/clients/run.sh "$target/debug/fanwire"
part "HTTP API as it describes itself" tests/openapi/run.sh "$target/debug/fanwire"
part "Behind proxies" tests/proxies/run.py "$target/debug/fanwire"
part "Behind mitmproxy" tests/proxies/mitmproxy.py "$target/debug/fanwire"
is_failed=
wait "$first_id" || is_failed=1
wait "$second_id" || is_failed=1
cat "$logs"/*
[ -z "$is_failed" ] || exit 1
parts=$((parts + 6))
echo
echo "tests/run.sh: $parts parts passed"
