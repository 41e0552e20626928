//! The bus of whichever host it is.

use crate::block::BlockQueue;
use crate::host::Host;
use crate::net::NetDevice;
use blkfront::Queue;
#[cfg(feature = "xen")]
use blkfront::blkif;
#[cfg(feature = "hyperv")]
use blkfront::storvsc;
use core::fmt;
use hypercall::bus::{BusEvent, Class, Device as _};
use hypercall::{Gate, HostFault, Platform};
#[cfg(feature = "xen")]
use netfront::netif;
#[cfg(feature = "hyperv")]
use netfront::netvsc;
#[cfg(feature = "hyperv")]
use vmbus::VmBus;
#[cfg(feature = "xen")]
use xenbus::XenBus;

/// A device on either bus.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Device {
    /// On xenbus.
    #[cfg(feature = "xen")]
    Xen(xenbus::Device),
    /// On VMBus.
    #[cfg(feature = "hyperv")]
    HyperV(vmbus::Offer),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(device) => device.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::HyperV(offer) => offer.fmt(f),
        }
    }
}

impl hypercall::bus::Device for Device {
    fn class(&self) -> Class {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(device) => device.class(),
            #[cfg(feature = "hyperv")]
            Self::HyperV(offer) => offer.class(),
        }
    }
}

/// The bus, brought up.
#[derive(Debug)]
#[non_exhaustive]
pub enum Bus<'h, P: Platform, G: Gate> {
    /// Xenstore and what it names.
    #[cfg(feature = "xen")]
    Xen(XenBus<'h, P, G>),
    /// VMBus.
    #[cfg(feature = "hyperv")]
    HyperV(VmBus<'h, P, G>),
}

/// Why there is no [`Bus`].
#[derive(Debug)]
#[non_exhaustive]
pub enum BusError {
    /// Xenstore is not to be had.
    #[cfg(feature = "xen")]
    Xen(xenbus::ConnectError),
    /// Xenstore did not list the devices.
    #[cfg(feature = "xen")]
    Store(xenbus::StoreError),
    /// There is no VMBus.
    #[cfg(feature = "hyperv")]
    HyperV(vmbus::ConnectError),
    /// VMBus did not end its offers.
    #[cfg(feature = "hyperv")]
    Offers(HostFault),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(why) => why.fmt(f),
            #[cfg(feature = "xen")]
            Self::Store(why) => why.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::HyperV(why) => why.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::Offers(why) => write!(f, "the list of devices: {why}"),
        }
    }
}

impl core::error::Error for BusError {}

/// Why a device was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not of the class that was asked for.
    WrongClass,
    /// It is on another bus than this.
    OtherBus,
    /// A Xen block device did not connect.
    #[cfg(feature = "xen")]
    Blkif(blkif::ConnectError),
    /// A Hyper-V SCSI controller did not connect.
    #[cfg(feature = "hyperv")]
    Storvsc(storvsc::ConnectError),
    /// A Xen network interface did not connect.
    #[cfg(feature = "xen")]
    Netif(netif::ConnectError),
    /// A Hyper-V network interface did not connect.
    #[cfg(feature = "hyperv")]
    Netvsc(netvsc::ConnectError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongClass => f.write_str("the device is of another class"),
            Self::OtherBus => f.write_str("the device is on another bus"),
            #[cfg(feature = "xen")]
            Self::Blkif(why) => why.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::Storvsc(why) => why.fmt(f),
            #[cfg(feature = "xen")]
            Self::Netif(why) => why.fmt(f),
            #[cfg(feature = "hyperv")]
            Self::Netvsc(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

/// What the bus speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// Xenstore has no version.
    #[cfg(feature = "xen")]
    Xenstore,
    /// The version that was negotiated.
    #[cfg(feature = "hyperv")]
    VmBus(vmbus::Version),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "xen")]
            Self::Xenstore => f.write_str("xenstore"),
            #[cfg(feature = "hyperv")]
            Self::VmBus(version) => write!(f, "VMBus {version}"),
        }
    }
}

