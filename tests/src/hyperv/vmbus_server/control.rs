//! What the server answers to each control message of the guest.

use super::{Channel, Connection, State, VMBUS_SINT, VmbusServer};
use crate::hyperv::abi::{
    self, GpadlBody, GpadlCreated, GpadlHeader, GpadlTeardown, InitiateContact, MessageHeader,
    ModifyChannel, ModifyChannelResponse, NT_SUCCESS, NT_UNSUCCESSFUL, OfferChannel, OpenChannel,
    OpenResult, VersionResponse, message, version,
};
use crate::hyperv::channel::{Action, Closing, Open};
use crate::memory::GuestMemory;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const NEVER_INTERRUPT: u32 = u32::MAX;

/// The body of a message, of which the sender may have sent more than is known here.
fn body<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}

impl VmbusServer {
    pub(super) fn send(&mut self, kind: u32, body: &[u8]) {
        let header = MessageHeader { kind, padding: 0 };
        let whole = [header.as_bytes(), body].concat();
        let vp = self.connection.map_or(0, |connection| connection.target_vp);
        for payload in self.hostile.message(whole) {
            self.counters.messages_out += 1;
            self.messages.push_back(super::OutMessage {
                vp,
                sint: VMBUS_SINT,
                payload,
            });
        }
    }

    pub(super) fn control(&mut self, bytes: &[u8], memory: &dyn GuestMemory) {
        let Some((header, rest)) = body::<MessageHeader>(bytes) else {
            self.counters.violation("VMBus message without a header");
            return;
        };
        let connected = self.connection.is_some();
        let done = match header.kind {
            message::INITIATE_CONTACT => self.initiate_contact(rest),
            message::UNLOAD => {
                self.disconnect();
                self.send(message::UNLOAD_COMPLETE, &[]);
                // The answer went where the messages went; only now is that forgotten.
                self.connection = None;
                Some(())
            }
            _ if !connected => None,
            message::REQUEST_OFFERS => self.request_offers(),
            message::GPADL_HEADER => self.gpadl_header(rest),
            message::GPADL_BODY => self.gpadl_body(rest),
            message::GPADL_TEARDOWN => self.gpadl_teardown(rest),
            message::OPEN_CHANNEL => self.open_channel(rest, memory),
            message::CLOSE_CHANNEL => self.close_channel(rest, memory),
            message::RELID_RELEASED => self.relid_released(rest),
            message::MODIFY_CHANNEL => self.modify_channel(rest),
            _ => None,
        };
        if done.is_none() {
            let length = bytes.len();
            let what = format!(
                "VMBus message {} of {length} bytes is out of place",
                header.kind
            );
            self.counters.violation(what);
        }
    }

    /// Everything the guest had is gone; no channel is offered.
    fn disconnect(&mut self) {
        // The sub-channels first, as a guest would close them.
        for index in (0..self.channels.len()).rev() {
            self.shut(index, State::Hidden, Closing::Disconnected);
        }
        self.channels.retain(|channel| channel.index == 0);
        self.gpadls.clear();
        self.next_relid = self.config.first_relid;
    }

    fn initiate_contact(&mut self, rest: &[u8]) -> Option<()> {
        // Guests before 3.0 may send a contact that ends earlier, but all known fields are there.
        let (contact, _) = body::<InitiateContact>(rest)?;
        let asked = contact.version;
        self.disconnect();
        let known = version::ALL.contains(&asked)
            && asked <= self.config.max_version
            && !self.config.refused_versions.contains(&asked);
        let wrong_sint = asked >= version::V5_0 && (contact.sint != VMBUS_SINT || contact.vtl != 0);
        if wrong_sint {
            self.counters
                .violation(format!("contact for SINT {}", contact.sint));
        }
        let half_monitored = (contact.monitor_pages[0] == 0) != (contact.monitor_pages[1] == 0);
        if half_monitored {
            self.counters
                .violation("one monitor page without the other");
        }
        let target_vp = if asked >= version::V3_0 {
            contact.target_vp
        } else {
            0
        };
        let message_id = if asked >= version::V5_0 {
            self.config.message_connection_id
        } else {
            1
        };
        let connection = Connection {
            version: asked,
            message_id,
            target_vp,
            offers_requested: false,
        };
        self.connection = Some(connection);
        if !self.hostile.ignores_contact() {
            self.version_response(contact, known && !wrong_sint, half_monitored);
        }
        if !known || wrong_sint || half_monitored {
            self.connection = None;
        }
        Some(())
    }

