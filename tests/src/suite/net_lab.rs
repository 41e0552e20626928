//! A simulated machine with one network interface, whichever host it is.

use super::lab::Counts;
use crate::net::Cable;
use netfront::{Config, Net, NetQueue, Offloads};

/// Pages of the machine's memory: little for an interpreter, which zeroes them one by one.
pub const NET_RAM_PAGES: usize = if cfg!(miri) { 256 } else { 8192 };

/// How the machine is made, and how its guest uses it.
#[derive(Debug, Clone, Copy)]
pub struct NetSetup {
    /// Queue pairs the host offers, and the guest asks for.
    pub queues: u16,
    /// What the host does for the guest, and what it may leave undone if the guest agrees.
    pub offered: Offloads,
    /// What the guest asks for.
    pub asked: Offloads,
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// The host finishes work out of order and late, by this seed.
    pub shuffle: Option<u64>,
    /// Pages for received frames and for frames to be sent; see [`Config`].
    pub rx_pages: usize,
    /// See `rx_pages`.
    pub tx_pages: usize,
}

impl Default for NetSetup {
    fn default() -> Self {
        Self {
            queues: 1,
            offered: Offloads::all(),
            asked: Offloads::all(),
            mtu: 1500,
            shuffle: None,
            rx_pages: if cfg!(miri) { 32 } else { 384 },
            tx_pages: if cfg!(miri) { 32 } else { 256 },
        }
    }
}

impl NetSetup {
    /// What the guest's driver is told.
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        config.queues = self.queues;
        config.offloads = self.asked;
        config.rx_pages = self.rx_pages;
        config.tx_pages = self.tx_pages;
        config
    }
}

/// A machine with an interface. Handles are clones of one machine.
pub trait NetLab: Clone + Send {
    /// Builds a machine that has not started.
    fn new(setup: NetSetup) -> Self;

    /// The MAC of its interface.
    fn mac(&self) -> [u8; 6];

    /// The far end of the line: what the guest sent is to be received there. Frames put there
    /// reach the guest when the host gets to them; so do frames that were put there before an
    /// interface was plugged in again.
    fn line(&self) -> Cable;

    /// Boots the guest, opens its interface and runs `f`; then closes it and, if that went well,
    /// checks that every page it took was given back.
    fn run<R>(&self, f: impl FnOnce(&mut dyn Net) -> R) -> R;

    /// The same with all of its queues at once, to be sent to threads.
    fn run_queues<R>(&self, f: impl FnOnce(Vec<&mut dyn NetQueue>) -> R) -> R;

    /// Has the host take frames from the guest without letting their memory go, or go on.
    fn stall(&self, stall: bool);

    /// Takes the interface away.
    fn unplug(&self);

    /// Offers the interface again, with the same address and line.
    fn replug(&self);

    /// Takes the line down, or up again. Frames sent while it is down are lost.
    fn set_link(&self, up: bool);

    /// Changes the largest packet, in bytes; false if this host cannot while a guest is connected.
    fn set_mtu(&self, mtu: u16) -> bool;

    /// Lets the host do one thing; whether there was one to do.
    fn step(&self) -> bool;

    /// What was counted so far.
    fn counts(&self) -> Counts;

    /// What the host saw the guest do wrong.
    fn violations(&self) -> Vec<String>;
}
