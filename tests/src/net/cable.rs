//! A line with two ends that loses nothing.

use super::{Frame, Port};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

type Queue = Arc<Mutex<VecDeque<Frame>>>;

/// One end. Clones are the same end.
#[derive(Debug, Clone, Default)]
pub struct Cable {
    away: Queue,
    here: Queue,
}

/// Both ends of a new line.
pub fn cable() -> (Cable, Cable) {
    let one = Cable::default();
    let other = Cable {
        away: one.here.clone(),
        here: one.away.clone(),
    };
    (one, other)
}

impl Port for Cable {
    fn send(&mut self, frame: Frame) {
        let mut queue = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(frame);
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut queue = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }

    fn is_ready(&self) -> bool {
        let queue = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        !queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_sends_the_other_receives() {
        let (mut one, mut other) = cable();
        one.send(Frame::new([1]));
        one.send(Frame::new([2]));
        assert!(!one.is_ready() && other.is_ready());
        assert_eq!(other.receive().unwrap().bytes, [1]);
        assert_eq!(other.receive().unwrap().bytes, [2]);
        assert_eq!(other.receive(), None);
    }
}
