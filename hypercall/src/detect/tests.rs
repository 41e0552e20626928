//! Hosts by their CPUID leaves.

use super::*;
use crate::gate::{HvCall, HvGet, HvSet, XenCall};
use std::string::ToString;

/// A processor that has these leaves; what it does with others is the last field.
#[derive(Clone, Copy)]
struct Leaves<'a>(&'a [(u32, [u32; 4])], [u32; 4]);

impl Gate for Leaves<'_> {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> [u32; 4] {
        let found = self.0.iter().find(|(l, _)| *l == leaf);
        found.map_or(self.1, |(_, words)| *words)
    }
    fn ticks(&self) -> u64 {
        0
    }
    fn xen_call(&self, _call: XenCall<'_>) -> i64 {
        -38
    }
    fn hv_call(&self, _call: HvCall) -> u64 {
        2
    }
    fn hv_get(&self, _get: HvGet) -> u64 {
        0
    }
    fn hv_set(&self, _set: HvSet) {}
}

const GUEST: (u32, [u32; 4]) = (1, [0, 0, 1 << 31, 0]);
const NONE: [u32; 4] = [0; 4];
const HV: [u32; 4] = [HV1, 0, 0, 0];

const fn signature(max: u32, of: [u32; 3]) -> [u32; 4] {
    [max, of[0], of[1], of[2]]
}

/// "Linux KVM Hv" as EBX, ECX, EDX.
const LINUX_KVM_HV: [u32; 3] = [0x756e_694c, 0x564b_2078, 0x7648_204d];
/// "VBoxVBoxVBox".
const VBOX: [u32; 3] = [0x786f_4256, 0x786f_4256, 0x786f_4256];

#[test]
fn xen() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_0005, XEN)),
            (0x4000_0001, [4 << 16 | 20, 0, 0, 0]),
        ],
        NONE,
    );
    let expected = XenLeaves {
        base: 0x4000_0000,
        major: 4,
        minor: 20,
        viridian: false,
    };
    assert_eq!(detect(&gate), Detected::Xen(expected));
}

#[test]
fn xen_behind_viridian() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_0006, MICROSOFT)),
            (0x4000_0001, HV),
            // With stimer on even the SynIC's registers are there.
            (0x4000_0003, [0x2e7f, 0, 0, 0]),
            (0x4000_0100, signature(0x4000_0105, XEN)),
            (0x4000_0101, [4 << 16 | 17, 0, 0, 0]),
        ],
        NONE,
    );
    let expected = XenLeaves {
        base: 0x4000_0100,
        major: 4,
        minor: 17,
        viridian: true,
    };
    assert_eq!(detect(&gate), Detected::Xen(expected));
}

#[test]
fn hyper_v() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_000c, MICROSOFT)),
            (0x4000_0001, HV),
            (0x4000_0002, [20348, 10 << 16 | 1, 0, 0]),
            (0x4000_0003, [0xae7f, 0x2b8030, 2, 0x5e0f7b2]),
        ],
        NONE,
    );
    let Detected::HyperV(leaves) = detect(&gate) else {
        panic!("not found");
    };
    assert!(leaves.microsoft);
    assert_eq!(leaves.host_version(), (10, 1));
    assert_eq!(leaves.privileges(), 0xae7f);
    assert_eq!(leaves.extra(), 0x5e0f7b2);
}

/// EBX bits 4 and 5 (PostMessages, SignalEvents) and the version leaf are zero there, and that
/// says nothing about VMBus.
#[test]
fn kvm_with_hyper_v_leaves() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_0005, LINUX_KVM_HV)),
            (0x4000_0001, HV),
            (0x4000_0003, [0x2aff, 0, 0, 0]),
        ],
        NONE,
    );
    let Detected::HyperV(leaves) = detect(&gate) else {
        panic!("not found");
    };
    assert!(!leaves.microsoft);
    assert_eq!(leaves.host_version(), (0, 0));
}

#[test]
fn plain_kvm() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_0001, KVM)),
            (0x4000_0001, [0x0100_7efb, 0, 0, 0]),
        ],
        NONE,
    );
    let Detected::Other(other) = detect(&gate) else {
        panic!("not found");
    };
    assert!(!other.partial_hyperv);
    assert_eq!(other.to_string(), "KVMKVMKVM");
}

/// Old KVM gives a maximum of 0, which means 0x40000001.
#[test]
fn old_kvm() {
    let gate = Leaves(&[GUEST, (0x4000_0000, signature(0, KVM))], NONE);
    assert!(matches!(detect(&gate), Detected::Other(_)));
}

#[test]
fn virtualbox_with_part_of_the_interface() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_0006, VBOX)),
            (0x4000_0001, HV),
            // Hypercall page and time, but no SynIC.
            (0x4000_0003, [0x0262, 0, 0, 0]),
        ],
        NONE,
    );
    let Detected::Other(other) = detect(&gate) else {
        panic!("not found");
    };
    assert!(other.partial_hyperv);
    assert_eq!(other.to_string(), "VBoxVBoxVBox");
}

#[test]
fn leaves_that_end_before_the_privileges() {
    let gate = Leaves(
        &[
            GUEST,
            (0x4000_0000, signature(0x4000_0001, MICROSOFT)),
            (0x4000_0001, HV),
            (0x4000_0003, [0xae7f, 0, 0, 0]),
        ],
        NONE,
    );
    assert!(matches!(
        detect(&gate),
        Detected::Other(Other {
            partial_hyperv: false,
            ..
        })
    ));
}

/// Intel answers a leaf beyond its last with the last's words.
#[test]
fn bare_metal_that_echoes_its_last_leaf() {
    let gate = Leaves(
        &[(1, [0x306c3, 0x10_0800, 0x7ffa_fbff, 0])],
        [7, 832, 832, 0],
    );
    assert_eq!(detect(&gate), Detected::None);
    let gate = Leaves(
        &[(1, NONE)],
        [0x4000_0006, MICROSOFT[0], MICROSOFT[1], MICROSOFT[2]],
    );
    assert_eq!(detect(&gate), Detected::None);
}
