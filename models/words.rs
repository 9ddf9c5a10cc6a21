//! What was said against what should have been said: word alignment by edit distance.

use unicode_normalization::UnicodeNormalization;

/// More words than this on either side are not compared (after the common beginning and end are taken off): the table of the
/// alignment holds one byte for each pair.
pub const MAX_WORDS: usize = 4_000;

/// One step of the alignment; indices into the expected (`e`) and the heard (`h`) words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same word.
    Same {
        /// Expected.
        e: usize,
        /// Heard.
        h: usize,
    },
    /// Another word in its place.
    Changed {
        /// Expected.
        e: usize,
        /// Heard.
        h: usize,
    },
    /// Expected and not heard; `h` heard words come before it.
    Omitted {
        /// Expected.
        e: usize,
        /// Number of heard words before.
        h: usize,
    },
    /// Heard and not expected.
    Added {
        /// Heard.
        h: usize,
    },
}

/// Splits text into words as they are compared: lower case, letters and digits only.
pub fn split(text: &str) -> Vec<String> {
    text.split(|c: char| c.is_whitespace() || matches!(c, '-' | '–' | '—' | '/'))
        .map(normal)
        .filter(|w| !w.is_empty())
        .collect()
}

/// A word as it is compared.
pub fn normal(word: &str) -> String {
    word.nfc().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The alignment with the fewest omissions, additions and changes (Levenshtein; a change costs as much as an omission), or
/// `None` over [`MAX_WORDS`]. Runs of differences that spell the same letters ("gonna be" / "gon na be", Korean spacing) are
/// taken as the same words.
pub fn align(expected: &[String], heard: &[String]) -> Option<Vec<Step>> {
    let head = expected.iter().zip(heard).take_while(|(a, b)| a == b).count();
    let (e, h) = (&expected[head..], &heard[head..]);
    let tail = e.iter().rev().zip(h.iter().rev()).take_while(|(a, b)| a == b).count();
    let (e, h) = (&e[..e.len() - tail], &h[..h.len() - tail]);
    if e.len() > MAX_WORDS || h.len() > MAX_WORDS {
        return None;
    }
    let mut steps: Vec<Step> = (0..head).map(|i| Step::Same { e: i, h: i }).collect();
    steps.extend(middle(e, h).into_iter().map(|s| shift(s, head)));
    let (e, h) = (head + e.len(), head + h.len());
    steps.extend((0..tail).map(|i| Step::Same { e: e + i, h: h + i }));
    Some(merge_spelled_alike(&steps, expected, heard))
}

fn shift(step: Step, by: usize) -> Step {
    match step {
        Step::Same { e, h } => Step::Same { e: e + by, h: h + by },
        Step::Changed { e, h } => Step::Changed { e: e + by, h: h + by },
        Step::Omitted { e, h } => Step::Omitted { e: e + by, h: h + by },
        Step::Added { h } => Step::Added { h: h + by },
    }
}

fn middle(expected: &[String], heard: &[String]) -> Vec<Step> {
    const DIAGONAL: u8 = 0;
    const UP: u8 = 1; // omitted
    const LEFT: u8 = 2; // added
    let (n, m) = (expected.len(), heard.len());
    let mut from = vec![LEFT; (n + 1) * (m + 1)]; // (n + 1, m + 1)
    let mut row: Vec<u32> = (0..=m as u32).collect();
    for i in 1..=n {
        let mut diagonal = row[0];
        row[0] = i as u32;
        from[i * (m + 1)] = UP;
        for j in 1..=m {
            let same = expected[i - 1] == heard[j - 1];
            let costs = [diagonal + u32::from(!same), row[j] + 1, row[j - 1] + 1];
            diagonal = row[j];
            let best = (0..3).min_by_key(|&k| costs[k]).unwrap_or(0);
            row[j] = costs[best];
            from[i * (m + 1) + j] = best as u8;
        }
    }
    let (mut i, mut j) = (n, m);
    let mut steps = Vec::with_capacity(n.max(m));
    while i > 0 || j > 0 {
        steps.push(match from[i * (m + 1) + j] {
            DIAGONAL => {
                (i, j) = (i - 1, j - 1);
                if expected[i] == heard[j] { Step::Same { e: i, h: j } } else { Step::Changed { e: i, h: j } }
            }
            UP => {
                i -= 1;
                Step::Omitted { e: i, h: j }
            }
            _ => {
                j -= 1;
                Step::Added { h: j }
            }
        });
    }
    steps.reverse();
    steps
}

fn merge_spelled_alike(steps: &[Step], expected: &[String], heard: &[String]) -> Vec<Step> {
    let mut merged = Vec::with_capacity(steps.len());
    for run in steps.chunk_by(|a, b| matches!(a, Step::Same { .. }) == matches!(b, Step::Same { .. })) {
        let spelled = |expecting: bool| -> String {
            run.iter()
                .filter_map(|s| match *s {
                    Step::Changed { e, h } => Some(if expecting { &expected[e] } else { &heard[h] }),
                    Step::Omitted { e, .. } if expecting => Some(&expected[e]),
                    Step::Added { h } if !expecting => Some(&heard[h]),
                    _ => None,
                })
                .map(String::as_str)
                .collect()
        };
        if matches!(run[0], Step::Same { .. }) || spelled(true) != spelled(false) {
            merged.extend_from_slice(run);
            continue;
        }
        let mut h_last = run.iter().find_map(|s| match *s {
            Step::Changed { h, .. } | Step::Added { h } => Some(h),
            _ => None,
        });
        for step in run {
            match *step {
                Step::Changed { e, h } => {
                    h_last = Some(h);
                    merged.push(Step::Same { e, h });
                }
                Step::Omitted { e, .. } => merged.extend(h_last.map(|h| Step::Same { e, h })),
                _ => {}
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(expected: &str, heard: &str) -> Vec<Step> {
        align(&split(expected), &split(heard)).unwrap()
    }

    #[test]
    fn finds_what_was_left_out_added_and_changed() {
        let s = steps("Ask not what your country can do for you.", "ask what your county can really do for you");
        assert!(s.contains(&Step::Omitted { e: 1, h: 1 }));
        assert!(s.contains(&Step::Changed { e: 4, h: 3 }));
        assert!(s.contains(&Step::Added { h: 5 }));
        assert_eq!(s.iter().filter(|s| matches!(s, Step::Same { .. })).count(), 7);
    }

    #[test]
    fn punctuation_case_and_spacing_do_not_matter() {
        for (a, b) in [
            ("Well-known, isn't it?", "well known isn't it"),
            ("오늘 날씨가 좋아요.", "오늘날씨가 좋아요"),
            ("every one", "everyone"),
        ] {
            assert!(steps(a, b).iter().all(|s| matches!(s, Step::Same { .. })), "{a} {b}");
        }
    }

    #[test]
    fn decomposed_text_is_the_same_word() {
        let decomposed = "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af} \u{1100}\u{1161}\u{11a8} cafe\u{301}";
        assert_eq!(split(decomposed), ["한글", "각", "café"]);
        assert!(steps("한글 각 café", decomposed).iter().all(|s| matches!(s, Step::Same { .. })));
    }

    #[test]
    fn empty_sides_and_too_many_words() {
        assert_eq!(steps("", ""), vec![]);
        assert_eq!(steps("one two", "").len(), 2);
        assert_eq!(steps("", "one two").len(), 2);
        let many = vec!["a".to_owned(); MAX_WORDS + 1];
        let other = vec!["b".to_owned(); 1];
        assert!(align(&many, &other).is_none());
        assert_eq!(align(&many, &many).unwrap().len(), MAX_WORDS + 1);
    }
}
