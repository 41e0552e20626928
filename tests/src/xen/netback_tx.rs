//! Frames from the guest: a chain of slots taken off the ring, checked, copied and answered.

use super::abi::PAGE;
use super::abi::netif::*;
use super::grants::Handle;
use super::hostile::{NetMischief, Plan};
use super::ledger::Complaint;
use super::netback::{NetBack, give_back};
use super::netif_ring::Taken;
use super::site::Site;
use crate::memory::{BadAddress, GuestMemory};
use crate::net::{self, Checksum, Frame, Headers, Segment};
use zerocopy::{FromBytes, IntoBytes};

/// Slots of one chain, waiting to be answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// In the order of the ring; `None` for an extra.
    ids: Vec<Option<u16>>,
    status: i16,
    pub(super) handles: Vec<Handle>,
}

/// A chain as it came off the ring.
#[derive(Debug, Default)]
struct Chain {
    slots: Vec<TxRequest>,
    extras: Vec<Extra>,
}

/// Why a chain is not sent.
enum Fault {
    /// Its slots are answered with an error.
    Refuse(&'static str),
    /// The queue is given up.
    Fatal(&'static str),
}
use Fault::{Fatal, Refuse};

impl NetBack {
    /// Takes a chain off the ring and sends its frame. False if there was none, and there is to
    /// be an event for the next.
    pub(super) fn take_chain<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
    ) -> Result<bool, BadAddress> {
        let Some(chain) = self.collect(site, n)? else {
            return Ok(!self.queues[n].broken && self.queues[n].tx.final_check(site.mem)?);
        };
        let first = chain.slots[0];
        let mut handles = Vec::new();
        let status = match self.check(n, &chain) {
            Ok(None) => RSP_OKAY,
            Ok(Some(frame)) => match self.copy(site, &chain, frame, &mut handles)? {
                Some(frame) => self.send(site, n, first.id, frame, chain.slots.len()),
                None => RSP_ERROR,
            },
            Err(Refuse(why)) => {
                self.complain(site, n, first.id, why);
                RSP_ERROR
            }
            Err(Fatal(why)) => {
                self.give_up(site, n, first.id, why);
                return Ok(false);
            }
        };
        let mut ids: Vec<_> = chain.slots.iter().map(|slot| Some(slot.id)).collect();
        ids.splice(1..1, chain.extras.iter().map(|_| None));
        let queue = &mut self.queues[n];
        queue.tx_ids.extend(ids.iter().flatten());
        let scattered = self.habits.scattered_answers && ids.iter().all(Option::is_some);
        if !scattered {
            queue.flight.push(Answer {
                ids,
                status,
                handles,
            });
            return Ok(true);
        }
        let mut handles = handles.into_iter();
        for id in ids {
            queue.flight.push(Answer {
                ids: vec![id],
                status,
                handles: handles.next().into_iter().collect(),
            });
        }
        Ok(true)
    }

    /// The next chain, if the ring holds one. A chain that is not whole breaks the queue.
    fn collect<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
    ) -> Result<Option<Chain>, BadAddress> {
        let mut chain = Chain::default();
        let mut more = TX_MORE_DATA;
        while more & TX_MORE_DATA != 0 {
            let slot = match self.queues[n].tx.take(site.mem)? {
                Taken::Request(bytes) => TxRequest::read_from_bytes(&bytes).unwrap_or_default(),
                Taken::Empty if chain.slots.is_empty() => return Ok(None),
                Taken::Empty => {
                    let id = chain.slots[0].id;
                    self.give_up(site, n, id, "a chain ends before its more_data does");
                    return Ok(None);
                }
                Taken::Overrun => {
                    self.queues[n].broken = true;
                    let device = self.device;
                    site.ledger.complain(Complaint::RingOverrun { device });
                    return Ok(None);
                }
            };
            chain.slots.push(slot);
            more = slot.flags;
            let first = chain.slots.len() == 1;
            let mut extra = first && slot.flags & TX_EXTRA_INFO != 0;
            while extra {
                let Taken::Request(bytes) = self.queues[n].tx.take(site.mem)? else {
                    self.give_up(site, n, slot.id, "an extra is missing");
                    return Ok(None);
                };
                let info = Extra::read_from_prefix(&bytes).map_or(Extra::default(), |(e, _)| e);
                extra = info.flags & EXTRA_MORE != 0;
                chain.extras.push(info);
            }
        }
        Ok(Some(chain))
    }

