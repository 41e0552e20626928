//! A device's two directories in xenstore, and the back end's state in one of them
//! (`io/xenbus.h`; habits of libxl).

use super::abi::state::{CLOSED, CLOSING, CONNECTED, INITIALISING, UNKNOWN};
use super::ledger::Complaint;
use super::site::Site;
use super::xenstored::Xenstored;

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

impl Leftover {
    /// The state of both ends, if there is any but that of a fresh device.
    pub fn state(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Closed => Some(CLOSED),
            Self::Connected => Some(CONNECTED),
        }
    }
}

/// The two ends of a device.
#[derive(Debug)]
pub struct Pair {
    pub device: u32,
    front: String,
    back: String,
    state: u32,
    /// The front end's directory changed since the back end looked.
    attention: bool,
    /// The toolstack waits for Closed to remove the device.
    leaving: bool,
}

impl Pair {
    /// Creates both directories as libxl does, with the keys that every kind of device has.
    pub fn create(
        store: &mut Xenstored,
        guest: u16,
        kind: &str,
        device: u32,
        trusted: bool,
    ) -> Self {
        let pair = Self {
            device,
            front: format!("/local/domain/{guest}/device/{kind}/{device}"),
            back: format!("/local/domain/0/backend/{kind}/{guest}/{device}"),
            state: INITIALISING,
            attention: true,
            leaving: false,
        };
        let (front, back) = (&pair.front, &pair.back);
        store.write(front, "");
        store.set_perms(front, &[&format!("n{guest}"), "r0"]);
        store.write(back, "");
        store.set_perms(back, &["n0", &format!("r{guest}")]);
        pair.write_back(
            store,
            &[
                ("frontend", front),
                ("frontend-id", &guest.to_string()),
                ("online", "1"),
                ("state", &INITIALISING.to_string()),
            ],
        );
        pair.write_front(
            store,
            &[
                ("backend", back),
                ("backend-id", "0"),
                ("state", &INITIALISING.to_string()),
                ("trusted", if trusted { "1" } else { "0" }),
            ],
        );
        pair
    }

    /// Writes keys of the front end's directory.
    pub fn write_front(&self, store: &mut Xenstored, keys: &[(&str, &str)]) {
        for (key, value) in keys {
            store.write(&format!("{}/{key}", self.front), value);
        }
    }

    /// Writes keys of the back end's directory.
    pub fn write_back(&self, store: &mut Xenstored, keys: &[(&str, &str)]) {
        for (key, value) in keys {
            store.write(&format!("{}/{key}", self.back), value);
        }
    }

    /// The path of a key of the front end's.
    pub fn front_key(&self, key: &str) -> String {
        format!("{}/{key}", self.front)
    }

    /// A number that the front end wrote.
    pub fn front_number(&self, store: &Xenstored, key: &str) -> Option<u32> {
        store.read_number(&self.front_key(key))
    }

    /// The front end's state.
    pub fn front_state(&self, store: &Xenstored) -> u32 {
        self.front_number(store, "state").unwrap_or(UNKNOWN)
    }

    /// Both ends are in this state, which an earlier owner left them in.
    pub fn leave_over(&mut self, store: &mut Xenstored, state: u32) {
        self.write_front(store, &[("state", &state.to_string())]);
        self.attention = false;
        self.switch(store, state);
    }

    /// The back end's state.
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Puts the back end into a state.
    pub fn switch(&mut self, store: &mut Xenstored, state: u32) {
        self.state = state;
        self.write_back(store, &[("state", &state.to_string())]);
    }

    /// The back end does not connect, and says why.
    pub fn refuse<M>(&mut self, store: &mut Xenstored, site: &mut Site<'_, M>, why: &'static str) {
        let device = self.device;
        site.ledger.complain(Complaint::BadKeys { device, why });
        self.write_back(store, &[("error", why)]);
        self.switch(store, CLOSING);
    }

    /// Notes a change in xenstore.
    pub fn path_changed(&mut self, path: &str) {
        let rest = path.strip_prefix(&self.front);
        self.attention |= rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }

    /// Has the back end look at the front end's directory once more.
    pub fn look_again(&mut self) {
        self.attention = true;
    }

    /// Whether the back end is to look at the front end's directory; it does so now.
    pub fn take_attention(&mut self) -> bool {
        std::mem::take(&mut self.attention)
    }

    /// `xl block-detach` or `network-detach`: asks both ends to close; the directories go when the
    /// back end is Closed.
    pub fn detach(&mut self, store: &mut Xenstored) {
        self.write_back(store, &[("online", "0")]);
        self.leaving = true;
        self.switch(store, CLOSING);
    }

    /// The front end's directory is gone, and so will the device be.
    pub fn leave(&mut self, store: &mut Xenstored) {
        self.leaving = true;
        self.switch(store, CLOSED);
    }

    /// Whether the toolstack has been told to remove the device.
    pub fn leaving(&self) -> bool {
        self.leaving
    }

    /// Whether the toolstack can remove the directories now.
    pub fn gone(&self) -> bool {
        self.leaving && self.state == CLOSED
    }

    /// Removes both directories.
    pub fn remove(&self, store: &mut Xenstored) {
        store.remove(&self.back);
        store.remove(&self.front);
    }
}
