//! What a launch is told, and what the devices know of it already: they are told the difference.
//!
//! Where a token is chosen, the row it was chosen for becomes on the device the row that goes on by it, and so it does here. A launch
//! whose rows are these, chosen by what follows, is told nothing; any other one is, whatever made it another: a text that is over, begins
//! or was cut, a token that was chosen here, other blocks, a pass that failed.

use std::ops::Range;

use dreamseed_kernels::{
    KV_BLOCK,
    cuda::{Choice, Chosen},
};

use super::state::{ROWS, Row, SEQUENCES};
use crate::decoder::Slice;

/// No token, position or turn of a launch.
const UNKNOWN: i32 = i32::MIN;
/// Where the parts of the inputs begin.
const TOKENS: usize = 0;
const POSITIONS: usize = ROWS;
const TURNS: usize = 2 * ROWS;
const SEQUENCE: usize = 3 * ROWS;

/// What the rows of a launch are.
pub(super) struct Launch {
    pub(super) inputs: Vec<i32>, // (4, ROWS) tokens, positions, turns, sequences
    pub(super) spans: Vec<i32>,  // (3, SEQUENCES) first rows, numbers of rows, positions that all see
    pub(super) wanted: Vec<i32>, // rows whose logits are wanted
    blocks: Vec<(usize, i32)>,   // elements of the tables, as far as positions reach
}

impl Launch {
    pub(super) fn new() -> Self {
        Self { inputs: vec![0; 4 * ROWS], spans: vec![0; 3 * SEQUENCES], wanted: Vec::new(), blocks: Vec::new() }
    }

    /// The launch of these rows, which are of at most [`SEQUENCES`] sequences, with tables of `width` blocks for each.
    pub(super) fn fill(&mut self, slices: &[Slice], rows: &[Row], width: usize) {
        self.inputs.fill(0);
        self.inputs[POSITIONS..TURNS].fill(-1);
        self.spans[..2 * SEQUENCES].fill(0);
        self.spans[2 * SEQUENCES..].fill(-1);
        self.wanted.clear();
        self.blocks.clear();
        let first = rows.first().map_or(0, |r| r.slice);
        for (i, row) in rows.iter().enumerate() {
            let sequence = row.slice - first;
            self.inputs[TOKENS + i] = row.token as i32;
            self.inputs[POSITIONS + i] = row.position as i32;
            self.inputs[TURNS + i] = row.turn as i32;
            self.inputs[SEQUENCE + i] = sequence as i32;
            self.wanted.extend(row.wanted.then_some(i as i32));
            if self.spans[SEQUENCES + sequence] == 0 {
                self.spans[sequence] = i as i32;
            }
            self.spans[SEQUENCES + sequence] += 1;
            if rows.get(i + 1).is_some_and(|next| next.slice == row.slice) {
                continue; // the last row of a sequence needs all of its blocks
            }
            let blocks = &slices[row.slice].blocks[..=row.position / KV_BLOCK];
            self.blocks.extend((sequence * width..).zip(blocks.iter().map(|&b| b as i32)));
        }
    }
}

/// What has to be written for a launch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    /// All inputs; otherwise the last part's device has them.
    pub(super) inputs: bool,
    /// Whether that device has them alone.
    pub(super) apart: bool,
    pub(super) spans: bool,
    /// Elements of the tables.
    pub(super) tables: Option<Range<usize>>,
}

/// What the devices know.
pub(super) struct Told {
    inputs: Vec<i32>, // as `Launch` has them; of the last part's device
    apart: bool,      // whether those of the other parts' devices may differ
    spans: Vec<i32>,
    tables: Vec<i32>,     // (SEQUENCES, blocks)
    choices: Vec<Choice>, // of the first rows of the head
}

impl Told {
    /// Of devices whose tables are zeros.
    pub(super) fn new(blocks: usize) -> Self {
        let [inputs, spans] = [4 * ROWS, 3 * SEQUENCES].map(|n| vec![UNKNOWN; n]);
        Self { inputs, spans, tables: vec![0; SEQUENCES * blocks], apart: false, choices: Vec::new() }
    }

