# A stock Linux as somebody's guest: says what it sees, and takes each disk through a write and back.
echo "LINUX init $(up)"
if [ -e /sys/hypervisor/type ]; then insert hv_; else insert xen_; fi
sleep 2
dmesg | grep -iE 'hyper-v|hv_|vmbus|xen|storvsc| sd[a-z]|xvd' | tail -40
for d in /sys/bus/vmbus/devices/*; do
  [ -e $d ] && echo "LINUX vmbus $(cat $d/class_id) $(basename $(readlink $d/driver) 2>/dev/null)"
done
for d in /sys/bus/xen/devices/*; do
  [ -e $d ] && echo "LINUX xen $(basename $d) $(basename $(readlink $d/driver) 2>/dev/null)"
done
forget() { echo 3 >/proc/sys/vm/drop_caches; }
sum() { sha256sum /dev/$1 | cut -d' ' -f1; }
for disk in sda xvda; do
  [ -b /dev/$disk ] || continue
  size=$(cat /sys/block/$disk/size)
  echo "LINUX disk $disk $size sectors sha256 $(sum $disk)"
  last=$((size / 2048 - 1))
  dd if=/dev/$disk of=/tmp/keep bs=1M skip=$last count=1 2>/dev/null
  dd if=/dev/urandom of=/tmp/new bs=1M count=1 2>/dev/null
  dd if=/tmp/new of=/dev/$disk bs=1M seek=$last conv=fsync 2>/dev/null
  forget
  dd if=/dev/$disk of=/tmp/back bs=1M skip=$last count=1 2>/dev/null
  cmp /tmp/new /tmp/back && echo "LINUX disk $disk write verified"
  dd if=/tmp/keep of=/dev/$disk bs=1M seek=$last conv=fsync 2>/dev/null
  forget
  echo "LINUX disk $disk restored sha256 $(sum $disk)"
done
for disk in sda xvda; do
  [ -b /dev/${disk}1 ] || continue
  mkdir -p /disk
  mount -t vfat -o ro /dev/${disk}1 /disk && cp -r /disk/* /www/
  umount /disk
done
# Gets an address for the NIC, if it has none: it may be a new one under the same name.
address() {
  ip addr show eth0 2>/dev/null | grep -q 'inet ' && return
  ip link set eth0 up 2>/dev/null || return
  udhcpc -i eth0 -n -q -t 10 -T 2 -s /etc/dhcp.sh 2>/dev/null | grep LINUX
}
if [ -e /sys/class/net/eth0 ]; then
  address
  router=$(ip route | sed -n 's/^default via \([^ ]*\).*/\1/p')
  ping -q -c 5 -i 0.2 -W 2 $router | sed -n 's/^/LINUX net ping /p' | grep transmitted
  from=$(sed -n 's/.*fetch=\([^ ]*\).*/\1/p' /proc/cmdline)
  [ -z "$from" ] || echo "LINUX net fetched sha256 $(wget -q -O - $from | sha256sum | cut -d' ' -f1)"
  httpd -p 80 -h /www
  echo "SERVING http://$(ip addr show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')/"
  until=$(($(up | cut -d. -f1) + 90))
  while [ ! -e /tmp/quit ] && [ $(up | cut -d. -f1) -lt $until ]; do usleep 200000; address; done
  dmesg | grep -iE 'netvsc|netfront|vif|eth0|vmbus' | tail -12
  for count in rx_packets rx_bytes tx_packets tx_bytes rx_errors tx_errors rx_dropped tx_dropped; do
    echo "LINUX net $count $(cat /sys/class/net/eth0/statistics/$count)"
  done
fi
echo "LINUX done $(up)"
grep -q poweroff /proc/cmdline && poweroff -f
reboot -f
