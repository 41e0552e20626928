//! The network of the real hosts: the outermost QEMU's user network, which a bridge in the machine it runs
//! leads on to the guests, one at a time. A port of this machine's loopback leads to the guest's web server,
//! and the guest finds this machine's loopback at an address of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::debian::Debian;
use crate::disk;

/// What the user network's DHCP server gives to whoever asks first: the guest, since nobody else asks.
pub const GUEST: &str = "10.0.2.15";
/// This machine, as the guest sees it.
pub const HOST: &str = "10.0.2.2";
/// Every guest's: the DHCP server goes by it, and the first address has to be free for each.
pub const MAC: &str = "00:16:3e:20:06:17";

/// A TCP port of the loopback that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A web server on this machine's loopback, with the files that are also on the disk.
pub struct Files {
    port: u16,
    server: Child,
}

impl Files {
    /// Serves the disk's files out of `dir` until it is dropped.
    pub fn serve(debian: &Debian, dir: &Path) -> Result<Self> {
        for (path, bytes) in disk::contents() {
            let to = dir.join(path);
            fs::create_dir_all(to.parent().unwrap_or(dir))?;
            fs::write(to, bytes)?;
        }
        let port = free_port()?;
        let server = Command::new(debian.file("busybox-static", "usr/bin/busybox")?)
            .args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let files = Self { port, server };
        for _ in 0..100 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(files);
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("busybox httpd does not answer on port {port}")
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a guest finds it.
    pub fn url(&self) -> String {
        format!("http://{HOST}:{}", self.port)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
