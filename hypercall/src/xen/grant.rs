//! Grant table, version 1: which of our frames which domain may reach.
//!
//! The table's frames come from the platform and grow on demand, doubling. Free references are a
//! bitmap in private pages, taken and given back by atomics; a run of pages gets consecutive
//! references, so one number names it.

use super::abi::*;
use super::calls::Calls;
use crate::gate::Gate;
use crate::host::HostError;
use crate::platform::Platform;
use crate::shm::{Access, Lent, OutOfSpan, PAGE_SIZE, Pages, Span};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use spin::{Mutex, Once};

/// Entries in one frame of the table.
const PER_FRAME: u32 = 512;
/// Runs of table frames; run 0 has one frame, run `n` has `2^(n-1)`.
const RUNS: usize = 9;
/// So many frames at most: 131,072 references. Hosts allow 64 unless told otherwise.
const MAX_FRAMES: u32 = 1 << (RUNS - 1);
/// Times an entry is tried to be ended while the host changes it.
const END_TRIES: u32 = 4;

const FLAGS: usize = offset_of!(GrantEntryV1, flags);
const DOMID: usize = offset_of!(GrantEntryV1, domid);
const FRAME: usize = offset_of!(GrantEntryV1, frame);

/// The table.
pub(super) struct Grants<P: Platform> {
    runs: [Once<Lent<P>>; RUNS],
    /// A bit for each reference, set while it is free.
    free: Pages<P>,
    /// Frames in use.
    frames: AtomicU32,
    /// Frames there may be.
    max_frames: AtomicU32,
    growing: Mutex<()>,
}

/// The run that holds a frame, and the run's first frame.
fn run_of(frame: u32) -> (usize, u32) {
    match frame.checked_ilog2() {
        None => (0, 0),
        Some(log) => ((log as usize).wrapping_add(1), 1 << log),
    }
}

/// A range of references, cut at the words of the bitmap: each word's offset in bytes and bits.
fn words(refs: Range<u32>) -> impl Iterator<Item = (usize, u64, Range<u32>)> {
    let mut at = refs.start;
    core::iter::from_fn(move || {
        if at >= refs.end {
            return None;
        }
        let start = at;
        let end = (at | 63).saturating_add(1).min(refs.end);
        at = end;
        let bits = end.wrapping_sub(start);
        let mask = u64::MAX.checked_shr(64u32.wrapping_sub(bits)).unwrap_or(0) << (start & 63);
        Some((((start >> 6) as usize).wrapping_mul(8), mask, start..end))
    })
}

impl<P: Platform> Grants<P> {
    /// Takes the table over, with one frame.
    pub(super) fn new<G: Gate>(platform: &P, calls: &Calls<G>) -> Result<Self, HostError> {
        // A host that cannot say which version it has knows only the first.
        if calls.grant_version().is_ok_and(|version| version != 1) {
            calls
                .set_grant_version(1)
                .map_err(|_| HostError::Unsupported)?;
        }
        let max = calls.max_grant_frames()?.clamp(1, MAX_FRAMES);
        let bytes = (max as usize).wrapping_mul(PER_FRAME as usize / 8);
        let free =
            Pages::alloc(platform, bytes.div_ceil(PAGE_SIZE)).map_err(|_| HostError::OutOfPages)?;
        let grants = Self {
            runs: [const { Once::new() }; RUNS],
            free,
            frames: AtomicU32::new(0),
            max_frames: AtomicU32::new(max),
            growing: Mutex::new(()),
        };
        grants.grow(calls, 0)?;
        Ok(grants)
    }

    /// Adds a run of frames, unless somebody did since `seen` frames were counted.
    fn grow<G: Gate>(&self, calls: &Calls<G>, seen: u32) -> Result<(), HostError> {
        let _one = self.growing.lock();
        let start = self.frames.load(Ordering::Acquire);
        if start != seen {
            return Ok(());
        }
        let (run, first) = run_of(start);
        let left = self
            .max_frames
            .load(Ordering::Relaxed)
            .saturating_sub(start);
        let count = left.min(first.max(1));
        let slot = self.runs.get(run).ok_or(HostError::Exhausted)?;
        // After a host broke its word on the maximum, `start` is inside a run that exists.
        if count == 0 || slot.is_completed() {
            return Err(HostError::Exhausted);
        }
        let pages = Pages::alloc(self.free.platform(), count as usize)
            .map_err(|_| HostError::OutOfPages)?;
        let mut added = 0;
        let mut refused = None;
        for frame in start..start.saturating_add(count) {
            let Some(gfn) = pages.gfn(added as usize) else {
                break;
            };
            if let Err(errno) = calls.add_to_physmap(XENMAPSPACE_GRANT_TABLE, frame.into(), gfn) {
                self.max_frames.store(frame, Ordering::Relaxed);
                refused = Some(errno);
                break;
            }
            added = u32::wrapping_add(added, 1);
        }
        if added == 0 {
            // Nothing was placed there, so the pages are still ordinary ones.
            return Err(refused.map_or(HostError::Exhausted, HostError::from));
        }
        // The pages now show Xen's frames: they are lent for good.
        let table = slot.call_once(|| Lent::new(pages, None));
        self.release_unused(start, added, table.span())
            .map_err(|_| HostError::Exhausted)?;
        self.frames
            .store(start.saturating_add(added), Ordering::Release);
        Ok(())
    }

