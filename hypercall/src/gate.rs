//! The instruction seam: everything by which a guest leaves its own world.
//!
//! The one real [`Gate`] is [`arch::Cpu`](crate::arch::Cpu); tests have models of a host. The
//! calls are values that only this crate can make, because a hypercall can do anything to memory:
//! holding a `Gate` therefore gives no power in safe code.

/// Where instructions that concern the hypervisor go.
pub trait Gate: Clone + Send + Sync {
    /// Processor and hypervisor identification: EAX, EBX, ECX, EDX of a CPUID leaf. On an
    /// architecture without CPUID it answers from what that architecture has.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// The free-running counter that both hosts scale to a clock (TSC).
    fn ticks(&self) -> u64;

    /// A Xen hypercall; negative results are `-errno`.
    fn xen_call(&self, call: XenCall<'_>) -> i64;

    /// A Hyper-V hypercall; the low 16 bits of the result are its status.
    fn hv_call(&self, call: HvCall) -> u64;

    /// Reads a synthetic register of Hyper-V.
    fn hv_get(&self, get: HvGet) -> u64;

    /// Writes a synthetic register of Hyper-V.
    fn hv_set(&self, set: HvSet);
}

/// A Xen hypercall: a number, up to three arguments (those that take more are for guests of other
/// kinds), and at most one structure in memory that the call reads and writes back
/// (`xen/include/public/xen.h`).
#[derive(Debug)]
pub struct XenCall<'a> {
    number: u32,
    /// Which argument is the address of `operand`; of a call without one, none.
    index: u32,
    args: [u64; 3],
    operand: &'a mut [u8],
}

impl<'a> XenCall<'a> {
    /// A call whose arguments are all plain values.
    #[cfg(any(feature = "xen", test))]
    pub(crate) fn plain(number: u32, args: [u64; 3]) -> Self {
        Self::with_operand(number, args, u32::MAX, &mut [])
    }

    /// A call whose argument `index` is the address of `operand`.
    #[cfg(any(feature = "xen", test))]
    #[inline(always)]
    pub(crate) fn with_operand(
        number: u32,
        args: [u64; 3],
        index: u32,
        operand: &'a mut [u8],
    ) -> Self {
        Self {
            number,
            index,
            args,
            operand,
        }
    }

    /// The hypercall's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The plain arguments; the operand's own place is unspecified.
    pub fn args(&self) -> [u64; 3] {
        self.args
    }

    /// The bytes of the structure the call points at; empty when there is none.
    pub fn operand(&mut self) -> &mut [u8] {
        self.operand
    }

    /// The arguments as registers hold them: the operand's place holds its address.
    #[inline(always)]
    pub(crate) fn registers(&mut self) -> [u64; 3] {
        let mut args = self.args;
        if let Some(place) = args.get_mut(self.index as usize) {
            *place = self.operand.as_mut_ptr().expose_provenance() as u64;
        }
        args
    }
}

/// A Hyper-V hypercall (TLFS, "Hypercall interface").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HvCall {
    control: u64,
    input: u64,
    output: u64,
    page: usize,
}

impl HvCall {
    /// `page` is the address of the hypercall page; `input` and `output` are guest-physical
    /// addresses, or the two input words of a fast call.
    #[cfg(any(feature = "hyperv", test))]
    pub(crate) fn new(control: u64, input: u64, output: u64, page: usize) -> Self {
        Self {
            control,
            input,
            output,
            page,
        }
    }

    /// The hypercall input value: code, fast flag, repetition counts.
    pub fn control(&self) -> u64 {
        self.control
    }

    /// The guest-physical address of the input, or the first word of a fast call.
    pub fn input(&self) -> u64 {
        self.input
    }

    /// The guest-physical address of the output, or the second word of a fast call.
    pub fn output(&self) -> u64 {
        self.output
    }

    /// The virtual address of the hypercall page.
    pub(crate) fn page(&self) -> usize {
        self.page
    }
}

/// A synthetic register of Hyper-V, by its architecture-neutral name (TLFS, "Synthetic MSRs").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HvRegister {
    /// Who the guest is; must be set before the hypercall page.
    GuestOsId,
    /// The hypercall page.
    Hypercall,
    /// The index of this virtual processor.
    VpIndex,
    /// Resets the machine.
    Reset,
    /// The reference counter, in units of 100 ns.
    TimeRefCount,
    /// The reference TSC page.
    ReferenceTsc,
    /// Frequency of the TSC, in Hz.
    TscFrequency,
    /// Frequency of the local APIC timer, in Hz.
    ApicFrequency,
    /// Synthetic interrupt controller: on or off.
    Scontrol,
    /// The event-flags page.
    Siefp,
    /// The message page.
    Simp,
    /// End of message.
    Eom,
    /// One of 16 synthetic interrupt sources.
    Sint(u8),
    /// Configuration of one of 4 synthetic timers.
    StimerConfig(u8),
    /// Count of one of 4 synthetic timers, in units of 100 ns.
    StimerCount(u8),
    /// One of 5 crash parameters.
    CrashParameter(u8),
    /// Tells the host of a crash.
    CrashControl,
}

/// A read of a synthetic register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HvGet {
    register: HvRegister,
}

impl HvGet {
    #[cfg(any(feature = "hyperv", test))]
    pub(crate) fn new(register: HvRegister) -> Self {
        Self { register }
    }

    /// Which register.
    pub fn register(&self) -> HvRegister {
        self.register
    }
}

/// A write of a synthetic register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HvSet {
    register: HvRegister,
    value: u64,
}

impl HvSet {
    #[cfg(any(feature = "hyperv", test))]
    pub(crate) fn new(register: HvRegister, value: u64) -> Self {
        Self { register, value }
    }

    /// Which register.
    pub fn register(&self) -> HvRegister {
        self.register
    }

    /// What is written.
    pub fn value(&self) -> u64 {
        self.value
    }
}
