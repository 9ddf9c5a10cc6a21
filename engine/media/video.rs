//! Video files through the programs `ffprobe` (what is in the file) and `ffmpeg` (decoding into a pipe).
//!
//! The programs get a fixed list of containers and the protocols `file` and `pipe` alone: no file can make them open an address
//! or follow a playlist. Pictures keep their presentation times; sound is aligned to the same start.

use super::{
    Clip, Frame, Limits, audio, mp4, problem,
    process::{Process, allowed},
    sniff,
};
use crate::Result;
use serde::Deserialize;
use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// What to do where ffmpeg is absent.
pub(super) const INSTALL: &str = "install ffmpeg (Debian: apt-get install ffmpeg; macOS: brew install ffmpeg)";

/// Demuxers that a file may choose; playlists, scripts and network formats are not among them.
const CONTAINERS: &str =
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,aiff,caf,mp3,aac,ac3,eac3,flac,amr,au,wv,dts";

/// First line of `ffmpeg -version` where `ffmpeg` and `ffprobe` are both installed.
pub fn ffmpeg_version() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let ask = |program: &str| {
        let output = Command::new(program).arg("-version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
    };
    FOUND.get_or_init(|| ask("ffprobe").and_then(|_| ask("ffmpeg"))).as_deref()
}

/// Opens a container: pictures and sound where it has both.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<Clip> {
    if ffmpeg_version().is_none() {
        return match seems_video(path) {
            true => Err(problem(
                path,
                format!(
                    "video, Matroska and WebM are read by ffmpeg, which is not installed: {INSTALL}, or give a folder of pictures (--frames DIR --fps N) and a sound file (--audio F)"
                ),
            )),
            false => Ok(Clip { pcm: audio::open(path, limits)?, ..Clip::default() }),
        };
    }
    let found = probe(path, false)?;
    if found.video().is_none() && found.audio().is_none() {
        return Err(problem(path, "it has neither pictures nor sound that ffmpeg can decode"));
    }
    let Some(video) = found.video() else {
        return Ok(Clip { pcm: sound_alone(path, limits, &found)?, ..Clip::default() });
    };
    let frames = pictures(path, limits, &found, video)?;
    let pcm = if found.audio().is_some() { sound(path, limits, &found)? } else { Vec::new() };
    Ok(Clip { pcm, frames, text: None })
}

/// Opens the sound of a container. Beside pictures it goes through ffmpeg, so that both have one start.
pub(super) fn open_audio(path: &Path, limits: &Limits) -> Result<Vec<f32>> {
    if ffmpeg_version().is_none() {
        return audio::open(path, limits);
    }
    let found = probe(path, false)?;
    match (found.video(), found.audio()) {
        (_, None) => Err(problem(path, "it has no sound")),
        (None, Some(_)) => sound_alone(path, limits, &found),
        (Some(_), Some(_)) => sound(path, limits, &found),
    }
}

/// Sound that only ffmpeg can decode.
pub(super) fn decode_audio(path: &Path, limits: &Limits) -> Result<Vec<f32>> {
    sound(path, limits, &probe(path, false)?)
}

/// Sound of a container without pictures: Ogg is decoded here, the others by a process that a hostile file cannot take along.
fn sound_alone(path: &Path, limits: &Limits, found: &Probe) -> Result<Vec<f32>> {
    if sniff::head(path)?.starts_with(b"OggS") { audio::open(path, limits) } else { sound(path, limits, found) }
}

/// Whether a container has pictures, told without ffmpeg; of Matroska it is not known.
fn seems_video(path: &Path) -> bool {
    let tracks = mp4::tracks(path);
    let ogg = sniff::head(path).is_ok_and(|h| h.starts_with(b"OggS"));
    !ogg && (tracks.is_empty() || tracks.iter().any(|t| &t.handler == b"vide"))
}

