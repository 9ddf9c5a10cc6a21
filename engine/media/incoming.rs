//! Sound that comes through a pipe as it is made: raw samples, or WAV whose header comes first and whose sizes mean nothing.

use std::path::Path;

use super::resample::{RATES, Resampler};
use super::wav::Format;
use super::{SAMPLE_RATE, problem};
use crate::Result;

/// A header is at most this long.
const MAX_HEADER: usize = 1 << 16;

/// Bytes to mono samples at 16 kHz. What does not begin as a WAV file is taken for signed 16-bit little-endian mono at 16 kHz.
#[derive(Default)]
pub struct Incoming {
    bytes: Vec<u8>, // not used yet
    known: Option<Known>,
}

struct Known {
    format: Format,
    resampler: Resampler,
    mono: Vec<f32>,
}

impl Incoming {
    /// Before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, any number, and appends the samples that they complete to `pcm`. Other rates than 16 kHz come in blocks
    /// of up to a second.
    ///
    /// # Errors
    /// A WAV header of an encoding, rate or length that is not read.
    pub fn push(&mut self, bytes: &[u8], pcm: &mut Vec<f32>) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        if self.known.is_none() {
            let Some((format, rate, used)) = begin(&self.bytes)? else { return Ok(()) };
            self.bytes.drain(..used);
            self.known = Some(Known { format, resampler: Resampler::new(rate), mono: Vec::new() });
        }
        let Some(known) = &mut self.known else { return Ok(()) };
        let channels = known.format.channels.max(1);
        let frame = known.format.encoding.bytes() * channels;
        let whole = self.bytes.len() / frame * frame;
        let sample = |bytes: &[u8]| known.format.encoding.sample(bytes);
        let mean = |frame: &[u8]| frame.chunks_exact(frame.len() / channels).map(sample).sum::<f32>() / channels as f32;
        known.mono.clear();
        known.mono.extend(self.bytes[..whole].chunks_exact(frame).map(mean));
        self.bytes.drain(..whole);
        known.resampler.push(&known.mono, pcm);
        Ok(())
    }

    /// The end of the sound: appends what is left.
    pub fn finish(self, pcm: &mut Vec<f32>) {
        if let Some(known) = self.known {
            known.resampler.finish(pcm);
        }
    }
}

/// Format, rate and length of what comes before the samples; `None` where more bytes are needed to tell.
fn begin(bytes: &[u8]) -> Result<Option<(Format, u32, usize)>> {
    let here = Path::new("standard input");
    if bytes.len() < 12 {
        return Ok(None);
    }
    if !matches!(&bytes[..4], b"RIFF" | b"RF64" | b"BW64") || &bytes[8..12] != b"WAVE" {
        return Ok(Some((Format::PCM, SAMPLE_RATE, 0)));
    }
    let (mut at, mut format) = (12, None);
    while let Some(head) = bytes.get(at..at + 8) {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let body = bytes.get(at + 8..).unwrap_or_default();
        match &head[..4] {
            b"data" => {
                let known: Option<Format> = format;
                let refused =
                    || problem(here, "its WAV header names an encoding that is not read from a pipe; 16-bit samples are");
                let format = known.filter(|f| f.channels > 0).ok_or_else(refused)?;
                if !RATES.contains(&format.rate) {
                    return Err(problem(here, format!("{} Hz; {} to {} are allowed", format.rate, RATES.start(), RATES.end())));
                }
                return Ok(Some((format, format.rate, at + 8)));
            }
            b"fmt " if body.len() < size.min(64) => break,
            b"fmt " => format = Format::parse(&body[..size.min(64)]),
            _ => {}
        }
        at = at.saturating_add(8 + size + size % 2);
        if at > MAX_HEADER {
            break;
        }
    }
    if bytes.len() > MAX_HEADER || at > MAX_HEADER {
        return Err(problem(here, format!("its WAV header is longer than {MAX_HEADER} bytes, or has no samples after it")));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
        let mut file = b"RIFF\xff\xff\xff\xffWAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0".to_vec();
        file.extend(channels.to_le_bytes());
        file.extend(rate.to_le_bytes());
        file.extend((rate * 2 * u32::from(channels)).to_le_bytes());
        file.extend((2 * channels).to_le_bytes());
        file.extend(b"\x10\0data\0\0\0\0");
        file.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
        file
    }

    fn read(bytes: &[u8], size: usize) -> Result<Vec<f32>> {
        let (mut incoming, mut pcm) = (Incoming::new(), Vec::new());
        for piece in bytes.chunks(size) {
            incoming.push(piece, &mut pcm)?;
        }
        incoming.finish(&mut pcm);
        Ok(pcm)
    }

    #[test]
    fn raw_and_wav_in_any_pieces() {
        let samples: Vec<i16> = (0..3000).map(|i| (i * 37 % 20_000) as i16).collect();
        let wanted: Vec<f32> = samples.iter().map(|s| f32::from(*s) / 32768.0).collect();
        let raw: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        let twice: Vec<i16> = samples.iter().flat_map(|s| [*s; 2]).collect();
        for size in [1, 7, 100, 100_000] {
            assert_eq!(read(&raw, size).unwrap(), wanted, "{size}");
            assert_eq!(read(&wav(16_000, 1, &samples), size).unwrap(), wanted, "{size}");
            assert_eq!(read(&wav(16_000, 2, &twice), size).unwrap(), wanted, "{size}");
            assert_eq!(read(&wav(8_000, 1, &samples), size).unwrap().len(), 6000, "{size}");
        }
        assert!(read(b"RI", 1).unwrap().is_empty() && read(&[], 1).unwrap().is_empty());
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let mut endless = b"RIFF\0\0\0\0WAVE".to_vec();
        endless.extend(b"JUNK\xff\xff\xff\xff");
        for bytes in
            [wav(0, 1, &[1; 99]), wav(16_000, 0, &[1; 99]), endless, [wav(1, 1, &[])[..12].to_vec(), vec![0; 70_000]].concat()]
        {
            assert!(read(&bytes, 999).is_err());
        }
    }
}
