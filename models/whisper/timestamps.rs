//! What may be sampled next (openai/whisper `decoding.py`: SuppressBlank, SuppressTokens, ApplyTimestampRules), and how a
//! decoded window falls into segments.

use super::math;
use super::tokens::Tokens;

/// What the rules need to know of the tokens that were sampled so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) len: usize,
    last: Option<u32>,
    before: Option<u32>, // the one before the last
    time: Option<u32>,   // the latest timestamp
}

impl Past {
    /// With a token more; timestamps begin with `begin`.
    pub(super) fn with(self, token: u32, begin: u32) -> Self {
        let time = Some(token).filter(|id| *id >= begin).or(self.time);
        Self { len: self.len + 1, last: Some(token), before: self.last, time }
    }
}

/// Filters of the logits of one decoding.
pub(super) struct Rules<'a> {
    pub(super) tokens: &'a Tokens,
    /// Whether timestamps are wanted.
    pub(super) timestamps: bool,
    /// Latest first timestamp in steps of 20 ms.
    pub(super) max_initial: u32,
}

impl Rules<'_> {
    /// Sets the logits (n_vocab) of what may not follow `past` to negative infinity.
    pub(super) fn apply(&self, past: Past, logits: &mut [f32]) {
        let t = self.tokens;
        let mut ban = |id: u32| {
            if let Some(x) = logits.get_mut(id as usize) {
                *x = f32::NEG_INFINITY;
            }
        };
        if past.len == 0 {
            t.suppress_begin.iter().for_each(|id| ban(*id));
        }
        t.suppress.iter().chain([&t.no_timestamps]).for_each(|id| ban(*id));
        let begin = t.timestamp_begin() as usize;
        if !self.timestamps {
            logits[begin..].fill(f32::NEG_INFINITY);
            return;
        }
        let is_time = |id: &u32| *id as usize >= begin;
        let last = past.last.as_ref().is_some_and(is_time);
        let before = past.before.as_ref().is_none_or(is_time);
        // timestamps come in pairs, but for the one before the end
        match (last, before) {
            (true, true) => logits[begin..].fill(f32::NEG_INFINITY),
            (true, false) => logits[..t.eot as usize].fill(f32::NEG_INFINITY),
            _ => {}
        }
        // and never go back; a segment lasts for at least one step
        if let Some(latest) = past.time {
            let floor = latest as usize + usize::from(!last || before);
            let end = floor.min(logits.len());
            logits[begin..end].fill(f32::NEG_INFINITY);
        }
        if past.len == 0 {
            logits[..begin].fill(f32::NEG_INFINITY);
            let latest = begin + self.max_initial as usize + 1;
            if let Some(late) = logits.get_mut(latest..) {
                late.fill(f32::NEG_INFINITY);
            }
        }
        // where some timestamp is likelier than any single text token, it is a timestamp
        if math::log_sum_exp(&logits[begin..]) > math::max(&logits[..begin]) {
            logits[..begin].fill(f32::NEG_INFINITY);
        }
    }
}

/// A stretch of tokens between timestamps; times in steps of 20 ms from the start of the window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) tokens: Vec<u32>,
}

/// A decoded window cut into segments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) slices: Vec<Slice>,
    /// Where to go on, in steps of 20 ms; `None`: after the window.
    pub(super) resume: Option<u32>,
    /// The window ended with a single timestamp: nothing was said after it.
    pub(super) closed: bool,
}

impl Cut {
    /// Takes what follows the last pair of timestamps for a segment as well, to the end of the window.
    pub(super) fn take_tail(&mut self, tokens: &[u32], begin: u32, length: u32) {
        let Some(end) = self.resume.take() else { return };
        let taken: usize = self.slices.iter().map(|slice| slice.tokens.len()).sum();
        let tail = tokens.get(taken..).unwrap_or_default();
        if tail.iter().any(|id| *id < begin) {
            let start = tail.first().map_or(end, |id| id.checked_sub(begin).unwrap_or(end));
            self.slices.push(Slice { start, end: length.max(start), tokens: tail.to_vec() });
        }
    }
}

