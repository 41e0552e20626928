//! The channels that the host offers, from their offer to their end.

use crate::abi::guid::{self, Guid};
use crate::abi::message::{OfferChannel, RELIDS};
use core::fmt;
use heapless::Vec;
use hypercall::bus::{BusEvent, Class, Device};

/// How many channels are kept track of; a host that offers more has the others left out.
pub const OFFERS: usize = 64;

/// A channel that the host offers.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    /// What kind of device.
    pub class: Guid,
    /// Which device.
    pub instance: Guid,
    /// 0 for a device's first channel.
    pub subchannel: u16,
    /// The channel's number: 1 to 2047, and its event flag.
    pub relid: u32,
    /// What reaches the host's end.
    pub connection: u32,
    /// MiB of MMIO space the device wants.
    pub mmio_megabytes: u16,
    /// Bit 0: enumerate; bit 4: a pipe; bit 13: a socket.
    pub flags: u16,
    /// What the device says of itself.
    pub user_data: [u8; 120],
}

impl Offer {
    /// From the message. `None` for a number that is no event flag.
    pub fn new(offer: &OfferChannel) -> Option<Self> {
        (1..RELIDS).contains(&offer.relid).then_some(Self {
            class: offer.interface,
            instance: offer.instance,
            subchannel: offer.subchannel_index,
            relid: offer.relid,
            connection: offer.connection_id,
            mmio_megabytes: offer.mmio_megabytes,
            flags: offer.flags,
            user_data: offer.user_data,
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.relid == other.relid && self.instance == other.instance && self.class == other.class
    }
}

impl Device for Offer {
    fn class(&self) -> Class {
        match self.class {
            guid::SCSI => Class::Block,
            guid::NET => Class::Net,
            _ => Class::Other,
        }
    }
}

/// A short name: class and number, as in "scsi 2"; the class's GUID where it has no name.
impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match guid::class_name(self.class) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}", self.class)?,
        }
        write!(f, " {}", self.relid)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({}", self.instance)?;
        if self.subchannel != 0 {
            write!(f, ", channel {}", self.subchannel)?;
        }
        f.write_str(")")
    }
}

/// What is owed for a channel.
#[derive(Debug)]
struct Entry {
    offer: Offer,
    /// Whether [`BusEvent::Offered`] was given out.
    announced: bool,
    /// Whether the host took the offer back.
    rescinded: bool,
    /// Whether [`BusEvent::Gone`] was given out.
    gone: bool,
    /// Whether a driver has the channel open.
    open: bool,
    /// Whether it is a sub-channel that belongs to an earlier opening of its device.
    stale: bool,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in the table.
    Kept,
    /// Its number is none, or in use.
    Invalid,
    /// The table is full.
    Full,
}

/// What a rescind means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescinded {
    /// A driver has the channel open, and must be told.
    InUse,
    /// Nobody has it.
    Idle,
    /// No such channel is known.
    Unknown,
}

/// All channels.
#[derive(Debug, Default)]
pub struct Offers {
    entries: Vec<Entry, OFFERS>,
    delivered: bool,
}

