//! The search for a window's text, a step at a time: hypotheses as a tree of tokens, in buffers that are kept. A step allocates nothing.

use dreamseed_kernels::random;

use super::math;
use super::options::MAX_BEAM;
use super::timestamps::Past;

/// Samples drawn side by side at a temperature above zero.
pub(super) const BEST_OF: usize = 5;
/// What a first token has no parent in.
const ROOT: u32 = u32::MAX;

/// How hypotheses go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    /// The likeliest of all, so many of them; 1 is greedy. Ends when as many ended (patience 1).
    Beam(usize),
    /// [`BEST_OF`] independent samples at this temperature, above 0.
    Sample(f32),
}

impl Way {
    /// Hypotheses side by side.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Beam(width) => width,
            Self::Sample(_) => BEST_OF,
        }
    }

    /// The tokens of a row that are looked at. With beams one more than there are: at most one of them ends.
    fn looks_at(self) -> usize {
        match self {
            Self::Beam(1) | Self::Sample(_) => 1,
            Self::Beam(width) => width + 1,
        }
    }
}

/// A token and the one before it.
#[derive(Clone, Copy)]
struct Node {
    token: u32,
    parent: u32,
}

/// One hypothesis.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    node: u32, // its last token
    pub(super) past: Past,
    logprob: f32, // sum, the end's included where it ended
    ended: bool,
    pub(super) row: usize, // of the logits that say how it goes on
}

impl Line {
    /// Mean log-probability a token: what hypotheses of different length are ranked by.
    fn score(&self) -> f32 {
        self.logprob / self.past.len.max(1) as f32
    }
}

/// The likeliest tokens of a row of logits, or the one that was drawn.
#[derive(Clone, Copy)]
pub(super) struct Best {
    total: f32, // ln of the sum of e^logits
    count: usize,
    top: [(f32, u32); MAX_BEAM + 1], // logits in descending order, of equal ones the first token first
}

impl Default for Best {
    fn default() -> Self {
        Self { total: 0.0, count: 0, top: [(f32::NEG_INFINITY, 0); MAX_BEAM + 1] }
    }
}

impl Best {
    /// `uniform`: in [0, 1), the draw of a sample.
    pub(super) fn of(way: Way, logits: &[f32], uniform: f32) -> Self {
        let mut best = Self { total: math::log_sum_exp(logits), ..Self::default() };
        match way {
            Way::Beam(_) => best.take(logits, way.looks_at()),
            Way::Sample(temperature) => {
                let token = math::draw(logits, temperature, uniform);
                (best.count, best.top[0]) = (1, (logits[token], token as u32));
            }
        }
        best
    }

    /// The `count` largest values that are not negative infinity.
    fn take(&mut self, logits: &[f32], count: usize) {
        let mut floor = f32::NEG_INFINITY;
        for (x, id) in logits.iter().zip(0..).filter(|(x, _)| **x > f32::NEG_INFINITY) {
            if *x > floor || self.count < count {
                let at = self.top[..self.count].partition_point(|(y, _)| y >= x);
                self.count = (self.count + 1).min(count);
                self.top.copy_within(at..self.count - 1, at + 1);
                self.top[at] = (*x, id);
                floor = if self.count == count { self.top[count - 1].0 } else { f32::NEG_INFINITY };
            }
        }
    }

    fn top(&self) -> &[(f32, u32)] {
        &self.top[..self.count]
    }
}

/// A hypothesis with one more token.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    parent: usize, // line
    token: u32,
    logprob: f32, // of the token
}

/// The hypotheses of one window at one temperature.
pub(super) struct Hypotheses {
    way: Way,
    limit: usize, // tokens
    rng: Rng,
    steps: usize,
    nodes: Vec<Node>,
    lines: Vec<Line>, // those that go on; samples that ended stay in their place
    ended: Vec<Line>,
    next: Vec<Line>,
    parents: Vec<usize>,
    candidates: Vec<Candidate>,
}

