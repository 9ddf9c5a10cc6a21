//! Milliseconds of one network, as the pose and face models are made of.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use dreamseed_kernels::cpu::peak;
use dreamseed_models::graph::Network;
use serde::Serialize;

use super::{median, peak_rss_mb};
use crate::{Engine, Error, Result};

/// Arguments of `bench net`.
#[derive(Clone, Debug, Args)]
pub struct NetArgs {
    /// A .tflite file or a TensorFlow.js model.json
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Write inputs (a fixed pseudo-random pattern in 0..1) and outputs there: inputN.f32 and outputN.f32, little-endian
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
}

#[derive(Serialize)]
pub(super) struct NetResult {
    /// Median.
    ms: f64,
    best_ms: f64,
    /// Millions of multiply-adds of a run.
    mega_macs: f64,
    gflops: f64,
    /// Of independent multiply-adds on all threads, measured just then.
    peak_gflops: f64,
    of_peak: f64,
    steps: usize,
    activations_mb: f64,
    threads: usize,
    peak_rss_mb: u64,
}

/// Runs before the first that counts: caches and each thread's scratch.
pub(super) const WARM: usize = 10;

pub(super) fn run(engine: &Engine, args: &NetArgs, runs: usize) -> Result<NetResult> {
    let (network, pool) = (Network::open(&args.file)?, engine.pool());
    let inputs: Vec<Vec<f32>> = network.inputs().iter().map(|info| pattern(info.shape.iter().product())).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut session = network.session();
    let mut times = Vec::new();
    for i in 0..WARM + runs {
        let begin = Instant::now();
        session.run(pool, &inputs)?;
        if i >= WARM {
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    if let Some(folder) = &args.dump {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        inputs.iter().enumerate().try_for_each(|(i, x)| write(&folder.join(format!("input{i}.f32")), x))?;
        (0..network.outputs().len()).try_for_each(|i| write(&folder.join(format!("output{i}.f32")), session.output(i)))?;
    }
    let best_ms = times.iter().copied().fold(f64::INFINITY, f64::min);
    let (ms, peak_gflops) = (median(times), peak::f32_gflops(pool));
    let gflops = network.macs() as f64 * 2.0 / ms / 1e6;
    Ok(NetResult {
        ms,
        best_ms,
        mega_macs: network.macs() as f64 / 1e6,
        gflops,
        peak_gflops,
        of_peak: gflops / peak_gflops,
        steps: network.steps().count(),
        activations_mb: network.session_bytes() as f64 / (1 << 20) as f64,
        threads: pool.threads(),
        peak_rss_mb: peak_rss_mb(),
    })
}

pub(super) fn write(path: &Path, data: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(path, bytes).map_err(|source| Error::Io { path: path.into(), source })
}

/// Arbitrary values in 0..1, the same each time.
pub(super) fn pattern(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| next()).collect()
}
