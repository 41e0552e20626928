//! The guest kernel's image. Everything it does once it is up is in the library beside it; what is
//! below that (entry, memory, interrupts, clock, power) is in `boot`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;

/// On a hosted target there is nothing to boot.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("guest: a kernel image; build it with --target x86_64-unknown-none");
}
