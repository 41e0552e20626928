//! The real hosts, each booted by its own recipe.

pub mod l1;
