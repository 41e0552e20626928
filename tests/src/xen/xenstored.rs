//! xenstored and the guest's connection to it (`docs/misc/xenstore.txt`): requests, replies,
//! watches, transactions, over the byte rings.

use super::abi::pages::StoreHeader;
use super::abi::store::*;
use super::evtchn::HostPort;
use super::hostile::{Hostile, Plan, StoreMischief};
use super::site::Site;
use super::xenstore_ring::{RingError, StoreRing};
use super::xenstore_tree::{Change, Perm, StoreError, Transaction, Tree, is_below};
use crate::memory::{BadAddress, GuestMemory};
use crate::rng::Rng;
use std::collections::{BTreeMap, VecDeque};
use zerocopy::{FromBytes, IntoBytes};

/// Habits of this xenstored that clients must live with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreHabits {
    /// Write messages to the ring in pieces of seeded size.
    pub partial_writes: bool,
    /// Answer in another order than asked, watch events in between.
    pub reorder: bool,
    /// Fire watches for no reason, now and then.
    pub spurious_watches: bool,
    /// Refuse this many commits with EAGAIN although nothing conflicts.
    pub refuse_commits: u32,
    /// Both rings' indices at the start.
    pub ring_start: u32,
    /// The ring holds what an earlier owner did not read: a watch event and a reply.
    pub stale_replies: bool,
    /// The guest finds its connection being reset, and must wait for that.
    pub starts_reconnecting: bool,
    /// `XENSTORE_SERVER_FEATURE_*` bits.
    pub features: u32,
}

impl Default for StoreHabits {
    /// What Xen 4.20's xenstored does.
    fn default() -> Self {
        StoreHabits {
            partial_writes: false,
            reorder: false,
            spurious_watches: false,
            refuse_commits: 0,
            ring_start: 0,
            stale_replies: false,
            starts_reconnecting: false,
            features: FEATURE_RECONNECTION | FEATURE_ERROR | FEATURE_WATCHDEPTH,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) path: String,
    pub(super) token: String,
    /// Bytes of the domain's own path that events leave out, for a relative watch.
    pub(super) prefix: usize,
    pub(super) depth: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    header: StoreHeader,
    payload: Vec<u8>,
}

/// The daemon, with one guest's connection.
#[derive(Debug)]
pub struct Xenstored {
    pub tree: Tree,
    pub habits: StoreHabits,
    pub(super) guest: u16,
    ring: StoreRing,
    end: HostPort,
    pub(super) watches: Vec<Watch>,
    pub(super) transactions: BTreeMap<u32, Transaction>,
    pub(super) next_transaction: u32,
    input: Vec<u8>,
    queue: VecDeque<Message>,
    sending: Vec<u8>,
    awake: bool,
    notify: bool,
    dead: bool,
    rng: Rng,
    /// Paths that changed, for whoever in the control domain watches.
    changed: Vec<String>,
    /// Requests handled so far.
    pub requests: u64,
}

impl Xenstored {
    /// Serves `guest` over `ring`; `end` is this side of its event channel.
    pub fn new(guest: u16, ring: StoreRing, end: HostPort, habits: StoreHabits, seed: u64) -> Self {
        Xenstored {
            tree: Tree::default(),
            habits,
            guest,
            ring,
            end,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            input: Vec::new(),
            queue: VecDeque::new(),
            sending: Vec::new(),
            awake: false,
            notify: false,
            dead: false,
            rng: Rng::new(seed),
            changed: Vec::new(),
            requests: 0,
        }
    }

    /// Leaves the ring as the habits say a guest finds it.
    pub fn prepare<M: GuestMemory>(&mut self, mem: &M) -> Result<(), BadAddress> {
        if self.habits.stale_replies {
            for (kind, payload) in [(WATCH_EVENT, "device\0old\0"), (READ, "old")] {
                let header = StoreHeader {
                    kind,
                    req_id: u32::from(kind == READ) * 7,
                    tx_id: 0,
                    len: payload.len() as u32,
                };
                // An empty ring has room for both.
                let _ = self.ring.write(mem, &wire(&header, payload.as_bytes()));
            }
        }
        if self.habits.starts_reconnecting {
            self.ring.start_reconnecting(mem)?;
            self.awake = true;
        }
        Ok(())
    }

    /// The guest's domain id.
    pub fn guest(&self) -> u16 {
        self.guest
    }

    /// The guest's own directory.
    pub fn home(&self) -> String {
        format!("/local/domain/{}", self.guest)
    }

    /// Whether the connection was given up because the guest broke the protocol.
    pub fn dead(&self) -> bool {
        self.dead
    }

    /// The control domain writes a node.
    pub fn write(&mut self, path: &str, value: &str) {
        let mut view = self.tree.view(None);
        // The control domain may write anywhere.
        let _ = view.write(0, path, value.as_bytes());
        let changes = view.changes;
        self.fire(&changes);
    }

    /// The control domain sets a node's permissions, as in `["n5", "r0"]`.
    pub fn set_perms(&mut self, path: &str, perms: &[&str]) {
        let perms = perms.iter().filter_map(|text| Perm::parse(text)).collect();
        let mut view = self.tree.view(None);
        let _ = view.set_perms(0, path, perms);
        let changes = view.changes;
        self.fire(&changes);
    }

