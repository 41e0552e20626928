# A Linux with KVM.
insert none
wire
tunctl -t tap0 >/dev/null
brctl addif br0 tap0
ip link set tap0 up
[ -c /dev/kvm ] || echo "@@ no /dev/kvm"
export L2=/l2
