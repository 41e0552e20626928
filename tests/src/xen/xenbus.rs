//! Virtual block devices in xenstore: what the toolstack creates and removes, and the back end's
//! half of the connection (`io/xenbus.h`, `io/blkif.h`; habits of libxl and of Linux's blkback).

use super::abi::blkif::{VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE};
use super::abi::state::*;
use super::blkback::{BlkBack, BlkHabits};
use super::ledger::Complaint;
use super::site::Site;
use super::xenstored::Xenstored;
use crate::disk::Disk;
use crate::memory::GuestMemory;

/// What an earlier owner of the device (firmware, a kernel before kexec) left in its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// A fresh device.
    None,
    /// Both ends Closed.
    Closed,
    /// The back end Connected to a ring that is no more; the front end's keys say Connected.
    Connected,
}

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

/// One device: its two directories, its state, its back end.
#[derive(Debug)]
pub struct Vbd {
    pub device: u32,
    pub front: String,
    pub back: String,
    pub blk: BlkBack,
    state: u32,
    info: u32,
    physical_sector: Option<u32>,
    claim_sectors: Option<String>,
    /// The front end's directory changed since the back end looked.
    attention: bool,
    /// The toolstack waits for Closed to remove the device.
    leaving: bool,
}

impl Vbd {
    /// Creates both directories as libxl does, and the back end in its first state.
    pub fn create(store: &mut Xenstored, guest: u16, spec: VbdSpec, seed: u64) -> Option<Vbd> {
        let device = device_number(&spec.name)?;
        let front = format!("/local/domain/{guest}/device/vbd/{device}");
        let back = format!("/local/domain/0/backend/vbd/{guest}/{device}");
        let read_only = spec.disk.read_only();
        let kind = if spec.cdrom { "cdrom" } else { "disk" };
        let mut vbd = Vbd {
            device,
            state: INITIALISING,
            info: if spec.cdrom { VDISK_CDROM } else { 0 }
                | if spec.removable { VDISK_REMOVABLE } else { 0 }
                | if read_only { VDISK_READONLY } else { 0 },
            physical_sector: spec.physical_sector,
            claim_sectors: spec.claim_sectors,
            attention: true,
            leaving: false,
            blk: BlkBack::new(device, spec.disk, spec.habits, seed),
            front,
            back,
        };
        let (front, back) = (vbd.front.clone(), vbd.back.clone());
        store.write(&front, "");
        store.set_perms(&front, &[&format!("n{guest}"), "r0"]);
        store.write(&back, "");
        store.set_perms(&back, &["n0", &format!("r{guest}")]);
        let number = |value: u32| value.to_string();
        for (key, value) in [
            ("frontend", front.clone()),
            ("params", format!("/simulated/{}", spec.name)),
            ("frontend-id", guest.to_string()),
            ("online", number(1)),
            ("removable", number(spec.removable.into())),
            ("bootable", number(1)),
            ("state", number(INITIALISING)),
            ("dev", spec.name.clone()),
            ("type", "phy".to_string()),
            ("mode", if read_only { "r" } else { "w" }.to_string()),
            ("device-type", kind.to_string()),
            ("discard-enable", number(spec.habits.discard.into())),
        ] {
            store.write(&format!("{back}/{key}"), &value);
        }
        for (key, value) in [
            ("backend", back.clone()),
            ("backend-id", number(0)),
            ("state", number(INITIALISING)),
            ("virtual-device", number(device)),
            ("device-type", kind.to_string()),
            ("trusted", number(spec.trusted.into())),
        ] {
            store.write(&format!("{front}/{key}"), &value);
        }
        vbd.leave_over(store, spec.leftover);
        Some(vbd)
    }

    fn leave_over(&mut self, store: &mut Xenstored, leftover: Leftover) {
        let state = match leftover {
            Leftover::None => return,
            Leftover::Closed => CLOSED,
            Leftover::Connected => CONNECTED,
        };
        self.publish_features(store);
        self.publish_size(store);
        let front = &self.front;
        for (key, value) in [
            ("ring-ref", "8"),
            ("event-channel", "3"),
            ("protocol", "x86_64-abi"),
        ] {
            store.write(&format!("{front}/{key}"), value);
        }
        store.write(&format!("{front}/state"), &state.to_string());
        self.attention = false;
        self.switch(store, state);
    }

