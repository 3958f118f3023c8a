#!/usr/bin/env bash
# Installs the peers that compare.sh measures against into a folder (default: target/peers), builds
# uws there and prints its path. Needs a C compiler, pip, and libuv1 or the right to install it.
# Running it again is cheap.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${1:-$here/../../target/peers}
mkdir -p "$target"
target=$(cd "$target" && pwd)

if ! ldconfig -p | grep -q 'libuv\.so\.1'; then
    apt-get update -qq >&2
    apt-get install -y -qq libuv1 >&2
fi

library=$target/libsocketify_linux_amd64.so
if [ ! -f "$library" ]; then
    case $(uname -m) in
        x86_64) ;;
        *) echo "setup: socketify 0.0.31 carries uWebSockets for x86_64 only" >&2; exit 1 ;;
    esac
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # The file is taken out of the package, nothing of it is run: no Python dependency is needed.
    python3 -m pip download --quiet --no-deps --dest "$work" 'socketify==0.0.31'
    if compgen -G "$work/*.whl" >/dev/null; then
        python3 -m zipfile -e "$work"/*.whl "$work"
    else
        tar -xzf "$work"/*.tar.gz -C "$work"
    fi
    find "$work" -name libsocketify_linux_amd64.so -exec cp {} "$library" \;
fi
[ -f "$library" ] || { echo "setup: the package holds no libsocketify_linux_amd64.so" >&2; exit 1; }

cc -O2 -Wall -Wextra -o "$target/uws" "$here/uws.c" "$library" -Wl,-rpath,"$target"
echo "$target/uws"