    /// The control domain removes a node and all below it.
    pub fn remove(&mut self, path: &str) {
        let mut view = self.tree.view(None);
        let _ = view.remove(0, path);
        let changes = view.changes;
        self.fire(&changes);
    }

    /// A node's value as text.
    pub fn read(&self, path: &str) -> Option<String> {
        let node = self.tree.get(path)?;
        Some(String::from_utf8_lossy(&node.value).into_owned())
    }

    /// A node's value as a decimal number.
    pub fn read_number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.read(path)?.trim().parse().ok()
    }

    /// Paths that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.changed)
    }

    /// Watches the guest has set: path and token.
    pub fn watches(&self) -> impl Iterator<Item = (&str, &str)> {
        self.watches
            .iter()
            .map(|watch| (watch.path.as_str(), watch.token.as_str()))
    }

    /// Transactions the guest has open.
    pub fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Fires one of the guest's watches for no reason, if it has any.
    pub fn fire_spuriously(&mut self) {
        let chosen = self.rng.below(self.watches.len() as u64) as usize;
        if let Some(watch) = self.watches.get(chosen).cloned() {
            self.push_event(&watch, &watch.path.clone());
        }
    }

    /// Does one thing: sends an event, writes some bytes, or reads some and handles the request
    /// they complete. False if there is nothing to do.
    pub fn step<M: GuestMemory>(&mut self, site: &mut Site<'_, M>) -> Result<bool, BadAddress> {
        if std::mem::take(&mut self.notify) {
            site.notify(self.end)?;
            return Ok(true);
        }
        let mem = site.mem;
        let hostile = &mut *site.hostile;
        self.awake |= site.events.take_kick(self.end);
        let deaf = hostile
            .store
            .is_some_and(|plan| plan.what == StoreMischief::Deaf);
        if !self.awake || deaf {
            return Ok(false);
        }
        if self.ring.reconnect_asked(mem)? {
            self.reconnect(mem)?;
            return Ok(true);
        }
        if self.dead {
            self.awake = false;
            return Ok(false);
        }
        match self.transfer(mem, hostile) {
            Ok(did) => {
                // Nothing to read and nothing to write: wait for the guest's next event.
                self.awake &= did;
                Ok(did)
            }
            Err(RingError::Memory(bad)) => Err(bad),
            Err(RingError::Index) => {
                self.give_up(mem, ERROR_RINGIDX)?;
                Ok(true)
            }
        }
    }

    fn give_up<M: GuestMemory>(&mut self, mem: &M, error: u32) -> Result<(), BadAddress> {
        if self.habits.features & FEATURE_ERROR != 0 {
            self.ring.report(mem, error)?;
            self.notify = true;
        }
        self.forget();
        self.dead = true;
        Ok(())
    }

    fn forget(&mut self) {
        self.input.clear();
        self.queue.clear();
        self.sending.clear();
        self.watches.clear();
        self.transactions.clear();
    }

    fn reconnect<M: GuestMemory>(&mut self, mem: &M) -> Result<(), BadAddress> {
        self.forget();
        self.dead = false;
        self.notify = true;
        self.ring.reconnect(mem)
    }

    fn transfer<M: GuestMemory>(
        &mut self,
        mem: &M,
        hostile: &mut Hostile,
    ) -> Result<bool, RingError> {
        let out = !(self.queue.is_empty() && self.sending.is_empty());
        let can_write = out && self.ring.writable(mem)? > 0;
        let can_read = self.ring.readable(mem)? > 0;
        match (can_write, can_read) {
            (false, false) => Ok(false),
            (true, true) if self.habits.reorder && self.rng.below(2) == 0 => self.take(mem),
            (true, _) => self.give(mem, hostile),
            (false, true) => self.take(mem),
        }
    }

    fn give<M: GuestMemory>(&mut self, mem: &M, hostile: &mut Hostile) -> Result<bool, RingError> {
        if self.sending.is_empty()
            && let Some(message) = self.choose()
        {
            let bytes = match Plan::strike(&mut hostile.store) {
                Some(StoreMischief::Silent) => Vec::new(),
                Some(StoreMischief::ProducerJump(by)) => {
                    self.ring.jump(mem, by)?;
                    Vec::new()
                }
                Some(mischief) => spoil(&message, mischief),
                None => wire(&message.header, &message.payload),
            };
            self.sending = bytes;
        }
        let piece = match self.habits.partial_writes {
            true => self.rng.between(1, 48) as usize,
            false => usize::MAX,
        };
        let piece = piece.min(self.sending.len());
        let sent = self.ring.write(mem, &self.sending[..piece])?;
        self.sending.drain(..sent);
        self.notify = true;
        Ok(true)
    }

    /// The message to send next: the oldest, or, out of order, a seeded choice in which watch
    /// events keep their order and come after the reply to their WATCH.
    fn choose(&mut self) -> Option<Message> {
        if !self.habits.reorder {
            return self.queue.pop_front();
        }
        let mut chosen = self.rng.below(self.queue.len() as u64) as usize;
        let is = |message: &Message, kind| message.header.kind == kind;
        if is(self.queue.get(chosen)?, WATCH_EVENT) {
            chosen = self
                .queue
                .iter()
                .position(|m| is(m, WATCH) || is(m, WATCH_EVENT))?;
        }
        self.queue.remove(chosen)
    }

    fn take<M: GuestMemory>(&mut self, mem: &M) -> Result<bool, RingError> {
        let header = size_of::<StoreHeader>();
        let wanted = match StoreHeader::read_from_prefix(&self.input) {
            Ok((known, _)) => header + known.len as usize,
            Err(_) => header,
        };
        let missing = (wanted - self.input.len()) as u32;
        self.input.extend(self.ring.read(mem, missing)?);
        self.notify = true;
        let Ok((known, payload)) = StoreHeader::read_from_prefix(&self.input) else {
            return Ok(true);
        };
        if known.len as usize > PAYLOAD_MAX {
            self.give_up(mem, ERROR_PROTO)?;
        } else if payload.len() == known.len as usize {
            let payload = payload.to_vec();
            self.input.clear();
            self.handle(known, &payload);
        }
        Ok(true)
    }

    fn handle(&mut self, header: StoreHeader, payload: &[u8]) {
        self.requests += 1;
        let reply = self.answer(&header, payload);
        let (kind, payload) = match reply {
            Ok(payload) if payload.len() <= PAYLOAD_MAX => (header.kind, payload),
            Ok(_) => (ERROR, nul(StoreError::TooBig.name())),
            Err(error) => (ERROR, nul(error.name())),
        };
        // Events the request caused are in the queue already, before the reply.
        self.queue.push_back(Message {
            header: StoreHeader {
                kind,
                len: payload.len() as u32,
                ..header
            },
            payload,
        });
        if kind == WATCH
            && let Some(watch) = self.watches.last().cloned()
        {
            // A new watch fires once at once.
            self.push_event(&watch, &watch.path.clone());
        }
        if self.habits.spurious_watches && self.rng.below(4) == 0 {
            self.fire_spuriously();
        }
    }

    pub(super) fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            self.changed.push(change.path.clone());
            if !self.visible(change) {
                continue;
            }
            for watch in self.watches.clone() {
                let hit = match change.exact {
                    true => change.path == watch.path,
                    false => is_below(&change.path, &watch.path) && watch.reaches(&change.path),
                };
                if hit {
                    self.push_event(&watch, &change.path);
                }
            }
        }
    }

    /// Whether the guest may learn of a change: it can or could read the node or its parent.
    fn visible(&self, change: &Change) -> bool {
        let above = super::xenstore_tree::parent(&change.path);
        let nodes = [
            self.tree.get(&change.path),
            change.was.as_ref(),
            self.tree.get(above),
        ];
        nodes
            .into_iter()
            .flatten()
            .any(|node| node.allows(self.guest).0)
    }

    fn push_event(&mut self, watch: &Watch, path: &str) {
        let mut payload = nul(path.get(watch.prefix..).unwrap_or_default());
        payload.extend(nul(&watch.token));
        let message = Message {
            header: StoreHeader {
                kind: WATCH_EVENT,
                len: payload.len() as u32,
                ..StoreHeader::default()
            },
            payload,
        };
        self.awake = true;
        // An event that is still waiting to be sent covers the next one like it.
        if !self.queue.contains(&message) {
            self.queue.push_back(message);
        }
    }
}

