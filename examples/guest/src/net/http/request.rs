//! Requests.

use alloc::string::String;
use alloc::vec::Vec;

use super::answer::Status;
use super::range::{self, Asked};

/// Bytes of a request's head at most.
pub const MOST_HEAD: usize = 8192;
/// Bytes of its target at most.
const MOST_TARGET: usize = 2048;
/// Header fields at most.
const MOST_FIELDS: usize = 64;
/// Bytes of empty lines before it at most.
const MOST_BLANK: usize = 64;

/// What is asked to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Send the file.
    Get,
    /// Say what would be sent.
    Head,
    /// Take something.
    Post,
    /// Any other that is known.
    Other,
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked to be done.
    pub method: Method,
    /// To what: the path, decoded, without its first slash and without a query.
    pub path: String,
    /// Whether it is HTTP/1.1, not 1.0.
    pub modern: bool,
    /// Whether the connection is to be kept.
    pub keep: bool,
    /// Which part is asked for.
    pub asked: Asked,
    /// Whether a body follows, which nothing here has a use for.
    pub body: bool,
}

/// What some bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// The beginning of a request, so far.
    Part,
    /// A request, whose head has so many bytes.
    Whole(Request, usize),
    /// Nothing that can be answered with a file. The connection is of no more use.
    Bad(Status),
}

/// Reads a request off the beginning of what came.
pub fn parse(bytes: &[u8]) -> Parsed {
    // An empty line before a request is passed over (RFC 9112, section 2.2).
    let start = blank(bytes);
    if start > MOST_BLANK {
        return Parsed::Bad(Status::BadRequest);
    }
    let rest = bytes.get(start..).unwrap_or_default();
    match whole(rest) {
        Ok(Some((request, length))) => Parsed::Whole(request, start.saturating_add(length)),
        Ok(None) => unfinished(rest, bytes.len()),
        Err(status) => Parsed::Bad(status),
    }
}

/// Whether what came begins a request that wants an answer without a body, be it a bad one.
pub fn wants_no_body(bytes: &[u8]) -> bool {
    let rest = bytes.get(blank(bytes)..).unwrap_or_default();
    rest.starts_with(b"HEAD ")
}

/// Bytes of the empty lines at the beginning.
fn blank(bytes: &[u8]) -> usize {
    let lines = bytes.iter();
    lines
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count()
}

/// What is not all there may already be too much, the `held` bytes with all before it included.
fn unfinished(bytes: &[u8], held: usize) -> Parsed {
    let line = bytes.iter().position(|byte| *byte == b'\n');
    if line.is_none() && bytes.len() > MOST_TARGET.saturating_add(64) {
        return Parsed::Bad(Status::UriTooLong);
    }
    match held >= MOST_HEAD {
        true => Parsed::Bad(Status::FieldsTooLarge),
        false => Parsed::Part,
    }
}

fn whole(bytes: &[u8]) -> Result<Option<(Request, usize)>, Status> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Status::FieldsTooLarge),
        Err(httparse::Error::Version) => return Err(Status::VersionNotSupported),
        Err(_) => return Err(Status::BadRequest),
    };
    if length > MOST_HEAD {
        return Err(Status::FieldsTooLarge);
    }
    let target = request.path.unwrap_or_default();
    if target.len() > MOST_TARGET {
        return Err(Status::UriTooLong);
    }
    let modern = request.version == Some(1);
    let values = |name: &str| {
        let wanted = request.headers.iter();
        wanted
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
            .collect::<Vec<&[u8]>>()
    };
    // RFC 9112, section 3.2: exactly one, but not in the old version.
    match values("host").as_slice() {
        [host] if !host.trim_ascii().contains(&b' ') => {}
        [] if !modern => {}
        _ => return Err(Status::BadRequest),
    }
    let lengths = values("content-length");
    let number = |value: &[u8]| {
        let digits = value.trim_ascii();
        // Of numbers with a sign, which Rust would take, there are none here.
        let plain = digits.iter().all(u8::is_ascii_digit);
        let text = core::str::from_utf8(digits).ok()?;
        text.parse::<u64>().ok().filter(|_| plain)
    };
    let mut body = !values("transfer-encoding").is_empty();
    for value in &lengths {
        body |= number(value).ok_or(Status::BadRequest)? > 0;
    }
    if lengths.len() > 1 {
        return Err(Status::BadRequest);
    }
    let connection = values("connection");
    let says = |token: &str| {
        let mut tokens = connection
            .iter()
            .flat_map(|value| value.split(|b| *b == b','));
        tokens.any(|word| word.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    let keep = match modern {
        true => !says("close"),
        false => says("keep-alive") && !says("close"),
    };
    let method = match request.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" | "DELETE" | "OPTIONS" | "PATCH" | "TRACE" | "CONNECT" => Method::Other,
        _ => return Err(Status::NotImplemented),
    };
    // A part of what may have changed meanwhile is only for who knows what it was, and nobody can.
    let ranges = values("range");
    let asked = match ranges.as_slice() {
        [one] if method == Method::Get && values("if-range").is_empty() => range::asked(one),
        _ => Asked::All,
    };
    let request = Request {
        method,
        path: match method {
            // Their targets need not be paths, and are not looked at.
            Method::Other => String::new(),
            _ => path(target).ok_or(Status::BadRequest)?,
        },
        modern,
        keep: keep && !body,
        asked,
        body,
    };
    Ok(Some((request, length)))
}

/// The path of a target, decoded.
fn path(target: &str) -> Option<String> {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    // The absolute form names the host first.
    let path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    };
    let path = path.strip_prefix('/')?;
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(decoded).ok()
}
