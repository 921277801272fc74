//! What only a pose network needs of the host.

pub mod frames;