    /// Marks free what is unused in new frames: not the reserved references, and not what an
    /// earlier kernel of this domain granted and a back end may still use.
    fn release_unused(&self, start: u32, count: u32, table: Span<'_>) -> Result<(), OutOfSpan> {
        for i in 0..count.wrapping_mul(PER_FRAME) {
            let reference = start.wrapping_mul(PER_FRAME).wrapping_add(i);
            let at = (i as usize).wrapping_mul(size_of::<GrantEntryV1>());
            if reference >= GNTTAB_NR_RESERVED_ENTRIES
                && table.load_u16(at.wrapping_add(FLAGS))? == 0
            {
                self.give_back(reference..reference.wrapping_add(1));
            }
        }
        Ok(())
    }

    fn give_back(&self, refs: Range<u32>) {
        for (at, mask, _) in words(refs) {
            // In range: the bitmap covers all frames there may be.
            let _ = self.free.span().set_u64(at, mask);
        }
    }

    /// Takes every reference of a range, or none.
    fn take(&self, refs: Range<u32>) -> bool {
        for (at, mask, part) in words(refs.clone()) {
            let was = self.free.span().clear_u64(at, mask).unwrap_or(0);
            if was & mask != mask {
                let _ = self.free.span().set_u64(at, was & mask);
                self.give_back(refs.start..part.start);
                return false;
            }
        }
        true
    }

    /// Finds and takes `count` consecutive references among those of `frames` frames.
    fn claim(&self, count: u32, frames: u32) -> Option<u32> {
        let end = frames.checked_mul(PER_FRAME)?;
        let mut at = 0u32;
        let mut start = 0;
        while at < end {
            let offset = ((at >> 6) as usize).wrapping_mul(8);
            let word = self.free.span().load_u64(offset).ok()?;
            if word == 0 && at & 63 == 0 {
                at = at.wrapping_add(64);
                start = at;
                continue;
            }
            let free = word >> (at & 63) & 1 != 0;
            at = at.wrapping_add(1);
            if !free {
                start = at;
            } else if at.wrapping_sub(start) == count {
                if self.take(start..at) {
                    return Some(start);
                }
                start = at;
            }
        }
        None
    }

