//! Hyper-V storage: the guest side of a SCSI controller.
//!
//! `abi` is the wire, `scsi` the commands, `connect` the hand-shake and the search for disks, and
//! [`Storvsc`] joins them to a VMBus channel.

pub mod abi;
mod connect;
mod page;
pub mod scsi;

use crate::limits::Unit;
use crate::request::{IoError, Op};
use crate::transport::{Answer, Data, PageWire, PushError, Says, Transport, Wire};
use abi::{
    DATA_NONE, DATA_READ, DATA_WRITE, Operation, Packet, REQUEST_COMPLETION, ShortPacket, Srb,
    SrbFlags, SrbStatus, Version, Win8,
};
pub use connect::{Config, ConnectError};
use core::fmt;
use core::task::Waker;
use heapless::Vec;
use hypercall::bus::{Doorbell, Rest, Verdict};
use hypercall::host::Hypervisor;
use hypercall::hyperv::HyperV;
use hypercall::shm::{PAGE_SIZE, Pool};
use hypercall::{Gate, HostFault, Platform};
use page::PageSrb;
use scsi::{Cdb, Sense};
use vmbus::abi::packet::PacketKind;
use vmbus::{Channel, Incoming, Offer, Outgoing, SendError, VmBus};
use zerocopy::IntoBytes;

/// The most disks of one controller.
pub const UNITS: usize = 64;

/// A Hyper-V SCSI controller: one channel, and the disks that answer on it.
pub struct Storvsc<'b, 'h, P: Platform, G: Gate> {
    bus: &'b VmBus<'h, P, G>,
    hv: &'h HyperV<P, G>,
    offer: Offer,
    config: Config,
    channel: Option<Channel<'b, 'h, P, G>>,
    pool: Option<Pool<P>>,
    version: Version,
    units: Vec<Unit, UNITS>,
    /// Where each unit is, in the same order.
    places: Vec<Place, UNITS>,
    /// The host said that disks came or went.
    changed: bool,
}

/// Requests in flight at most: as many as a queue holds.
const DEPTH: usize = crate::slots::SLOTS;

/// Words of a packet from Windows 8 on.
const PACKET_WORDS: usize = size_of::<Packet>() / 8;

/// Where a disk is on its controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    target: u8,
    lun: u8,
    /// log2 of 512-byte sectors in a logical block.
    shift: u8,
    /// What most requests are made of, from Windows 8 on.
    page: PageSrb,
}

impl<P: Platform, G: Gate> fmt::Debug for Storvsc<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storvsc")
            .field("offer", &self.offer)
            .field("version", &self.version)
            .field("units", &self.units.len())
            .field("connected", &self.channel.is_some())
            .finish()
    }
}

impl<P: Platform, G: Gate> Storvsc<'_, '_, P, G> {
    /// The storage protocol that was agreed on.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the host said since the last call that disks came or went: connect anew to see
    /// them.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Gives the pool's pages back to the platform, after
    /// [`disconnect`](Transport::disconnect). `false` while buffers are out; nothing is lost then,
    /// and it may be tried again.
    pub fn release_pool(&mut self) -> bool {
        if self.channel.is_some() {
            return false;
        }
        let Some(pool) = self.pool.take() else {
            return true;
        };
        match pool.close() {
            Ok(lent) => self.hv.unshare(lent).is_ok(),
            Err(pool) => {
                self.pool = Some(pool);
                false
            }
        }
    }

    /// A request for one disk.
    #[inline]
    fn command(&self, target: u8, lun: u8, cdb: &Cdb, way: Way, bytes: u32) -> Packet {
        let (data_in, flags) = match way {
            Way::In => (DATA_READ, SrbFlags::DATA_IN),
            Way::Out => (DATA_WRITE, SrbFlags::DATA_OUT),
            Way::None => (DATA_NONE, SrbFlags::empty()),
        };
        let short = self.version < Version::WIN8;
        Packet {
            short: ShortPacket {
                operation: Operation::EXECUTE_SRB,
                flags: REQUEST_COMPLETION,
                status: 0,
                srb: Srb {
                    length: if short { 0x24 } else { 0x34 },
                    srb_status: 0,
                    scsi_status: 0,
                    port_number: 0,
                    path_id: 0,
                    target_id: target,
                    lun,
                    cdb_length: cdb.len,
                    sense_info_length: self.version.sense_size(),
                    data_in,
                    reserved: 0,
                    data_transfer_length: bytes,
                    cdb: cdb.bytes,
                },
            },
            win8: Win8 {
                reserved: 0,
                queue_tag: 0xff,
                queue_action: 0x20,
                srb_flags: flags
                    .union(SrbFlags::DISABLE_SYNCH_TRANSFER)
                    .union(SrbFlags::QUEUE_ACTION_ENABLE)
                    .bits(),
                time_out_value: 60,
                queue_sort_key: 0,
            },
        }
    }

