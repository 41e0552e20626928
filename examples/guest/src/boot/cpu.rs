//! What CPUID says about the machine below: which hypervisor's leaves are there and how fast the TSC runs.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

use core::ops::RangeInclusive;

use x86_64::registers::model_specific::Msr;

/// CPUID's answer for a leaf.
pub fn leaf(leaf: u32) -> CpuidResult {
    __cpuid(leaf)
}

/// Reads a model-specific register that the caller knows to exist.
pub fn read_msr(register: u32) -> u64 {
    // SAFETY: callers name architectural or enumerated registers, and reading those has no effect on memory.
    unsafe { Msr::new(register).read() }
}

const XEN: [u8; 12] = *b"XenVMMXenVMM";
const HYPERV: [u8; 12] = *b"Microsoft Hv";
const KVM: [u8; 12] = *b"KVMKVMKVM\0\0\0";

/// TLFS 2.4, leaf 0x40000003, EAX: the reference counter and the frequency registers may be read.
const ACCESS_REFERENCE_COUNTER: u32 = 1 << 1;
const ACCESS_FREQUENCIES: u32 = 1 << 11;
const TIME_REF_COUNT: u32 = 0x4000_0020;
const TSC_FREQUENCY: u32 = 0x4000_0022;

/// The base leaf of a hypervisor with this signature, if it shows itself.
fn hypervisor(signature: [u8; 12]) -> Option<u32> {
    if leaf(1).ecx >> 31 == 0 {
        return None;
    }
    (0x4000_0000..0x4001_0000).step_by(0x100).find(|&base| {
        let found = leaf(base);
        let words = [found.ebx, found.ecx, found.edx].map(u32::to_le_bytes);
        words.as_flattened() == signature
    })
}

/// TSC frequencies that are taken seriously, in hertz.
const PLAUSIBLE: RangeInclusive<u64> = 50_000_000..=20_000_000_000;

/// The TSC's frequency in hertz as someone below states it, and who.
pub fn tsc_frequency() -> Option<(u64, &'static str)> {
    let stated = || Some((tsc_by_crystal()?, "CPUID 0x15"));
    let xen = || Some((tsc_by_xen(hypervisor(XEN)?)?, "Xen"));
    let hyperv = || Some((tsc_by_hyperv(hypervisor(HYPERV)?)?, "Hyper-V"));
    let kvm = || Some((tsc_by_kvm(hypervisor(KVM)?)?, "KVM"));
    xen()
        .or_else(hyperv)
        .or_else(kvm)
        .or_else(stated)
        .filter(|(hertz, _)| PLAUSIBLE.contains(hertz))
}

fn tsc_by_crystal() -> Option<u64> {
    if leaf(0).eax < 0x15 {
        return None;
    }
    let ratio = leaf(0x15);
    u64::from(ratio.ecx)
        .checked_mul(u64::from(ratio.ebx))?
        .checked_div(u64::from(ratio.eax))
}

/// Xen's time leaf (cpuid.h, leaf base + 3): sub-leaf 0 has the guest's kHz in ECX; sub-leaf 1 the scale of
/// its clock, multiplier in ECX and shift in EDX.
fn tsc_by_xen(base: u32) -> Option<u64> {
    let time = base.checked_add(3)?;
    if leaf(base).eax < time {
        return None;
    }
    let hertz = u64::from(__cpuid_count(time, 0).ecx).saturating_mul(1000);
    // QEMU's emulation shows sub-leaf 1 here.
    if PLAUSIBLE.contains(&hertz) {
        return Some(hertz);
    }
    let scale = __cpuid_count(time, 1);
    let hertz = (1_000_000_000_u128 << 32).checked_div(u128::from(scale.ecx))?;
    let shift = scale.edx.cast_signed();
    let hertz = if shift >= 0 {
        hertz.checked_shr(shift.unsigned_abs())
    } else {
        hertz.checked_shl(shift.unsigned_abs())
    };
    u64::try_from(hertz?).ok()
}

fn tsc_by_hyperv(base: u32) -> Option<u64> {
    let privileges = leaf(base.checked_add(3)?).eax;
    (privileges & ACCESS_FREQUENCIES != 0).then(|| read_msr(TSC_FREQUENCY))
}

/// The leaf VMware began and KVM and others keep: base + 0x10, EAX in kHz.
fn tsc_by_kvm(base: u32) -> Option<u64> {
    let timing = base.checked_add(0x10)?;
    (leaf(base).eax >= timing).then(|| u64::from(leaf(timing).eax).saturating_mul(1000))
}

/// Hyper-V's 10 MHz reference counter, if this machine has one.
pub fn reference_counter() -> Option<fn() -> u64> {
    let base = hypervisor(HYPERV)?;
    let privileges = leaf(base.checked_add(3)?).eax;
    (privileges & ACCESS_REFERENCE_COUNTER != 0).then_some(|| read_msr(TIME_REF_COUNT))
}
