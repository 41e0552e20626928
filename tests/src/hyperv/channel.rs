//! A VMBus channel from the host's side: a device, and while it is open two rings between it and
//! the guest. One call of [`Open::act`] is one thing the host does.

use super::abi::Guid;
use super::counters::Counters;
use super::gpa::GpaRange;
use super::gpadl::GpadlView;
use super::hostile::{Hostile, Twist};
use super::ring::{Incoming, Outgoing, Packet, RingFault};
use crate::memory::GuestMemory;
use std::any::Any;

/// What a device made of one turn.
#[derive(Debug)]
pub enum Work {
    /// Nothing to do.
    Idle,
    /// Time passed, or something was done that the guest does not see.
    Waited,
    /// A packet for the guest.
    Send(Packet),
}

/// What a device can use while it has its turn on one of its channels.
pub struct Turn<'a> {
    /// Which channel: 0 is the one offered first, the others are its sub-channels.
    pub channel: u16,
    pub memory: &'a dyn GuestMemory,
    /// What the guest described for the first channel.
    pub gpadls: GpadlView<'a>,
    pub counters: &'a mut Counters,
}

/// Why a channel is no longer open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The guest closed it.
    Closed,
    /// The guest took the rings' memory away.
    RingGone,
    /// The host rescinded it.
    Rescinded,
    /// The guest left the bus, or came to it anew.
    Disconnected,
}