    /// Writes a packet onto the ring, in the size its version has.
    #[inline]
    fn write(&mut self, id: u64, packet: &Packet, data: Option<Data<'_>>) -> Result<(), SendError> {
        let short = self.version < Version::WIN8;
        let Some(channel) = &mut self.channel else {
            return Err(SendError::Fault(HostFault::Withdrawn));
        };
        let Some(data) = data else {
            return if short {
                channel.send(Outgoing::in_band(id, &packet.short).ask_completion())
            } else {
                channel.send(Outgoing::in_band(id, packet).ask_completion())
            };
        };
        let Data { bytes, first, rest } = data;
        let offset = first.offset.into();
        let frames = core::iter::once(first).chain(rest).map(|s| s.token);
        if short {
            let packet = &packet.short;
            channel.send(Outgoing::gpa_direct(id, packet, offset, bytes, frames))
        } else {
            channel.send(Outgoing::gpa_direct(id, packet, offset, bytes, frames))
        }
    }

    /// Takes one completion off the ring: its id and what it says. Messages the host sends unasked
    /// are noted and passed over.
    #[inline]
    fn read(&mut self) -> Result<Option<(u64, Packet)>, HostFault> {
        loop {
            let Some(channel) = &mut self.channel else {
                return Err(HostFault::Withdrawn);
            };
            let mut words = [0u64; PACKET_WORDS];
            let Some(incoming) = channel.receive(&mut words)? else {
                return Ok(None);
            };
            let packet: Packet = zerocopy::transmute!(words);
            if incoming.kind == PacketKind::COMPLETION && incoming.transaction_id != 0 {
                if incoming.len < self.version.packet_size() {
                    return Err(HostFault::Length);
                }
                return Ok(Some((incoming.transaction_id, packet)));
            }
            self.unasked(&incoming, &packet);
        }
    }

    #[cold]
    fn unasked(&mut self, incoming: &Incoming, packet: &Packet) {
        match packet.short.operation {
            Operation::ENUMERATE_BUS | Operation::REMOVE_DEVICE
                if incoming.kind == PacketKind::IN_BAND =>
            {
                self.changed = true;
            }
            other => log::debug!("storvsc: passed over {other:?} of kind {:?}", incoming.kind),
        }
    }
}

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
    None,
}

/// What a completed request came to.
#[inline]
fn outcome(packet: &Packet) -> Result<(), IoError> {
    let srb = &packet.short.srb;
    let status = SrbStatus(srb.srb_status);
    if packet.short.status == 0
        && status.code() == SrbStatus::SUCCESS
        && srb.scsi_status == scsi::STATUS_GOOD
    {
        return Ok(());
    }
    trouble(packet, status)
}

#[cold]
fn trouble(packet: &Packet, status: SrbStatus) -> Result<(), IoError> {
    let srb = &packet.short.srb;
    if srb.scsi_status == scsi::STATUS_CHECK_CONDITION || status.has_sense() {
        let length = usize::from(srb.sense_info_length).min(srb.cdb.len());
        let sense = srb.cdb.as_bytes().get(..length).and_then(Sense::parse);
        // RECOVERED ERROR and NO SENSE: it was done after all.
        return match sense {
            Some(sense) if sense.key <= 1 && status.code() == SrbStatus::SUCCESS => Ok(()),
            Some(sense) => Err(sense.error()),
            None => Err(IoError::Failed),
        };
    }
    match (status.code(), srb.scsi_status) {
        (_, scsi::STATUS_BUSY | scsi::STATUS_TASK_SET_FULL) | (SrbStatus::INTERNAL_ERROR, _) => {
            Err(IoError::Busy)
        }
        // Fewer bytes than asked, and not an error in itself: the count tells.
        (SrbStatus::DATA_OVERRUN, _) => Ok(()),
        _ => Err(IoError::Failed),
    }
}

