//! The grant table, version 1, as the host maps pages through it.
//!
//! The guest writes entries; the host pins one by a compare-and-exchange on the entry's flags and
//! domain (`xen/common/grant_table.c`), so a guest that ends access sees what is still in use.

use super::abi::grant::*;
use super::abi::pages::GrantEntry;
use super::abi::{PAGE, domid};
use super::window::Window;
use crate::memory::{BadAddress, GuestMemory};
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

/// Entries in one frame of the table.
pub const ENTRIES_PER_FRAME: u32 = (PAGE / size_of::<GrantEntry>() as u64) as u32;

/// What the host holds while it uses a granted page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(u64);

/// A page the host has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub gref: u32,
    /// Guest-physical address of the page.
    pub gpa: u64,
    pub readonly: bool,
}

/// Mappings of one entry.
#[derive(Debug, Default, Clone, Copy)]
struct Pins {
    readers: u32,
    writers: u32,
    frame: u32,
}

/// The guest's grant table and the host's mappings.
#[derive(Debug)]
pub struct GrantTable {
    frames: Vec<Window>,
    max_frames: u32,
    mappings: BTreeMap<Handle, Mapping>,
    pins: BTreeMap<u32, Pins>,
    next_handle: u64,
    version: u32,
    /// Successful mappings so far.
    pub maps: u64,
    /// Mappings given back so far.
    pub unmaps: u64,
}

impl GrantTable {
    /// `frames` frames now, growing to `max_frames` when the guest asks; none mapped yet.
    pub fn new(frames: u32, max_frames: u32) -> Self {
        GrantTable {
            frames: (0..frames).map(|_| Window::new(PAGE as usize)).collect(),
            max_frames,
            mappings: BTreeMap::new(),
            pins: BTreeMap::new(),
            next_handle: 1,
            version: 1,
            maps: 0,
            unmaps: 0,
        }
    }

    /// Frames the table has.
    pub fn frames(&self) -> u32 {
        self.frames.len() as u32
    }

    /// Frames it can grow to.
    pub fn max_frames(&self) -> u32 {
        self.max_frames
    }

    /// The version in use. Only version 1 does anything; version 2 is what a firmware may leave.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Grows to at least `frames` frames. False beyond the limit.
    pub fn grow(&mut self, frames: u32) -> bool {
        if frames > self.max_frames {
            return false;
        }
        while self.frames() < frames {
            self.frames.push(Window::new(PAGE as usize));
        }
        true
    }

    /// `GNTTABOP_set_version`: false while any but the reserved entries are mapped.
    pub fn set_version<M: GuestMemory>(
        &mut self,
        mem: &M,
        version: u32,
    ) -> Result<bool, BadAddress> {
        if version == self.version {
            return Ok(true);
        }
        if self.pins.keys().any(|&gref| gref >= NR_RESERVED) {
            return Ok(false);
        }
        let reserved = NR_RESERVED as usize * size_of::<GrantEntry>();
        for (n, frame) in self.frames.iter_mut().enumerate() {
            let from = if n == 0 { reserved } else { 0 };
            frame.write(mem, from, &vec![0; PAGE as usize - from])?;
        }
        self.version = version;
        Ok(true)
    }

    /// A frame of the table, to be placed by the guest.
    pub fn frame(&mut self, index: u32) -> Option<&mut Window> {
        self.frames.get_mut(index as usize)
    }

    /// Fills an entry on the toolstack's behalf (console and xenstore).
    pub fn reserve<M: GuestMemory>(
        &mut self,
        mem: &M,
        gref: u32,
        frame: u32,
    ) -> Result<(), BadAddress> {
        let entry = GrantEntry {
            flags: GTF_PERMIT_ACCESS,
            domid: domid::DOM0,
            frame,
        };
        match self.place(gref) {
            Some((window, at)) => window.write(mem, at, entry.as_bytes()),
            None => Ok(()),
        }
    }

    fn place(&mut self, gref: u32) -> Option<(&mut Window, usize)> {
        let at = (gref % ENTRIES_PER_FRAME) as usize * size_of::<GrantEntry>();
        let window = self.frames.get_mut((gref / ENTRIES_PER_FRAME) as usize)?;
        Some((window, at))
    }

