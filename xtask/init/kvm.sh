# A Linux with KVM.
insert none
[ -c /dev/kvm ] || echo "@@ no /dev/kvm"
export L2=/l2
