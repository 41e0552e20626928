//! The front end of one device: what it reads of its back end, what it publishes, and the states
//! of both.

use crate::bus::XenBus;
use crate::device::Device;
use crate::error::StoreError;
use crate::path::Path;
use crate::request::{Pending, text};
use crate::state::{self, State, Step};
use crate::store::{Request, Xenstore};
use crate::watch::WatchId;
use crate::wire::MessageType;
use core::fmt::{self, Display, Write};
use core::str::FromStr;
use core::sync::atomic::{AtomicU32, Ordering};
use hypercall::platform::{deadline, wait_for};
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform};
use spin::Mutex;

/// Bytes of a back end's path at most.
const PATH: usize = 128;
/// Bytes of a published value at most.
const VALUE: usize = 256;
/// Bytes of a number or another short value.
const SHORT: usize = 32;
/// Values that are on their way at a time while publishing.
const IN_FLIGHT: usize = 8;

/// The back end's state node is not there.
const MISSING: u32 = u32::MAX;
/// It was not read yet.
const UNREAD: u32 = MISSING - 1;

/// A front end. Dropping it ends its watch, and changes nothing else: close it first.
pub struct Frontend<'b, 'h, P: Platform, G: Gate> {
    bus: &'b XenBus<'h, P, G>,
    xen: &'h Xen<P, G>,
    device: Device,
    directory: heapless::String<SHORT>,
    backend: heapless::String<PATH>,
    backend_domid: u16,
    own: AtomicU32,
    back: AtomicU32,
    watch: WatchId,
    /// The read of the back end's state that is in flight.
    reading: Mutex<Option<Pending<'b, 'h, P, G>>>,
    /// The host's news when all of it that concerns this device was last known.
    settled: AtomicU32,
}

impl<P: Platform, G: Gate> fmt::Debug for Frontend<'_, '_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frontend({} to {})", self.device, self.backend)
    }
}

/// Why a front end could not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrontendError {
    /// Xenstore failed.
    Store(StoreError),
    /// The device was unplugged.
    Gone,
    /// The back end did not get where it should in time.
    Stuck {
        /// Where it should be.
        wanted: State,
        /// Where it is.
        found: State,
    },
}

impl Display for FrontendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Gone => f.write_str("the device was unplugged"),
            Self::Stuck { wanted, found } => {
                write!(
                    f,
                    "the back end is {found} and did not become {wanted} in time"
                )
            }
        }
    }
}

impl core::error::Error for FrontendError {}

impl From<StoreError> for FrontendError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<HostFault> for FrontendError {
    fn from(fault: HostFault) -> Self {
        Self::Store(fault.into())
    }
}

/// An absent node is not an error.
fn optional<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(why) if why.is_not_found() => Ok(None),
        Err(why) => Err(why),
    }
}

impl<'b, 'h, P: Platform, G: Gate> Frontend<'b, 'h, P, G> {
    pub(crate) fn new(bus: &'b XenBus<'h, P, G>, device: Device) -> Result<Self, FrontendError> {
        let store = bus.store();
        let mut directory = heapless::String::new();
        write!(directory, "device/{device}").map_err(|_| StoreError::TooLong)?;
        let gone = |why: StoreError| match why.is_not_found() {
            true => FrontendError::Gone,
            false => why.into(),
        };
        let backend: heapless::String<PATH> = store
            .read_str(None, (directory.as_str(), "backend"))
            .map_err(gone)?;
        let domid: heapless::String<SHORT> = store
            .read_str(None, (directory.as_str(), "backend-id"))
            .map_err(gone)?;
        let backend_domid = domid.parse().map_err(|_| StoreError::BadValue)?;
        if !backend.starts_with('/') {
            return Err(StoreError::BadValue.into());
        }
        let own = optional(store.read_str::<SHORT>(None, (directory.as_str(), "state")))?;
        let own = own
            .and_then(|own| own.parse().ok())
            .unwrap_or(State::Unknown);
        let watch = store.watch((backend.as_str(), "state"))?;
        let frontend = Self {
            bus,
            xen: store.xen(),
            device,
            directory,
            backend,
            backend_domid,
            own: AtomicU32::new(own.number()),
            back: AtomicU32::new(UNREAD),
            watch,
            reading: Mutex::new(None),
            // Anything but that: the first look is still to come.
            settled: AtomicU32::new(store.xen().news().wrapping_sub(1)),
        };
        // The watch fires by itself at the start; whether or not it does, look once.
        store.watches().set(watch);
        let until = store.deadline();
        wait_for(store.platform(), until, || match frontend.refresh() {
            Err(why) => Some(Err(why)),
            Ok(()) => (frontend.back.load(Ordering::Acquire) != UNREAD).then_some(Ok(())),
        })
        .map_err(StoreError::from)??;
        Ok(frontend)
    }