/// Cuts at consecutive timestamps. `length`: of the window in steps of 20 ms.
pub(super) fn cut(tokens: &[u32], begin: u32, length: u32) -> Cut {
    let is_time = |id: u32| id >= begin;
    let closed = matches!(tokens, [.., a, b] if !is_time(*a) && is_time(*b));
    let mut ends: Vec<usize> = (1..tokens.len()).filter(|i| is_time(tokens[*i]) && is_time(tokens[*i - 1])).collect();
    if ends.is_empty() {
        let time = tokens.iter().rev().find(|id| is_time(**id)).map_or(0, |id| id - begin);
        let end = if time > 0 { time } else { length };
        return Cut { slices: vec![Slice { start: 0, end, tokens: tokens.to_vec() }], resume: None, closed };
    }
    if closed {
        ends.push(tokens.len());
    }
    let mut slices = Vec::new();
    let mut start = 0;
    for end in ends {
        let tokens = &tokens[start..end];
        let time = |id: Option<&u32>| id.map_or(0, |id| id.saturating_sub(begin));
        slices.push(Slice { start: time(tokens.first()), end: time(tokens.last()), tokens: tokens.to_vec() });
        start = end;
    }
    // what follows the last pair is unfinished: it is decoded again in the next window
    let resume = if closed { None } else { slices.last().map(|s| s.end) };
    Cut { slices, resume, closed }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tests::sample;
    use super::*;

    const BEGIN: u32 = 267;

    fn allowed(sampled: &[u32], raise: &[(u32, f32)]) -> Vec<u32> {
        let tokens = sample();
        let rules = Rules { tokens: &tokens, timestamps: true, max_initial: 5 };
        let mut logits = vec![0.0; 278];
        raise.iter().for_each(|(id, x)| logits[*id as usize] = *x);
        rules.apply(sampled.iter().fold(Past::default(), |past, id| past.with(*id, BEGIN)), &mut logits);
        (0..278).filter(|id| logits[*id as usize] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn begins_with_an_early_timestamp() {
        assert_eq!(allowed(&[], &[]), (BEGIN..=BEGIN + 5).collect::<Vec<_>>());
    }

    #[test]
    fn text_follows_an_opening_timestamp() {
        let after = allowed(&[BEGIN + 2], &[]);
        assert!(after.contains(&97) && after.contains(&257) && !after.iter().any(|id| *id >= BEGIN));
    }

    #[test]
    fn a_closing_timestamp_is_followed_by_a_timestamp_or_the_end() {
        let after = allowed(&[BEGIN, 97, BEGIN + 4], &[(257, 9.0)]);
        assert_eq!(after, [257, 259, 260].into_iter().chain(BEGIN + 4..278).collect::<Vec<_>>());
    }

    #[test]
    fn timestamps_ascend_and_win_by_their_sum() {
        let after = allowed(&[BEGIN, 97], &[(98, 5.0)]);
        assert!(after.contains(&98) && !after.contains(&BEGIN) && after.contains(&(BEGIN + 1)));
        // eleven timestamps of 0 sum to ln(10) = 2.3, more than any single text token
        assert_eq!(allowed(&[BEGIN, 97], &[(98, 2.0)]), (BEGIN + 1..278).collect::<Vec<_>>());
    }

    #[test]
    fn without_timestamps_none_is_allowed() {
        let tokens = sample();
        let mut logits = vec![0.0; 278];
        Rules { tokens: &tokens, timestamps: false, max_initial: 5 }.apply(Past::default(), &mut logits);
        assert!(logits[BEGIN as usize..].iter().all(|x| *x == f32::NEG_INFINITY) && logits[97] == 0.0);
        assert!(logits[257] == f32::NEG_INFINITY, "an empty text is not sampled at once");
    }

    #[test]
    fn cuts_at_pairs() {
        let t = |n: u32| BEGIN + n;
        let slice = |start, end, tokens: &[u32]| Slice { start, end, tokens: tokens.to_vec() };
        let open = cut(&[t(0), 97, t(3), t(4), 98], BEGIN, 10);
        assert_eq!(open, Cut { slices: vec![slice(0, 3, &[t(0), 97, t(3)])], resume: Some(3), closed: false });
        let mut whole = open;
        whole.take_tail(&[t(0), 97, t(3), t(4), 98], BEGIN, 10);
        assert_eq!((whole.slices.last(), whole.resume), (Some(&slice(4, 10, &[t(4), 98])), None));
        let closed = cut(&[t(0), 97, t(3), t(4), 98, t(9)], BEGIN, 10);
        let slices = vec![slice(0, 3, &[t(0), 97, t(3)]), slice(4, 9, &[t(4), 98, t(9)])];
        assert_eq!(closed, Cut { slices, resume: None, closed: true });
        assert_eq!(cut(&[t(0), 97], BEGIN, 10).slices, [slice(0, 10, &[t(0), 97])]);
        assert_eq!(cut(&[97], BEGIN, 7), Cut { slices: vec![slice(0, 7, &[97])], resume: None, closed: false });
        assert_eq!(cut(&[t(0), 97, t(6)], BEGIN, 10).slices, [slice(0, 6, &[t(0), 97, t(6)])]);
    }
}
