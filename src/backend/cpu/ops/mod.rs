//! The operations of a plan, one file each: what computes it, and `prepare`, which adds its phases.

pub mod attention;
pub mod conv;
pub mod layer_norm;
pub mod max_pool;
pub mod pool_pyramid;
