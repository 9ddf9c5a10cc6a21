//! The work of a conversation: one thread that takes what comes, beside those that listen and look.

use std::sync::{Arc, atomic::Ordering};

use axum::extract::ws::Utf8Bytes;
use dreamseed_models::whisper;
use tokio::sync::mpsc;

use super::{
    super::{Shared, error::Problem, models, work::Cancel, work::Sink},
    MESSAGE,
    protocol::{self, Input, Limits, Start, Told},
};
use crate::{
    coach::{Lab, events::Event},
    extract::Tracks,
    lesson::{Request, Voice},
    live::{Heard, Listening, Live, Pitch, Sight, Watched},
    manifest::Role,
    media::{self, Clip, SAMPLE_RATE},
    session::{Wanted, language_of},
};

/// Longest clip, seconds.
const LONGEST: f64 = 600.0;
/// Most pictures of it: thirty a second.
const PICTURES: usize = 18_000;
/// Most pixels of a picture: it is decoded while others wait.
const PIXELS: u64 = 4_000_000;
/// Seconds of sound that may be missing before more sound; from the smaller on they are filled with silence, for less is how clocks differ.
const MISSING: [f64; 2] = [0.25, 10.0];

/// An event in JSON, or why there are no more.
pub(super) type Part = Result<Utf8Bytes, Problem>;

/// Takes a clip as it comes, and sends its lesson. Ends soon after `cancel` is set or the client is gone.
pub(super) fn run(
    server: &Shared,
    start: Start,
    (mut inbox, sink): (mpsc::Receiver<Input>, &Sink<Part>),
    cancel: &Cancel,
) -> Result<(), Problem> {
    let mut session = Session::new(server, start, sink)?;
    session.tell(&Told::Ready { limits: session.told_limits() });
    while let Some(input) = inbox.blocking_recv() {
        match input {
            Input::Sound(t, pcm) => session.hear(t, &pcm)?,
            Input::Picture(t, picture) => session.see(t, picture)?,
            Input::End => return session.end(cancel),
        }
    }
    Ok(()) // the client is gone
}

struct Session<'a> {
    server: &'a Shared,
    sink: &'a Sink<Part>,
    limits: media::Limits,
    request: Request,
    lab: Option<Lab>,
    wanted: Wanted,
    spoken: Option<String>,
    text: Option<String>,
    ears: Option<Live>, // where speech is wanted, from the first sound on
    eyes: Option<Sight>,
    pcm: Vec<f32>, // where it is not
    pitch: Pitch,
    last: f64, // seconds of the last piece of sound
}

impl<'a> Session<'a> {
    fn new(server: &'a Shared, start: Start, sink: &'a Sink<Part>) -> Result<Self, Problem> {
        let engine = &server.engine;
        server.look_at(start.text.as_deref())?;
        let voice = match (start.llm, start.model.as_deref()) {
            (Some(false), _) => Voice::Planner,
            (_, None) => Voice::Routed,
            (_, name) => Voice::Model(models::choose(engine, name, Role::Llm)?),
        };
        let lab = start.lab.unwrap_or(Lab::Drama); // whatever may be wanted
        let request = Request { language: start.language, voice, seed: start.seed, ..Request::new(lab, Clip::default()) };
        let limits = engine.limits();
        let limits = media::Limits {
            max_seconds: limits.max_seconds.min(LONGEST),
            max_frames: limits.max_frames.min(PICTURES),
            max_pixels: limits.max_pixels.min(PIXELS),
            ..limits
        };
        let wanted = Wanted { people: start.people.max(1), ..request.wanted() };
        let mut session = Self {
            server,
            sink,
            limits,
            request,
            lab: start.lab,
            wanted,
            spoken: start.spoken,
            text: start.text,
            ears: None,
            eyes: None,
            pcm: Vec::new(),
            pitch: Pitch::default(),
            last: 0.0,
        };
        if session.lab.is_some() {
            session.listen()?;
            session.watch()?;
        }
        Ok(session)
    }

    fn told_limits(&self) -> Limits {
        let media::Limits { max_seconds, max_frames, max_pixels, .. } = self.limits;
        Limits { seconds: max_seconds, pictures: max_frames, pixels: max_pixels, bytes: MESSAGE }
    }

    /// Sends an event; whether anybody is there the next message tells.
    fn tell(&self, event: &Told<'_>) {
        self.sink.send(Ok(protocol::json(event)));
    }

    /// Loads what listens, where that is wanted.
    fn listen(&mut self) -> Result<(), Problem> {
        if !self.wanted.speech || self.ears.is_some() {
            return Ok(());
        }
        let engine = &self.server.engine;
        let named = language_of(&*engine.speech(None)?, self.text.as_deref());
        let options = whisper::Options {
            language: self.spoken.clone().or(named),
            vad: engine.config().speech.vad,
            ..whisper::Options::default()
        };
        let sink = self.sink.clone();
        let on_event = move |event| {
            sink.send(Ok(protocol::json(&event)));
        };
        self.ears = Some(engine.listen(Listening { options, ..Listening::default() }, on_event)?);
        Ok(())
    }

