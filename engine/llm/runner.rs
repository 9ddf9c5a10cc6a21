//! The thread that drives a model for everyone who wants text from it: schedule, run, postprocess.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvError, Sender, TryRecvError, channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use dreamseed_kernels::{KV_BLOCK, KvType};
use dreamseed_models::decoder::{Logits, Slice};

use super::{
    Settings, Speculation,
    blocks::Blocks,
    executor::Passes,
    model::Core,
    sampling::Row,
    scheduler::{Scheduler, Work},
    sequence::{Request, Sequence},
    sight::is_picture,
    speculate::{self, Cost, Drafter},
};
use crate::{Error, Result};

/// Most tokens of a pass.
pub(super) const ROWS: usize = 512;
/// Logits of so many tokens are computed in a pass at most.
const MOST_LOGITS: usize = 128;
/// How long a reader may wait for a token because others' prompts are read in the same pass.
const PATIENCE: Duration = Duration::from_millis(40);
/// Rows of prompts in a pass beside readers, at least.
const LEAST_ROWS: usize = 16;

enum Command {
    Start(Box<Request>),
    /// Somebody wants sequences of so many positions, and waits to hear how many there may be.
    Reserve(Wanted, Sender<Result<usize>>),
}

/// Positions of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// So many, or an error.
    All(usize),
    /// So many, or what there is.
    UpTo(usize),
}

/// The handle: dropping it ends the thread.
pub(super) struct Runner {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    allowed: Mutex<usize>, // positions that a sequence may have
}

impl Runner {
    /// Starts the thread for a model.
    ///
    /// # Errors
    /// [`Error::Usage`] when the draft model does not fit, [`Error::Device`] when a GPU has no room for keys and values,
    /// [`Error::Internal`] when the system gives no thread.
    pub(super) fn start(core: Arc<Core>, settings: &Settings) -> Result<Self> {
        let (commands, received) = channel();
        let mut state = Loop::new(core, settings, received)?;
        let allowed = Mutex::new(state.scheduler.blocks.limit() * KV_BLOCK);
        let thread = Builder::new().name("llm".into()).spawn(move || {
            // A defect ends the thread; those who wait see their channel close.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                while state.receive() {
                    state.step()
                }
            }));
        });
        let thread = thread.map_err(|e| Error::Internal(format!("no thread for the model: {e}")))?;
        Ok(Self { commands: Some(commands), thread: Some(thread), allowed })
    }

    /// Hands a request in.
    ///
    /// # Errors
    /// [`Error::Internal`] when the thread ended by a defect.
    pub(super) fn submit(&self, request: Request) -> Result<()> {
        self.send(Command::Start(Box::new(request)))
    }

    /// Allows sequences of so many positions; how many there may be. Waits for the pass under way where there are not so many yet.
    ///
    /// # Errors
    /// As [`Runner::submit`], and [`Error::Device`] when a GPU has no room for what has to be.
    pub(super) fn reserve(&self, wanted: Wanted) -> Result<usize> {
        let (Wanted::All(positions) | Wanted::UpTo(positions)) = wanted;
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if positions > *allowed {
            let (answer, answered) = channel();
            self.send(Command::Reserve(wanted, answer))?;
            *allowed = answered.recv().unwrap_or_else(|RecvError| Err(ended()))?;
        }
        Ok(positions.min(*allowed))
    }

    fn send(&self, command: Command) -> Result<()> {
        let sent = self.commands.as_ref().map(|c| c.send(command));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(ended()) }
    }
}