    fn store(&self) -> &'b Xenstore<'h, P, G> {
        self.bus.store()
    }

    /// The bus the device is on.
    pub fn bus(&self) -> &'b XenBus<'h, P, G> {
        self.bus
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The domain the back end is in: whom to grant memory to.
    pub fn backend_domid(&self) -> u16 {
        self.backend_domid
    }

    /// The back end's directory.
    pub fn backend_path(&self) -> &str {
        &self.backend
    }

    /// The front end's directory, relative to this domain's.
    pub fn path(&self) -> &str {
        &self.directory
    }

    fn of_backend<'k>(&'k self, key: &'k str) -> Path<'k> {
        Path::from((self.backend.as_str(), key))
    }

    fn of_ours<'k>(&'k self, key: &'k str) -> Path<'k> {
        Path::from((self.directory.as_str(), key))
    }

    /// What the back end says under `key`; `None` when it says nothing.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::BadValue`] when it is not a `T`.
    pub fn read_backend<T: FromStr>(&self, key: &str) -> Result<Option<T>, StoreError> {
        match self.read_backend_str::<64>(key)? {
            Some(text) => match text.trim().parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(StoreError::BadValue),
            },
            None => Ok(None),
        }
    }

    /// The text that the back end says under `key`; `None` when it says nothing.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooLong`] for more than `N` bytes.
    pub fn read_backend_str<const N: usize>(
        &self,
        key: &str,
    ) -> Result<Option<heapless::String<N>>, StoreError> {
        optional(self.store().read_str(None, self.of_backend(key)))
    }

    /// Whether the back end has a feature: the key is there and a number other than 0.
    pub fn feature(&self, name: &str) -> bool {
        matches!(self.read_backend::<u32>(name), Ok(Some(value)) if value != 0)
    }

