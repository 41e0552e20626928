//! A channel to one device: two rings, a signal each way.

use crate::abi::message::{CloseChannel, OpenChannel};
use crate::bus::VmBus;
use crate::error::{AskError, OpenError};
use crate::loan::{LOANS, frames};
use crate::proto::awaited::{Question, Reply};
use crate::proto::offers::Offer;
use crate::proto::outgoing::Outgoing as Message;
use crate::ring::{Answers, Form, Incoming, Outgoing, Receiver, SendError, Sender};
use core::task::Waker;
use heapless::Vec;
use hypercall::bus::{Doorbell, Rest, Verdict};
use hypercall::platform::deadline;
use hypercall::shm::{Access, Pages, Words};
use hypercall::signals::NoWaker;
use hypercall::{Gate, HostFault, Hypervisor, Platform, Port};
use zerocopy::{Immutable, IntoBytes};

/// Data pages of a ring at most: both rings and their control pages fit one GPADL.
pub const MAX_RING_PAGES: usize = 4094;

/// An open channel, for one owner.
///
/// [`send`](Self::send) any number of packets, then [`flush`](Self::flush);
/// [`receive`](Self::receive) until there are none, then [`arm`](Self::arm) before waiting: the
/// host sends no signals between the two. Neither takes a lock or makes a hypercall but for the
/// signal.
///
/// Dropping it closes it, and waits for the host to let go of its rings.
#[derive(Debug)]
pub struct Channel<'b, 'h, P: Platform, G: Gate> {
    pub(crate) bus: &'b VmBus<'h, P, G>,
    pub(crate) relid: u32,
    port: Port,
    gpadl: u32,
    /// What the host was lent beside the rings.
    pub(crate) loans: Vec<u32, LOANS>,
    offer: Offer,
    /// The host's news when the device was last known to be there.
    settled: u32,
    /// Until it is closed.
    ends: Option<Ends<P>>,
}

#[derive(Debug)]
struct Ends<P: Platform> {
    sender: Sender<P>,
    receiver: Receiver<P>,
}

impl<P: Platform> Ends<P> {
    fn fail(&mut self, fault: HostFault) {
        self.sender.fail(fault);
        self.receiver.fail(fault);
    }

    /// Takes the rings' memory back from the host, which has let go of it.
    fn reclaim<G: Gate>(self, bus: &VmBus<'_, P, G>) {
        for lent in [self.sender.into_memory(), self.receiver.into_memory()] {
            // Cannot fail on Hyper-V; if it did, the loan would be leaked.
            let _ = bus.hypervisor().unshare(lent);
        }
    }
}

