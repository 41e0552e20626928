//! The bus: which devices there are, and which come and go.

use crate::device::{Device, Kind};
use crate::error::{StoreError, XsError};
use crate::frontend::{Frontend, FrontendError};
use crate::listing::Listing;
use crate::path::Path;
use crate::proto::Ticket;
use crate::store::{Request, Xenstore};
use crate::watch::WatchId;
use crate::wire::MessageType;
use core::fmt;
use hypercall::bus::{Bus, BusEvent};
use hypercall::host::HostError;
use hypercall::platform::{deadline, wait_for};
use hypercall::xen::Xen;
use hypercall::{Gate, HostFault, Platform};
use spin::Mutex;

/// Devices the bus keeps track of.
pub const DEVICES: usize = 64;

/// How many kinds of device there are.
const KINDS: usize = Kind::ALL.len();

/// Where devices are, relative to this domain's directory.
const ROOT: &str = "device";

/// How long to wait for the host, and how often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long a request to xenstore may take, in nanoseconds.
    pub request_timeout: u64,
    /// How often a transaction is run while others conflict with it.
    pub transaction_attempts: u32,
}

impl Default for Config {
    /// Five seconds and 32 attempts: slow hosts answer late.
    fn default() -> Self {
        Self {
            request_timeout: 5_000_000_000,
            transaction_attempts: 32,
        }
    }
}

/// Why there is no bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Xen announces no xenstore to this domain.
    NoStore,
    /// The platform would not map the frame of xenstore's ring.
    NotMapped(u64),
    /// The platform has no pages left.
    OutOfPages,
    /// Xenstore did not answer within this many nanoseconds.
    NoAnswer(u64),
    /// Xen refused something.
    Host(HostError),
    /// Xenstore failed.
    Store(StoreError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStore => f.write_str("Xen announces no xenstore to this domain"),
            Self::NotMapped(gfn) => write!(f, "xenstore's frame {gfn:#x} cannot be mapped"),
            Self::OutOfPages => f.write_str("the platform has no pages for xenstore"),
            Self::NoAnswer(timeout) => {
                write!(
                    f,
                    "xenstore did not answer within {} ms",
                    timeout / 1_000_000
                )
            }
            Self::Host(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<HostError> for ConnectError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl From<StoreError> for ConnectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The Xen bus.
pub struct XenBus<'h, P: Platform, G: Gate> {
    store: Xenstore<'h, P, G>,
    watch: WatchId,
    /// The listings that are in flight.
    asked: Mutex<Asked>,
    table: Mutex<Table>,
}

type Asked = heapless::Vec<(Kind, Ticket), KINDS>;

impl<P: Platform, G: Gate> fmt::Debug for XenBus<'_, P, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XenBus over {:?}", self.store)
    }
}

/// What is known of the devices.
#[derive(Debug, Default)]
struct Table {
    entries: heapless::Vec<Entry, DEVICES>,
    /// Listings of all kinds have come at least once.
    scanned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    device: Device,
    /// The latest listing has it.
    present: bool,
    /// It was offered.
    announced: bool,
}

impl<'h, P: Platform, G: Gate> XenBus<'h, P, G> {
    /// Connects to xenstore and starts to look for devices. One bus at a time.
    ///
    /// # Errors
    /// [`ConnectError`] says what is missing.
    pub fn connect(xen: &'h Xen<P, G>, config: Config) -> Result<Self, ConnectError> {
        let store = Xenstore::connect(xen, config)?;
        let watch = store.watch(ROOT)?;
        store.watches().set(watch);
        Ok(Self {
            store,
            watch,
            asked: Mutex::new(Asked::new()),
            table: Mutex::new(Table::default()),
        })
    }

