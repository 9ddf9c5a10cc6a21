//! The binary: parses the command line, runs it, prints an error with its causes and picks the exit code.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use dreamseed::{Error, cli};

fn main() -> ExitCode {
    let args = match cli::Cli::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let text = e.to_string();
            let shown = printable(&abridged(&text));
            match e.use_stderr() && shown != text {
                true => eprint!("{shown}"),
                false => drop(e.print()),
            }
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    init_logging(args.verbose, args.log_json);
    match cli::run(args) {
        Ok(()) | Err(Error::Cancelled) => ExitCode::SUCCESS,
        Err(e) => {
            let usage = matches!(e, Error::Usage(_));
            eprintln!("dreamseed: {}", told(&anyhow::Error::from(e)));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// An error and its causes in one line, each reason once.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    printable(&abridged(&text))
}

/// A text whose lines are cut in the middle where they are longer than anybody reads, and that ends after some lines: names and
/// values in it come from outside and may be of any length.
fn abridged(text: &str) -> String {
    const LINES: usize = 40;
    const LONGEST: usize = 600;
    const TAIL: usize = 200;
    let line = |line: &str| {
        let count = line.chars().count();
        if count <= LONGEST {
            return line.to_owned();
        }
        let head: String = line.chars().take(LONGEST - TAIL).collect();
        let tail: String = line.chars().skip(count - TAIL).collect();
        format!("{head} ... ({} characters) ... {tail}", count - LONGEST)
    };
    let mut lines: Vec<String> = text.split('\n').take(LINES).map(line).collect();
    lines.extend(text.split('\n').nth(LINES).map(|_| "...".to_owned()));
    lines.join("\n")
}

/// A text with escapes in place of what would steer the terminal or turn the direction of writing.
fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n';
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) || turns(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// Messages go to stderr: warnings by default, more with -v, or as DREAMSEED_LOG says; as lines for people, or as JSON for programs.
fn init_logging(verbose: u8, json: bool) {
    use tracing_subscriber::EnvFilter;
    // symphonia warns of every broken page of a file; what matters of that comes as an error
    let default = ["warn,symphonia=error", "info,hyper=warn,symphonia=error", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_env("DREAMSEED_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match json {
        true => lines.json().flatten_event(true).init(),
        false => lines.without_time().with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_short_and_steer_nothing() {
        let long = anyhow::anyhow!("language: \"{}\" is not one of en, ko", "e".repeat(20_000));
        let text = told(&long);
        assert!(text.len() < 700 && text.starts_with("language: \"eee") && text.ends_with("is not one of en, ko"), "{text}");
        let lines = told(&anyhow::anyhow!("{}", "line\n".repeat(1000)));
        assert_eq!((lines.lines().count(), lines.lines().last()), (41, Some("...")));
        assert_eq!(told(&anyhow::anyhow!("a\u{1b}[2J\u{202e}b\nc")), "a\\u{1b}[2J\\u{202e}b\nc");
        let both = anyhow::anyhow!("cause").context("what failed: cause");
        assert_eq!(told(&both), "what failed: cause");
    }
}
