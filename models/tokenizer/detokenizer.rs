//! Bytes of tokens to whole characters.

/// Collects the bytes of tokens and gives out whole UTF-8 characters only: a character may be spread over several tokens.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>, // the start of a character, at most 3 bytes between calls
}

impl Detokenizer {
    /// Adds the bytes of one token and appends the characters that are whole now to `out`. Bytes that cannot be UTF-8 become
    /// U+FFFD at once.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            out.push_str(chunk.valid());
            done += chunk.valid().len();
            let broken = chunk.invalid();
            let at_end = done + broken.len() == self.pending.len();
            if broken.is_empty() || at_end && could_continue(broken) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            done += broken.len();
        }
        self.pending.drain(..done);
    }

    /// The end: a character that was never finished becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push_str(&String::from_utf8_lossy(&self.pending));
            self.pending.clear();
        }
    }
}

/// Whether more bytes can make a character of these.
fn could_continue(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(e) if e.error_len().is_none())
}
