//! Xenstore: the ring, the requests in flight and the watches, behind one lock that is never held
//! while waiting and never taken by an interrupt handler.

use crate::bus::{Config, ConnectError};
use crate::error::{StoreError, XsError};
use crate::proto::{Complete, Receiver, Requests, Room, Route, SLOTS, Ticket, header};
use crate::request::{Answer, Pending};
use crate::ring::Ring;
use crate::watch::{TOKEN, Watches};
use crate::wire::{HEADER, MessageType, PAYLOAD_MAX};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use hypercall::platform::{deadline, wait_for};
use hypercall::shm::{HostPage, PAGE_SIZE, Pages, Span};
use hypercall::xen::Xen;
use hypercall::xen::abi::{HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN};
use hypercall::{Gate, HostFault, Hypervisor, Platform, Port};
use spin::Mutex;

/// Bytes that are taken in before a poll gives way, so that a host cannot keep it for ever.
const BUDGET: usize = 8192;
/// How long a sender waits before it looks again whether another thread has let it go on, in
/// nanoseconds.
const PATIENCE: u64 = 1_000_000;
/// Bytes that are moved at a time between the ring and the scratch pages.
const CHUNK: usize = 256;

/// The connection to xenstore. Requests of several threads or tasks may be in flight at once.
pub struct Xenstore<'h, P: Platform, G: Gate> {
    xen: &'h Xen<P, G>,
    page: HostPage<P>,
    port: Port,
    /// A page for each slot's answer, and one for the watch event that is coming in.
    scratch: Pages<P>,
    state: Mutex<State>,
    watches: Watches,
    /// A poll gave way before the ring was empty.
    unfinished: AtomicBool,
    config: Config,
}

struct State {
    ring: Ring,
    requests: Requests,
    receiver: Receiver,
    /// A request of which a part is in the ring: nobody else may send before the rest is.
    sending: Option<Ticket>,
    /// The host broke the protocol; nothing more is done with it.
    fault: Option<HostFault>,
}

impl<P: Platform, G: Gate> fmt::Debug for Xenstore<'_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xenstore on event channel {}", self.port.to)
    }
}

/// A request: its kind, its transaction, and its payload in pieces.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) kind: MessageType,
    pub(crate) transaction: u32,
    pub(crate) pieces: &'a [&'a [u8]],
}

impl Request<'_> {
    fn len(&self) -> usize {
        self.pieces
            .iter()
            .fold(0, |sum, piece| sum.saturating_add(piece.len()))
    }

    fn check(&self) -> Result<u32, StoreError> {
        let len = self.len();
        if len > PAYLOAD_MAX {
            return Err(StoreError::TooLong);
        }
        u32::try_from(len).map_err(|_| StoreError::TooLong)
    }
}

impl<'h, P: Platform, G: Gate> Xenstore<'h, P, G> {
    /// Connects to the xenstore that Xen announces. One connection at a time.
    ///
    /// # Errors
    /// [`ConnectError`] says what is missing.
    pub fn connect(xen: &'h Xen<P, G>, config: Config) -> Result<Self, ConnectError> {
        let gfn = xen.hvm_param(HVM_PARAM_STORE_PFN)?;
        let port = xen.hvm_param(HVM_PARAM_STORE_EVTCHN)?;
        let port = u32::try_from(port).unwrap_or(0);
        if gfn == 0 || gfn == u64::MAX || port == 0 {
            return Err(ConnectError::NoStore);
        }
        let platform = xen.platform();
        let page = HostPage::map(platform, gfn).ok_or(ConnectError::NotMapped(gfn))?;
        // `SLOTS` and one more are few.
        let scratch = Pages::alloc(platform, SLOTS.saturating_add(1))
            .map_err(|_| ConnectError::OutOfPages)?;
        xen.open_port(port)?;
        xen.set_news(port);
        let port = Port {
            to: port,
            from: port,
        };
        let view = page.page();
        // Somebody else may have asked for a reset already; until it is done nothing is valid.
        let resetting = Ring::can_reset(view) && !Ring::is_connected(view);
        if resetting || (Ring::can_reset(view) && Ring::has_leftovers(view)) {
            if !resetting {
                Ring::ask_reset(view);
            }
            xen.signal(port);
            let until = deadline(platform, config.request_timeout);
            wait_for(platform, until, || Ring::is_connected(view).then_some(()))
                .map_err(|_| ConnectError::NoAnswer(config.request_timeout))?;
        }
        let state = State {
            ring: Ring::new(view),
            requests: Requests::new(platform.now() as u32),
            receiver: Receiver::new(),
            sending: None,
            fault: None,
        };
        let store = Self {
            xen,
            page,
            port,
            scratch,
            state: Mutex::new(state),
            watches: Watches::new(),
            unfinished: AtomicBool::new(false),
            config,
        };
        store.greet()?;
        Ok(store)
    }