impl<'h, P: Platform, G: Gate> VmBus<'h, P, G> {
    /// Opens a channel. Each of its two rings gets `ring_pages` pages for packets (1 to 4094) and
    /// one for control. `user_data` (at most 120 bytes) is for the device.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open<'b>(
        &'b self,
        offer: &Offer,
        ring_pages: usize,
        user_data: &[u8],
    ) -> Result<Channel<'b, 'h, P, G>, OpenError> {
        self.pump();
        if !self.claim(offer) {
            return Err(if self.is_gone(offer.relid) {
                OpenError::Gone
            } else {
                OpenError::InUse
            });
        }
        let channel = self.open_claimed(offer, ring_pages, user_data);
        if channel.is_err() {
            self.unclaim(offer);
        }
        channel
    }

    fn open_claimed<'b>(
        &'b self,
        offer: &Offer,
        ring_pages: usize,
        user_data: &[u8],
    ) -> Result<Channel<'b, 'h, P, G>, OpenError> {
        let relid = offer.relid;
        let mut padded = [0; 120];
        padded
            .get_mut(..user_data.len())
            .ok_or(OpenError::TooLarge)?
            .copy_from_slice(user_data);
        if !(1..=MAX_RING_PAGES).contains(&ring_pages) {
            return Err(OpenError::TooLarge);
        }
        let pages = ring_pages.saturating_add(1);
        let ends = self.rings(pages)?;
        self.hypervisor().expect_event(relid);
        let (gpadl, open_id) = (self.next_gpadl(), self.next_open_id());
        let open = OpenChannel {
            relid,
            open_id,
            ring_gpadl: gpadl,
            target_vp: self.hypervisor().vp_index(),
            // At most 4095.
            downstream_page: pages as u32,
            user_data: padded,
        };
        match self.establish(&open, &ends) {
            Ok(()) => Ok(Channel {
                bus: self,
                relid,
                port: Port {
                    to: offer.connection,
                    from: relid,
                },
                gpadl,
                loans: Vec::new(),
                offer: offer.clone(),
                // Anything but that: the first look is still to come.
                settled: self.hypervisor().news().wrapping_sub(1),
                ends: Some(ends),
            }),
            Err((error, held)) => {
                if !held || self.teardown(relid, gpadl).is_ok() {
                    ends.reclaim(self);
                }
                Err(error)
            }
        }
    }

    /// Both ends of both rings, ready to be named to the host.
    fn rings(&self, pages: usize) -> Result<Ends<P>, OpenError> {
        let hv = self.hypervisor();
        let run = || Pages::alloc(hv.platform(), pages).map_err(|_| OpenError::OutOfPages);
        let (out, back) = (run()?, run()?);
        let lend = |pages| hv.share(pages, 0, Access::ReadWrite).ok();
        let sender = lend(out).and_then(Sender::new);
        let receiver = lend(back).and_then(Receiver::new);
        match (sender, receiver) {
            (Some(sender), Some(receiver)) => Ok(Ends { sender, receiver }),
            // Cannot happen on Hyper-V, where lending is book-keeping.
            _ => Err(OpenError::OutOfPages),
        }
    }

    /// Names the rings to the host and has it open the channel. With the error comes whether the
    /// host may have the rings.
    fn establish(&self, open: &OpenChannel, ends: &Ends<P>) -> Result<(), (OpenError, bool)> {
        let (relid, gpadl) = (open.relid, open.ring_gpadl);
        let timeout = || deadline(self.hypervisor().platform(), self.timeout());
        let (out, back) = (ends.sender.memory(), ends.receiver.memory());
        let pages = out.count().saturating_add(back.count());
        self.name(relid, gpadl, pages, frames(out).chain(frames(back)))?;
        let open_id = open.open_id;
        let opened = self.ask(
            Question::Open { relid, open_id },
            Some(relid),
            timeout(),
            |bus| bus.post(&Message::new(open)),
        );
        let error = match opened {
            Ok(Reply::Status(0)) => return Ok(()),
            Ok(Reply::Status(status)) => OpenError::Refused(status),
            Ok(Reply::Version(_)) => HostFault::WrongOperation.into(),
            Err(error @ (AskError::Busy | AskError::Post(_))) => error.into(),
            Err(error) => {
                // It may be open, or open later.
                let _ = self.post(&Message::new(&CloseChannel { relid }));
                error.into()
            }
        };
        Err((error, true))
    }
}

impl<P: Platform, G: Gate> Channel<'_, '_, P, G> {
    /// Whether it was not closed yet.
    pub(crate) fn is_open(&self) -> bool {
        self.ends.is_some()
    }

