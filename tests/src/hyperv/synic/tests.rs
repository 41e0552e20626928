use super::*;
use crate::hyperv::flat::FlatMemory;

const VECTOR: u8 = 0x33;
const SLOT: u64 = 4096 + 2 * 256;

fn ready() -> (FlatMemory, Synic) {
    let memory = FlatMemory::new(4);
    let mut synic = Synic::default();
    synic.write(msr::SIMP, 4096 | 1, 0).unwrap();
    synic.write(msr::SIEFP, 8192 | 1, 0).unwrap();
    synic.write(msr::SINT0 + 2, VECTOR.into(), 0).unwrap();
    synic.write(msr::SCONTROL, 1, 0).unwrap();
    (memory, synic)
}

fn drain(synic: &mut Synic, memory: &FlatMemory, now: u64) {
    while synic.step(memory, now).unwrap() {}
}

#[test]
fn a_second_message_waits_for_the_end_of_the_first() {
    let (memory, mut synic) = ready();
    synic.post(2, 1, 7, b"first");
    drain(&mut synic, &memory, 0);
    synic.post(2, 1, 7, b"second");
    drain(&mut synic, &memory, 0);
    assert_eq!(synic.take_interrupt(), Some(VECTOR));
    assert_eq!(synic.take_interrupt(), None);
    assert_eq!(
        memory.load_u32(SLOT + 4).unwrap(),
        5 | 1 << 8,
        "pending is flagged"
    );
    // Emptying the slot alone brings nothing: the end of message does.
    memory.store_u32(SLOT, 0).unwrap();
    drain(&mut synic, &memory, 0);
    assert_eq!(synic.take_interrupt(), None);
    synic.write(msr::EOM, 0, 0).unwrap();
    drain(&mut synic, &memory, 0);
    let mut payload = [0; 6];
    memory.read(SLOT + 16, &mut payload).unwrap();
    assert_eq!(
        (&payload, synic.take_interrupt()),
        (b"second", Some(VECTOR))
    );
    assert_eq!(memory.load_u32(SLOT + 4).unwrap(), 6);
}

#[test]
fn masked_or_disabled_means_nothing_arrives() {
    let (memory, mut synic) = ready();
    synic
        .write(msr::SINT0 + 2, u64::from(VECTOR) | SINT_MASKED, 0)
        .unwrap();
    synic.post(2, 1, 7, b"x");
    drain(&mut synic, &memory, 0);
    synic.set_event(&memory, 2, 5).unwrap();
    assert_eq!(
        (memory.load_u32(SLOT).unwrap(), synic.lost_events()),
        (0, 1)
    );
    synic.write(msr::SINT0 + 2, VECTOR.into(), 0).unwrap();
    drain(&mut synic, &memory, 0);
    assert_eq!(
        memory.load_u32(SLOT).unwrap(),
        1,
        "queued until the SINT opens"
    );
    assert_eq!(synic.write(msr::SINT0 + 2, 5, 0), None);
    assert_eq!(synic.write(msr::SVERSION, 5, 0), None);
}

#[test]
fn event_flags_interrupt_once_until_cleared() {
    let (memory, mut synic) = ready();
    for _ in 0..2 {
        synic.set_event(&memory, 2, 33).unwrap();
    }
    assert_eq!(memory.load_u32(8192 + 512 + 4).unwrap(), 2);
    assert_eq!(
        (synic.take_interrupt(), synic.take_interrupt()),
        (Some(VECTOR), None)
    );
    memory.store_u32(8192 + 512 + 4, 0).unwrap();
    synic.set_event(&memory, 2, 33).unwrap();
    assert_eq!(synic.take_interrupt(), Some(VECTOR));
}

#[test]
fn timers_fire_by_message_and_directly() {
    let (memory, mut synic) = ready();
    // Timer 0: one-shot, auto-enable, message to SINT 2. Timer 1: periodic, vector 0x40.
    synic
        .write(msr::STIMER0_CONFIG, 2 << 16 | 1 << 3, 0)
        .unwrap();
    synic.write(msr::STIMER0_CONFIG + 1, 100, 0).unwrap();
    synic
        .write(msr::STIMER0_CONFIG + 2, 0x40 << 4 | 1 << 12 | 3, 0)
        .unwrap();
    synic.write(msr::STIMER0_CONFIG + 3, 30, 0).unwrap();
    assert_eq!(synic.next_timer(), Some(30));
    drain(&mut synic, &memory, 29);
    assert!(!synic.has_interrupt());
    drain(&mut synic, &memory, 30);
    assert_eq!(
        (synic.take_interrupt(), synic.next_timer()),
        (Some(0x40), Some(60))
    );
    drain(&mut synic, &memory, 101);
    assert_eq!(memory.load_u32(SLOT).unwrap(), 0x8000_0010);
    assert_eq!(memory.load_u64(SLOT + 24).unwrap(), 100);
    assert_eq!(memory.load_u64(SLOT + 32).unwrap(), 101);
    assert_eq!(
        synic.read(msr::STIMER0_CONFIG).unwrap() & 1,
        0,
        "one-shots go off"
    );
}
