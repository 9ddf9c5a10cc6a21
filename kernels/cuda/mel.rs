//! Log-mel features of sound; the reference is in `models/whisper/mel.rs`.

use super::buffer::Buffer;
use super::device::{Device, Error, Gap};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Samples of a window, and from one frame to the next.
const WINDOW: usize = 400;
const HOP: usize = 160;
/// Frames of a launch: what of the sound lies on the device at a time.
const PIECE: usize = 4096;

/// The tables of log-mel features: a Hann window of 400 samples every 160, and triangular bands over its 201 bins.
pub struct MelBank {
    n_mels: usize,
    window: Buffer<f32>,     // (WINDOW)
    turns: Buffer<[f32; 2]>, // (WINDOW)
    bands: Buffer<i32>,      // (n_mels, 3): first bin, bins, where its weights begin
    weights: Buffer<f32>,
}

#[repr(C)]
struct Raw {
    pcm: u64,
    first: i32,
    samples: i32,
    frame: i32,
    gap_a: Gap,
    window: u64,
    turns: u64,
    bands: u64,
    weights: u64,
    n_mels: i32,
    gap_b: Gap,
    out: u64,
    loudest: u64,
}

impl MelBank {
    /// Tables on the device. `filters`: of each band the bins that it covers and their weights.
    ///
    /// # Errors
    /// [`Error::Shape`] for bins beyond the 201 of the spectrum, and those of [`Device::zeros`].
    pub fn new(device: &Device, filters: &[(Range<usize>, Vec<f32>)]) -> Result<Self> {
        let angle = |i: usize| std::f64::consts::TAU * i as f64 / WINDOW as f64;
        let window: Vec<f32> = (0..WINDOW).map(|i| (0.5 - 0.5 * angle(i).cos()) as f32).collect();
        let turns: Vec<[f32; 2]> = (0..WINDOW).map(|i| [angle(i).cos() as f32, -angle(i).sin() as f32]).collect();
        let (mut bands, mut weights) = (Vec::new(), Vec::new());
        for (bins, of) in filters {
            if bins.end > WINDOW / 2 + 1 || bins.len() != of.len() {
                return Err(Error::Shape(format!("a band over bins {bins:?} with {} weights; there are 201 bins", of.len())));
            }
            bands.extend([bins.start as i32, bins.len() as i32, weights.len() as i32]);
            weights.extend_from_slice(of);
        }
        Ok(Self {
            n_mels: filters.len(),
            window: device.upload(&window)?,
            turns: device.upload(&turns)?,
            bands: device.upload(&bands)?,
            weights: device.upload(&weights)?,
        })
    }

    /// Log-mel features of mono audio, (frames, n_mels), one frame for every whole hop, as Whisper takes them: `log10`, not further
    /// than 8 below the loudest, `(x + 4) / 4`. The start is reflected, silence follows the end, and samples that are not finite are
    /// silence. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Shape`] for audio of more than 2^31 samples or values; [`Error::OutOfMemory`], [`Error::Driver`], [`Error::Lost`].
    pub fn extract(&self, device: &Device, pcm: &[f32]) -> Result<Vec<f32>> {
        let frames = pcm.len() / HOP;
        let len = frames * self.n_mels;
        if frames == 0 {
            return Ok(Vec::new());
        }
        if pcm.len().max(len) + WINDOW > i32::MAX as usize {
            return Err(Error::Shape(format!("{} samples of sound at once; at most 2^31 - 401 fit", pcm.len())));
        }
        let longest = frames.min(PIECE) * HOP + WINDOW;
        let (mut piece, out, loudest) = (device.zeros(longest)?, device.zeros::<f32>(len)?, device.zeros::<f32>(frames)?);
        for frame in (0..frames).step_by(PIECE) {
            let count = PIECE.min(frames - frame);
            let first = (frame * HOP).saturating_sub(WINDOW / 2);
            let end = ((frame + count) * HOP + WINDOW / 2).min(pcm.len());
            piece.write(0, &pcm[first..end])?;
            let mut raw = Raw {
                gap_a: 0,
                gap_b: 0,
                pcm: piece.pointer(),
                first: first as i32,
                samples: (end - first) as i32,
                frame: frame as i32,
                window: self.window.pointer(),
                turns: self.turns.pointer(),
                bands: self.bands.pointer(),
                weights: self.weights.pointer(),
                n_mels: self.n_mels as i32,
                out: out.pointer() + (frame * self.n_mels * size_of::<f32>()) as u64,
                loudest: loudest.pointer() + (frame * size_of::<f32>()) as u64,
            };
            let mut args: [*mut c_void; 1] = [from_mut(&mut raw).cast()];
            // SAFETY: the structure is the kernel's; the output holds all frames, and the bands lie within the spectrum.
            unsafe { device.launch("log_mel", [count, 1, 1], 128, 0, &mut args)? };
        }
        let (mut all, mut count) = (loudest.pointer(), frames as i32);
        let mut args: [*mut c_void; 2] = [from_mut(&mut all).cast(), from_mut(&mut count).cast()];
        // SAFETY: as above.
        unsafe { device.launch("mel_loudest", [1, 1, 1], 1024, 0, &mut args)? };
        let blocks = len.div_ceil(256).min(8 * device.info().multiprocessors);
        let (mut x, mut n, mut loudest_at) = (out.pointer(), len as i32, loudest.pointer());
        let mut args: [*mut c_void; 3] = [from_mut(&mut x).cast(), from_mut(&mut n).cast(), from_mut(&mut loudest_at).cast()];
        // SAFETY: as above.
        unsafe { device.launch("mel_range", [blocks, 1, 1], 256, 0, &mut args)? };
        let mut values = vec![0.0; len];
        out.read(0, &mut values)?;
        Ok(values)
    }
}