    /// Drops an earlier owner's watches and transactions, and sees whether anybody answers.
    fn greet(&self) -> Result<(), ConnectError> {
        match self.ask(MessageType::RESET_WATCHES, 0, &[b"\0"]) {
            // Any answer will do: older hosts do not know the request.
            Ok(_) | Err(StoreError::Refused(_)) => Ok(()),
            Err(StoreError::Fault(HostFault::NoAnswer)) => {
                Err(ConnectError::NoAnswer(self.config.request_timeout))
            }
            Err(why) => Err(ConnectError::Store(why)),
        }
    }

    /// The hypervisor this goes through.
    pub fn xen(&self) -> &'h Xen<P, G> {
        self.xen
    }

    pub(crate) fn platform(&self) -> &'h P {
        self.xen.platform()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    #[inline]
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// When a request that is made now has failed.
    pub(crate) fn deadline(&self) -> u64 {
        deadline(self.platform(), self.config.request_timeout)
    }

    /// Takes in what has come, without waiting: answers to whoever asked, watch events to their
    /// flags.
    ///
    /// # Errors
    /// [`HostFault`] once the host broke the protocol; it is latched.
    pub fn poll(&self) -> Result<(), HostFault> {
        self.xen.take_pending(self.port);
        self.unfinished.store(false, Ordering::Relaxed);
        let mut state = self.state.lock();
        if let Some(fault) = state.fault {
            return Err(fault);
        }
        let taken = state.receive(self);
        if taken != Ok(0) {
            self.xen.add_news();
        }
        let signal = state.ring.take_was_full();
        if let Err(fault) = taken {
            state.fault = Some(fault);
        }
        drop(state);
        if signal {
            // The host may have more to send than there was room for.
            self.xen.signal(self.port);
        }
        taken.map(drop)
    }

    /// As [`poll`](Self::poll), when there is reason to.
    pub(crate) fn poll_if_signalled(&self) -> Result<(), HostFault> {
        if self.xen.take_pending(self.port) || self.is_unfinished() {
            self.poll()
        } else {
            Ok(())
        }
    }

    /// Whether a [`poll`](Self::poll) gave way before it had received all.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// What the host did wrong, if anything.
    pub fn fault(&self) -> Option<HostFault> {
        self.state.lock().fault
    }

    /// The place of a slot's answer.
    pub(crate) fn scratch(&self, slot: usize) -> Span<'_> {
        let whole = self.scratch.span();
        let at = slot.saturating_mul(PAGE_SIZE);
        whole
            .part(at, PAGE_SIZE)
            .unwrap_or_else(|_| self.scratch.first().span())
    }

    /// Notes a watch event, which is complete in its scratch page.
    fn event(&self, len: usize) -> Result<(), HostFault> {
        // "<path> NUL <token> NUL": only the token is of interest, and only a short one is ours.
        let mut tail = [0; TOKEN + 2];
        let take = len.min(tail.len());
        let tail = tail.get_mut(..take).unwrap_or_default();
        self.scratch(SLOTS)
            .copy_out(len.saturating_sub(take), tail)?;
        let Some((0, rest)) = tail.split_last() else {
            return Err(HostFault::Malformed);
        };
        if let Some(before) = rest.iter().rposition(|byte| *byte == 0) {
            let token = rest.get(before.saturating_add(1)..).unwrap_or_default();
            self.watches.fire(token);
            Ok(())
        } else if take < len {
            // A longer token than ours: another owner's watch.
            Ok(())
        } else {
            Err(HostFault::Malformed)
        }
    }

    /// Waits until a request may be sent: for a free slot, and for other senders.
    fn turn(&self, kind: MessageType, until: u64) -> Result<Ticket, StoreError> {
        let platform = self.platform();
        loop {
            // Another thread's progress causes no interrupt, so no wait is long.
            let soon = deadline(platform, PATIENCE).min(until);
            let turn = wait_for(platform, soon, || {
                if let Err(fault) = self.poll() {
                    return Some(Err(fault.into()));
                }
                let mut state = self.state.lock();
                if state.sending.is_some() {
                    return None;
                }
                let ticket = state.requests.begin(kind)?;
                state.sending = Some(ticket);
                Some(Ok(ticket))
            });
            match turn {
                Ok(turn) => return turn,
                Err(late) if platform.now() >= until => return Err(late.into()),
                Err(_) => {}
            }
        }
    }

    /// Sends a request, waiting for a slot and for room.
    pub(crate) fn begin(
        &self,
        request: Request<'_>,
        until: u64,
    ) -> Result<Pending<'_, 'h, P, G>, StoreError> {
        let len = request.check()?;
        let ticket = self.turn(request.kind, until)?;
        let head = header(request.kind, ticket.id(), request.transaction, len);
        let mut sent = 0;
        let all = wait_for(self.platform(), until, || {
            if let Err(fault) = self.poll() {
                return Some(Err(fault));
            }
            let before = sent;
            let mut state = self.state.lock();
            let done = state.push(&self.page, &head, request.pieces, &mut sent);
            if let Ok(true) = done {
                state.sending = None;
            }
            if let Err(fault) = done {
                state.fault = Some(fault);
            }
            drop(state);
            if sent != before {
                self.xen.signal(self.port);
            }
            match done {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(fault) => Some(Err(fault)),
            }
        });
        match all {
            Ok(Ok(())) => Ok(Pending::new(self, ticket)),
            Ok(Err(fault)) => Err(fault.into()),
            Err(late) => {
                let mut state = self.state.lock();
                if sent == 0 {
                    state.sending = None;
                    state.requests.cancel(ticket);
                } else {
                    // Half a request is in the ring, and nothing can follow it.
                    state.fault = Some(HostFault::NoAnswer);
                }
                Err(late.into())
            }
        }
    }

    /// Sends a request if that can be done without waiting.
    pub(crate) fn try_begin(
        &self,
        request: Request<'_>,
    ) -> Result<Option<Pending<'_, 'h, P, G>>, StoreError> {
        let len = request.check()?;
        let mut state = self.state.lock();
        if let Some(fault) = state.fault {
            return Err(fault.into());
        }
        let room = state.ring.room(self.page.page());
        let room = room.inspect_err(|fault| state.fault = Some(*fault))?;
        if state.sending.is_some() || room < request.len().saturating_add(HEADER) {
            return Ok(None);
        }
        let Some(ticket) = state.requests.begin(request.kind) else {
            return Ok(None);
        };
        let head = header(request.kind, ticket.id(), request.transaction, len);
        let mut sent = 0;
        let done = state.push(&self.page, &head, request.pieces, &mut sent);
        if !matches!(done, Ok(true)) {
            // There was room a moment ago: the host moved its index back.
            state.fault = Some(HostFault::RingIndex);
            return Err(HostFault::RingIndex.into());
        }
        drop(state);
        self.xen.signal(self.port);
        Ok(Some(Pending::new(self, ticket)))
    }

    /// What became of a request; `None` while it is in flight.
    pub(crate) fn outcome(&self, ticket: Ticket) -> Option<Result<usize, StoreError>> {
        let state = self.state.lock();
        if let Some(done) = state.requests.done(ticket) {
            drop(state);
            return Some(self.judge(ticket, done.len, done.error));
        }
        state.fault.map(|fault| Err(fault.into()))
    }

    fn judge(&self, ticket: Ticket, len: usize, error: bool) -> Result<usize, StoreError> {
        if !error {
            return Ok(len);
        }
        let mut name = [0; 16];
        let name = name.get_mut(..len.min(16)).unwrap_or_default();
        self.scratch(ticket.slot()).copy_out(0, name)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Err(StoreError::Refused(XsError::from_name(name)))
    }

    /// The bytes of an answer.
    pub(crate) fn answer(&self, ticket: Ticket, len: usize) -> Span<'_> {
        let page = self.scratch(ticket.slot());
        page.part(0, len.min(PAGE_SIZE)).unwrap_or(page)
    }

    pub(crate) fn release(&self, ticket: Ticket) {
        self.state.lock().requests.release(ticket);
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(
        &self,
        kind: MessageType,
        transaction: u32,
        pieces: &[&[u8]],
    ) -> Result<Answer<'_, 'h, P, G>, StoreError> {
        let request = Request {
            kind,
            transaction,
            pieces,
        };
        let until = self.deadline();
        self.begin(request, until)?.wait(until)
    }
}