/// What ffprobe tells of a file.
#[derive(Debug, Default, Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
struct Format {
    duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stream {
    index: usize,
    codec_type: String,
    codec_name: Option<String>,
    width: u32,
    height: u32,
    sample_aspect_ratio: Option<String>,
    avg_frame_rate: Option<String>,
    nb_read_packets: Option<String>,
    sample_rate: Option<String>,
    channels: usize,
    disposition: Disposition,
    tags: Tags,
    side_data_list: Vec<SideData>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disposition {
    attached_pic: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tags {
    rotate: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SideData {
    rotation: Option<f64>,
}

impl Probe {
    fn video(&self) -> Option<&Stream> {
        self.streams.iter().find(|s| {
            s.codec_type == "video" && s.width > 0 && s.height > 0 && s.disposition.attached_pic == 0 && s.codec_name.is_some()
        })
    }

    fn audio(&self) -> Option<&Stream> {
        self.streams.iter().find(|s| s.codec_type == "audio" && s.codec_name.is_some())
    }

    fn duration(&self) -> Option<f64> {
        self.format.duration.as_ref()?.parse().ok().filter(|d: &f64| d.is_finite() && *d >= 0.0)
    }
}

impl Stream {
    /// Width and height as shown: turned, with square pixels. ffmpeg turns by itself; this tells what will come.
    fn shown(&self) -> (u32, u32) {
        let turn = self
            .side_data_list
            .iter()
            .find_map(|s| s.rotation)
            .or_else(|| self.tags.rotate.as_ref()?.parse().ok())
            .unwrap_or(0.0);
        let aspect = ratio(self.sample_aspect_ratio.as_deref(), ':').filter(|a| (0.1..=10.0).contains(a)).unwrap_or(1.0);
        let width = (f64::from(self.width) * aspect).round() as u32;
        if (turn.rem_euclid(180.0) - 90.0).abs() < 1.0 { (self.height, width) } else { (width, self.height) }
    }
}

/// `30000/1001` as a number.
fn ratio(text: Option<&str>, by: char) -> Option<f64> {
    let (a, b) = text?.split_once(by)?;
    let (a, b): (f64, f64) = (a.parse().ok()?, b.parse().ok()?);
    (a > 0.0 && b > 0.0).then_some(a / b)
}

/// Asks ffprobe; `count` goes through the whole file to count its packets.
fn probe(path: &Path, count: bool) -> Result<Probe> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS]);
    command.args([
        "-show_entries",
        "format=duration:stream:stream_tags=rotate:stream_side_data=rotation:stream_disposition",
        "-of",
        "json",
    ]);
    command.args(count.then_some("-count_packets"));
    // A file that is read through takes no longer than one at 10 MB/s.
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    let mut process = Process::start(command.arg("-i").arg(url(path)), path, allowed(bytes as f64 / 1e8))?;
    let (mut json, mut piece) = (Vec::new(), Vec::new());
    while process.read(&mut piece)? {
        json.extend_from_slice(&piece);
        if json.len() > MAX_JSON {
            return Err(problem(path, format!("ffprobe tells more than {MAX_JSON} bytes about it: too many streams")));
        }
    }
    process.finish("ffprobe")?;
    serde_json::from_slice(&json).map_err(|e| problem(path, format!("ffprobe's answer is not understood: {e}")))
}

const MAX_JSON: usize = 4 << 20;

/// `file:` in front: a name that begins with `-` is no option, and one with a colon no protocol.
fn url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

fn ffmpeg(path: &Path) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-v", "info", "-protocol_whitelist", "file,pipe"]);
    command.args(["-format_whitelist", CONTAINERS, "-i"]).arg(url(path));
    command
}

