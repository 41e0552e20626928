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
echo "LINUX done $(up)"
grep -q poweroff /proc/cmdline && poweroff -f
reboot -f
