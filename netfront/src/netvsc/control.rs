//! RNDIS beside the frames: requests to the host and its answers, and what it says unasked.

mod requests;

use requests::query;

use super::ndis::oid;
use super::nvsp::{self, TABLE_ENTRIES, Version, kind};
use super::rndis::{self, Header, KeepaliveComplete, QueryComplete, status};
use crate::capabilities::{Capabilities, Event};
use heapless::Deque;
use hypercall::shm::{Lent, Section};
use hypercall::{Gate, HostFault, Platform};
use vmbus::{Channel, Outgoing, SendError};
use zerocopy::{FromBytes, IntoBytes};

/// Ids of packets: above any of a frame, and never 0.
const REQUEST_ID: u64 = 1 << 63;
const KEEPALIVE_ID: u64 = REQUEST_ID | 1;
const NVSP_ID: u64 = REQUEST_ID | 2;

/// Where the answer to a keep-alive lies in the page.
const KEEPALIVE_AT: usize = 2048;

/// News that the caller has not taken yet, at most; then the oldest is lost.
const EVENTS: usize = 8;

/// How long a host is given to read a message that it does not answer, in nanoseconds.
pub(super) const READ_TIMEOUT: u64 = 100_000_000;

/// Bytes of an answer that are looked at.
const ANSWER: usize = 256;

/// Words of an NVSP answer that are looked at.
pub(super) const NVSP_WORDS: usize = 4;

/// An answer: its bytes behind the header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    kind: u32,
    bytes: [u8; ANSWER],
    len: usize,
}

impl Answer {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The fixed part; every answer has its start.
    fn complete(&self) -> Result<QueryComplete, HostFault> {
        let mut complete = QueryComplete {
            request: 0,
            status: 0,
            length: 0,
            offset: 0,
        };
        if self.len < 8 {
            return Err(HostFault::Malformed);
        }
        for (to, from) in complete.as_mut_bytes().iter_mut().zip(self.bytes()) {
            *to = *from;
        }
        Ok(complete)
    }

    /// The information of a query that succeeded; `None` when the host refused.
    pub(super) fn information(&self) -> Result<Option<&[u8]>, HostFault> {
        let complete = self.complete()?;
        if complete.status != status::SUCCESS {
            return Ok(None);
        }
        let start = complete.offset as usize;
        let end = start.saturating_add(complete.length as usize);
        let part = self.bytes().get(start..end);
        part.map(Some).ok_or(HostFault::Length)
    }

    /// A query's 32-bit number.
    pub(super) fn number(&self) -> Result<Option<u32>, HostFault> {
        let Some(information) = self.information()? else {
            return Ok(None);
        };
        let (number, _) = u32::read_from_prefix(information).map_err(|_| HostFault::Length)?;
        Ok(Some(number))
    }

    /// 0, or why the host refused.
    pub(super) fn status(&self) -> Result<u32, HostFault> {
        Ok(self.complete()?.status)
    }
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nobody,
    /// [`Live::request`], for this one.
    Caller(u32),
    /// Whether the longest packet is another now.
    Mtu(u32),
}

/// The control half of the first queue.
#[derive(Debug)]
pub(super) struct Control<P: Platform> {
    version: Version,
    /// One page: a request, and in its second half the answer to a keep-alive.
    page: Lent<P>,
    /// The host has the request.
    busy: bool,
    /// The number of the next request.
    next: u32,
    waiting: Waiting,
    answer: Option<Answer>,
    /// An NVSP message waits for its answer; the answer.
    asked: bool,
    told: Option<[u64; NVSP_WORDS]>,
    /// A keep-alive is to be answered; the host has the answer.
    keepalive: Option<u32>,
    keepalive_busy: bool,
    /// The longest packet is to be asked for.
    changed: bool,
    /// Whether the line is up.
    pub(super) link: bool,
    /// Bytes of the longest packet.
    pub(super) mtu: u16,
    /// By which channel to send what, if the host said.
    pub(super) table: Option<[u32; TABLE_ENTRIES]>,
    pub(super) events: Deque<Event, EVENTS>,
}

