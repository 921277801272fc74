//! One step of a plan on chosen inputs: what the f64 reference makes of it, and whether the CPU's kernels agree.

#![allow(dead_code)] // each test binary and benchmark uses its part

pub mod cases;

use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions, Isa};
use rtmo_engine::backend::reference::{Person, Reference};
use rtmo_engine::backend::{Precision, RunOptions};
use rtmo_engine::plan::{Act, Extent, Op, Plan, Pose, PreAdd, Step, Tensor, View};
use std::collections::HashMap;
use std::fmt;
use std::io::Write;

/// Reproducible numbers (splitmix64).
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for every seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[lo, hi)`.
    pub fn uniform(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.bits() >> 40) as f32 / 16_777_216.0)
    }

    /// `n` values of mean 0 and the given standard deviation, uniform.
    pub fn values(&mut self, n: usize, deviation: f32) -> Vec<f32> {
        let a = deviation * 3f32.sqrt();
        (0..n).map(|_| self.uniform(-a, a)).collect()
    }

    /// An index below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
}

/// Instruction sets to test in fp32, best first: all that this CPU has, or the one that `RTMO_ISA` names. Those with tiles
/// do nothing else than the same without, so they are left out where they are not asked for.
pub fn isas() -> Vec<Isa> {
    let mut isas = all_isas();
    if isas.len() > 1 {
        isas.retain(|isa| isa.tile_unit().is_none());
    }
    isas
}

/// Instruction sets to test in bf16, in the same way; none if `RTMO_ISA` names one without.
pub fn isas_bf16() -> Vec<Isa> {
    all_isas().into_iter().filter(|isa| isa.bf16()).collect()
}

fn all_isas() -> Vec<Isa> {
    match std::env::var_os("RTMO_ISA").filter(|name| !name.is_empty()) {
        Some(_) => vec![Isa::choose().expect("RTMO_ISA names an instruction set of this CPU")],
        None => Isa::all().collect(),
    }
}

/// A step of a plan, and what its inputs hold. If there are survivor rows among them, the plan's selection is
/// executed first.
pub struct Case {
    /// Name for messages.
    pub name: String,
    /// A plan of few steps.
    pub plan: Plan,
    /// The step under test.
    pub step: usize,
    /// Maps, before any step.
    pub maps: Vec<(View, Vec<f32>)>,
    /// Survivor rows, after the selection: values of the first people; the rest of the rows repeats them.
    pub rows: Vec<(View, Vec<f32>)>,
    /// Selection.
    pub options: RunOptions,
    /// Arithmetic.
    pub precision: Precision,
}

/// What the reference makes of a [`Case`].
pub struct Expected {
    values: Vec<f64>,
    heatmaps: [Vec<f64>; 2],
    people: Vec<Person>,
}

impl Case {
    /// The only step of a plan, on maps.
    pub fn new(name: impl Into<String>, plan: Plan, maps: Vec<(View, Vec<f32>)>) -> Case {
        let step = plan.steps.len() - 1;
        let (options, precision) = (RunOptions::default(), Precision::default());
        Case { name: name.into(), plan, step, maps, rows: vec![], options, precision }
    }

    /// The operation under test.
    pub fn op(&self) -> &Op {
        &self.plan.steps[self.step].op
    }

    /// Largest number of products in a sum: rounding errors grow with its square root.
    pub fn depth(&self) -> usize {
        match self.op() {
            Op::Conv(c) => c.kernel * c.kernel * c.src.c / c.groups,
            Op::Attention { qkv, heads, .. } => {
                let (h, w) = self.plan.hw(*qkv);
                (h * w).max(qkv.c / 3 / heads)
            }
            Op::Pose(Pose::SurvivorLinear { src, .. }) => src[0].c,
            Op::LayerNorm { src, .. } => src.c,
            Op::Pose(Pose::Gau(g)) => g.dim.max(g.expansion),
            Op::Pose(Pose::BinDecode(d)) => d.dim.max(d.pe_dim),
            Op::PoolPyramid { .. } | Op::MaxPool { .. } => 1,
            Op::Pose(Pose::Letterbox { .. } | Pose::Select { .. }) => 1,
        }
    }

    /// An executor with all maps kept.
    pub fn prepare(&self, isa: Isa, threads: usize) -> CpuExecutor {
        let options = CpuOptions { threads, isa, precision: self.precision, keep_maps: true };
        CpuExecutor::new(self.plan.clone(), options).expect("an available instruction set")
    }

    /// Fills the executor's memory with NaNs, each its own, then the case's maps with their values, and runs the
    /// steps before the one under test.
    pub fn set_up(&self, cpu: &mut CpuExecutor) {
        for (i, value) in cpu.memory().iter_mut().enumerate() {
            *value = sentinel(i);
        }
        cpu.fill_scratch(f32::NAN);
        for (view, values) in &self.maps {
            write(cpu, *view, values);
        }
        if self.step > 0 {
            cpu.run_steps(0..self.step, &self.options);
            for (view, values) in &self.rows {
                for (i, row) in cpu.rows(*view).into_iter().enumerate() {
                    row.copy_from_slice(values.chunks_exact(view.c).cycle().nth(i).expect("rows"));
                }
            }
        }
    }

    /// The reference's result. The survivors are those of the CPU's selection, value by value, so that a step after
    /// it is tested on its own.
    pub fn expected(&self, people: Vec<Person>) -> Expected {
        let mut reference = Reference::new(self.plan.clone());
        reference.set_options(&self.options);
        for (view, values) in &self.maps {
            reference.set_map(*view, &wide(values));
        }
        let n = people.len();
        reference.set_people(people.clone());
        for (view, values) in &self.rows {
            let values: Vec<f64> = wide(values).into_iter().cycle().take(n * view.c).collect();
            reference.set_map(*view, &values);
        }
        reference.run_steps(self.step..self.step + 1);
        let values = reference.map(self.op().writes().expect("a step that writes"));
        Expected { values, heatmaps: reference.heatmaps().clone(), people }
    }

    /// Runs the step and compares: the values written with the reference, and all memory around them with what it was.
    pub fn check(&self, isa: Isa, threads: usize, expected: &Expected, tolerance: f64, report: &mut Report) {
        let mut cpu = self.prepare(isa, threads);
        self.set_up(&mut cpu);
        let before = cpu.memory().to_vec();
        let outputs = cpu.run_steps(self.step..self.step + 1, &self.options);
        let dst = self.op().writes().expect("a step that writes");
        let kernels = cpu.kernels(self.step).join(" + ");
        let name = format!("{} [{} x{threads}, {kernels}]", self.name, isa.name());
        report.count(&kernels);
        if cpu.people() != expected.people {
            report.fail(format!("{name}: other survivors than the first executor's"));
            return;
        }
        let values = read(&mut cpu, dst);
        report.compare(&name, &expected.values, &values, tolerance, &|i| self.place(dst, i));
        if matches!(self.op(), Op::Pose(Pose::BinDecode(_))) && self.options.heatmaps {
            let got = [&outputs.heatmaps_x, &outputs.heatmaps_y];
            for (axis, (got, expected)) in ["x", "y"].iter().zip(got.into_iter().zip(&expected.heatmaps)) {
                let place = |i: usize| format!("heatmap {axis}, value {i}");
                report.compare(&name, expected, got, tolerance, &place);
            }
        }
        let written = cpu.locate(dst);
        let outside = |i: usize| {
            written.is_none_or(|m| {
                let at = i.wrapping_sub(m.offset);
                at >= m.pixels() * m.pitch || at % m.pitch >= m.c
            })
        };
        let changed: Vec<usize> = (0..before.len())
            .filter(|&i| outside(i) && cpu.memory()[i].to_bits() != before[i].to_bits())
            .collect();
        if let Some(&first) = changed.first() {
            let place = self.place_in_memory(&cpu, first);
            report.fail(format!("{name}: wrote {} values outside its output, first {place}", changed.len()));
        }
    }

    /// [`Case::check`] for several instruction sets and numbers of threads.
    pub fn check_all(&self, isas: &[Isa], threads: &[usize], tolerance: f64, report: &mut Report) {
        let mut people = Vec::new();
        if self.step > 0 {
            let mut cpu = self.prepare(isas[0], 1);
            self.set_up(&mut cpu);
            people = cpu.people();
        }
        let expected = self.expected(people);
        for &isa in isas {
            for &threads in threads {
                self.check(isa, threads, &expected, tolerance, report);
            }
        }
    }

    /// Checks a case with NaN among its inputs: its results are NaN exactly where the reference's are, and within the
    /// tolerance elsewhere.
    pub fn check_nans(&self, isas: &[Isa], tolerance: f64, report: &mut Report) {
        let dst = self.op().writes().expect("a step that writes");
        for &isa in isas {
            let mut cpu = self.prepare(isa, 1);
            self.set_up(&mut cpu);
            let mut expected = self.expected(cpu.people()).values;
            cpu.run_steps(self.step..self.step + 1, &self.options);
            let mut got = read(&mut cpu, dst);
            let name = format!("{} with NaN [{}]", self.name, isa.name());
            let nans = expected.iter().filter(|v| v.is_nan()).count();
            report.check(0 < nans && nans < got.len(), format!("{name}: {nans} NaN expected"));
            for (i, (expected, got)) in expected.iter_mut().zip(&mut got).enumerate() {
                if expected.is_nan() != got.is_nan() {
                    report.fail(format!("{name}: {got} instead of {expected} at {}", self.place(dst, i)));
                }
                if expected.is_nan() {
                    (*expected, *got) = (0.0, 0.0);
                }
            }
            report.compare(&name, &expected, &got, tolerance, &|i| self.place(dst, i));
        }
    }

    /// Value `i` of a view in words.
    fn place(&self, view: View, i: usize) -> String {
        match self.plan.buffer_of(view).extent {
            Extent::Map { w, .. } => {
                let (pixel, c) = (i / view.c, i % view.c);
                format!("y {} x {} channel {c}", pixel / w, pixel % w)
            }
            Extent::Rows => format!("person {} channel {}", i / view.c, i % view.c),
        }
    }

    fn place_in_memory(&self, cpu: &CpuExecutor, i: usize) -> String {
        for (id, buffer) in self.plan.buffers.iter().enumerate() {
            let whole = View { buffer: rtmo_engine::plan::BufferId(id), c0: 0, c: buffer.c };
            if let Some(m) = cpu.locate(whole)
                && (m.offset..m.offset + m.pixels() * m.pitch).contains(&i)
            {
                let pixel = (i - m.offset) / m.pitch;
                let (y, x, c) = (pixel / m.w, pixel % m.w, (i - m.offset) % m.pitch);
                return format!("in '{}' at y {y} x {x} channel {c}", buffer.name);
            }
        }
        format!("at value {i} of the arena, in a guard zone")
    }
}

/// A NaN that tells where it was written.
fn sentinel(i: usize) -> f32 {
    f32::from_bits(0x7fc0_0000 | (i as u32 & 0x003f_ffff))
}

/// f32 to f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Writes a view of a map.
pub fn write(cpu: &mut CpuExecutor, view: View, values: &[f32]) {
    let map = cpu.locate(view).expect("a map that a step touches");
    assert_eq!(values.len(), map.pixels() * map.c, "values of a map");
    let memory = &mut cpu.memory()[map.offset..];
    for (pixel, values) in values.chunks_exact(map.c).enumerate() {
        memory[pixel * map.pitch..][..map.c].copy_from_slice(values);
    }
}

/// Values of a view of a map or of survivor rows.
pub fn read(cpu: &mut CpuExecutor, view: View) -> Vec<f32> {
    match cpu.locate(view) {
        Some(map) => {
            let memory = &cpu.memory()[map.offset..];
            (0..map.pixels()).flat_map(|p| &memory[p * map.pitch..][..map.c]).copied().collect()
        }
        None => cpu.rows(view).into_iter().flat_map(|row| row.iter().copied()).collect(),
    }
}

/// How far values are from what they should be.
pub struct Difference {
    /// Largest absolute error, and where.
    pub max_abs: f64,
    /// Its index.
    pub at: usize,
    /// `|got - expected| / |expected|`, Euclidean norms.
    pub relative_l2: f64,
    /// Largest `|error| / (|expected| + rms of expected)`.
    pub worst: f64,
}

/// Compares; a value that is not finite is infinitely wrong.
///
/// # Panics
/// If there are more or fewer than expected, or what is expected is not finite.
pub fn difference(expected: &[f64], got: &[f32]) -> Difference {
    assert_eq!(got.len(), expected.len(), "values");
    assert!(expected.iter().all(|e| e.is_finite()), "nothing can be close to what is not finite");
    let squares = expected.iter().map(|e| e * e).sum::<f64>();
    let rms = (squares / expected.len().max(1) as f64).sqrt();
    let mut d = Difference { max_abs: 0.0, at: 0, relative_l2: 0.0, worst: 0.0 };
    let mut errors = 0.0;
    for (i, (&e, &g)) in expected.iter().zip(got).enumerate() {
        let error = if g.is_finite() { (f64::from(g) - e).abs() } else { f64::INFINITY };
        errors += error * error;
        if error > d.max_abs {
            (d.max_abs, d.at) = (error, i);
        }
        if error > 0.0 {
            d.worst = d.worst.max(error / (e.abs() + rms));
        }
    }
    d.relative_l2 = if errors > 0.0 { (errors / squares).sqrt() } else { 0.0 };
    d
}

/// Tells why a test, or a part of one, does not run: on the terminal itself, since what a passing test prints is not shown.
pub fn not_run(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(std::io::stderr(), "{name}: not run: {why}");
}

/// Collects failures, so that one run shows them all.
#[derive(Default)]
pub struct Report {
    failures: Vec<String>,
    kernels: HashMap<String, usize>,
    comparisons: usize,
    /// Worst error in units of the tolerance, and whose it is.
    worst: (f64, String),
}

impl Report {
    /// Notes a failure.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Notes a comparison of the caller's own.
    pub fn check(&mut self, ok: bool, failure: String) {
        self.comparisons += 1;
        if !ok {
            self.fail(failure);
        }
    }

    fn count(&mut self, kernels: &str) {
        *self.kernels.entry(kernels.into()).or_default() += 1;
    }

    /// Fails if any error is above `tolerance * (|expected| + rms of expected)`.
    pub fn compare(
        &mut self,
        name: &str,
        expected: &[f64],
        got: &[f32],
        tolerance: f64,
        place: &dyn Fn(usize) -> String,
    ) {
        self.comparisons += 1;
        if expected.len() != got.len() {
            return self.fail(format!("{name}: {} values, expected {}", got.len(), expected.len()));
        }
        let d = difference(expected, got);
        if d.worst / tolerance > self.worst.0 {
            self.worst = (d.worst / tolerance, name.into());
        }
        if d.worst > tolerance {
            self.fail(format!(
                "{name}: max abs error {:.2e} at {} (expected {:.6e}, got {:.6e}), relative L2 {:.2e}, worst {:.2e} \
                 against {tolerance:.1e}",
                d.max_abs,
                place(d.at),
                expected[d.at],
                got[d.at],
                d.relative_l2,
                d.worst,
            ));
        }
    }

    /// Prints a summary.
    ///
    /// # Panics
    /// If anything failed, or nothing was compared.
    pub fn finish(self) {
        println!("{self}");
        assert!(self.comparisons > 0, "nothing was compared");
        assert!(self.failures.is_empty(), "{} failures:\n{}", self.failures.len(), self.failures.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kernels: Vec<_> = self.kernels.iter().map(|(k, n)| format!("{n} {k}")).collect();
        kernels.sort();
        write!(f, "{} comparisons", self.comparisons)?;
        if !kernels.is_empty() {
            write!(f, " of {}", kernels.join(", "))?;
        }
        let (share, name) = &self.worst;
        if *share > 0.0 {
            write!(f, "; worst error {:.0} % of its tolerance: {name}", 100.0 * share)
        } else {
            Ok(())
        }
    }
}

/// A plan of some steps of `plan`, with only the constants that they use, and without outputs.
pub fn isolate(plan: &Plan, steps: &[usize]) -> Plan {
    let steps: Vec<Step> = steps.iter().map(|&i| plan.steps[i].clone()).collect();
    let used: Vec<usize> = steps.iter().flat_map(|s| s.op.tensors()).map(|t| t.0).collect();
    let tensor = |(i, t): (usize, &Tensor)| Tensor {
        name: t.name.clone(),
        shape: t.shape.clone(),
        data: if used.contains(&i) { t.data.clone() } else { vec![] },
    };
    Plan {
        buffers: plan.buffers.clone(),
        tensors: plan.tensors.iter().enumerate().map(tensor).collect(),
        steps,
        inputs: plan.inputs.clone(),
        outputs: vec![],
    }
}

/// Everything about a step that a kernel may depend on; steps of equal signature are one case.
pub fn signature(plan: &Plan, step: &Step) -> String {
    let view = |v: View| {
        let b = plan.buffer_of(v);
        let extent = match b.extent {
            Extent::Map { h, w } => format!("{h}x{w}"),
            Extent::Rows => "rows ".into(),
        };
        if v.c == b.c { format!("{extent}x{}", v.c) } else { format!("{extent}x{}[{}+{}]", b.c, v.c0, v.c) }
    };
    let detail = match &step.op {
        Op::Pose(Pose::Letterbox { .. }) => "letterbox".into(),
        Op::Conv(c) => {
            let pre = match c.pre_add {
                PreAdd::None => "",
                PreAdd::Same(_) => " + map",
                PreAdd::Upsampled(_) => " + upsampled",
                PreAdd::Table(_) => " + table",
            };
            let act = match c.act {
                Act::None => "",
                Act::Relu => " relu",
                Act::Silu => " silu",
                Act::Gelu => " gelu",
            };
            let post = if c.post_add.is_some() { " + residual" } else { "" };
            let groups = if c.groups > 1 { format!(" groups {}", c.groups) } else { String::new() };
            let stride = if c.stride > 1 { format!("/{}", c.stride) } else { String::new() };
            format!("conv {0}x{0}{stride}{groups}{pre}{act}{post}", c.kernel)
        }
        Op::PoolPyramid { window, .. } => format!("pool {window}"),
        Op::MaxPool { window, stride, .. } => format!("max pool {window}x{window}/{stride}"),
        Op::Attention { heads, .. } => format!("attention of {heads} heads"),
        Op::LayerNorm { .. } => "layer norm".into(),
        Op::Pose(Pose::Select { .. }) => "select".into(),
        Op::Pose(Pose::SurvivorLinear { .. }) => "survivor linear".into(),
        Op::Pose(Pose::Gau(g)) => format!("gau {} tokens {} {} {}", g.tokens, g.dim, g.expansion, g.key_dim),
        Op::Pose(Pose::BinDecode(d)) => {
            format!("bins {} tokens {} {} {}", d.tokens, d.pe_dim, d.x.bins, d.y.bins)
        }
    };
    let reads: Vec<_> = step.op.reads().into_iter().map(view).collect();
    let writes = step.op.writes().map_or(String::new(), view);
    format!("{detail} {} -> {writes}", reads.join(", "))
}

/// The first step of every signature, in order.
pub fn distinct(plan: &Plan) -> Vec<(usize, String)> {
    let mut seen = std::collections::HashSet::new();
    let all = plan.steps.iter().enumerate().map(|(i, step)| (i, signature(plan, step)));
    all.filter(|(_, signature)| seen.insert(signature.clone())).collect()
}
