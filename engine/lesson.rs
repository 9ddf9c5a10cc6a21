//! A lesson: the whole way of the data for one clip, as a stream of events that ends when it is dropped.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use dreamseed_models::chat::{Message, Role};
use dreamseed_models::prosody::{self, Comparison, Span};
use dreamseed_models::whisper::{Progress, Pronunciation, Transcript};
use dreamseed_models::words;

use crate::coach::events::{Done, Event, Features, Lesson};
use crate::coach::{self, Input, Lab, Language, Plan, Reference};
use crate::composer::{self, Composer, Prompt, Style};
use crate::extract::Tracks;
use crate::live::Heard;
use crate::llm::{Chat, Llm, Options, Sampling};
use crate::manifest;
use crate::media::Clip;
use crate::router::{self, Candidate, Task, Tier};
use crate::session::{Engine, Wanted};
use crate::timeline::{self, Timeline};
use crate::{Error, Result};

/// Tokens of the LLM's context that a point needs: prompt, examples and answer.
const CONTEXT: usize = 1024;
/// Events that wait for a slow caller before the lesson waits too.
const WAITING: usize = 256;

/// Share of the words of the longer of two readings that must be the same for their melody and rhythm to be compared.
const SAME_TEXT: f64 = 0.6;

/// What a lesson works on.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is practised.
    pub lab: Lab,
    /// The learner's clip; its text is what should be said.
    pub clip: Arc<Clip>,
    /// A teacher's clip: the measures become differences.
    pub reference: Option<Arc<Clip>>,
    /// What was perceived of the learner's clip already, while it was made: speech, pose, face and scene that are here are not perceived
    /// again, and their duration counts beside the clip's.
    pub known: Arc<Tracks>,
    /// Language of the feedback.
    pub language: Language,
    /// Who phrases the points.
    pub voice: Voice,
    /// Speech model: an id or a folder; `None` is the profile's.
    pub speech: Option<String>,
    /// Pose model: an id or a file; `None` is the full BlazePose.
    pub pose: Option<String>,
    /// Vision model, an id or a folder: embeddings of the pictures, and with a reference how alike they look. `None`: none.
    pub vision: Option<String>,
    /// Seed of the LLM's sampling.
    pub seed: u64,
}

/// Who phrases the points of a lesson.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Voice {
    /// The LLM that the router picks from the profile.
    #[default]
    Routed,
    /// This LLM: an id or a file.
    Model(String),
    /// The planner alone.
    Planner,
}

impl Request {
    /// A lesson in English on `clip`.
    pub fn new(lab: Lab, clip: Clip) -> Self {
        let (language, voice) = (Language::default(), Voice::default());
        Self {
            lab,
            clip: Arc::new(clip),
            reference: None,
            known: Arc::default(),
            language,
            voice,
            speech: None,
            pose: None,
            vision: None,
            seed: 0,
        }
    }

    /// A lesson in English on what was listened to while it was spoken ([`Engine::listen`]): its speech is ready.
    pub fn heard(lab: Lab, heard: Heard) -> Self {
        let clip = Clip { pcm: heard.pcm, ..Clip::default() };
        Self { known: Arc::new(Tracks { speech: Some(heard.transcript), ..Tracks::default() }), ..Self::new(lab, clip) }
    }

    /// Ids of the models that the lesson runs, those given as files left out.
    pub fn models(&self, engine: &Engine) -> Result<Vec<String>> {
        let mut ids = self.wanted_of_learner().models(engine, &self.clip)?;
        if let Some(teacher) = &self.reference {
            let more = self.wanted().models(engine, teacher)?;
            ids.extend(more.into_iter().filter(|id| !ids.contains(id)).collect::<Vec<_>>());
        }
        ids.extend(route(engine, self)?.0.filter(|id| engine.store().manifest().find(id).is_ok()));
        Ok(ids)
    }

    /// The tracks that the lab looks at.
    pub(crate) fn wanted(&self) -> Wanted {
        let (sound, sight) = match self.lab {
            Lab::Speech => (true, false),
            Lab::Dance => (false, true),
            Lab::Drama => (true, true),
        };
        Wanted {
            speech: sound,
            prosody: sound,
            music: self.lab == Lab::Dance,
            pose: sight,
            face: self.lab == Lab::Drama,
            speech_model: self.speech.clone(),
            pose_model: self.pose.clone(),
            vision_model: self.vision.clone(),
            ..Wanted::default()
        }
    }

