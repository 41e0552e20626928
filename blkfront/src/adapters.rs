//! Disks as other libraries want them, each behind a feature of that library's name.
//!
//! These libraries lend slices, so bytes are copied once each way, through the pool.

#[cfg(feature = "block-device-driver")]
pub mod block_device_driver;
#[cfg(feature = "embedded-sdmmc")]
pub mod embedded_sdmmc;
#[cfg(feature = "gpt_disk_io")]
mod gpt_disk_io;
