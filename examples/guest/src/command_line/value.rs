//! Numbers, sizes and times.

pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

pub fn ranged(text: &str, least: usize, most: usize) -> Option<usize> {
    let value = usize::try_from(number(text)?).ok()?;
    Some(value).filter(|value| (least..=most).contains(value))
}

/// Seconds, from 1 to `most`.
pub fn seconds(text: &str, most: u64) -> Option<u64> {
    number(text).filter(|value| (1..=most).contains(value))
}

/// Bytes, with an optional `k` or `m` (powers of two).
pub fn size(text: &str) -> Option<usize> {
    let lower = |c: char| c.to_ascii_lowercase();
    let (digits, unit) = match text.chars().next_back().map(lower) {
        Some('k') => (text.get(..text.len().checked_sub(1)?)?, 1_u64 << 10),
        Some('m') => (text.get(..text.len().checked_sub(1)?)?, 1 << 20),
        _ => (text, 1),
    };
    usize::try_from(number(digits)?.checked_mul(unit)?).ok()
}
