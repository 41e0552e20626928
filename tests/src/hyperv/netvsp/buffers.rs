//! The receive buffer's sections, and which of them the guest has.

use crate::hyperv::gpa::GpaRange;
use crate::hyperv::gpadl::GpadlView;
use std::collections::{BTreeMap, VecDeque};

/// A buffer the guest shared: a GPADL and the number it is called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    pub gpadl: u32,
    pub id: u16,
    /// Bytes, as it was when it was shared.
    pub bytes: u32,
}

impl Shared {
    /// A buffer of whole pages; `None` if the GPADL is not one range of them.
    pub fn new(gpadl: u32, id: u16, gpadls: GpadlView<'_>) -> Option<Shared> {
        let range = gpadls.range(gpadl)?;
        (range.offset == 0 && range.bytes != 0).then_some(Shared {
            gpadl,
            id,
            bytes: range.bytes,
        })
    }

    /// Its memory, as long as the guest leaves it.
    pub fn range<'a>(&self, gpadls: GpadlView<'a>) -> Option<&'a GpaRange> {
        gpadls.range(self.gpadl)
    }
}

/// The receive buffer in sections.
#[derive(Debug)]
pub struct ReceiveBuffer {
    pub shared: Shared,
    pub section_bytes: u32,
    pub sections: u32,
    /// Oldest first, so that a section that comes back is not used again at once.
    free: VecDeque<u32>,
    /// By transaction id: the channel it went over, and its sections.
    lent: BTreeMap<u64, (u16, Vec<u32>)>,
    next_id: u64,
}

/// Sections kept for answers and indications while frames hold the others.
const RESERVED: usize = 16;

impl ReceiveBuffer {
    /// `None` if not even one section fits.
    pub fn new(shared: Shared, section_bytes: u32) -> Option<Self> {
        let sections = shared.bytes.checked_div(section_bytes)?;
        (sections != 0).then(|| ReceiveBuffer {
            shared,
            section_bytes,
            sections,
            free: (0..sections).collect(),
            lent: BTreeMap::new(),
            // Numbers that are no index of anything in the guest.
            next_id: 0x7e57_0000_0000_1000,
        })
    }

    /// Sections that frames may take now.
    pub fn for_frames(&self) -> usize {
        let reserved = RESERVED.min(self.sections as usize / 4);
        self.free.len().saturating_sub(reserved)
    }

    /// Sections that anything may take now.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Sections the guest has.
    pub fn out(&self) -> usize {
        self.sections as usize - self.free.len()
    }

    /// Takes a section to write into.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// Gives sections to the guest; returns the transaction id they come back with.
    pub fn lend(&mut self, channel: u16, sections: Vec<u32>) -> u64 {
        let id = self.next_id;
        self.next_id += 3;
        self.lent.insert(id, (channel, sections));
        id
    }

    /// Takes them back. False: they were not given away, or not over this channel.
    pub fn give_back(&mut self, channel: u16, id: u64) -> bool {
        match self.lent.get(&id) {
            Some(&(over, _)) if over == channel => {
                let (_, sections) = self.lent.remove(&id).expect("just seen");
                self.free.extend(sections);
                true
            }
            _ => false,
        }
    }

    /// A channel is gone: what went over it does not come back.
    pub fn forget(&mut self, channel: u16) {
        let free = &mut self.free;
        self.lent.retain(|_, (over, sections)| {
            if *over == channel {
                free.extend(sections.drain(..));
            }
            *over != channel
        });
    }
}
