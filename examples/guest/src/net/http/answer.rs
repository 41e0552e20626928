//! Answers.

use alloc::string::String;
use core::fmt::Write;

/// How a request is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// All is well.
    Ok,
    /// A part of the file.
    PartialContent,
    /// The request makes no sense.
    BadRequest,
    /// There is no such file.
    NotFound,
    /// Files can only be read.
    MethodNotAllowed,
    /// The rest of the request did not come.
    RequestTimeout,
    /// The request's target is too long.
    UriTooLong,
    /// The file has no such part.
    RangeNotSatisfiable,
    /// The request's head is too long.
    FieldsTooLarge,
    /// The disk failed.
    InternalError,
    /// Nobody here knows such a method.
    NotImplemented,
    /// Another version of HTTP.
    VersionNotSupported,
}

impl Status {
    /// The code and the reason.
    pub fn line(self) -> (u16, &'static str) {
        match self {
            Self::Ok => (200, "OK"),
            Self::PartialContent => (206, "Partial Content"),
            Self::BadRequest => (400, "Bad Request"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed => (405, "Method Not Allowed"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::UriTooLong => (414, "URI Too Long"),
            Self::RangeNotSatisfiable => (416, "Range Not Satisfiable"),
            Self::FieldsTooLarge => (431, "Request Header Fields Too Large"),
            Self::InternalError => (500, "Internal Server Error"),
            Self::NotImplemented => (501, "Not Implemented"),
            Self::VersionNotSupported => (505, "HTTP Version Not Supported"),
        }
    }

    /// Whether it is an error's.
    pub fn is_error(self) -> bool {
        self.line().0 >= 400
    }
}

/// The head of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<'a> {
    /// How the request is answered.
    pub status: Status,
    /// Bytes of the body.
    pub length: u64,
    /// What the body is.
    pub kind: &'a str,
    /// The bytes of the body within the whole, and the size of that; or that size alone.
    pub range: Option<(Option<(u64, u64)>, u64)>,
    /// Whether the connection is kept.
    pub keep: bool,
    /// Whether the client must be told that it is kept.
    pub say_keep: bool,
    /// Whether parts of it can be asked for.
    pub ranges: bool,
}

impl Head<'_> {
    /// The head of an answer without ranges.
    pub fn plain(status: Status, length: u64, kind: &str, keep: bool) -> Head<'_> {
        Head {
            status,
            length,
            kind,
            range: None,
            keep,
            say_keep: false,
            ranges: false,
        }
    }

    /// It as it is sent.
    pub fn text(&self) -> String {
        let (code, reason) = self.status.line();
        let mut text = String::with_capacity(256);
        let _ = write!(text, "HTTP/1.1 {code} {reason}\r\nServer: pv-drivers\r\n");
        let _ = write!(
            text,
            "Content-Type: {}\r\nContent-Length: {}\r\n",
            self.kind, self.length
        );
        if self.ranges {
            text.push_str("Accept-Ranges: bytes\r\n");
        }
        match self.range {
            Some((Some((first, last)), size)) => {
                let _ = write!(text, "Content-Range: bytes {first}-{last}/{size}\r\n");
            }
            Some((None, size)) => {
                let _ = write!(text, "Content-Range: bytes */{size}\r\n");
            }
            None => {}
        }
        if self.status == Status::MethodNotAllowed {
            text.push_str("Allow: GET, HEAD\r\n");
        }
        if !self.keep {
            text.push_str("Connection: close\r\n");
        } else if self.say_keep {
            text.push_str("Connection: keep-alive\r\n");
        }
        text.push_str("\r\n");
        text
    }
}

/// What a file is, by its name.
pub fn content_type(path: &str) -> &'static str {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    let known = [
        ("cfg", "text/plain; charset=utf-8"),
        ("htm", "text/html; charset=utf-8"),
        ("html", "text/html; charset=utf-8"),
        ("json", "application/json"),
        ("md", "text/plain; charset=utf-8"),
        ("txt", "text/plain; charset=utf-8"),
    ];
    let found = known
        .iter()
        .find(|(known, _)| extension.eq_ignore_ascii_case(known));
    found.map_or("application/octet-stream", |(_, kind)| kind)
}