impl<P: Platform, G: Gate> Drop for Xenstore<'_, P, G> {
    fn drop(&mut self) {
        self.xen.mask_port(self.port.from);
    }
}

impl State {
    /// Takes in what the ring holds, up to the budget; returns how many bytes.
    fn receive<P: Platform, G: Gate>(
        &mut self,
        store: &Xenstore<'_, P, G>,
    ) -> Result<usize, HostFault> {
        let page = store.page.page();
        let mut total = 0usize;
        while total < BUDGET {
            let count = match self.receiver.room() {
                Room::Header(into) => self.ring.receive(page, into)?,
                Room::Body { route, at, left } => {
                    let mut chunk = [0; CHUNK];
                    let chunk = chunk.get_mut(..left.min(CHUNK)).unwrap_or_default();
                    let count = self.ring.receive(page, chunk)?;
                    let chunk = chunk.get(..count).unwrap_or_default();
                    match route {
                        Route::Slot(slot) => store.scratch(slot).copy_in(at, chunk)?,
                        Route::Event => store.scratch(SLOTS).copy_in(at, chunk)?,
                        Route::Nobody => {}
                    }
                    count
                }
            };
            if count == 0 {
                return Ok(total);
            }
            total = total.saturating_add(count);
            if let Some(Complete {
                route: Route::Event,
                len,
            }) = self.receiver.filled(count, &mut self.requests)?
            {
                store.event(len)?;
            }
        }
        store.unfinished.store(true, Ordering::Relaxed);
        Ok(total)
    }

    /// Sends on from byte `sent` of a request; true when all of it is in the ring.
    fn push<P: Platform>(
        &mut self,
        page: &HostPage<P>,
        head: &[u8],
        pieces: &[&[u8]],
        sent: &mut usize,
    ) -> Result<bool, HostFault> {
        let mut skip = *sent;
        for piece in core::iter::once(&head).chain(pieces) {
            let Some(rest) = piece.get(skip..) else {
                skip = skip.saturating_sub(piece.len());
                continue;
            };
            skip = 0;
            let count = self.ring.send(page.page(), rest)?;
            *sent = sent.saturating_add(count);
            if count < rest.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