    /// The frame a chain describes, without its bytes; `None` if it carries none.
    fn check(&self, n: usize, chain: &Chain) -> Result<Option<Frame>, Fault> {
        let first = chain.slots[0];
        for (at, slot) in chain.slots.iter().enumerate() {
            if u32::from(slot.id) >= ENTRIES {
                return Err(Refuse("an id not below the size of the ring"));
            }
            let twice = chain.slots[..at].iter().any(|other| other.id == slot.id);
            if twice || self.queues[n].tx_ids.contains(&slot.id) {
                return Err(Fatal("an id in flight twice"));
            }
            let allowed = match at {
                0 => TX_CSUM_BLANK | TX_DATA_VALIDATED | TX_MORE_DATA | TX_EXTRA_INFO,
                _ => TX_MORE_DATA,
            };
            if slot.flags & !allowed != 0 {
                return Err(Refuse("flags that a slot does not have"));
            }
        }
        let mut frame = Frame::default();
        for (at, extra) in chain.extras.iter().enumerate() {
            if chain.extras[..at].iter().any(|e| e.kind == extra.kind) {
                return Err(Refuse("two extras of one type"));
            }
            if extra.flags & !EXTRA_MORE != 0 {
                return Err(Refuse("flags that an extra does not have"));
            }
            match extra.kind {
                EXTRA_GSO => frame.segment = Some(self.segment(extra)?),
                // A filter nobody asked us to apply: no frame is sent with it.
                EXTRA_MCAST_ADD | EXTRA_MCAST_DEL if self.habits.dynamic_multicast => {
                    return Ok(None);
                }
                _ => return Err(Fatal("an extra of a type that was not offered")),
            }
        }
        if chain.slots.len() > self.habits.max_slots {
            return Err(Refuse("more slots than a chain may have"));
        }
        if chain.slots.len() > 1 && !self.habits.sg {
            return Err(Refuse("several slots, and feature-sg was not offered"));
        }
        let rest: usize = chain.slots[1..].iter().map(|s| usize::from(s.size)).sum();
        let Some(head) = usize::from(first.size).checked_sub(rest) else {
            return Err(Refuse("slots with more bytes than their frame"));
        };
        for (at, slot) in chain.slots.iter().enumerate() {
            let size = if at == 0 {
                head
            } else {
                usize::from(slot.size)
            };
            if size == 0 {
                return Err(Refuse("a slot without bytes"));
            }
            if usize::from(slot.offset) + size > PAGE as usize {
                return Err(Fatal("a slot crosses the end of its page"));
            }
        }
        if first.size < 14 {
            return Err(Refuse("a frame shorter than an Ethernet header"));
        }
        frame.checksum = match first.flags & (TX_CSUM_BLANK | TX_DATA_VALIDATED) {
            0 => Checksum::InFrame,
            TX_DATA_VALIDATED => Checksum::Verified,
            // Where, is to be seen in the bytes.
            _ => Checksum::Partial {
                start: 0,
                offset: 0,
            },
        };
        frame.bytes = vec![0; usize::from(first.size)];
        Ok(Some(frame))
    }

    fn segment(&self, extra: &Extra) -> Result<Segment, Fault> {
        let (mss, kind) = extra.gso_parts();
        let (v6, offered) = match kind {
            GSO_TCPV4 => (false, self.habits.gso_tcpv4),
            GSO_TCPV6 => (true, self.habits.gso_tcpv6),
            _ => return Err(Fatal("a segmentation of an unknown type")),
        };
        if mss == 0 {
            return Err(Fatal("a segmentation into packets of no bytes"));
        }
        if !offered {
            return Err(Refuse("a segmentation that was not offered"));
        }
        Ok(Segment { v6, mss })
    }

