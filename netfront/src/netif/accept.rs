//! Whether the interface could send a frame, and as what.

use super::abi::{
    EXTRA_TYPE_GSO, ExtraInfo, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NR_SLOTS_MIN, TXF_CSUM_BLANK,
    TXF_DATA_VALIDATED,
};
use crate::ETHERNET_HEADER;
use crate::capabilities::{Capabilities, Offloads};
use crate::frame::{Body, TxFrame};
use crate::net::SendError;
use crate::offload::{Ip, Protocol, Segmentation, Transport, TxMeta};

/// Bytes of a VLAN tag.
pub const VLAN_TAG: usize = 4;

/// What a frame is on the wire, beside its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Of its first piece.
    pub flags: u16,
    /// What follows that.
    pub extra: Option<ExtraInfo>,
    /// How many pieces it has.
    pub pieces: usize,
}

impl Chain {
    /// Slots of the ring that it takes.
    pub fn slots(&self) -> usize {
        self.pieces.saturating_add(self.extra.is_some().into())
    }
}

/// What was agreed on with the back end.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// What the interface can do.
    pub can: &'a Capabilities,
    /// Whether the back end takes frames of more pieces.
    pub sg: bool,
}

impl Terms<'_> {
    /// What a frame will be on the wire.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub fn accept(&self, frame: &TxFrame) -> Result<Chain, SendError> {
        let mut chain = self.accept_meta(&frame.meta, frame.len())?;
        self.accept_length(frame)?;
        let extras = usize::from(chain.extra.is_some());
        chain.pieces = self.accept_pieces(frame, extras)?;
        Ok(chain)
    }

    fn accept_length(&self, frame: &TxFrame) -> Result<(), SendError> {
        let len = frame.len();
        let plain = usize::from(self.can.mtu).saturating_add(ETHERNET_HEADER);
        let fits = if frame.meta.segmentation.is_some() {
            len <= self.can.max_segmented as usize
        } else {
            len <= plain || (len <= plain.saturating_add(VLAN_TAG) && is_tagged(frame))
        };
        match fits && len >= ETHERNET_HEADER {
            true => Ok(()),
            false => Err(SendError::BadLength),
        }
    }

    /// Counts pieces. Back ends take the Ethernet header from the first one alone.
    fn accept_pieces(&self, frame: &TxFrame, extras: usize) -> Result<usize, SendError> {
        let (first, pieces) = match frame.body() {
            Body::Piece(piece) => (piece.len(), 1),
            Body::Buf(buf) => {
                let mut pieces = buf.segments();
                let first = pieces.next().ok_or(SendError::BadLength)?;
                (first.len, pieces.count().saturating_add(1))
            }
            Body::Section(_) => return Err(SendError::OtherQueue),
        };
        let most = if self.sg { NR_SLOTS_MIN } else { 1 };
        let header = usize::from(frame.headroom()).saturating_add(ETHERNET_HEADER);
        if pieces > most.saturating_sub(extras).max(1) || usize::from(first) < header {
            return Err(SendError::BadLength);
        }
        Ok(pieces)
    }

    fn accept_meta(&self, meta: &TxMeta, len: usize) -> Result<Chain, SendError> {
        let mut chain = Chain {
            flags: 0,
            extra: None,
            pieces: 0,
        };
        if meta.vlan.is_some() {
            return Err(SendError::Unsupported);
        }
        if let Some(transport) = meta.checksum {
            if !self.can.tx.contains(checksum_of(transport)) || !has_checksum(transport, len) {
                return Err(SendError::Unsupported);
            }
            chain.flags = TXF_CSUM_BLANK | TXF_DATA_VALIDATED;
        }
        if let Some(segmentation) = meta.segmentation {
            let Some(transport) = meta.checksum else {
                return Err(SendError::Unsupported);
            };
            chain.extra = Some(self.accept_segmentation(segmentation, transport)?);
        }
        Ok(chain)
    }

    fn accept_segmentation(
        &self,
        segmentation: Segmentation,
        transport: Transport,
    ) -> Result<ExtraInfo, SendError> {
        let (offload, gso_type) = match segmentation.ip {
            Ip::V4 => (Offloads::SEGMENT_V4, GSO_TYPE_TCPV4),
            Ip::V6 => (Offloads::SEGMENT_V6, GSO_TYPE_TCPV6),
        };
        if !self.can.tx.contains(offload)
            || transport.ip != segmentation.ip
            || transport.protocol != Protocol::Tcp
            || segmentation.mss == 0
        {
            return Err(SendError::Unsupported);
        }
        Ok(ExtraInfo {
            r#type: EXTRA_TYPE_GSO,
            flags: 0,
            gso_size: segmentation.mss,
            gso_type,
            pad: 0,
            gso_features: 0,
        })
    }
}

/// The offload that fills in a checksum.
fn checksum_of(transport: Transport) -> Offloads {
    match (transport.ip, transport.protocol) {
        (Ip::V4, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V4,
        (Ip::V4, Protocol::Udp) => Offloads::CHECKSUM_UDP_V4,
        (Ip::V6, Protocol::Tcp) => Offloads::CHECKSUM_TCP_V6,
        (Ip::V6, Protocol::Udp) => Offloads::CHECKSUM_UDP_V6,
    }
}

/// Whether the checksum's field is inside the frame.
fn has_checksum(transport: Transport, len: usize) -> bool {
    let at = usize::from(transport.start)
        .saturating_add(usize::from(transport.protocol.checksum_offset()));
    at.saturating_add(2) <= len
}

/// Whether a VLAN tag is in the frame.
fn is_tagged(frame: &TxFrame) -> bool {
    let mut kind = [0; 2];
    frame.read_at(12, &mut kind).is_ok() && kind == [0x81, 0]
}
