//! Command line of rtmo-engine.

fn main() {}
