# Runs the command, its output into ./out; ends it soon after the guest's last line or when its time is up.
# $1 is the seconds it may take.
watch() {
  limit=$(($1 * 5)); shift
  "$@" </dev/null >out 2>&1 &
  pid=$! waited=0 grace=15
  while kill -0 $pid 2>/dev/null && [ $waited -lt $limit ] && [ $grace -gt 0 ]; do
    usleep 200000
    waited=$((waited + 1))
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
