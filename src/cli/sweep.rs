//! `rtmo-engine bench --sweep`: every size of the model, alone and in batches.

use super::bench::milliseconds;
use super::curves::{self, Curve, Point};
use super::options::Network;
use super::plot::quantile;
use super::table::{Align, Table};
use super::terminal::Terminal;
use rtmo_engine::backend::{Device, cpu};
use rtmo_engine::{Engine, EngineOptions, Error, Photo, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The points of a sweep.
pub struct Sweep<'a> {
    pub network: &'a Network,
    /// Empty: powers of two.
    pub batches: &'a [u16],
    pub people: Option<usize>,
    /// Runs to warm up, and timed ones; fewer where a batch takes long.
    pub runs: (u32, u32),
}

/// Timed runs of a point end after this long, but not before the third.
const LONGEST: Duration = Duration::from_secs(3);
const FEWEST: usize = 3;

impl Sweep<'_> {
    /// The network that was asked for, or all sizes of the model.
    pub fn networks(asked: &Network) -> Vec<Network> {
        let named = |name: &str| Network { model: Some(name.into()), ..asked.clone() };
        match asked.is_named() {
            true => vec![asked.clone()],
            false => ["rtmo-t", "rtmo-s", "rtmo-m", "rtmo-l"].map(named).into(),
        }
    }

    /// Measures all points, prints them as they come, and returns the figures and their curves.
    ///
    /// # Errors
    /// If a network cannot be prepared, or does not run at batch size 1.
    pub fn run(&self, photo: &Photo, terminal: &Terminal) -> Result<(Value, String)> {
        let (mut points, mut all, mut backend) = (Vec::new(), Vec::new(), String::new());
        for network in Sweep::networks(self.network) {
            let checkpoint = network.any_checkpoint(terminal)?;
            let mut options = EngineOptions::default().with_placement(network.placement());
            options.input_size = network.size;
            options.force_people = self.people;
            let mut engine = Engine::from_checkpoint(&checkpoint, options)?;
            drop(checkpoint);
            if backend.is_empty() {
                backend = engine.executor().describe();
                terminal.say(format!("machine  {}\nbackend  {backend}\n", cpu::name()))?;
            }
            let (w, h) = engine.input_size();
            let mut curve = Curve { name: format!("{} {w}x{h}", engine.name()), points: Vec::new() };
            for batch in self.batches(&engine) {
                let point = match self.point(&mut engine, photo, batch) {
                    Ok(point) => point,
                    Err(Error::Device(why)) if batch > 1 => {
                        terminal.complain("note", format!("{} ends before batch {batch}: {why}", curve.name));
                        break;
                    }
                    Err(error) => return Err(error),
                };
                let Point { p50, images_per_second, .. } = point;
                terminal.say(format!("{} batch {batch}: {p50:.3} ms", curve.name))?;
                let gflops = engine.flops() as f64 * images_per_second / 1e9;
                all.push(json!({ "model": engine.name(), "input": [w, h], "batch": batch, "p50_ms": p50,
                    "images_per_second": images_per_second, "gflops": gflops }));
                curve.points.push(point);
            }
            points.push(curve);
        }
        terminal.say(format!("\n{}", table(&points)))?;
        let gpu = self.network.device != Device::Cpu && backend.contains("cuda:");
        let what = if gpu { "photos in device memory" } else { "photos" };
        let subtitle = format!("{what} to people; {}; {backend}", cpu::name());
        let figures = json!({ "version": env!("CARGO_PKG_VERSION"), "cpu": cpu::name(), "backend": backend,
            "resident": gpu, "sweep": all });
        Ok((figures, curves::draw("Latency and throughput", &subtitle, &points)))
    }

    fn batches(&self, engine: &Engine) -> Vec<usize> {
        let most = if engine.options().placement.device == Device::Cpu { 8 } else { 64 };
        match self.batches {
            [] => (0..).map(|i| 1 << i).take_while(|&n| n <= most).collect(),
            given => given.iter().map(|&n| n.into()).collect(),
        }
    }

    /// Median latency of a batch, and images a second at that.
    fn point(&self, engine: &mut Engine, photo: &Photo, batch: usize) -> Result<Point> {
        let photos = vec![photo.clone(); batch];
        let (warmup, runs) = self.runs;
        let start = Instant::now();
        for _ in 0..warmup.max(1) {
            engine.infer(&photos)?;
            if start.elapsed() > LONGEST {
                break;
            }
        }
        let (mut ms, start) = (Vec::new(), Instant::now());
        while ms.len() < runs as usize && (ms.len() < FEWEST || start.elapsed() < LONGEST) {
            let start = Instant::now();
            engine.infer_again(&photos)?;
            ms.push(milliseconds(start.elapsed()));
        }
        ms.sort_by(f64::total_cmp);
        let p50 = quantile(&ms, 0.5);
        Ok(Point { batch, p50, images_per_second: 1e3 * batch as f64 / p50 })
    }
}

fn table(curves: &[Curve]) -> Table {
    const ALIGN: &[Align] = &[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right];
    let mut table = Table::new(&["model", "batch", "p50 ms", "ms an image", "images/s"], ALIGN);
    for curve in curves {
        for Point { batch, p50, images_per_second } in &curve.points {
            let each = p50 / *batch as f64;
            let figures = [batch.to_string(), format!("{p50:.3}"), format!("{each:.3}")];
            let rate = format!("{images_per_second:.1}");
            table.row(std::iter::once(curve.name.clone()).chain(figures).chain([rate]));
        }
    }
    table
}
