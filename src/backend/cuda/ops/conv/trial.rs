//! Kernels that no GPU has confirmed run first in a process of their own: what crashes or hangs there leaves the caller's
//! process and context alone.
//!
//! The other process says `ready`, reads jobs from its input, one a line, and answers each with the name of a
//! [`Verdict`]. If it ends without an answer, the job at hand is bad; if an answer takes too long, the process is ended,
//! and the job has hung.

use super::cache;
use super::judge::{Verdict, fault};
use super::scratch::Scratch;
use super::shape::Shape;
use super::tiles::Choice;
use super::tune;
use crate::backend::cuda::device::{CudaGpu, Device};
use crate::backend::cuda::gpu::Gpu;
use crate::backend::device::Kernels;
use crate::error::{Error, Result};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the program whose argument `try-kernels` with the number of a GPU calls [`serve`]. Without one, kernels that no
/// GPU has confirmed are left out.
#[doc(hidden)]
pub fn set_trial_program(program: PathBuf) {
    // The first one stays.
    let _ = PROGRAM.set(program);
}

/// The command for a GPU, if there is a program for it.
pub fn command(ordinal: usize) -> Option<Command> {
    let mut command = Command::new(PROGRAM.get()?);
    command.args(["try-kernels", &ordinal.to_string()]);
    Some(command)
}

/// A choice for a launch, to be tried.
pub struct Job {
    pub shapes: Vec<Shape>,
    pub images: usize,
    pub choice: Choice,
}

/// How long another process may take.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Until it is ready.
    pub ready: Duration,
    /// For each answer.
    pub answer: Duration,
}

/// Opening a GPU takes seconds where many processes do; a job packs some megabytes of weights and launches some
/// microseconds of work [`RUNS`] times.
pub const LIMITS: Limits = Limits { ready: Duration::from_secs(60), answer: Duration::from_secs(20) };

/// Times that a choice must be right: a race may not show the first time.
const RUNS: usize = 20;

/// What another process finds of each job; `None` where it was not tried: there is no program, it does not get ready, or
/// a kernel of the same name has hung or ended the process.
pub fn run(jobs: &[Job], start: &mut dyn FnMut() -> Option<Command>, limits: Limits) -> Vec<Option<Verdict>> {
    let mut verdicts: Vec<Option<Verdict>> = vec![None; jobs.len()];
    let mut left: Vec<usize> = (0..jobs.len()).collect();
    let mut ended: Vec<usize> = Vec::new();
    while !left.is_empty() {
        let lines = left.iter().map(|&i| cache::job(&jobs[i]) + "\n").collect();
        let Some(mut process) = start().and_then(|command| Process::start(command, lines)) else { break };
        if process.line(limits.ready).as_deref() != Ok("ready") {
            break;
        }
        let mut answered = 0;
        for &i in &left {
            let (verdict, goes_on) = match process.line(limits.answer) {
                Ok(answer) => match Verdict::parse(&answer) {
                    Some(verdict) => (verdict, true),
                    None => (Verdict::Bad, false),
                },
                Err(Silence::Ended) => (Verdict::Bad, false),
                Err(Silence::Waits) => (Verdict::Hung, false),
            };
            verdicts[i] = Some(verdict);
            answered += 1;
            if !goes_on {
                ended.push(i);
                break;
            }
        }
        left.drain(..answered);
        // Each hang takes its time, and each crash another process, so a kernel gets one only.
        let gone: Vec<&str> = ended.iter().map(|&i| jobs[i].choice.tile.name).collect();
        left.retain(|&i| !gone.contains(&jobs[i].choice.tile.name));
    }
    verdicts
}

/// Why a process says nothing.
#[derive(Debug, PartialEq)]
enum Silence {
    Ended,
    Waits,
}

