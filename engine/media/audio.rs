//! Sound files to mono at 16 kHz: any format symphonia reads, any rate, any number of channels.

use super::{Limits, SAMPLE_RATE, guarded, mp4, problem, refused, resample, sniff, video, wav};
use crate::{Error, Result};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};
use symphonia::core::{
    audio::{AudioBufferRef, SampleBuffer, SignalSpec},
    codecs::{CODEC_TYPE_AAC, CODEC_TYPE_NULL, CodecParameters, Decoder, DecoderOptions},
    errors::Error as Symphonia,
    formats::{FormatOptions, FormatReader, Packet},
    io::MediaSourceStream,
    meta::MetadataOptions,
    probe::Hint,
};

/// Decodes a whole file. Formats that symphonia does not know, or whose lies it does not survive, go through ffmpeg where it is
/// installed.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<Vec<f32>> {
    if sniff::head(path)?.starts_with(b"caff") && video::ffmpeg_version().is_some() {
        return video::decode_audio(path, limits);
    }
    match guarded(path, || decode(path, limits)) {
        Err(Failed::Unknown(why)) if video::ffmpeg_version().is_some() => {
            tracing::debug!("{}: {why}; trying ffmpeg", path.display());
            video::decode_audio(path, limits)
        }
        Err(Failed::Unknown(why)) => Err(problem(
            path,
            format!("its sound cannot be read ({why}); {}, or convert it to wav, flac, mp3 or ogg", video::INSTALL),
        )),
        Err(Failed::Media(e)) => Err(e),
        Ok(pcm) => Ok(pcm),
    }
}

/// Why a file was not decoded.
enum Failed {
    /// The format or the codec is not one of symphonia's.
    Unknown(String),
    /// Anything else, said to the user as it is.
    Media(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Media(e)
    }
}

fn decode(path: &Path, limits: &Limits) -> Result<Vec<f32>, Failed> {
    let mut sink = Sink::new(path, limits);
    if wav::decode(path, limits, &mut sink)? {
        return Ok(sink.finish()?);
    }
    refuse_lies(path)?;
    let bytes = std::fs::metadata(path).map_err(refused(path))?.len();
    let mut format = demuxer(path)?;
    let known = |p: &CodecParameters| p.codec != CODEC_TYPE_NULL && p.sample_rate.is_some();
    let track = format.tracks().iter().find(|t| known(&t.codec_params));
    let no_track = || Failed::Unknown("it has no track of sound that is known here".into());
    let (id, params) = track.map(|t| (t.id, t.codec_params.clone())).ok_or_else(no_track)?;
    if let (Some(frames), Some(rate @ 1..)) = (params.n_frames, params.sample_rate) {
        let frames = frames.min(bytes.saturating_mul(DENSEST));
        limits.check_seconds(path, frames as f64 / f64::from(rate))?;
    }
    if params.codec == CODEC_TYPE_AAC
        && let Some(track) = mp4::tracks(path).iter().find(|t| &t.handler == b"soun")
    {
        (sink.run_in, sink.length) = (track.run_in, track.length);
    }
    decode_track(format.as_mut(), id, &params, &mut sink)?;
    if sink.good == 0 {
        return Err(Failed::Unknown(sink.why.unwrap_or_else(|| "nothing in it can be decoded".into())));
    }
    Ok(sink.finish()?)
}

fn demuxer(path: &Path) -> Result<Box<dyn FormatReader>, Failed> {
    let file = File::open(path).map_err(refused(path))?;
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(extension);
    }
    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let options = FormatOptions { enable_gapless: true, ..FormatOptions::default() };
    let probed = symphonia::default::get_probe().format(&hint, stream, &options, &MetadataOptions::default());
    Ok(probed.map_err(|e| Failed::Unknown(said(&e)))?.format)
}

