//! The connection to the host: negotiation, messages in every wait, offers.

use crate::abi::message::{RELIDS, RelIdReleased, RequestOffers, Unload};
use crate::abi::version::Version;
use crate::error::{AskError, ConnectError};
use crate::proto::awaited::{Awaited, Question, Reply};
use crate::proto::contact::{Answer, Contact};
use crate::proto::incoming::Incoming;
use crate::proto::offers::{Offer, Offered, Offers, Rescinded};
use crate::proto::outgoing::Outgoing;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;
use heapless::Vec;
use hypercall::bus::{Bus, BusEvent};
use hypercall::hyperv::abi::{KIND_POSTED, Status};
use hypercall::hyperv::{HyperV, MESSAGE_SIGNAL, PostError, VMBUS_SINT};
use hypercall::platform::{deadline, wait_for};
use hypercall::signals::NoWaker;
use hypercall::{Gate, HostFault, Hypervisor, Platform};
use spin::Mutex;

/// Messages taken in one go, so that a host that sends without end does not hold a caller.
const BUDGET: usize = 256;
/// Relids that can wait to be given back.
const RELEASES: usize = 32;
/// The number of the first GPADL; others start with the same. 0 is none.
const FIRST_GPADL: u32 = 0xe1e10;
/// How long a host that knows no old connection is asked again, in nanoseconds.
const CONTACT_PATIENCE: u64 = 100_000_000;

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long each answer of the host is waited for, in nanoseconds. Hosts under emulation are
    /// slow; 5 seconds is the default.
    pub timeout: u64,
    /// The highest version to ask for.
    pub highest: Version,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: 5_000_000_000,
            highest: Version::V6_0,
        }
    }
}

/// The VMBus of a Hyper-V host.
///
/// The host's messages are taken whenever one of its methods, or of its channels', runs; the
/// interrupt handler takes none. A kernel that wants to know of devices that come and go calls
/// [`poll`](Bus::poll) after interrupts.
///
/// When it is dropped it says good-bye, and waits for the host's.
#[derive(Debug)]
pub struct VmBus<'h, P: Platform, G: Gate> {
    hv: &'h HyperV<P, G>,
    config: Config,
    version: Version,
    /// The connection for messages.
    connection: u32,
    connected: bool,
    state: Mutex<State>,
    /// The relids of open channels that the host took back.
    withdrawn: [AtomicU64; RELIDS as usize / 64],
}

#[derive(Debug)]
struct State {
    offers: Offers,
    awaited: Awaited,
    /// Relids that the host does not know to be free yet.
    releases: Vec<u32, RELEASES>,
    /// The next GPADL's number.
    gpadl: u32,
    /// The next opening's number.
    open_id: u32,
    fault: Option<HostFault>,
}

impl<'h, P: Platform, G: Gate> VmBus<'h, P, G> {
    /// Agrees on a version with the host, and asks for its offers.
    ///
    /// # Errors
    /// [`ConnectError`], whose text says that and why there is no VMBus.
    pub fn connect(hv: &'h HyperV<P, G>, config: Config) -> Result<Self, ConnectError> {
        let mut bus = Self {
            hv,
            config,
            version: config.highest,
            connection: 0,
            connected: false,
            state: Mutex::new(State {
                offers: Offers::new(),
                awaited: Awaited::new(),
                releases: Vec::new(),
                gpadl: FIRST_GPADL,
                open_id: 1,
                fault: None,
            }),
            withdrawn: [const { AtomicU64::new(0) }; RELIDS as usize / 64],
        };
        (bus.version, bus.connection) = bus.negotiate()?;
        bus.connected = true;
        // What came so far was said to an earlier owner of this machine.
        bus.state.lock().offers = Offers::new();
        bus.post(&Outgoing::new(&RequestOffers {}))
            .map_err(ConnectError::Post)?;
        Ok(bus)
    }

