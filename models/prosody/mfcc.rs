//! Mel-frequency cepstral coefficients (Davis and Mermelstein 1980) as librosa computes them: 25 ms periodic Hann windows every 10 ms,
//! power spectrum, 40 Slaney mel filters of unit area from 0 to 8 kHz, decibels no lower than 80 below the loudest, orthonormal DCT-II.

use std::f64::consts::PI;

use dreamseed_kernels::Pool;

use crate::whisper::mel::{HOP, MelExtractor, SAMPLE_RATE};

/// Coefficients a frame; the first is the level.
pub const COEFFICIENTS: usize = 13;
/// Seconds between frames; frame i is centred on i times that.
pub const FRAME: f64 = HOP as f64 / SAMPLE_RATE as f64;
const BANDS: usize = 40;

/// Coefficients of mono `pcm` at 16 kHz, a row for every whole hop. The sound is reflected at its start and followed by silence;
/// samples that are not finite count as silence.
pub fn mfcc(pool: &Pool, pcm: &[f32]) -> Vec<[f32; COEFFICIENTS]> {
    // Whisper's features of 40 bands are log10 of the same powers with the same floor, scaled by (x + 4) / 4
    let mel = MelExtractor::new(BANDS).extract(pool, pcm);
    let cosine = |k: usize, n: usize| (PI * k as f64 * (2 * n + 1) as f64 / (2 * BANDS) as f64).cos();
    let norm = |k: usize| (if k == 0 { 1.0 } else { 2.0 } / BANDS as f64).sqrt();
    let table: Vec<f64> = (0..COEFFICIENTS).flat_map(|k| (0..BANDS).map(move |n| norm(k) * cosine(k, n))).collect();
    let row = |bands: &[f32]| {
        let decibel: Vec<f64> = bands.iter().map(|x| 10.0 * (4.0 * f64::from(*x) - 4.0)).collect();
        let mut out = [0.0; COEFFICIENTS];
        for (out, cosines) in out.iter_mut().zip(table.chunks_exact(BANDS)) {
            *out = cosines.iter().zip(&decibel).map(|(c, d)| c * d).sum::<f64>() as f32;
        }
        out
    };
    mel.data.chunks_exact(BANDS).map(row).collect()
}
