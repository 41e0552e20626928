//! The VMBus server: version negotiation, offers, GPADLs, opening and closing, rescinding.
//!
//! It knows no SynIC: messages come in by [`VmbusServer::post_message`], signals by
//! [`VmbusServer::signal_event`], and what it wants delivered waits in two queues. So the same server
//! stands behind the simulated SynIC ([`super::machine`]) and behind a real one.
//! Sources: Linux `include/linux/hyperv.h`; OpenVMM `vmbus_server/src/channels.rs` for what is
//! answered to what, and when.

mod control;
mod hypercall;

use super::abi::{Guid, MESSAGE_PAYLOAD, status, version};
use super::channel::{Action, Closing, Device, Open, Turn};
use super::counters::Counters;
use super::gpadl::{GpadlView, Gpadls};
use super::hostile::Hostile;
use crate::memory::GuestMemory;
use crate::rng::Rng;
use std::any::Any;
use std::collections::VecDeque;

/// The SINT every guest uses for VMBus.
pub const VMBUS_SINT: u8 = 2;
/// Where a guest posts its first message, up to version 4.1.
pub const CONNECTION_ID_OLD: u32 = 1;
/// Where a guest posts INITIATE_CONTACT for version 5.0 and newer.
pub const CONNECTION_ID_NEW: u32 = 4;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The newest version this host knows; `abi::version`.
    pub max_version: u32,
    /// Versions it refuses although it knows newer ones.
    pub refused_versions: Vec<u32>,
    /// Connection id for messages after a contact for 5.0 or newer.
    pub message_connection_id: u32,
    /// Features answered for 6.0, as far as the guest asked for them.
    pub features: u32,
    /// Answer VERSION_RESPONSE with its first field only, as some hosts do.
    pub short_version_response: bool,
    /// Set the feature bit of interrupt-driven flow control on rings to the guest.
    pub flow_control: bool,
    /// Guest messages that may wait; one more is refused with INSUFFICIENT_BUFFERS.
    pub message_queue: usize,
    /// So many first HvPostMessage calls fail with this status, although nothing is wrong.
    pub failing_posts: (u32, u16),
    /// Id of the first channel offered.
    pub first_relid: u32,
    /// Choose among possible actions by this seed; `None`: always the first.
    pub shuffle: Option<u64>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            max_version: version::V6_0,
            refused_versions: Vec::new(),
            message_connection_id: 0x8004,
            features: 0,
            short_version_response: false,
            flow_control: true,
            message_queue: 64,
            failing_posts: (0, status::INSUFFICIENT_BUFFERS),
            first_relid: 1,
            shuffle: None,
        }
    }
}

/// A message for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutMessage {
    pub vp: u32,
    pub sint: u8,
    /// At most 240 bytes.
    pub payload: Vec<u8>,
}

/// An event flag for the guest: the channel's relid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutEvent {
    pub vp: u32,
    pub sint: u8,
    pub flag: u32,
}

/// Names a device on the bus, whatever channel id it has at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceId(usize);

/// The index of a rescinded channel whose device has another one by now: only its id is left.
const NO_CHANNEL: u16 = u16::MAX;

/// What the guest knows of a channel.
#[derive(Debug)]
enum State {
    /// Not offered (yet, or any more).
    Hidden,
    Offered,
    Open(Box<Open>),
    /// Rescinded; the id is the guest's until it releases it.
    Rescinded,
}

struct Channel {
    relid: u32,
    /// Offered only after ALL_OFFERS_DELIVERED.
    late: bool,
    state: State,
    /// Which device.
    device: usize,
    /// Which of its channels: 0 is the first, which every device has.
    index: u16,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    version: u32,
    message_id: u32,
    target_vp: u32,
    offers_requested: bool,
}

/// The server and every device on its bus.
pub struct VmbusServer {
    config: ServerConfig,
    connection: Option<Connection>,
    devices: Vec<Box<dyn Device>>,
    channels: Vec<Channel>,
    gpadls: Gpadls,
    inbox: VecDeque<Vec<u8>>,
    messages: VecDeque<OutMessage>,
    events: VecDeque<OutEvent>,
    next_relid: u32,
    chance: Option<Rng>,
    /// What it does wrong.
    pub hostile: Hostile,
    /// What it counted.
    pub counters: Counters,
}

/// One thing the server can do.
enum Step {
    Message,
    Channel(usize, Action),
}

