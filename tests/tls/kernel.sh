#!/usr/bin/env bash
# Does the kernel encrypt for the real server (`tls_kernel`)?
#
#   tests/tls/kernel.sh FANWIRE [PACKAGE]
#
# Few machines of developers have the kernel's TLS, so this starts a virtual machine with a kernel of Debian
# that has it, and the server in it; tests/tls/kernel.py is its client. PACKAGE is a package of that kernel,
# such as linux-image-6.18.15+deb13-cloud-amd64; without it, the newest cloud kernel of trixie is taken. It is
# downloaded to WORK (by default build/kernel-tls below the temporary directory), and so is cpio if it is
# missing. qemu-system-x86_64, busybox-static, python3, curl and openssl must be there.
#
# The machine is emulated (TCG) unless ACCELERATION says otherwise, so it takes some minutes. Fails when
# anything is not as it should be.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { sed -n 's/^# \{0,1\}//; 3,5p' "$0" >&2; exit 2; }
fanwire=$(realpath "$1")
work=${WORK:-${TMPDIR:-/tmp}/build/kernel-tls}
mkdir -p "$work"
for program in qemu-system-x86_64 busybox python3 curl openssl xz strip; do
    command -v "$program" >/dev/null || { echo "$program is missing" >&2; exit 2; }
done

# Debian's own packages, whatever this host's lists of packages are.
apt_of_trixie() {
    local program=$1
    shift
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$work"/apt/{lists,cache}
    printf 'deb [signed-by=%s] http://deb.debian.org/debian %s main\n' \
        "$keyring" trixie "$keyring" trixie-backports >"$work/apt/sources.list"
    "$program" -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" \
        -o APT::Architecture=amd64 -o APT::Sandbox::User=root "$@"
}

package=${2:-}
compgen -G "$work/apt/lists/*Packages*" >/dev/null || apt_of_trixie apt-get -qq update
if [ -z "$package" ]; then
    package=$(apt_of_trixie apt-cache show linux-image-cloud-amd64/trixie |
        sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -1)
fi
image=$work/$package
if [ ! -d "$image" ]; then
    (cd "$work" && apt_of_trixie apt-get -qq download "$package")
    dpkg -x "$work/$package"_*.deb "$image.part"
    mv "$image.part" "$image"
fi
PATH=$PATH:$work/cpio/usr/bin:$work/cpio/bin
if ! command -v cpio >/dev/null; then
    (cd "$work" && apt-get -qq download cpio)
    dpkg -x "$work"/cpio_*.deb "$work/cpio"
fi

# The machine's files: busybox, the modules that it needs, the server and its libraries.
root=$work/root
rm -rf "$root"
mkdir -p "$root"/{bin,sbin,proc,sys,dev,etc,tmp,lib/modules}
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s ../bin/busybox "$root/sbin/modprobe"
modules=$(echo "$image"/usr/lib/modules/*)
[ -d "$modules" ] || modules=$(echo "$image"/lib/modules/*)
release=$(basename "$modules")
mkdir -p "$root/lib/modules/$release"
cp "$modules"/modules.* "$root/lib/modules/$release/"
for folder in crypto arch/x86/crypto arch/x86/lib lib/crypto net/tls net/core drivers/net/virtio_net* \
    drivers/net/net_failover* drivers/virtio; do
    for found in "$modules"/kernel/$folder; do
        [ -e "$found" ] || continue
        target=$root/lib/modules/$release/kernel/${found#"$modules"/kernel/}
        mkdir -p "$(dirname "$target")"
        cp -r "$found" "$target"
    done
done
find "$root/lib/modules" -name '*.ko.xz' -exec xz -d {} +
busybox depmod -b "$root" "$release"
cp "$fanwire" "$root/bin/fanwire"
strip "$root/bin/fanwire"
for library in $(ldd "$fanwire" | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
cp "$here/kernel_init.sh" "$root/init"
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc 2>/dev/null | gzip -1) >"$work/init.gz"

read -r kernel_port process_port status_port < <(python3 - <<'PYTHON'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(it.getsockname()[1] for it in sockets))
PYTHON
)
console=$work/console.txt
qemu-system-x86_64 -accel "${ACCELERATION:-tcg}" -cpu max -smp 2 -m 2048 -nographic -no-reboot \
    -kernel "$image"/boot/vmlinuz-* -initrd "$work/init.gz" -append "console=ttyS0 quiet panic=-1" \
    -netdev "user,id=n,hostfwd=tcp:127.0.0.1:$kernel_port-:8443,hostfwd=tcp:127.0.0.1:$process_port-:8444,hostfwd=tcp:127.0.0.1:$status_port-:9000" \
    -device virtio-net-pci,netdev=n </dev/null >"$console" 2>&1 &
machine=$!
trap 'kill $machine 2>/dev/null || true; wait $machine 2>/dev/null || true' EXIT

echo "kernel $release"
if python3 "$here/kernel.py" "$kernel_port" "$process_port" "$status_port"; then
    echo "kernel.sh: all is as it should be"
else
    echo "kernel.sh: something failed; the machine's console is $console:" >&2
    tail -30 "$console" >&2
    exit 1
fi