impl<P: Platform, G: Gate> Transport for Storvsc<'_, '_, P, G> {
    type Platform = P;

    fn platform(&self) -> &P {
        self.hv.platform()
    }

    fn pool(&self) -> Option<&Pool<P>> {
        self.pool.as_ref()
    }

    #[inline]
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    #[inline(always)]
    fn push_page(&mut self, wire: PageWire) -> Option<u32> {
        const BYTES: u32 = PAGE_SIZE as u32;
        let place = self.places.get(usize::from(wire.unit))?;
        let words = place.page.words(wire.write, wire.sector)?;
        let channel = self.channel.as_mut()?;
        channel
            .send_page(wire.id, &words, wire.token, 0, BYTES)
            .then_some(BYTES)
    }

    fn push(&mut self, wire: Wire<'_>) -> Result<u32, PushError> {
        let Some(place) = self.places.get(usize::from(wire.unit)) else {
            return Err(PushError::Fault(HostFault::Withdrawn));
        };
        let &Place {
            target, lun, shift, ..
        } = place;
        let (lba, count) = (wire.sector >> shift, wire.count >> shift);
        let (cdb, way) = match wire.op {
            Op::Read => (Cdb::transfer(false, lba, count), Way::In),
            Op::Write => (Cdb::transfer(true, lba, count), Way::Out),
            // The limits offer no discard, so the queue lets none through.
            Op::Flush | Op::Discard => (Cdb::synchronize_cache(), Way::None),
        };
        let bytes = wire.data.map_or(0, |data| data.bytes);
        let packet = self.command(target, lun, &cdb, way, bytes);
        match self.write(wire.id, &packet, wire.data) {
            Ok(()) => Ok(bytes),
            Err(SendError::Fault(fault)) => Err(PushError::Fault(fault)),
            Err(_) => Err(PushError::Full),
        }
    }

    #[inline]
    fn publish(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.flush();
        }
    }

    #[inline(always)]
    fn pop_plain(&mut self, mut each: impl FnMut(u64, u32) -> Verdict) -> Rest {
        let Some(channel) = &mut self.channel else {
            return Rest::Odd;
        };
        let shown = channel.show::<PACKET_WORDS>(|id, answer| match page::success(answer) {
            Some(moved) => each(id, moved),
            None => Verdict::Leave,
        });
        // A fault shows again at the closer look.
        shown.unwrap_or(Rest::Odd)
    }

    fn pop(&mut self) -> Result<Option<Answer>, HostFault> {
        let Some((id, packet)) = self.read()? else {
            return Ok(None);
        };
        if packet.short.operation != Operation::COMPLETE_IO {
            return Err(HostFault::WrongOperation);
        }
        Ok(Some(Answer {
            id,
            says: Says::Moved(packet.short.srb.data_transfer_length),
            result: outcome(&packet),
        }))
    }

    fn take_pending(&mut self) {
        if let Some(channel) = &self.channel {
            // The signal is only a hint to look.
            let _ = channel.take_pending();
        }
    }

    #[inline]
    fn arm(&mut self) -> Result<bool, HostFault> {
        match &mut self.channel {
            Some(channel) => {
                channel.check()?;
                channel.arm()
            }
            None => Err(HostFault::Withdrawn),
        }
    }

    fn register_waker(&self, waker: &Waker) {
        if let Some(channel) = &self.channel
            && channel.register_waker(waker).is_err()
        {
            // No place to wait in: have the task look again at once rather than never.
            waker.wake_by_ref();
        }
    }

    fn disconnect(&mut self) -> Result<(), HostFault> {
        match self.channel.take() {
            Some(channel) => channel.close().map_err(|why| {
                log::warn!("{}: closing: {why}", self.offer);
                HostFault::MemoryHeld
            }),
            None => Ok(()),
        }
    }

    fn reconnect(&mut self) -> Result<(), HostFault> {
        self.open().map_err(|why| {
            log::warn!("{}: {why}", self.offer);
            HostFault::NoAnswer
        })
    }
}
