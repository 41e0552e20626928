//! Virtual block devices in xenstore: what the toolstack creates and removes, and the back end's
//! half of the connection (`io/xenbus.h`, `io/blkif.h`; habits of libxl and of Linux's blkback).

use super::abi::blkif::{VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE};
use super::abi::state::*;
use super::blkback::{BlkBack, BlkHabits};
use super::pair::{Leftover, Pair};
use super::site::Site;
use super::xenstored::Xenstored;
use crate::disk::Disk;
use crate::memory::GuestMemory;

/// A disk to attach.
pub struct VbdSpec {
    /// As in a guest's configuration: `xvda`, `xvdb`, ...
    pub name: String,
    pub disk: Box<dyn Disk + Send>,
    pub habits: BlkHabits,
    pub leftover: Leftover,
    pub cdrom: bool,
    pub removable: bool,
    /// The front end's `trusted` key.
    pub trusted: bool,
    /// Bytes in the `physical-sector-size` key; no key when `None`.
    pub physical_sector: Option<u32>,
    /// Say this many 512-byte sectors in `sectors` instead of the disk's own.
    pub claim_sectors: Option<String>,
}

impl VbdSpec {
    /// A plain writable disk.
    pub fn new(name: &str, disk: Box<dyn Disk + Send>) -> Self {
        VbdSpec {
            name: name.to_string(),
            disk,
            habits: BlkHabits::default(),
            leftover: Leftover::None,
            cdrom: false,
            removable: false,
            trusted: true,
            physical_sector: None,
            claim_sectors: None,
        }
    }

    /// The same with other habits.
    pub fn habits(mut self, habits: BlkHabits) -> Self {
        self.habits = habits;
        self
    }

    /// The same as an earlier owner left it.
    pub fn leftover(mut self, leftover: Leftover) -> Self {
        self.leftover = leftover;
        self
    }
}

/// The virtual device number of a disk name (`docs/man/xen-vbd-interface.7`): `xvda` is 51712.
pub fn device_number(name: &str) -> Option<u32> {
    let letters = name.strip_prefix("xvd")?;
    let disk = letters.bytes().try_fold(0u32, |n, c| {
        c.is_ascii_lowercase()
            .then(|| n * 26 + u32::from(c - b'a') + 1)
    })?;
    match disk.checked_sub(1)? {
        disk @ 0..16 => Some(202 << 8 | disk << 4),
        disk => Some(1 << 28 | disk << 8),
    }
}

/// One device: its two ends, and the back end's disk.
#[derive(Debug)]
pub struct Vbd {
    pub pair: Pair,
    pub blk: BlkBack,
    info: u32,
    physical_sector: Option<u32>,
    claim_sectors: Option<String>,
}

impl Vbd {
    /// Creates both directories as libxl does, and the back end in its first state.
    pub fn create(store: &mut Xenstored, guest: u16, spec: VbdSpec, seed: u64) -> Option<Vbd> {
        let device = device_number(&spec.name)?;
        let pair = Pair::create(store, guest, "vbd", device, spec.trusted);
        let read_only = spec.disk.read_only();
        let kind = if spec.cdrom { "cdrom" } else { "disk" };
        let bit = |on| if on { "1" } else { "0" };
        pair.write_back(
            store,
            &[
                ("params", &format!("/simulated/{}", spec.name)),
                ("removable", bit(spec.removable)),
                ("bootable", "1"),
                ("dev", &spec.name),
                ("type", "phy"),
                ("mode", if read_only { "r" } else { "w" }),
                ("device-type", kind),
                ("discard-enable", bit(spec.habits.discard)),
            ],
        );
        pair.write_front(
            store,
            &[
                ("virtual-device", &device.to_string()),
                ("device-type", kind),
            ],
        );
        let mut vbd = Vbd {
            pair,
            info: if spec.cdrom { VDISK_CDROM } else { 0 }
                | if spec.removable { VDISK_REMOVABLE } else { 0 }
                | if read_only { VDISK_READONLY } else { 0 },
            physical_sector: spec.physical_sector,
            claim_sectors: spec.claim_sectors,
            blk: BlkBack::new(device, spec.disk, spec.habits, seed),
        };
        vbd.leave_over(store, spec.leftover);
        Some(vbd)
    }

    fn leave_over(&mut self, store: &mut Xenstored, leftover: Leftover) {
        let Some(state) = leftover.state() else {
            return;
        };
        self.publish_features(store);
        self.publish_size(store);
        let keys = [
            ("ring-ref", "8"),
            ("event-channel", "3"),
            ("protocol", "x86_64-abi"),
        ];
        self.pair.write_front(store, &keys);
        self.pair.leave_over(store, state);
    }

