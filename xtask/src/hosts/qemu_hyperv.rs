//! QEMU's Hyper-V enlightenments over KVM with its VMBus bridge: negotiation, offers and clocks against
//! another's host side. It has no disk to offer.

use super::Boot;
use super::jobs::Job;
use crate::session::Offer;

/// `kvm=off` hides KVM's own leaves, before which nobody looks for Hyper-V's.
const CPU: &str = "host,kvm=off,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-time,hv-stimer,\
                   hv-reset,hv-frequencies,hv-reenlightenment,hv-tlbflush,hv-ipi";

/// The guest as a PVH kernel with a balloon on the bus.
pub fn job(boot: &Boot<'_>) -> Job {
    let (limit, line) = (boot.limit.as_secs(), boot.quoted());
    let bus = if boot.offer == Offer::NoBus {
        ""
    } else {
        "-device vmbus-bridge,irq=7 -device hv-balloon"
    };
    boot.job(&format!(
        "watch {limit} qemu-system-x86_64 -M q35 -accel kvm -cpu {CPU} \
         -nodefaults -display none -serial stdio -no-reboot -m 256 -nic none -kernel guest -append {line} {bus}\n"
    ))
}
