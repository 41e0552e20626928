//! What one does with xenstore's tree: read, write, make, remove, list, watch.

use crate::error::{StoreError, XsError};
use crate::listing::Listing;
use crate::path::Path;
use crate::request::Answer;
use crate::store::{Request, Xenstore};
use crate::transaction::Transaction;
use crate::watch::WatchId;
use crate::wire::MessageType;
use hypercall::{Gate, HostFault, Platform};

impl<'h, P: Platform, G: Gate> Xenstore<'h, P, G> {
    /// Reads a value into `into`; returns its length in bytes.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooLong`] when `into` is too short.
    pub fn read<'p>(
        &self,
        tx: Option<&Transaction>,
        path: impl Into<Path<'p>>,
        into: &mut [u8],
    ) -> Result<usize, StoreError> {
        let answer = self.ask_path(MessageType::READ, tx, path.into(), &[])?;
        let len = answer.len();
        let into = into.get_mut(..len).ok_or(StoreError::TooLong)?;
        answer.payload().copy_out(0, into)?;
        Ok(len)
    }

    /// Reads a value that is text of at most `N` bytes.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::BadValue`] when it is not UTF-8.
    pub fn read_str<'p, const N: usize>(
        &self,
        tx: Option<&Transaction>,
        path: impl Into<Path<'p>>,
    ) -> Result<heapless::String<N>, StoreError> {
        self.ask_path(MessageType::READ, tx, path.into(), &[])?
            .text()
    }

    /// Writes a value, making the node and those above it if need be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write<'p>(
        &self,
        tx: Option<&Transaction>,
        path: impl Into<Path<'p>>,
        value: &[u8],
    ) -> Result<(), StoreError> {
        self.ask_path(MessageType::WRITE, tx, path.into(), value)
            .map(drop)
    }

    /// Makes an empty node, and those above it, if need be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn mkdir<'p>(
        &self,
        tx: Option<&Transaction>,
        path: impl Into<Path<'p>>,
    ) -> Result<(), StoreError> {
        self.ask_path(MessageType::MKDIR, tx, path.into(), &[])
            .map(drop)
    }

    /// Removes a node and everything below it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn rm<'p>(
        &self,
        tx: Option<&Transaction>,
        path: impl Into<Path<'p>>,
    ) -> Result<(), StoreError> {
        self.ask_path(MessageType::RM, tx, path.into(), &[])
            .map(drop)
    }

    /// The names of a node's children, however many.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooLong`] for more than 64 KiB of names.
    pub fn directory<'p>(
        &self,
        tx: Option<&Transaction>,
        path: impl Into<Path<'p>>,
    ) -> Result<Listing<P>, StoreError> {
        let path = path.into();
        match self.ask_path(MessageType::DIRECTORY, tx, path, &[]) {
            Ok(answer) => Listing::whole(self.platform(), &answer),
            Err(StoreError::Refused(XsError::TooBig)) => Listing::in_parts(self, tx, path),
            Err(why) => Err(why),
        }
    }

    /// A request whose payload is a path, a NUL, and more.
    pub(crate) fn ask_path(
        &self,
        kind: MessageType,
        tx: Option<&Transaction>,
        path: Path<'_>,
        more: &[u8],
    ) -> Result<Answer<'_, 'h, P, G>, StoreError> {
        let [directory, slash, leaf] = path.pieces();
        let pieces = [directory, slash, leaf, b"\0", more];
        self.ask(kind, tx.map_or(0, Transaction::id), &pieces)
    }

    /// Watches a path and all below it. The watch fires once at the start.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NoWatch`] when all are taken.
    pub fn watch<'p>(&self, path: impl Into<Path<'p>>) -> Result<WatchId, StoreError> {
        let id = self.watches().begin().ok_or(StoreError::NoWatch)?;
        let [directory, slash, leaf] = path.into().pieces();
        let token = id.token();
        let pieces = [directory, slash, leaf, b"\0", token.as_bytes(), b"\0"];
        match self.ask(MessageType::WATCH, 0, &pieces) {
            Ok(_) => Ok(id),
            Err(why) => {
                self.watches().end(id);
                Err(why)
            }
        }
    }

    /// Whether a watch has fired since this was last asked. Polls first, if there is reason to.
    ///
    /// # Errors
    /// [`HostFault`] once the host broke the protocol.
    pub fn take_watch(&self, id: WatchId) -> Result<bool, HostFault> {
        self.poll_if_signalled()?;
        Ok(self.watches().take(id))
    }

    /// Ends a watch, by the path it was set with. Does not wait for the host: events that are
    /// still on their way find nobody.
    pub fn unwatch<'p>(&self, id: WatchId, path: impl Into<Path<'p>>) {
        let [directory, slash, leaf] = path.into().pieces();
        let token = id.token();
        let pieces = [directory, slash, leaf, b"\0", token.as_bytes(), b"\0"];
        let request = Request {
            kind: MessageType::UNWATCH,
            transaction: 0,
            pieces: &pieces,
        };
        // Where there is no room the host goes on sending events, which are ignored.
        let _ = self.try_begin(request);
        self.watches().end(id);
    }
}
