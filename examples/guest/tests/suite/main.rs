//! The jobs over disks in memory and over simulated hosts, with tables and file systems written by other libraries.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails, as it should"
)]

#[cfg(test)]
mod adapters;
#[cfg(test)]
mod echo;
#[cfg(test)]
mod http;
#[cfg(test)]
mod image;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod network;
#[cfg(test)]
mod other;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tour;