    /// Nobody knows what is on the devices: they are told all.
    pub(super) fn forget(&mut self) {
        [&mut self.inputs, &mut self.spans, &mut self.tables].into_iter().for_each(|known| known.fill(UNKNOWN));
        self.choices.clear();
    }

    /// What has to be written for a launch, which is known from then on. `spans`: whether its kernels read them.
    pub(super) fn news(&mut self, launch: &Launch, spans: bool) -> News {
        let mut tables: Option<Range<usize>> = None;
        for &(at, block) in &launch.blocks {
            if self.tables[at] != block {
                self.tables[at] = block;
                tables = Some(tables.map_or(at..at + 1, |t| t.start.min(at)..t.end.max(at + 1)));
            }
        }
        let news = News {
            inputs: launch.inputs != self.inputs,
            apart: self.apart,
            spans: spans && launch.spans != self.spans,
            tables,
        };
        self.apart = false;
        if news.inputs {
            self.inputs.copy_from_slice(&launch.inputs);
        }
        if news.spans {
            self.spans.copy_from_slice(&launch.spans);
        }
        news
    }

    /// The tables of blocks, as they are to be.
    pub(super) fn tables(&self) -> &[i32] {
        &self.tables
    }

    /// Whether the choices of the head's first rows have to be written; they are known from then on.
    pub(super) fn chosen_otherwise(&mut self, choices: &[Choice]) -> bool {
        let otherwise = self.choices.get(..choices.len()) != Some(choices);
        if otherwise {
            self.choices.clear();
            self.choices.extend_from_slice(choices);
        }
        otherwise
    }

