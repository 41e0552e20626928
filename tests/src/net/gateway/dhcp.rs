//! The DHCP server: one address, for whoever asks (RFC 2131).

use super::{GUEST, PREFIX, ROUTER};
use smoltcp::socket::udp;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, IpEndpoint,
    Ipv4Address,
};

/// Seconds for which the address is lent.
const LEASE: u32 = 3600;

/// The socket that requests come to.
pub fn socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8 * 1500]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    let bound = socket.bind(DHCP_SERVER_PORT);
    debug_assert!(bound.is_ok());
    socket
}

/// Answers what came.
pub fn serve(socket: &mut udp::Socket<'_>) {
    // Answers go to all: who has no address yet cannot be asked where it is.
    let all = IpEndpoint::new(Ipv4Address::BROADCAST.into(), DHCP_CLIENT_PORT);
    while socket.can_send() {
        let Ok((request, _)) = socket.recv() else {
            return;
        };
        if let Some(answer) = answer(request) {
            let _ = socket.send_slice(&answer, all);
        }
    }
}

/// The answer to a message, if it is one that has an answer.
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(request).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let elsewhere = request
        .server_identifier
        .is_some_and(|server| server != ROUTER);
    let wanted = request.requested_ip.unwrap_or(request.client_ip);
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if elsewhere => return None,
        DhcpMessageType::Request if wanted == GUEST => DhcpMessageType::Ack,
        DhcpMessageType::Request => DhcpMessageType::Nak,
        _ => return None,
    };
    let refused = message_type == DhcpMessageType::Nak;
    let given = |address: Ipv4Address| (!refused).then_some(address);
    let none = Ipv4Address::UNSPECIFIED;
    let repr = DhcpRepr {
        message_type,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: none,
        your_ip: given(GUEST).unwrap_or(none),
        server_ip: ROUTER,
        router: given(ROUTER),
        subnet_mask: given(Ipv4Address::from(u32::MAX << (32 - u32::from(PREFIX)))),
        relay_agent_ip: none,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(ROUTER),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: (!refused).then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).ok()?;
    Some(bytes)
}
