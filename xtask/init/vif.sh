#!/bin/sh
# The hotplug script of a domU's NIC: puts netback's interface on the bridge. $1 is online, offline, add or remove.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ "$1" = online ] || exit 0
brctl addif "$(xenstore-read "$XENBUS_PATH/bridge")" "$vif"
ip link set "$vif" up
xenstore-write "$XENBUS_PATH/hotplug-status" connected
