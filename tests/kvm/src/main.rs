//! The project's own small KVM host: a simulated Hyper-V's bus and SCSI disks behind a real guest,
//! with KVM's own SynIC between them.
//!
//! It boots an ELF kernel by its 64-bit entry with COM1 on standard output, one processor, ACPI
//! soft-off and reset, and nothing else but what Hyper-V gives a guest. One line of JSON about the run
//! goes to standard error. Status: 0 soft-off, 3 reset, 4 triple fault, 5 crash reported through the
//! crash registers, 124 time limit, 1 anything else.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod acpi;
mod boot;
mod cpuid;
mod machine;
mod memory;
mod ports;
mod synic;
mod tap;

use clap::Parser;
use cpuid::Looks;
use machine::{Bus, Ending, Kick, Leaving, Machine, Order, Removal};
use memory::Memory;
use pv_tests::disk::{BadSectors, FileDisk};
use pv_tests::hyperv::abi::version;
use pv_tests::hyperv::counters::Counters;
use pv_tests::hyperv::hostile::Misdeed;
use pv_tests::hyperv::netvsp::{Netvsp, NetvspConfig};
use pv_tests::hyperv::scsi::Lun;
use pv_tests::hyperv::storvsp::{Address, Storvsp, StorvspConfig};
use pv_tests::hyperv::vmbus_server::{ServerConfig, VmbusServer};
use pv_tests::net::Port;
use pv_tests::net::gateway::Gateway;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tap::Tap;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// A Hyper-V host with SCSI disks for one guest, on KVM.
#[derive(Parser)]
struct Cli {
    /// The kernel: a 64-bit ELF file, entered at its e_entry in long mode
    #[arg(long, value_name = "ELF")]
    kernel: PathBuf,
    /// An initial file system for it
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A disk: raw or fixed VHD; the first is LUN 0
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// Put an empty DVD drive behind the last disk
    #[arg(long)]
    dvd: bool,
    /// This LUN refuses writes
    #[arg(long, value_name = "LUN")]
    lun_readonly: Vec<u8>,
    /// Sectors of this size (512 or 4096 bytes) on every disk
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    sector_size: u32,
    /// Every access to this sector, on any disk, is a medium error
    #[arg(long, value_name = "LBA")]
    fail_lba: Vec<u64>,
    /// After so many commands the disk controller is rescinded with the next ones in flight, which are
    /// never answered
    #[arg(long, value_name = "N", conflicts_with = "unplug_after")]
    rescind_after: Option<u64>,
    /// After so many commands all disks are unplugged, with the next commands in flight
    #[arg(long, value_name = "N")]
    unplug_after: Option<u64>,
    /// A NIC: with its line to a tap interface (tap=NAME), or to a network of this process, where a port of the
    /// loopback leads to the guest's port 80 and the guest may reach the others (gateway=PORT,PORT)
    #[arg(long, value_name = "tap=NAME|gateway=PORT", value_parser = Net::parse)]
    net: Option<Net>,
    /// The NIC's MAC address
    #[arg(long, value_name = "XX:XX:XX:XX:XX:XX", value_parser = mac, requires = "net")]
    mac: Option<[u8; 6]>,
    /// Take orders for the NIC from this pipe, one a line: disconnect, unplug, plug
    #[arg(long, value_name = "FIFO", requires = "net")]
    orders: Option<PathBuf>,
    /// Never answer version negotiation
    #[arg(long)]
    ignore_contact: bool,
    /// The newest VMBus version this host knows, as MAJOR.MINOR
    #[arg(long, value_name = "VERSION", value_parser = vmbus_version)]
    vmbus_version: Option<u32>,
    /// Leave the PostMessages and SignalEvents bits of CPUID zero
    #[arg(long)]
    few_cpuid_bits: bool,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// Tell of every hypercall and message on standard error
    #[arg(long)]
    trace: bool,
    /// Seconds the guest may run
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    timeout: u64,
}

fn vmbus_version(text: &str) -> Result<u32, String> {
    let (major, minor) = text.split_once('.').ok_or("MAJOR.MINOR")?;
    let number = |part: &str| part.parse::<u16>().map_err(|error| error.to_string());
    let version = u32::from(number(major)?) << 16 | u32::from(number(minor)?);
    version::ALL
        .contains(&version)
        .then_some(version)
        .ok_or_else(|| "not a known version".into())
}

/// Where the NIC's line leads.
#[derive(Debug, Clone)]
enum Net {
    Tap(String),
    Gateway { forwarded: u16, reachable: Vec<u16> },
}

