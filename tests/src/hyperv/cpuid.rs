//! What CPUID says on hosts that are Hyper-V, or look a little like it.

use std::collections::BTreeMap;

/// CPUID leaves by number; a leaf that is missing reads as zeroes.
pub type Leaves = BTreeMap<u32, [u32; 4]>;

/// Privileges in leaf 0x40000003, EAX (TLFS 2.4.4).
pub mod access {
    pub const VP_RUNTIME: u32 = 1 << 0;
    pub const REFERENCE_COUNTER: u32 = 1 << 1;
    pub const SYNIC: u32 = 1 << 2;
    pub const TIMERS: u32 = 1 << 3;
    pub const HYPERCALL: u32 = 1 << 5;
    pub const VP_INDEX: u32 = 1 << 6;
    pub const RESET: u32 = 1 << 7;
    pub const REFERENCE_TSC: u32 = 1 << 9;
    pub const FREQUENCIES: u32 = 1 << 11;
}

/// Privileges in leaf 0x40000003, EBX.
pub mod privilege {
    pub const POST_MESSAGES: u32 = 1 << 4;
    pub const SIGNAL_EVENTS: u32 = 1 << 5;
}

/// Features in leaf 0x40000003, EDX.
pub mod feature {
    pub const FREQUENCIES: u32 = 1 << 8;
    pub const CRASH_REGISTERS: u32 = 1 << 10;
    pub const DIRECT_TIMERS: u32 = 1 << 19;
}

fn vendor(name: &[u8; 12]) -> [u32; 3] {
    [0, 4, 8].map(|at| u32::from_le_bytes(name[at..at + 4].try_into().expect("4 bytes")))
}

/// A current Hyper-V with everything a VMBus guest wants.
pub fn hyper_v() -> Leaves {
    let [b, c, d] = vendor(b"Microsoft Hv");
    let eax = access::VP_RUNTIME
        | access::REFERENCE_COUNTER
        | access::SYNIC
        | access::TIMERS
        | access::HYPERCALL
        | access::VP_INDEX
        | access::RESET
        | access::REFERENCE_TSC
        | access::FREQUENCIES;
    let ebx = privilege::POST_MESSAGES | privilege::SIGNAL_EVENTS;
    let edx = feature::FREQUENCIES | feature::CRASH_REGISTERS | feature::DIRECT_TIMERS;
    Leaves::from([
        (0x0000_0000, [1, 0, 0, 0]),
        (0x0000_0001, [0, 0, 1 << 31, 0]),
        (0x4000_0000, [0x4000_000a, b, c, d]),
        (0x4000_0001, [u32::from_le_bytes(*b"Hv#1"), 0, 0, 0]),
        (0x4000_0002, [20348, 10 << 16, 0, 0]),
        (0x4000_0003, [eax, ebx, 0, edx]),
        (0x4000_0004, [0, 0xfff, 0, 0]),
        (0x4000_0005, [64, 64, 0, 0]),
    ])
}

/// Hyper-V as KVM-built hosts show it: PostMessages, SignalEvents and version left zero.
pub fn hyper_v_with_few_bits() -> Leaves {
    let mut leaves = hyper_v();
    leaves.insert(0x4000_0002, [0; 4]);
    if let Some(features) = leaves.get_mut(&0x4000_0003) {
        features[0] &= !access::REFERENCE_TSC;
        features[1] = 0;
    }
    leaves
}

/// KVM with Hyper-V's leaves under its own name; VMBus is not behind them.
pub fn kvm_with_hyper_v_leaves() -> Leaves {
    let mut leaves = hyper_v();
    let [b, c, d] = vendor(b"Linux KVM Hv");
    leaves.insert(0x4000_0000, [0x4000_0005, b, c, d]);
    leaves
}

/// Plain KVM: its own signature and nothing of Hyper-V.
pub fn plain_kvm() -> Leaves {
    let [b, c, d] = vendor(b"KVMKVMKVM\0\0\0");
    Leaves::from([
        (0x0000_0001, [0, 0, 1 << 31, 0]),
        (0x4000_0000, [0x4000_0001, b, c, d]),
        (0x4000_0001, [0x0100_0000, 0, 0, 0]),
    ])
}

/// A machine without a hypervisor.
pub fn bare_metal() -> Leaves {
    Leaves::from([(0x0000_0001, [0; 4])])
}