    /// What is at the other end.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Writes a packet into the ring, where the host does not see it before the next
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`SendError`]; nothing was written then.
    #[inline]
    pub fn send<T, I>(&mut self, packet: Outgoing<'_, T, I>) -> Result<(), SendError>
    where
        T: IntoBytes + Immutable,
        I: Iterator<Item = u64>,
    {
        match &mut self.ends {
            Some(ends) => ends.sender.send(packet),
            None => Err(SendError::Fault(HostFault::Withdrawn)),
        }
    }

    /// As [`send`](Self::send) of a packet that names one page of memory: see
    /// [`Sender::send_page`]. `false` when that takes the long way.
    #[inline(always)]
    pub fn send_page<const N: usize>(
        &mut self,
        transaction_id: u64,
        payload: &[u64; N],
        frame: u64,
        offset: u16,
        bytes: u32,
    ) -> bool {
        self.ends.as_mut().is_some_and(|ends| {
            ends.sender
                .send_page(transaction_id, payload, frame, offset, bytes)
        })
    }

    /// As [`send`](Self::send) of an in-band packet that asks for an answer: see
    /// [`Sender::send_request`]. `false` when that takes the long way.
    #[inline(always)]
    pub fn send_request<const N: usize>(
        &mut self,
        transaction_id: u64,
        payload: &[u64; N],
    ) -> bool {
        self.ends
            .as_mut()
            .is_some_and(|ends| ends.sender.send_request(transaction_id, payload))
    }

    /// As [`send`](Self::send) of many answers to packets of the host's: see
    /// [`Sender::send_answers`].
    #[inline(always)]
    pub fn send_answers(&mut self, write: impl FnOnce(&mut Answers<'_>)) {
        if let Some(ends) = &mut self.ends {
            ends.sender.send_answers(write);
        }
    }

    /// Shows the host what was sent, and signals it if it wants that; returns whether it was.
    #[inline]
    pub fn flush(&mut self) -> bool {
        let wanted = self.ends.as_mut().is_some_and(|ends| ends.sender.publish());
        if wanted {
            self.notify();
        }
        wanted
    }

    /// Whether the host has read everything that was flushed.
    ///
    /// # Errors
    /// [`HostFault`].
    pub fn is_read(&mut self) -> Result<bool, HostFault> {
        match &mut self.ends {
            Some(ends) => ends.sender.is_read(),
            None => Err(HostFault::Withdrawn),
        }
    }

    /// Bytes that packets can take now, headers and footers included.
    ///
    /// # Errors
    /// [`HostFault`].
    pub fn free_bytes(&mut self) -> Result<u32, HostFault> {
        match &mut self.ends {
            Some(ends) => ends.sender.free_bytes(),
            None => Err(HostFault::Withdrawn),
        }
    }

    /// Takes a packet, if there is one: copies what follows its 16-byte descriptor into `into`,
    /// once. The host gets the room back by [`done`](Self::done).
    ///
    /// # Errors
    /// [`HostFault`], also when the device is withdrawn and its last packet was taken.
    #[inline]
    pub fn receive<const N: usize>(
        &mut self,
        into: &mut [u64; N],
    ) -> Result<Option<Incoming>, HostFault> {
        let Some(ends) = &mut self.ends else {
            return Err(HostFault::Withdrawn);
        };
        match ends.receiver.receive(into) {
            Ok(None) => self.check().map(|()| None),
            packet => packet,
        }
    }

    /// Shows completions of the usual form to `each`: see [`Receiver::show`]. It does not ask
    /// whether the device is still there.
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline(always)]
    pub fn show<const LEN: usize>(
        &mut self,
        each: impl FnMut(u64, Words<'_>) -> Verdict,
    ) -> Result<Rest, HostFault> {
        match &mut self.ends {
            Some(ends) => ends.receiver.show::<LEN>(each),
            None => Err(HostFault::Withdrawn),
        }
    }

    /// Whether there is a packet to receive. It does not ask whether the device is still there.
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline(always)]
    pub fn is_ready(&mut self) -> Result<bool, HostFault> {
        match &mut self.ends {
            Some(ends) => ends.receiver.is_ready(),
            None => Err(HostFault::Withdrawn),
        }
    }

    /// Takes a packet if `accept` accepts its start: see [`Receiver::receive_short`]. `None` says
    /// nothing of what there is to receive.
    #[inline(always)]
    pub fn receive_short<const N: usize, R>(
        &mut self,
        accept: impl FnOnce(u64, u64, [u64; N]) -> Option<R>,
    ) -> Option<R> {
        self.ends.as_mut()?.receiver.receive_short(accept)
    }

    /// Looks at the next packet, if it has this form: see [`Receiver::peek`].
    #[inline(always)]
    pub fn peek<const N: usize>(&self, form: Form) -> Option<(u64, [u64; N])> {
        self.ends.as_ref()?.receiver.peek(form)
    }

    /// Takes the packet of this form that [`peek`](Self::peek) just showed.
    #[inline(always)]
    pub fn pass(&mut self, form: Form) {
        if let Some(ends) = &mut self.ends {
            ends.receiver.pass(form);
        }
    }

    /// Takes packets of this form: see [`Receiver::take_while`].
    #[inline(always)]
    pub fn take_while(&mut self, form: Form, each: impl FnMut(u64, u64) -> bool) {
        if let Some(ends) = &mut self.ends {
            ends.receiver.take_while(form, each);
        }
    }

    /// Takes a packet, if there is one, of any length that `into` has room for: see
    /// [`Receiver::receive_to`].
    ///
    /// # Errors
    /// [`HostFault`], also when the device is withdrawn and its last packet was taken.
    pub fn receive_to(&mut self, into: Words<'_>) -> Result<Option<Incoming>, HostFault> {
        let Some(ends) = &mut self.ends else {
            return Err(HostFault::Withdrawn);
        };
        match ends.receiver.receive_to(into) {
            Ok(None) => self.check().map(|()| None),
            packet => packet,
        }
    }

    /// Gives the room of what was received back to the host, and signals it if it waits for room.
    #[inline]
    pub fn done(&mut self) {
        let waits = self.ends.as_mut().is_some_and(|ends| ends.receiver.done());
        if waits {
            self.notify();
        }
    }

    /// Has the host signal when the next packet comes, after [`done`](Self::done). Returns whether
    /// one has come already: then receive it rather than wait for a signal.
    ///
    /// # Errors
    /// [`HostFault`].
    #[inline(always)]
    pub fn arm(&mut self) -> Result<bool, HostFault> {
        let Some(ends) = &mut self.ends else {
            return Err(HostFault::Withdrawn);
        };
        let armed = ends.receiver.arm()?;
        if armed.signal {
            self.notify();
        }
        Ok(armed.more)
    }

    /// Whether the device is still there.
    ///
    /// # Errors
    /// [`HostFault::Withdrawn`] when the host took it back.
    #[inline]
    pub fn check(&mut self) -> Result<(), HostFault> {
        let news = self.bus.hypervisor().news();
        if news == self.settled {
            return Ok(());
        }
        self.check_at(news)
    }

    /// Looks what the news are.
    #[cold]
    fn check_at(&mut self, news: u32) -> Result<(), HostFault> {
        if !self.bus.is_withdrawn(self.relid) {
            self.settled = news;
            return Ok(());
        }
        if let Some(ends) = &mut self.ends {
            ends.fail(HostFault::Withdrawn);
        }
        Err(HostFault::Withdrawn)
    }

    /// Whether the host took the device back.
    #[inline]
    pub fn is_rescinded(&self) -> bool {
        self.bus.is_withdrawn(self.relid)
    }

    /// Has `waker` woken when the host signals.
    ///
    /// # Errors
    /// [`NoWaker`] when too many signals are waited for.
    pub fn register_waker(&self, waker: &Waker) -> Result<(), NoWaker> {
        self.bus.hypervisor().register_waker(self.port, waker)
    }

    /// Closes the channel, and takes the rings back once the host has let go of them, and of all
    /// that it was lent. After `Ok` it uses no memory that packets named. The channel can be opened
    /// again.
    ///
    /// # Errors
    /// [`HostFault::MemoryHeld`] when the host does not let go in time: the rings are leaked, and
    /// memory that was lent or that packets in flight named may still be written.
    pub fn close(mut self) -> Result<(), HostFault> {
        self.shut()
    }

    fn shut(&mut self) -> Result<(), HostFault> {
        let Some(ends) = self.ends.take() else {
            return Ok(());
        };
        let (bus, relid) = (self.bus, self.relid);
        let closed = match bus.post(&Message::new(&CloseChannel { relid })) {
            Ok(()) => {
                // Some hosts answer these only when the channel is closed.
                let mut ended = Ok(());
                for gpadl in core::mem::take(&mut self.loans) {
                    ended = ended.and(bus.teardown(relid, gpadl));
                }
                bus.teardown(relid, self.gpadl).and(ended)
            }
            Err(error) => {
                log::warn!("channel {relid}: {error}; its rings are leaked");
                Err(HostFault::MemoryHeld)
            }
        };
        if closed.is_ok() {
            ends.reclaim(bus);
        }
        bus.unclaim(&self.offer);
        closed
    }
}

impl<P: Platform, G: Gate> Doorbell for Channel<'_, '_, P, G> {
    #[inline]
    fn notify(&self) {
        self.bus.hypervisor().signal(self.port);
    }

    #[inline]
    fn take_pending(&self) -> bool {
        self.bus.hypervisor().take_pending(self.port)
    }
}

impl<P: Platform, G: Gate> Drop for Channel<'_, '_, P, G> {
    fn drop(&mut self) {
        // What went wrong was logged.
        let _ = self.shut();
    }
}
