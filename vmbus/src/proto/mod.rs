//! What the control messages mean, without sending or waiting: values in, values out.

pub mod awaited;
pub mod contact;
pub mod gpadl;
pub mod incoming;
pub mod offers;
pub mod outgoing;
