//! The network adapter as RNDIS control messages see it: its state, queries and settings.
//!
//! Source: OpenVMM `netvsp/src/lib.rs` (`handle_oid_query`, `handle_oid_set`) for what is answered.

use super::offload::Offloads;
use super::oid;
use super::rndis::{self, message, status};
use super::rss::{self, Rss};
use crate::hyperv::counters::Counters;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of the packet filter.
pub mod filter {
    pub const DIRECTED: u32 = 0x01;
    pub const MULTICAST: u32 = 0x02;
    pub const ALL_MULTICAST: u32 = 0x04;
    pub const BROADCAST: u32 = 0x08;
    pub const PROMISCUOUS: u32 = 0x20;
}

/// What the hardware is, whatever the guest does to it.
#[derive(Debug, Clone)]
pub struct Hardware {
    pub mac: [u8; 6],
    /// Bytes of the longest frame of the line, Ethernet header included.
    pub max_frame: u32,
    pub offloads: Offloads,
    /// Queue pairs, the first channel's included.
    pub queues: u16,
    /// Bits in a second.
    pub link_speed: u64,
    pub link: bool,
}

/// The adapter.
#[derive(Debug)]
pub struct Miniport {
    pub hardware: Hardware,
    /// As SEND_NDIS_VERSION said.
    pub ndis: (u32, u32),
    /// Bytes of the longest frame the guest wants, Ethernet header included.
    pub frame: u32,
    operational: bool,
    pub filter: u32,
    /// Whether the filter was ever open.
    pub opened: bool,
    pub offloads: Offloads,
    pub rss: Option<Rss>,
    /// The guest was asked this and has to answer.
    asked: Option<u32>,
    /// How often it did.
    pub keepalives: u64,
}

/// LINK_STATE's answer: connected or not, duplex unknown, speeds.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LinkState {
    header: super::offload::ObjectHeader,
    connect_state: u32,
    duplex: u32,
    padding: u32,
    speeds: [u64; 2],
    pause: u32,
    negotiation: u32,
}
const _: () = assert!(size_of::<LinkState>() == 40);

const MEDIA_DISCONNECTED: u32 = 1;
const VLAN_AND_PRIORITY: u32 = 0x240;

impl Miniport {
    pub fn new(hardware: Hardware) -> Self {
        Miniport {
            ndis: (0, 0),
            frame: 1514,
            operational: false,
            filter: 0,
            opened: false,
            offloads: Offloads::default(),
            rss: None,
            asked: None,
            keepalives: 0,
            hardware,
        }
    }

    /// Forgets what the guest set.
    pub fn restart(&mut self) {
        let keepalives = self.keepalives;
        *self = Miniport::new(self.hardware.clone());
        self.keepalives = keepalives;
        // What nobody has set is as the hardware has it.
        self.offloads = self.hardware.offloads;
    }

    /// Whether INITIALIZE was, and HALT was not.
    pub fn is_operational(&self) -> bool {
        self.operational
    }

    /// The number of a question whether the guest lives; `None` when it cannot be asked now.
    pub fn keep_alive(&mut self) -> Option<u32> {
        let free = self.operational && self.asked.is_none();
        // A number of the host's own: the guest's start at 0 or 1.
        self.asked = self
            .asked
            .or(free.then_some(0x6b61_0000 + self.keepalives as u32));
        self.asked.filter(|_| free)
    }

    /// Bytes of the longest frame now, Ethernet header included.
    pub fn longest(&self) -> u32 {
        self.frame.min(self.hardware.max_frame)
    }

    /// Whether a frame passes the filter.
    pub fn wants(&self, bytes: &[u8]) -> bool {
        let Some(to) = bytes.first_chunk::<6>() else {
            return false;
        };
        let kind = match to {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => filter::BROADCAST,
            // Which groups MULTICAST_LIST names is not looked at.
            _ if to[0] & 1 != 0 => filter::MULTICAST | filter::ALL_MULTICAST,
            _ if *to == self.hardware.mac => filter::DIRECTED,
            _ => 0,
        };
        self.operational && self.filter & (kind | filter::PROMISCUOUS) != 0
    }

