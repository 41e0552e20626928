//! Writes a captured session of a simulated guest, for Wireshark to look at.
//!
//! ```text
//! capture [--spoil] FILE
//! ```
//!
//! With `--spoil` one frame more is in it, whose checksum is wrong: whoever checks the capture sees
//! by it that he does.

use pv_tests::suite::XenNetLab;
use pv_tests::suite::net_session::{captured, spoilt};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let (spoil, path) = match &args[..] {
        [path] => (false, path),
        [flag, path] if flag == "--spoil" => (true, path),
        _ => return Err(std::io::Error::other("usage: capture [--spoil] FILE")),
    };
    let capture = captured::<XenNetLab>();
    if spoil {
        spoilt(&capture);
    }
    capture.save(Path::new(path))?;
    println!("{} frames", capture.len());
    Ok(())
}
