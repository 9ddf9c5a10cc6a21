//! Where what a person says must be broken, so that no control token arises in it or at its ends.

use std::{borrow::Cow, cmp::Ordering};

use crate::tokenizer::Tokenizer;

/// The names of a model's control tokens, to be looked up by how they begin and end.
pub(super) struct Controls {
    forward: Vec<Vec<u8>>,  // in order
    backward: Vec<Vec<u8>>, // each from its end to its beginning, in order
    all: String,            // one after the other, with a character between that ends each
    longest: usize,         // bytes
    escapes: bool,          // whether one has a backslash, as texts in JSON may get
}

impl Controls {
    /// Of these names.
    pub(super) fn new<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let mut forward: Vec<Vec<u8>> = names.map(|name| name.as_bytes().to_vec()).collect();
        forward.sort_unstable();
        let mut backward: Vec<Vec<u8>> = forward.iter().map(|name| name.iter().rev().copied().collect()).collect();
        backward.sort_unstable();
        let all = forward.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join("\0");
        let longest = forward.iter().map(Vec::len).max().unwrap_or(0);
        let escapes = all.contains('\\');
        Self { forward, backward, all, longest, escapes }
    }

    /// `content` with a mark inside whatever spells a control token, and at its ends where it could complete one.
    pub(super) fn guard<'c>(&self, content: &'c str, mark: char, tokenizer: &Tokenizer) -> Cow<'c, str> {
        let trimmed = content.trim();
        let start = content.len() - content.trim_start().len();
        let first = |at: usize| content[at..].chars().next().map_or(0, char::len_utf8);
        let mut cuts: Vec<usize> = tokenizer.control_starts(content).map(|at| at + first(at)).collect();
        let inside = !trimmed.is_empty() && trimmed.len() <= self.longest && self.all.contains(trimmed);
        cuts.extend(
            [
                self.closes(content).then_some(0),
                (inside || self.closes(trimmed)).then_some(start),
                self.opens(trimmed).then_some(start + trimmed.len()),
                self.opens(content).then_some(content.len()),
            ]
            .into_iter()
            .flatten(),
        );
        if cuts.is_empty() {
            return content.into();
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut guarded = String::with_capacity(content.len() + 4 * cuts.len());
        let mut from = 0;
        for cut in cuts {
            guarded.push_str(&content[from..cut]);
            guarded.push(mark);
            from = cut;
        }
        guarded.push_str(&content[from..]);
        guarded.into()
    }

    /// As [`Controls::guard`], for a text that a template will write within quotes, some characters of it escaped.
    pub(super) fn guard_inside(&self, content: &str, mark: char, tokenizer: &Tokenizer) -> String {
        if self.escapes {
            return content.chars().flat_map(|c| [mark, c]).chain([mark]).collect();
        }
        self.guard(content, mark, tokenizer).into_owned()
    }

    /// Whether `text` ends as a name begins.
    fn opens(&self, text: &str) -> bool {
        let ends = text.char_indices().rev().take_while(|(at, _)| text.len() - at < self.longest);
        ends.map(|(at, _)| &text.as_bytes()[at..]).any(|end| begins(&self.forward, end.len(), end.iter().copied()))
    }

    /// Whether `text` begins as a name ends.
    fn closes(&self, text: &str) -> bool {
        let starts = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end < self.longest);
        starts.map(|end| &text.as_bytes()[..end]).any(|start| begins(&self.backward, start.len(), start.iter().rev().copied()))
    }
}

/// Whether one of the names, which are in order, begins with a part of so many bytes and goes on after it.
fn begins(names: &[Vec<u8>], bytes: usize, part: impl Iterator<Item = u8> + Clone) -> bool {
    let at = names.partition_point(|name| name.iter().copied().cmp(part.clone()) != Ordering::Greater);
    names.get(at).is_some_and(|name| name.len() > bytes && name.iter().copied().take(bytes).eq(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_of_names_are_found(names in proptest::collection::vec("[<ab>é]{1,6}", 1..8), text in "[<ab>é]{0,8}") {
            let controls = Controls::new(names.iter().map(String::as_str));
            let split = |name: &String, ends: bool| {
                let parts = name.char_indices().skip(1).map(|(at, _)| name.split_at(at)).collect::<Vec<_>>();
                parts.iter().any(|(head, tail)| if ends { text.ends_with(head) } else { text.starts_with(tail) })
            };
            prop_assert_eq!(controls.opens(&text), names.iter().any(|name| split(name, true)));
            prop_assert_eq!(controls.closes(&text), names.iter().any(|name| split(name, false)));
        }
    }
}