impl Net {
    fn parse(text: &str) -> Result<Net, String> {
        let number = |text: &str| text.parse::<u16>().map_err(|e| format!("port {text}: {e}"));
        match text.split_once('=') {
            Some(("tap", name)) if !name.is_empty() => Ok(Net::Tap(name.to_owned())),
            Some(("gateway", ports)) => {
                let mut ports = ports.split(',').map(number);
                Ok(Net::Gateway {
                    forwarded: ports.next().unwrap_or(Ok(0))?,
                    reachable: ports.collect::<Result<_, _>>()?,
                })
            }
            _ => Err("a line is named as tap=NAME or gateway=PORT".into()),
        }
    }
}

/// A network in this process, on a thread that calls `arrived` when frames wait for the guest.
fn gateway(
    forwarded: u16,
    reachable: &[u16],
    arrived: impl Fn() + Send + 'static,
) -> Result<Gateway, String> {
    let gateway = Gateway::new();
    let failed = |error| format!("port {forwarded}: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, forwarded)).map_err(failed)?;
    gateway.forward(listener, 80).map_err(failed)?;
    reachable.iter().for_each(|&port| gateway.allow(port));
    let polled = gateway.clone();
    thread::spawn(move || {
        loop {
            if polled.poll() {
                arrived();
            }
            thread::sleep(Duration::from_micros(300));
        }
    });
    Ok(gateway)
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok((ending, counters, line)) => {
            eprintln!("{}", report(&ending, &counters, line));
            status(&ending)
        }
        Err(what) => {
            eprintln!("kvm-host: {what}");
            ExitCode::FAILURE
        }
    }
}

fn status(ending: &Ending) -> ExitCode {
    ExitCode::from(match ending {
        Ending::PoweredOff => 0,
        Ending::Reset => 3,
        Ending::TripleFault => 4,
        Ending::Crashed(..) => 5,
        Ending::Failed(_) => 1,
        Ending::OutOfTime => 124,
    })
}

fn bus(cli: &Cli) -> Result<Bus, String> {
    if cli.sector_size != 512 && cli.sector_size != 4096 {
        return Err("a sector has 512 or 4096 bytes".into());
    }
    let mut scsi = Storvsp::new(StorvspConfig::default());
    for (lun, path) in (0..=u8::MAX).zip(&cli.disks) {
        let disk = FileDisk::open(path, cli.lun_readonly.contains(&lun))
            .map_err(|error| format!("{}: {error}", path.display()))?
            .with_sector_size(cli.sector_size);
        let disk = BadSectors::new(disk, cli.fail_lba.iter().copied());
        scsi.attach(Address::lun(lun), Lun::disk(Box::new(disk), lun.into()));
    }
    if cli.dvd {
        scsi.attach(Address::lun(cli.disks.len() as u8), Lun::dvd());
    }
    let mut config = ServerConfig::default();
    config.max_version = cli.vmbus_version.unwrap_or(config.max_version);
    let mut server = VmbusServer::new(config);
    if cli.ignore_contact {
        server.hostile.add(Misdeed::IgnoreContact);
    }
    let scsi = server.add(Box::new(scsi));
    let rescinded = cli.rescind_after.map(|after| Removal {
        after,
        how: Leaving::Rescinded,
    });
    let unplugged = cli.unplug_after.map(|after| Removal {
        after,
        how: Leaving::Unplugged,
    });
    Ok(Bus::new(server, scsi, rescinded.or(unplugged)))
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |text: &str| u8::from_str_radix(text, 16).map_err(|e| format!("{text}: {e}"));
    let bytes: Vec<u8> = text.split(':').map(byte).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| "six bytes".into())
}

/// A NIC whose line takes packets of 1500 bytes.
fn nic(line: Box<dyn Port>, mac: Option<[u8; 6]>) -> Netvsp {
    let default = NetvspConfig::default();
    let config = NetvspConfig {
        max_frame: 1514,
        mac: mac.unwrap_or(default.mac),
        ..default
    };
    Netvsp::new(config, line)
}

/// Takes orders from a pipe. It is opened for writing too, so that it does not end with who gave the first.
fn take_orders(fifo: &Path, kick: &Kick, news: &EventFd) {
    let file = match File::options().read(true).write(true).open(fifo) {
        Ok(file) => file,
        Err(error) => return eprintln!("kvm-host: {}: {error}", fifo.display()),
    };
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let order = match line.as_str() {
            "disconnect" => Order::Disconnect,
            "unplug" => Order::Unplug,
            "plug" => Order::Plug,
            other => {
                eprintln!("kvm-host: no such order: {other}");
                continue;
            }
        };
        let mut orders = kick.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.push_back(order);
        drop(orders);
        if news.write(1).is_err() {
            return;
        }
    }
}

