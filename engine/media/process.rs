//! A program that writes into a pipe: never waited for without end, never left behind.

use super::problem;
use crate::Result;
use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A program that puts out nothing for so long is stopped.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time that a program may take for any file, and what each second of the clip adds to that.
const ALLOWED: f64 = 120.0;
const ALLOWED_A_SECOND: f64 = 10.0;
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
    started: Instant,
    allowed: Duration,
}

/// Time that a program may take for a clip of so many seconds: far more than a slow machine needs, but not without end.
pub(super) fn allowed(seconds: f64) -> Duration {
    Duration::from_secs_f64(ALLOWED + ALLOWED_A_SECOND * seconds.clamp(0.0, 86_400.0))
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
    /// Starts `command` for the file `path`; it is stopped when it has run for the time `allowed`.
    pub(super) fn start(command: &mut Command, path: &Path, allowed: Duration) -> Result<Self> {
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
        let path = path.to_path_buf();
        Ok(Self { child, path, output, talk: Some(talk), started: Instant::now(), allowed })
    }

    /// The next piece of output; `false` at its end.
    pub(super) fn read(&mut self, piece: &mut Vec<u8>) -> Result<bool> {
        let left = self.left()?;
        match self.output.recv_timeout(PATIENCE.min(left)) {
            Ok(Ok(bytes)) => {
                *piece = bytes;
                Ok(!piece.is_empty())
            }
            Ok(Err(e)) => Err(problem(&self.path, format!("the decoder's output cannot be read: {e}"))),
            Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(RecvTimeoutError::Timeout) if left <= PATIENCE => Err(self.late()),
            Err(RecvTimeoutError::Timeout) => Err(problem(
                &self.path,
                format!("the decoder gave nothing for {} s and was stopped: the file may be broken", PATIENCE.as_secs()),
            )),
        }
    }

    /// After the end of the output: the times it told, or why it failed.
    pub(super) fn finish(mut self, program: &str) -> Result<Vec<f64>> {
        let status = loop {
            match self.child.try_wait().map_err(|e| problem(&self.path, format!("{program} was lost: {e}")))? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(2).min(self.left()?)),
            }
        };
        let talk = self.talk.take().and_then(|t| t.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(talk.times);
        }
        let said = if talk.complaints.is_empty() { "it does not say why".into() } else { talk.complaints.join("; ") };
        // the error names the file already, and who sent it need not hear where it lies
        let said = said
            .replace(&format!("file:{}", self.path.display()), "the file")
            .replace(&*self.path.to_string_lossy(), "the file");
        Err(problem(&self.path, format!("{program} cannot decode it ({status}): {said}")))
    }

    /// The time that is left to it.
    fn left(&self) -> Result<Duration> {
        self.allowed.checked_sub(self.started.elapsed()).ok_or_else(|| self.late())
    }

    fn late(&self) -> crate::Error {
        problem(
            &self.path,
            format!("the decoder took more than {:.0} s and was stopped: the file may be broken", self.allowed.as_secs_f64()),
        )
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Runs a shell's script to its end, or to the error.
    fn run(script: &str, allowed: Duration) -> Result<Vec<f64>> {
        let mut process = Process::start(Command::new("sh").args(["-c", script]), Path::new("clip.mp4"), allowed)?;
        let mut piece = Vec::new();
        while process.read(&mut piece)? {}
        process.finish("sh")
    }

    #[test]
    fn a_program_without_end_is_stopped() {
        for script in ["while :; do echo x; done", "sleep 60", "exec >&-; sleep 60"] {
            let started = Instant::now();
            let error = run(script, Duration::from_millis(200)).unwrap_err().to_string();
            assert!(error.contains("took more than 0 s and was stopped"), "{script}: {error}");
            assert!(started.elapsed() < Duration::from_secs(20), "{script}");
        }
        assert!(run("echo x", allowed(0.0)).is_ok());
        let error = run("echo 'an Error of its own' >&2; exit 3", allowed(0.0)).unwrap_err().to_string();
        assert!(error.contains("an Error of its own"), "{error}");
    }

    #[test]
    fn the_time_allowed_grows_with_the_clip() {
        assert_eq!(allowed(0.0).as_secs(), 120);
        assert_eq!(allowed(60.0).as_secs(), 720);
        assert_eq!(allowed(f64::INFINITY), allowed(86_400.0));
    }
}