/// What symphonia must not be given: it takes memory for what a table claims to hold, and a claim of terabytes ends the process.
fn refuse_lies(path: &Path) -> Result<(), Failed> {
    let head = sniff::head(path)?;
    if head.starts_with(b"\x1a\x45\xdf\xa3") {
        return Err(Failed::Unknown("Matroska and WebM are read by ffmpeg".into()));
    }
    let lies = match head.get(4..8) {
        _ if head.starts_with(b"caff") => !caf_fits(path).map_err(refused(path))?,
        Some(b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip") => !mp4::fits(path),
        _ => false,
    };
    if lies {
        Err(problem(path, "it is broken or cut off: a table in it claims more than the file holds").into())
    } else {
        Ok(())
    }
}

/// Whether every chunk of a CAF file lies within it and its packet table counts no more packets than it has bytes.
fn caf_fits(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let (end, mut at) = (file.metadata()?.len(), 8u64);
    while at + 20 <= end {
        let mut head = [0u8; 20]; // kind, size, and of a packet table the number of packets
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head)?;
        let [size, packets] = [4, 12].map(|i| head[i..i + 8].iter().fold(0u64, |v, &b| v << 8 | u64::from(b)));
        let left = end - at - 12;
        if &head[..4] == b"data" && (size == u64::MAX || size > left) {
            return Ok(true); // runs to the end, or was cut off
        }
        if size > left || (&head[..4] == b"pakt" && packets > size) {
            return Ok(false);
        }
        at += 12 + size;
    }
    Ok(true)
}

/// Samples of sound that a byte can stand for at most: silence in FLAC. A header that claims more lies.
const DENSEST: u64 = 4096;

