//! Passes: rows in launches of fixed sizes, from part to part.

use std::ops::Range;

use dreamseed_kernels::{
    KV_BLOCK,
    cuda::{Choice, Chosen, Device, Error as Refusal, Graph, turn},
};

use super::{
    Decoder,
    ops::{Crew, Ending},
    state::{BUCKETS, FEW, Graphs, HEADS, Row, SEQUENCES, Stage, State},
    told::{Launch, News},
};
use crate::decoder::{Error, Slice};

/// Most rows of a launch that may be padded to twice as many: up to there reading the weights costs more than the rows do.
const CHEAP: usize = 32;

/// How many of `left` rows the next launch takes, and the index of its size. At most a quarter of a launch of more than [`CHEAP`] rows is
/// padding.
fn next_launch(left: usize) -> (usize, usize) {
    let above = BUCKETS.iter().position(|&b| b >= left).unwrap_or(BUCKETS.len() - 1);
    let padding = BUCKETS[above].saturating_sub(left);
    let bucket = if BUCKETS[above] <= CHEAP || padding <= BUCKETS[above] / 4 { above } else { above - 1 };
    (left.min(BUCKETS[bucket]), bucket)
}

/// How many of the first rows are of as many sequences as a launch takes.
fn of_sequences(rows: &[Row]) -> usize {
    let beyond = |first: &Row| rows.iter().position(|r| r.slice >= first.slice + SEQUENCES);
    rows.first().and_then(beyond).unwrap_or(rows.len())
}