impl Watch {
    fn reaches(&self, path: &str) -> bool {
        let Some(depth) = self.depth else {
            return true;
        };
        let below = path.get(self.path.len()..).unwrap_or_default();
        below.matches('/').count() <= depth
    }
}

fn spoil(message: &Message, mischief: StoreMischief) -> Vec<u8> {
    let mut header = message.header;
    let mut payload = message.payload.clone();
    match mischief {
        StoreMischief::WrongReqId => header.req_id = header.req_id.wrapping_add(0x1_0001),
        StoreMischief::WrongType => header.kind = header.kind.wrapping_add(40),
        StoreMischief::Length(len) => header.len = len,
        StoreMischief::MissingNul => {
            payload.pop();
            header.len = payload.len() as u32;
        }
        StoreMischief::UnknownToken => {
            header = StoreHeader {
                kind: WATCH_EVENT,
                ..StoreHeader::default()
            };
            payload = [nul("/local"), nul("no-such-token")].concat();
            header.len = payload.len() as u32;
            return [
                wire(&header, &payload),
                wire(&message.header, &message.payload),
            ]
            .concat();
        }
        StoreMischief::NotText => payload.fill(0xfe),
        StoreMischief::Twice => {
            return wire(&header, &payload).repeat(2);
        }
        StoreMischief::Silent | StoreMischief::Deaf | StoreMischief::ProducerJump(_) => {}
    }
    wire(&header, &payload)
}

fn wire(header: &StoreHeader, payload: &[u8]) -> Vec<u8> {
    [header.as_bytes(), payload].concat()
}

/// Text as xenstore sends it, with its terminator.
pub(super) fn nul(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}