    fn negotiate(&self) -> Result<(Version, u32), ConnectError> {
        let until = deadline(self.hv.platform(), self.config.timeout);
        let mut contact = Contact::new(self.config.highest);
        while let Some(attempt) = contact.next_attempt() {
            let message = Outgoing::new(&attempt.message(self.hv.vp_index(), VMBUS_SINT));
            let connection = attempt.connection;
            let reply = self.ask(Question::Version, None, until, |bus| {
                bus.post_contact(connection, &message, until)
            });
            let response = match reply {
                Ok(Reply::Version(response)) => response,
                Ok(Reply::Status(_)) => return Err(ConnectError::Fault(HostFault::Malformed)),
                Err(AskError::Post(PostError::Busy(Status::INVALID_CONNECTION_ID))) => {
                    if contact.no_connection() {
                        continue;
                    }
                    return Err(ConnectError::NoConnection);
                }
                Err(AskError::Post(error)) => return Err(ConnectError::Post(error)),
                Err(AskError::Fault(fault)) => return Err(ConnectError::Fault(fault)),
                Err(AskError::NoAnswer | AskError::Busy | AskError::Withdrawn) => {
                    return Err(ConnectError::NoAnswer(self.config.timeout));
                }
            };
            match contact.answer(&response) {
                Answer::Agreed {
                    version,
                    connection,
                } => return Ok((version, connection)),
                Answer::Next => log::debug!("the host does not speak VMBus {}", attempt.version),
                Answer::Refused(state) => return Err(ConnectError::Refused(state)),
            }
        }
        Err(ConnectError::NoVersion(self.config.highest))
    }

    /// Sends a first message. An unknown connection is an answer here, not a host in a hurry.
    fn post_contact(
        &self,
        connection: u32,
        message: &Outgoing,
        until: u64,
    ) -> Result<(), PostError> {
        let first = self.hv.try_post_message(connection, message.bytes());
        let patience = match first {
            Err(PostError::Busy(Status::INVALID_CONNECTION_ID))
                if connection == crate::abi::message::CONTACT_CONNECTION =>
            {
                return first;
            }
            Err(PostError::Busy(Status::INVALID_CONNECTION_ID)) => CONTACT_PATIENCE,
            Err(PostError::Busy(_)) => self.config.timeout,
            _ => return first,
        };
        let until = deadline(self.hv.platform(), patience).min(until);
        self.hv
            .post_message(connection, message.bytes(), until, || self.pump())
    }

