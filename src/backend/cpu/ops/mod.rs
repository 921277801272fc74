//! The operations of a plan, a file or folder each, with their kernels and a `prepare` that adds their phases.

pub mod attention;
pub mod conv;
pub mod layer_norm;
pub mod max_pool;
pub mod pool_pyramid;
