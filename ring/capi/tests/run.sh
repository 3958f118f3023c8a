#!/usr/bin/env bash
# The C API of the ring with the tools of other languages: C and C++ under valgrind and with AddressSanitizer, the
# Python package as a wheel, Go.
#
#   ring/capi/tests/run.sh [TARGET]
#
# TARGET is cargo's target folder. Needs a C++ compiler, valgrind, Go, and Python with venv; tests/run.sh installs what is
# missing. AddressSanitizer needs a nightly toolchain, and is left out without one.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$(mkdir -p "${1:-$here/../../target}" && cd "${1:-$here/../../target}" && pwd)
work=$target/ring-capi
mkdir -p "$work"
CARGO_TARGET_DIR=$target cargo build --quiet --manifest-path "$here/Cargo.toml"
libraries=$target/debug
export LD_LIBRARY_PATH=$libraries

compile() { # COMPILER SOURCE
    local program
    program=$work/$(basename "$2" | tr . -)
    $1 -O1 -g -Wall -Wextra -Werror -I "$here/include" "$here/$2" -L "$libraries" -lfanwire_ring -lpthread -o "$program"
    echo "$program"
}

# Any error, and any byte that is not given back, is a failure.
checked() { # PROGRAM ARGUMENT...
    timeout 300 valgrind --quiet --fair-sched=yes --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect \
        --errors-for-leak-kinds=definite,indirect --trace-children=yes "$@"
}

echo "--- C and C++ under valgrind"
checked "$(compile cc examples/threads.c)"
checked "$(compile cc examples/processes.c)" "$work/processes.socket"
checked "$(compile "c++ -std=c++17" examples/raii.cpp)"
checked "$(compile cc tests/wrong_arguments.c)"

if cargo +nightly --version > /dev/null 2>&1; then
    echo "--- C and C++ with AddressSanitizer, as the library is"
    host=$(rustc +nightly -vV | sed -n 's/^host: //p')
    RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$work/sanitized \
        cargo +nightly build --quiet --manifest-path "$here/Cargo.toml" --target "$host"
    # compile() and the programs find this library instead.
    libraries=$work/sanitized/$host/debug
    export LD_LIBRARY_PATH=$libraries
    timeout 300 "$(compile "cc -fsanitize=address" examples/threads.c)"
    timeout 300 "$(compile "cc -fsanitize=address" examples/processes.c)" "$work/processes.socket"
    timeout 300 "$(compile "c++ -std=c++17 -fsanitize=address" examples/raii.cpp)"
    timeout 300 "$(compile "cc -fsanitize=address" tests/wrong_arguments.c)"
    libraries=$target/debug
    export LD_LIBRARY_PATH=$libraries
else
    echo "--- no nightly toolchain, so nothing is run with AddressSanitizer"
fi

echo "--- Python"
python=$work/venv/bin/python
[ -x "$python" ] || python3 -m venv "$work/venv"
"$python" -m pip install --quiet --disable-pip-version-check "pytest>=8,<10"
# As a user installs it, with the library of this build.
rm -rf "$work/wheel"
FANWIRE_RING_LIBRARY=$libraries/libfanwire_ring.so \
    "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/wheel" "$here/python"
"$python" -m pip install --quiet --disable-pip-version-check --force-reinstall "$work"/wheel/*.whl
(cd "$work" && env -u LD_LIBRARY_PATH timeout 300 "$python" -m pytest -q -p no:cacheprovider "$here/python/tests")

echo "--- Go"
(cd "$here/examples/go" && CGO_CFLAGS=-I$here/include CGO_LDFLAGS=-L$libraries GOFLAGS=-mod=mod timeout 300 go run .)