    /// The back end's state.
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Whether the toolstack has been told to remove the device.
    pub fn leaving(&self) -> bool {
        self.leaving
    }

    /// Notes a change in xenstore.
    pub fn path_changed(&mut self, path: &str) {
        self.attention |= path.starts_with(&self.front);
    }

    /// `xl block-detach`: asks both ends to close; the directories go when the back end is Closed.
    pub fn detach(&mut self, store: &mut Xenstored) {
        store.write(&format!("{}/online", self.back), "0");
        self.leaving = true;
        self.switch(store, CLOSING);
    }

    /// The back end closes of its own accord and stays.
    pub fn close<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.blk.disconnect(site);
        self.switch(store, CLOSED);
    }

    /// Gives the ring up and removes both directories, at once.
    pub fn destroy<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        self.blk.disconnect(site);
        store.remove(&self.back.clone());
        store.remove(&self.front.clone());
    }

    fn switch(&mut self, store: &mut Xenstored, state: u32) {
        self.state = state;
        store.write(&format!("{}/state", self.back), &state.to_string());
    }

    /// Looks at the front end's state if it may have changed, and answers it. False if it has not.
    pub fn step<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) -> bool {
        if !std::mem::take(&mut self.attention) {
            return false;
        }
        if self.state == INITIALISING {
            store.write(&format!("{}/hotplug-status", self.back), "connected");
            if self.blk.habits.early_features {
                self.publish_features(store);
                self.publish_size(store);
            }
            if let Some(order) = self.blk.habits.max_ring_page_order {
                let key = format!("{}/max-ring-page-order", self.back);
                store.write(&key, &order.to_string());
            }
            self.switch(store, INIT_WAIT);
            // The front end may have been quicker.
            self.attention = true;
            return true;
        }
        let front_state = store.read_number(&format!("{}/state", self.front));
        match front_state.unwrap_or(UNKNOWN) {
            INITIALISING if self.state == CLOSED => self.switch(store, INIT_WAIT),
            INITIALISED | CONNECTED if self.state == INIT_WAIT => self.connect(store, site),
            CLOSING if self.state != CLOSED => self.switch(store, CLOSING),
            CLOSED if self.state != CLOSED => {
                self.blk.disconnect(site);
                self.switch(store, CLOSED);
            }
            UNKNOWN => {
                self.blk.disconnect(site);
                self.leaving = true;
                self.switch(store, CLOSED);
            }
            _ => {}
        }
        true
    }

    /// Whether the toolstack can remove the directories now.
    pub fn gone(&self) -> bool {
        self.leaving && self.state == CLOSED
    }

    fn connect<M: GuestMemory>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>) {
        match self.front_keys(store) {
            Ok((grefs, port, persistent)) => {
                match self.blk.connect(site, &grefs, port, persistent) {
                    Ok(()) => {
                        if !self.blk.habits.early_features {
                            self.publish_features(store);
                        }
                        self.publish_size(store);
                        self.switch(store, CONNECTED);
                    }
                    Err(why) => self.refuse(store, site, why),
                }
            }
            Err(why) => self.refuse(store, site, why),
        }
    }

    fn refuse<M: GuestMemory>(
        &mut self,
        store: &mut Xenstored,
        site: &mut Site<'_, M>,
        why: &'static str,
    ) {
        let device = self.device;
        site.ledger.complain(Complaint::BadKeys { device, why });
        store.write(&format!("{}/error", self.back), why);
        self.switch(store, CLOSING);
    }

    /// Ring grants, event channel and whether grants persist, as the front end wrote them.
    fn front_keys(&self, store: &Xenstored) -> Result<(Vec<u32>, u32, bool), &'static str> {
        let key = |name: &str| format!("{}/{name}", self.front);
        let number = |name: &str| store.read_number::<u32>(&key(name));
        if let Some(protocol) = store.read(&key("protocol"))
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
                store.write(&format!("{}/{key}", self.back), &u32::from(on).to_string());
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
            store.write(&format!("{}/{key}", self.back), &value);
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
