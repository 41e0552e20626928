#!/bin/busybox sh
# The first part of every /init: busybox's applets, the usual mounts, a console.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
ln -s /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${n%:*} /dev/${n#*:}; done
exec </dev/console >/dev/console 2>&1
dmesg -n 1
ip link set lo up
up() { cut -d' ' -f1 /proc/uptime; }
# Inserts the modules whose names do not begin with $1.
insert() {
  for m in $(grep -v "^$1" /modules/order); do
    insmod /modules/$m.ko || echo "@@ insmod $m failed"
  done
}