    /// The same without what is known already.
    fn wanted_of_learner(&self) -> Wanted {
        let (wanted, known) = (self.wanted(), &self.known);
        Wanted {
            speech: wanted.speech && known.speech.is_none(),
            pose: wanted.pose && known.pose.is_none(),
            face: wanted.face && known.face.is_none(),
            ..wanted
        }
    }
}

/// Events of a lesson, as they happen. Dropping it cancels what is still running.
pub struct EventStream {
    events: Receiver<Result<Event>>,
    cancel: Arc<AtomicBool>,
    kept: Arc<std::sync::Mutex<Option<Seen>>>,
}

/// What a lesson was made from, for pictures and exports.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What was perceived.
    pub tracks: Tracks,
    /// The same on one clock.
    pub timeline: Timeline,
    /// What the coach found.
    pub plan: Plan,
}

impl EventStream {
    /// What the lesson was made from; there once the scores have come.
    pub fn seen(&self) -> Option<Seen> {
        self.kept.lock().ok()?.clone()
    }
}

impl Iterator for EventStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.events.recv().ok()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// Begins a lesson. The events are `features`, `score`..., then for each point its `token`s and the `point`, then `done`; an
    /// error ends them.
    pub fn coach(&self, request: Request) -> EventStream {
        self.coach_until(request, Arc::default())
    }

    /// As [`Engine::coach`]; the lesson ends soon after `cancel` is set as well.
    pub fn coach_until(&self, request: Request, cancel: Arc<AtomicBool>) -> EventStream {
        let (sender, events) = sync_channel(WAITING);
        let kept = Arc::default();
        let run =
            Run { engine: self.clone(), request, sender, cancel: cancel.clone(), kept: Arc::clone(&kept), clock: Clock::new() };
        std::thread::spawn(move || {
            let sender = run.sender.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| run.lesson()))
                .unwrap_or_else(|_| Err(Error::Internal("the lesson panicked; please report it with the clip".into())));
            match outcome {
                // the caller is gone: nobody to tell
                Ok(()) | Err(Error::Cancelled) => {}
                Err(e) => drop(sender.send(Err(e))),
            }
        });
        EventStream { events, cancel, kept }
    }
}

/// Seconds by stage.
struct Clock {
    begin: Instant,
    last: Instant,
    seconds: Vec<(String, f64)>,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self { begin: now, last: now, seconds: Vec::new() }
    }

    /// The stage that ends now.
    fn stage(&mut self, name: &str) {
        let now = Instant::now();
        self.seconds.push((name.into(), (now - self.last).as_secs_f64()));
        self.last = now;
    }

    /// Since the beginning.
    fn since(&mut self, name: &str) {
        self.seconds.push((name.into(), self.begin.elapsed().as_secs_f64()));
    }
}

/// One running lesson.
struct Run {
    engine: Engine,
    request: Request,
    sender: SyncSender<Result<Event>>,
    cancel: Arc<AtomicBool>,
    kept: Arc<std::sync::Mutex<Option<Seen>>>,
    clock: Clock,
}

