//! Simulated time: the TSC, the paravirtual clock, the wall clock, one-shot timers.

use super::abi::pages::{PVCLOCK_TSC_STABLE, SharedInfo, VcpuInfo, VcpuTimeInfo};
use super::evtchn::EventChannels;
use crate::memory::{BadAddress, GuestMemory};
use std::mem::offset_of;

/// Time as the machine sees it. It moves only when told to.
#[derive(Debug)]
pub struct Clock {
    now_ns: u64,
    tsc_hz: u64,
    /// TSC value at time 0.
    tsc_base: u64,
    /// Seconds since 1970 at time 0.
    boot_wall_s: u64,
    timers: Vec<Option<u64>>,
    /// Leave the next update of a time record half done (odd version).
    pub freeze_mid_update: bool,
}

impl Clock {
    /// Time 0 is `boot_wall_s` seconds after 1970.
    pub fn new(vcpus: u32, tsc_hz: u64, boot_wall_s: u64) -> Self {
        Clock {
            now_ns: 0,
            tsc_hz: tsc_hz.max(1),
            tsc_base: 0x1234_5678,
            boot_wall_s,
            timers: vec![None; vcpus as usize],
            freeze_mid_update: false,
        }
    }

    /// Nanoseconds since the machine started: Xen's system time.
    pub fn now(&self) -> u64 {
        self.now_ns
    }

    /// What RDTSC returns now.
    pub fn tsc(&self) -> u64 {
        let ticks = u128::from(self.now_ns) * u128::from(self.tsc_hz) / 1_000_000_000;
        self.tsc_base.wrapping_add(ticks as u64)
    }

    /// TSC ticks in a millisecond, as CPUID states it.
    pub fn tsc_khz(&self) -> u32 {
        (self.tsc_hz / 1000) as u32
    }

    /// Lets time pass.
    pub fn advance(&mut self, ns: u64) {
        self.now_ns = self.now_ns.saturating_add(ns);
    }

    /// Arms or stops a vCPU's one-shot timer.
    pub fn set_timer(&mut self, vcpu: u32, deadline_ns: Option<u64>) {
        if let Some(timer) = self.timers.get_mut(vcpu as usize) {
            *timer = deadline_ns;
        }
    }

    /// The earliest armed deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.iter().flatten().min().copied()
    }

    /// Takes a vCPU whose timer has run out.
    pub fn take_expired(&mut self) -> Option<u32> {
        let now = self.now_ns;
        let (vcpu, timer) = (0..)
            .zip(&mut self.timers)
            .find(|(_, timer)| timer.is_some_and(|deadline| deadline <= now))?;
        *timer = None;
        Some(vcpu)
    }

    /// Multiplier and shift of `xen.h`: `ns = (ticks << shift) * mul >> 32`.
    pub fn scale(&self) -> (u32, i8) {
        let mut shift = 0i8;
        let mut hz = u128::from(self.tsc_hz);
        // Bring the frequency above 1 GHz and to 2 GHz at most: the multiplier then fits 32 bits.
        while hz > 2_000_000_000 {
            hz >>= 1;
            shift -= 1;
        }
        while hz <= 1_000_000_000 {
            hz <<= 1;
            shift += 1;
        }
        // Divide by the exact frequency, not the rounded one.
        let exact = u128::from(self.tsc_hz);
        let mul = match shift {
            ..0 => (1_000_000_000u128 << 32 << (-shift) as u32) / exact,
            _ => ((1_000_000_000u128 << 32) >> shift as u32) / exact,
        };
        (mul.min(u128::from(u32::MAX)) as u32, shift)
    }

    /// Writes a vCPU's time record: version odd, fields, version even.
    pub fn publish<M: GuestMemory>(
        &mut self,
        mem: &M,
        events: &mut EventChannels,
        vcpu: u32,
    ) -> Result<(), BadAddress> {
        let (mul, shift) = self.scale();
        let (tsc, now) = (self.tsc(), self.now_ns);
        let Some((info, at)) = events.info(vcpu) else {
            return Ok(());
        };
        let at = at + offset_of!(VcpuInfo, time);
        let version = info.load_u32(mem, at)? | 1;
        info.store_u32(mem, at, version)?;
        info.store_u64(mem, at + offset_of!(VcpuTimeInfo, tsc_timestamp), tsc)?;
        if self.freeze_mid_update {
            return Ok(());
        }
        info.store_u64(mem, at + offset_of!(VcpuTimeInfo, system_time), now)?;
        info.store_u32(mem, at + offset_of!(VcpuTimeInfo, tsc_to_system_mul), mul)?;
        let tail = u32::from(shift as u8) | u32::from(PVCLOCK_TSC_STABLE) << 8;
        info.store_u32(mem, at + offset_of!(VcpuTimeInfo, tsc_shift), tail)?;
        info.store_u32(mem, at, version.wrapping_add(1))
    }

    /// Writes the wall clock's base, the time of boot, into the shared info page.
    pub fn publish_wall_clock<M: GuestMemory>(
        &mut self,
        mem: &M,
        events: &mut EventChannels,
    ) -> Result<(), BadAddress> {
        let seconds = self.boot_wall_s;
        let shared = events.shared();
        let version_at = offset_of!(SharedInfo, wc_version);
        let version = shared.load_u32(mem, version_at)? | 1;
        shared.store_u32(mem, version_at, version)?;
        shared.store_u32(mem, offset_of!(SharedInfo, wc_sec), seconds as u32)?;
        shared.store_u32(mem, offset_of!(SharedInfo, wc_nsec), 0)?;
        shared.store_u32(
            mem,
            offset_of!(SharedInfo, wc_sec_hi),
            (seconds >> 32) as u32,
        )?;
        shared.store_u32(mem, version_at, version.wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_gives_the_time_back() {
        for hz in [
            1_000_000_000,
            2_400_000_000,
            3_999_999_999,
            25_000_000,
            600_000_000,
        ] {
            let mut clock = Clock::new(1, hz, 0);
            let start = clock.tsc();
            clock.advance(5_000_000_000);
            let (mul, shift) = clock.scale();
            let ticks = u128::from(clock.tsc() - start);
            let shifted = if shift < 0 {
                ticks >> -shift
            } else {
                ticks << shift
            };
            let ns = ((shifted * u128::from(mul)) >> 32) as i64;
            assert!((ns - 5_000_000_000).abs() < 10_000, "{hz} Hz: {ns}");
        }
    }

    #[test]
    fn timers_run_out_in_turn() {
        let mut clock = Clock::new(2, 1_000_000_000, 0);
        clock.set_timer(0, Some(200));
        clock.set_timer(1, Some(100));
        assert_eq!(clock.next_deadline(), Some(100));
        assert_eq!(clock.take_expired(), None);
        clock.advance(150);
        assert_eq!(
            (clock.take_expired(), clock.take_expired()),
            (Some(1), None)
        );
        clock.advance(50);
        assert_eq!(clock.take_expired(), Some(0));
        assert_eq!(clock.next_deadline(), None);
    }
}
