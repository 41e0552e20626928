//! The guest's CPUID: what KVM can give, and Hyper-V's leaves in place of KVM's own.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use pv_tests::hyperv::cpuid::hyper_v;

/// Privileges and features KVM serves beyond the model's: none are needed, so none are shown.
const FEATURES: u32 = 0x4000_0003;

/// How Hyper-V's leaves look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// As real hosts do: PostMessages and SignalEvents are granted.
    Granted,
    /// As hosts built on KVM often do: both bits are zero, and both calls work.
    LeftZero,
}

/// All leaves for one processor with APIC id 0.
pub fn leaves(kvm: &Kvm, looks: Looks) -> Result<CpuId, String> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| format!("KVM_GET_SUPPORTED_CPUID: {e}"))?;
    let own = |entry: &&kvm_cpuid_entry2| entry.function >> 16 != 0x4000;
    let mut entries: Vec<kvm_cpuid_entry2> =
        supported.as_slice().iter().filter(own).copied().collect();
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ecx |= 1 << 31; // under a hypervisor
                entry.ebx &= 0x00ff_ffff; // APIC id 0
            }
            0xb | 0x1f => entry.edx = 0, // x2APIC id 0
            _ => {}
        }
    }
    for (function, [eax, mut ebx, ecx, edx]) in hyper_v() {
        if function >> 16 != 0x4000 {
            continue;
        }
        if function == FEATURES && looks == Looks::LeftZero {
            ebx = 0;
        }
        entries.push(kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        });
    }
    CpuId::from_entries(&entries).map_err(|e| format!("too many CPUID leaves: {e:?}"))
}