impl VmbusServer {
    /// A server without devices.
    pub fn new(config: ServerConfig) -> Self {
        VmbusServer {
            connection: None,
            devices: Vec::new(),
            channels: Vec::new(),
            gpadls: Gpadls::default(),
            inbox: VecDeque::new(),
            messages: VecDeque::new(),
            events: VecDeque::new(),
            next_relid: config.first_relid,
            chance: config.shuffle.map(Rng::new),
            hostile: Hostile::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// Puts a device on the bus; a guest that has its offers already gets one more.
    pub fn add(&mut self, device: Box<dyn Device>) -> DeviceId {
        self.insert(device, false)
    }

    /// Puts a device on the bus that is offered only after ALL_OFFERS_DELIVERED.
    pub fn add_late(&mut self, device: Box<dyn Device>) -> DeviceId {
        self.insert(device, true)
    }

    fn insert(&mut self, device: Box<dyn Device>, late: bool) -> DeviceId {
        let id = DeviceId(self.devices.len());
        self.devices.push(device);
        self.channels.push(Channel {
            relid: 0,
            late,
            state: State::Hidden,
            device: id.0,
            index: 0,
        });
        if self
            .connection
            .is_some_and(|connection| connection.offers_requested)
        {
            self.offer(self.channels.len() - 1);
        }
        id
    }

    /// Where a device's channel is in `channels`.
    fn place(&self, id: DeviceId, index: u16) -> Option<usize> {
        self.channels
            .iter()
            .position(|channel| channel.device == id.0 && channel.index == index)
    }

    /// The device by its type, to look at or to disturb.
    pub fn device_mut<D: Device>(&mut self, id: DeviceId) -> Option<&mut D> {
        let device: &mut dyn Any = self.devices.get_mut(id.0)?.as_mut();
        device.downcast_mut()
    }

    /// The channel id a device has now, if the guest knows it.
    pub fn relid(&self, id: DeviceId) -> Option<u32> {
        let channel = &self.channels[self.place(id, 0)?];
        (!matches!(channel.state, State::Hidden)).then_some(channel.relid)
    }

    /// Whether the guest has this device's channel open.
    pub fn is_open(&self, id: DeviceId) -> bool {
        self.open_channels(id).any(|index| index == 0)
    }

    /// Which channels of a device the guest has open: 0 is the first.
    pub fn open_channels(&self, id: DeviceId) -> impl Iterator<Item = u16> + '_ {
        let open = move |channel: &&Channel| {
            channel.device == id.0 && matches!(channel.state, State::Open(_))
        };
        self.channels
            .iter()
            .filter(open)
            .map(|channel| channel.index)
    }

    /// Takes a device away from the guest. It stays on the bus, hidden, once the guest lets go.
    pub fn rescind(&mut self, id: DeviceId) {
        if let Some(place) = self.place(id, 0) {
            self.rescind_channel(place);
        }
    }

    /// Offers a device again that is hidden, or that the guest has not let go of yet; under a new
    /// id, in any case.
    pub fn offer_again(&mut self, id: DeviceId) {
        let Some(place) = self.place(id, 0) else {
            return;
        };
        match self.channels[place].state {
            State::Hidden => self.offer(place),
            State::Rescinded => {
                self.channels[place].index = NO_CHANNEL;
                self.channels.push(Channel {
                    relid: 0,
                    late: false,
                    state: State::Hidden,
                    device: id.0,
                    index: 0,
                });
                self.offer(self.channels.len() - 1);
            }
            State::Offered | State::Open(_) => {}
        }
    }

    /// The negotiated version, if the guest is connected.
    pub fn version(&self) -> Option<u32> {
        self.connection.map(|connection| connection.version)
    }

    /// GPADLs the guest has not torn down.
    pub fn gpadls(&self) -> usize {
        self.gpadls.len()
    }

    /// HvPostMessage's effect: takes the message in, or says with which status not.
    pub fn post_message(&mut self, connection: u32, kind: u32, payload: &[u8]) -> u16 {
        let (left, with) = &mut self.config.failing_posts;
        if *left > 0 {
            *left -= 1;
            return *with;
        }
        let own = self.connection.map(|connection| connection.message_id);
        let first_new = connection == CONNECTION_ID_NEW && self.config.max_version >= version::V5_0;
        if own != Some(connection) && connection != CONNECTION_ID_OLD && !first_new {
            return status::INVALID_CONNECTION_ID;
        }
        if kind != 1 || payload.len() > MESSAGE_PAYLOAD {
            return status::INVALID_PARAMETER;
        }
        if self.inbox.len() >= self.config.message_queue {
            return status::INSUFFICIENT_BUFFERS;
        }
        self.counters.messages_in += 1;
        self.inbox.push_back(payload.to_vec());
        status::SUCCESS
    }

    /// The id a guest must use in HvSignalEvent for a channel.
    pub fn connection_id(relid: u32) -> u32 {
        relid | u32::from(VMBUS_SINT) << 12
    }

    /// HvSignalEvent's effect.
    pub fn signal_event(&mut self, connection: u32, flag: u16) -> u16 {
        let known = self.channels.iter_mut().find(|channel| {
            !matches!(channel.state, State::Hidden)
                && Self::connection_id(channel.relid) == connection
        });
        let Some(channel) = known else {
            return status::INVALID_CONNECTION_ID;
        };
        if flag != 0 {
            return status::INVALID_PARAMETER;
        }
        self.counters.signals += 1;
        if let State::Open(open) = &mut channel.state {
            open.signalled();
        }
        status::SUCCESS
    }

    /// Takes the oldest message that waits to be delivered.
    pub fn take_message(&mut self) -> Option<OutMessage> {
        self.messages.pop_front()
    }

    /// Takes the oldest event that waits to be delivered.
    pub fn take_event(&mut self) -> Option<OutEvent> {
        self.events.pop_front()
    }

    /// Does exactly one thing: handles one message, or moves one packet, one I/O or one event
    /// forward. False: there is nothing to do until the guest does something.
    pub fn step(&mut self, memory: &dyn GuestMemory) -> bool {
        let mut possible = Vec::new();
        if !self.inbox.is_empty() {
            possible.push(Step::Message);
        }
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if let State::Open(open) = &mut channel.state {
                open.poll_room(memory);
                let ready = open.ready(self.devices[channel.device].as_ref(), channel.index);
                possible.extend(ready.into_iter().map(|action| Step::Channel(index, action)));
            }
        }
        let chosen = match &mut self.chance {
            Some(rng) => rng.below(possible.len() as u64) as usize,
            None => 0,
        };
        match possible.into_iter().nth(chosen) {
            None => return false,
            Some(Step::Message) => {
                if let Some(message) = self.inbox.pop_front() {
                    self.control(&message, memory);
                }
            }
            Some(Step::Channel(index, action)) => self.channel_step(index, action, memory),
        }
        self.offer_subchannels();
        if self.hostile.take_rescind() {
            (0..self.channels.len()).for_each(|index| {
                if matches!(self.channels[index].state, State::Open(_)) {
                    self.rescind_channel(index);
                }
            });
        }
        true
    }

