//! The host model against a guest written by hand, with fixed pages and no driver code.

mod block;
mod calls;
mod events;
mod flat;
mod front_end;
mod guest;
mod hostile;
mod lifecycle;
mod mad;
mod net;
mod net_guest;
mod store;
mod tree;
