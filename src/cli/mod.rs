//! The command line. Each command has a file; this one has the parser and the exit status.

mod bench;
mod check;
mod convert;
mod curves;
mod download;
mod eval;
mod fetch;
mod files;
mod infer;
mod info;
mod models;
mod options;
mod plot;
mod sweep;
mod table;
mod terminal;
mod try_kernels;
mod video;
mod words;

use clap::{Parser, Subcommand};
use rtmo_engine::{Error, Result};
use std::io::ErrorKind;
use std::process::ExitCode;

/// RTMO, one-stage real-time multi-person pose estimation: photos in, people out.
#[derive(Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rtmo-engine infer family.jpg                     draw the people into rtmo-out/family.jpg
  rtmo-engine infer photos/ --json people.jsonl    a folder, and a line of JSON a photo
  rtmo-engine bench --model rtmo-s --layers        how fast, and where the time goes
  rtmo-engine eval --annotations person_keypoints_val2017.json --images val2017/
                                                   average precision, beside the published one
  rtmo-engine download rtmo-s                      the authors' weights, once, for all commands
  rtmo-engine models                               the published weights, and which are here";

// The help of each command is in its file.
#[derive(Subcommand)]
enum Command {
    Infer(infer::Infer),
    Bench(bench::Bench),
    Check(check::Check),
    Eval(eval::Eval),
    Download(download::Download),
    Convert(convert::Convert),
    Models(models::Models),
    Info(info::Info),
    #[command(hide = true)]
    TryKernels(try_kernels::TryKernels),
}

/// How a command that did not fail ended.
pub enum Outcome {
    /// All was done.
    Done,
    /// Something was left out, and has been reported.
    Incomplete,
    /// The user stopped it.
    Interrupted,
}

pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| words::explain(error).exit());
    try_kernels::register();
    let result = match cli.command {
        Command::Infer(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Download(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Models(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::TryKernels(command) => command.run(),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::FAILURE,
        // The status with which a shell reports a program that SIGINT ended.
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        // The reader of the output has ended, as `head` does. The status is that of SIGPIPE.
        Err(error) if broken_pipe(&error) => ExitCode::from(141),
        Err(error) => {
            terminal::complain("error", &error);
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe)
}

/// What every command returns.
type Ended = Result<Outcome>;