impl Run {
    fn send(&self, event: Event) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            self.sender.send(Ok(event)).map_err(|_| Error::Cancelled)
        }
    }

    fn lesson(mut self) -> Result<()> {
        // 1. perceive; the LLM loads meanwhile. What is missing is fetched first, together: packages are shared
        let models = self.request.models(&self.engine)?;
        self.engine.prepare(&models.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.clock.stage("prepare");
        let (model, reason) = route(&self.engine, &self.request)?;
        self.clock.stage("route");
        tracing::info!("{reason}");
        let (tracks, llm) = std::thread::scope(|scope| {
            let llm = scope.spawn(|| model.as_deref().map(|id| self.engine.llm(Some(id))).transpose());
            let tracks = self.perceive_learner();
            (tracks, llm.join())
        });
        let (tracks, llm) = (tracks?, llm.map_err(|_| Error::Internal("loading the LLM panicked".into()))??);
        let reference = self.request.reference.as_ref().map(|clip| self.perceive(clip)).transpose()?;
        self.clock.stage("extract");
        // 2. fuse
        let mut timeline = timeline::fuse(&tracks, timeline::RATE);
        let teacher = reference.map(|tracks| (timeline::fuse(&tracks, timeline::RATE), tracks));
        if let Some((reference, theirs)) = &teacher {
            timeline::similarity(&mut timeline, &tracks, (reference, theirs));
        }
        self.clock.stage("fuse");
        self.send(Event::Features(Features::new(&tracks, &timeline)))?;
        // 3. plan
        let plan = self.plan(&tracks, &timeline, teacher.as_ref());
        self.clock.stage("plan");
        for score in &plan.scores {
            self.send(Event::Score(score.clone()))?;
        }
        if let Ok(mut kept) = self.kept.lock() {
            *kept = Some(Seen { tracks, timeline, plan: plan.clone() });
        }
        // 4. say it
        let lesson = match &llm {
            Some(llm) => self.compose(plan, llm)?,
            None => self.recite(plan)?,
        };
        self.clock.stage("compose");
        self.clock.since("total");
        let from_llm = lesson.points.iter().filter(|p| p.source == coach::events::Source::Llm).count();
        let seconds = std::mem::take(&mut self.clock.seconds);
        self.send(Event::Done(Done { text: lesson.text(), model, from_llm, seconds }))
    }

    fn perceive_learner(&self) -> Result<Tracks> {
        let (request, wanted, known) = (&self.request, self.request.wanted(), &self.request.known);
        let mut tracks = self.engine.perceive(&request.clip, &request.wanted_of_learner(), &self.cancel)?;
        tracks.duration = tracks.duration.max(known.duration);
        if let Some(speech) = known.speech.as_ref().filter(|_| wanted.speech) {
            tracks.pronunciation = self.pronounced(speech)?;
            tracks.speech = Some(speech.clone());
        }
        tracks.pose = tracks.pose.or_else(|| known.pose.clone().filter(|_| wanted.pose));
        tracks.face = tracks.face.or_else(|| known.face.clone().filter(|_| wanted.face));
        tracks.scene = tracks.scene.or_else(|| known.scene.clone());
        Ok(tracks)
    }

    /// Speech that was written down while it was spoken, against what should have been said. Nothing where words have no times.
    fn pronounced(&self, heard: &Transcript) -> Result<Option<Pronunciation>> {
        let (request, timed) = (&self.request, heard.segments.iter().any(|s| !s.words.is_empty()));
        let Some(text) = request.clip.text.as_deref().filter(|text| timed && !text.trim().is_empty()) else { return Ok(None) };
        let mut goes_on = |_: Progress| match self.cancel.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let model = request.speech.as_deref();
        self.engine.pronunciation(model, &request.clip.pcm, text, heard, &mut goes_on).map(Some)
    }

    fn perceive(&self, clip: &Clip) -> Result<Tracks> {
        self.engine.perceive(clip, &self.request.wanted(), &self.cancel)
    }

    fn plan(&self, tracks: &Tracks, timeline: &Timeline, teacher: Option<&(Timeline, Tracks)>) -> Plan {
        let followed = teacher.map(|(t, _)| timeline::follow(timeline, t));
        let reading = teacher.and_then(|(_, t)| self.reading(tracks, t));
        coach::plan(&Input {
            lab: self.request.lab,
            language: self.request.language,
            tracks,
            timeline,
            reference: teacher.zip(followed.as_ref()).map(|((timeline, tracks), followed)| Reference {
                tracks,
                timeline: followed.mirror.as_ref().unwrap_or(timeline),
                path: followed.alignment.as_ref().map_or(&[], |a| &a.path),
                mirrored: followed.mirror.is_some(),
                reading: reading.as_ref(),
            }),
            expected: self.request.clip.text.as_deref(),
        })
    }

    /// Both clips' voices along each other, where they say the same.
    fn reading(&self, tracks: &Tracks, teacher: &Tracks) -> Option<Comparison> {
        let spans = |t: &Tracks| -> Vec<Span> {
            let all = t.speech.iter().flat_map(|s| &s.segments).flat_map(|s| &s.words);
            all.map(|w| Span { label: w.word.trim().to_owned(), start: w.start, end: w.end }).collect()
        };
        let normal = |spans: &[Span]| -> Vec<String> { spans.iter().flat_map(|s| words::split(&s.label)).collect() };
        let (own, shown) = (spans(tracks), spans(teacher));
        let (said, wanted) = (normal(&own), normal(&shown));
        let same = words::align(&wanted, &said)?.iter().filter(|s| matches!(s, words::Step::Same { .. })).count();
        if (same as f64) < SAME_TEXT * wanted.len().max(said.len()) as f64 || same == 0 {
            return None;
        }
        let reference = self.request.reference.as_ref()?;
        let learner = prosody::Voice { pcm: &self.request.clip.pcm, prosody: tracks.prosody.as_ref()?, words: &own };
        let teacher = prosody::Voice { pcm: &reference.pcm, prosody: teacher.prosody.as_ref()?, words: &shown };
        prosody::compare(self.engine.pool(), &learner, &teacher)
    }

    /// The planner's sentences alone.
    fn recite(&self, plan: Plan) -> Result<Lesson> {
        let lesson = Lesson::new(plan);
        for point in &lesson.points {
            self.send(Event::Point(point.clone()))?;
        }
        Ok(lesson)
    }

    fn compose(&mut self, plan: Plan, llm: &Arc<Llm>) -> Result<Lesson> {
        let parameters = llm.parameters();
        let composer = Composer::new(Style::of(Tier::of_parameters(parameters)));
        let context = CONTEXT.min(llm.config().context);
        let mut chat = Chat::new(llm.clone(), Some(context), None)?;
        let sampling = Sampling { seed: self.request.seed, ..Sampling::default() };
        let options = Options { max_tokens: composer::MAX_TOKENS, sampling, ..Options::default() };
        let mut first = None;
        let begin = self.clock.begin;
        let mut generate = |prompt: &Prompt, sink: &mut dyn FnMut(&str) -> ControlFlow<()>| {
            chat.set(messages(prompt));
            chat.say(&prompt.user, &options, |text| {
                first.get_or_insert_with(|| begin.elapsed().as_secs_f64());
                if text.is_empty() { ControlFlow::Continue(()) } else { sink(text) }
            })?;
            Ok(())
        };
        let mut send = |event| self.send(event).map_or(ControlFlow::Break(()), ControlFlow::Continue);
        let lesson = composer.compose(plan, &mut generate, &mut send)?;
        self.clock.seconds.extend(first.map(|s| ("first_token".into(), s)));
        Ok(lesson)
    }
}