impl Decoder {
    /// One pass over new tokens of several sequences: their keys and values go to the store, and the logits that they want come
    /// back, (rows wanted, vocab), slice by slice.
    ///
    /// # Errors
    /// [`Error`], before anything runs where a slice is not sound. What the store holds of positions before the new ones is as before.
    pub fn run<'s>(&self, state: &'s mut State, slices: &[Slice]) -> Result<&'s [f32], Error> {
        self.pass(state, slices, None)?;
        Ok(&state.logits)
    }

    /// As [`Decoder::run`], but the next tokens are chosen on the device, and nothing else comes back: one for each row whose logits
    /// are wanted, by as many `choices`.
    ///
    /// # Errors
    /// As [`Decoder::run`]; [`Error::Device`] for another number of choices.
    pub fn choose<'s>(&self, state: &'s mut State, slices: &[Slice], choices: &[Choice]) -> Result<&'s [Chosen], Error> {
        let wanted: usize = slices.iter().map(|s| s.wanted().len()).sum();
        if wanted != choices.len() {
            return Err(Refusal::Shape(format!("{} choices for {wanted} rows", choices.len())).into());
        }
        self.pass(state, slices, Some(choices))?;
        Ok(&state.chosen)
    }

    fn pass(&self, state: &mut State, slices: &[Slice], choices: Option<&[Choice]>) -> Result<(), Error> {
        slices.iter().try_for_each(|s| self.check(state, s))?;
        self.connect(state)?;
        state.logits.clear();
        state.chosen.clear();
        state.pending.clear();
        for (slice, s) in slices.iter().enumerate() {
            let (wanted, behind) = (s.wanted(), if self.is_long(s.context) { state.blocks() * KV_BLOCK } else { 0 });
            state.pending.extend(s.tokens.iter().enumerate().map(|(i, &token)| {
                let position = s.past + i;
                Row { slice, token, position, turn: position + behind, wanted: wanted.contains(&i) }
            }));
        }
        let mut from = 0;
        while from < state.pending.len() {
            let (count, bucket) = next_launch(of_sequences(&state.pending[from..]));
            if let Err(e) = self.launch(state, slices, (from..from + count, bucket), choices) {
                state.told.forget();
                state.disconnect();
                return Err(e);
            }
            from += count;
        }
        Ok(())
    }

    /// That every row of a slice lies within the model, the store and its tables: kernels do not look.
    fn check(&self, state: &State, s: &Slice) -> Result<(), Error> {
        let (vocab, new, blocks) = (self.config.vocab, s.tokens.len(), state.blocks());
        if new == 0 {
            return Err(Error::Empty);
        }
        if let Some(&token) = s.tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        if let Some(picture) = s.pictures.first() {
            let problem = "pictures run on the processor alone".into();
            return Err(Error::Picture { at: picture.at, problem });
        }
        let context = s.blocks.len().min(blocks).saturating_mul(KV_BLOCK);
        if s.past.checked_add(new).is_none_or(|end| end > context) {
            return Err(Error::Context { past: s.past, new, context });
        }
        match s.blocks.iter().find(|&&b| b as usize >= blocks) {
            Some(block) => Err(Refusal::Shape(format!("block {block} of a store of {blocks}")).into()),
            None => Ok(()),
        }
    }

    /// Runs some of the pending rows, and fetches the logits that are wanted of them, or the tokens chosen by them.
    fn launch(
        &self,
        state: &mut State,
        slices: &[Slice],
        (rows, bucket): (Range<usize>, usize),
        choices: Option<&[Choice]>,
    ) -> Result<(), Error> {
        let _turn = self.cut.then(turn); // until all are through
        state.launch.fill(slices, &state.pending[rows], state.capacity.blocks);
        let State { stages, links, back, together, told, launch, logits, chosen, .. } = state;
        let (n, wanted) = (BUCKETS[bucket], &launch.wanted[..]);
        // the rows wanted are the first ones: they need not be gathered
        let direct = wanted.len() <= HEADS && wanted.iter().enumerate().all(|(i, &row)| row as usize == i);
        let mut heads = wanted.chunks(HEADS).peekable();
        let news = told.news(launch, n > FEW);
        let size = if self.cut { self.parts.len() } else { 1 }; // of those that go side by side
        for (i, parts) in self.parts.chunks(size).enumerate() {
            // 1. what the rows are: writing waits for what its device still does of the rows before them, and for no other's
            if let (true, [before @ .., last]) = (news.apart && !news.inputs, &mut stages[..])
                && let (Some(stage), Some(link)) = (before.get_mut(i), back.get(i))
            {
                link.copy(&last.room.rows.inputs, &mut stage.room.rows.inputs, launch.inputs.len())?;
            }
            let (before, stages) = stages.split_at_mut(i * size);
            let stages = &mut stages[..size];
            stages.iter_mut().try_for_each(|s| s.tell(launch, &news, told.tables()))?;
            if let (Some(first), true) = (heads.peek(), parts.iter().any(|p| p.head.is_some())) {
                let choices = told.unknown(next(choices, chosen.len()), first.len());
                stages.iter_mut().try_for_each(|s| s.want(first, direct, choices))?;
            }
            // 2. the parts' layers
            if let (Some(source), [target]) = (before.last(), &mut *stages) {
                links[i - 1].copy(&source.x, &mut target.x, n * self.config.dim)?;
            }
            let mut crew = Crew { parts, stages, together: together.as_mut() };
            replay(&mut crew, |g| &mut g.layers[bucket], |crew| self.layers(crew, n))?;
        }
        // 3. logits, so many at a time
        let last = self.parts.len() - size;
        let mut crew = Crew { parts: &self.parts[last..], stages: &mut stages[last..], together: together.as_mut() };
        for (i, some) in heads.enumerate() {
            if i > 0 {
                let choices = told.unknown(next(choices, chosen.len()), some.len());
                crew.stages.iter_mut().try_for_each(|s| s.want(some, direct, choices))?;
            }
            let ending = Ending { gathered: !direct, chosen: choices.is_some() };
            let at = BUCKETS.iter().position(|&b| b >= some.len()).unwrap_or(BUCKETS.len() - 1);
            replay(&mut crew, |g| &mut g.head[at][ending.index()], |crew| self.head(crew, BUCKETS[at], ending))?;
            crew.wait()?;
            let Some(stage) = crew.stages.last() else { return Ok(()) };
            match choices {
                Some(_) => {
                    let done = chosen.len();
                    stage.fetch_chosen(some.len(), chosen)?;
                    if direct {
                        told.go_on(BUCKETS[at], &chosen[done..]);
                    }
                }
                None => stage.fetch_logits(some.len() * self.config.vocab, logits)?,
            }
        }
        Ok(crew.wait()?)
    }
}