    /// Of the choices of the head's first `rows` rows those that have to be written: all or none.
    pub(super) fn unknown<'c>(&mut self, choices: Option<&'c [Choice]>, rows: usize) -> Option<&'c [Choice]> {
        choices.map(|c| &c[..rows.min(c.len())]).filter(|c| self.chosen_otherwise(c))
    }

    /// The first `rows` rows were chosen for and go on, those that are wanted by these tokens; by which the others do is not known.
    pub(super) fn go_on(&mut self, rows: usize, chosen: &[Chosen]) {
        for i in 0..rows {
            if self.inputs[POSITIONS + i] < 0 {
                continue; // an empty row stays so
            }
            self.inputs[TOKENS + i] = chosen.get(i).map_or(UNKNOWN, |c| c.token);
            self.inputs[POSITIONS + i] += 1;
            self.inputs[TURNS + i] += 1;
        }
        self.choices.truncate(chosen.len());
        self.choices.iter_mut().for_each(|c| *c = c.after());
        self.apart = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::Logits;

    /// Blocks of a sequence.
    const WIDTH: usize = 4;

    /// What is written to a device, and what its kernels make of it.
    struct Double {
        launch: Launch,
        tables: Vec<i32>,
        choices: Vec<Choice>,
    }

    /// The host and its device.
    struct Both {
        launch: Launch,
        told: Told,
        device: Double,
    }

    /// A text: past, the token that is next, its blocks, and how the one after is chosen.
    #[derive(Clone)]
    struct Text(usize, u32, Vec<u32>, Choice);

    /// What was written for a launch, and whether the choices were.
    #[derive(Debug, PartialEq, Eq)]
    struct Written {
        inputs: bool,
        tables: usize,
        choices: bool,
    }

    const NOTHING: Written = Written { inputs: false, tables: 0, choices: false };

    impl Both {
        fn new() -> Self {
            let choices = vec![Choice::default(); ROWS];
            let device = Double { launch: Launch::new(), tables: vec![0; SEQUENCES * WIDTH], choices };
            Self { launch: Launch::new(), told: Told::new(WIDTH), device }
        }

        /// A launch with one row for each text, and `beside` rows of another one whose logits are not wanted: what it was told.
        /// The device has to know all of it then. Where it chooses, each text goes on by the token that is chosen.
        fn run(&mut self, texts: &mut [Text], beside: &[u32], chooses: bool) -> Written {
            let tokens: Vec<[u32; 1]> = texts.iter().map(|t| [t.1]).collect();
            let slice = |tokens, past, blocks, logits| Slice { tokens, past, context: 512, blocks, logits, pictures: &[] };
            let mut slices: Vec<_> =
                texts.iter().zip(&tokens).map(|(t, token)| slice(&token[..], t.0, &t.2, Logits::Last)).collect();
            slices.extend((!beside.is_empty()).then(|| slice(beside, 0, &[60], Logits::None)));
            let rows: Vec<Row> = slices
                .iter()
                .enumerate()
                .flat_map(|(i, s)| {
                    let wanted = i < texts.len();
                    s.tokens.iter().zip(s.past..).map(move |(&token, position)| Row {
                        slice: i,
                        token,
                        position,
                        turn: position + 7,
                        wanted,
                    })
                })
                .collect();
            self.launch.fill(&slices, &rows, WIDTH);
            let news = self.told.news(&self.launch, true);
            let d = &mut self.device;
            if news.inputs {
                d.launch.inputs.clone_from(&self.launch.inputs);
            }
            if news.spans {
                d.launch.spans.clone_from(&self.launch.spans);
            }
            if let Some(range) = news.tables.clone() {
                d.tables[range.clone()].copy_from_slice(&self.told.tables()[range]);
            }
            let choices: Vec<Choice> = texts.iter().map(|t| t.3).collect();
            let mut written = Written { inputs: news.inputs, tables: news.tables.map_or(0, |r| r.len()), choices: false };
            if chooses {
                written.choices = self.told.chosen_otherwise(&choices);
                if written.choices {
                    d.choices[..choices.len()].copy_from_slice(&choices);
                }
                assert_eq!(d.choices[..choices.len()], choices);
            }
            assert_eq!(d.launch.inputs, self.launch.inputs);
            assert_eq!(d.launch.spans, self.launch.spans);
            for (i, s) in slices.iter().enumerate() {
                let known = (s.past + s.tokens.len()).div_ceil(KV_BLOCK);
                assert!(d.tables[i * WIDTH..].iter().zip(&s.blocks[..known]).all(|(&a, &b)| a == b as i32));
            }
            if chooses {
                self.choose(texts);
            }
            written
        }

        /// As the kernel does, over a head of more rows than are wanted.
        fn choose(&mut self, texts: &mut [Text]) {
            let (d, rows) = (&mut self.device, texts.len().next_power_of_two());
            let chosen: Vec<Chosen> =
                (0..rows).map(|i| Chosen { token: (d.launch.inputs[i] * 31 + 5) % 97, logprob: -1.0 }).collect();
            for (i, c) in chosen.iter().enumerate().filter(|(i, _)| d.launch.inputs[POSITIONS..][*i] >= 0).collect::<Vec<_>>() {
                d.launch.inputs[i] = c.token;
                d.launch.inputs[POSITIONS + i] += 1;
                d.launch.inputs[TURNS + i] += 1;
                d.choices[i] = d.choices[i].after();
            }
            self.told.go_on(rows, &chosen[..texts.len()]);
            for (t, c) in texts.iter_mut().zip(&chosen) {
                *t = Text(t.0 + 1, c.token as u32, t.2.clone(), t.3.after());
            }
        }
    }

    fn texts(n: u32) -> Vec<Text> {
        let choice = |i: u32| Choice { random: i.into(), temperature: (i % 2) as f32, ..Choice::default() };
        (0..n).map(|i| Text(100 + 2 * i as usize, i, [3, 1, 2, 5].map(|b| 10 * i + b).to_vec(), choice(i))).collect()
    }

    #[test]
    fn what_goes_on_is_told_nothing_but_new_blocks() {
        for n in [1, 3, 8, 20] {
            let (mut both, mut texts) = (Both::new(), texts(n));
            assert!(both.run(&mut texts, &[], true).inputs);
            for step in 0..300 {
                let written = both.run(&mut texts, &[], true);
                let begun = texts.iter().filter(|t| (t.0 - 1) % KV_BLOCK == 0).count();
                assert!(!written.inputs && !written.choices && (written.tables > 0) == (begun > 0), "{n}, {step}: {written:?}");
                assert!(written.tables <= begun.max(1) * WIDTH * n as usize);
                if n == 1 {
                    assert_eq!(written.tables, begun);
                }
            }
        }
    }

    /// Every way out of going on, after some steps: what is written then, and that the steps after it go on again.
    #[test]
    fn what_does_not_go_on_is_told() {
        type Way = (&'static str, Written, fn(&mut Both, &mut Vec<Text>));
        let all = || Written { inputs: true, tables: WIDTH + 1, choices: true };
        let ways: [Way; 14] = [
            ("nothing happens", NOTHING, |_, _| {}),
            ("the last text is over or cancelled", Written { inputs: true, ..NOTHING }, |_, t| drop(t.pop())),
            ("the first one is", all(), |_, t| drop(t.remove(0))),
            ("one begins", all(), |_, t| t.push(Text(0, 4, vec![40, 41], Choice { top_k: 2, ..Choice::default() }))),
            ("others come in another order", all(), |_, t| t.swap(0, 1)),
            ("a grammar, a penalty or the check of a guess took another token", Written { inputs: true, ..NOTHING }, |_, t| {
                t[1].1 += 1
            }),
            ("a guess was right: it is further", Written { inputs: true, ..NOTHING }, |_, t| t[1].0 += 1),
            ("it runs a position again", Written { inputs: true, ..NOTHING }, |_, t| t[1].0 -= 1),
            ("it is drawn otherwise", Written { choices: true, ..NOTHING }, |_, t| t[0].3.top_p = 0.5),
            ("more random numbers were drawn", Written { choices: true, ..NOTHING }, |_, t| t[1].3 = t[1].3.after()),
            ("a block moved", Written { tables: 1, ..NOTHING }, |_, t| t[0].2[0] = 50),
            ("a pass failed", all(), |b, _| b.told.forget()),
            ("logits were fetched, and the token chosen here", NOTHING, |b, t| {
                let before = t.clone();
                assert_eq!(b.run(t, &[], false), NOTHING);
                assert_eq!(t[0].0, before[0].0);
            }),
            ("another's prompt runs beside them", Written { inputs: true, ..NOTHING }, |b, t| {
                let beside = b.run(t, &[1, 2, 3, 4], true);
                assert!(beside.inputs && beside.tables > 0 && !beside.choices, "{beside:?}");
            }),
        ];
        for (what, want, way) in ways {
            let (mut both, mut texts) = (Both::new(), texts(2));
            for _ in 0..3 {
                both.run(&mut texts, &[], true);
            }
            way(&mut both, &mut texts);
            let got = both.run(&mut texts, &[], true);
            assert_eq!((got.inputs, got.choices), (want.inputs, want.choices), "{what}: {got:?}");
            assert!(want.tables > WIDTH || got.tables == want.tables, "{what}: {got:?}");
            assert_eq!(both.run(&mut texts, &[], true), NOTHING, "after {what}");
        }
    }

    /// A row that is not wanted is chosen for all the same where the head's launch is larger than what is wanted.
    #[test]
    fn rows_that_go_on_by_nobody_knows_what_are_told_again() {
        let (mut both, mut three) = (Both::new(), texts(3));
        both.run(&mut three, &[9, 8, 7], true);
        // as if the prompt's first row were a text that goes on
        let mut four = three.clone();
        four.push(Text(1, 8, vec![60], Choice::default()));
        assert!(both.run(&mut four, &[], true).inputs);
    }
}
