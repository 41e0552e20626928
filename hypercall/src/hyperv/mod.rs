//! Hyper-V.
