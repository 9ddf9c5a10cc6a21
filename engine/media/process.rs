//! A program that writes into a pipe: never waited for without end, never left behind.

use super::problem;
use crate::Result;
use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

/// A program that puts out nothing for so long is stopped.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read at once.
const PIECE: usize = 1 << 20;
/// Lines of complaint that are kept.
const KEPT: usize = 4;

/// A running program; dropped, it is killed.
pub(super) struct Process {
    child: Child,
    path: PathBuf,
    output: Receiver<std::io::Result<Vec<u8>>>,
    talk: Option<JoinHandle<Talk>>,
}

/// What a program said on its error channel.
#[derive(Default)]
struct Talk {
    /// Presentation times in the order of the pictures, seconds.
    times: Vec<f64>,
    /// The last complaints.
    complaints: Vec<String>,
}

impl Process {
    /// Starts `command` for the file `path`.
    pub(super) fn start(command: &mut Command, path: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| problem(path, format!("{program} cannot be started ({e}): {}", super::video::INSTALL)))?;
        let (send, output) = sync_channel(2);
        let stdout = child.stdout.take();
        std::thread::spawn(move || {
            let Some(mut stdout) = stdout else { return };
            loop {
                let mut piece = vec![0; PIECE];
                let read = stdout.read(&mut piece).map(|n| {
                    piece.truncate(n);
                    piece
                });
                let last = !matches!(&read, Ok(p) if !p.is_empty());
                if send.send(read).is_err() || last {
                    return;
                }
            }
        });
        let stderr = child.stderr.take();
        let talk = std::thread::spawn(move || stderr.map(listen).unwrap_or_default());
        Ok(Self { child, path: path.to_path_buf(), output, talk: Some(talk) })
    }

    /// The next piece of output; `false` at its end.
    pub(super) fn read(&mut self, piece: &mut Vec<u8>) -> Result<bool> {
        match self.output.recv_timeout(PATIENCE) {
            Ok(Ok(bytes)) => {
                *piece = bytes;
                Ok(!piece.is_empty())
            }
            Ok(Err(e)) => Err(problem(&self.path, format!("the decoder's output cannot be read: {e}"))),
            Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(RecvTimeoutError::Timeout) => Err(problem(
                &self.path,
                format!("the decoder gave nothing for {} s and was stopped: the file may be broken", PATIENCE.as_secs()),
            )),
        }
    }

    /// After the end of the output: the times it told, or why it failed.
    pub(super) fn finish(mut self, program: &str) -> Result<Vec<f64>> {
        let status = self.child.wait().map_err(|e| problem(&self.path, format!("{program} was lost: {e}")))?;
        let talk = self.talk.take().and_then(|t| t.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(talk.times);
        }
        let said = if talk.complaints.is_empty() { "it does not say why".into() } else { talk.complaints.join("; ") };
        Err(problem(&self.path, format!("{program} cannot decode it ({status}): {said}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a program that has ended, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(stderr: impl Read) -> Talk {
    let mut talk = Talk::default();
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    // At most 4 KiB a line; a longer one is taken in parts.
    while matches!(lines.by_ref().take(4096).read_until(b'\n', &mut line), Ok(n) if n > 0) {
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        match time(&text) {
            Some(t) => talk.times.push(t),
            None if ["rror", "nvalid", "not ", "ailed", "orrupt", "missing"].iter().any(|w| text.contains(w)) => {
                talk.complaints.push(text);
                if talk.complaints.len() > KEPT {
                    talk.complaints.remove(0);
                }
            }
            None => {}
        }
        line.clear();
    }
    talk
}

/// The time in a line of ffmpeg's `metadata` filter: `[...] frame:3    pts:512     pts_time:0.04`.
fn time(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("] frame:")?;
    let t: f64 = rest.split_once("pts_time:")?.1.trim().parse().ok()?;
    t.is_finite().then_some(t.max(0.0))
}
