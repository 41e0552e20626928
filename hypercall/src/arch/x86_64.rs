//! x86-64: VMCALL and VMMCALL, the hypercall page, MSRs, `rep movs`.

use crate::gate::{Gate, HvCall, HvGet, HvRegister, HvSet, XenCall};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

/// The processor this kernel runs on.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    vendor: Vendor,
}

/// Which instruction enters the hypervisor. XSA-466 advises the instruction itself over Xen's
/// hypercall page, chosen by the processor's vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
}

impl Cpu {
    /// Looks at the processor.
    ///
    /// # Safety
    /// The caller runs at the privilege level of a guest kernel (ring 0, 64-bit), and nothing else
    /// in it drives the hypervisor's interfaces that this library will.
    pub unsafe fn new() -> Self {
        let [_, ebx, ecx, edx] = cpuid(0, 0);
        // "AuthenticAMD" and "HygonGenuine"; every other vendor (Intel, Zhaoxin) has VMCALL.
        let amd = matches!(
            (ebx, edx, ecx),
            (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975)
        );
        let vendor = if amd { Vendor::Amd } else { Vendor::Intel };
        Self { vendor }
    }
}

fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

impl Gate for Cpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        cpuid(leaf, subleaf)
    }

    fn ticks(&self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: RDTSC touches no memory, and a guest kernel may execute it. The fence keeps the
        // read behind the loads before it, which pvclock's version protocol relies on; for the
        // same reason the compiler must take it for an access to memory.
        unsafe {
            asm!("lfence", "rdtsc", out("eax") low, out("edx") high,
                options(nostack, preserves_flags));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    fn xen_call(&self, mut call: XenCall<'_>) -> i64 {
        let [a, b, c] = call.registers();
        let mut result = u64::from(call.number());
        // SAFETY: Xen's 64-bit ABI: number and result in RAX, arguments in RDI, RSI and RDX, all of
        // which it may clobber. It reads and writes memory, but of this program's only the
        // operand, which `call` borrows mutably; only this crate makes calls, and it makes none
        // that hands the host other memory than the lender of pages vouches for.
        unsafe {
            match self.vendor {
                Vendor::Intel => asm!("vmcall", inout("rax") result, inout("rdi") a => _,
                    inout("rsi") b => _, inout("rdx") c => _, options(nostack)),
                Vendor::Amd => asm!("vmmcall", inout("rax") result, inout("rdi") a => _,
                    inout("rsi") b => _, inout("rdx") c => _, options(nostack)),
            }
        }
        result.cast_signed()
    }

    fn hv_call(&self, call: HvCall) -> u64 {
        let result: u64;
        // SAFETY: Hyper-V's 64-bit ABI: control in RCX, input in RDX, output in R8, result in RAX;
        // the page (TLFS, "Establishing the hypercall interface") is entered by a near call, which
        // uses this stack, so `nostack` is not claimed. It may clobber the C ABI's volatile
        // registers. `call.page()` is the page this crate had the host fill and keeps for good.
        unsafe {
            asm!("call {page}", page = in(reg) call.page(), out("rax") result,
                inout("rcx") call.control() => _, inout("rdx") call.input() => _,
                inout("r8") call.output() => _, clobber_abi("sysv64"));
        }
        result
    }

    fn hv_get(&self, get: HvGet) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: reads a synthetic MSR that detection found to exist; touches no memory.
        unsafe {
            asm!("rdmsr", in("ecx") msr(get.register()), out("eax") low, out("edx") high,
                options(nomem, nostack, preserves_flags));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    fn hv_set(&self, set: HvSet) {
        let value = set.value();
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: writes a synthetic MSR that detection found to exist. Only this crate makes
        // writes, and the pages it names in them are its own and never freed while named.
        unsafe {
            asm!("wrmsr", in("ecx") msr(set.register()), in("eax") low, in("edx") high,
                options(nostack, preserves_flags));
        }
    }
}

/// The MSR behind a register (TLFS, appendix "Synthetic MSRs").
fn msr(register: HvRegister) -> u32 {
    match register {
        HvRegister::GuestOsId => 0x4000_0000,
        HvRegister::Hypercall => 0x4000_0001,
        HvRegister::VpIndex => 0x4000_0002,
        HvRegister::Reset => 0x4000_0003,
        HvRegister::TimeRefCount => 0x4000_0020,
        HvRegister::ReferenceTsc => 0x4000_0021,
        HvRegister::TscFrequency => 0x4000_0022,
        HvRegister::ApicFrequency => 0x4000_0023,
        HvRegister::Scontrol => 0x4000_0080,
        HvRegister::Siefp => 0x4000_0082,
        HvRegister::Simp => 0x4000_0083,
        HvRegister::Eom => 0x4000_0084,
        HvRegister::Sint(n) => 0x4000_0090 | u32::from(n & 15),
        HvRegister::StimerConfig(n) => 0x4000_00b0 | u32::from(n & 3) << 1,
        HvRegister::StimerCount(n) => 0x4000_00b1 | u32::from(n & 3) << 1,
        HvRegister::CrashParameter(n) => 0x4000_0100 | u32::from(n & 7),
        HvRegister::CrashControl => 0x4000_0105,
    }
}

/// Copies `len` bytes by string instructions: eight at a time, then the rest.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
#[cfg(not(miri))]
#[inline]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: together the two instructions move exactly `len` bytes, which the caller vouches
    // for; the direction flag is clear by the C ABI.
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) len & 7,
            inout("rcx") len >> 3 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}

/// Loads eight bytes from `OFFSET` bytes behind `from` on.
///
/// # Safety
/// They are readable; they need not be aligned.
#[cfg(not(miri))]
#[inline(always)]
pub(super) unsafe fn load<const OFFSET: usize>(from: *const u8) -> u64 {
    let word;
    // SAFETY: the instruction reads what the caller vouches for, and takes any address.
    unsafe {
        asm!("mov {word}, [{from} + {offset}]", word = lateout(reg) word, from = in(reg) from,
            offset = const OFFSET, options(nostack, preserves_flags, readonly));
    }
    word
}

/// Stores eight bytes at `OFFSET` bytes behind `to`.
///
/// # Safety
/// They are writable; they need not be aligned.
#[cfg(not(miri))]
#[inline(always)]
pub(super) unsafe fn store<const OFFSET: usize>(to: *mut u8, word: u64) {
    // SAFETY: the instruction writes what the caller vouches for, and takes any address.
    unsafe {
        asm!("mov [{to} + {offset}], {word}", to = in(reg) to, word = in(reg) word,
            offset = const OFFSET, options(nostack, preserves_flags));
    }
}