    /// Where an entry is.
    fn entry(&self, reference: u32) -> Option<Span<'_>> {
        let frame = reference / PER_FRAME;
        let (run, first) = run_of(frame);
        let table = self.runs.get(run)?.get()?;
        let place = reference.wrapping_sub(first.wrapping_mul(PER_FRAME)) as usize;
        let size = size_of::<GrantEntryV1>();
        table.span().part(place.wrapping_mul(size), size).ok()
    }

    /// Grants a run to `peer`; returns the first of its consecutive references.
    pub(super) fn grant<G: Gate>(
        &self,
        calls: &Calls<G>,
        pages: &Pages<P>,
        peer: u16,
        access: Access,
    ) -> Result<u32, HostError> {
        let count = u32::try_from(pages.count()).map_err(|_| HostError::Exhausted)?;
        // Version 1 names frames by 32 bits: memory below 16 TiB.
        let frame = |i: u32| {
            pages
                .gfn(i as usize)
                .and_then(|gfn| u32::try_from(gfn).ok())
        };
        if (0..count).any(|i| frame(i).is_none()) {
            return Err(HostError::Unsupported);
        }
        let first = loop {
            let frames = self.frames.load(Ordering::Acquire);
            if let Some(first) = self.claim(count, frames) {
                break first;
            }
            self.grow(calls, frames)?;
        };
        let flags = flags_of(access);
        for i in 0..count {
            if let (Some(entry), Some(frame)) = (self.entry(first.wrapping_add(i)), frame(i)) {
                // In range by `entry`. The entry is dead until its flags are written, last.
                let _ = entry.store_u32(FRAME, frame);
                let _ = entry.store_u16(DOMID, peer);
                fence(Ordering::SeqCst);
                let _ = entry.store_u16(FLAGS, flags);
            }
        }
        Ok(first)
    }

    /// Ends the grants of a run: true when every one has ended. Those that ended stay so, and
    /// asking again goes on with the others.
    pub(super) fn end(&self, lent: &Lent<P>) -> bool {
        let (Some(first), Ok(count)) = (lent.grant(), u32::try_from(lent.count())) else {
            return false;
        };
        let mut all = true;
        for i in 0..count {
            all &= self.end_page(lent, first, i);
        }
        if all {
            self.give_back(first..first.wrapping_add(count));
        }
        all
    }

    /// Ends the grant of page `index` of a run, whose references begin with `first`.
    fn end_page(&self, lent: &Lent<P>, first: u32, index: u32) -> bool {
        self.entry(first.wrapping_add(index))
            .zip(lent.gfn(index as usize))
            .is_some_and(|(entry, gfn)| end(entry, gfn).unwrap_or(false))
    }

    /// Ends the grants of some pages of a run, whose references stay its own; or, when the peer
    /// holds on to one, of none.
    pub(super) fn withdraw(
        &self,
        lent: &Lent<P>,
        pages: impl Iterator<Item = u16> + Clone,
        access: Access,
    ) -> bool {
        let Some(first) = lent.grant() else {
            return false;
        };
        let held = |page: &u16| !self.end_page(lent, first, (*page).into());
        let Some(held) = pages.clone().position(|page| held(&page)) else {
            return true;
        };
        for page in pages.take(held) {
            self.permit(lent, page, access);
        }
        false
    }

    /// Grants page `index` of a run again, after [`withdraw`](Self::withdraw).
    pub(super) fn permit(&self, lent: &Lent<P>, index: u16, access: Access) -> bool {
        lent.grant()
            .and_then(|first| self.entry(first.wrapping_add(index.into())))
            .zip(lent.gfn(index.into()))
            .is_some_and(|(entry, gfn)| permit(entry, gfn, flags_of(access)).unwrap_or(false))
    }
}

fn flags_of(access: Access) -> u16 {
    match access {
        Access::ReadWrite => GTF_PERMIT_ACCESS,
        Access::ReadOnly => GTF_PERMIT_ACCESS | GTF_READONLY,
    }
}

/// Lets the peer reach a frame again whose grant was ended, and is otherwise as it was.
fn permit(entry: Span<'_>, gfn: u64, flags: u16) -> Result<bool, OutOfSpan> {
    if u64::from(entry.load_u32(FRAME)?) != gfn || entry.load_u16(FLAGS)? != 0 {
        return Ok(false);
    }
    fence(Ordering::SeqCst);
    entry.store_u16(FLAGS, flags)?;
    Ok(true)
}

/// Ends one grant unless the peer has the frame mapped.
fn end(entry: Span<'_>, gfn: u64) -> Result<bool, OutOfSpan> {
    // Another frame's entry is not this loan's: it came from another instance.
    if u64::from(entry.load_u32(FRAME)?) != gfn {
        return Ok(false);
    }
    let mut flags = entry.load_u16(FLAGS)?;
    for _ in 0..END_TRIES {
        if flags & (GTF_READING | GTF_WRITING) != 0 {
            return Ok(false);
        }
        match entry.exchange_u16(FLAGS, flags, 0)? {
            Ok(()) => return Ok(true),
            Err(now) => flags = now,
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn runs_double() {
        let places: Vec<_> = (0..9).map(run_of).collect();
        assert_eq!(
            places,
            [
                (0, 0),
                (1, 1),
                (2, 2),
                (2, 2),
                (3, 4),
                (3, 4),
                (3, 4),
                (3, 4),
                (4, 8)
            ]
        );
        assert_eq!(run_of(MAX_FRAMES - 1).0, RUNS - 1);
    }

    #[test]
    fn ranges_are_cut_at_words() {
        let cut: Vec<_> = words(60..130).collect();
        assert_eq!(
            cut,
            [
                (0, 0xf << 60, 60..64),
                (8, u64::MAX, 64..128),
                (16, 3, 128..130)
            ]
        );
        assert_eq!(words(5..5).count(), 0);
    }
}
