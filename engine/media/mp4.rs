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
    /// Seconds that the movie shows of it, where one edit says so.
    pub(super) length: Option<f64>,
}

/// Largest `moov` box that is read: an hour of video has about 1 MiB.
const MAX_MOOV: u64 = 64 << 20;
/// Top-level boxes that are looked through: fragmented files have two a second.
const MAX_BOXES: usize = 100_000;

/// The tracks of `path`; none where it is no MP4 file or its boxes are broken (the decoder will say what is wrong with it).
pub(super) fn tracks(path: &Path) -> Vec<Track> {
    let Some(moov) = moov(path) else { return Vec::new() };
    let movie = child(&moov, b"mvhd").and_then(timescale);
    boxes(&moov).filter(|(kind, _)| kind == b"trak").map(|(_, trak)| track(trak, movie)).collect()
}

/// Whether every box down to the sample tables lies within its parent, and every table within its box.
pub(super) fn fits(path: &Path) -> bool {
    moov(path).is_some_and(|moov| content_fits(&moov, 0))
}

fn content_fits(data: &[u8], depth: usize) -> bool {
    let mut used = 0;
    for (kind, content) in boxes(data) {
        used += 8 + content.len();
        let table = |entry: usize, count_at: usize| {
            be(content, count_at, 4).is_some_and(|n| n as usize <= content.len().saturating_sub(count_at + 4) / entry)
        };
        let fits = match &kind {
            b"trak" | b"mdia" | b"minf" | b"stbl" | b"edts" => depth < 8 && content_fits(content, depth + 1),
            b"stts" | b"ctts" | b"co64" => table(8, 4),
            b"stsc" => table(12, 4),
            b"stco" | b"stss" => table(4, 4),
            b"stsz" => be(content, 4, 4).is_some_and(|size| size > 0) || table(4, 8),
            _ => true,
        };
        if !fits {
            return false;
        }
    }
    data.len() - used < 8
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
            if size - header > MAX_MOOV {
                return None;
            }
            file.take(size - header).read_to_end(&mut content).ok()?;
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

/// Units a second, from a movie's or a track's header.
fn timescale(header: &[u8]) -> Option<f64> {
    be(header, if *header.first()? == 1 { 20 } else { 12 }, 4).filter(|&t| t > 0).map(|t| t as f64)
}

fn track(trak: &[u8], movie: Option<f64>) -> Track {
    let mdia = child(trak, b"mdia").unwrap_or_default();
    let handler = child(mdia, b"hdlr").and_then(|h| h.get(8..12)?.try_into().ok()).unwrap_or_default();
    let media = child(mdia, b"mdhd").and_then(timescale);
    let edits = child(trak, b"edts").and_then(|e| child(e, b"elst")).and_then(edits).unwrap_or_default();
    Track {
        handler,
        run_in: edits.first().zip(media).map_or(0.0, |(&(_, start), scale)| start as f64 / scale),
        length: movie.filter(|_| edits.len() == 1).map(|scale| edits[0].0 as f64 / scale).filter(|&s| s > 0.0),
    }
}

/// (duration, media time) of each edit that shows anything; a media time of -1 is an empty edit.
fn edits(elst: &[u8]) -> Option<Vec<(u64, u64)>> {
    let width = if *elst.first()? == 1 { 8 } else { 4 };
    let entries = elst.get(8..)?.chunks_exact(2 * width + 4).take(be(elst, 4, 4)? as usize);
    let edit = |e: &[u8]| Some((be(e, 0, width)?, be(e, width, width).filter(|&t| t >> (8 * width - 1) == 0)?));
    Some(entries.filter_map(edit).collect())
}

/// `width` bytes from `at`, big end first.
fn be(data: &[u8], at: usize, width: usize) -> Option<u64> {
    Some(data.get(at..at + width)?.iter().fold(0, |v, &b| v << 8 | u64::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(8 + content.len() as u32).to_be_bytes()[..], kind, content].concat()
    }

    /// A movie of one track with a run-in of 1024 of 44,100 and `chunks` claimed in a table of two.
    fn movie(chunks: u32) -> Vec<u8> {
        let long = |v: &[u32]| v.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>();
        let tables = boxed(b"stbl", &boxed(b"stco", &long(&[0, chunks, 7, 9])));
        let media = [
            boxed(b"mdhd", &long(&[0, 0, 0, 44_100, 0])),
            boxed(b"hdlr", &[&long(&[0, 0])[..], b"soun", &[0; 12]].concat()),
            boxed(b"minf", &tables),
        ];
        let edits = boxed(b"edts", &boxed(b"elst", &long(&[0, 2, 10, u32::MAX, 1 << 16, 2000, 1024, 1 << 16])));
        let track = [edits, boxed(b"mdia", &media.concat())].concat();
        let content = [boxed(b"mvhd", &long(&[0, 0, 0, 1000, 0])), boxed(b"trak", &track)].concat();
        [boxed(b"ftyp", b"M4A "), boxed(b"moov", &content)].concat()
    }

    #[test]
    fn a_track_tells_its_run_in_and_a_table_that_claims_too_much_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.m4a");
        let put = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
        put(&movie(2));
        let want = Track { handler: *b"soun", run_in: 1024.0 / 44_100.0, length: Some(2.0) };
        assert_eq!((tracks(&path), fits(&path)), (vec![want], true));
        put(&movie(3));
        assert!(!fits(&path));
        let whole = movie(2);
        for n in 0..whole.len() {
            put(&whole[..n]);
            assert!(!fits(&path) && tracks(&path).is_empty(), "{n}");
        }
        for at in 12..whole.len() {
            let mut broken = whole.clone();
            broken[at] = 0xff;
            put(&broken);
            let _ = (fits(&path), tracks(&path)); // neither panics
        }
    }
}