    /// What a control message is answered.
    pub fn control(&mut self, whole: &[u8], counters: &mut Counters) -> Option<Vec<u8>> {
        let mut complain = |what: String| counters.violation(format!("rndis: {what}"));
        let Ok((header, _)) = rndis::Header::read_from_prefix(whole) else {
            complain("control message without a header".into());
            return None;
        };
        let Some(body) = whole.get(rndis::HEADER..header.length as usize) else {
            complain(format!("length {} of {} bytes", header.length, whole.len()));
            return None;
        };
        let answer = header.kind | message::COMPLETE;
        match header.kind {
            message::INITIALIZE => {
                let Ok((asked, _)) = rndis::Initialize::read_from_prefix(body) else {
                    complain("INITIALIZE cut off".into());
                    return None;
                };
                if self.operational {
                    complain("INITIALIZE twice".into());
                }
                if (asked.major, asked.minor) != (1, 0) {
                    complain(format!("version {}.{}", asked.major, asked.minor));
                }
                self.operational = true;
                const CONNECTIONLESS: u32 = 1;
                let complete = rndis::InitializeComplete {
                    request: asked.request,
                    status: status::SUCCESS,
                    major: 1,
                    minor: 0,
                    device_flags: CONNECTIONLESS,
                    medium: 0,
                    max_packets: super::transmit::MAX_PACKETS as u32,
                    max_transfer: 0xefff_ffff,
                    alignment: 3,
                    af_offset: 0,
                    af_size: 0,
                };
                Some(rndis::build(answer, &complete, &[]))
            }
            message::HALT => {
                self.operational = false;
                self.filter = 0;
                None
            }
            _ if !self.operational => {
                complain(format!("message {} before INITIALIZE", header.kind));
                None
            }
            message::QUERY => {
                let (request, _) = self.request(body, &mut complain)?;
                let asked = request.request;
                let (status, information) = match self.query(request.oid) {
                    Ok(information) => (status::SUCCESS, information),
                    Err(status) => (status, Vec::new()),
                };
                let complete = rndis::QueryComplete {
                    request: asked,
                    status,
                    length: information.len() as u32,
                    offset: size_of::<rndis::QueryComplete>() as u32,
                };
                Some(rndis::build(answer, &complete, &information))
            }
            message::SET => {
                let (request, information) = self.request(body, &mut complain)?;
                let status = self.set(request.oid, information, &mut complain);
                let complete = rndis::Complete {
                    request: request.request,
                    status: status.err().unwrap_or(status::SUCCESS),
                };
                Some(rndis::build(answer, &complete, &[]))
            }
            message::RESET => {
                self.filter = 0;
                let complete = rndis::ResetComplete {
                    status: status::SUCCESS,
                    addressing_reset: 1,
                };
                Some(rndis::build(answer, &complete, &[]))
            }
            message::KEEPALIVE => {
                let request = body.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
                let complete = rndis::Complete {
                    request,
                    status: status::SUCCESS,
                };
                Some(rndis::build(answer, &complete, &[]))
            }
            _ if header.kind == message::KEEPALIVE | message::COMPLETE => {
                let complete = rndis::Complete::read_from_prefix(body).ok();
                let said = complete.map(|(complete, _)| (complete.request, complete.status));
                match self.asked.take() {
                    Some(asked) if said == Some((asked, status::SUCCESS)) => self.keepalives += 1,
                    asked => complain(format!("alive: asked {asked:x?}, answered {said:x?}")),
                }
                None
            }
            other => {
                complain(format!("control message of type {other:#x}"));
                None
            }
        }
    }

