//! HTTP/1.1 as a server of files speaks it (RFC 9110, RFC 9112): requests out of bytes, and answers to them.

mod answer;
mod range;
mod request;

pub use answer::{Head, Status, content_type};
pub use range::{Asked, Part, select};
pub use request::{MOST_HEAD, Method, Parsed, Request, parse, wants_no_body};