/// The id or file of the LLM that speaks, and why.
fn route(engine: &Engine, request: &Request) -> Result<(Option<String>, String)> {
    match &request.voice {
        Voice::Planner => Ok((None, "no LLM asked for".into())),
        Voice::Model(m) => Ok((Some(m.clone()), format!("{m} asked for"))),
        Voice::Routed => {
            let asked = router::Request {
                task: Task::Lesson,
                prompt_tokens: CONTEXT,
                has_vision: !request.clip.frames.is_empty() || request.known.pose.is_some() || request.known.face.is_some(),
                has_audio: !request.clip.pcm.is_empty(),
                points: coach::MAX_POINTS,
                has_reference: request.reference.is_some(),
                ..router::Request::default()
            };
            let decision = router::route(&asked, &candidates(engine, request.language)?);
            Ok((decision.model, decision.reason))
        }
    }
}

/// Everything of a prompt but the point itself.
fn messages(prompt: &Prompt) -> Vec<Message> {
    let examples = prompt.examples.iter().flat_map(|(user, assistant)| {
        [Message::new(Role::User, user.as_str()), Message::new(Role::Assistant, assistant.as_str())]
    });
    std::iter::once(Message::new(Role::System, prompt.system.as_str())).chain(examples).collect()
}

/// The profile's LLMs that write the language, as the router sees them.
fn candidates(engine: &Engine, language: Language) -> Result<Vec<Candidate>> {
    let store = engine.store();
    let profile = crate::fetch::profile(engine.config(), store)?;
    let models = store.manifest().in_profile(profile, manifest::Role::Llm);
    let memory = crate::doctor::memory_available();
    let candidate = |m: &manifest::Model| Candidate {
        id: m.id.clone(),
        tier: m.tier.unwrap_or(Tier::Small),
        // what is not here can be fetched, unless the network is forbidden
        installed: !engine.config().offline || matches!(store.state(m), crate::fetch::State::Present { .. }),
        fits: memory.is_none_or(|bytes| m.memory_mb.saturating_mul(1 << 20) <= bytes),
        context: CONTEXT,
        first_token_ms: 0,
    };
    let code = match language {
        Language::English => "en",
        Language::Korean => "ko",
    };
    let writes = |m: &&manifest::Model| m.languages.is_empty() || m.languages.iter().any(|l| l == code);
    Ok(models.into_iter().filter(writes).map(candidate).collect())
}