impl Default for Hypotheses {
    fn default() -> Self {
        Self {
            way: Way::Beam(1),
            limit: 0,
            rng: Rng(0),
            steps: 0,
            nodes: Vec::new(),
            lines: Vec::new(),
            ended: Vec::new(),
            next: Vec::new(),
            parents: Vec::new(),
            candidates: Vec::new(),
        }
    }
}

impl Hypotheses {
    /// Begins anew, for at most `limit` tokens: makes room for all that can come. `row`: of the logits of the first token.
    pub(super) fn start(&mut self, way: Way, limit: usize, seed: u64, row: usize) {
        let width = way.width();
        (self.way, self.limit, self.steps, self.rng) = (way, limit, 0, Rng(seed));
        let first = Line { node: ROOT, row, ..Line::default() };
        let lines = if matches!(way, Way::Sample(_)) { BEST_OF } else { 1 };
        for buffer in [&mut self.lines, &mut self.ended, &mut self.next] {
            buffer.clear();
            buffer.reserve(2 * width + 1);
        }
        self.lines.resize(lines, first);
        self.nodes.clear();
        self.nodes.reserve(width * limit);
        self.candidates.clear();
        self.candidates.reserve(width * way.looks_at());
        self.parents.clear();
        self.parents.reserve(width);
    }

    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Whether no further step is needed.
    pub(super) fn is_done(&self) -> bool {
        let enough = match self.way {
            Way::Beam(width) => self.ended.len() >= width || self.lines.is_empty(),
            Way::Sample(_) => self.lines.iter().all(|line| line.ended),
        };
        enough || self.steps >= self.limit
    }

    /// Hypotheses that go on, in order.
    pub(super) fn going_on(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.ended)
    }

    /// A number in [0, 1) for each hypothesis that goes on, in order, where samples are drawn.
    pub(super) fn uniform(&mut self) -> f32 {
        match self.way {
            Way::Beam(_) => 0.0,
            Way::Sample(_) => self.rng.uniform(),
        }
    }

    /// Goes a token on. `bests`: one for each hypothesis that goes on, in order; `eot`: the end, after which timestamps begin with
    /// `begin`.
    pub(super) fn advance(&mut self, bests: &[Best], eot: u32, begin: u32) {
        match self.way {
            Way::Beam(width) => self.widen(bests, width, eot, begin),
            Way::Sample(_) => {
                let mut bests = bests.iter();
                for i in 0..self.lines.len() {
                    if self.lines[i].ended {
                        continue; // none of `bests` is its
                    }
                    if let Some(best) = bests.next() {
                        let (x, token) = best.top[0];
                        self.lines[i] = self.grown(self.lines[i], token, x - best.total, eot, begin);
                    }
                }
            }
        }
        self.steps += 1;
    }

    fn widen(&mut self, bests: &[Best], width: usize, eot: u32, begin: u32) {
        self.candidates.clear();
        for (parent, (line, best)) in self.lines.iter().zip(bests).enumerate() {
            let candidate = |&(x, token): &(f32, u32)| {
                let score = line.logprob + x - best.total;
                Candidate { score, parent, token, logprob: x - best.total }
            };
            self.candidates.extend(best.top().iter().map(candidate));
        }
        // of equal ones the first of the search
        let order = |a: &Candidate, b: &Candidate| {
            b.score
                .total_cmp(&a.score)
                .then(a.parent.cmp(&b.parent))
                .then(b.logprob.total_cmp(&a.logprob))
                .then(a.token.cmp(&b.token))
        };
        self.candidates.sort_unstable_by(order);
        self.next.clear();
        self.parents.clear();
        for i in 0..self.candidates.len() {
            let Candidate { parent, token, logprob, .. } = self.candidates[i];
            let line = self.grown(self.lines[parent], token, logprob, eot, begin);
            if line.ended {
                self.ended.push(line);
            } else {
                self.next.push(line);
                self.parents.push(parent);
            }
            if self.next.len() == width {
                break;
            }
        }
        std::mem::swap(&mut self.lines, &mut self.next);
    }

    fn grown(&mut self, line: Line, token: u32, logprob: f32, eot: u32, begin: u32) -> Line {
        let logprob = line.logprob + logprob;
        if token == eot {
            return Line { logprob, ended: true, ..line };
        }
        self.nodes.push(Node { token, parent: line.node });
        Line { node: self.nodes.len() as u32 - 1, past: line.past.with(token, begin), logprob, ..line }
    }

    /// The sequences that those of the next step go on from: after the first step of samples and after each of beams.
    pub(super) fn parents(&mut self) -> &[usize] {
        if matches!(self.way, Way::Sample(_)) {
            self.parents.clear();
            self.parents.extend((0..BEST_OF).map(|i| if self.steps == 1 { 0 } else { i }));
        }
        &self.parents
    }

    /// Calls `run` with the place and the last token of each hypothesis that goes on; it gives the row of the logits that follow.
    pub(super) fn run(&mut self, mut run: impl FnMut(usize, u32) -> usize) {
        let nodes = &self.nodes;
        for (i, line) in self.lines.iter_mut().enumerate().filter(|(_, line)| !line.ended) {
            line.row = run(i, nodes.get(line.node as usize).map_or(0, |node| node.token));
        }
    }

    /// The best hypothesis: its tokens without the end, and the sum of their log-probabilities.
    pub(super) fn best(&mut self) -> (Vec<u32>, f32) {
        if let Way::Beam(width) = self.way {
            self.ended.truncate(width);
            // what did not end is taken where too few did
            self.lines.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            self.lines.truncate(width - self.ended.len());
        }
        // the first of equals, so that the order of the search decides
        let all = self.ended.iter().chain(&self.lines).rev();
        let Some(best) = all.max_by(|a, b| a.score().total_cmp(&b.score())) else { return Default::default() };
        let mut tokens = Vec::with_capacity(best.past.len);
        let mut at = best.node;
        while let Some(Node { token, parent }) = self.nodes.get(at as usize) {
            tokens.push(*token);
            at = *parent;
        }
        tokens.reverse();
        (tokens, best.logprob)
    }
}