    /// What stands in this front end's own directory under `key`, such as a `mac` that the tool
    /// stack wrote; `None` when nothing does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read_own_str<const N: usize>(
        &self,
        key: &str,
    ) -> Result<Option<heapless::String<N>>, StoreError> {
        optional(self.store().read_str(None, self.of_ours(key)))
    }

    /// Writes into the front end's directory, all keys in one transaction: the back end sees all
    /// or none.
    ///
    /// # Errors
    /// [`FrontendError`]; [`FrontendError::Gone`] when the directory is no longer there.
    pub fn publish(&self, values: &[(&str, &dyn Display)]) -> Result<(), FrontendError> {
        let store = self.store();
        let written = store.transaction(|tx| {
            // Writing would make the directory anew after an unplug.
            store.read_str::<SHORT>(Some(tx), self.of_ours("state"))?;
            for group in values.chunks(IN_FLIGHT) {
                let until = store.deadline();
                let mut pending = heapless::Vec::<_, IN_FLIGHT>::new();
                for (key, value) in group {
                    let mut text = heapless::String::<VALUE>::new();
                    write!(text, "{value}").map_err(|_| StoreError::TooLong)?;
                    let [directory, slash, leaf] = self.of_ours(key).pieces();
                    let pieces = [directory, slash, leaf, b"\0", text.as_bytes()];
                    let request = Request {
                        kind: MessageType::WRITE,
                        transaction: tx.id(),
                        pieces: &pieces,
                    };
                    // As many as a group has members fit.
                    let _ = pending.push(store.begin(request, until)?);
                }
                for write in pending {
                    write.wait(until)?;
                }
            }
            Ok(())
        });
        written.map_err(|why| self.judge(why))
    }

    fn judge(&self, why: StoreError) -> FrontendError {
        if why.is_not_found() {
            FrontendError::Gone
        } else {
            why.into()
        }
    }

    /// Writes this front end's state, unless its directory is gone.
    ///
    /// # Errors
    /// [`FrontendError`].
    pub fn set_state(&self, state: State) -> Result<(), FrontendError> {
        self.publish(&[("state", &state.number())])?;
        self.own.store(state.number(), Ordering::Release);
        Ok(())
    }

    /// The state that this front end wrote last, or found.
    pub fn own_state(&self) -> State {
        State::from_number(self.own.load(Ordering::Acquire))
    }

    /// Brings what is known of the back end's state up to date, without waiting: after its watch
    /// fired a read is sent, and a later call finds the answer.
    #[inline]
    fn refresh(&self) -> Result<(), StoreError> {
        if self.is_settled() {
            return Ok(());
        }
        self.look()
    }

    /// Whether nothing happened since all that concerns this device was known, and it was not
    /// going then. Costs a few loads.
    #[inline]
    fn is_settled(&self) -> bool {
        self.xen.news() == self.settled.load(Ordering::Acquire)
    }

    #[cold]
    fn look(&self) -> Result<(), StoreError> {
        let store = self.store();
        // Whatever comes from here on is looked at the next time.
        let news = self.xen.news();
        let polled = store.poll();
        // Somebody else who is at it does the same.
        let Some(mut reading) = self.reading.try_lock() else {
            return Ok(());
        };
        let looked = polled
            .map_err(StoreError::from)
            .and_then(|()| self.read_state(&mut reading));
        let settled =
            reading.is_none() && !store.is_unfinished() && !store.watches().is_fired(self.watch);
        if (looked.is_err() || settled) && !self.is_going() {
            self.settled.store(news, Ordering::Release);
        }
        looked
    }

    fn read_state(&self, reading: &mut Option<Pending<'b, 'h, P, G>>) -> Result<(), StoreError> {
        let store = self.store();
        // What fired while a read was in flight is read at once: nothing else would wake whoever
        // waits for it. Twice is enough, for then a read is in flight again.
        for _ in 0..2 {
            if reading.is_none() && store.watches().take(self.watch) {
                *reading = self.ask_state()?;
            }
            let Some(outcome) = reading.as_ref().and_then(Pending::outcome) else {
                return Ok(());
            };
            let state = match optional(outcome) {
                Ok(Some(len)) => reading
                    .as_ref()
                    .and_then(|pending| text::<SHORT>(pending.payload(len)).ok())
                    .and_then(|text| text.parse::<State>().ok())
                    .unwrap_or(State::Unknown)
                    .number(),
                Ok(None) => MISSING,
                Err(why) => {
                    *reading = None;
                    return Err(why);
                }
            };
            *reading = None;
            self.back.store(state, Ordering::Release);
        }
        Ok(())
    }

    /// Sends a read of the back end's state.
    fn ask_state(&self) -> Result<Option<Pending<'b, 'h, P, G>>, StoreError> {
        let [directory, slash, leaf] = self.of_backend("state").pieces();
        let sent = self.store().try_begin(Request {
            kind: MessageType::READ,
            transaction: 0,
            pieces: &[directory, slash, leaf, b"\0"],
        })?;
        if sent.is_none() {
            // No room now; the next call tries again.
            self.store().watches().set(self.watch);
        }
        Ok(sent)
    }

    /// The back end's state as last seen; `None` when it has no state node.
    #[inline]
    fn seen(&self) -> Option<State> {
        match self.back.load(Ordering::Acquire) {
            MISSING => None,
            UNREAD => Some(State::Unknown),
            number => Some(State::from_number(number)),
        }
    }

    /// The back end's state. Costs next to nothing while it does not change: a watch tells. A
    /// change shows within a few calls, when the host has answered what it changed to.
    ///
    /// # Errors
    /// [`FrontendError::Gone`] when the back end is no longer there.
    pub fn backend_state(&self) -> Result<State, FrontendError> {
        self.refresh()?;
        self.seen().ok_or(FrontendError::Gone)
    }

    /// Whether the device is unplugged, or its back end closes. Cheap enough to ask at every
    /// poll of a queue; never waits.
    #[inline]
    pub fn gone(&self) -> bool {
        if self.is_settled() {
            return false;
        }
        // A connection to xenstore that broke tells nothing about the device.
        let _ = self.look();
        self.is_going()
    }

    fn is_going(&self) -> bool {
        matches!(self.seen(), None | Some(State::Closing | State::Closed))
    }

    /// Waits for the back end to reach a state.
    ///
    /// # Errors
    /// [`FrontendError`]; [`FrontendError::Gone`] at once when it goes away or closes instead.
    pub fn wait_backend(&self, wanted: State, timeout: u64) -> Result<(), FrontendError> {
        let platform = self.store().platform();
        let closing = matches!(wanted, State::Closing | State::Closed);
        let waited = wait_for(platform, deadline(platform, timeout), || {
            if let Err(why) = self.refresh() {
                return Some(Err(why.into()));
            }
            match self.seen() {
                Some(state) if state == wanted => Some(Ok(())),
                None => Some(Err(FrontendError::Gone)),
                Some(State::Closing | State::Closed) if !closing => Some(Err(FrontendError::Gone)),
                Some(_) => None,
            }
        });
        waited.unwrap_or_else(|_| Err(self.stuck(wanted)))
    }

    fn stuck(&self, wanted: State) -> FrontendError {
        match self.seen() {
            Some(found) => FrontendError::Stuck { wanted, found },
            None => FrontendError::Gone,
        }
    }

    /// Gets from whatever an earlier owner left (or from nothing) to a fresh start: this end
    /// Initialising, the back end InitWait.
    ///
    /// # Errors
    /// [`FrontendError`].
    pub fn prepare(&self, timeout: u64) -> Result<(), FrontendError> {
        let until = deadline(self.store().platform(), timeout);
        let mut started = false;
        loop {
            let next = |back: Option<State>| {
                let back = back.unwrap_or(State::Unknown);
                state::prepare(self.own_state(), started, back)
            };
            match self.next_step(until, next)? {
                Some(Step::Write(state)) => self.set_state(state)?,
                Some(_) => return Ok(()),
                None => return Err(self.stuck(State::InitWait)),
            }
            started = true;
        }
    }

    /// Closes the connection: afterwards the back end has let go of all memory. The device can be
    /// [prepared](Self::prepare) again.
    ///
    /// # Errors
    /// [`FrontendError`]; the back end may then still use what was lent to it.
    pub fn close(&self, timeout: u64) -> Result<(), FrontendError> {
        let until = deadline(self.store().platform(), timeout);
        loop {
            let next = |back| state::close(self.own_state(), back);
            match self.next_step(until, next)? {
                Some(Step::Write(state)) => match self.set_state(state) {
                    // Unplugged: there is nobody to tell.
                    Err(FrontendError::Gone) => {
                        self.own.store(State::Closed.number(), Ordering::Release);
                        return Ok(());
                    }
                    other => other?,
                },
                Some(_) => return Ok(()),
                None => return Err(self.stuck(State::Closed)),
            }
        }
    }

    /// Waits until `next` has something to do; `None` when the deadline passed first.
    fn next_step(
        &self,
        until: u64,
        next: impl Fn(Option<State>) -> Step,
    ) -> Result<Option<Step>, FrontendError> {
        let step = wait_for(self.store().platform(), until, || {
            if let Err(why) = self.refresh() {
                return Some(Err(why.into()));
            }
            match next(self.seen()) {
                Step::Wait => None,
                step => Some(Ok(step)),
            }
        });
        step.ok().transpose()
    }
}

impl<P: Platform, G: Gate> Drop for Frontend<'_, '_, P, G> {
    fn drop(&mut self) {
        self.store().unwatch(self.watch, self.of_backend("state"));
    }
}
