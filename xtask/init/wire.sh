# The bridge that guests' NICs are on with the machine's own, which leads to the outer QEMU's user network.
wire() {
  brctl addbr br0
  brctl addif br0 eth0 || echo "@@ no eth0"
  ip link set eth0 up
  ip addr add 10.0.2.100/24 dev br0
  ip link set br0 up
}
