//! Compares the f64 reference with a dump of the authors' PyTorch (see `tools/dump_reference.py`).
//!
//! `cargo run --release --example parity DUMP.safetensors [WEIGHTS]`

use rtmo_engine::backend::reference::Reference;
use rtmo_engine::parity::{Dump, Tolerance};
use rtmo_engine::weights::Checkpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: parity DUMP [WEIGHTS]")?;
    let dump = Dump::open(&path)?;
    let weights = match arguments.next() {
        Some(path) => Checkpoint::open(path)?,
        None => dump.weights(),
    };
    let plan = dump.plan(&weights)?;
    let flops: u64 = plan.steps.iter().map(|step| plan.flops(step)).sum();
    println!("{path}: {} steps, {:.2} GFLOP", plan.steps.len(), flops as f64 / 1e9);
    let report = dump.compare(&mut Reference::new(plan))?;
    print!("{report}");
    Ok(report.check(&Tolerance::F32)?)
}
