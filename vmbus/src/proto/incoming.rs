//! Messages from the host, taken apart.

use crate::abi::message::{
    GpadlCreated, GpadlTorndown, Header, Kind, OfferChannel, OpenResult, RescindChannelOffer,
    VersionResponse,
};
use hypercall::HostFault;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A message from the host.
#[derive(Debug, Clone, Copy)]
pub enum Incoming {
    /// Here is a channel.
    Offer(OfferChannel),
    /// A channel is going.
    Rescind(RescindChannelOffer),
    /// All channels that were there at the start have been offered.
    AllOffersDelivered,
    /// How opening went.
    OpenResult(OpenResult),
    /// How making a GPADL went.
    GpadlCreated(GpadlCreated),
    /// A GPADL is no more.
    GpadlTorndown(GpadlTorndown),
    /// Whether the host speaks a version.
    VersionResponse(VersionResponse),
    /// The host has said good-bye too.
    UnloadComplete,
    /// Something this library did not ask for.
    Other(Kind),
}

impl Incoming {
    /// Takes a message apart.
    ///
    /// # Errors
    /// [`HostFault::Malformed`] when it is shorter than what it must hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, HostFault> {
        let (header, body) = Header::read_from_prefix(bytes).map_err(|_| HostFault::Malformed)?;
        Ok(match header.kind {
            Kind::OFFER_CHANNEL => Self::Offer(read(body)?),
            Kind::RESCIND_CHANNEL_OFFER => Self::Rescind(read(body)?),
            Kind::ALL_OFFERS_DELIVERED => Self::AllOffersDelivered,
            Kind::OPEN_CHANNEL_RESULT => Self::OpenResult(read(body)?),
            Kind::GPADL_CREATED => Self::GpadlCreated(read(body)?),
            Kind::GPADL_TORNDOWN => Self::GpadlTorndown(read(body)?),
            Kind::VERSION_RESPONSE => Self::VersionResponse(read_short(body)),
            Kind::UNLOAD_COMPLETE => Self::UnloadComplete,
            other => Self::Other(other),
        })
    }
}

fn read<T: FromBytes>(body: &[u8]) -> Result<T, HostFault> {
    T::read_from_prefix(body)
        .map(|(record, _)| record)
        .map_err(|_| HostFault::Malformed)
}

/// Reads a structure of which the host may have left fields out; they are zero then.
fn read_short<T: FromBytes + FromZeros + IntoBytes>(body: &[u8]) -> T {
    let mut record = T::new_zeroed();
    for (to, from) in record.as_mut_bytes().iter_mut().zip(body) {
        *to = *from;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::outgoing::Outgoing;

    #[test]
    fn messages_are_told_apart() {
        let sent = Outgoing::new(&RescindChannelOffer { relid: 7 });
        let got = Incoming::parse(sent.bytes()).unwrap();
        assert!(matches!(got, Incoming::Rescind(r) if r.relid == 7));
        assert!(matches!(
            Incoming::parse(&[24, 0, 0, 0, 0, 0, 0, 0]),
            Ok(Incoming::Other(Kind(24)))
        ));
    }

    #[test]
    fn short_messages_are_faults() {
        let sent = Outgoing::new(&RescindChannelOffer { relid: 7 });
        let short = Incoming::parse(&sent.bytes()[..11]).map(|_| ());
        assert_eq!(short, Err(HostFault::Malformed));
        assert_eq!(
            Incoming::parse(&[1, 0, 0]).map(|_| ()),
            Err(HostFault::Malformed)
        );
    }

    /// QEMU's bridge sends ten bytes.
    #[test]
    fn a_version_response_may_be_short() {
        let got = Incoming::parse(&[15, 0, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap();
        let Incoming::VersionResponse(response) = got else {
            panic!("{got:?}");
        };
        assert_eq!((response.supported, response.connection), (1, 0));
    }
}
