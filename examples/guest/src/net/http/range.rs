//! Ranges: a part of a file instead of all of it (RFC 9110, section 14).

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// All of it, or what is not understood, which comes to the same.
    All,
    /// From a first byte to a last one, if that is given.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

/// What is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    All,
    /// From this byte to that, last one included.
    Bytes(u64, u64),
    /// There is no such part.
    Nothing,
}

/// Reads a `Range` field.
pub fn asked(value: &[u8]) -> Asked {
    understood(value).unwrap_or(Asked::All)
}

fn understood(value: &[u8]) -> Option<Asked> {
    let value = core::str::from_utf8(value).ok()?.trim();
    let (unit, set) = value.split_once('=')?;
    // Of several ranges none is sent: the file is.
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => Some(Asked::Last(number(last)?)),
        (first, "") => Some(Asked::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::From(first, Some(last)))
        }
    }
}

/// The part of a file of `size` bytes that is asked for.
pub fn select(asked: Asked, size: u64) -> Part {
    let Some(end) = size.checked_sub(1) else {
        // Of nothing there is no part but its end, however long: all of it (RFC 9110, section 14.1.2).
        return match asked {
            Asked::All | Asked::Last(1..) => Part::All,
            _ => Part::Nothing,
        };
    };
    match asked {
        Asked::All => Part::All,
        Asked::From(first, _) if first > end => Part::Nothing,
        Asked::From(first, last) => Part::Bytes(first, last.map_or(end, |last| last.min(end))),
        Asked::Last(0) => Part::Nothing,
        Asked::Last(count) => Part::Bytes(size.saturating_sub(count), end),
    }
}