    /// A query or set, and the information in it.
    fn request<'a>(
        &self,
        body: &'a [u8],
        complain: &mut impl FnMut(String),
    ) -> Option<(rndis::Request, &'a [u8])> {
        let Ok((request, rest)) = rndis::Request::read_from_prefix(body) else {
            complain("request cut off".into());
            return None;
        };
        // Some hosts look right behind the request, whatever the offset says.
        let behind = size_of::<rndis::Request>() as u32;
        if request.length != 0 && request.offset != behind {
            complain(format!("information at offset {}", request.offset));
        }
        let Some(information) = rest.get(..request.length as usize) else {
            let what = format!("{} bytes of information in {}", request.length, rest.len());
            complain(what);
            return None;
        };
        Some((request, information))
    }

    fn query(&self, oid: u32) -> Result<Vec<u8>, u32> {
        let word = |word: u32| Ok(word.to_le_bytes().to_vec());
        let longest = self.longest();
        match oid {
            oid::SUPPORTED_LIST => {
                let mut list = oid::COMMON.to_vec();
                match self.ndis {
                    (5, _) => {}
                    (6, minor) => {
                        list.extend(oid::NDIS6);
                        list.extend(oid::NDIS6_30.iter().filter(|_| minor >= 30));
                    }
                    _ => return Err(status::BAD_VERSION),
                }
                Ok(list.iter().flat_map(|oid| oid.to_le_bytes()).collect())
            }
            oid::MAXIMUM_LOOKAHEAD | oid::CURRENT_LOOKAHEAD | oid::MAXIMUM_FRAME_SIZE => {
                word(longest - 14)
            }
            oid::MAXIMUM_TOTAL_SIZE | oid::TRANSMIT_BLOCK_SIZE | oid::RECEIVE_BLOCK_SIZE => {
                word(longest)
            }
            // In units of 100 bits a second.
            oid::LINK_SPEED => word((self.hardware.link_speed / 100) as u32),
            oid::TRANSMIT_BUFFER_SPACE | oid::RECEIVE_BUFFER_SPACE => word(256 * 1024),
            oid::VENDOR_ID => word(0x0000_155d),
            oid::VENDOR_DESCRIPTION => Ok(b"pv-drivers tests".to_vec()),
            oid::VENDOR_DRIVER_VERSION | oid::DRIVER_VERSION => Ok(vec![0, 1]),
            oid::CURRENT_PACKET_FILTER => word(self.filter),
            oid::MAC_OPTIONS => word(VLAN_AND_PRIORITY),
            oid::MEDIA_CONNECT_STATUS => word(if self.hardware.link {
                0
            } else {
                MEDIA_DISCONNECTED
            }),
            oid::MAXIMUM_SEND_PACKETS => word(u32::MAX),
            oid::FRIENDLY_NAME => {
                let name = "Network Device".encode_utf16();
                let mut bytes: Vec<u8> = name.flat_map(u16::to_le_bytes).collect();
                bytes.resize(512, 0);
                Ok(bytes)
            }
            oid::PERMANENT_ADDRESS | oid::CURRENT_ADDRESS => Ok(self.hardware.mac.to_vec()),
            oid::HARDWARE_STATUS
            | oid::MEDIA_SUPPORTED
            | oid::MEDIA_IN_USE
            | oid::MAXIMUM_LIST_SIZE
            | oid::RCV_ERROR_ALIGNMENT
            | oid::XMIT_ONE_COLLISION
            | oid::XMIT_MORE_COLLISIONS => word(0),
            oid::LINK_STATE => {
                let mut state = LinkState::read_from_bytes(&[0; 40]).expect("as long as it is");
                state.header.kind = super::offload::object::DEFAULT;
                state.header.revision = 1;
                state.header.size = 40;
                // 1: connected, 2: disconnected.
                state.connect_state = if self.hardware.link { 1 } else { 2 };
                state.speeds = [self.hardware.link_speed; 2];
                Ok(state.as_bytes().to_vec())
            }
            oid::MAX_LINK_SPEED => Ok([self.hardware.link_speed; 2].as_bytes().to_vec()),
            oid::OFFLOAD_HARDWARE_CAPABILITIES => Ok(self.hardware.offloads.object(self.ndis)),
            oid::OFFLOAD_CURRENT_CONFIG => Ok(self.offloads.object(self.ndis)),
            oid::OFFLOAD_ENCAPSULATION => {
                let header = [super::offload::object::OFFLOAD_ENCAPSULATION, 1, 28, 0];
                let words = [1u32, 2, 14, 1, 2, 14];
                Ok([header.as_slice(), words.as_bytes()].concat())
            }
            oid::RECEIVE_SCALE_CAPABILITIES => Ok(rss::capabilities(self.hardware.queues)),
            _ => Err(status::NOT_SUPPORTED),
        }
    }

    fn set(
        &mut self,
        oid: u32,
        information: &[u8],
        complain: &mut impl FnMut(String),
    ) -> Result<(), u32> {
        let word = information.first_chunk().map(|b| u32::from_le_bytes(*b));
        match oid {
            oid::CURRENT_PACKET_FILTER => {
                self.filter = word.ok_or(status::INVALID_LENGTH)?;
                self.opened |= self.filter != 0;
                Ok(())
            }
            oid::OFFLOAD_PARAMETERS => {
                if self.offloads.set(information, self.hardware.offloads) {
                    return Ok(());
                }
                complain("offload parameters that are none".into());
                Err(status::INVALID_DATA)
            }
            oid::RECEIVE_SCALE_PARAMETERS => {
                match Rss::parse(information, self.hardware.queues) {
                    Ok(rss) => self.rss = rss,
                    Err(what) => {
                        complain(format!("receive-side scaling: {what}"));
                        return Err(status::INVALID_DATA);
                    }
                }
                Ok(())
            }
            oid::RNDIS_CONFIG_PARAMETER
            | oid::OFFLOAD_ENCAPSULATION
            | oid::MULTICAST_LIST
            | oid::NETWORK_LAYER_ADDRESSES => Ok(()),
            _ => Err(status::NOT_SUPPORTED),
        }
    }
}
