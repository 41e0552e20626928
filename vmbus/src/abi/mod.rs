//! VMBus as it lies in messages and rings: structures and numbers, no logic.
//!
//! Sources: OpenVMM, `vm/devices/vmbus/vmbus_core/src/protocol.rs` and `vmbus_ring/src/lib.rs`;
//! Linux, `include/linux/hyperv.h`. Everything is little-endian.

pub mod guid;
pub mod message;
pub mod packet;
pub mod version;
