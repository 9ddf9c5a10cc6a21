//! `dreamseed doctor`: what is built in, used and missing.

use clap::Args;

use super::{emit, emit_json};
use crate::config::Config;
use crate::doctor::{self, Status};
use crate::fetch::Store;
use crate::{Error, Result};

/// Arguments of `doctor`.
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    /// Also measure how fast memory is read (half a second)
    #[arg(long)]
    pub measure: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(config: &Config, args: &DoctorArgs) -> Result<()> {
    if let Some(level) = config.simd.level() {
        dreamseed_kernels::simd::limit(level);
    }
    let report = doctor::report(config, &Store::open(config)?, args.measure);
    if args.json {
        emit_json(&report)?
    } else {
        emit(report.to_string().trim_end())?
    }
    match report.status() {
        Status::Fail => Err(Error::Fetch("the main job does not run on this machine as it is: see above".into())),
        Status::Ok | Status::Warn => Ok(()),
    }
}
