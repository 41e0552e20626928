//! A line that loses, repeats, delays, swaps and cuts frames off, by a seed.

use super::{Checksum, Frame, Port, finish};
use crate::rng::Rng;
use std::collections::VecDeque;

/// How often something happens to a frame, of 1000, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// It is lost.
    pub lose: u16,
    /// It arrives twice.
    pub duplicate: u16,
    /// It arrives after the one behind it.
    pub reorder: u16,
    /// Its end is cut off, somewhere behind the Ethernet header.
    pub truncate: u16,
    /// Steps of the line that a frame takes at most.
    pub delay: u64,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// Steps still to wait, and what waits, in the order it arrives.
    coming: VecDeque<(u64, Frame)>,
}

impl Way {
    fn put(&mut self, frame: Frame, faults: &Faults, rng: &mut Rng) {
        let happens = |rng: &mut Rng, often: u16| rng.below(1000) < u64::from(often);
        // Nothing is left undone on a wire.
        for mut frame in finish(frame, Default::default()) {
            frame.checksum = Checksum::InFrame;
            if happens(rng, faults.lose) {
                continue;
            }
            if happens(rng, faults.truncate) {
                let len = rng.between(14, frame.bytes.len() as u64);
                frame.bytes.truncate(len as usize);
            }
            let wait = rng.below(faults.delay.saturating_add(1));
            let last = self.coming.len().saturating_sub(1);
            if happens(rng, faults.duplicate) {
                self.coming.push_back((wait, frame.clone()));
            }
            match happens(rng, faults.reorder) {
                true => self.coming.insert(last, (wait, frame)),
                false => self.coming.push_back((wait, frame)),
            }
        }
    }

    fn step(&mut self) -> bool {
        let moving = self.coming.iter().any(|(wait, _)| *wait > 0);
        for (wait, _) in &mut self.coming {
            *wait = wait.saturating_sub(1);
        }
        moving
    }

    fn is_due(&self) -> bool {
        matches!(self.coming.front(), Some((0, _)))
    }

    fn take(&mut self) -> Option<Frame> {
        match self.is_due() {
            true => self.coming.pop_front().map(|(_, frame)| frame),
            false => None,
        }
    }
}

/// A line with faults both ways, on the way to another.
#[derive(Debug)]
pub struct Faulty<P> {
    far: P,
    faults: Faults,
    rng: Rng,
    there: Way,
    back: Way,
}

impl<P: Port> Faulty<P> {
    /// The line `far`, with these faults in front of it.
    pub fn new(far: P, faults: Faults, seed: u64) -> Self {
        Faulty {
            far,
            faults,
            rng: Rng::new(seed),
            there: Way::default(),
            back: Way::default(),
        }
    }

    fn pass_on(&mut self) {
        while let Some(frame) = self.there.take() {
            self.far.send(frame);
        }
        while let Some(frame) = self.far.receive() {
            self.back.put(frame, &self.faults, &mut self.rng);
        }
    }
}

impl<P: Port> Port for Faulty<P> {
    fn send(&mut self, frame: Frame) {
        self.there.put(frame, &self.faults, &mut self.rng);
        self.pass_on();
    }

    fn receive(&mut self) -> Option<Frame> {
        self.pass_on();
        self.back.take()
    }

    fn is_ready(&self) -> bool {
        self.back.is_due() || self.far.is_ready()
    }

    fn step(&mut self) -> bool {
        let moved = self.far.step() | self.there.step() | self.back.step();
        self.pass_on();
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::cable;

    /// What arrives of a hundred frames, each way.
    fn arrivals(faults: Faults) -> [Vec<Frame>; 2] {
        let (near, mut far) = cable();
        let mut line = Faulty::new(near, faults, 5);
        for n in 0..100 {
            line.send(Frame::new([n; 60]));
            far.send(Frame::new([n; 60]));
        }
        let mut here = Vec::new();
        loop {
            here.extend(std::iter::from_fn(|| line.receive()));
            if !line.step() && !line.is_ready() {
                break;
            }
        }
        [std::iter::from_fn(|| far.receive()).collect(), here]
    }

    #[test]
    fn a_line_without_faults_is_a_line() {
        for arrived in arrivals(Faults::default()) {
            let whole: Vec<_> = (0..100).map(|n| Frame::new([n; 60])).collect();
            assert_eq!(arrived, whole);
        }
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let none = Faults::default();
        for arrived in arrivals(Faults { lose: 200, ..none }) {
            assert!((60..95).contains(&arrived.len()));
        }
        for arrived in arrivals(Faults {
            duplicate: 200,
            ..none
        }) {
            assert!((105..140).contains(&arrived.len()));
        }
        let slow = Faults { delay: 9, ..none };
        for arrived in arrivals(slow) {
            assert!(arrived.is_sorted_by_key(|frame| frame.bytes[0]) && arrived.len() == 100);
        }
        for arrived in arrivals(Faults {
            reorder: 200,
            ..slow
        }) {
            assert!(!arrived.is_sorted_by_key(|frame| frame.bytes[0]) && arrived.len() == 100);
        }
        for arrived in arrivals(Faults {
            truncate: 200,
            ..none
        }) {
            let short = arrived.iter().filter(|frame| frame.bytes.len() < 60);
            assert!((5..40).contains(&short.count()));
        }
    }
}
