//! What a job needs of a network interface: one that may go away and come back.

use pv_drivers::Net;

/// A network interface, as jobs see it.
pub trait Nic {
    /// The host's name for it.
    fn name(&self) -> &str;

    /// The interface, if it is there.
    fn net(&mut self) -> Option<&mut dyn Net>;

    /// Takes note of what the host did, and connects anew what failed or came back; whether there is an interface
    /// that works.
    fn revive(&mut self) -> bool;

    /// Waits, at most until `until` of [`now`](Self::now), while there is none.
    fn wait(&mut self, until: u64);

    /// A clock, in nanoseconds.
    fn now(&self) -> u64;
}