/// SplitMix64 (Steele et al. 2014): the same seed gives the same text.
struct Rng(u64);

impl Rng {
    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f32 {
        (random::next(&mut self.0) >> 40) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOT: u32 = 3;

    #[test]
    fn top_is_sorted_and_skips_what_is_banned() {
        let logits = [1.0, f32::NEG_INFINITY, 3.0, 3.0, -2.0];
        let top = |count| {
            let mut best = Best::default();
            best.take(&logits, count);
            best.top().to_vec()
        };
        assert_eq!(top(3), [(3.0, 2), (3.0, 3), (1.0, 0)]);
        assert_eq!(top(9).len(), 4);
        assert_eq!(top(1), [(3.0, 2)]);
    }

    /// Logits of a small language: what follows depends on the tokens so far, and the end becomes likelier with each.
    fn follows(tokens: &[u32]) -> [f32; 4] {
        let (sum, len) = (tokens.iter().map(|t| *t as usize + 1).sum::<usize>(), tokens.len());
        let word = |i: usize| ((sum * 5 + i * 3 + len * 7) % 11) as f32 * 0.3 + ((sum * sum + i * 7) % 17) as f32 * 0.013;
        std::array::from_fn(|i| if i as u32 == EOT { len as f32 * 0.5 - 3.0 } else { word(i) })
    }

    /// Beam search with whole token vectors, as it is defined.
    fn plain(width: usize, limit: usize) -> (Vec<u32>, f32) {
        let (mut beams, mut ended) = (vec![(Vec::<u32>::new(), 0f32)], Vec::new());
        for _ in 0..limit {
            let mut all = Vec::new();
            for (tokens, logprob) in &beams {
                let logits = follows(tokens);
                let mut order: Vec<usize> = (0..4).collect();
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                let total = math::log_sum_exp(&logits);
                all.extend(order.iter().take(width + 1).map(|i| (tokens.clone(), logprob + (logits[*i] - total), *i as u32)));
            }
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            beams.clear();
            for (mut tokens, logprob, token) in all {
                if token == EOT {
                    ended.push((tokens, logprob));
                } else {
                    tokens.push(token);
                    beams.push((tokens, logprob));
                }
                if beams.len() == width {
                    break;
                }
            }
            if ended.len() >= width {
                break;
            }
        }
        ended.truncate(width);
        beams.truncate(width - ended.len());
        ended.extend(beams);
        let score = |l: &(Vec<u32>, f32)| l.1 / l.0.len().max(1) as f32;
        ended.into_iter().rev().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap()
    }

    /// Runs a search over the small language; checks that each sequence holds the tokens that its hypothesis has.
    fn search(way: Way, limit: usize, seed: u64) -> (Vec<u32>, f32) {
        let (mut found, mut rows) = (Hypotheses::default(), vec![follows(&[])]);
        let mut sequences: Vec<Vec<u32>> = vec![Vec::new(); way.width()];
        found.start(way, limit, seed, 0);
        while !found.is_done() {
            let lines: Vec<usize> = found.going_on().map(|line| line.row).collect();
            let bests: Vec<Best> = lines.iter().map(|row| Best::of(way, &rows[*row], found.uniform())).collect();
            found.advance(&bests, EOT, 100);
            let parents = found.parents().to_vec();
            let before = sequences.clone();
            parents.iter().enumerate().for_each(|(i, p)| sequences[i].clone_from(&before[*p]));
            rows.clear();
            found.run(|i, token| {
                sequences[i].push(token);
                rows.push(follows(&sequences[i]));
                rows.len() - 1
            });
        }
        found.best()
    }

    #[test]
    fn a_tree_of_tokens_finds_what_whole_vectors_find() {
        for width in [1, 2, 3, 5] {
            for limit in [1, 2, 7, 20] {
                let (seen, wanted) = (search(Way::Beam(width), limit, 0), plain(width, limit));
                assert_eq!(seen.0, wanted.0, "width {width}, limit {limit}");
                assert!((seen.1 - wanted.1).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn samples_follow_the_seed_and_their_own_sequences() {
        let drawn: Vec<_> = (0..8).map(|seed| search(Way::Sample(1.0), 12, seed)).collect();
        assert_eq!(drawn[3], search(Way::Sample(1.0), 12, 3));
        assert!(drawn.iter().any(|d| d.0 != drawn[0].0), "{drawn:?}");
        for (tokens, logprob) in drawn {
            // its probability is that of its own tokens: no sample took another's row
            let step = |i: usize, token: usize| follows(&tokens[..i])[token] - math::log_sum_exp(&follows(&tokens[..i]));
            let wanted: f32 = tokens.iter().enumerate().map(|(i, t)| step(i, *t as usize)).sum();
            let end = step(tokens.len(), EOT as usize);
            let near = |a: f32| (a - logprob).abs() < 1e-4;
            assert!(near(wanted + end) || tokens.len() == 12 && near(wanted), "{tokens:?}: {logprob}, not {wanted} + {end}");
        }
    }

    #[test]
    fn the_first_of_equal_lines_wins() {
        let mut h = Hypotheses::default();
        h.start(Way::Beam(3), 4, 0, 0);
        assert!(h.best().0.is_empty());
        h.start(Way::Beam(3), 4, 0, 0);
        h.lines.clear();
        for (tokens, logprob) in [(&[1][..], -1.0), (&[2, 3][..], -2.0), (&[4][..], -3.0)] {
            let mut line = Line { node: ROOT, ..Line::default() };
            tokens.iter().for_each(|t| line = h.grown(line, *t, 0.0, 99, 100));
            h.ended.push(Line { logprob, ended: true, ..line });
        }
        assert_eq!(h.best().0, [1]);
        h.ended[0].logprob = -2.0;
        h.ended[1].logprob = -3.0;
        assert_eq!(h.best().0, [2, 3]);
    }
}
