//! The network interface of whichever host it is.

use hypercall::{Gate, HostFault, Platform};
#[cfg(feature = "xen")]
use netfront::netif::Netif;
#[cfg(feature = "hyperv")]
use netfront::netvsc::Netvsc;
use netfront::{Capabilities, Net, NetQueue};

/// A network interface on either host. It implements [`Net`] by passing every call on; code that
/// is generic over `Net` can also be given one of its parts, whose queues are then concrete.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetDevice<'b, 'h, P: Platform, G: Gate> {
    /// A Xen virtual network interface.
    #[cfg(feature = "xen")]
    Xen(Netif<'b, 'h, P, G>),
    /// A Hyper-V synthetic network interface.
    #[cfg(feature = "hyperv")]
    HyperV(Netvsc<'b, 'h, P, G>),
}

/// Calls a method of whichever interface it is.
macro_rules! either {
    ($self:ident, $net:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "xen")]
            NetDevice::Xen($net) => $call,
            #[cfg(feature = "hyperv")]
            NetDevice::HyperV($net) => $call,
        }
    };
}

impl<P: Platform, G: Gate> NetDevice<'_, '_, P, G> {
    /// Gives the memory for frames back to the platform, after [`close`](Net::close). `false`
    /// while frames are out or the host holds on to memory; nothing is lost then, and it may be
    /// tried again.
    pub fn release(&mut self) -> bool {
        either!(self, net => net.release())
    }
}

impl<P: Platform, G: Gate> Net for NetDevice<'_, '_, P, G> {
    fn capabilities(&self) -> &Capabilities {
        either!(self, net => net.capabilities())
    }
    fn queue(&mut self, index: usize) -> Option<&mut dyn NetQueue> {
        either!(self, net => net.queue(index))
    }
    fn each_queue<'a>(&'a mut self, each: &mut dyn FnMut(&'a mut dyn NetQueue)) {
        either!(self, net => net.each_queue(each))
    }
    fn queue_for(&self, hash: u32) -> usize {
        either!(self, net => net.queue_for(hash))
    }
    fn fault(&self) -> Option<HostFault> {
        either!(self, net => net.fault())
    }
    fn buffers_out(&mut self) -> usize {
        either!(self, net => net.buffers_out())
    }
    fn close(&mut self) -> Result<(), HostFault> {
        either!(self, net => net.close())
    }
    fn reconnect(&mut self) -> Result<(), HostFault> {
        either!(self, net => net.reconnect())
    }
}