/// The host's end of a channel and of its sub-channels.
pub trait Device: Any + Send {
    /// The interface GUID offered: what kind of device this is.
    fn interface(&self) -> Guid;
    /// The instance GUID offered: which of them this is.
    fn instance(&self) -> Guid;
    /// How many sub-channels are to be on offer now, once the first channel is open.
    fn subchannels(&self) -> u16 {
        0
    }
    /// The guest opened a channel: start from the beginning.
    fn opened(&mut self, channel: u16);
    /// A channel is closed or gone: forget what was in flight. Never opened ones are not told of.
    fn closed(&mut self, channel: u16, why: Closing, counters: &mut Counters);
    /// The guest tears a GPADL of the first channel down. `early`: this channel is open, and
    /// in this version of the bus it should not be.
    fn gpadl_gone(&mut self, _gpadl: u32, _early: bool, _counters: &mut Counters) {}
    /// Whether another packet may be taken from a channel's ring now.
    fn accepts_more(&self, channel: u16) -> bool;
    /// A packet from the guest.
    fn packet(&mut self, packet: Packet, turn: &mut Turn<'_>);
    /// Whether `work` would do anything on a channel.
    fn has_work(&self, channel: u16) -> bool;
    /// Does one thing.
    fn work(&mut self, turn: &mut Turn<'_>) -> Work;
}

/// A device of which the guest sees the offer and nothing else: it never answers.
pub struct Silent {
    pub interface: Guid,
    pub instance: Guid,
}

impl Device for Silent {
    fn interface(&self) -> Guid {
        self.interface
    }
    fn instance(&self) -> Guid {
        self.instance
    }
    fn opened(&mut self, _channel: u16) {}
    fn closed(&mut self, _channel: u16, _why: Closing, _counters: &mut Counters) {}
    fn accepts_more(&self, _channel: u16) -> bool {
        true
    }
    fn packet(&mut self, _packet: Packet, _turn: &mut Turn<'_>) {}
    fn has_work(&self, _channel: u16) -> bool {
        false
    }
    fn work(&mut self, _turn: &mut Turn<'_>) -> Work {
        Work::Idle
    }
}

/// The things a host can do on an open channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Set the guest's event flag for what was written before.
    Interrupt,
    /// Write the packet that is ready.
    Write,
    /// Let the device do one thing.
    Work,
    /// Read one packet, or find that there is none.
    Read,
}

/// The rings of an open channel and what the host is about to do with them.
#[derive(Debug)]
pub struct Open {
    /// The GPADL both rings lie in.
    pub ring_gpadl: u32,
    /// Processor to interrupt, if any.
    pub target_vp: Option<u32>,
    incoming: Incoming,
    outgoing: Outgoing,
    flow_control: bool,
    /// The guest signalled and the ring has not been found empty since.
    awake: bool,
    /// Full ring: nothing is written until the guest signals.
    waits_for_room: bool,
    held: Option<(Packet, Option<Twist>)>,
    interrupt: bool,
    broken: bool,
}

impl Open {
    /// Joins the two rings in `range`, the second from page `downstream` on.
    pub fn new(
        memory: &dyn GuestMemory,
        ring_gpadl: u32,
        range: &GpaRange,
        downstream: u32,
        target_vp: Option<u32>,
        flow_control: bool,
    ) -> Result<Self, RingFault> {
        let whole = RingFault::Length("ring GPADL is not whole pages, or too few".into());
        let downstream = downstream as usize;
        if range.offset != 0 || !range.bytes.is_multiple_of(4096) || downstream > range.frames.len()
        {
            return Err(whole);
        }
        let (up, down) = range.frames.split_at(downstream);
        let incoming = Incoming::new(memory, up)?;
        let outgoing = Outgoing::new(memory, down, flow_control)?;
        incoming.mask_signals(memory, false)?;
        Ok(Open {
            ring_gpadl,
            target_vp,
            incoming,
            outgoing,
            flow_control,
            awake: true,
            waits_for_room: false,
            held: None,
            interrupt: false,
            broken: false,
        })
    }

    /// The guest signalled the channel.
    pub fn signalled(&mut self) {
        self.awake = true;
        self.waits_for_room = false;
    }

    /// Whether the guest wrote what was not read yet, and it can be read.
    pub fn has_unread(&self, memory: &dyn GuestMemory) -> bool {
        !self.broken && self.incoming.is_empty(memory) == Ok(false)
    }

    /// Whether a guest's fault stopped this channel for good.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What can be done now.
    pub fn ready(&self, device: &dyn Device, channel: u16) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.interrupt {
            actions.push(Action::Interrupt);
        }
        if self.broken {
            return actions;
        }
        if self.held.is_some() && !self.waits_for_room {
            actions.push(Action::Write);
        }
        if self.awake && device.accepts_more(channel) {
            actions.push(Action::Read);
        }
        if self.held.is_none() && device.has_work(channel) {
            actions.push(Action::Work);
        }
        actions
    }

    /// Does one thing. True if the guest's event flag is to be set now.
    pub fn act(
        &mut self,
        action: Action,
        device: &mut dyn Device,
        turn: &mut Turn<'_>,
        hostile: &mut Hostile,
    ) -> bool {
        let result = match action {
            Action::Interrupt => {
                self.interrupt = false;
                return self.target_vp.is_some();
            }
            Action::Write => self.write(turn.memory, turn.counters),
            Action::Work => {
                if let Work::Send(packet) = device.work(turn) {
                    self.held = Some(hostile.packet(packet));
                }
                Ok(())
            }
            Action::Read => self.read(device, turn),
        };
        if let Err(fault) = result {
            self.broken = true;
            turn.counters.violation(format!("ring: {fault:?}"));
        }
        false
    }

    fn write(
        &mut self,
        memory: &dyn GuestMemory,
        counters: &mut Counters,
    ) -> Result<(), RingFault> {
        let Some((packet, twist)) = self.held.take() else {
            return Ok(());
        };
        let space = Outgoing::space_for(&packet);
        if !self.outgoing.has_room(memory, space)? {
            if self.flow_control {
                self.outgoing.ask_for_room(memory, space)?;
                // The guest may have made room before it could see the wish.
                self.waits_for_room = !self.outgoing.has_room(memory, space)?;
            } else {
                self.waits_for_room = true;
            }
            self.held = Some((packet, twist));
            return Ok(());
        }
        if self.flow_control {
            self.outgoing.ask_for_room(memory, 0)?;
        }
        counters.packets_out += 1;
        self.interrupt |= match twist {
            None => self.outgoing.put(memory, &packet)?,
            Some(Twist::Descriptor { offset8, length8 }) => self
                .outgoing
                .put_raw(memory, &packet, offset8, length8, 0)?,
            Some(Twist::WriteIndex(value)) => {
                self.outgoing.put(memory, &packet)?;
                self.outgoing.spoil_write_index(memory, value)?;
                true
            }
        };
        Ok(())
    }

    fn read(&mut self, device: &mut dyn Device, turn: &mut Turn<'_>) -> Result<(), RingFault> {
        let memory = turn.memory;
        self.incoming.mask_signals(memory, true)?;
        if let Some((packet, wakes)) = self.incoming.take(memory)? {
            turn.counters.packets_in += 1;
            self.interrupt |= wakes;
            device.packet(packet, turn);
            return Ok(());
        }
        self.incoming.mask_signals(memory, false)?;
        // What the guest wrote while it was masked came without a signal.
        self.awake = !self.incoming.is_empty(memory)?;
        Ok(())
    }

    /// A host without flow control looks again by itself.
    pub fn poll_room(&mut self, memory: &dyn GuestMemory) -> bool {
        let Some((packet, _)) = &self.held else {
            return false;
        };
        if self.flow_control || !self.waits_for_room || self.broken {
            return false;
        }
        let space = Outgoing::space_for(packet);
        self.waits_for_room = !self.outgoing.has_room(memory, space).unwrap_or(false);
        !self.waits_for_room
    }
}