impl Offers {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            delivered: false,
        }
    }

    /// Notes that all channels of the start have been offered. More may come.
    pub fn set_delivered(&mut self) {
        self.delivered = true;
    }

    /// Whether all channels of the start have been offered.
    pub fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// Takes an offer. One whose number is still in use never replaces the channel there.
    pub fn offer(&mut self, message: &OfferChannel) -> Offered {
        let Some(offer) = Offer::new(message) else {
            return Offered::Invalid;
        };
        if self.entries.iter().any(|e| e.offer.relid == offer.relid) {
            return Offered::Invalid;
        }
        let entry = Entry {
            offer,
            announced: false,
            rescinded: false,
            gone: false,
            open: false,
            stale: false,
        };
        match self.entries.push(entry) {
            Ok(()) => Offered::Kept,
            Err(_) => Offered::Full,
        }
    }

    /// Takes the end of an offer.
    pub fn rescind(&mut self, relid: u32) -> Rescinded {
        match self.entries.iter_mut().find(|e| e.offer.relid == relid) {
            Some(entry) => {
                entry.rescinded = true;
                if entry.open {
                    Rescinded::InUse
                } else {
                    Rescinded::Idle
                }
            }
            None => Rescinded::Unknown,
        }
    }

    /// The next news of devices, in the order of the offers. A sub-channel is no device: it is for
    /// who has the device's first channel, by [`subchannel`](Self::subchannel).
    pub fn next_event(&mut self) -> Option<BusEvent<Offer>> {
        for entry in self.entries.iter_mut().filter(|e| e.offer.subchannel == 0) {
            if !entry.announced && !entry.rescinded {
                entry.announced = true;
                return Some(BusEvent::Offered(entry.offer.clone()));
            }
            if entry.rescinded && entry.announced && !entry.gone {
                entry.gone = true;
                return Some(BusEvent::Gone(entry.offer.clone()));
            }
        }
        None
    }

    /// A channel that is rescinded, not open, and of which all was said: the host may have its
    /// number back.
    pub fn releasable(&self) -> Option<u32> {
        self.entries
            .iter()
            .find(|e| e.rescinded && !e.open && (e.gone || !e.announced))
            .map(|e| e.offer.relid)
    }

    /// Forgets a channel whose number the host got back.
    pub fn release(&mut self, relid: u32) {
        self.entries.retain(|e| e.offer.relid != relid);
    }

    /// Marks a channel open. False when it is gone, or open already.
    #[must_use]
    pub fn open(&mut self, offer: &Offer) -> bool {
        let entry = self
            .entries
            .iter_mut()
            .find(|e| e.offer.is_same(offer) && !e.open && !e.rescinded);
        entry.map(|entry| entry.open = true).is_some()
    }

    /// Marks a channel closed.
    pub fn close(&mut self, relid: u32) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.offer.relid == relid) {
            entry.open = false;
        }
    }

    fn of_device<'a>(&'a mut self, offer: &'a Offer) -> impl Iterator<Item = &'a mut Entry> {
        self.entries.iter_mut().filter(|e| {
            e.offer.instance == offer.instance && e.offer.class == offer.class && !e.rescinded
        })
    }

    /// Sub-channel `index` of a device, when it was offered since the device was last closed.
    pub fn subchannel(&mut self, device: &Offer, index: u16) -> Option<Offer> {
        self.of_device(device)
            .find(|e| e.offer.subchannel == index && index != 0 && !e.stale && !e.open)
            .map(|e| e.offer.clone())
    }

    /// Notes that a device's first channel is closed: its sub-channels go with it.
    pub fn close_subchannels(&mut self, device: &Offer) {
        for entry in self.of_device(device) {
            entry.stale |= entry.offer.subchannel != 0;
        }
    }

    /// How a device is offered now, under whatever number: a host may take one back and offer it
    /// again.
    pub fn current(&mut self, device: &Offer) -> Option<Offer> {
        self.of_device(device)
            .find(|e| e.offer.subchannel == 0)
            .map(|e| e.offer.clone())
    }

    /// Whether a channel was rescinded, or is not there at all.
    pub fn is_rescinded(&self, relid: u32) -> bool {
        self.entries
            .iter()
            .find(|e| e.offer.relid == relid)
            .is_none_or(|e| e.rescinded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use zerocopy::FromZeros;

    fn message(relid: u32, class: Guid) -> OfferChannel {
        let mut message = OfferChannel::new_zeroed();
        message.relid = relid;
        message.interface = class;
        message.instance = Guid::new(relid.into());
        message
    }

    fn offered(offers: &mut Offers, relid: u32) -> Offer {
        assert_eq!(offers.offer(&message(relid, guid::SCSI)), Offered::Kept);
        match offers.next_event() {
            Some(BusEvent::Offered(offer)) => offer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn offers_are_announced_once_in_order() {
        let mut offers = Offers::new();
        for relid in [3, 1, 2] {
            assert_eq!(offers.offer(&message(relid, guid::NET)), Offered::Kept);
        }
        for relid in [3, 1, 2] {
            let Some(BusEvent::Offered(offer)) = offers.next_event() else {
                panic!();
            };
            assert_eq!((offer.relid, offer.class()), (relid, Class::Net));
        }
        assert_eq!(offers.next_event(), None);
    }

    #[test]
    fn numbers_are_checked() {
        let mut offers = Offers::new();
        for relid in [0, 2048, u32::MAX] {
            assert_eq!(offers.offer(&message(relid, guid::NET)), Offered::Invalid);
        }
        let first = offered(&mut offers, 2047);
        // A second device under a live number is not let in, and does not harm the first.
        assert_eq!(offers.offer(&message(2047, guid::NET)), Offered::Invalid);
        assert!(offers.open(&first));
        assert_eq!(offers.rescind(5), Rescinded::Unknown);
    }

    #[test]
    fn a_full_table_leaves_offers_out() {
        let mut offers = Offers::new();
        for relid in 1..=OFFERS as u32 {
            assert_eq!(offers.offer(&message(relid, guid::NET)), Offered::Kept);
        }
        assert_eq!(offers.offer(&message(2000, guid::NET)), Offered::Full);
        offers.rescind(1);
        assert_eq!(offers.releasable(), Some(1));
        offers.release(1);
        assert_eq!(offers.offer(&message(2000, guid::NET)), Offered::Kept);
    }

    #[test]
    fn a_rescind_before_the_news_makes_none() {
        let mut offers = Offers::new();
        offers.offer(&message(1, guid::NET));
        assert_eq!(offers.rescind(1), Rescinded::Idle);
        assert_eq!(offers.next_event(), None);
        assert_eq!(offers.releasable(), Some(1));
    }

    #[test]
    fn an_open_channel_outlives_its_rescind() {
        let mut offers = Offers::new();
        let offer = offered(&mut offers, 9);
        assert!(offers.open(&offer));
        assert!(!offers.open(&offer));
        assert_eq!(offers.rescind(9), Rescinded::InUse);
        assert!(offers.is_rescinded(9));
        assert!(matches!(offers.next_event(), Some(BusEvent::Gone(o)) if o == offer));
        assert_eq!(offers.next_event(), None);
        assert_eq!(offers.releasable(), None);
        // The number is still taken.
        assert_eq!(offers.offer(&message(9, guid::NET)), Offered::Invalid);
        offers.close(9);
        assert!(!offers.open(&offer));
        assert_eq!(offers.releasable(), Some(9));
        offers.release(9);
        // A new device under the old number is not the old one.
        let mut next = message(9, guid::SCSI);
        next.instance = Guid::new(1 << 100);
        assert_eq!(offers.offer(&next), Offered::Kept);
        assert!(!offers.open(&offer));
    }

    #[test]
    fn a_closed_channel_opens_again() {
        let mut offers = Offers::new();
        let offer = offered(&mut offers, 9);
        assert!(offers.open(&offer));
        offers.close(9);
        assert!(offers.open(&offer));
        assert!(!offers.is_rescinded(9));
        assert!(offers.is_rescinded(10));
    }

    #[test]
    fn subchannels_are_their_owners() {
        let mut offers = Offers::new();
        let device = offered(&mut offers, 3);
        for (relid, index, instance) in [(4, 1, 3), (5, 2, 3), (6, 1, 9)] {
            let mut message = message(relid, guid::SCSI);
            message.subchannel_index = index;
            message.instance = Guid::new(instance);
            assert_eq!(offers.offer(&message), Offered::Kept);
        }
        assert_eq!(offers.next_event(), None);
        assert_eq!(offers.subchannel(&device, 0), None);
        assert_eq!(offers.subchannel(&device, 3), None);
        let first = offers.subchannel(&device, 1).unwrap();
        assert_eq!((first.relid, first.subchannel), (4, 1));
        assert_eq!(offers.subchannel(&device, 2).unwrap().relid, 5);
        assert!(offers.open(&first));
        assert_eq!(offers.subchannel(&device, 1), None);
        offers.close(4);
        offers.close_subchannels(&device);
        assert_eq!(offers.subchannel(&device, 2), None);
        // They go without news, and come anew.
        assert_eq!(offers.rescind(5), Rescinded::Idle);
        assert_eq!(offers.next_event(), None);
        assert_eq!(offers.releasable(), Some(5));
        let mut again = message(7, guid::SCSI);
        (again.subchannel_index, again.instance) = (2, Guid::new(3));
        assert_eq!(offers.offer(&again), Offered::Kept);
        assert_eq!(offers.subchannel(&device, 2).unwrap().relid, 7);
        assert_eq!(offers.current(&device), Some(device.clone()));
    }

    #[test]
    fn a_device_is_found_under_its_new_number() {
        let mut offers = Offers::new();
        let old = offered(&mut offers, 3);
        offers.rescind(3);
        assert_eq!(offers.current(&old), None);
        let mut again = message(8, guid::SCSI);
        again.instance = old.instance;
        assert_eq!(offers.offer(&again), Offered::Kept);
        assert_eq!(offers.current(&old).unwrap().relid, 8);
    }

    #[test]
    fn names_are_short() {
        let mut offers = Offers::new();
        let offer = offered(&mut offers, 2);
        assert_eq!(offer.to_string(), "scsi 2");
        assert_eq!(offer.class(), Class::Block);
        let ide = Offer {
            class: guid::IDE,
            ..offer.clone()
        };
        assert_eq!(
            (ide.to_string().as_str(), ide.class()),
            ("ide 2", Class::Other)
        );
        let other = Offer {
            class: Guid::new(0xab),
            ..offer
        };
        assert_eq!(other.to_string(), "00000000-0000-0000-0000-0000000000ab 2");
    }
}
