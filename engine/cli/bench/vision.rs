//! Milliseconds of a vision model: a picture in, its vector out.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use dreamseed_kernels::cpu::peak;
use dreamseed_models::vision::{Session, preprocess};
use serde::Serialize;

use super::net::{WARM, pattern, write};
use super::{median, peak_rss_mb};
use crate::{Engine, Error, Result};

/// Arguments of `bench vision`.
#[derive(Clone, Debug, Args)]
pub struct VisionArgs {
    /// An id or a folder as transformers writes it (default: the profile's)
    #[arg(long, value_name = "ID|DIR")]
    pub model: Option<String>,
    /// Pixels of the picture's sides
    #[arg(long, value_name = "N", default_value_t = 224, value_parser = clap::value_parser!(u16).range(1..=2048))]
    pub side: u16,
    /// Write the picture (3, side, side) and its vector there: input0.f32 and output0.f32, little-endian
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
}

/// Most patches of a picture: the time of attention grows with their square.
const MAX_PATCHES: usize = 1 << 14;

#[derive(Serialize)]
pub(super) struct VisionResult {
    /// Median, of pixels to vector.
    ms: f64,
    best_ms: f64,
    /// Tokens of a picture, those before the patches too.
    tokens: usize,
    /// Multiply-adds of patches and layers, in millions.
    mega_macs: f64,
    gflops: f64,
    /// Of independent multiply-adds on all threads, measured just then.
    peak_gflops: f64,
    of_peak: f64,
    threads: usize,
    peak_rss_mb: u64,
}

pub(super) fn run(engine: &Engine, args: &VisionArgs, runs: usize) -> Result<VisionResult> {
    let (model, pool) = (engine.vision(args.model.as_deref())?, engine.pool());
    let (config, side) = (model.vit().config(), usize::from(args.side));
    if !side.is_multiple_of(config.patch) {
        return Err(Error::Usage(format!("--side {side}: whole patches of {} pixels are needed", config.patch)));
    }
    let patches = (side / config.patch).pow(2);
    if patches > MAX_PATCHES {
        return Err(Error::Usage(format!("--side {side}: {patches} patches; at most {MAX_PATCHES} are allowed")));
    }
    let pixels = pattern(config.channels * side * side);
    let (mut session, mut times, mut vector) = (Session::default(), Vec::new(), Vec::new());
    for i in 0..WARM + runs {
        let begin = Instant::now();
        vector = model.forward(pool, &preprocess::cut(&pixels, [side; 2], config.patch), &mut session)?;
        if i >= WARM {
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    if let Some(folder) = &args.dump {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        write(&folder.join("input0.f32"), &pixels)?;
        write(&folder.join("output0.f32"), &vector)?;
    }
    let (c, tokens) = (&config.encoder, model.vit().first_patch() + patches);
    let matrices = c.width * c.width * 4 + c.width * c.ffn * if c.gated { 3 } else { 2 };
    let attention = 2 * tokens * c.width;
    let macs = (c.layers * tokens * (matrices + attention) + patches * config.patch_len() * c.width) as f64;
    let best_ms = times.iter().copied().fold(f64::INFINITY, f64::min);
    let (ms, peak_gflops) = (median(times), peak::f32_gflops(pool));
    let gflops = macs * 2.0 / ms / 1e6;
    Ok(VisionResult {
        ms,
        best_ms,
        tokens,
        mega_macs: macs / 1e6,
        gflops,
        peak_gflops,
        of_peak: gflops / peak_gflops,
        threads: pool.threads(),
        peak_rss_mb: peak_rss_mb(),
    })
}