impl<P: Platform> Control<P> {
    pub(super) fn new(version: Version, page: Lent<P>, mtu: u16) -> Self {
        Self {
            version,
            page,
            busy: false,
            next: 1,
            waiting: Waiting::Nobody,
            answer: None,
            asked: false,
            told: None,
            keepalive: None,
            keepalive_busy: false,
            changed: false,
            link: true,
            mtu,
            table: None,
            events: Deque::new(),
        }
    }

    /// Gives the page back.
    pub(super) fn into_page(self) -> Lent<P> {
        self.page
    }

    fn tell(&mut self, event: Event) {
        if self.events.is_full() {
            let _ = self.events.pop_front();
        }
        let _ = self.events.push_back(event);
    }

    fn set_link(&mut self, up: bool) {
        if core::mem::replace(&mut self.link, up) != up {
            self.tell(Event::Link(up));
        }
    }

    /// Tells of what is different from before.
    pub(super) fn compare(&mut self, before: &Capabilities) {
        let (link, mtu) = (self.link, self.mtu);
        if link != before.link {
            self.tell(Event::Link(link));
        }
        if mtu != before.mtu {
            self.tell(Event::Mtu(mtu));
        }
    }

    /// A control message of the host's.
    pub(super) fn message(&mut self, section: &Section) -> Result<(), HostFault> {
        // What an answer holds beyond this is not needed.
        let mut copy = [0u8; ANSWER + 8];
        let len = section.len().min(copy.len());
        let bytes = copy.get_mut(..len).unwrap_or_default();
        section.span().copy_out(0, bytes)?;
        let (header, body) = Header::read_from_prefix(bytes).map_err(|_| HostFault::Malformed)?;
        let length = header.length as usize;
        if length > section.len() || length < 8 {
            return Err(HostFault::Length);
        }
        let body = body.get(..length.saturating_sub(8)).unwrap_or(body);
        let first = |at: usize| {
            let word = body.get(at..).and_then(|rest| rest.first_chunk());
            word.map(|word| u32::from_le_bytes(*word))
                .ok_or(HostFault::Malformed)
        };
        match header.kind {
            rndis::kind::INDICATE_STATUS => match first(0)? {
                status::MEDIA_CONNECT => self.set_link(true),
                status::MEDIA_DISCONNECT => self.set_link(false),
                status::NETWORK_CHANGE => {
                    self.tell(Event::Moved);
                    self.changed = true;
                }
                other => log::debug!("netvsc: status {other:#x} is passed over"),
            },
            rndis::kind::KEEPALIVE => self.keepalive = Some(first(0)?),
            kind if kind & rndis::kind::COMPLETE != 0 => {
                let mut answer = Answer {
                    kind,
                    bytes: [0; ANSWER],
                    len: body.len().min(ANSWER),
                };
                for (to, from) in answer.bytes.iter_mut().zip(body) {
                    *to = *from;
                }
                self.answered(first(0)?, answer)?;
            }
            other => log::debug!("netvsc: RNDIS message {other:#x} is passed over"),
        }
        Ok(())
    }

    fn answered(&mut self, request: u32, answer: Answer) -> Result<(), HostFault> {
        if self.waiting == Waiting::Caller(request) {
            self.waiting = Waiting::Nobody;
            self.answer = Some(answer);
        } else if self.waiting == Waiting::Mtu(request) {
            self.waiting = Waiting::Nobody;
            let mtu = answer.number()?.and_then(|mtu| u16::try_from(mtu).ok());
            if let Some(mtu) = mtu.filter(|mtu| *mtu != self.mtu && *mtu >= super::LEAST_MTU) {
                self.mtu = mtu;
                self.tell(Event::Mtu(mtu));
            }
        } else {
            log::debug!("netvsc: nobody asked for {:#x}", answer.kind);
        }
        Ok(())
    }

    /// Something the host said of its own accord: `words` and how many bytes there are.
    pub(super) fn unasked(&mut self, words: [u64; 16], len: usize) {
        let words = words.get(..len.div_ceil(8)).unwrap_or(&words);
        match words.first().map(|word| *word as u32) {
            Some(kind::SEND_INDIRECTION_TABLE) => match nvsp::table(self.version, words) {
                Some(table) => self.table = Some(table),
                None => log::warn!("netvsc: the send-indirection table is of no use"),
            },
            other => log::debug!("netvsc: message {other:?} is passed over"),
        }
    }

