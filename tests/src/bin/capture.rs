//! Writes a captured session of a simulated guest, for Wireshark to look at.
//!
//! ```text
//! capture [--spoil] xen|hyperv FILE
//! ```
//!
//! With `--spoil` one frame more is in it, whose checksum is wrong: whoever checks the capture sees
//! by it that he does.

use pv_tests::suite::net_session::{captured, spoilt};
use pv_tests::suite::{HyperVNetLab, XenNetLab};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let usage = || std::io::Error::other("usage: capture [--spoil] xen|hyperv FILE");
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    let spoil = args.first().is_some_and(|first| first == "--spoil");
    args.drain(..usize::from(spoil));
    let [host, path] = &args[..] else {
        return Err(usage());
    };
    let capture = match host.to_str() {
        Some("xen") => captured::<XenNetLab>(),
        Some("hyperv") => captured::<HyperVNetLab>(),
        _ => return Err(usage()),
    };
    if spoil {
        spoilt(&capture);
    }
    capture.save(Path::new(path))?;
    println!("{} frames", capture.len());
    Ok(())
}
