//! `rtmo-engine bench --threads 1,2,4`: how the time falls with the number of threads.

use super::milliseconds;
use crate::cli::options::Network;
use crate::cli::plot::quantile;
use crate::cli::table::{Align, Table};
use crate::cli::terminal::Terminal;
use rtmo_engine::backend::Device;
use rtmo_engine::backend::cpu::{self, Isa};
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::{Engine, EngineOptions, Error, Photo, Result, shown};
use serde_json::{Value, json};

/// What is measured with each number of threads.
pub struct Scaling<'a> {
    pub network: &'a Network,
    pub options: EngineOptions,
    /// A batch.
    pub photos: &'a [Photo],
    /// Runs to warm up, and timed ones.
    pub runs: (u32, u32),
}

/// Medians in milliseconds.
struct Row {
    threads: u16,
    network: f64,
    total: f64,
}

impl Scaling<'_> {
    /// Measures, prints a table, and returns the figures.
    ///
    /// # Errors
    /// If the network runs on a GPU; if an engine cannot be prepared.
    pub fn run(self, checkpoint: &Checkpoint, terminal: &mut Terminal) -> Result<Value> {
        let (warmup, iters) = self.runs;
        let counts = &self.network.threads;
        if let Some(warning) = self.network.crowded() {
            terminal.complain("warning", warning);
        }
        terminal.progress(Some(counts.len() * (warmup + iters) as usize), "runs");
        let (mut rows, mut name, mut backend) = (Vec::new(), String::new(), String::new());
        for &threads in counts {
            let options = self.options.with_threads(threads.into());
            let mut engine = Engine::from_checkpoint(checkpoint, options)?;
            if engine.options().placement.device != Device::Cpu {
                let what = "several numbers of --threads are for a CPU; --device cpu chooses it";
                return Err(Error::Usage(what.into()));
            }
            for _ in 0..warmup {
                engine.infer(self.photos)?;
                terminal.advance();
            }
            let (mut network, mut total) = (Vec::new(), Vec::new());
            for _ in 0..iters {
                let (_, timings) = engine.infer_timed(self.photos)?;
                network.push(milliseconds(timings.stages.network));
                total.push(milliseconds(timings.total));
                terminal.advance();
            }
            let median = |mut ms: Vec<f64>| {
                ms.sort_by(f64::total_cmp);
                quantile(&ms, 0.5)
            };
            rows.push(Row { threads, network: median(network), total: median(total) });
            let (w, h) = engine.input_size();
            name = format!("{} {w}x{h}", engine.name());
            let precision = engine.options().placement.precision.unwrap_or_default();
            backend = format!("CPU, {}, {precision}", Isa::choose()?.name());
        }
        terminal.finish();
        terminal.say(format!("rtmo-engine {}", env!("CARGO_PKG_VERSION")))?;
        terminal.say(format!("model    {name}; {}", shown(checkpoint.path())))?;
        terminal.say(format!("machine  {}, {} physical cores", cpu::name(), cpu::cores()))?;
        terminal.say(format!("backend  {backend}"))?;
        terminal.say(format!("runs     {iters} after {warmup} to warm up, batch {}\n", self.photos.len()))?;
        terminal.say(table(&rows))?;
        let all = rows.iter().map(
            |row| json!({ "threads": row.threads, "network_p50_ms": row.network, "total_p50_ms": row.total }),
        );
        Ok(json!({ "version": env!("CARGO_PKG_VERSION"), "model": name, "batch": self.photos.len(),
            "machine": { "cpu": cpu::name(), "cores": cpu::cores(), "backend": backend },
            "threads": all.collect::<Vec<_>>() }))
    }
}

/// Speed and efficiency are those of the network, beside the first row's.
fn table(rows: &[Row]) -> Table {
    const ALIGN: &[Align] = &[Align::Right; 5];
    let mut table = Table::new(&["threads", "network p50 ms", "total p50 ms", "speed", "efficiency"], ALIGN);
    let first = &rows[0];
    for row in rows {
        let speed = first.network / row.network;
        let share = speed * f64::from(first.threads) / f64::from(row.threads);
        table.row([
            row.threads.to_string(),
            format!("{:.3}", row.network),
            format!("{:.3}", row.total),
            format!("{speed:.2}"),
            format!("{:.0} %", 100.0 * share),
        ]);
    }
    table
}