impl Crew<'_> {
    /// Waits for parts that sum. A call that waits for one device alone would wait without end where another one failed.
    fn wait(&self) -> Result<(), Refusal> {
        self.together.as_ref().map_or(Ok(()), |together| together.wait())
    }
}

/// Runs launches: by their graphs where there are graphs, captured the first time.
fn replay(
    crew: &mut Crew,
    slot: impl Fn(&mut Graphs) -> &mut Option<Graph>,
    launches: impl Fn(&mut Crew) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if crew.stages.iter().any(|s| s.graphs.is_none()) {
        return launches(crew);
    }
    if crew.stages.iter_mut().filter_map(|s| s.graphs.as_mut()).any(|g| slot(g).is_none()) {
        let devices: Vec<Device> = crew.stages.iter().map(|s| s.device.clone()).collect();
        let graphs = Graph::capture(&devices, || launches(crew))?;
        for (all, graph) in crew.stages.iter_mut().filter_map(|s| s.graphs.as_mut()).zip(graphs) {
            *slot(all) = Some(graph);
        }
    }
    let mut graphs = crew.stages.iter_mut().filter_map(|s| s.graphs.as_mut());
    graphs.try_for_each(|g| slot(g).as_ref().map_or(Ok(()), Graph::replay))
}

/// The choices from the `done`-th on.
fn next(choices: Option<&[Choice]>, done: usize) -> Option<&[Choice]> {
    choices.and_then(|c| c.get(done..))
}

impl Stage {
    /// Tells the device of a launch what it does not know.
    fn tell(&mut self, launch: &Launch, news: &News, tables: &[i32]) -> Result<(), Error> {
        let rows = &mut self.room.rows;
        if news.inputs {
            rows.inputs.write(0, &launch.inputs)?;
        }
        if news.spans {
            rows.spans.write(0, &launch.spans)?;
        }
        match &news.tables {
            Some(range) => Ok(rows.tables.write(range.start, &tables[range.clone()])?),
            None => Ok(()),
        }
    }

    /// Tells the head which rows are wanted, where they have to be gathered, and how their tokens are chosen where it does not
    /// know.
    fn want(&mut self, rows: &[i32], direct: bool, choices: Option<&[Choice]>) -> Result<(), Error> {
        let Some(head) = &mut self.head else { return Ok(()) };
        if !direct {
            head.wanted.write(0, rows)?;
        }
        choices.map_or(Ok(()), |choices| Ok(head.choices.write(0, choices)?))
    }

    /// Fetches the first `n` logits of the head.
    fn fetch_logits(&self, n: usize, logits: &mut Vec<f32>) -> Result<(), Error> {
        let Some(head) = &self.head else { return Ok(()) };
        let at = logits.len();
        logits.resize(at + n, 0.0);
        Ok(head.logits.read(0, &mut logits[at..])?)
    }

    /// Fetches the tokens chosen by the first `n` rows of the head.
    fn fetch_chosen(&self, n: usize, chosen: &mut Vec<Chosen>) -> Result<(), Error> {
        let Some(head) = &self.head else { return Ok(()) };
        let at = chosen.len();
        chosen.resize(at + n, Chosen::default());
        Ok(head.chosen.read(0, &mut chosen[at..])?)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::state::ROWS, *};

    #[test]
    fn launches_are_filled_but_for_a_quarter() {
        for rows in 1..2000 {
            let (mut left, mut launches) = (rows, 0);
            while left > 0 {
                let (count, bucket) = next_launch(left);
                let size = BUCKETS[bucket];
                assert!(0 < count && count <= left.min(size));
                assert!(size <= CHEAP || size - count <= size / 4, "{rows}: {count} of {size}");
                (left, launches) = (left - count, launches + 1);
            }
            assert!(launches <= rows / ROWS + 4, "{rows}: {launches} launches");
        }
    }

    #[test]
    fn a_launch_ends_where_its_sequences_do() {
        let row = |slice| Row { slice, token: 0, position: 0, turn: 0, wanted: false };
        let rows: Vec<Row> = (0..200).map(|i| row(3 + i / 2)).collect();
        assert_eq!(of_sequences(&rows), 2 * SEQUENCES);
        assert_eq!(of_sequences(&rows[150..]), 50);
        assert_eq!(of_sequences(&[]), 0);
    }
}
