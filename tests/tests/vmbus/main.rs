//! The real Hyper-V and VMBus drivers over the simulated host.

mod channels;
mod connecting;
mod hostile;

use hypercall::bus::{Bus, BusEvent, Class, Device as _, Doorbell};
use hypercall::detect::{Detected, detect};
use hypercall::hyperv::PostError;
use hypercall::shm::{Access, Pages};
use hypercall::{HostFault, Hypervisor};
use pv_tests::hyperv::abi::{self, interface, message};
use pv_tests::hyperv::channel::{Closing, Device, Silent, Turn, Work};
use pv_tests::hyperv::counters::Counters;
use pv_tests::hyperv::cpuid;
use pv_tests::hyperv::hostile::Misdeed;
use pv_tests::hyperv::machine::HostConfig;
use pv_tests::hyperv::ring::{Kind, Packet};
use pv_tests::hyperv::vmbus_server::DeviceId;
use pv_tests::sim_hyperv::{Platform, SimDriver, SimHyperV};
use std::collections::VecDeque;
use std::sync::Mutex;
use vmbus::{Config, ConnectError, Offer, OpenError, Outgoing, SendError, Version, VmBus};

const SECOND: u64 = 1_000_000_000;

/// Answers every packet that asks for it: in-band ones with their payload, GPA-direct ones with
/// the sum of the bytes they name.
struct Echo {
    instance: u8,
    answers: VecDeque<Packet>,
    pending: VecDeque<Packet>,
}

impl Echo {
    fn new(instance: u8) -> Box<Self> {
        Box::new(Self {
            instance,
            answers: VecDeque::new(),
            pending: VecDeque::new(),
        })
    }
}

impl Device for Echo {
    fn interface(&self) -> abi::Guid {
        interface::SCSI
    }
    fn instance(&self) -> abi::Guid {
        [self.instance; 16]
    }
    fn opened(&mut self, _channel: u16) {}
    fn closed(&mut self, _channel: u16, _why: Closing, _counters: &mut Counters) {
        self.answers.clear();
        self.pending.clear();
    }
    fn accepts_more(&self, _channel: u16) -> bool {
        true
    }
    fn packet(&mut self, packet: Packet, _turn: &mut Turn<'_>) {
        self.pending.push_back(packet);
    }
    fn has_work(&self, _channel: u16) -> bool {
        !self.pending.is_empty() || !self.answers.is_empty()
    }
    fn work(&mut self, turn: &mut Turn<'_>) -> Work {
        if let Some(answer) = self.answers.pop_front() {
            return Work::Send(answer);
        }
        let Some(packet) = self.pending.pop_front() else {
            return Work::Idle;
        };
        if !packet.completion_requested {
            return Work::Waited;
        }
        let payload = match &packet.kind {
            Kind::GpaDirect(ranges) => {
                let mut bytes = vec![0; ranges[0].bytes as usize];
                ranges[0].read(turn.memory, 0, &mut bytes).unwrap();
                let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
                sum.to_le_bytes().to_vec()
            }
            _ => packet.payload,
        };
        Work::Send(Packet {
            kind: Kind::Completion,
            transaction_id: packet.transaction_id,
            completion_requested: false,
            payload,
        })
    }
}

type Bus_<'h> = VmBus<'h, Platform, SimHyperV>;
type Channel<'b, 'h> = vmbus::Channel<'b, 'h, Platform, SimHyperV>;

fn boot(configure: impl FnOnce(&mut HostConfig)) -> (SimHyperV, std::sync::Arc<SimDriver>) {
    SimHyperV::boot(256, configure)
}

fn connect(hv: &SimDriver) -> Bus_<'_> {
    let bus = VmBus::connect(hv, Config::default()).unwrap();
    bus.wait_offers(SECOND).unwrap();
    bus
}

/// The next device that the bus tells of.
fn offered(bus: &Bus_<'_>) -> Offer {
    match bus.poll() {
        Ok(Some(BusEvent::Offered(offer))) => offer,
        other => panic!("{other:?}"),
    }
}

fn add_echo(sim: &SimHyperV, instance: u8) -> DeviceId {
    sim.host().bus.add(Echo::new(instance))
}

/// No complaint from the host.
fn clean(sim: &SimHyperV) {
    assert_eq!(sim.host().counters().violations, Vec::<String>::new());
}

/// Sends `count` packets of four words, and has each answered.
fn exchange(sim: &SimHyperV, channel: &mut Channel<'_, '_>, count: u64) {
    for id in 1..=count {
        let payload = [id, id * 3, !id, 7];
        channel
            .send(Outgoing::in_band(id, &payload).ask_completion())
            .unwrap();
        channel.flush();
        sim.settle();
        let mut into = [0; 4];
        let packet = channel.receive(&mut into).unwrap().unwrap();
        assert_eq!((packet.transaction_id, packet.len), (id, 32));
        assert_eq!(into, payload);
        assert_eq!(channel.receive(&mut into), Ok(None));
        assert_eq!(channel.arm(), Ok(false));
    }
}
