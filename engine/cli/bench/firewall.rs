//! `dreamseed bench firewall`: of a list of texts, how many look like attacks on the model's instructions.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use clap::Args;
use dreamseed_models::weights;
use serde::Serialize;

use crate::{Error, Result, serve::suspicions};

/// Arguments of `bench firewall`.
#[derive(Clone, Debug, Args)]
pub struct FirewallArgs {
    /// Texts, UTF-8, one a line; \n is a line break, lines with # first are none
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Tell those that are not found, in place of those that are
    #[arg(long)]
    missed: bool,
}

/// What was found.
#[derive(Serialize)]
pub(super) struct FirewallResult {
    texts: usize,
    suspicious: usize,
    share: f64,
    /// By kind; a text may be of several.
    kinds: BTreeMap<&'static str, usize>,
    /// The first of them, or of those that were not found.
    examples: Vec<String>,
    seconds: f64,
    megabytes_per_s: f64,
}

pub(super) fn run(args: &FirewallArgs) -> Result<FirewallResult> {
    let failed = |source| Error::Io { path: args.file.clone(), source };
    let bytes = weights::read_whole(&args.file, weights::TEXT).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|e| failed(std::io::Error::other(e)))?;
    let texts: Vec<String> =
        text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(|l| l.replace("\\n", "\n")).collect();
    let (mut kinds, mut suspicious, mut examples) = (BTreeMap::new(), 0, Vec::new());
    let begun = Instant::now();
    for text in &texts {
        let found = suspicions(text);
        suspicious += usize::from(!found.is_empty());
        if found.is_empty() == args.missed && examples.len() < 20 {
            examples.push(text.chars().take(200).collect());
        }
        for kind in found {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let share = suspicious as f64 / texts.len().max(1) as f64;
    let megabytes_per_s = text.len() as f64 / 1e6 / seconds.max(1e-9);
    Ok(FirewallResult { texts: texts.len(), suspicious, share, kinds, examples, seconds, megabytes_per_s })
}