    /// Maps a page the guest granted to the control domain; a `GNTST_*` status where it may not.
    pub fn map<M: GuestMemory>(
        &mut self,
        mem: &M,
        gref: u32,
        readonly: bool,
    ) -> Result<(Handle, Mapping), i16> {
        if self.version != 1 {
            return Err(GNTST_GENERAL_ERROR);
        }
        let mut pins = self.pins.get(&gref).copied().unwrap_or_default();
        let pinned = pins.readers + pins.writers > 0;
        let (window, at) = self.place(gref).ok_or(GNTST_BAD_GNTREF)?;
        let frame = pin(window, mem, at, readonly, pinned)?;
        // A pinned entry keeps the frame it was pinned with, whatever the guest writes later.
        if !pinned {
            pins.frame = frame;
        }
        let mapping = Mapping {
            gref,
            gpa: u64::from(pins.frame) * PAGE,
            readonly,
        };
        if mem.read(mapping.gpa, &mut [0]).is_err() {
            if !pinned {
                self.unpin(mem, gref, GTF_READING | GTF_WRITING);
            }
            return Err(GNTST_BAD_PAGE);
        }
        if readonly {
            pins.readers += 1;
        } else {
            pins.writers += 1;
        }
        self.pins.insert(gref, pins);
        let handle = Handle(self.next_handle);
        self.next_handle += 1;
        self.mappings.insert(handle, mapping);
        self.maps += 1;
        Ok((handle, mapping))
    }

    /// Gives a mapping back; the flags in the entry go with the last one.
    pub fn unmap<M: GuestMemory>(&mut self, mem: &M, handle: Handle) {
        let Some(mapping) = self.mappings.remove(&handle) else {
            return;
        };
        self.unmaps += 1;
        let Some(pins) = self.pins.get_mut(&mapping.gref) else {
            return;
        };
        if mapping.readonly {
            pins.readers -= 1;
        } else {
            pins.writers -= 1;
        }
        let mut clear = 0;
        if pins.writers == 0 && !mapping.readonly {
            clear |= GTF_WRITING;
        }
        if pins.writers + pins.readers == 0 {
            clear |= GTF_READING;
            self.pins.remove(&mapping.gref);
        }
        self.unpin(mem, mapping.gref, clear);
    }

    fn unpin<M: GuestMemory>(&mut self, mem: &M, gref: u32, flags: u16) {
        if flags != 0
            && let Some((window, at)) = self.place(gref)
        {
            // The entry was reachable when it was pinned; if it no longer is, there is no flag.
            let _ = window.fetch_clear_u32(mem, at, u32::from(flags));
        }
    }

    /// A mapping in use.
    pub fn mapping(&self, handle: Handle) -> Option<Mapping> {
        self.mappings.get(&handle).copied()
    }

    /// Every mapping in use.
    pub fn mapped(&self) -> impl Iterator<Item = (Handle, Mapping)> + '_ {
        self.mappings
            .iter()
            .map(|(&handle, &mapping)| (handle, mapping))
    }

    /// Entries that permit access now, the reserved ones not counted: what the guest has lent out.
    pub fn granted<M: GuestMemory>(&self, mem: &M) -> Vec<u32> {
        let mut granted = Vec::new();
        for (n, window) in (0..).zip(&self.frames) {
            let mut bytes = [0; PAGE as usize];
            if window.read(mem, 0, &mut bytes).is_err() {
                continue;
            }
            for (slot, entry) in (0..).zip(bytes.chunks(size_of::<GrantEntry>())) {
                let gref = n * ENTRIES_PER_FRAME + slot;
                let flags = u16::from_le_bytes([entry[0], entry[1]]);
                if gref >= NR_RESERVED && flags & GTF_TYPE_MASK != 0 {
                    granted.push(gref);
                }
            }
        }
        granted
    }
}

/// Sets the in-use flags of an entry that permits it; returns its frame.
fn pin<M: GuestMemory>(
    window: &mut Window,
    mem: &M,
    at: usize,
    readonly: bool,
    pinned: bool,
) -> Result<u32, i16> {
    let bad = |_| GNTST_BAD_PAGE;
    let mut word = window.load_u32(mem, at).map_err(bad)?;
    // A guest that keeps changing the entry is told so rather than waited for.
    for _ in 0..5 {
        let (flags, domain) = (word as u16, (word >> 16) as u16);
        if !pinned && (flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS || domain != domid::DOM0) {
            return Err(GNTST_GENERAL_ERROR);
        }
        if !readonly && flags & GTF_READONLY != 0 {
            return Err(GNTST_GENERAL_ERROR);
        }
        let mut new = word | u32::from(GTF_READING);
        if !readonly {
            new |= u32::from(GTF_WRITING);
        }
        let seen = window
            .compare_exchange_u32(mem, at, word, new)
            .map_err(bad)?;
        if seen == word {
            return window.load_u32(mem, at + 4).map_err(bad);
        }
        word = seen;
    }
    Err(GNTST_GENERAL_ERROR)
}
