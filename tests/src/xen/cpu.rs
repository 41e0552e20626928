//! What CPUID and the hypervisor's MSRs say: Xen's leaves, alone or behind Hyper-V's.

use super::abi::cpuid::*;

/// Whose CPU, and so which instruction makes a hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    Intel,
    Amd,
}

/// A guest touched an MSR that is not there: a general protection fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuchMsr(pub u32);

/// What the leaves say.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub vendor: Vendor,
    /// Hyper-V's leaves at 0x4000_0000, Xen's at 0x4000_0100.
    pub viridian: bool,
    /// With `viridian`: also its SynIC and synthetic timer MSRs (still no VMBus).
    pub viridian_synic: bool,
    /// Xen's version, major and minor.
    pub version: (u16, u16),
    pub domid: u16,
    pub tsc_khz: u32,
}

fn text(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

impl Cpu {
    /// Where Xen's leaves start.
    pub fn xen_base(&self) -> u32 {
        if self.viridian {
            0x4000_0100
        } else {
            0x4000_0000
        }
    }

    /// The MSR that asks for a hypercall page (leaf 2's EBX).
    pub fn hypercall_msr(&self) -> u32 {
        if self.viridian {
            0x4000_0200
        } else {
            0x4000_0000
        }
    }

    /// CPUID on a vCPU: EAX, EBX, ECX, EDX. Leaves that do not exist are zero.
    pub fn cpuid(&self, vcpu: u32, leaf: u32, sub: u32) -> [u32; 4] {
        let base = self.xen_base();
        match leaf {
            0 => self.vendor_leaf(),
            1 => [0, 0, 1 << 31, 0],
            0x4000_0000..=0x4000_00ff if self.viridian => self.viridian_leaf(leaf),
            _ if (base..=base + MAX_LEAVES).contains(&leaf) => {
                self.xen_leaf(vcpu, leaf - base, sub)
            }
            _ => [0; 4],
        }
    }

    fn vendor_leaf(&self) -> [u32; 4] {
        let [b, d, c] = match self.vendor {
            Vendor::Intel => [b"Genu", b"ineI", b"ntel"],
            Vendor::Amd => [b"Auth", b"enti", b"cAMD"],
        };
        [0xd, text(b), text(c), text(d)]
    }

    fn xen_leaf(&self, vcpu: u32, leaf: u32, sub: u32) -> [u32; 4] {
        let [b, c, d] = SIGNATURE;
        let version = u32::from(self.version.0) << 16 | u32::from(self.version.1);
        match (leaf, sub) {
            (0, _) => [self.xen_base() + MAX_LEAVES, b, c, d],
            (1, _) => [version, 0, 0, 0],
            (2, _) => [1, self.hypercall_msr(), 0, 0],
            (3, 0) => [TIME_TSC_RELIABLE, 2, self.tsc_khz, 0],
            (4, 0) => [
                HVM_IOMMU_MAPPINGS | HVM_VCPU_ID | HVM_DOMID | HVM_UPCALL_VECTOR,
                vcpu,
                self.domid.into(),
                0,
            ],
            _ => [0; 4],
        }
    }

    /// As Xen's Viridian presents itself: no PostMessages and no SignalEvents privilege.
    fn viridian_leaf(&self, leaf: u32) -> [u32; 4] {
        // AccessPartitionReferenceCounter, AccessIntrCtrlRegs, AccessHypercallMsrs, AccessVpIndex,
        // AccessFrequencyRegs; with the SynIC also AccessSynicRegs and AccessSyntheticTimerRegs.
        let privileges = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 11;
        let synic = if self.viridian_synic {
            1 << 2 | 1 << 3
        } else {
            0
        };
        match leaf & 0xff {
            0 => [0x4000_0006, text(b"Micr"), text(b"osof"), text(b"t Hv")],
            1 => [text(b"Hv#1"), 0, 0, 0],
            3 => [privileges | synic, 0, 0, 1 << 10],
            5 => [u32::MAX, 0, 0, 0],
            6 => [1 << 3, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// The stub page a guest gets for writing the hypercall MSR: one stub of 32 bytes a hypercall.
    pub fn hypercall_page(&self) -> Vec<u8> {
        let mut page = vec![0xcc; 4096];
        for (nr, stub) in (0u32..).zip(page.chunks_mut(32)) {
            // mov $nr, %eax; vmcall or vmmcall; ret
            stub[0] = 0xb8;
            stub[1..5].copy_from_slice(&nr.to_le_bytes());
            let call = match self.vendor {
                Vendor::Intel => [0x0f, 0x01, 0xc1, 0xc3],
                Vendor::Amd => [0x0f, 0x01, 0xd9, 0xc3],
            };
            stub[5..9].copy_from_slice(&call);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(viridian: bool) -> Cpu {
        Cpu {
            vendor: Vendor::Amd,
            viridian,
            viridian_synic: true,
            version: (4, 20),
            domid: 5,
            tsc_khz: 2_000_000,
        }
    }

    #[test]
    fn xen_moves_behind_viridian() {
        let plain = cpu(false);
        assert_eq!(plain.cpuid(0, 0x4000_0000, 0)[0], 0x4000_0005);
        assert_eq!(plain.cpuid(0, 0x4000_0000, 0)[1..], SIGNATURE);
        assert_eq!(plain.cpuid(0, 0x4000_0100, 0), [0; 4]);
        let both = cpu(true);
        assert_eq!(both.cpuid(0, 0x4000_0000, 0)[1], text(b"Micr"));
        assert_eq!(both.cpuid(0, 0x4000_0100, 0)[1..], SIGNATURE);
        assert_eq!(both.cpuid(0, 0x4000_0101, 0)[0], 4 << 16 | 20);
        assert_eq!(both.cpuid(0, 0x4000_0102, 0)[1], 0x4000_0200);
        assert_eq!(both.cpuid(3, 0x4000_0104, 0)[1..3], [3, 5]);
        assert_eq!(both.cpuid(0, 0x4000_0003, 0)[1], 0);
        assert_eq!(both.cpuid(0, 0x4000_0106, 0), [0; 4]);
    }
}