    /// A completion with this id; false when nothing waits for it.
    pub(super) fn completed(&mut self, id: u64, words: [u64; NVSP_WORDS]) -> bool {
        let [head, ..] = words;
        let failed = head >> 32 != nvsp::SUCCESS.into();
        match id {
            REQUEST_ID => {
                if failed {
                    log::debug!("netvsc: the host failed a control message");
                }
                core::mem::take(&mut self.busy)
            }
            KEEPALIVE_ID => core::mem::take(&mut self.keepalive_busy),
            NVSP_ID if core::mem::take(&mut self.asked) => {
                self.told = Some(words);
                true
            }
            _ => false,
        }
    }

    /// Sends what is owed, if there is room.
    pub(super) fn pump<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
    ) -> Result<(), HostFault> {
        if let Some(request) = self.keepalive
            && !self.keepalive_busy
        {
            let body = KeepaliveComplete {
                request,
                status: status::SUCCESS,
            };
            let kind = rndis::kind::KEEPALIVE | rndis::kind::COMPLETE;
            if self.put(channel, KEEPALIVE_ID, kind, &[body.as_bytes()])? {
                self.keepalive = None;
                self.keepalive_busy = true;
            }
        }
        if self.changed && !self.busy && self.waiting == Waiting::Nobody {
            let request = self.next;
            if self.post(
                channel,
                rndis::kind::QUERY,
                &query(oid::MAXIMUM_FRAME_SIZE, &[]),
                &[],
            )? {
                self.waiting = Waiting::Mtu(request);
                self.changed = false;
            }
        }
        Ok(())
    }

    /// Puts a request into the ring, under the next number; false when there is no room.
    fn post<G: Gate>(
        &mut self,
        channel: &mut Channel<'_, '_, P, G>,
        kind: u32,
        fixed: &[u8],
        information: &[u8],
    ) -> Result<bool, HostFault> {
        let request = self.next.to_le_bytes();
        let sent = self.put(channel, REQUEST_ID, kind, &[&request, fixed, information])?;
        if sent {
            self.busy = true;
            self.next = self.next.wrapping_add(1).max(1);
        }
        Ok(sent)
    }

    /// Writes a message into the page and its packet into the ring; false when there is no room.
    fn put<G: Gate>(
        &self,
        channel: &mut Channel<'_, '_, P, G>,
        id: u64,
        kind: u32,
        parts: &[&[u8]],
    ) -> Result<bool, HostFault> {
        let start = if id == KEEPALIVE_ID { KEEPALIVE_AT } else { 0 };
        let half = self.page.span().part(start, KEEPALIVE_AT)?;
        let mut at = size_of::<Header>();
        for part in parts {
            half.copy_in(at, part)?;
            at = at.saturating_add(part.len());
        }
        let length = at as u32;
        half.write(0, &Header { kind, length })?;
        let body = nvsp::RndisPacket {
            channel_type: nvsp::CONTROL,
            section: nvsp::NO_SECTION,
            section_bytes: 0,
        };
        let message = nvsp::message(kind::SEND_RNDIS_PACKET, &body);
        let frames = self.page.gfn(0).into_iter();
        let sent = if self.version.words() == nvsp::WORDS {
            channel.send(Outgoing::gpa_direct(
                id,
                &message,
                start as u32,
                length,
                frames,
            ))
        } else {
            let [a, b, c, d, _] = message;
            let message = [a, b, c, d];
            channel.send(Outgoing::gpa_direct(
                id,
                &message,
                start as u32,
                length,
                frames,
            ))
        };
        accepted(sent)
    }
}

/// Whether a packet went into the ring.
fn accepted(sent: Result<(), SendError>) -> Result<bool, HostFault> {
    match sent {
        Ok(()) => Ok(true),
        Err(SendError::Full) => Ok(false),
        Err(SendError::Fault(fault)) => Err(fault),
        Err(_) => Err(HostFault::RingIndex),
    }
}
