//! What a file is, by its first bytes.

use super::{Limits, problem, refused};
use crate::Result;
use std::{fs::File, io::Read, path::Path};

/// What a file holds, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PNG, JPEG, WebP, GIF: one picture or an animation.
    Picture,
    /// A format for sound alone.
    Audio,
    /// A container that may hold video, sound or both: MP4, Matroska, AVI, MPEG, FLV, ASF, Ogg.
    Container,
}

/// Checks that `path` is a regular file of an allowed size and tells what it is.
pub(super) fn look(path: &Path, limits: &Limits) -> Result<Kind> {
    let meta = std::fs::metadata(path).map_err(refused(path))?;
    if meta.is_dir() {
        return Err(problem(
            path,
            "it is a folder; give a file, or a folder of pictures with their rate (--frames DIR --fps N)",
        ));
    }
    if !meta.is_file() {
        return Err(problem(path, "it is a pipe or a device; only regular files are read: save it to a file first"));
    }
    if meta.len() == 0 {
        return Err(problem(path, "it is empty (0 bytes)"));
    }
    if meta.len() > limits.max_bytes {
        return Err(problem(
            path,
            format!("it is {} bytes; at most {} are allowed: cut it, or raise the limit", meta.len(), limits.max_bytes),
        ));
    }
    let head = head(path)?;
    kind(&head).ok_or_else(|| {
        let seen: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
        problem(
            path,
            format!(
                "its first bytes ({}) are those of no format that is read here; sound: wav, mp3, flac, ogg, m4a, aiff, caf; \
                 pictures: png, jpeg, webp, gif; video (by ffmpeg): mp4, mov, mkv, webm, avi, mpeg, flv, wmv",
                seen.join(" ")
            ),
        )
    })
}

/// Bytes that are looked at: three MPEG transport packets.
const HEAD: usize = 188 * 3;

/// The first bytes of a file.
pub(super) fn head(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(path).and_then(|f| f.take(HEAD as u64).read_to_end(&mut head)).map_err(refused(path))?;
    Ok(head)
}

/// The kind of a file that starts with `head`.
pub(super) fn kind(head: &[u8]) -> Option<Kind> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let picture = at(0, b"\x89PNG\r\n\x1a\n")
        || at(0, b"\xff\xd8\xff")
        || at(0, b"GIF87a")
        || at(0, b"GIF89a")
        || (at(0, b"RIFF") && at(8, b"WEBP"));
    let riff_sound = (at(0, b"RIFF") || at(0, b"RF64") || at(0, b"BW64")) && at(8, b"WAVE");
    let aiff = at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC"));
    let other_sound =
        [&b"fLaC"[..], b"caff", b"ID3", b"#!AMR", b".snd", b"wvpk", b"ADIF", b"\x0b\x77"].iter().any(|m| at(0, m));
    let container = at(4, b"ftyp")
        || [&b"moov"[..], b"mdat", b"wide", b"free", b"skip"].iter().any(|m| at(4, m))
        || at(0, b"\x1a\x45\xdf\xa3")
        || (at(0, b"RIFF") && at(8, b"AVI "))
        || at(0, b"OggS")
        || at(0, b"FLV\x01")
        || at(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")
        || at(0, b"\x00\x00\x01\xba")
        || at(0, b"\x00\x00\x01\xb3")
        || (at(0, b"G") && at(188, b"G") && at(376, b"G"));
    // MPEG audio (layers 1 to 3) and AAC in ADTS start with their frame's sync word: eleven or twelve ones.
    let mpeg_audio =
        matches!(head, [0xff, b, c, ..] if b & 0xe0 == 0xe0 && (b & 0x06 != 0 && c & 0xf0 != 0xf0 || b & 0xf6 == 0xf0));
    match (picture, riff_sound || aiff || other_sound || mpeg_audio, container) {
        (true, ..) => Some(Kind::Picture),
        (_, true, _) => Some(Kind::Audio),
        (.., true) => Some(Kind::Container),
        _ => None,
    }
}
