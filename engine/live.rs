//! Speech that is still being spoken: an [`Engine`] listens on a thread of its own while the caller records. Pictures are looked at
//! ([`Engine::watch`]) and pitch is followed ([`Pitch`]) in the same way.
//!
//! ```no_run
//! use dreamseed::live::{Event, Listening};
//! # fn next_chunk() -> Option<Vec<f32>> { None }
//! # fn main() -> dreamseed::Result<()> {
//! let engine = dreamseed::Engine::builder().build()?;
//! let mut live = engine.listen(Listening::default(), |event| {
//!     if let Event::Final { words } = event {
//!         println!("{words:?}");
//!     }
//! })?;
//! while let Some(pcm) = next_chunk() { // mono, 16 kHz, any number of samples
//!     live.push(&pcm)?;
//! }
//! let heard = live.finish()?; // soon after the last chunk, whatever the length
//! println!("{}", heard.transcript.text);
//! # Ok(())
//! # }
//! ```

mod pitch;
mod sight;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use dreamseed_models::whisper::{self, Transcript, Whisper};

pub use dreamseed_models::whisper::stream::{Event, Options as Timing};

pub use pitch::{Curve, Pitch};
pub use sight::{Look, Sight, Watched};

use crate::media::SAMPLE_RATE;
use crate::session::Engine;
use crate::{Error, Result};

/// How to listen.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// Speech model: an id or a folder; `None` is the profile's.
    pub model: Option<String>,
    /// What to write down. Words always have times.
    pub options: whisper::Options,
    /// When words go out.
    pub timing: Timing,
}

/// What was said, and the sound of it.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Mono samples at 16 kHz: everything that was pushed.
    pub pcm: Vec<f32>,
    /// The final words.
    pub transcript: Transcript,
}

/// Sound under way. Dropping it without [`Live::finish`] ends the listening.
pub struct Live {
    input: Sender<Input>,
    thread: Option<JoinHandle<Result<Transcript>>>,
    cancel: Arc<AtomicBool>,
    pcm: Vec<f32>,
    max_seconds: f64,
}

enum Input {
    Sound(Vec<f32>),
    End,
}

impl Engine {
    /// Begins to listen. `on_event` is called on the thread that listens, soon after the words were spoken; it should return soon,
    /// for nothing is heard meanwhile (what is pushed waits). Streams of one engine share its threads and nothing else.
    ///
    /// # Errors
    /// A model that cannot be had or loaded, options that it cannot do.
    pub fn listen(&self, listening: Listening, on_event: impl FnMut(Event) + Send + 'static) -> Result<Live> {
        let model = self.speech(listening.model.as_deref())?;
        drop(model.stream(self.pool(), &listening.options, listening.timing)?); // what is wrong with the options is said here
        let (input, sound) = channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let worker = Worker { engine: self.clone(), model, listening, sound, cancel: cancel.clone() };
        let run = move || {
            catch_unwind(AssertUnwindSafe(|| worker.run(on_event)))
                .unwrap_or_else(|_| Err(Error::Internal("listening panicked; please report it with the sound".into())))
        };
        let max_seconds = self.limits().max_seconds;
        Ok(Live { input, thread: Some(std::thread::spawn(run)), cancel, pcm: Vec::new(), max_seconds })
    }
}

impl Live {
    /// Hands over the next samples (mono, 16 kHz, full scale 1), any number. Returns at once.
    ///
    /// # Errors
    /// More sound than `limits.seconds`; what made the listening fail.
    pub fn push(&mut self, pcm: &[f32]) -> Result<()> {
        let seconds = (self.pcm.len() + pcm.len()) as f64 / f64::from(SAMPLE_RATE);
        if seconds > self.max_seconds {
            let problem =
                format!("{seconds:.1} s of sound; at most {} are allowed: end it, or raise limits.seconds", self.max_seconds);
            return Err(Error::Usage(problem));
        }
        self.pcm.extend_from_slice(pcm);
        match self.input.send(Input::Sound(pcm.to_vec())) {
            Ok(()) => Ok(()),
            Err(_) => self.join().map(drop),
        }
    }

    /// Seconds of sound so far.
    pub fn seconds(&self) -> f64 {
        self.pcm.len() as f64 / f64::from(SAMPLE_RATE)
    }

    /// Ends the sound and waits for the last words: for one decoding of at most twenty seconds, or, after a pause, for none.
    ///
    /// # Errors
    /// What made the listening fail.
    pub fn finish(mut self) -> Result<Heard> {
        let _ = self.input.send(Input::End); // a listener that is gone tells below why
        let transcript = self.join()?;
        Ok(Heard { pcm: std::mem::take(&mut self.pcm), transcript })
    }

    fn join(&mut self) -> Result<Transcript> {
        let ended = || Error::Internal("listening has ended before".into());
        let thread = self.thread.take().ok_or_else(ended)?;
        thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// The thread that listens.
struct Worker {
    engine: Engine,
    model: Arc<Whisper>,
    listening: Listening,
    sound: Receiver<Input>,
    cancel: Arc<AtomicBool>,
}

impl Worker {
    fn run(self, mut on_event: impl FnMut(Event)) -> Result<Transcript> {
        let mut stream = self.model.stream(self.engine.pool(), &self.listening.options, self.listening.timing)?;
        // everything that came meanwhile is one piece: where computing is slow, fewer steps are made
        while let Ok(first) = self.sound.recv() {
            let (mut pcm, mut ended) = (Vec::new(), false);
            for input in std::iter::once(first).chain(self.sound.try_iter()) {
                match input {
                    Input::Sound(more) => pcm.extend(more),
                    Input::End => ended = true,
                }
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let events = if ended { stream.hear(&pcm) } else { stream.push(&pcm) }?;
            events.into_iter().for_each(&mut on_event);
            if ended {
                let (events, transcript) = stream.finish()?;
                events.into_iter().for_each(&mut on_event);
                return Ok(transcript);
            }
        }
        Err(Error::Cancelled)
    }
}