    /// Xenstore.
    pub fn store(&self) -> &Xenstore<'h, P, G> {
        &self.store
    }

    /// Waits until the devices that are there now are known; [`poll`](Bus::poll) then offers
    /// them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn wait_devices(&self, timeout: u64) -> Result<(), StoreError> {
        let platform = self.store.platform();
        wait_for(platform, deadline(platform, timeout), || {
            match self.scan() {
                Err(why) => Some(Err(why)),
                Ok(()) => self.table.lock().scanned.then_some(Ok(())),
            }
        })?
    }

    /// The front end of a device.
    ///
    /// # Errors
    /// [`FrontendError`].
    pub fn frontend(&self, device: &Device) -> Result<Frontend<'_, 'h, P, G>, FrontendError> {
        Frontend::new(self, *device)
    }

    /// Lists the devices anew when the watch says that something may have changed, as far as
    /// that goes without waiting: requests go out, and a later call finds the answers.
    fn scan(&self) -> Result<(), StoreError> {
        self.store.poll_if_signalled()?;
        // Somebody else who is at it does the same.
        let Some(mut asked) = self.asked.try_lock() else {
            return Ok(());
        };
        // What fired while listings were in flight is listed at once: nothing else would wake
        // whoever waits for it. Twice is enough, for then listings are in flight again.
        for _ in 0..2 {
            if asked.is_empty() {
                if !self.store.watches().take(self.watch) {
                    return Ok(());
                }
                if let Err(why) = self.ask(&mut asked) {
                    self.forget(&mut asked);
                    self.store.watches().set(self.watch);
                    return why.map_or(Ok(()), Err);
                }
            }
            if !self.take_listings(&mut asked)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes note of the listings that were asked for; false while they have not all come.
    fn take_listings(&self, asked: &mut Asked) -> Result<bool, StoreError> {
        let mut outcomes = heapless::Vec::<_, KINDS>::new();
        for (kind, ticket) in asked.iter() {
            match self.store.outcome(*ticket) {
                // There is a place for each kind.
                Some(outcome) => drop(outcomes.push((*kind, *ticket, outcome))),
                None => return Ok(false),
            }
        }
        for (kind, ticket, outcome) in outcomes {
            match self.listing(kind, ticket, outcome) {
                Ok(listing) => self.table.lock().update(kind, &listing),
                Err(StoreError::Fault(fault)) => return Err(fault.into()),
                // One kind that fails does not stop the others.
                Err(why) => log::warn!("listing {ROOT}/{}: {why}", kind.name()),
            }
        }
        self.forget(asked);
        self.table.lock().scanned = true;
        Ok(true)
    }

    /// Asks for the devices of every kind; an error of `None` means that there is no room now.
    fn ask(&self, asked: &mut Asked) -> Result<(), Option<StoreError>> {
        for kind in Kind::ALL {
            let [directory, slash, leaf] = Path::from((ROOT, kind.name())).pieces();
            let request = Request {
                kind: MessageType::DIRECTORY,
                transaction: 0,
                pieces: &[directory, slash, leaf, b"\0"],
            };
            let pending = self.store.try_begin(request)?.ok_or(None)?;
            // There is a place for each kind.
            let _ = asked.push((kind, pending.into_ticket()));
        }
        Ok(())
    }

    fn forget(&self, asked: &mut Asked) {
        for (_, ticket) in asked.iter() {
            self.store.release(*ticket);
        }
        asked.clear();
    }

    fn listing(
        &self,
        kind: Kind,
        ticket: Ticket,
        outcome: Result<usize, StoreError>,
    ) -> Result<Listing<P>, StoreError> {
        match outcome {
            Ok(len) => Listing::copied(self.store.platform(), self.store.answer(ticket, len)),
            // More than a message holds: the rare listing that is waited for.
            Err(StoreError::Refused(XsError::TooBig)) => {
                self.store.directory(None, (ROOT, kind.name()))
            }
            // A kind of which the domain never had a device.
            Err(why) if why.is_not_found() => Ok(Listing::empty()),
            Err(why) => Err(why),
        }
    }
}

impl Table {
    /// Takes note of the devices of one kind.
    fn update<P: Platform>(&mut self, kind: Kind, listing: &Listing<P>) {
        for entry in self.entries.iter_mut().filter(|e| e.device.kind == kind) {
            entry.present = false;
        }
        for name in listing.names() {
            // What is not a number is not a device.
            let Ok(id) = name.parse() else { continue };
            let device = Device { kind, id };
            if let Some(entry) = self.entries.iter_mut().find(|e| e.device == device) {
                entry.present = true;
                continue;
            }
            let entry = Entry {
                device,
                present: true,
                announced: false,
            };
            if self.entries.push(entry).is_err() {
                log::warn!("{device} is one device too many and left alone");
            }
        }
        // What came and went unseen was never there.
        self.entries.retain(|e| e.present || e.announced);
    }

    fn event(&mut self) -> Option<BusEvent<Device>> {
        if let Some(at) = self.entries.iter().position(|e| !e.present) {
            let entry = self.entries.swap_remove(at);
            return Some(BusEvent::Gone(entry.device));
        }
        let entry = self.entries.iter_mut().find(|e| !e.announced)?;
        entry.announced = true;
        Some(BusEvent::Offered(entry.device))
    }
}

impl<P: Platform, G: Gate> Bus for XenBus<'_, P, G> {
    type Device = Device;

    fn poll(&self) -> Result<Option<BusEvent<Device>>, HostFault> {
        match self.scan() {
            Err(StoreError::Fault(fault)) => return Err(fault),
            Err(why) => log::warn!("listing devices: {why}"),
            Ok(()) => {}
        }
        Ok(self.table.lock().event())
    }
}
