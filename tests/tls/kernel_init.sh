#!/bin/busybox sh
# What the virtual machine of tests/tls/kernel.sh starts: two servers, 8443 with tls_kernel and 8444 without,
# and at 9000 what they and the kernel have counted.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in virtio_pci virtio_net aesni_intel ghash_clmulni_intel tls; do
    modprobe "$module" || true
done
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
ulimit -n 20000
ulimit -l unlimited

serve() {
    fanwire serve --dev --tls --shards 1 --host 0.0.0.0 --port "$1" --admin-listen "127.0.0.1:$2" \
        --send-queue-bytes-max 64MiB --log-level info $3 &
    echo $! >"/tmp/$1"
}
serve 8443 8763 --tls-kernel
serve 8444 8764 ""

cat >/tmp/status <<'STATUS'
#!/bin/sh
for port in 8443 8444; do
    set -- $(cat "/proc/$(cat /tmp/$port)/stat")
    echo "ticks $port $((${14} + ${15}))"
done
echo "metrics 8443"
wget -qO- http://127.0.0.1:8763/metrics
echo "metrics 8444"
wget -qO- http://127.0.0.1:8764/metrics
echo "tls_stat"
cat /proc/net/tls_stat
uname -r
STATUS
chmod +x /tmp/status
exec nc -ll -p 9000 -e /tmp/status
