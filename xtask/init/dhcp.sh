#!/bin/sh
# What udhcpc runs: takes the address it got.
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "LINUX net $interface address $ip"
