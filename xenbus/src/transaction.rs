//! Transactions: several requests that happen as one, or not at all.

use crate::error::{StoreError, XsError};
use crate::store::Xenstore;
use crate::wire::MessageType;
use hypercall::{Gate, Platform};

/// A transaction, for the requests that belong to it.
#[derive(Debug)]
pub struct Transaction {
    id: u32,
}

impl Transaction {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl<P: Platform, G: Gate> Xenstore<'_, P, G> {
    /// Runs `body` in a transaction, and again while another's changes conflict with it, so
    /// `body` must bear being run several times. When it fails nothing is changed.
    ///
    /// # Errors
    /// What `body` answers, or [`StoreError`] of the transaction itself;
    /// [`XsError::Again`] when it conflicted as often as the configuration allows.
    pub fn transaction<T>(
        &self,
        mut body: impl FnMut(&Transaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let again = StoreError::Refused(XsError::Again);
        for _ in 0..self.config().transaction_attempts.max(1) {
            let transaction = self.start()?;
            match body(&transaction) {
                Ok(value) => match self.end(&transaction, true) {
                    Ok(()) => return Ok(value),
                    Err(why) if why == again => {}
                    Err(why) => return Err(why),
                },
                Err(why) => {
                    // What `body` said counts more than whether giving up worked.
                    let _ = self.end(&transaction, false);
                    if why != again {
                        return Err(why);
                    }
                }
            }
        }
        Err(again)
    }

    fn start(&self) -> Result<Transaction, StoreError> {
        let answer = self.ask(MessageType::TRANSACTION_START, 0, &[b"\0"])?;
        let id = answer.text::<16>()?;
        match id.parse() {
            Ok(id) if id != 0 => Ok(Transaction { id }),
            _ => Err(StoreError::BadValue),
        }
    }

    fn end(&self, transaction: &Transaction, commit: bool) -> Result<(), StoreError> {
        let word: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.ask(MessageType::TRANSACTION_END, transaction.id, &[word])
            .map(drop)
    }
}
