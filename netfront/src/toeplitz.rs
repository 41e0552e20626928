//! The Toeplitz hash, by which hosts spread flows over queues (NDIS receive-side scaling; Xen's
//! `netif.h`, "Toeplitz hash").

/// Bytes of a key.
pub const KEY_BYTES: usize = 40;

/// The hash of `input` (addresses, then ports, in network order) under `key`. Of an input longer
/// than 36 bytes the rest does not count.
///
/// ```
/// // The first example of "Verifying the RSS Hash Calculation": 66.9.149.187:2794 to
/// // 161.142.100.80:1766.
/// let key = [
///     0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
///     0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
///     0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
/// ];
/// let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
/// assert_eq!(netfront::toeplitz::hash(&key, &input), 0x51cc_c178);
/// ```
pub fn hash(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
    let mut bytes = key.iter();
    let mut window = 0u64;
    for byte in bytes.by_ref().take(8) {
        window = window << 8 | u64::from(*byte);
    }
    let mut hash = 0u32;
    for byte in input.iter().take(36) {
        for bit in 0..8 {
            if byte << bit & 0x80 != 0 {
                hash ^= (window << bit >> 32) as u32;
            }
        }
        window = window << 8 | u64::from(bytes.next().copied().unwrap_or(0));
    }
    hash
}