    /// Loads what looks, where that is wanted.
    fn watch(&mut self) -> Result<(), Problem> {
        if !(self.wanted.pose || self.wanted.face) || self.eyes.is_some() {
            return Ok(());
        }
        let sink = self.sink.clone();
        let looked = self.server.engine.watch(&self.wanted, &self.limits, move |look, dropped| {
            if let Some(seen) = look.pose {
                sink.send(Ok(protocol::json(&Told::pose(seen, dropped))));
            }
            if let Some(seen) = look.face {
                sink.send(Ok(protocol::json(&Told::face(seen))));
            }
        });
        self.eyes = Some(looked?);
        Ok(())
    }

    /// Samples so far.
    fn heard(&self) -> usize {
        self.ears.as_ref().map_or(self.pcm.len(), |ears| (ears.seconds() * f64::from(SAMPLE_RATE)).round() as usize)
    }

    fn hear(&mut self, t: f64, pcm: &[f32]) -> Result<(), Problem> {
        self.listen()?;
        if !(self.last..=self.limits.max_seconds).contains(&t) {
            let (last, most) = (self.last, self.limits.max_seconds);
            return Err(Problem::invalid(format!("sound of {t} s; {last} (that of the piece before) to {most} s is allowed")));
        }
        self.last = t;
        let missing = t - self.heard() as f64 / f64::from(SAMPLE_RATE);
        if missing > MISSING[1] {
            return Err(Problem::invalid(format!("{missing:.1} s of sound are missing; {} s is allowed", MISSING[1])));
        }
        if missing > MISSING[0] {
            self.push(&vec![0.0; (missing * f64::from(SAMPLE_RATE)) as usize])?;
        }
        self.push(pcm)
    }

    fn push(&mut self, pcm: &[f32]) -> Result<(), Problem> {
        let seconds = (self.heard() + pcm.len()) as f64 / f64::from(SAMPLE_RATE);
        if seconds > self.limits.max_seconds {
            let most = self.limits.max_seconds;
            return Err(Problem::invalid(format!("{seconds:.1} s of sound; {most} s is allowed: end the clip")));
        }
        match &mut self.ears {
            Some(ears) => ears.push(pcm)?,
            None => self.pcm.extend_from_slice(pcm),
        }
        if self.wanted.prosody
            && let Some(curve) = self.pitch.push(self.server.engine.pool(), pcm)
        {
            self.tell(&Told::Pitch(curve));
        }
        Ok(())
    }

    fn see(&mut self, t: f64, picture: Vec<u8>) -> Result<(), Problem> {
        self.watch()?;
        match &mut self.eyes {
            Some(eyes) => Ok(eyes.show(t, picture)?),
            None => Err(Problem::invalid("the lab speech takes sound alone; use drama for pictures and sound")),
        }
    }

    /// The clip is complete: its lesson.
    fn end(self, cancel: &Cancel) -> Result<(), Problem> {
        let (server, sink) = (self.server, self.sink);
        let request = self.finish()?;
        for event in server.engine.coach_until(request, cancel.clone()) {
            let event = event?;
            if let Event::Done(done) = &event {
                server.metrics.stages(&done.seconds);
            }
            if !sink.send(Ok(protocol::json(&event))) || cancel.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// The last words and looks, and what the lesson is about.
    fn finish(mut self) -> Result<Request, Problem> {
        if let Some(eyes) = &self.eyes {
            eyes.end(); // the last look while the last words are written down
        }
        let pitch = std::mem::take(&mut self.pitch).finish(self.server.engine.pool()).filter(|_| self.wanted.prosody);
        if let Some(curve) = pitch {
            self.tell(&Told::Pitch(curve));
        }
        let pcm = std::mem::take(&mut self.pcm);
        let (pcm, speech) = match self.ears.take() {
            Some(ears) if ears.seconds() > 0.0 => {
                let Heard { pcm, transcript } = ears.finish()?;
                (pcm, Some(transcript))
            }
            _ => (pcm, None),
        };
        let Watched { tracks, looked, dropped } = match self.eyes.take() {
            Some(eyes) => eyes.finish()?,
            None => Watched::default(),
        };
        if pcm.is_empty() && looked == 0 {
            return Err(Problem::invalid("the clip ended with nothing in it; send sound or pictures before `end`"));
        }
        let sounded = pcm.len() as f64 / f64::from(SAMPLE_RATE);
        self.server.metrics.audio(sounded);
        self.tell(&Told::Ended { seconds: sounded.max(tracks.duration), pictures: looked, dropped });
        let lab = self.lab.unwrap_or_else(|| Lab::of(!pcm.is_empty(), looked > 0));
        let clip = Clip { pcm, text: self.text, ..Clip::default() };
        Ok(Request { lab, clip: Arc::new(clip), known: Arc::new(Tracks { speech, ..tracks }), ..self.request })
    }
}
