//! The binary: parses the command line, runs it, prints an error with its causes and picks the exit code.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use dreamseed::{Error, cli};

fn main() -> ExitCode {
    let args = match cli::Cli::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    init_logging(args.verbose);
    match cli::run(args) {
        Ok(()) | Err(Error::Cancelled) => ExitCode::SUCCESS,
        Err(e) => {
            let usage = matches!(e, Error::Usage(_));
            eprintln!("dreamseed: {:#}", anyhow::Error::from(e));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// Messages go to stderr: warnings by default, more with -v, or as DREAMSEED_LOG says.
fn init_logging(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = ["warn", "info,hyper=warn", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_env("DREAMSEED_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