fn decode_track(format: &mut dyn FormatReader, id: u32, params: &CodecParameters, sink: &mut Sink) -> Result<(), Failed> {
    let make = |p: &CodecParameters| symphonia::default::get_codecs().make(p, &DecoderOptions::default());
    let mut decoder = make(params).map_err(|e| Failed::Unknown(said(&e)))?;
    let mut id = id;
    loop {
        match format.next_packet() {
            Ok(packet) if packet.track_id() == id => sink.packet(decoder.as_mut(), &packet)?,
            Ok(_) => {}
            // A chained stream starts anew: a new track, a new decoder.
            Err(Symphonia::ResetRequired) => match format.tracks().iter().find(|t| t.codec_params.codec != CODEC_TYPE_NULL) {
                Some(t) => {
                    id = t.id;
                    decoder = make(&t.codec_params).map_err(|e| Failed::Unknown(said(&e)))?;
                }
                None => return Ok(()),
            },
            Err(Symphonia::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => {
                sink.note(&e);
                return Ok(()); // what came before stands, if it is anything
            }
        }
    }
}

/// symphonia's complaint in words for users.
fn said(e: &Symphonia) -> String {
    match e {
        Symphonia::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => "it ends before it is complete".into(),
        Symphonia::DecodeError(why) => format!("it is broken: {why}"),
        Symphonia::Unsupported(why) => format!("not supported: {why}"),
        e => e.to_string(),
    }
}

/// Packets in, mono at 16 kHz out.
pub(super) struct Sink<'a> {
    path: &'a Path,
    limits: &'a Limits,
    resampler: Option<(u32, resample::Resampler)>,
    interleaved: Option<(SampleBuffer<f32>, SignalSpec)>,
    mono: Vec<f32>,
    pcm: Vec<f32>,
    /// Seconds of the decoder's run-in that are still to be left out.
    run_in: f64,
    /// Seconds that are kept.
    length: Option<f64>,
    good: u64,
    bad: u64,
    why: Option<String>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(path: &'a Path, limits: &'a Limits) -> Self {
        let empty = Vec::new;
        Self {
            path,
            limits,
            resampler: None,
            interleaved: None,
            mono: empty(),
            pcm: empty(),
            run_in: 0.0,
            length: None,
            good: 0,
            bad: 0,
            why: None,
        }
    }

    fn packet(&mut self, decoder: &mut dyn Decoder, packet: &Packet) -> Result<()> {
        match decoder.decode(packet) {
            Ok(buffer) => {
                self.good += 1;
                self.decoded(buffer)
            }
            Err(e) => {
                // Silence in place of a broken packet keeps what follows on time.
                self.note(&e);
                self.bad += 1;
                let rate = self.resampler.as_ref().map(|r| r.0);
                self.mono.clear();
                self.mono.resize(packet.dur().min(u64::from(SAMPLE_RATE)) as usize, 0.0);
                rate.map_or(Ok(()), |rate| self.push(rate))
            }
        }
    }

    fn decoded(&mut self, buffer: AudioBufferRef<'_>) -> Result<()> {
        let (spec, capacity) = (*buffer.spec(), buffer.capacity());
        let channels = spec.channels.count();
        if buffer.frames() == 0 || channels == 0 {
            return Ok(());
        }
        if self.interleaved.as_ref().is_none_or(|(b, s)| *s != spec || b.capacity() < capacity * channels) {
            self.interleaved = Some((SampleBuffer::new(capacity as u64, spec), spec));
        }
        if let Some((samples, _)) = &mut self.interleaved {
            samples.copy_interleaved_ref(buffer);
            mix(samples.samples(), channels, &mut self.mono);
        }
        self.push(spec.rate)
    }

    /// Takes interleaved samples.
    pub(super) fn interleaved(&mut self, samples: &[f32], channels: usize, rate: u32) -> Result<()> {
        self.good += 1;
        mix(samples, channels, &mut self.mono);
        self.push(rate)
    }

    fn push(&mut self, rate: u32) -> Result<()> {
        if !resample::RATES.contains(&rate) {
            let (low, high) = (resample::RATES.start(), resample::RATES.end());
            return Err(problem(self.path, format!("it has {rate} samples a second; allowed are {low} to {high}")));
        }
        let skipped = ((self.run_in * f64::from(rate)).round() as usize).min(self.mono.len());
        self.run_in -= skipped as f64 / f64::from(rate);
        if self.resampler.as_ref().is_none_or(|(r, _)| *r != rate)
            && let Some((_, old)) = self.resampler.replace((rate, resample::Resampler::new(rate)))
        {
            old.finish(&mut self.pcm);
        }
        if let Some((_, resampler)) = &mut self.resampler {
            resampler.push(&self.mono[skipped..], &mut self.pcm);
        }
        self.limits.check_seconds(self.path, self.pcm.len() as f64 / f64::from(SAMPLE_RATE))
    }

    fn note(&mut self, e: &Symphonia) {
        self.why.get_or_insert_with(|| said(e));
    }

    /// The sound, if there was any.
    pub(super) fn finish(mut self) -> Result<Vec<f32>> {
        if let Some((_, resampler)) = self.resampler.take() {
            resampler.finish(&mut self.pcm);
        }
        let kept = self.length.map_or(f64::MAX, |s| (s * f64::from(SAMPLE_RATE) - 1e-3).ceil());
        self.pcm.truncate(kept as usize);
        let why = self.why.unwrap_or_else(|| "the file ends before the first sample".into());
        if self.pcm.is_empty() || self.good == 0 {
            return Err(problem(self.path, format!("it has no sound: {why}")));
        }
        if self.bad > self.good {
            return Err(problem(
                self.path,
                format!("{} of {} packets cannot be decoded: {why}", self.bad, self.good + self.bad),
            ));
        }
        if self.bad > 0 {
            tracing::warn!(
                "{}: {} of {} packets are broken ({why}); silence in their place",
                self.path.display(),
                self.bad,
                self.good + self.bad
            );
        }
        self.limits.check_seconds(self.path, self.pcm.len() as f64 / f64::from(SAMPLE_RATE))?;
        Ok(self.pcm)
    }
}

/// Mean of the channels, -1..1; what is no number counts as silence.
fn mix(interleaved: &[f32], channels: usize, mono: &mut Vec<f32>) {
    let whole = |v: f32| if v.is_finite() { v.clamp(-1.0, 1.0) } else { 0.0 };
    mono.clear();
    mono.extend(interleaved.chunks_exact(channels).map(|frame| frame.iter().map(|&v| whole(v)).sum::<f32>() / channels as f32));
}
