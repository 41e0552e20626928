//! Answers that somebody waits for. Whoever takes a message off files its answer here.

use super::incoming::Incoming;
use crate::abi::message::VersionResponse;
use heapless::Vec;

/// How many answers can be waited for at a time.
pub const AWAITED: usize = 16;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Does the host speak this version?
    Version,
    /// Has a channel opened?
    Open {
        /// Which channel.
        relid: u32,
        /// Which of its openings.
        open_id: u32,
    },
    /// Is there a GPADL of this number?
    Created {
        /// For which channel.
        relid: u32,
        /// Which GPADL.
        gpadl: u32,
    },
    /// Is there none any more?
    Torndown {
        /// Which GPADL.
        gpadl: u32,
    },
    /// Has the host said good-bye?
    Unload,
}

/// What came.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    /// A version response.
    Version(VersionResponse),
    /// 0 or the host's reason why not.
    Status(u32),
}

/// Questions, and the replies that came.
#[derive(Debug, Default)]
pub struct Awaited {
    entries: Vec<(Question, Option<Reply>), AWAITED>,
}

impl Awaited {
    /// Nothing asked.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Notes a question, before it is sent. False when there are too many.
    #[must_use]
    pub fn ask(&mut self, question: Question) -> bool {
        self.entries.push((question, None)).is_ok()
    }

    /// Takes the reply to a question, which is forgotten then.
    pub fn take(&mut self, question: Question) -> Option<Reply> {
        let at = self
            .entries
            .iter()
            .position(|(q, reply)| *q == question && reply.is_some())?;
        self.entries.swap_remove(at).1
    }

    /// Forgets a question. A reply that still comes means nothing.
    pub fn forget(&mut self, question: Question) {
        self.entries.retain(|(q, _)| *q != question);
    }

    /// Files a message that answers something. False when nobody asked.
    pub fn file(&mut self, message: &Incoming) -> bool {
        let (question, reply) = match *message {
            Incoming::VersionResponse(response) => (Question::Version, Reply::Version(response)),
            Incoming::OpenResult(result) => (
                Question::Open {
                    relid: result.relid,
                    open_id: result.open_id,
                },
                Reply::Status(result.status),
            ),
            Incoming::GpadlCreated(created) => (
                Question::Created {
                    relid: created.relid,
                    gpadl: created.gpadl,
                },
                Reply::Status(created.status),
            ),
            Incoming::GpadlTorndown(torndown) => (
                Question::Torndown {
                    gpadl: torndown.gpadl,
                },
                Reply::Status(0),
            ),
            Incoming::UnloadComplete => (Question::Unload, Reply::Status(0)),
            Incoming::Offer(_)
            | Incoming::Rescind(_)
            | Incoming::AllOffersDelivered
            | Incoming::Other(_) => return false,
        };
        // The first reply counts.
        let entry = self
            .entries
            .iter_mut()
            .find(|(q, known)| *q == question && known.is_none());
        entry.map(|(_, place)| *place = Some(reply)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::message::{GpadlCreated, GpadlTorndown, OpenResult};

    #[test]
    fn replies_find_their_questions() {
        let mut awaited = Awaited::new();
        let open = Question::Open {
            relid: 1,
            open_id: 9,
        };
        let gone = Question::Torndown { gpadl: 4 };
        assert!(awaited.ask(open) && awaited.ask(gone));
        let stale = OpenResult {
            relid: 1,
            open_id: 8,
            status: 0,
        };
        assert!(!awaited.file(&Incoming::OpenResult(stale)));
        assert!(awaited.file(&Incoming::GpadlTorndown(GpadlTorndown { gpadl: 4 })));
        // Said twice, it counts once.
        assert!(!awaited.file(&Incoming::GpadlTorndown(GpadlTorndown { gpadl: 4 })));
        assert!(awaited.take(open).is_none());
        assert!(matches!(awaited.take(gone), Some(Reply::Status(0))));
        assert!(awaited.take(gone).is_none());
        let result = OpenResult {
            relid: 1,
            open_id: 9,
            status: 5,
        };
        assert!(awaited.file(&Incoming::OpenResult(result)));
        assert!(matches!(awaited.take(open), Some(Reply::Status(5))));
    }

    #[test]
    fn forgotten_questions_get_no_reply() {
        let mut awaited = Awaited::new();
        let created = Question::Created { relid: 3, gpadl: 7 };
        assert!(awaited.ask(created));
        awaited.forget(created);
        let late = GpadlCreated {
            relid: 3,
            gpadl: 7,
            status: 0,
        };
        assert!(!awaited.file(&Incoming::GpadlCreated(late)));
        for _ in 0..AWAITED {
            assert!(awaited.ask(Question::Unload));
        }
        assert!(!awaited.ask(Question::Unload));
        awaited.forget(Question::Unload);
        assert!(awaited.ask(Question::Unload));
    }
}