fn ended() -> Error {
    Error::Internal("the model's thread has ended".into())
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Loop {
    core: Arc<Core>,
    scheduler: Scheduler,
    passes: Passes,
    look_up: bool,
    drafter: Option<Drafter>,
    cost: Cost,
    row: f64, // seconds that a row of a prompt takes
    commands: Receiver<Command>,
}

impl Loop {
    fn new(core: Arc<Core>, settings: &Settings, commands: Receiver<Command>) -> Result<Self> {
        let blocks = || Blocks::new(settings.cache_tokens.div_ceil(KV_BLOCK).max(1));
        let (mut look_up, mut drafter, mut draft_blocks) = (false, None, Blocks::new(0));
        match &settings.speculation {
            Speculation::Off => {}
            Speculation::LookUp => look_up = true,
            Speculation::Draft(draft) => {
                Drafter::check(draft.core(), &core)?;
                draft_blocks = Blocks::new(blocks().limit() + 1); // guesses reach beyond a text that fills the others
                let passes = draft.core().executor.passes(ROWS, KvType::F16, draft_blocks.limit())?;
                drafter = Some(Drafter::new(draft.core().clone(), passes));
            }
        }
        let passes = core.executor.passes(ROWS, settings.cache, blocks().limit())?;
        let scheduler = Scheduler::new(blocks(), draft_blocks, settings.sequences.max(1), ROWS);
        Ok(Self { core, scheduler, passes, look_up, drafter, cost: Cost::default(), row: 0.0, commands })
    }

    /// Takes in what was asked, waiting when there is nothing else to do; `false` when nobody can ask any more.
    fn receive(&mut self) -> bool {
        loop {
            let command = if self.scheduler.is_idle() {
                self.commands.recv().map_err(|RecvError| TryRecvError::Disconnected)
            } else {
                self.commands.try_recv()
            };
            match command {
                Ok(Command::Start(request)) => self.start(*request),
                // who does not wait any more needs no answer
                Ok(Command::Reserve(wanted, answer)) => drop(answer.send(self.reserve(wanted))),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Positions that a sequence may have from now on.
    fn reserve(&mut self, wanted: Wanted) -> Result<usize> {
        let (Wanted::All(positions) | Wanted::UpTo(positions)) = wanted;
        let blocks = positions.div_ceil(KV_BLOCK);
        let mut raised = self.passes.allow(blocks);
        if let Some(drafter) = self.drafter.as_mut().filter(|_| raised.is_ok()) {
            raised = drafter.allow(blocks + 1);
        }
        match raised {
            Ok(()) => {
                if self.drafter.is_some() {
                    self.scheduler.draft_blocks.raise(blocks + 1);
                }
                self.scheduler.blocks.raise(blocks);
            }
            Err(short) if short.of_memory && matches!(wanted, Wanted::UpTo(_)) => {}
            Err(short) => return Err(short.error),
        }
        Ok(self.scheduler.blocks.limit() * KV_BLOCK)
    }

    fn start(&mut self, request: Request) {
        let events = request.events.clone();
        let long = self.core.executor.is_long(request.context);
        match Sequence::new(request, long, self.core.executor.config().whole_pictures) {
            Ok(sequence) => self.scheduler.push(sequence),
            Err(e) => drop(events.send(Err(e))),
        }
    }

    /// One pass: schedule, run, postprocess.
    fn step(&mut self) {
        let (passes, scheduler) = (&mut self.passes, &mut self.scheduler);
        scheduler.admit(|from, to| passes.copy(from, to));
        if let Err(e) = self.draft() {
            tracing::warn!("no more guesses by the draft model: {e}");
            self.drafter = None;
            self.scheduler.running.iter_mut().for_each(|s| s.drafts.clear());
        }
        let beside = if self.row > 0.0 { (PATIENCE.as_secs_f64() / self.row) as usize } else { LEAST_ROWS };
        let mut work = self.scheduler.plan(beside.clamp(LEAST_ROWS, ROWS));
        if work.is_empty() {
            return;
        }
        self.passes.reserve(self.scheduler.blocks.touched());
        if self.run(&work).is_ok() {
            return self.postprocess(&work);
        }
        // Whom the pass failed for shows when each runs alone; what it wrote of new positions is written again. From the last on,
        // since those that are over leave their places.
        work.sort_by_key(|w| std::cmp::Reverse(w.sequence));
        for alone in &work {
            match self.run(std::slice::from_ref(alone)) {
                Ok(()) => self.postprocess(std::slice::from_ref(alone)),
                Err(e) => self.scheduler.fail(alone.sequence, e),
            }
        }
    }

    /// Guesses for those that decode.
    fn draft(&mut self) -> Result<()> {
        let running = &mut self.scheduler.running;
        let each = (MOST_LOGITS / running.len().max(1)).saturating_sub(1);
        running.iter_mut().for_each(|s| s.draft_forced(each));
        if !self.look_up && self.drafter.is_none() {
            return Ok(());
        }
        let (cost, guess_all) = (self.cost, self.drafter.is_none());
        let length = |s: &mut Sequence| {
            // The draft model sees nothing.
            if s.decodes() && s.drafts.is_empty() && (guess_all || s.pictures.is_empty()) {
                s.length.choose(&cost).min(each).min(s.left().saturating_sub(1))
            } else {
                0
            }
        };
        let lengths: Vec<usize> = running.iter_mut().map(length).collect();
        if self.look_up {
            for (s, &length) in running.iter_mut().zip(&lengths).filter(|(_, l)| **l > 0) {
                speculate::look_up(&s.tokens, length, &mut s.drafts);
                let text = s.drafts.iter().take_while(|t| !is_picture(**t)).count();
                s.drafts.truncate(text);
            }
        }
        if let Some(drafter) = &mut self.drafter {
            let start = Instant::now();
            let guesses = drafter.guess(&self.core.pool, &mut self.scheduler.draft_blocks, running, &lengths)?;
            self.cost.learn_draft(guesses, start.elapsed());
        }
        running.iter_mut().for_each(Sequence::constrain_drafts);
        Ok(())
    }

    fn run(&mut self, work: &[Work]) -> Result<()> {
        // A sequence that decodes runs its last token and its drafts as one piece.
        for w in work {
            let s = &mut self.scheduler.running[w.sequence];
            if s.decodes() {
                s.tokens.extend_from_slice(&s.drafts);
            }
        }
        let slice = |w: &Work| {
            let s = &self.scheduler.running[w.sequence];
            let logits = match s.pending() - w.tokens {
                0 if s.drafts.is_empty() => Logits::Last,
                0 => Logits::All,
                _ => Logits::None,
            };
            let tokens = &s.tokens[s.cached..s.cached + w.tokens];
            Slice { tokens, past: s.cached, context: s.context, blocks: s.table.blocks(), logits, pictures: &s.pictures }
        };
        let slices: Vec<Slice> = work.iter().map(slice).collect();
        let start = Instant::now();
        // what a grammar or penalties choose needs the logits here; then all are fetched
        let sequence = |w: &Work| &self.scheduler.running[w.sequence];
        let mut draws = Vec::new();
        let here =
            work.iter().map(sequence).zip(work).filter(|(s, w)| s.pending() == w.tokens).all(|(s, _)| s.draws(&mut draws));
        let failed = self.passes.run(&self.core.pool, &slices, here.then_some(&draws)).err();
        let (time, rows) = (start.elapsed(), work.iter().map(|w| w.tokens).sum::<usize>());
        drop(slices);
        for w in work {
            let s = &mut self.scheduler.running[w.sequence];
            s.tokens.truncate(s.tokens.len() - s.drafts.len());
        }
        if work.iter().all(|w| self.scheduler.running[w.sequence].decodes()) {
            self.cost.learn(rows, work.len(), time);
        } else if rows >= LEAST_ROWS {
            self.row = time.as_secs_f64() / rows as f64;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Chooses tokens, publishes whole blocks, and lets go of those that are over.
    fn postprocess(&mut self, work: &[Work]) {
        let mut rows = self.passes.rows_wanted();
        let mut over = Vec::new();
        for w in work {
            let s = &mut self.scheduler.running[w.sequence];
            let drafts = s.drafts.len();
            s.cached += w.tokens - drafts;
            if s.pending() == 0 {
                let own: Vec<Row> = rows.by_ref().take(1 + drafts).collect();
                let outcome = s.choose(own.into_iter(), &self.core.tokenizer);
                s.draft_cached = s.draft_cached.min(s.cached);
                match outcome {
                    Ok(None) => {}
                    Ok(Some(finish)) => over.push((w.sequence, Ok(finish))),
                    Err(e) => over.push((w.sequence, Err(e))),
                }
            }
            let (tokens, cached) = (&s.tokens, s.cached.min(s.tokens.len()));
            self.scheduler.blocks.publish(&mut s.table, &tokens[..cached]);
        }
        over.sort_by_key(|o| std::cmp::Reverse(o.0));
        for (sequence, outcome) in over {
            match outcome {
                Ok(finish) => self.scheduler.end(sequence, finish),
                Err(e) => self.scheduler.fail(sequence, e),
            }
        }
    }
}