/// Another process. Dropping it ends it.
struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(mut command: Command, input: String) -> Option<Process> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let (mut to, from) = (child.stdin.take()?, child.stdout.take()?);
        // Threads, since neither pipe can be given a deadline. They end with the process and are not waited for.
        std::thread::spawn(move || to.write_all(input.as_bytes()));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Some(Process { child, lines })
    }

    fn line(&mut self, limit: Duration) -> std::result::Result<String, Silence> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        self.lines.recv_timeout(limit).map_err(|error| match error {
            Disconnected => Silence::Ended,
            Timeout => Silence::Waits,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process: answers jobs from `input` on `output`, on GPU `ordinal`.
///
/// # Errors
/// Failures of the GPU, of a pipe; a line that is no job. The caller takes each for a job that is bad.
#[doc(hidden)]
pub fn serve(ordinal: usize, input: impl BufRead, output: impl Write) -> Result<()> {
    let gpu: Arc<dyn Gpu> = Arc::new(CudaGpu(Device::open(ordinal, Kernels::All)?));
    serve_on(&gpu, input, output)
}

fn serve_on(gpu: &Arc<dyn Gpu>, input: impl BufRead, mut output: impl Write) -> Result<()> {
    let mut say = |word: &str| {
        let said = writeln!(output, "{word}").and_then(|()| output.flush());
        said.map_err(|e| Error::Device(format!("a trial's answer: {e}")))
    };
    say("ready")?;
    for line in input.lines() {
        let line = line.map_err(|e| Error::Device(format!("a trial's jobs: {e}")))?;
        let job = cache::parse_job(&line).ok_or_else(|| Error::Usage(format!("'{line}': expected a job")))?;
        say(judge(gpu, &job)?.name())?;
    }
    Ok(())
}

/// # Errors
/// If the job cannot be run on this GPU, or fails there.
fn judge(gpu: &Arc<dyn Gpu>, job: &Job) -> Result<Verdict> {
    let mut scratch = Scratch::new(gpu, &job.shapes, job.images)?;
    let want = scratch.output(&tune::fallback(&gpu.caps(), &job.shapes, job.images))?;
    for _ in 0..RUNS {
        if fault(&scratch.output(&job.choice)?, &want).is_some() {
            return Ok(Verdict::Bad);
        }
    }
    Ok(Verdict::Good)
}

#[cfg(test)]
mod tests {
    use super::super::tiles::tile;
    use super::super::tune::tests::shape;
    use super::*;
    use crate::backend::cuda::emulator;
    use crate::backend::cuda::ops::conv::params::Trigger;
    use crate::backend::cuda::tests::gpus;
    use Verdict::{Bad, Good, Hung};

    fn job(name: &str, trigger: Trigger) -> Job {
        let choice = Choice { tile: tile(name).unwrap(), width: 8, split: 1, buffers: 2, trigger };
        Job { shapes: vec![shape(3, 1, 40, 64, 9)], images: 1, choice }
    }

    /// Long enough for a shell on a busy machine.
    const SHORT: Limits = Limits { ready: Duration::from_secs(10), answer: Duration::from_secs(4) };

    /// Runs jobs with one shell script after the other.
    #[cfg(unix)]
    fn with(scripts: &[&str], jobs: &[Job]) -> Vec<Option<Verdict>> {
        let mut scripts = scripts.iter();
        let shell = |script: &&str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        run(jobs, &mut || scripts.next().map(shell), SHORT)
    }

    #[cfg(unix)]
    #[test]
    fn processes_that_crash_hang_or_babble_are_survived() {
        let names = ["64x64", "64x64", "64x16", "64x16", "128x32", "128x64"];
        let jobs = names.map(|name| job(&format!("conv_pp_3_3_{name}"), Trigger::Mid));
        let found = with(
            &[
                "echo ready; echo good; echo bad; exec sleep 1000",
                "echo ready; exit 1",
                "echo ready; echo 42; echo good",
            ],
            &jobs,
        );
        // The fourth is of the kernel that hung.
        assert_eq!(found, [Some(Good), Some(Bad), Some(Hung), None, Some(Bad), Some(Bad)]);
        assert_eq!(with(&[], &jobs), [None; 6]);
        assert_eq!(with(&["exit 1", "echo ready; echo good"], &jobs), [None; 6], "never ready");
        assert_eq!(with(&["echo error"], &jobs), [None; 6], "something else than ready");
        assert_eq!(run(&jobs, &mut || Some(Command::new("/no/such/program")), SHORT), [None; 6]);
    }

    #[cfg(unix)]
    #[test]
    fn jobs_arrive_one_a_line() {
        let jobs = [Trigger::Early, Trigger::Mid, Trigger::Early].map(|t| job("conv_pp_3_3_64x64", t));
        let script =
            "echo ready; while read line; do case \"$line\" in *Early) echo good;; *) echo bad;; esac; done";
        assert_eq!(with(&[script], &jobs), [Some(Good), Some(Bad), Some(Good)]);
    }

    /// What the other process says, of a kernel and of one with a mistake.
    #[test]
    fn a_wrong_kernel_is_found_out() {
        let jobs = [job("conv_wg_3_1x1_64x64_8", Trigger::Mid), job("conv_wg_3_1x1_32x64_8", Trigger::Early)];
        let input: String = jobs.iter().map(|job| cache::job(job) + "\n").collect();
        let answers = |gpu: &Arc<dyn Gpu>| {
            let mut said = Vec::new();
            serve_on(gpu, input.as_bytes(), &mut said).unwrap();
            String::from_utf8(said).unwrap()
        };
        for gpu in gpus(&[1]) {
            assert_eq!(answers(&gpu), "ready\ngood\ngood\n");
        }
        let Some(gpu) = gpus(&[1]).into_iter().next() else { return };
        for (line, jobs) in [("", 1), ("nonsense", 1), (input.trim_end_matches("Early\n"), 2)] {
            let mut said = Vec::new();
            let result = serve_on(&gpu, format!("{line}\n").as_bytes(), &mut said);
            let said = String::from_utf8(said).unwrap();
            assert!(result.is_err() && said.lines().count() <= jobs, "{line}: {said}");
        }
        let text = emulator::source("conv_wg");
        let operand = |strides: &str| format!("wgmma_operand(weights + wn * WN * BK * 2, {strides})");
        let (from, to) = (operand("8, PLANES * 8"), operand("PLANES * 8, 8"));
        assert!(text.contains(&from), "the kernel has changed, and so must the mistake");
        let keep = |line: &&str| !line.starts_with("CONV_WG") || line.contains("(3, 1, 1, ");
        let text: String = text.lines().filter(keep).map(|l| format!("{l}\n")).collect();
        let Some(gpu) = emulator::Emulator::mutated("conv_wg", &text.replace(&from, &to), 1) else { return };
        assert_eq!(answers(&gpu), "ready\nbad\nbad\n");
    }
}