fn pictures(path: &Path, limits: &Limits, found: &Probe, video: &Stream) -> Result<Vec<Frame>> {
    // 1. the header against the limits
    limits.check_pixels(path, video.width, video.height)?;
    let seconds = found.duration();
    limits.check_seconds(path, seconds.unwrap_or(0.0))?;
    let rate = ratio(video.avg_frame_rate.as_deref(), '/').map_or(limits.fps, |r| r.min(limits.fps));
    // What browsers record has no length in its header: there the packets are counted.
    let expected = match seconds {
        Some(s) => (s * rate).ceil() as usize + 1,
        None => probe(path, true)?.video().and_then(|v| v.nb_read_packets.as_ref()?.parse().ok()).unwrap_or(1),
    };
    limits.check_frames(path, expected)?;
    let (width, height) = limits.fit(path, video.shown(), expected + expected / 50)?;
    // 2. ffmpeg drops (see Limits::keeps), scales and prints the time of each picture that is left; setpts keeps it from
    //    repeating or dropping any to reach a constant rate
    let filter = format!(
        "select='isnan(prev_t)+gt(floor(t*{fps}+0.2),floor(prev_t*{fps}+0.2))',scale={width}:{height},format=rgb24,\
         metadata=mode=add:key=t:value=1,metadata=mode=print,setpts=N/{fps}/TB",
        fps = limits.fps
    );
    let mut command = ffmpeg(path);
    command.args(["-map", &format!("0:{}", video.index), "-an", "-sn", "-dn", "-vf", &filter, "-r", &limits.fps.to_string()]);
    let time = allowed(seconds.unwrap_or(expected as f64 / rate).min(limits.max_seconds));
    let mut process = Process::start(command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]), path, time)?;
    // 3. the pipe into pictures
    let size = width as usize * height as usize * 3;
    let (mut frames, mut piece, mut rgb): (Vec<Frame>, _, _) = (Vec::new(), Vec::new(), Vec::with_capacity(size));
    while process.read(&mut piece)? {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(size - rgb.len()));
            rgb.extend_from_slice(now);
            rest = later;
            if rgb.len() == size {
                frames.push(Frame { t: 0.0, width, height, rgb: std::mem::replace(&mut rgb, Vec::with_capacity(size)) });
                limits.check_frames(path, frames.len())?;
                if frames.len() as u64 * size as u64 > limits.max_frame_bytes {
                    return Err(problem(
                        path,
                        "it is longer than its header says: its pictures do not fit into the memory allowed",
                    ));
                }
            }
        }
    }
    // 4. their times
    let times = process.finish("ffmpeg")?;
    if times.len() < frames.len() || frames.is_empty() {
        return Err(problem(path, format!("ffmpeg decoded {} pictures and told the times of {}", frames.len(), times.len())));
    }
    let mut last = 0.0;
    for (frame, t) in frames.iter_mut().zip(times) {
        last = f64::max(last, t); // times never run backwards, whatever the file says
        frame.t = last;
    }
    limits.check_seconds(path, last)?;
    Ok(frames)
}

fn sound(path: &Path, limits: &Limits, found: &Probe) -> Result<Vec<f32>> {
    let audio = found.audio().ok_or_else(|| problem(path, "it has no sound"))?;
    limits.check_seconds(path, found.duration().unwrap_or(0.0))?;
    let rate: u32 = audio.sample_rate.as_ref().and_then(|r| r.parse().ok()).unwrap_or(0);
    let channels = audio.channels;
    if channels == 0 || channels > MAX_CHANNELS {
        return Err(problem(path, format!("its sound has {channels} channels; allowed are 1 to {MAX_CHANNELS}")));
    }
    // first_pts: silence or a cut where the sound does not start with the file, so that both tracks share one clock
    let filter = format!("aresample={rate}:async=1:first_pts=0");
    let mut command = ffmpeg(path);
    command.args(["-map", &format!("0:{}", audio.index), "-vn", "-sn", "-dn", "-af", &filter, "-ac", &channels.to_string()]);
    let time = allowed(found.duration().unwrap_or(limits.max_seconds));
    let mut process = Process::start(command.args(["-f", "f32le", "pipe:1"]), path, time)?;
    let mut sink = audio::Sink::new(path, limits);
    let (mut piece, mut bytes, mut samples) = (Vec::new(), Vec::new(), Vec::new());
    while process.read(&mut piece)? {
        bytes.extend_from_slice(&piece);
        let whole = bytes.len() / (4 * channels) * (4 * channels);
        samples.clear();
        samples.extend(bytes[..whole].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        sink.interleaved(&samples, channels, rate)?;
        bytes.drain(..whole);
    }
    process.finish("ffmpeg")?;
    sink.finish()
}

/// Channels that are mixed at most.
const MAX_CHANNELS: usize = 64;
