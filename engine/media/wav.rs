//! WAV files, whatever their headers claim: recorders that were cut off and programs that write into a pipe leave sizes of 0 or
//! 2^32 - 1, and files over 4 GiB are RF64 (EBU Tech 3306). Read here for that reason; compressed WAV is left to symphonia.

use super::{Limits, audio::Sink, problem, refused};
use crate::Result;
use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

/// How samples are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Unsigned, 8 bits.
    U8,
    /// Signed integers of 2, 3 or 4 bytes; fewer valid bits are at the top.
    Int(usize),
    F32,
    F64,
    ALaw,
    MuLaw,
}

/// The `fmt ` chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) encoding: Encoding,
    pub(super) channels: usize,
    pub(super) rate: u32,
}

/// Chunks that are looked through before the data.
const MAX_CHUNKS: usize = 10_000;

/// Decodes into `sink`; `false` where the file is no WAV of an encoding that is read here, and nothing was decoded.
pub(super) fn decode(path: &Path, limits: &Limits, sink: &mut Sink) -> Result<bool> {
    let file = File::open(path).map_err(refused(path))?;
    let end = file.metadata().map_err(refused(path))?.len();
    let mut file = BufReader::with_capacity(1 << 16, file);
    let Some((format, at, size)) = header(&mut file, end).map_err(refused(path))? else { return Ok(false) };
    if format.channels == 0 {
        return Err(problem(path, "its header says 0 channels"));
    }
    let frame = format.channels * format.encoding.bytes();
    limits.check_seconds(path, (size / frame as u64) as f64 / f64::from(format.rate.max(1)))?;
    file.seek(SeekFrom::Start(at)).map_err(refused(path))?;
    let mut data = file.take(size);
    let (mut bytes, mut samples) = (vec![0u8; (1 << 16) / frame.min(1 << 16) * frame], Vec::new());
    bytes.resize(bytes.len().max(frame), 0);
    loop {
        let mut filled = 0;
        while filled < bytes.len() {
            match data.read(&mut bytes[filled..]).map_err(refused(path))? {
                0 => break,
                n => filled += n,
            }
        }
        let whole = filled / frame * frame; // a last frame that was cut off is left out
        if whole == 0 {
            return Ok(true);
        }
        samples.clear();
        samples.extend(bytes[..whole].chunks_exact(format.encoding.bytes()).map(|b| format.encoding.sample(b)));
        sink.interleaved(&samples, format.channels, format.rate)?;
    }
}

/// Format, offset and size of the samples.
fn header(file: &mut (impl Read + Seek), end: u64) -> std::io::Result<Option<(Format, u64, u64)>> {
    let mut head = [0u8; 12];
    if !filled(file, &mut head)? || !matches!(&head[..4], b"RIFF" | b"RF64" | b"BW64") || &head[8..] != b"WAVE" {
        return Ok(None);
    }
    let claimed = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let (mut format, mut long_size, mut at) = (None, None, 12u64);
    for _ in 0..MAX_CHUNKS {
        let mut chunk = [0u8; 8];
        file.seek(SeekFrom::Start(at))?;
        if !filled(file, &mut chunk)? {
            return Ok(None);
        }
        let size = u64::from(u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]));
        let (start, left) = (at + 8, end.saturating_sub(at + 8));
        match &chunk[..4] {
            b"ds64" => {
                let mut sizes = [0u8; 16];
                if filled(file, &mut sizes)? {
                    let (_, data) = sizes.split_at(8);
                    long_size = data.try_into().ok().map(u64::from_le_bytes);
                }
            }
            b"fmt " => {
                let mut fmt = Vec::new();
                file.by_ref().take(size.min(64)).read_to_end(&mut fmt)?;
                let Some(known) = Format::parse(&fmt) else { return Ok(None) };
                format = Some(known);
            }
            b"data" => {
                let unknown = size == u64::from(u32::MAX) || (size == 0 && matches!(claimed, 0 | u32::MAX));
                let size = match long_size {
                    Some(long) if unknown && long > 0 => long,
                    _ if unknown => left,
                    _ => size,
                };
                return Ok(format.map(|f| (f, start, size.min(left))));
            }
            _ => {}
        }
        at = start + size + size % 2;
    }
    Ok(None)
}

/// Fills `bytes`, or tells that the file ends before.
fn filled(file: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

impl Format {
    /// Signed 16 bits, mono, 16 kHz.
    pub(super) const PCM: Self = Self { encoding: Encoding::Int(2), channels: 1, rate: super::SAMPLE_RATE };

    pub(super) fn parse(fmt: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_le_bytes(fmt.get(at..at + 2)?.try_into().ok()?));
        let (mut tag, channels, bits) = (short(0)?, usize::from(short(2)?), short(14)?);
        let rate = u32::from_le_bytes(fmt.get(4..8)?.try_into().ok()?);
        if tag == 0xfffe {
            tag = short(24)?; // the extensible format's own tag starts its GUID
        }
        // The block tells the size of a sample's container; 20-bit samples lie in three bytes, 24-bit ones sometimes in four.
        let block = usize::from(short(12)?);
        let bytes =
            if channels > 0 && block % channels == 0 && block > 0 { block / channels } else { usize::from(bits).div_ceil(8) };
        let encoding = match (tag, bytes) {
            (1, 1) => Encoding::U8,
            (1, 2..=4) => Encoding::Int(bytes),
            (3, 4) => Encoding::F32,
            (3, 8) => Encoding::F64,
            (6, 1) => Encoding::ALaw,
            (7, 1) => Encoding::MuLaw,
            _ => return None,
        };
        Some(Self { encoding, channels, rate })
    }
}

impl Encoding {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::ALaw | Self::MuLaw => 1,
            Self::Int(n) => n,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// One sample of [`Self::bytes`] bytes, -1..1.
    pub(super) fn sample(self, b: &[u8]) -> f32 {
        match (self, b) {
            (Self::U8, &[v]) => (f32::from(v) - 128.0) / 128.0,
            (Self::ALaw, &[v]) => f32::from(a_law(v)) / 32768.0,
            (Self::MuLaw, &[v]) => f32::from(mu_law(v)) / 32768.0,
            (Self::Int(2), &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32768.0,
            (Self::Int(3), &[a, b, c]) => i32::from_le_bytes([0, a, b, c]) as f32 / 2_147_483_648.0,
            (Self::Int(4), &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => 0.0,
        }
    }
}

/// ITU-T G.711, A-law.
fn a_law(v: u8) -> i16 {
    let v = v ^ 0x55;
    let (exponent, mantissa) = ((v >> 4) & 7, i16::from(v & 15));
    let magnitude = if exponent == 0 { (mantissa << 4) + 8 } else { ((mantissa << 4) + 0x108) << (exponent - 1) };
    if v & 0x80 != 0 { magnitude } else { -magnitude }
}

/// ITU-T G.711, mu-law.
fn mu_law(v: u8) -> i16 {
    let v = !v;
    let magnitude = (((i16::from(v & 15) << 3) + 0x84) << ((v >> 4) & 7)) - 0x84;
    if v & 0x80 != 0 { -magnitude } else { magnitude }
}
