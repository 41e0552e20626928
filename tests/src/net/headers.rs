//! Where the headers of a frame are, and the Internet checksum (RFC 791, 1071, 8200, 9293).

/// TCP, as IP's protocol number.
pub const TCP: u8 = 6;
/// UDP, as IP's protocol number.
pub const UDP: u8 = 17;

/// The headers of an unfragmented IP packet, as offsets in bytes from the start of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub ip: usize,
    pub v6: bool,
    pub protocol: u8,
    pub transport: usize,
    /// Where the packet ends, as its IP header says.
    pub end: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_be_bytes([two[0], two[1]])))
}

impl Headers {
    /// Finds them; `None` where there is no unfragmented IP packet. The packet may claim to end
    /// beyond the frame.
    pub fn find(bytes: &[u8]) -> Option<Headers> {
        let mut ip = 14;
        let mut kind = word(bytes, 12)?;
        while matches!(kind, 0x8100 | 0x88a8) {
            kind = word(bytes, ip + 2)?;
            ip += 4;
        }
        match (kind, bytes.get(ip)? >> 4) {
            (0x0800, 4) => Headers::v4(bytes, ip),
            (0x86dd, 6) => Headers::v6(bytes, ip),
            _ => None,
        }
    }

    fn v4(bytes: &[u8], ip: usize) -> Option<Headers> {
        let header = usize::from(bytes[ip] & 15) * 4;
        let fragment = word(bytes, ip + 6)? & 0x3fff != 0;
        (header >= 20 && !fragment).then_some(Headers {
            ip,
            v6: false,
            protocol: *bytes.get(ip + 9)?,
            transport: ip + header,
            end: ip + word(bytes, ip + 2)?,
        })
    }

    fn v6(bytes: &[u8], ip: usize) -> Option<Headers> {
        let mut protocol = *bytes.get(ip + 6)?;
        let mut transport = ip + 40;
        // Hop-by-hop options, routing header, destination options.
        while matches!(protocol, 0 | 43 | 60) {
            protocol = *bytes.get(transport)?;
            transport += (usize::from(*bytes.get(transport + 1)?) + 1) * 8;
        }
        (protocol != 44).then_some(Headers {
            ip,
            v6: true,
            protocol,
            transport,
            end: ip + 40 + word(bytes, ip + 4)?,
        })
    }

    /// Where the transport checksum is; `None` for other transports than TCP and UDP.
    pub fn checksum(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(self.transport + 16),
            UDP => Some(self.transport + 6),
            _ => None,
        }
    }

    /// The sum of the pseudo-header over a transport packet of `len` bytes, not complemented.
    pub fn pseudo(&self, bytes: &[u8], len: usize) -> u16 {
        let addresses = if self.v6 {
            self.ip + 8..self.ip + 40
        } else {
            self.ip + 12..self.ip + 20
        };
        let mut sum = add(0, bytes.get(addresses).unwrap_or(&[]));
        sum = add(sum, &(len as u32).to_be_bytes());
        add(sum, &[0, self.protocol])
    }
}

/// The ones' complement sum of `sum` and `bytes`.
pub fn add(sum: u16, bytes: &[u8]) -> u16 {
    let mut total = u64::from(sum);
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        total += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Whether the transport checksum of a frame is right; `None` where there is none to check: no
/// TCP or UDP, a packet cut off, or UDP over IPv4 without one.
pub fn checksum_is_right(bytes: &[u8]) -> Option<bool> {
    let headers = Headers::find(bytes)?;
    let at = headers.checksum()?;
    let packet = bytes.get(headers.transport..headers.end)?;
    let field = bytes.get(at..at + 2)?;
    if headers.protocol == UDP && !headers.v6 && field == [0, 0] {
        return None;
    }
    Some(add(headers.pseudo(bytes, packet.len()), packet) == 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_odd_length_are_padded() {
        assert_eq!(add(0, &[0x12, 0x34, 0x56]), 0x12_34 + 0x56_00);
        assert_eq!(add(0xffff, &[0, 1]), 1);
    }

    #[test]
    fn short_frames_have_no_headers() {
        let mut frame = vec![0; 14];
        (frame[12], frame[13]) = (8, 0);
        for len in 0..14 {
            assert_eq!(Headers::find(&frame[..len]), None);
        }
        assert_eq!(Headers::find(&frame), None);
        frame.push(0x45);
        assert_eq!(Headers::find(&frame), None);
    }
}
