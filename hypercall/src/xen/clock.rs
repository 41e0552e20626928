//! The paravirtual clock: Xen writes how to turn the time-stamp counter into nanoseconds.

use super::abi::{SharedInfo, VcpuInfo, VcpuTimeInfo};
use crate::gate::Gate;
use crate::shm::Span;
use core::mem::offset_of;

/// Reads that may collide with Xen's writing before the reader gives up.
const RETRIES: u32 = 1000;

const TIME: usize = offset_of!(VcpuInfo, time);
const WALL: usize = offset_of!(SharedInfo, wc_version);
const WALL_SECONDS: usize = offset_of!(SharedInfo, wc_sec);
const WALL_NANOSECONDS: usize = offset_of!(SharedInfo, wc_nsec);
const WALL_SECONDS_HIGH: usize = offset_of!(SharedInfo, wc_sec_hi);

/// Reads under a version that is odd while Xen writes; `None` when it never stands still.
fn consistent<T>(
    page: Span<'_>,
    version_at: usize,
    mut read: impl FnMut() -> Option<T>,
) -> Option<T> {
    for _ in 0..RETRIES {
        let before = page.load_u32(version_at).ok()?;
        if before & 1 == 0 {
            let value = read()?;
            // The reads above must not sink below the second look at the version.
            core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
            if page.load_u32(version_at).ok()? == before {
                return Some(value);
            }
        }
        core::hint::spin_loop();
    }
    None
}

/// Nanoseconds since the domain started, from a virtual processor's information (`vcpu_info`).
/// `None` when Xen keeps no clock there.
pub(super) fn system_time<G: Gate>(gate: &G, info: Span<'_>) -> Option<u64> {
    let (time, ticks) = consistent(info, TIME, || {
        let time: VcpuTimeInfo = info.read(TIME).ok()?;
        Some((time, gate.ticks()))
    })?;
    (time.tsc_to_system_mul != 0).then(|| scale(&time, ticks))
}

/// The clock's value at a count.
fn scale(time: &VcpuTimeInfo, ticks: u64) -> u64 {
    let passed = ticks.wrapping_sub(time.tsc_timestamp);
    // A counter behind the time stamp is another processor's: no time has passed.
    let passed = if passed.cast_signed() < 0 { 0 } else { passed };
    let by = u32::from(time.tsc_shift.unsigned_abs());
    let shifted = if time.tsc_shift < 0 {
        passed.checked_shr(by)
    } else {
        passed.checked_shl(by)
    };
    let product =
        u128::from(shifted.unwrap_or(0)).wrapping_mul(u128::from(time.tsc_to_system_mul)) >> 32;
    time.system_time.wrapping_add(product as u64)
}

/// Nanoseconds since 1970 when the system time was 0, from the shared info page; `None` when Xen
/// does not know.
pub(super) fn boot_time(shared: Span<'_>) -> Option<u64> {
    let (seconds, nanoseconds) = consistent(shared, WALL, || {
        let low = shared.load_u32(WALL_SECONDS).ok()?;
        let high = shared.load_u32(WALL_SECONDS_HIGH).ok()?;
        let nanoseconds = shared.load_u32(WALL_NANOSECONDS).ok()?;
        Some((u64::from(high) << 32 | u64::from(low), nanoseconds))
    })?;
    if seconds == 0 {
        return None;
    }
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(u64::from(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(shift: i8, mul: u32) -> VcpuTimeInfo {
        VcpuTimeInfo {
            version: 2,
            pad0: 0,
            tsc_timestamp: 1000,
            system_time: 5_000_000,
            tsc_to_system_mul: mul,
            tsc_shift: shift,
            flags: 0,
            pad1: [0; 2],
        }
    }

    #[test]
    fn scales_both_ways() {
        // 2 GHz: half a nanosecond a tick.
        assert_eq!(scale(&info(0, 1 << 31), 3000), 5_001_000);
        // The same, as a quarter shifted left, and as all of it shifted right.
        assert_eq!(scale(&info(1, 1 << 30), 3000), 5_001_000);
        assert_eq!(
            scale(&info(-1, u32::MAX), 1000 + (1 << 33)),
            5_000_000 + (1 << 32) - 1
        );
    }

    #[test]
    fn never_panics_and_never_runs_back() {
        assert_eq!(scale(&info(0, 1 << 31), 0), 5_000_000);
        for shift in [i8::MIN, -64, -63, 63, 64, i8::MAX] {
            let now = scale(&info(shift, u32::MAX), u64::MAX >> 1);
            if !(-63..64).contains(&shift) {
                assert_eq!(now, 5_000_000);
            }
        }
    }
}
