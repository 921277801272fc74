//! RTMO as a [`crate::plan::Plan`]: read off a checkpoint, folded, described once for all backends.
