//! The guest's side here is bytes written by hand.

mod adapter;
mod frames;
mod hand;
mod misdeeds;
