//! Pictures that are still being made. The newest is looked at when the one before is done; those between are dropped and counted, so
//! that what is told is never older than one look.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dreamseed_models::face::FaceNets;
use dreamseed_models::pose::Pose;

pub use crate::extract::Look;

use crate::extract::{Perception, Tracks, Watcher};
use crate::media::{self, Limits};
use crate::session::{Engine, Wanted};
use crate::{Error, Result};

/// Pictures under way. Dropping it without [`Sight::finish`] ends the looking.
pub struct Sight {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<Result<Watched>>>,
    limits: Limits,
    last: Option<f64>,
    shown: usize,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Pose, face and scene, as far as they were wanted, and how long the pictures lasted.
    pub tracks: Tracks,
    /// Pictures that were looked at.
    pub looked: usize,
    /// Pictures that came faster than they could be looked at.
    pub dropped: usize,
}

/// Where the newest picture lies.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    newest: Option<(f64, Vec<u8>)>,
    ended: bool, // no more come, and the newest is still looked at
    gone: bool,  // nobody waits for anything
    dropped: usize,
}

impl Engine {
    /// Begins to look at pictures: for bodies and faces, as `wanted` says. `on_look` is called on the thread that looks, with what was
    /// found and how many pictures were dropped so far; while it runs nothing is looked at.
    ///
    /// # Errors
    /// Models that cannot be had or loaded.
    pub fn watch(
        &self,
        wanted: &Wanted,
        limits: &Limits,
        on_look: impl FnMut(&Look<'_>, usize) + Send + 'static,
    ) -> Result<Sight> {
        let pose = match wanted.people {
            0 | 1 => wanted.pose.then(|| self.pose(wanted.pose_model.as_deref())).transpose()?,
            _ => wanted.pose.then(|| self.pose_of_several(wanted.pose_model.as_deref())).transpose()?,
        };
        let face = wanted.face.then(|| self.face()).transpose()?;
        let desk = Arc::<Desk>::default();
        let worker =
            Worker { engine: self.clone(), desk: desk.clone(), people: wanted.people, limits: limits.clone(), pose, face };
        let run = move || {
            catch_unwind(AssertUnwindSafe(|| worker.run(on_look)))
                .unwrap_or_else(|_| Err(Error::Internal("looking panicked; please report it with the pictures".into())))
        };
        let thread = Some(std::thread::spawn(run));
        Ok(Sight { desk, thread, limits: limits.clone(), last: None, shown: 0 })
    }
}

impl Sight {
    /// Hands over a picture (JPEG, PNG, WebP) of `t` seconds. Returns at once: it is decoded when it is looked at.
    ///
    /// # Errors
    /// Times that do not rise or are beyond the limits, more pictures than they allow; what made the looking fail.
    pub fn show(&mut self, t: f64, picture: Vec<u8>) -> Result<()> {
        let most = self.limits.max_seconds;
        if !(0.0..=most).contains(&t) {
            return Err(Error::Usage(format!("a picture of {t} s; 0 to {most} s is allowed")));
        }
        if let Some(last) = self.last.filter(|last| t <= *last) {
            return Err(Error::Usage(format!("a picture of {t} s after one of {last} s: times must rise")));
        }
        if self.shown == self.limits.max_frames {
            return Err(Error::Usage(format!("more than {} pictures: end the clip, or raise limits.frames", self.shown)));
        }
        (self.last, self.shown) = (Some(t), self.shown + 1);
        let mut state = self.desk.state();
        let gone = state.gone;
        state.dropped += usize::from(state.newest.replace((t, picture)).is_some());
        drop(state);
        self.desk.changed.notify_one();
        if gone { self.join().map(drop) } else { Ok(()) }
    }

    /// Says that no more pictures come: the newest is looked at, while the caller may do something else before [`Sight::finish`].
    pub fn end(&self) {
        self.desk.state().ended = true;
        self.desk.changed.notify_one();
    }

    /// Waits for the last look.
    ///
    /// # Errors
    /// What made the looking fail.
    pub fn finish(mut self) -> Result<Watched> {
        self.end();
        self.join()
    }

    fn join(&mut self) -> Result<Watched> {
        let ended = || Error::Internal("looking has ended before".into());
        self.thread.take().ok_or_else(ended)?.join().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        self.desk.state().gone = true;
        self.desk.changed.notify_one();
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest picture once it is there; `None` when no more come.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when nobody waits any more.
    fn next(&self) -> Result<Option<(f64, Vec<u8>)>> {
        let waiting = |s: &mut State| s.newest.is_none() && !s.ended && !s.gone;
        let mut state = self.changed.wait_while(self.state(), waiting).unwrap_or_else(PoisonError::into_inner);
        if state.gone { Err(Error::Cancelled) } else { Ok(state.newest.take()) }
    }
}

/// The thread that looks.
struct Worker {
    engine: Engine,
    desk: Arc<Desk>,
    people: usize,
    limits: Limits,
    pose: Option<Arc<Pose>>,
    face: Option<Arc<FaceNets>>,
}

impl Worker {
    fn run(self, on_look: impl FnMut(&Look<'_>, usize)) -> Result<Watched> {
        let seen = self.look(on_look);
        self.desk.state().gone |= seen.is_err(); // the next picture asks why
        seen
    }

    fn look(&self, mut on_look: impl FnMut(&Look<'_>, usize)) -> Result<Watched> {
        let perception = Perception {
            pose: self.pose.as_deref(),
            people: self.people,
            face: self.face.as_deref(),
            video: true,
            ..Perception::default()
        };
        let mut watcher = Watcher::new(&perception);
        let mut times = Vec::new();
        while let Some((t, picture)) = self.desk.next()? {
            let frame = media::Frame { t, ..media::decode_picture(&picture, &self.limits)? };
            let look = watcher.see(self.engine.pool(), &frame)?;
            times.push(t);
            on_look(&look, self.desk.state().dropped);
        }
        if times.is_empty() {
            return Ok(Watched::default()); // no tracks at all: there was nothing to see
        }
        let (pose, face, scene) = watcher.finish();
        let scene = scene.filter(|_| times.len() > 1);
        let tracks = Tracks { duration: lasted(&times), pose, face, scene, ..Tracks::default() };
        Ok(Watched { tracks, looked: times.len(), dropped: self.desk.state().dropped })
    }
}

/// Until the end of the last picture, which lasts as long as the others do on the average.
fn lasted(times: &[f64]) -> f64 {
    match times {
        [first, .., last] => last + (last - first) / (times.len() - 1) as f64,
        [only] => *only,
        [] => 0.0,
    }
}
