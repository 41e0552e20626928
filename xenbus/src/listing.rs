//! The names of a node's children.

use crate::error::StoreError;
use crate::path::Path;
use crate::request::Answer;
use crate::store::Xenstore;
use crate::transaction::Transaction;
use crate::wire::MessageType;
use core::fmt::Write;
use hypercall::shm::{Pages, Span};
use hypercall::{Gate, Platform};

/// Pages for a list that does not fit a message.
const PAGES: usize = 16;
/// Times a list is begun anew because its node changed while it was read.
const RESTARTS: u32 = 8;
/// Bytes of a name at most; longer ones are passed over.
pub const NAME: usize = 64;

/// A child's name.
pub type Name = heapless::String<NAME>;

/// The names of a node's children, in pages of its own.
#[derive(Debug)]
pub struct Listing<P: Platform> {
    pages: Option<Pages<P>>,
    len: usize,
}

/// Copies between shared regions.
fn copy(to: Span<'_>, at: usize, from: Span<'_>, skip: usize) -> Result<usize, StoreError> {
    let len = from.len().saturating_sub(skip);
    let mut done = 0usize;
    let mut chunk = [0; 128];
    while done < len {
        let here = len.saturating_sub(done).min(chunk.len());
        let chunk = chunk.get_mut(..here).unwrap_or_default();
        from.copy_out(skip.saturating_add(done), chunk)?;
        to.copy_in(at.saturating_add(done), chunk)?;
        done = done.saturating_add(here);
    }
    Ok(len)
}

impl<P: Platform> Listing<P> {
    /// A list that came in one message.
    pub(crate) fn whole<G: Gate>(
        platform: &P,
        answer: &Answer<'_, '_, P, G>,
    ) -> Result<Self, StoreError> {
        Self::copied(platform, answer.payload())
    }

    /// No names.
    pub(crate) fn empty() -> Self {
        Self {
            pages: None,
            len: 0,
        }
    }

    pub(crate) fn copied(platform: &P, from: Span<'_>) -> Result<Self, StoreError> {
        if from.is_empty() {
            return Ok(Self::empty());
        }
        let pages = Pages::alloc(platform, 1).map_err(|_| StoreError::OutOfPages)?;
        let len = copy(pages.span(), 0, from, 0)?;
        Ok(Self {
            pages: Some(pages),
            len,
        })
    }

    /// A list that is too long for one message: parts of it, each with the node's generation, so
    /// that a change between two of them shows.
    pub(crate) fn in_parts<G: Gate>(
        store: &Xenstore<'_, P, G>,
        tx: Option<&Transaction>,
        path: Path<'_>,
    ) -> Result<Self, StoreError> {
        let pages = Pages::alloc(store.platform(), PAGES).map_err(|_| StoreError::OutOfPages)?;
        let mut len = 0usize;
        let mut generation = None;
        let mut restarts = 0;
        loop {
            let mut offset = heapless::String::<24>::new();
            // A number and a NUL fit.
            let _ = write!(offset, "{len}\0");
            let answer =
                store.ask_path(MessageType::DIRECTORY_PART, tx, path, offset.as_bytes())?;
            let (now, start) = split_generation(answer.payload())?;
            if *generation.get_or_insert(now) != now {
                restarts = u32::saturating_add(restarts, 1);
                if restarts > RESTARTS {
                    return Err(StoreError::Refused(crate::XsError::Again));
                }
                (len, generation) = (0, None);
                continue;
            }
            let part = copy(pages.span(), len, answer.payload(), start)?;
            len = len.saturating_add(part);
            // The end is an empty name; a part without any names ends the list too.
            if part == 0 || ends(pages.span(), len) {
                break;
            }
        }
        Ok(Self {
            pages: Some(pages),
            len,
        })
    }

    /// The names, in the host's order.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        let span = self.pages.as_ref().map(|pages| pages.span());
        let mut at = 0;
        core::iter::from_fn(move || {
            let span = span?;
            loop {
                if at >= self.len {
                    return None;
                }
                let name = next_name(span, &mut at, self.len);
                if let Some(name) = name.filter(|name| !name.is_empty()) {
                    return Some(name);
                }
            }
        })
    }
}

/// The generation before the first NUL, and where the names start.
fn split_generation(payload: Span<'_>) -> Result<(u64, usize), StoreError> {
    let mut at = 0;
    let name = next_name(payload, &mut at, payload.len()).ok_or(StoreError::BadValue)?;
    let generation = name.parse().map_err(|_| StoreError::BadValue)?;
    Ok((generation, at))
}

/// Whether the last name of a list is an empty one.
fn ends(span: Span<'_>, len: usize) -> bool {
    let nul = |back: usize| {
        len.checked_sub(back)
            .and_then(|at| span.load_u8(at).ok())
            .is_some_and(|byte| byte == 0)
    };
    nul(1) && (len == 1 || nul(2))
}

/// The name at `at`, which moves behind its NUL; `None` for one that is too long or not text.
fn next_name(span: Span<'_>, at: &mut usize, len: usize) -> Option<Name> {
    let mut name = heapless::Vec::<u8, NAME>::new();
    let mut fits = true;
    while *at < len {
        let byte = span.load_u8(*at).ok()?;
        *at = at.saturating_add(1);
        if byte == 0 {
            break;
        }
        fits &= name.push(byte).is_ok();
    }
    if !fits {
        return None;
    }
    heapless::String::from_utf8(name).ok()
}