    /// The back end closes of its own accord and stays.
    pub fn close<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.blk.disconnect(site);
        self.pair.switch(store, CLOSED);
    }

    /// Gives the ring up and removes both directories, at once.
    pub fn destroy<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.blk.disconnect(site);
        self.pair.remove(store);
    }

    /// Looks at the front end's state if it may have changed, and answers it. False if it has not.
    pub fn step<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) -> bool {
        if !self.pair.take_attention() {
            return false;
        }
        let state = self.pair.state();
        if state == INITIALISING {
            self.pair
                .write_back(store, &[("hotplug-status", "connected")]);
            if self.blk.habits.early_features {
                self.publish_features(store);
                self.publish_size(store);
            }
            if let Some(order) = self.blk.habits.max_ring_page_order {
                let keys = [("max-ring-page-order", &*order.to_string())];
                self.pair.write_back(store, &keys);
            }
            self.pair.switch(store, INIT_WAIT);
            // The front end may have been quicker.
            self.pair.look_again();
            return true;
        }
        match self.pair.front_state(store) {
            INITIALISING if state == CLOSED => self.pair.switch(store, INIT_WAIT),
            INITIALISED | CONNECTED if state == INIT_WAIT => self.connect(store, site),
            CLOSING if state != CLOSED => self.pair.switch(store, CLOSING),
            CLOSED if state != CLOSED => self.close(store, site),
            UNKNOWN => {
                self.blk.disconnect(site);
                self.pair.leave(store);
            }
            _ => {}
        }
        true
    }

    fn connect<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        let connected = self
            .front_keys(store)
            .and_then(|(grefs, port, persistent)| self.blk.connect(site, &grefs, port, persistent));
        match connected {
            Ok(()) => {
                if !self.blk.habits.early_features {
                    self.publish_features(store);
                }
                self.publish_size(store);
                self.pair.switch(store, CONNECTED);
            }
            Err(why) => self.pair.refuse(store, site, why),
        }
    }

    /// Ring grants, event channel and whether grants persist, as the front end wrote them.
    fn front_keys(&self, store: &Xenstored) -> Result<(Vec<u32>, u32, bool), &'static str> {
        let number = |name: &str| self.pair.front_number(store, name);
        if let Some(protocol) = store.read(&self.pair.front_key("protocol"))
            && protocol != "x86_64-abi"
        {
            return Err("protocol is not x86_64-abi");
        }
        let order = number("ring-page-order");
        let limit = self.blk.habits.max_ring_page_order.unwrap_or(0);
        let pages = match order {
            Some(order) if order > limit => return Err("ring-page-order above the limit"),
            Some(order) => 1 << order,
            None => 1,
        };
        let grefs: Option<Vec<u32>> = (0..pages)
            .map(|n| number(&format!("ring-ref{n}")))
            .collect();
        // A ring of one page may be spelled either way.
        let grefs = match (grefs, pages) {
            (Some(grefs), _) if order.is_some() => grefs,
            (numbered, 1) => match number("ring-ref") {
                Some(gref) => vec![gref],
                None => numbered.ok_or("no ring-ref")?,
            },
            _ => return Err("a ring-ref is missing"),
        };
        let port = number("event-channel").ok_or("no event-channel")?;
        Ok((grefs, port, number("feature-persistent") == Some(1)))
    }

    fn publish_features(&self, store: &mut Xenstored) {
        let habits = self.blk.habits;
        // Linux writes zeros for some of what it lacks; QEMU leaves the keys out.
        let zeros = !habits.early_features;
        for (key, on, zero) in [
            ("feature-flush-cache", habits.flush, zeros),
            ("feature-barrier", habits.barrier, zeros),
            ("feature-discard", habits.discard, false),
            (
                "feature-persistent",
                habits.persistent && !habits.copies,
                zeros,
            ),
        ] {
            if on || zero {
                let value = if on { "1" } else { "0" };
                self.pair.write_back(store, &[(key, value)]);
            }
        }
    }

    fn publish_size(&self, store: &mut Xenstored) {
        let disk = self.blk.disk();
        let sectors = (disk.bytes() / 512).to_string();
        let sectors = self.claim_sectors.clone().unwrap_or(sectors);
        let mut keys = vec![
            ("sectors", sectors),
            ("info", self.info.to_string()),
            ("sector-size", disk.sector_size().to_string()),
        ];
        if let Some(bytes) = self.physical_sector {
            keys.push(("physical-sector-size", bytes.to_string()));
        }
        for (key, value) in keys {
            self.pair.write_back(store, &[(key, &value)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_numbers() {
        assert_eq!(device_number("xvda"), Some(51712));
        assert_eq!(device_number("xvdp"), Some(51952));
        assert_eq!(device_number("xvdq"), Some(1 << 28 | 16 << 8));
        assert_eq!(device_number("xvdaa"), Some(1 << 28 | 26 << 8));
        assert_eq!((device_number("xvd"), device_number("sda")), (None, None));
    }
}
