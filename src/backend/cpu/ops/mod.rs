//! The operations of a plan, one file each.

pub mod max_pool;