    /// Copies the bytes of a chain out of the guest's pages; `None` if one cannot be mapped.
    fn copy<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        chain: &Chain,
        mut frame: Frame,
        handles: &mut Vec<Handle>,
    ) -> Result<Option<Frame>, BadAddress> {
        let rest: usize = chain.slots[1..].iter().map(|s| usize::from(s.size)).sum();
        let mut at = 0;
        for (index, slot) in chain.slots.iter().enumerate() {
            let size = match index {
                0 => usize::from(slot.size) - rest,
                _ => usize::from(slot.size),
            };
            match site.grants.map(site.mem, slot.gref, true) {
                Ok((handle, mapping)) => {
                    handles.push(handle);
                    let into = &mut frame.bytes[at..at + size];
                    site.mem.read(mapping.gpa + u64::from(slot.offset), into)?;
                }
                Err(status) => {
                    let gref = slot.gref;
                    site.ledger.complain(Complaint::Grant { gref, status });
                    give_back(site, &std::mem::take(handles));
                    return Ok(None);
                }
            }
            at += size;
        }
        Ok(Some(frame))
    }

    /// Looks at a frame's headers, and puts it on the line.
    fn send<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
        id: u16,
        mut frame: Frame,
        slots: usize,
    ) -> i16 {
        let headers = Headers::find(&frame.bytes);
        if matches!(frame.checksum, Checksum::Partial { .. })
            && let Some(headers) = headers
            && let Some(at) = headers.checksum()
        {
            frame.checksum = Checksum::Partial {
                start: headers.transport as u16,
                offset: (at - headers.transport) as u16,
            };
        }
        let offered = match headers {
            Some(headers) if headers.v6 => self.habits.checksum_v6,
            _ => self.habits.checksum_v4,
        };
        let partial = matches!(frame.checksum, Checksum::Partial { .. });
        let tagged = matches!(frame.bytes[12..], [0x81, 0, ..]);
        let longest = usize::from(self.largest_mtu) + if tagged { 18 } else { 14 };
        let why = match net::fault(&frame) {
            _ if partial && !offered => Some("a blank checksum that was not offered"),
            None if frame.segment.is_none() && frame.bytes.len() > longest => {
                Some("a frame longer than the MTU")
            }
            None if self.longest_packet(&frame) > longest => {
                Some("a segmentation into packets longer than the MTU")
            }
            fault => fault,
        };
        if let Some(why) = why {
            self.complain(site, n, id, why);
            return RSP_ERROR;
        }
        let counters = &mut site.ledger.counters.net;
        counters.tx_frames += 1;
        counters.tx_slots += slots as u64;
        counters.tx_bytes += frame.bytes.len() as u64;
        if self.link {
            self.line.send(frame);
        }
        RSP_OKAY
    }

    /// Bytes of the longest packet that a frame is cut into; 0 for one that is not.
    fn longest_packet(&self, frame: &Frame) -> usize {
        let (Some(segment), Some(headers)) = (frame.segment, Headers::find(&frame.bytes)) else {
            return 0;
        };
        let words = frame
            .bytes
            .get(headers.transport + 12)
            .map_or(5, |b| b >> 4);
        headers.transport + usize::from(words) * 4 + usize::from(segment.mss)
    }

    /// Answers the slots of a chain.
    pub(super) fn answer<M: GuestMemory>(
        &mut self,
        site: &mut Site<'_, M>,
        n: usize,
        answer: Answer,
    ) -> Result<(), BadAddress> {
        self.hoard.extend(answer.handles);
        self.release(site);
        let queue = &mut self.queues[n];
        let mischief = Plan::strike_if(&mut site.hostile.net, NetMischief::of_transmit);
        let mut event = true;
        match mischief {
            Some(NetMischief::TxSilent) => return Ok(()),
            Some(NetMischief::TxJump(by)) => {
                queue.tx.jump(site.mem, by)?;
                queue.tx_notify = true;
                return Ok(());
            }
            Some(NetMischief::TxScribble) => queue.tx.scribble(site.mem, 0xa5)?,
            Some(NetMischief::TxNoEvent) => event = false,
            _ => {}
        }
        for id in answer.ids {
            let Some(id) = id else {
                // Of an extra's response Linux's back end writes the status, and leaves the id.
                queue.tx.write(site.mem, 2, &RSP_NULL.to_le_bytes())?;
                continue;
            };
            queue.tx_ids.remove(&id);
            let mut response = TxResponse {
                id,
                status: answer.status,
            };
            match mischief {
                Some(NetMischief::TxId(id)) => response.id = id,
                Some(NetMischief::TxStatus(status)) => response.status = status,
                Some(NetMischief::TxTwice) => {
                    queue.tx.write(site.mem, 0, response.as_bytes())?;
                }
                _ => {}
            }
            queue.tx.write(site.mem, 0, response.as_bytes())?;
        }
        site.ledger.counters.net.tx_responses += u64::from(queue.tx.unpublished());
        let wanted = queue.tx.publish(site.mem)?;
        if !wanted {
            site.ledger.counters.events_suppressed += 1;
        }
        queue.tx_notify |= wanted && event;
        Ok(())
    }
}
