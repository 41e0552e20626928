//! Monotonic time: the TSC, scaled by a frequency that the hypervisor states or that is measured once.

use core::arch::x86_64::_rdtsc;

use spin::Once;
use x86_64::instructions::port::Port;

use super::cpu;

struct Scale {
    /// The TSC when the kernel started.
    origin: u64,
    /// Nanoseconds per tick, times 2^32.
    multiplier: u64,
}

static SCALE: Once<Scale> = Once::new();

/// How long a measurement takes, in nanoseconds.
const WINDOW: u64 = 10_000_000;
/// Below this a measured frequency is a counter that is not there.
const SLOWEST: u64 = 50_000_000;

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and nothing disables it below ring 0.
    unsafe { _rdtsc() }
}

/// Finds the frequency and starts the clock at zero. Returns hertz and where they come from.
pub fn start() -> (u64, &'static str) {
    let (hertz, source) = cpu::tsc_frequency()
        .or_else(|| Some((by_reference_counter()?, "reference counter")))
        .or_else(|| Some((by_pit()?, "PIT")))
        .unwrap_or((1_000_000_000, "a guess"));
    let multiplier = (1_000_000_000_u128 << 32)
        .checked_div(u128::from(hertz))
        .and_then(|m| u64::try_from(m).ok())
        .unwrap_or(1 << 32);
    SCALE.call_once(|| Scale {
        origin: ticks(),
        multiplier,
    });
    (hertz, source)
}

/// Nanoseconds since [`start`].
pub fn now() -> u64 {
    SCALE.get().map_or(0, |scale| {
        let elapsed = ticks().saturating_sub(scale.origin);
        (u128::from(elapsed).wrapping_mul(u128::from(scale.multiplier)) >> 32) as u64
    })
}

/// Burns time; for hardware that has to be waited for.
pub fn spin(nanoseconds: u64) {
    let until = now().saturating_add(nanoseconds);
    while now() < until {
        core::hint::spin_loop();
    }
}

fn by_reference_counter() -> Option<u64> {
    let counter = cpu::reference_counter()?;
    let (start, began) = (counter(), ticks());
    // Bounded by the TSC as well, in case the counter stands still.
    while counter().wrapping_sub(start) < WINDOW / 100 && ticks().wrapping_sub(began) < 1 << 32 {}
    let (counted, took) = (counter().wrapping_sub(start), ticks().wrapping_sub(began));
    let hertz = u128::from(took)
        .checked_mul(10_000_000)?
        .checked_div(u128::from(counted))?;
    u64::try_from(hertz).ok().filter(|&hertz| hertz >= SLOWEST)
}

/// Counts TSC ticks while the PIT's channel 2 counts 10 ms down.
fn by_pit() -> Option<u64> {
    const COUNT: u16 = 11932;
    const OUTPUT: u8 = 0x20;
    let mut gate = Port::<u8>::new(0x61);
    let mut command = Port::<u8>::new(0x43);
    let mut channel2 = Port::<u8>::new(0x42);
    let [low, high] = COUNT.to_le_bytes();
    // SAFETY: the PIT's channel 2 and its gate drive the speaker only; nothing else of this kernel uses them.
    let began = unsafe {
        let control = gate.read();
        gate.write((control & !0x02) | 0x01);
        command.write(0xb0);
        channel2.write(low);
        channel2.write(high);
        ticks()
    };
    // SAFETY: as above; reading the gate's port has no effect.
    while unsafe { gate.read() } & OUTPUT == 0 {
        if ticks().wrapping_sub(began) > 1 << 34 {
            return None;
        }
    }
    let hertz = ticks().wrapping_sub(began).saturating_mul(100);
    Some(hertz).filter(|&hertz| hertz >= SLOWEST)
}