    fn version_response(&mut self, contact: InitiateContact, known: bool, failed: bool) {
        let mut response = VersionResponse::new_zeroed();
        response.supported = known.into();
        if known {
            response.connection_state = if failed { 2 } else { 0 };
            // Until 4.1 the field shows the version chosen; nothing needs it.
            response.message_connection_id = if contact.version >= version::V5_0 {
                self.config.message_connection_id
            } else {
                contact.version
            };
            response.features = contact.features & self.config.features;
        }
        let size = match () {
            () if self.config.short_version_response => 1,
            () if known && contact.version >= version::V6_0 => 12,
            () => 8,
        };
        let bytes = response.as_bytes()[..size].to_vec();
        self.send(message::VERSION_RESPONSE, &bytes);
    }

    fn request_offers(&mut self) -> Option<()> {
        let connection = self.connection.as_mut().filter(|c| !c.offers_requested)?;
        connection.offers_requested = true;
        let offer_all = |server: &mut Self, late: bool| {
            for index in 0..server.channels.len() {
                if server.channels[index].late == late {
                    server.offer(index);
                }
            }
        };
        offer_all(self, false);
        self.send(message::ALL_OFFERS_DELIVERED, &[]);
        offer_all(self, true);
        Some(())
    }

    pub(super) fn offer(&mut self, index: usize) {
        let relid = self.next_relid;
        self.next_relid += 1;
        let channel = &mut self.channels[index];
        channel.relid = relid;
        channel.state = State::Offered;
        let mut offer = OfferChannel::new_zeroed();
        let device = &self.devices[channel.device];
        offer.interface = device.interface();
        offer.instance = device.instance();
        offer.subchannel_index = channel.index;
        // Only a first channel has an interface for users.
        offer.flags = u16::from(channel.index == 0);
        offer.relid = relid;
        offer.monitor_id = 0xff;
        offer.is_dedicated = 1;
        offer.connection_id = Self::connection_id(relid);
        self.send(message::OFFER_CHANNEL, offer.as_bytes());
    }

    /// Where the channel is that a guest may speak of by this id.
    fn place_of(&self, relid: u32) -> Option<usize> {
        let known =
            |channel: &Channel| channel.relid == relid && !matches!(channel.state, State::Hidden);
        self.channels.iter().position(known)
    }

    /// The channel a guest may speak of by this id.
    fn by_relid(&mut self, relid: u32) -> Option<&mut Channel> {
        self.place_of(relid).map(|place| &mut self.channels[place])
    }

    fn gpadl_header(&mut self, rest: &[u8]) -> Option<()> {
        let (header, words) = body::<GpadlHeader>(rest)?;
        let GpadlHeader {
            relid,
            gpadl,
            range_bytes,
            range_count,
        } = header;
        let known = self.by_relid(relid).is_some();
        let result = self
            .gpadls
            .header(relid, gpadl, range_bytes, range_count, words);
        match result {
            Ok(false) if known => Some(()),
            Ok(true) if known => self.gpadl_created(relid, gpadl, NT_SUCCESS),
            Ok(_) => {
                self.gpadls.tear_down(relid, gpadl);
                self.counters
                    .violation(format!("GPADL for unknown channel {relid}"));
                self.gpadl_created(relid, gpadl, NT_UNSUCCESSFUL)
            }
            Err(error) => {
                self.counters
                    .violation(format!("GPADL {gpadl:#x}: {error:?}"));
                self.gpadl_created(relid, gpadl, NT_UNSUCCESSFUL)
            }
        }
    }

    fn gpadl_body(&mut self, rest: &[u8]) -> Option<()> {
        let (header, words) = body::<GpadlBody>(rest)?;
        let gpadl = header.gpadl;
        let relid = self.gpadls.relid(gpadl)?;
        match self.gpadls.body(gpadl, words) {
            Ok(false) => Some(()),
            Ok(true) => self.gpadl_created(relid, gpadl, NT_SUCCESS),
            Err(error) => {
                self.counters
                    .violation(format!("GPADL {gpadl:#x}: {error:?}"));
                self.gpadl_created(relid, gpadl, NT_UNSUCCESSFUL)
            }
        }
    }

    fn gpadl_created(&mut self, relid: u32, gpadl: u32, status: u32) -> Option<()> {
        let created = GpadlCreated {
            relid,
            gpadl,
            status,
        };
        self.send(message::GPADL_CREATED, created.as_bytes());
        Some(())
    }

    fn gpadl_teardown(&mut self, rest: &[u8]) -> Option<()> {
        let (GpadlTeardown { relid, gpadl }, _) = body::<GpadlTeardown>(rest)?;
        let place = self.place_of(relid);
        match place.map(|place| (place, &self.channels[place].state)) {
            Some((place, State::Open(open))) if open.ring_gpadl == gpadl => {
                self.shut(place, State::Offered, Closing::RingGone);
                self.counters
                    .violation("ring GPADL torn down under an open channel");
            }
            Some((place, state)) if self.gpadls.relid(gpadl) == Some(relid) => {
                let open = matches!(state, State::Open(_));
                let late = self.connection.is_some_and(|c| c.version >= version::V4_0);
                let device = &mut self.devices[self.channels[place].device];
                device.gpadl_gone(gpadl, open && late, &mut self.counters);
            }
            _ => {}
        }
        if !self.gpadls.tear_down(relid, gpadl) {
            self.counters
                .violation(format!("teardown of unknown GPADL {gpadl:#x}"));
        }
        self.send(message::GPADL_TORNDOWN, &gpadl.to_le_bytes());
        Some(())
    }

