//! What the whole-program tests share.
#![allow(dead_code)] // each test file uses a part of it

pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use dreamseed::Engine;
use dreamseed::fetch::Progress;

/// The binary.
pub(crate) fn dreamseed(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamseed"));
    command.args(args).env_remove("DREAMSEED_LOG");
    command
}

/// What a run printed, and its exit code.
pub(crate) fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    (status.code().expect("it was not killed by a signal"), text(stdout), text(stderr))
}

/// An engine with the user's own weights folder; what is missing is fetched once.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::builder().progress(Progress::auto()).build().expect("an engine"))
}

/// The folder of a model, fetched if it is not there.
pub(crate) fn weights(id: &str) -> PathBuf {
    engine().folder(id).unwrap_or_else(|e| panic!("{id} is needed for this test: {e}"))
}

/// A file of the reference material, which lies beside the repository or where DREAMSEED_REFERENCE says.
pub(crate) fn reference(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference");
    let path = std::env::var_os("DREAMSEED_REFERENCE").map_or(beside, PathBuf::from).join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// Whether ffmpeg is installed.
pub(crate) fn ffmpeg() -> bool {
    let there = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !there {
        eprintln!("skipped: ffmpeg is not installed");
    }
    there
}

/// A 16-bit mono WAV file.
pub(crate) fn write_wav(path: &Path, rate: u32, samples: &[f32]) {
    let data: Vec<u8> = samples.iter().flat_map(|s| ((s.clamp(-1.0, 1.0) * 32767.0) as i16).to_le_bytes()).collect();
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(rate.to_le_bytes());
    file.extend((rate * 2).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    std::fs::write(path, file).expect("a wav file");
}
