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
/// `None` over [`MAX_WORDS`]. Of several such alignments the one whose changed words are the most alike in their letters, Hangul
/// taken apart into jamo: a slip in one sound is a change of that word, not of its neighbour. Runs of differences that spell the same letters ("gonna be" / "gon na be", Korean spacing) are
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

/// Which pairs of neighbouring letters a word has, its beginning and end among them: a set of 128, by hash. Hangul is taken apart, so
/// that syllables which share a jamo are alike.
fn letter_pairs(word: &str) -> u128 {
    let mut last = '\0';
    word.nfd().chain(['\0']).fold(0, |set, c| {
        let hash = (u64::from(u32::from(last)) << 32 | u64::from(u32::from(c))).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        last = c;
        set | 1 << (hash >> 57)
    })
}

/// How little two words are alike, 0 to 100: one less Dice's coefficient (1945) of their pairs of letters.
fn unlike(a: u128, b: u128) -> u64 {
    let (both, all) = ((a & b).count_ones(), a.count_ones() + b.count_ones());
    100 - u64::from(200 * both / all.max(1))
}

fn middle(expected: &[String], heard: &[String]) -> Vec<Step> {
    const DIAGONAL: u8 = 0;
    const UP: u8 = 1; // omitted
    const LEFT: u8 = 2; // added
    /// One omission, addition or change; below it the sum of how unlike changed words are.
    const EDIT: u64 = 1 << 32;
    let (n, m) = (expected.len(), heard.len());
    let [wanted, seen] = [expected, heard].map(|w| w.iter().map(|w| letter_pairs(w)).collect::<Vec<_>>());
    let mut from = vec![LEFT; (n + 1) * (m + 1)]; // (n + 1, m + 1)
    let mut row: Vec<u64> = (0..=m as u64).map(|j| j * EDIT).collect();
    for i in 1..=n {
        let mut diagonal = row[0];
        row[0] = i as u64 * EDIT;
        from[i * (m + 1)] = UP;
        for j in 1..=m {
            let same = expected[i - 1] == heard[j - 1];
            let change = if same { 0 } else { EDIT + unlike(wanted[i - 1], seen[j - 1]) };
            let costs = [diagonal + change, row[j] + EDIT, row[j - 1] + EDIT];
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
    fn a_slip_in_one_jamo_is_a_change_of_that_word() {
        let decomposed = |text: &str| text.nfd().collect::<String>();
        for (expected, heard) in [
            ("저는 학교에 갑니다", "저는 학교에 갔니다"), // a final consonant
            ("오늘 밥을 먹었어요", "오늘 법을 먹었어요"), // a vowel
            ("새 달이 떴어요", "새 딸이 떴어요"),         // an initial, lax for tense
            ("저는 학교에 갑니다", &decomposed("저는 학교에 갔니다")),
        ] {
            let s = steps(expected, heard);
            assert_eq!(s.iter().filter(|s| matches!(s, Step::Changed { .. })).count(), 1, "{heard}: {s:?}");
            assert_eq!(s.iter().filter(|s| matches!(s, Step::Same { .. })).count(), 2, "{heard}: {s:?}");
            assert!(steps(expected, &decomposed(expected)).iter().all(|s| matches!(s, Step::Same { .. })));
        }
        assert_eq!(unlike(letter_pairs("밥을"), letter_pairs(&decomposed("밥을"))), 0);
        assert!(unlike(letter_pairs("밥을"), letter_pairs("법을")) < unlike(letter_pairs("밥을"), letter_pairs("물이")));
    }

    /// Beside a word that was left out or added, the slip is found where it is and not at the neighbour.
    #[test]
    fn changes_go_to_the_words_that_are_alike() {
        let s = steps("나는 오늘 학교에 갔다", "나는 학고에 갔다");
        assert!(s.contains(&Step::Omitted { e: 1, h: 1 }) && s.contains(&Step::Changed { e: 2, h: 1 }), "{s:?}");
        let s = steps("나는 학교에 오늘 갔다", "나는 학고에 갔다");
        assert!(s.contains(&Step::Changed { e: 1, h: 1 }) && s.contains(&Step::Omitted { e: 2, h: 2 }), "{s:?}");
        let s = steps("ask the country now", "ask the little county now");
        assert!(s.contains(&Step::Added { h: 2 }) && s.contains(&Step::Changed { e: 2, h: 3 }), "{s:?}");
        let s = steps("ask the country now", "ask the county little now");
        assert!(s.contains(&Step::Changed { e: 2, h: 2 }) && s.contains(&Step::Added { h: 3 }), "{s:?}");
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
