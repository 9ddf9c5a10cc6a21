//! The few boxes of an MP4 file (ISO/IEC 14496-12) that symphonia leaves out: which tracks there are, and where their edit lists
//! begin. AAC starts with a run-in of one or two thousand samples that the edit list skips; without it the sound comes late.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// A track of a movie.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Track {
    /// `vide`, `soun`, `text`, ...
    pub(super) handler: [u8; 4],
    /// Seconds of the track's media before the movie begins.
    pub(super) run_in: f64,
}

/// Largest `moov` box that is read: an hour of video has about 1 MiB.
const MAX_MOOV: u64 = 64 << 20;
/// Top-level boxes that are looked through: fragmented files have two a second.
const MAX_BOXES: usize = 100_000;

/// The tracks of `path`; none where it is no MP4 file or its boxes are broken (the decoder will say what is wrong with it).
pub(super) fn tracks(path: &Path) -> Vec<Track> {
    moov(path)
        .map(|moov| boxes(&moov).filter(|(kind, _)| kind == b"trak").map(|(_, trak)| track(trak)).collect())
        .unwrap_or_default()
}

/// The content of the `moov` box, in memory: never more than the file has.
fn moov(path: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    let mut at = 0u64;
    for _ in 0..MAX_BOXES {
        let mut head = [0u8; 16];
        file.seek(SeekFrom::Start(at)).ok()?;
        file.read_exact(&mut head[..8]).ok()?;
        let (size, header) = match u32::from_be_bytes(head[..4].try_into().ok()?) {
            0 => (end.checked_sub(at)?, 8),
            1 => {
                file.read_exact(&mut head[8..]).ok()?;
                (u64::from_be_bytes(head[8..].try_into().ok()?), 16)
            }
            n => (u64::from(n), 8),
        };
        let next = at.checked_add(size)?;
        if size < header || next > end {
            return None;
        }
        if &head[4..8] == b"moov" {
            let mut content = Vec::new();
            let length = size - header;
            file.take(length.min(MAX_MOOV)).read_to_end(&mut content).ok()?;
            return Some(content);
        }
        at = next;
    }
    None
}

/// The boxes inside a box; stops at the first whose size is wrong.
fn boxes(mut data: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let size = u32::from_be_bytes(data.get(..4)?.try_into().ok()?) as usize;
        let kind = data.get(4..8)?.try_into().ok()?;
        let content = data.get(8..size)?;
        data = &data[size..];
        Some((kind, content))
    })
}

fn child<'a>(data: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(data).find(|(k, _)| k == kind).map(|(_, content)| content)
}

fn track(trak: &[u8]) -> Track {
    let mdia = child(trak, b"mdia").unwrap_or_default();
    let handler = child(mdia, b"hdlr").and_then(|h| h.get(8..12)?.try_into().ok()).unwrap_or_default();
    let timescale = child(mdia, b"mdhd").and_then(|h| be(h, if *h.first()? == 1 { 20 } else { 12 }, 4)).unwrap_or(0);
    let media_time = child(trak, b"edts").and_then(|e| child(e, b"elst")).and_then(first_edit).unwrap_or(0);
    Track { handler, run_in: if timescale == 0 { 0.0 } else { media_time as f64 / timescale as f64 } }
}

/// Media time at which the first edit that shows anything starts (-1 is an empty edit).
fn first_edit(elst: &[u8]) -> Option<u64> {
    let long = *elst.first()? == 1;
    let (entry, width) = if long { (20, 8) } else { (12, 4) };
    let time = |e: &[u8]| be(e, width, width).filter(|&t| t >> (8 * width - 1) == 0);
    elst.get(8..)?.chunks_exact(entry).take(be(elst, 4, 4)? as usize).find_map(time)
}

/// `width` bytes from `at`, big end first.
fn be(data: &[u8], at: usize, width: usize) -> Option<u64> {
    Some(data.get(at..at + width)?.iter().fold(0, |v, &b| v << 8 | u64::from(b)))
}
