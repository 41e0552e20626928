//! Which hypervisor a kernel woke up on, by CPUID.
//!
//! Xen is looked for first, and everywhere it may be: with Viridian extensions on, its leaves sit
//! behind Hyper-V's. Hyper-V's leaves alone prove little, for many hosts show them: KVM, Xen,
//! VirtualBox. Detection asks for what VMBus cannot do without; whether there is a VMBus is
//! decided by speaking to it, with a deadline.

use crate::gate::Gate;
use core::fmt;

/// "XenVMMXenVMM" as EBX, ECX, EDX (`xen/include/public/arch-x86/cpuid.h`).
const XEN: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// "KVMKVMKVM\0\0\0".
const KVM: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];
/// "Microsoft Hv".
const MICROSOFT: [u32; 3] = [0x7263_694d, 0x666f_736f, 0x7648_2074];
/// "Hv#1": the interface that leaf 0x40000001 names (TLFS, "Feature and interface discovery").
const HV1: u32 = 0x3123_7648;

/// Where hypervisor leaves may start, and how far apart.
const FIRST: u32 = 0x4000_0000;
const STEP: u32 = 0x100;
const BASES: u32 = 0x100;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detected {
    /// Xen.
    Xen(XenLeaves),
    /// An interface of Hyper-V's form with the registers VMBus needs.
    HyperV(HvLeaves),
    /// A hypervisor that this library has no drivers for.
    Other(Other),
    /// No hypervisor shows itself.
    None,
}

/// Where Xen's leaves are, and what version they give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XenLeaves {
    /// The first leaf.
    pub base: u32,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Whether Hyper-V's leaves stand before Xen's (Viridian extensions).
    pub viridian: bool,
}

/// What Hyper-V's leaves say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HvLeaves {
    /// Leaf 0x40000003: privileges (EAX, EBX), power states (ECX), features (EDX).
    pub features: [u32; 4],
    /// Leaf 0x40000002: the host's version; zeroes where it does not say.
    pub version: [u32; 4],
    /// Whether the vendor is Microsoft's, not a host that offers the same interface.
    pub microsoft: bool,
}

impl HvLeaves {
    /// Privileges, EAX of leaf 0x40000003.
    pub fn privileges(&self) -> u32 {
        self.features[0]
    }

    /// Features, EDX of leaf 0x40000003.
    pub fn extra(&self) -> u32 {
        self.features[3]
    }

    /// Major and minor version of the host.
    pub fn host_version(&self) -> (u32, u32) {
        (self.version[1] >> 16, self.version[1] & 0xffff)
    }
}

/// A hypervisor without drivers here, or without what the drivers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// The signature of the leaf at 0x40000000: 12 bytes, usually text.
    pub signature: [u8; 12],
    /// Whether Hyper-V's interface is there, but without hypercall or SynIC registers.
    pub partial_hyperv: bool,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.signature.iter().take_while(|b| **b != 0) {
            let shown = if byte.is_ascii_graphic() || *byte == b' ' {
                *byte
            } else {
                b'?'
            };
            write!(f, "{}", shown as char)?;
        }
        Ok(())
    }
}

/// Looks at CPUID.
pub fn detect<G: Gate>(gate: &G) -> Detected {
    if let Some(xen) = find_xen(gate) {
        return Detected::Xen(xen);
    }
    // Leaf 1, ECX bit 31: a hypervisor is present. Without it the 0x40000000 leaves of a bare
    // processor repeat another leaf's data.
    let [_, _, ecx, _] = gate.cpuid(1, 0);
    if ecx >> 31 == 0 {
        return Detected::None;
    }
    let [max, ebx, ecx, edx] = gate.cpuid(FIRST, 0);
    let signature = [ebx, ecx, edx];
    let other = |partial_hyperv| {
        let mut bytes = [0; 12];
        for (to, word) in bytes.chunks_exact_mut(4).zip(signature) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Detected::Other(Other {
            signature: bytes,
            partial_hyperv,
        })
    };
    let has = |leaf: u32| max >= leaf && max < FIRST.wrapping_add(STEP);
    if signature == KVM || !has(0x4000_0003) || gate.cpuid(0x4000_0001, 0)[0] != HV1 {
        return other(false);
    }
    let features = gate.cpuid(0x4000_0003, 0);
    if features[0] & (HYPERCALL_REGISTERS | SYNIC_REGISTERS)
        != (HYPERCALL_REGISTERS | SYNIC_REGISTERS)
    {
        return other(true);
    }
    Detected::HyperV(HvLeaves {
        features,
        version: gate.cpuid(0x4000_0002, 0),
        microsoft: signature == MICROSOFT,
    })
}

/// AccessSynicRegs (TLFS, "Partition privilege mask").
const SYNIC_REGISTERS: u32 = 1 << 2;
/// AccessHypercallRegs.
const HYPERCALL_REGISTERS: u32 = 1 << 5;

fn find_xen<G: Gate>(gate: &G) -> Option<XenLeaves> {
    (0..BASES).find_map(|n| {
        let base = FIRST.wrapping_add(n.wrapping_mul(STEP));
        let [max, ebx, ecx, edx] = gate.cpuid(base, 0);
        // Xen has at least its version and hypercall leaves; a lesser maximum is not Xen's.
        if [ebx, ecx, edx] != XEN || max < base.wrapping_add(2) {
            return None;
        }
        let [version, ..] = gate.cpuid(base.wrapping_add(1), 0);
        Some(XenLeaves {
            base,
            major: (version >> 16) as u16,
            minor: version as u16,
            viridian: n != 0,
        })
    })
}

#[cfg(test)]
mod tests;
