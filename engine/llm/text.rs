//! Text on its way out.

use dreamseed_models::tokenizer::Detokenizer;

/// Turns tokens into text: whole characters, and nothing that may turn out to be a stop text.
pub(super) struct TextStream {
    stops: Vec<String>,
    characters: Detokenizer,
    pending: String,
    certain: usize, // bytes of `pending` that may go out
}

impl TextStream {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, characters: Detokenizer::default(), pending: String::new(), certain: 0 }
    }

    /// Adds a token's bytes; whether a stop text is complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        self.characters.push(bytes, &mut self.pending);
        let stops = || self.stops.iter().filter(|s| !s.is_empty());
        if let Some(at) = stops().filter_map(|s| self.pending.find(s.as_str())).min() {
            self.certain = at;
            return true;
        }
        let begun = |stop: &str| stop.char_indices().map(|(at, _)| at).filter(|&at| self.pending.ends_with(&stop[..at])).max();
        let held = stops().filter_map(|s| begun(s)).max().unwrap_or(0);
        self.certain = self.pending.len() - held;
        false
    }

    /// What is certain by now.
    pub(super) fn take_certain(&mut self) -> String {
        let rest = self.pending.split_off(self.certain);
        self.certain = 0;
        std::mem::replace(&mut self.pending, rest)
    }

    /// The end: what was held back, and what is left of a character.
    pub(super) fn finish(&mut self) -> String {
        self.characters.finish(&mut self.pending);
        self.certain = 0;
        std::mem::take(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes out after each piece, whether it stopped, and the rest.
    fn stream(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool, String) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut text = TextStream::new(stops);
        let mut out = Vec::new();
        for piece in pieces {
            let stopped = text.push(piece);
            out.push(text.take_certain());
            if stopped {
                return (out, true, String::new());
            }
        }
        (out, false, text.finish())
    }

    #[test]
    fn stop_texts_are_found_across_tokens_and_never_shown() {
        let (out, stopped, _) = stream(&["\nUser:"], &[b"Hi", b" there\n", b"Us", b"er: x"]);
        assert_eq!((out.concat().as_str(), stopped), ("Hi there", true));
        let (out, stopped, rest) = stream(&["\nUser:"], &[b"Hi\n", b"Usual", b"\nUser"]);
        assert_eq!(out, ["Hi", "\nUsual", ""]);
        assert_eq!((stopped, rest.as_str()), (false, "\nUser"));
        let (out, stopped, _) = stream(&["abc", "b"], &[b"xa", b"b"]);
        assert_eq!((out.concat().as_str(), stopped), ("xa", true));
        let (out, ..) = stream(&["aab"], &[b"aa", b"a", b"b"]);
        assert_eq!(out, ["", "a", ""]);
        let (out, stopped, _) = stream(&[""], &[b"x"]);
        assert_eq!((out.concat().as_str(), stopped), ("x", false));
    }

    #[test]
    fn characters_go_out_whole() {
        let (out, _, rest) = stream(&["끝"], &[&[0xEA], &[0xB0], &[0x80], "끝".as_bytes()[..2].as_ref()]);
        assert_eq!(out, ["", "", "가", ""]);
        assert_eq!(rest, "\u{FFFD}");
    }
}
