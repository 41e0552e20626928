#!/bin/sh
# The hotplug script of a domU's disk: tells blkback which block device it serves. $1 is add or remove.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ "$1" = add ] || exit 0
device=$(xenstore-read "$XENBUS_PATH/params")
xenstore-write "$XENBUS_PATH/physical-device" "$(stat -L -c %t:%T "$device")" \
  "$XENBUS_PATH/physical-device-path" "$device" "$XENBUS_PATH/hotplug-status" connected
