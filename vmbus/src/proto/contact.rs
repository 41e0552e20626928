//! Agreeing on a version: the newest first, then one step down for each refusal.

use crate::abi::message::{CONTACT_CONNECTION, InitiateContact, OLD_CONNECTION, VersionResponse};
use crate::abi::version::Version;
use core::slice;

/// What to say to the host next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The version to ask for.
    pub version: Version,
    /// The connection to ask on.
    pub connection: u32,
}

impl Attempt {
    /// The message that asks. `vp` and `sint` are where messages shall go.
    pub fn message(&self, vp: u32, sint: u8) -> InitiateContact {
        InitiateContact {
            version: self.version.0,
            // Before 3.0 messages go to the first processor.
            target_vp: if self.version >= Version::V3_0 { vp } else { 0 },
            sint,
            vtl: 0,
            reserved: 0,
            // None of the features of 6.0 is used.
            features: 0,
            monitor_pages: [0; 2],
        }
    }
}

/// What the host's answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The connection stands.
    Agreed {
        /// The version.
        version: Version,
        /// The connection for all further messages.
        connection: u32,
    },
    /// Not that version; make the next attempt.
    Next,
    /// That version, but no connection: the host's reason.
    Refused(u8),
}

/// The way down the versions.
#[derive(Debug, Clone)]
pub struct Contact {
    versions: slice::Iter<'static, Version>,
    highest: Version,
    /// Whether the connection that 5.0 brought is missing.
    old_only: bool,
    current: Option<Attempt>,
}

impl Contact {
    /// Starts at `highest`, or the next lower version there is.
    pub fn new(highest: Version) -> Self {
        Self {
            versions: Version::ALL.iter(),
            highest,
            old_only: false,
            current: None,
        }
    }

    /// The next attempt; `None` when every version was refused.
    pub fn next_attempt(&mut self) -> Option<Attempt> {
        let (highest, old_only) = (self.highest, self.old_only);
        let allowed = |v: &&Version| **v <= highest && !(old_only && **v >= Version::V5_0);
        let version = *self.versions.find(allowed)?;
        let connection = if version >= Version::V5_0 {
            CONTACT_CONNECTION
        } else {
            OLD_CONNECTION
        };
        let attempt = Attempt {
            version,
            connection,
        };
        self.current = Some(attempt);
        Some(attempt)
    }

    /// The host does not know the connection of the current attempt. From 5.0 on that only says
    /// that it is older; whether there is an attempt left.
    pub fn no_connection(&mut self) -> bool {
        let newer = self
            .current
            .is_some_and(|attempt| attempt.connection == CONTACT_CONNECTION);
        self.old_only |= newer;
        newer
    }

    /// Takes the host's answer to the current attempt. One that comes before any means nothing.
    pub fn answer(&mut self, response: &VersionResponse) -> Answer {
        match self.current {
            Some(attempt) if response.supported != 0 => {
                if response.connection_state != 0 {
                    return Answer::Refused(response.connection_state);
                }
                // Hosts that leave the field out go on with the connection they were asked on.
                let named = attempt.version >= Version::V5_0 && response.connection != 0;
                Answer::Agreed {
                    version: attempt.version,
                    connection: if named {
                        response.connection
                    } else {
                        attempt.connection
                    },
                }
            }
            _ => Answer::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn response(supported: u8, connection: u32) -> VersionResponse {
        VersionResponse {
            supported,
            connection,
            ..VersionResponse::default()
        }
    }

    #[test]
    fn every_version_is_tried_once() {
        let mut contact = Contact::new(Version::V6_0);
        let mut tried = Vec::new();
        while let Some(attempt) = contact.next_attempt() {
            tried.push((attempt.version.0, attempt.connection));
            assert_eq!(contact.answer(&response(0, 0)), Answer::Next);
        }
        let expected = [
            (0x60000, 4),
            (0x50003, 4),
            (0x50002, 4),
            (0x50001, 4),
            (0x50000, 4),
            (0x40001, 1),
            (0x40000, 1),
            (0x30000, 1),
            (0x20004, 1),
        ];
        assert_eq!(tried, expected);
    }

    #[test]
    fn the_host_names_the_connection() {
        let mut contact = Contact::new(Version::V5_3);
        assert_eq!(contact.next_attempt().unwrap().version, Version::V5_3);
        let agreed = |connection| Answer::Agreed {
            version: Version::V5_3,
            connection,
        };
        assert_eq!(contact.answer(&response(1, 77)), agreed(77));
        assert_eq!(contact.answer(&response(1, 0)), agreed(4));
        let mut failed = response(1, 1);
        failed.connection_state = 2;
        assert_eq!(contact.answer(&failed), Answer::Refused(2));
    }

    /// Before 5.0 the field is the version.
    #[test]
    fn older_hosts_keep_the_connection() {
        let mut contact = Contact::new(Version::new(4, 9));
        assert_eq!(contact.next_attempt().unwrap().version, Version::V4_1);
        assert!(matches!(
            contact.answer(&response(1, 0x40001)),
            Answer::Agreed { connection: 1, .. }
        ));
    }

    #[test]
    fn a_missing_connection_skips_what_needs_it() {
        let mut contact = Contact::new(Version::V6_0);
        contact.next_attempt();
        assert!(contact.no_connection());
        assert_eq!(contact.next_attempt().unwrap().version, Version::V4_1);
        assert!(!contact.no_connection());
    }

    #[test]
    fn only_newer_versions_name_a_processor() {
        let mut contact = Contact::new(Version::V3_0);
        let message = contact.next_attempt().unwrap().message(3, 2);
        assert_eq!((message.target_vp, message.sint), (3, 2));
        let message = contact.next_attempt().unwrap().message(3, 2);
        assert_eq!(message.target_vp, 0);
        assert_eq!(contact.next_attempt(), None);
    }
}
