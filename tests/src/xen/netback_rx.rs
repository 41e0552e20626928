//! Frames to the guest: each into as many posted buffers as it needs, one buffer a step.

use super::abi::PAGE;
use super::abi::netif::*;
use super::hostile::{NetMischief, Plan};
use super::ledger::Complaint;
use super::netback::{NetBack, Queue};
use super::netif_ring::Taken;
use super::site::Site;
use crate::memory::{BadAddress, GuestMemory};
use crate::net::{Checksum, Frame};
use std::collections::VecDeque;
use zerocopy::{FromBytes, IntoBytes};

/// Buffers the guest has posted, in the order of the ring.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    posted: VecDeque<RxRequest>,
}

/// A frame on its way into buffers.
#[derive(Debug)]
pub(super) struct Filling {
    frame: Frame,
    /// Bytes that are in buffers.
    done: usize,
    flags: u16,
    extras: VecDeque<Extra>,
    started: bool,
}

impl Filling {
    fn new(frame: Frame) -> Self {
        let mut flags = match frame.checksum {
            Checksum::InFrame => 0,
            Checksum::Verified => RX_DATA_VALIDATED,
            Checksum::Partial { .. } => RX_DATA_VALIDATED | RX_CSUM_BLANK,
        };
        let mut extras = VecDeque::new();
        if let Some(segment) = frame.segment {
            let kind = if segment.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            extras.push_back(Extra::gso(segment.mss, kind));
            flags |= RX_EXTRA_INFO;
        }
        Filling {
            frame,
            done: 0,
            flags,
            extras,
            started: false,
        }
    }
}

impl NetBack {
    /// Bytes of a frame that one buffer holds.
    fn room(&self) -> usize {
        PAGE as usize - usize::from(self.habits.rx_offset)
    }

    /// Whether the guest can take a frame at all.
    fn deliverable(&self, frame: &Frame) -> bool {
        let longest = usize::from(self.largest_mtu) + 18;
        let fits = frame.segment.is_some() || frame.bytes.len() <= longest;
        let slots = frame.bytes.len().div_ceil(self.room());
        fits && frame.bytes.len() <= 0xffff && (slots == 1 || slots > 1 && self.terms.sg)
    }