/// Runs the guest to its end, or for as long as it may.
fn run(cli: &Cli) -> Result<(Ending, Counters, Option<tap::Count>), String> {
    let memory = Memory::new(cli.memory << 20)?;
    let entry = boot::load(&memory, &cli.kernel, cli.initrd.as_deref(), &cli.cmdline)?;
    let looks = if cli.few_cpuid_bits {
        Looks::LeftZero
    } else {
        Looks::Granted
    };
    let news = EventFd::new(0).map_err(|e| format!("eventfd: {e}"))?;
    let (mut bus, mut count) = (bus(cli)?, None);
    if let Some(net) = &cli.net {
        let event = same_event(&news)?;
        // A full counter means that the news is known.
        let arrived = move || _ = event.write(1);
        let line: Box<dyn Port> = match net {
            Net::Tap(name) => {
                let tap = Tap::open(name, arrived)?;
                count = Some(tap.count());
                Box::new(tap)
            }
            Net::Gateway {
                forwarded,
                reachable,
            } => Box::new(gateway(*forwarded, reachable, arrived)?.port()),
        };
        bus = bus.with_nic(nic(line, cli.mac));
    }
    let machine = Machine::new(memory, entry, bus, looks, &news, cli.trace)?;
    register_signal_handler(SIGRTMIN(), interrupted).map_err(|e| format!("sigaction: {e}"))?;
    let kick = Arc::new(Kick::default());
    let (sender, receiver) = mpsc::channel();
    let for_processor = kick.clone();
    let processor = thread::spawn(move || {
        // If nobody listens any more, the process is on its way out.
        let _ = sender.send(machine.run(&for_processor));
    });
    let stop = same_event(&news)?;
    if let Some(fifo) = cli.orders.clone() {
        let (event, kick) = (same_event(&news)?, kick.clone());
        thread::spawn(move || take_orders(&fifo, &kick, &event));
    }
    let for_kicker = kick.clone();
    thread::spawn(move || kicker(&news, &for_kicker, &processor));
    let done = |(ending, counters)| {
        let line = count
            .as_ref()
            .map(|count| *count.lock().unwrap_or_else(PoisonError::into_inner));
        (ending, counters, line)
    };
    let limit = Duration::from_secs(cli.timeout);
    match receiver.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => {}
        ended => {
            return ended
                .map(done)
                .map_err(|_| "the processor's thread died".into());
        }
    }
    kick.stop.store(true, Ordering::Release);
    stop.write(1).map_err(|e| format!("eventfd: {e}"))?;
    let grace = Duration::from_secs(5);
    receiver
        .recv_timeout(grace)
        .map(done)
        .map_err(|_| "the processor cannot be stopped".into())
}

fn same_event(event: &EventFd) -> Result<EventFd, String> {
    event.try_clone().map_err(|e| format!("eventfd: {e}"))
}

/// Only makes KVM_RUN return.
extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Brings the processor's thread out of the guest each time there is something to look at, and when
/// the time is up.
fn kicker(news: &EventFd, kick: &Kick, processor: &JoinHandle<()>) {
    while news.read().is_ok() {
        kick.news.store(true, Ordering::Release);
        // A signal that comes just before the thread enters the guest is lost, so again.
        while kick.news.load(Ordering::Acquire) {
            if processor.is_finished() || processor.kill(SIGRTMIN()).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One line of JSON about a run.
fn report(ending: &Ending, counters: &Counters, line: Option<tap::Count>) -> String {
    let text = |text: &str| {
        format!(
            "\"{}\"",
            text.escape_default().to_string().replace("\\'", "'")
        )
    };
    let ending = match ending {
        Ending::OutOfTime => text("out of time"),
        Ending::PoweredOff => text("powered off"),
        Ending::Reset => text("reset"),
        Ending::TripleFault => text("triple fault"),
        Ending::Crashed(p, message) => text(&format!("crash {p:x?} {message}")),
        Ending::Failed(what) => text(&format!("failed: {what}")),
    };
    let line = line.map_or(String::new(), |line| {
        format!(
            "\"line\":{{\"sent\":{},\"segments\":{},\"longest\":{},\"blank\":{},\"received\":{},\"joined\":{},\"refused\":{}}},",
            line.sent, line.segments, line.longest, line.blank, line.received, line.joined, line.refused
        )
    });
    let violations: Vec<String> = counters.violations.iter().map(|what| text(what)).collect();
    format!(
        "{{\"ending\":{ending},\"hypercalls\":{},\"signals\":{},\"events\":{},\"packets_in\":{},\
         \"packets_out\":{},\"commands\":{},\"bytes_read\":{},\"bytes_written\":{},{line}\
         \"violations\":[{}]}}",
        counters.all_hypercalls(),
        counters.signals,
        counters.events,
        counters.packets_in,
        counters.packets_out,
        counters.commands,
        counters.bytes_read,
        counters.bytes_written,
        violations.join(","),
    )
}