    fn channel_step(&mut self, index: usize, action: Action, memory: &dyn GuestMemory) {
        // What the guest describes for a device, it describes for the first channel.
        let first = self.place(DeviceId(self.channels[index].device), 0);
        let gpadl_relid = first.map_or(0, |first| self.channels[first].relid);
        let Channel {
            relid,
            state,
            device,
            index,
            ..
        } = &mut self.channels[index];
        let State::Open(open) = state else {
            return;
        };
        let mut turn = Turn {
            channel: *index,
            memory,
            gpadls: GpadlView::new(&self.gpadls, gpadl_relid),
            counters: &mut self.counters,
        };
        let device = self.devices[*device].as_mut();
        if open.act(action, device, &mut turn, &mut self.hostile) {
            self.counters.events += 1;
            let vp = open.target_vp.unwrap_or(0);
            self.events.push_back(OutEvent {
                vp,
                sint: VMBUS_SINT,
                flag: *relid,
            });
        }
    }

    fn rescind_channel(&mut self, index: usize) {
        match self.channels[index].state {
            State::Offered | State::Open(_) => {}
            State::Hidden | State::Rescinded => return,
        }
        if self.channels[index].index == 0 {
            self.rescind_subchannels(self.channels[index].device);
        }
        self.shut(index, State::Rescinded, Closing::Rescinded);
        let relid = self.channels[index].relid;
        self.send(super::abi::message::RESCIND_OFFER, &relid.to_le_bytes());
    }

    fn rescind_subchannels(&mut self, device: usize) {
        for index in 0..self.channels.len() {
            if self.channels[index].device == device && self.channels[index].index != 0 {
                self.rescind_channel(index);
            }
        }
    }

    /// Puts a channel into a state in which it is not open, and tells its device if it was.
    fn shut(&mut self, index: usize, into: State, why: Closing) {
        let channel = &mut self.channels[index];
        if let State::Open(_) = std::mem::replace(&mut channel.state, into) {
            self.devices[channel.device].closed(channel.index, why, &mut self.counters);
        }
    }

    /// Offers the sub-channels that devices want to have by now.
    fn offer_subchannels(&mut self) {
        for device in 0..self.devices.len() {
            let id = DeviceId(device);
            let wanted = self.devices[device].subchannels();
            if wanted == 0 || !self.is_open(id) {
                continue;
            }
            for index in 1..=wanted {
                let there = self.channels.iter().any(|channel| {
                    (channel.device, channel.index) == (device, index)
                        && !matches!(channel.state, State::Rescinded)
                });
                if !there {
                    self.channels.push(Channel {
                        relid: 0,
                        late: false,
                        state: State::Hidden,
                        device,
                        index,
                    });
                    self.offer(self.channels.len() - 1);
                }
            }
        }
    }

    /// The interface and instance of every device, in the order they were added.
    pub fn devices(&self) -> impl Iterator<Item = (Guid, Guid)> + '_ {
        self.devices
            .iter()
            .map(|device| (device.interface(), device.instance()))
    }
}
