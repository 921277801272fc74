//! Command line of rtmo-engine.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