impl<P: Platform, G: Gate> Host<P, G> {
    /// Brings the bus up, with default deadlines.
    ///
    /// # Errors
    /// [`BusError`], among them that there is none: Hyper-V's leaves alone promise no VMBus.
    pub fn bus(&self) -> Result<Bus<'_, P, G>, BusError> {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(xen) => XenBus::connect(xen, xenbus::Config::default())
                .map(Bus::Xen)
                .map_err(BusError::Xen),
            #[cfg(feature = "hyperv")]
            Self::HyperV(hyperv) => VmBus::connect(hyperv, vmbus::Config::default())
                .map(Bus::HyperV)
                .map_err(BusError::HyperV),
        }
    }
}

impl<'h, P: Platform, G: Gate> Bus<'h, P, G> {
    /// What the bus speaks.
    pub fn protocol(&self) -> Protocol {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(_) => Protocol::Xenstore,
            #[cfg(feature = "hyperv")]
            Self::HyperV(bus) => Protocol::VmBus(bus.version()),
        }
    }

    /// Waits for the devices that are there at start, at most `timeout` nanoseconds: afterwards
    /// [`poll`](hypercall::bus::Bus::poll) tells of each of them without waiting.
    ///
    /// # Errors
    /// [`BusError`] when the bus is beyond use or does not end its list in time.
    pub fn wait_devices(&self, timeout: u64) -> Result<(), BusError> {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(bus) => bus.wait_devices(timeout).map_err(BusError::Store),
            #[cfg(feature = "hyperv")]
            Self::HyperV(bus) => bus.wait_offers(timeout).map_err(BusError::Offers),
        }
    }

    /// Opens a block device with default settings. On Hyper-V it is a SCSI controller, whose disks
    /// are the queue's units.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_block(&self, device: &Device) -> Result<BlockQueue<'_, 'h, P, G>, OpenError> {
        if device.class() != Class::Block {
            return Err(OpenError::WrongClass);
        }
        match (self, device) {
            #[cfg(feature = "xen")]
            (Self::Xen(bus), Device::Xen(device)) => {
                blkif::Blkif::connect(bus, device, blkif::Config::default())
                    .map(|transport| BlockQueue::Xen(Queue::new(transport)))
                    .map_err(OpenError::Blkif)
            }
            #[cfg(feature = "hyperv")]
            (Self::HyperV(bus), Device::HyperV(offer)) => {
                storvsc::Storvsc::connect(bus, offer, storvsc::Config::default())
                    .map(|transport| BlockQueue::HyperV(Queue::new(transport)))
                    .map_err(OpenError::Storvsc)
            }
            #[cfg(all(feature = "xen", feature = "hyperv"))]
            _ => Err(OpenError::OtherBus),
        }
    }

    /// Opens a network interface.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_net(
        &self,
        device: &Device,
        config: netfront::Config,
    ) -> Result<NetDevice<'_, 'h, P, G>, OpenError> {
        if device.class() != Class::Net {
            return Err(OpenError::WrongClass);
        }
        match (self, device) {
            #[cfg(feature = "xen")]
            (Self::Xen(bus), Device::Xen(device)) => netif::Netif::connect(bus, device, config)
                .map(NetDevice::Xen)
                .map_err(OpenError::Netif),
            #[cfg(feature = "hyperv")]
            (Self::HyperV(bus), Device::HyperV(offer)) => {
                netvsc::Netvsc::connect(bus, offer, config)
                    .map(NetDevice::HyperV)
                    .map_err(OpenError::Netvsc)
            }
            #[cfg(all(feature = "xen", feature = "hyperv"))]
            _ => Err(OpenError::OtherBus),
        }
    }
}

impl<P: Platform, G: Gate> hypercall::bus::Bus for Bus<'_, P, G> {
    type Device = Device;

    fn poll(&self) -> Result<Option<BusEvent<Device>>, HostFault> {
        match self {
            #[cfg(feature = "xen")]
            Self::Xen(bus) => Ok(bus.poll()?.map(|event| event.map(Device::Xen))),
            #[cfg(feature = "hyperv")]
            Self::HyperV(bus) => Ok(bus.poll()?.map(|event| event.map(Device::HyperV))),
        }
    }
}
