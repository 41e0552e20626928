//! A guest gone mad: nothing it does may panic the host, hang it, or touch another's memory.

use super::guest::*;
use crate::disk::{Latency, MemDisk};
use crate::memory::GuestMemory;
use crate::rng::Rng;
use crate::xen::abi::PAGE;
use crate::xen::blkback::BlkHabits;
use crate::xen::xenbus::VbdSpec;
use std::collections::BTreeSet;

const CALLS: [u32; 9] = [12, 17, 18, 20, 24, 29, 32, 34, 7];

fn number(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => rng.draw(),
        1 => u64::MAX - rng.below(4),
        2 => rng.below(5000),
        3 => 0x7ff0,
        _ => rng.below(24),
    }
}

fn rave(guest: &mut Guest, rng: &mut Rng) {
    match rng.below(7) {
        0 => {
            // Anywhere in memory: rings, tables, shared info.
            let gpa = rng.below(20 * PAGE) & !3;
            guest.ram.store_u32(gpa, number(rng) as u32).unwrap();
        }
        1 => {
            let index = [2048, 2052, 2056, 2060, 2068][rng.below(5) as usize];
            guest.set(STORE, index, number(rng) as u32);
            guest.send(1);
        }
        2 => {
            let mut bytes = vec![0; rng.below(60) as usize];
            bytes.fill_with(|| rng.draw() as u8);
            guest
                .ram
                .write(STORE * PAGE + rng.below(900), &bytes)
                .unwrap();
        }
        3 => {
            guest.set(
                RING,
                [0, 4, 8, 12][rng.below(4) as usize],
                number(rng) as u32,
            );
        }
        4 => {
            let mut wild = request(
                rng.below(8) as u8,
                rng.below(70),
                rng.below(12).min(11) as u8,
            );
            wild.nr_segments = rng.below(14) as u8;
            wild.seg[0].gref = number(rng) as u32;
            wild.seg[1].last_sect = rng.below(10) as u8;
            guest.push(&wild);
            guest.send(guest.ring_port);
        }
        _ => {
            let nr = CALLS[rng.below(9) as usize];
            let mut operand = vec![0; rng.below(40) as usize];
            for word in operand.chunks_mut(4) {
                let value = (number(rng) as u32).to_le_bytes();
                word.copy_from_slice(&value[..word.len()]);
            }
            let args = [rng.below(16), number(rng), rng.below(3), number(rng), 0];
            guest.host.hypercall(nr, args, &mut operand);
        }
    }
}

#[test]
fn a_mad_guest_hurts_only_itself() {
    let mut kinds = BTreeSet::new();
    for seed in seeds(200) {
        let mut guest = Guest::booted(|config| config.seed = seed);
        let habits = BlkHabits {
            latency: Latency {
                min_steps: 0,
                max_steps: 5,
                out_of_order: true,
            },
            discard: true,
            ..BlkHabits::default()
        };
        guest.connect(VbdSpec::new("xvda", Box::new(MemDisk::new(64, 512))).habits(habits));
        let mut rng = Rng::new(seed);
        for _ in 0..if cfg!(miri) { 30 } else { 300 } {
            rave(&mut guest, &mut rng);
            guest.host.run(3);
            guest.host.take_interrupt();
        }
        guest.host.run(100_000);
        assert!(
            !guest.host.step(),
            "the host never comes to rest after seed {seed}"
        );
        let complaints = guest.host.complaints().iter();
        kinds.extend(complaints.map(|complaint| {
            let text = format!("{complaint:?}");
            text.split([' ', '(']).next().unwrap().to_string()
        }));
    }
    // The ravings reach every part of the host.
    assert!(cfg!(miri) || kinds.len() >= 7, "{kinds:?}");
}

#[test]
fn store_requests_of_every_shape_are_answered() {
    for seed in seeds(30) {
        let mut guest = Guest::booted(|config| config.seed = seed);
        let mut rng = Rng::new(seed);
        let words = [
            "data", "/", "", "T", "0", "1", "n5", "b0", "x/y", "@x", "data/a", "99999",
        ];
        for _ in 0..if cfg!(miri) { 10 } else { 200 } {
            let kind = rng.below(28) as u32;
            let mut payload = Vec::new();
            for _ in 0..rng.below(4) {
                payload.extend(words[rng.below(words.len() as u64) as usize].as_bytes());
                if rng.below(5) != 0 {
                    payload.push(0);
                }
            }
            if rng.below(10) == 0 {
                payload.extend([0xff, 0xfe]);
            }
            let tx = rng.below(3) as u32;
            let id = guest.ask(kind, tx, &payload);
            let (answer, body) = guest.reply(id);
            assert!(answer == kind || answer == 16, "{kind} {payload:?}");
            assert!(body.len() <= 4096);
        }
        assert!(!guest.host.store().dead());
    }
}
