//! What one rendering of a chat template may take: steps, and bytes made or gone through.

use std::cell::Cell;

use super::template::{Halt, Rendered};

/// Steps (expressions, statements, items of loops) that any template may take, and those that each message adds: templates in use
/// take some hundred a message.
const STEPS: u64 = 4_000_000;
const STEPS_A_MESSAGE: u64 = 1_000;
/// Bytes of values that any template may make or go through, over the whole rendering, and what the conversation adds to that:
/// templates in use copy a message some five times, and some put the prompt together by adding to a string that grows.
const BYTES: u64 = 192 << 20;
const BYTES_A_BYTE: u64 = 48;
const BYTES_A_MESSAGE: u64 = 16 << 10;

/// What is left to a rendering. All that costs more than one step asks here first: before memory is taken, before bytes are walked.
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    allowed: (u64, u64), // steps, bytes
}

impl Budget {
    /// For a conversation of so many messages with so many bytes of text.
    pub(super) fn new(messages: usize, said: usize) -> Self {
        let (messages, said) = (messages as u64, said as u64);
        let steps = STEPS.saturating_add(STEPS_A_MESSAGE.saturating_mul(messages));
        let bytes = BYTES.saturating_add(BYTES_A_BYTE.saturating_mul(said));
        let bytes = bytes.saturating_add(BYTES_A_MESSAGE.saturating_mul(messages));
        Self { steps: Cell::new(steps), bytes: Cell::new(bytes), allowed: (steps, bytes) }
    }

    /// For what the caller gives: it is not the template's doing.
    pub(super) fn unlimited() -> Self {
        Self::new(usize::MAX, usize::MAX)
    }

    /// One step.
    pub(super) fn step(&self) -> Rendered<()> {
        let Some(left) = self.steps.get().checked_sub(1) else {
            return Err(Halt::fault(format!("takes more than the {} steps that are allowed", self.allowed.0)));
        };
        self.steps.set(left);
        Ok(())
    }

    /// `bytes` that are about to be allocated.
    pub(super) fn make(&self, bytes: usize) -> Rendered<()> {
        self.look(bytes)
    }

    /// `count` values of type `T` that are about to be allocated.
    pub(super) fn room<T>(&self, count: usize) -> Rendered<()> {
        self.make(count.saturating_mul(size_of::<T>()))
    }

    /// `bytes` that are about to be read.
    pub(super) fn look(&self, bytes: usize) -> Rendered<()> {
        let Some(left) = self.bytes.get().checked_sub(bytes as u64) else {
            return Err(Halt::fault(format!("makes or goes through more than the {} bytes that are allowed", self.allowed.1)));
        };
        self.bytes.set(left);
        Ok(())
    }
}