    /// Takes the next frame in hand, or fills the next buffer with the one in hand. False if there
    /// are too few buffers.
    pub(super) fn deliver<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
    ) -> Result<bool, BadAddress> {
        if self.queues[n].filling.is_some() {
            return match self.buffers(site, n, 1)? {
                true => self.fill(site, n).map(|()| true),
                false => Ok(false),
            };
        }
        let Some(frame) = self.queues[n].backlog.front() else {
            return Ok(false);
        };
        if !self.deliverable(frame) {
            site.ledger.counters.net.rx_dropped += 1;
            self.queues[n].backlog.pop_front();
            return Ok(true);
        }
        let slots = frame.bytes.len().div_ceil(self.room());
        let extras = usize::from(frame.segment.is_some());
        let needed = (slots + extras).max(self.habits.rx_minimum);
        if !self.buffers(site, n, needed)? {
            return Ok(false);
        }
        let queue = &mut self.queues[n];
        queue.filling = queue.backlog.pop_front().map(Filling::new);
        Ok(true)
    }

    /// Whether that many buffers are posted. If not, there is to be an event when there are more,
    /// and nobody looks before.
    fn buffers<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
        needed: usize,
    ) -> Result<bool, BadAddress> {
        while self.queues[n].buffers.posted.len() < needed {
            let queue = &mut self.queues[n];
            if queue.broken || !queue.rx_awake {
                return Ok(false);
            }
            match queue.rx.take(site.mem)? {
                Taken::Request(bytes) => {
                    let buffer = RxRequest::read_from_bytes(&bytes).unwrap_or_default();
                    self.post(site, n, buffer);
                }
                Taken::Empty => queue.rx_awake = queue.rx.final_check(site.mem)?,
                Taken::Overrun => {
                    queue.broken = true;
                    let device = self.device;
                    site.ledger.complain(Complaint::RingOverrun { device });
                }
            }
        }
        Ok(true)
    }

    fn post<M: GuestMemory>(&mut self, site: &mut Site<'_, M>, n: usize, buffer: RxRequest) {
        let posted = &self.queues[n].buffers.posted;
        let why = if u32::from(buffer.id) >= ENTRIES {
            Some("an id not below the size of the ring")
        } else if posted.iter().any(|other| other.id == buffer.id) {
            Some("two posted buffers with one id")
        } else if posted.iter().any(|other| other.gref == buffer.gref) {
            Some("two posted buffers with one grant")
        } else {
            None
        };
        if let Some(why) = why {
            self.complain(site, n, buffer.id, why);
        }
        self.queues[n].buffers.posted.push_back(buffer);
    }

    /// Fills one buffer, or lets one go for an extra.
    fn fill<M: GuestMemory>(&mut self, site: &mut Site<'_, M>, n: usize) -> Result<(), BadAddress> {
        let (offset, room) = (self.habits.rx_offset, self.room());
        let queue = &mut self.queues[n];
        let started = queue.filling.as_ref().is_some_and(|f| f.started);
        let mischief = Plan::strike_if(&mut site.hostile.net, |what| match what {
            // Only the first slot of a frame can announce extras.
            NetMischief::RxExtra { .. } | NetMischief::RxGso { .. } => !started,
            what => what.of_receive(),
        });
        let (Some(mut filling), Some(buffer)) =
            (queue.filling.take(), queue.buffers.posted.pop_front())
        else {
            return Ok(());
        };
        let mut event = true;
        match mischief {
            Some(NetMischief::RxSilent) => return Ok(()),
            Some(NetMischief::RxJump(by)) => {
                queue.rx_notify = true;
                return queue.rx.jump(site.mem, by);
            }
            Some(NetMischief::RxScribble) => queue.rx.scribble(site.mem, 0xa5)?,
            Some(NetMischief::RxNoEvent) => event = false,
            Some(NetMischief::RxExtra { kind, flags }) => {
                filling.flags |= RX_EXTRA_INFO;
                let body = [0xa5; 6];
                filling.extras.push_back(Extra { kind, flags, body });
            }
            Some(NetMischief::RxExtraForever) => {
                filling.flags |= RX_EXTRA_INFO;
                filling.extras.push_back(Extra::gso(1000, GSO_TCPV4));
                filling.extras.push_back(Extra::gso(1000, GSO_TCPV4));
            }
            Some(NetMischief::RxGso { size, kind }) => {
                filling.flags |= RX_EXTRA_INFO;
                filling.extras.push_back(Extra::gso(size, kind));
            }
            _ => {}
        }
        let mut bytes = [0; RX_ENTRY];
        if filling.started
            && let Some(mut extra) = filling.extras.pop_front()
        {
            if !filling.extras.is_empty() {
                extra.flags |= EXTRA_MORE;
            }
            bytes.copy_from_slice(extra.as_bytes());
        } else {
            let left = filling.frame.bytes.len() - filling.done;
            let size = left.min(room);
            let data = &filling.frame.bytes[filling.done..filling.done + size];
            let mut status = size as i16;
            match site.grants.map(site.mem, buffer.gref, false) {
                Ok((handle, mapping)) => {
                    self.hoard.push(handle);
                    site.mem.write(mapping.gpa + u64::from(offset), data)?;
                }
                Err(why) => {
                    let gref = buffer.gref;
                    site.ledger.complain(Complaint::Grant { gref, status: why });
                    status = RSP_ERROR;
                }
            }
            filling.done += size;
            let mut flags = if filling.started { 0 } else { filling.flags };
            if left > size {
                flags |= RX_MORE_DATA;
            }
            let mut response = RxResponse {
                id: buffer.id,
                offset,
                flags,
                status,
            };
            lie(&mut response, mischief);
            bytes.copy_from_slice(response.as_bytes());
        }
        filling.started = true;
        let ended = filling.done == filling.frame.bytes.len() && filling.extras.is_empty();
        let counters = &mut site.ledger.counters.net;
        counters.rx_slots += 1;
        if ended {
            counters.rx_frames += 1;
            counters.rx_bytes += filling.frame.bytes.len() as u64;
        }
        let queue = &mut self.queues[n];
        queue.rx.write(site.mem, 0, &bytes)?;
        if mischief == Some(NetMischief::RxTwice) {
            queue.rx.write(site.mem, 0, &bytes)?;
        }
        // Extras without an end would never be shown.
        if ended || self.habits.rx_piecemeal || queue.rx.unpublished() > 32 {
            publish(queue, site, event)?;
        }
        if !ended {
            queue.filling = Some(filling);
        }
        self.release(site);
        Ok(())
    }
}

/// Shows the guest what was written to its receive ring.
fn publish<M: GuestMemory>(
    queue: &mut Queue,
    site: &mut Site<'_, M>,
    event: bool,
) -> Result<(), BadAddress> {
    let wanted = queue.rx.publish(site.mem)?;
    if !wanted {
        site.ledger.counters.events_suppressed += 1;
    }
    queue.rx_notify |= wanted && event;
    Ok(())
}

/// What a hostile back end says instead.
fn lie(response: &mut RxResponse, mischief: Option<NetMischief>) {
    match mischief {
        Some(NetMischief::RxId(id)) => response.id = id,
        Some(NetMischief::RxStatus(status)) => response.status = status,
        Some(NetMischief::RxOffset(offset)) => response.offset = offset,
        Some(NetMischief::RxFlags(flags)) => response.flags |= flags,
        _ => {}
    }
}