    /// The version in use.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The host below.
    pub fn hypervisor(&self) -> &'h HyperV<P, G> {
        self.hv
    }

    /// How long each answer is waited for, in nanoseconds.
    pub fn timeout(&self) -> u64 {
        self.config.timeout
    }

    /// Waits until the host has offered all that was there at the start, `timeout` nanoseconds at
    /// most. [`poll`](Bus::poll) then tells of them.
    ///
    /// # Errors
    /// [`HostFault::NoAnswer`] when the time is over; other faults when the bus is beyond use.
    pub fn wait_offers(&self, timeout: u64) -> Result<(), HostFault> {
        let platform = self.hv.platform();
        wait_for(platform, deadline(platform, timeout), || {
            self.pump();
            let state = self.state.lock();
            match state.fault {
                Some(fault) => Some(Err(fault)),
                None => state.offers.is_delivered().then_some(Ok(())),
            }
        })
        .unwrap_or(Err(HostFault::NoAnswer))
    }

    /// Has `waker` woken when a message comes, to [`poll`](Bus::poll) then.
    ///
    /// # Errors
    /// [`NoWaker`] when too many signals are waited for.
    pub fn register_waker(&self, waker: &Waker) -> Result<(), NoWaker> {
        self.hv.signals().register(MESSAGE_SIGNAL, waker)
    }

    /// Says good-bye to the host. The same happens on drop, where nobody learns how it went.
    ///
    /// # Errors
    /// [`HostFault::NoAnswer`] when the host does not answer in time.
    pub fn disconnect(mut self) -> Result<(), HostFault> {
        self.unload()
    }

    fn unload(&mut self) -> Result<(), HostFault> {
        if !core::mem::take(&mut self.connected) {
            return Ok(());
        }
        let until = deadline(self.hv.platform(), self.config.timeout);
        self.state.lock().fault = None;
        self.ask(Question::Unload, None, until, |bus| {
            bus.post(&Outgoing::new(&Unload {}))
        })?;
        Ok(())
    }

    /// Takes the host's messages and files what they say.
    pub(crate) fn pump(&self) {
        // Whoever holds the lock waits for nothing and takes no interrupt's place.
        let mut state = self.state.lock();
        for _ in 0..BUDGET {
            let Some(message) = self.hv.take_message() else {
                return;
            };
            if message.kind != KIND_POSTED {
                log::debug!("a message of type {:#x} is not VMBus's", message.kind);
                continue;
            }
            match Incoming::parse(message.payload()) {
                Ok(message) => self.dispatch(&mut state, &message),
                Err(fault) => {
                    log::warn!("VMBus: {fault}: {message:?}");
                    state.fault.get_or_insert(fault);
                }
            }
        }
    }

    fn dispatch(&self, state: &mut State, message: &Incoming) {
        match message {
            Incoming::Offer(offer) => match state.offers.offer(offer) {
                Offered::Kept => {}
                Offered::Invalid => log::warn!("bad offer of channel {}", offer.relid),
                Offered::Full => log::warn!("channel {} is left out", offer.relid),
            },
            Incoming::Rescind(rescind) => match state.offers.rescind(rescind.relid) {
                Rescinded::InUse => {
                    self.mark(rescind.relid, true);
                    self.hv.add_news();
                    self.hv.signals().raise(rescind.relid);
                }
                Rescinded::Idle => {}
                Rescinded::Unknown => {
                    // A channel that was left out: the host may have its number back.
                    if (1..RELIDS).contains(&rescind.relid) {
                        let _ = state.releases.push(rescind.relid);
                    }
                }
            },
            Incoming::AllOffersDelivered => state.offers.set_delivered(),
            Incoming::Other(kind) => log::debug!("VMBus message {} is passed over", kind.0),
            answer => {
                if !state.awaited.file(answer) {
                    log::debug!("nobody asked for {answer:?}");
                }
            }
        }
    }

    fn mark(&self, relid: u32, withdrawn: bool) {
        if let Some(word) = self.withdrawn.get((relid >> 6) as usize) {
            let bit = 1 << (relid & 63);
            if withdrawn {
                word.fetch_or(bit, Ordering::Release);
            } else {
                word.fetch_and(!bit, Ordering::Release);
            }
        }
    }

    /// Whether the host took back a channel that is open. Takes messages first if there are any.
    #[inline]
    pub(crate) fn is_withdrawn(&self, relid: u32) -> bool {
        if self.hv.has_message() {
            self.pump();
        }
        self.withdrawn
            .get((relid >> 6) as usize)
            .is_none_or(|word| word.load(Ordering::Acquire) >> (relid & 63) & 1 != 0)
    }

    /// Sends a message, within the configured time.
    pub(crate) fn post(&self, message: &Outgoing) -> Result<(), PostError> {
        let until = deadline(self.hv.platform(), self.config.timeout);
        self.hv
            .post_message(self.connection, message.bytes(), until, || self.pump())
    }

    /// Asks the host something by `send` and waits for its reply. With a `relid`, the wait ends
    /// when that channel is rescinded.
    pub(crate) fn ask(
        &self,
        question: Question,
        relid: Option<u32>,
        until: u64,
        send: impl FnOnce(&Self) -> Result<(), PostError>,
    ) -> Result<Reply, AskError> {
        if !self.state.lock().awaited.ask(question) {
            return Err(AskError::Busy);
        }
        let sent = send(self).map_err(AskError::Post);
        let reply = sent.and_then(|()| {
            wait_for(self.hv.platform(), until, || {
                self.pump();
                let mut state = self.state.lock();
                if let Some(reply) = state.awaited.take(question) {
                    return Some(Ok(reply));
                }
                match (state.fault, relid) {
                    (Some(fault), _) => Some(Err(AskError::Fault(fault))),
                    (None, Some(relid)) if state.offers.is_rescinded(relid) => {
                        Some(Err(AskError::Withdrawn))
                    }
                    _ => None,
                }
            })
            .unwrap_or(Err(AskError::NoAnswer))
        });
        if reply.is_err() {
            self.state.lock().awaited.forget(question);
        }
        reply
    }

    /// How a device is offered now: a host may take one back and offer it again, under another
    /// number. `None` when it is gone.
    pub fn current(&self, device: &Offer) -> Option<Offer> {
        self.pump();
        self.state.lock().offers.current(device)
    }

    /// Sub-channel `index`, from 1, of a device whose first channel is open. Hosts offer them some
    /// time after a device's driver asked for them; [`poll`](Bus::poll) does not tell of them.
    /// `None` while there is none that is not open.
    pub fn subchannel(&self, device: &Offer, index: u16) -> Option<Offer> {
        self.pump();
        self.state.lock().offers.subchannel(device, index)
    }

    /// Marks a channel open; false when it is gone or open already.
    pub(crate) fn claim(&self, offer: &Offer) -> bool {
        self.state.lock().offers.open(offer)
    }

    /// Whether a channel is gone, as far as is known.
    pub(crate) fn is_gone(&self, relid: u32) -> bool {
        self.state.lock().offers.is_rescinded(relid)
    }

    /// Marks a channel closed, and gives its number back if it was rescinded.
    pub(crate) fn unclaim(&self, offer: &Offer) {
        self.hv.signals().forget(offer.relid);
        {
            let mut state = self.state.lock();
            state.offers.close(offer.relid);
            if offer.subchannel == 0 {
                state.offers.close_subchannels(offer);
            }
        }
        self.give_back();
    }

    /// A number for a GPADL.
    pub(crate) fn next_gpadl(&self) -> u32 {
        let mut state = self.state.lock();
        let gpadl = state.gpadl;
        state.gpadl = gpadl.wrapping_add(1).max(1);
        gpadl
    }

    /// A number for an opening.
    pub(crate) fn next_open_id(&self) -> u32 {
        let mut state = self.state.lock();
        let open_id = state.open_id;
        state.open_id = open_id.wrapping_add(1).max(1);
        open_id
    }

    /// Tells the host which numbers it may use again. What it has no room for stays for later.
    fn give_back(&self) {
        for _ in 0..RELEASES {
            let relid = {
                let mut state = self.state.lock();
                if let Some(relid) = state.offers.releasable() {
                    state.offers.release(relid);
                    self.mark(relid, false);
                    Some(relid)
                } else {
                    state.releases.pop()
                }
            };
            let Some(relid) = relid else {
                return;
            };
            let message = Outgoing::new(&RelIdReleased { relid });
            match self.hv.try_post_message(self.connection, message.bytes()) {
                Ok(()) => {}
                Err(PostError::Busy(_)) => {
                    let _ = self.state.lock().releases.push(relid);
                    return;
                }
                Err(error) => log::warn!("channel {relid} is not given back: {error}"),
            }
        }
    }
}

impl<P: Platform, G: Gate> Bus for VmBus<'_, P, G> {
    type Device = Offer;

    fn poll(&self) -> Result<Option<BusEvent<Offer>>, HostFault> {
        self.pump();
        let (fault, event) = {
            let mut state = self.state.lock();
            (state.fault, state.offers.next_event())
        };
        self.give_back();
        match (event, fault) {
            (Some(event), _) => Ok(Some(event)),
            (None, Some(fault)) => Err(fault),
            (None, None) => Ok(None),
        }
    }
}

impl<P: Platform, G: Gate> Drop for VmBus<'_, P, G> {
    fn drop(&mut self) {
        if let Err(fault) = self.unload() {
            log::warn!("leaving VMBus: {fault}");
        }
    }
}
