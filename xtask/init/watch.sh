# Tells the outside once that the guest whose console is $1 serves.
told= replugged=
tell() {
  [ -z "$told" ] && grep -q '^SERVING ' $1 2>/dev/null || return 0
  told=1
  echo "@@ serving"
}
# What is to happen again and again while the guest runs; a job may define it anew.
meanwhile() { :; }
# Takes the NIC away three seconds after the guest began to serve, and puts it back three seconds later.
replug() {
  [ -n "$told" ] && [ -z "$replugged" ] || return 0
  replugged=1
  sleep 3
  unplug
  sleep 3
  plug
  echo "@@ replugged"
}
# Runs the command, its output into ./out; ends it soon after the guest's last line or when its time is up.
# $1 is the seconds it may take.
watch() {
  limit=$(($1 * 5)); shift
  "$@" </dev/null >out 2>&1 &
  pid=$! waited=0 grace=15
  while kill -0 $pid 2>/dev/null && [ $waited -lt $limit ] && [ $grace -gt 0 ]; do
    usleep 200000
    waited=$((waited + 1))
    tell out
    meanwhile
    grep -q '^RESULT ' out && grace=$((grace - 1))
  done
  kill -9 $pid 2>/dev/null
  wait $pid
  status=$?
  cat out
  [ $waited -lt $limit ] || echo "HARNESS the guest's time was up"
  [ $grace -gt 0 ] || echo "HARNESS the host was ended after the guest's last line"
  echo "HARNESS status $status"
}
# Keeps the disk as it is now, and says later whether the guest left it so. $1 is its size in bytes: the VHD's
# footer does not count. Busybox's own cmp takes a byte at a time.
keep() { cp disk.vhd kept.vhd; }
left() { if gnu-cmp -n $1 disk.vhd kept.vhd; then echo "HARNESS disk same"; else echo "HARNESS disk changed"; fi; }
