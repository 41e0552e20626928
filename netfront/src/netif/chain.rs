//! A received frame, put together from the answers that bring its pieces.

use super::abi::{
    EXTRA_FLAG_MORE, EXTRA_TYPE_GSO, EXTRA_TYPE_HASH, EXTRA_TYPE_MAX, ExtraHash, ExtraInfo,
    GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, NR_SLOTS_MIN, RXF_EXTRA_INFO, RXF_GSO_PREFIX, RXF_MORE_DATA,
    RxResponse,
};
use super::rx::checksum;
use crate::ETHERNET_HEADER;
use crate::frame::{Body, RxFrame};
use crate::offload::{Ip, RxMeta, Segmentation};
use hypercall::HostFault;
use hypercall::shm::{Joint, Piece, PoolPage};

/// Pieces of a frame at most: as many as it may have when sent, and one more for a header that
/// has a page of its own. A longer one is taken off the ring and dropped.
const PIECES: u16 = NR_SLOTS_MIN as u16 + 1;

/// What the host was told it may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// TCP segments over IPv4 longer than a packet.
    pub gso_v4: bool,
    /// TCP segments over IPv6 longer than a packet.
    pub gso_v6: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// The first piece of a frame.
    #[default]
    First,
    /// An extra, and then, if there is `more`, a piece.
    Extra { more: bool },
    /// Another piece.
    Piece,
    /// The frame is complete.
    Done,
}

/// A frame in the making. The host may show its pieces one by one.
#[derive(Debug, Default)]
pub struct Chain {
    rules: Rules,
    stage: Stage,
    meta: RxMeta,
    body: Joint,
    pieces: u16,
    extras: u8,
    /// It is of no use any more, and only taken off the ring.
    bad: bool,
}

impl Chain {
    /// Nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Whether a part of a frame was taken.
    #[inline(always)]
    pub fn is_begun(&self) -> bool {
        self.stage != Stage::First
    }

    /// Takes the answer that was in slot `index` of the ring, and the page that was posted there.
    /// Whether that was the last of a frame.
    ///
    /// # Errors
    /// [`HostFault`] when it makes no sense there.
    #[inline(always)]
    pub fn take(&mut self, word: u64, index: u8, page: PoolPage) -> Result<bool, HostFault> {
        self.stage = match self.stage {
            Stage::First => {
                let answer = RxResponse::from_word(word);
                self.begin(answer.flags)?;
                self.piece(answer, index, page)?;
                let more = answer.flags & RXF_MORE_DATA != 0;
                match answer.flags & RXF_EXTRA_INFO {
                    0 => after(more),
                    _ => Stage::Extra { more },
                }
            }
            Stage::Extra { more } => match self.extra(word)? & EXTRA_FLAG_MORE {
                0 => after(more),
                _ => Stage::Extra { more },
            },
            Stage::Piece => {
                let answer = RxResponse::from_word(word);
                if answer.flags & RXF_EXTRA_INFO != 0 {
                    return Err(HostFault::Malformed);
                }
                self.piece(answer, index, page)?;
                after(answer.flags & RXF_MORE_DATA != 0)
            }
            Stage::Done => return Err(HostFault::Malformed),
        };
        Ok(self.stage == Stage::Done)
    }

    fn begin(&mut self, flags: u16) -> Result<(), HostFault> {
        if flags & RXF_GSO_PREFIX != 0 {
            return Err(HostFault::Malformed);
        }
        self.meta = RxMeta {
            checksum: checksum(flags),
            ..RxMeta::default()
        };
        Ok(())
    }

    #[inline(always)]
    fn piece(&mut self, answer: RxResponse, index: u8, page: PoolPage) -> Result<(), HostFault> {
        if answer.id != u16::from(index) {
            return Err(HostFault::UnknownId);
        }
        self.pieces = self.pieces.saturating_add(1);
        let Ok(len) = u16::try_from(answer.status) else {
            // The host had no more than an error for it.
            self.spoil();
            return Ok(());
        };
        let piece = Piece::new(page, answer.offset, len);
        let piece = piece.map_err(|_| HostFault::Length)?;
        if self.pieces > PIECES {
            self.spoil();
        }
        if !self.bad {
            // Pages of one pool, and few of them.
            drop(self.body.push(piece));
        }
        Ok(())
    }

    fn spoil(&mut self) {
        self.bad = true;
        self.body = Joint::new();
    }

    /// Takes an extra; its flags.
    fn extra(&mut self, word: u64) -> Result<u8, HostFault> {
        let extra = ExtraInfo::from_word(word);
        self.extras = self.extras.saturating_add(1);
        if self.extras >= EXTRA_TYPE_MAX {
            return Err(HostFault::Malformed);
        }
        match extra.r#type {
            EXTRA_TYPE_GSO => {
                let ip = match extra.gso_type {
                    GSO_TYPE_TCPV4 if self.rules.gso_v4 => Ip::V4,
                    GSO_TYPE_TCPV6 if self.rules.gso_v6 => Ip::V6,
                    _ => return Err(HostFault::Malformed),
                };
                if extra.gso_size == 0 {
                    return Err(HostFault::Malformed);
                }
                self.meta.segmentation = Some(Segmentation {
                    ip,
                    mss: extra.gso_size,
                });
            }
            EXTRA_TYPE_HASH => {
                let hash = ExtraHash::from_word(word);
                self.meta.hash = Some(u32::from_le_bytes(hash.value));
            }
            _ => return Err(HostFault::Malformed),
        }
        Ok(extra.flags)
    }

    /// The frame, once it is complete, to begin anew; `None` when it is of no use.
    pub fn finish(&mut self) -> Option<RxFrame> {
        let done = core::mem::replace(self, Self::new(self.rules));
        let body = done.body.finish()?;
        let short = body.len() < ETHERNET_HEADER;
        (!done.bad && !short).then(|| RxFrame::new(Body::Buf(body), done.meta))
    }
}

fn after(more: bool) -> Stage {
    if more { Stage::Piece } else { Stage::Done }
}
