//! Passes: rows in launches of fixed sizes, from part to part.

use std::ops::Range;

use dreamseed_kernels::{
    KV_BLOCK,
    cuda::{Choice, Chosen, Error as Refusal, Graph},
};

use super::{
    Decoder, Part,
    ops::Ending,
    state::{BUCKETS, FEW, HEADS, Row, SEQUENCES, Stage, State},
    told::{Launch, News, Told},
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
        state.launch.fill(slices, &state.pending[rows], state.capacity.blocks);
        let State { stages, links, back, told, launch, logits, chosen, .. } = state;
        let (n, wanted) = (BUCKETS[bucket], &launch.wanted[..]);
        // the rows wanted are the first ones: they need not be gathered
        let direct = wanted.len() <= HEADS && wanted.iter().enumerate().all(|(i, &row)| row as usize == i);
        let mut heads = wanted.chunks(HEADS).peekable();
        let news = told.news(launch, n > FEW);
        for (i, part) in self.parts.iter().enumerate() {
            // 1. what the rows are: writing waits for what its device still does of the rows before them, and for no other's
            stages[i].tell(launch, &news, told.tables())?;
            if let (true, [before @ .., last]) = (news.apart && !news.inputs, &mut stages[..])
                && let (Some(stage), Some(link)) = (before.get_mut(i), back.get(i))
            {
                link.copy(&last.room.rows.inputs, &mut stage.room.rows.inputs, launch.inputs.len())?;
            }
            if let (Some(first), true) = (heads.peek(), part.head.is_some()) {
                stages[i].want(first, direct, next(choices, chosen.len()), told)?;
            }
            // 2. the part's layers
            if let [.., source, target] = &mut stages[..=i] {
                links[i - 1].copy(&source.x, &mut target.x, n * self.config.dim)?;
            }
            self.replay_layers(part, &mut stages[i], bucket)?;
        }
        // 3. logits, so many at a time
        let (Some(part), Some(stage)) = (self.parts.last(), stages.last_mut()) else { return Ok(()) };
        for (i, some) in heads.enumerate() {
            if i > 0 {
                stage.want(some, direct, next(choices, chosen.len()), told)?;
            }
            let rows = self.replay_head(part, stage, some.len(), Ending { gathered: !direct, chosen: choices.is_some() })?;
            match choices {
                Some(_) => {
                    let done = chosen.len();
                    stage.fetch_chosen(some.len(), chosen)?;
                    if direct {
                        told.go_on(rows, &chosen[done..]);
                    }
                }
                None => stage.fetch_logits(some.len() * self.config.vocab, logits)?,
            }
        }
        Ok(())
    }

    /// The layers of a part: by their graph where there are graphs, captured the first time.
    fn replay_layers(&self, part: &Part, stage: &mut Stage, bucket: usize) -> Result<(), Error> {
        let n = BUCKETS[bucket];
        if stage.graphs.as_ref().is_some_and(|g| g.layers[bucket].is_none()) {
            let graph = stage.device.clone().capture(|| self.layers(part, stage, n))?;
            if let Some(graphs) = &mut stage.graphs {
                graphs.layers[bucket] = Some(graph);
            }
        }
        match stage.graphs.as_ref().and_then(|g| g.layers[bucket].as_ref()) {
            Some(graph) => Ok(graph.replay()?),
            None => Ok(self.layers(part, stage, n)?),
        }
    }

    /// The head over `rows` rows, and empty ones up to the number that is given back.
    fn replay_head(&self, part: &Part, stage: &mut Stage, rows: usize, ending: Ending) -> Result<usize, Error> {
        let bucket = BUCKETS.iter().position(|&b| b >= rows).unwrap_or(BUCKETS.len() - 1);
        let (n, kind) = (BUCKETS[bucket], ending.index());
        if stage.graphs.as_ref().is_some_and(|g| g.head[bucket][kind].is_none()) {
            let graph = stage.device.clone().capture(|| self.head(part, stage, n, ending))?;
            if let Some(graphs) = &mut stage.graphs {
                graphs.head[bucket][kind] = Some(graph);
            }
        }
        let known: Option<&Graph> = stage.graphs.as_ref().and_then(|g| g.head[bucket][kind].as_ref());
        match known {
            Some(graph) => graph.replay()?,
            None => self.head(part, stage, n, ending)?,
        }
        Ok(n)
    }
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

    /// Tells the head which rows are wanted, where they have to be gathered, and how their tokens are chosen where it does not know.
    fn want(&mut self, rows: &[i32], direct: bool, choices: Option<&[Choice]>, told: &mut Told) -> Result<(), Error> {
        let Some(head) = &mut self.head else { return Ok(()) };
        if !direct {
            head.wanted.write(0, rows)?;
        }
        match choices.map(|c| &c[..rows.len().min(c.len())]) {
            Some(choices) if told.chosen_otherwise(choices) => Ok(head.choices.write(0, choices)?),
            _ => Ok(()),
        }
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