    fn open_channel(&mut self, rest: &[u8], memory: &dyn GuestMemory) -> Option<()> {
        let (request, _) = body::<OpenChannel>(rest)?;
        let target_vp = Some(request.target_vp).filter(|&vp| vp != NEVER_INTERRUPT);
        let flow_control = self.config.flow_control;
        let ranges = self
            .gpadls
            .ranges(request.relid, request.ring_gpadl)
            .map(<[_]>::to_vec);
        let place = self.place_of(request.relid)?;
        let channel = &mut self.channels[place];
        let status = match (&channel.state, ranges.as_deref()) {
            // A guest that opens what was just rescinded gets no answer; the rescind is on its way.
            (State::Rescinded, _) => return Some(()),
            (State::Offered, Some([range])) => {
                let (gpadl, down) = (request.ring_gpadl, request.downstream_page);
                match Open::new(memory, gpadl, range, down, target_vp, flow_control) {
                    Ok(open) => {
                        self.devices[channel.device].opened(channel.index);
                        channel.state = State::Open(Box::new(open));
                        Ok(())
                    }
                    Err(fault) => Err(format!("open with bad rings: {fault:?}")),
                }
            }
            (State::Offered, _) => Err("open without a ring GPADL of one range".to_string()),
            _ => Err("open of an open channel".to_string()),
        };
        let mut result = OpenResult {
            relid: request.relid,
            open_id: request.open_id,
            status: abi::NT_SUCCESS,
        };
        if let Err(what) = status {
            self.counters.violation(what);
            result.status = NT_UNSUCCESSFUL;
        }
        self.send(message::OPEN_RESULT, result.as_bytes());
        Some(())
    }

    fn close_channel(&mut self, rest: &[u8], memory: &dyn GuestMemory) -> Option<()> {
        let (relid, _) = body::<u32>(rest)?;
        let place = self.place_of(relid)?;
        match self.channels[place].state {
            State::Open(_) => {
                self.read_out(place, memory);
                self.close_device(place);
                Some(())
            }
            // The close and the rescind crossed.
            State::Rescinded => Some(()),
            State::Offered | State::Hidden => None,
        }
    }

    /// What the guest wrote before it closed a channel is read before it is closed.
    fn read_out(&mut self, place: usize, memory: &dyn GuestMemory) {
        while let State::Open(open) = &self.channels[place].state
            && open.has_unread(memory)
        {
            self.channel_step(place, Action::Read, memory);
        }
    }

    /// A guest closes the sub-channels before the first channel, with which they go away.
    fn close_device(&mut self, place: usize) {
        let Channel { device, index, .. } = self.channels[place];
        if index == 0 {
            let open = |c: &Channel| {
                c.device == device && c.index != 0 && matches!(c.state, State::Open(_))
            };
            if self.channels.iter().any(open) {
                self.counters
                    .violation("a channel closed before its sub-channels");
            }
            self.rescind_subchannels(device);
        }
        self.shut(place, State::Offered, Closing::Closed);
    }

    fn relid_released(&mut self, rest: &[u8]) -> Option<()> {
        let (relid, _) = body::<u32>(rest)?;
        let place = self.place_of(relid)?;
        let channel = &mut self.channels[place];
        if !matches!(channel.state, State::Rescinded) {
            return None;
        }
        channel.state = State::Hidden;
        if channel.index != 0 {
            self.channels.remove(place);
        }
        // After a rescind guests may leave out the teardown of what the channel had.
        self.gpadls.release(relid);
        Some(())
    }

    fn modify_channel(&mut self, rest: &[u8]) -> Option<()> {
        let (ModifyChannel { relid, target_vp }, _) = body::<ModifyChannel>(rest)?;
        let negotiated = self.connection?.version;
        let channel = self.by_relid(relid)?;
        let State::Open(open) = &mut channel.state else {
            return None;
        };
        open.target_vp = Some(target_vp).filter(|&vp| vp != NEVER_INTERRUPT);
        if negotiated >= version::V5_3 {
            let response = ModifyChannelResponse {
                relid,
                status: NT_SUCCESS,
            };
            self.send(message::MODIFY_CHANNEL_RESPONSE, response.as_bytes());
        }
        Some(())
    }
}
