# Xen's dom0: the store, the consoles, then xl works.
insert none
# Else as many queue pairs as dom0 has processors.
echo 4 >/sys/module/xen_netback/parameters/max_queues
wire
mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /run/lock /var/log/xen/console /var/lib/xen
rm -rf /var/lock /var/run
ln -s /run/lock /var/lock
ln -s /run /var/run
xenstored --pid-file=/run/xenstored.pid || echo "@@ xenstored failed"
for i in $(seq 1 100); do
  xenstore-read -s / >/dev/null 2>&1 && break
  usleep 100000
done
xen-init-dom0 || echo "@@ xen-init-dom0 failed"
xenconsoled --log=all --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid || echo "@@ xenconsoled failed"
xl info | grep -E '^(xen_version|xen_caps|total_memory)'
