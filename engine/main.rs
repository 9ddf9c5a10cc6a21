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
            eprintln!("dreamseed: {}", told(&anyhow::Error::from(e)));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// An error and its causes in one line, each reason once. Names of files come from outside: what would steer the terminal is
/// shown as an escape, and a text without end is cut.
fn told(error: &anyhow::Error) -> String {
    const LONGEST: usize = 4000;
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    let plain: String = text.chars().take(LONGEST).map(shown).collect();
    if text.chars().nth(LONGEST).is_some() { plain + " ..." } else { plain }
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
