//! Sound as it comes: from standard input, or from a file at its own pace; Ctrl-C ends it as its end does.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use signal_hook::{consts::SIGINT, flag};

use crate::live::Live;
use crate::media::{Incoming, SAMPLE_RATE};
use crate::{Error, Result};

/// Bytes of one read at most.
const READ: usize = 1 << 16;
/// Samples that are handed over at once, 0.1 s.
const PIECE: usize = SAMPLE_RATE as usize / 10;
/// How soon Ctrl-C is seen.
const LOOK: Duration = Duration::from_millis(50);

/// Whether Ctrl-C was pressed.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on Ctrl-C ends the sound and no more; the second one ends the program.
pub(super) fn end_on_interrupt() -> Result<()> {
    const BY_INTERRUPT: i32 = 130;
    let failed = |e| Error::Internal(format!("listening to Ctrl-C: {e}"));
    // in this order: the first one finds the flag still down
    flag::register_conditional_shutdown(SIGINT, BY_INTERRUPT, INTERRUPTED.clone()).map_err(failed)?;
    flag::register(SIGINT, INTERRUPTED.clone()).map_err(failed)?;
    Ok(())
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Hands what standard input brings to `live` until it ends: raw signed 16-bit mono at 16 kHz, or a WAV file.
pub(super) fn standard_input(live: &mut Live, goes_on: &dyn Fn() -> bool) -> Result<()> {
    let mut incoming = Incoming::new();
    let mut pcm = Vec::new();
    let bytes = read();
    while goes_on() && !interrupted() {
        match bytes.recv_timeout(LOOK) {
            Ok(read) => {
                let read = read.map_err(|source| Error::Io { path: "standard input".into(), source })?;
                pcm.clear();
                incoming.push(&read, &mut pcm)?;
                live.push(&pcm)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    pcm.clear();
    incoming.finish(&mut pcm);
    live.push(&pcm)
}

/// Standard input on a thread of its own: a read may wait for ever.
fn read() -> Receiver<std::io::Result<Vec<u8>>> {
    let (sender, bytes) = sync_channel(64);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; READ];
        loop {
            let read = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(buffer[..count].to_vec()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let last = read.is_err();
            if sender.send(read).is_err() || last {
                return;
            }
        }
    });
    bytes
}

/// Hands a recording to `live`: as if it were being made (`realtime`), or at once.
pub(super) fn recording(live: &mut Live, pcm: &[f32], realtime: bool, goes_on: &dyn Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    for piece in pcm.chunks(PIECE) {
        live.push(piece)?;
        let due = Duration::from_secs_f64(live.seconds());
        while realtime && begin.elapsed() < due && goes_on() && !interrupted() {
            std::thread::sleep((due - begin.elapsed().min(due)).min(LOOK));
        }
        if !goes_on() || interrupted() {
            break;
        }
    }
    Ok(())
}
