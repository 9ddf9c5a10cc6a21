//! Which sequences the next pass takes, and how many tokens of each.
//!
//! Sequences that are being written come first, one token each and their drafts: a reader waits for them. What is left of the pass
//! goes to prompts, in equal parts, so that a short prompt is through while a long one is still being read. When blocks run out, the
//! sequence that came last makes room and begins again later; what it had computed stays known as long as nobody needs the room.

use std::collections::VecDeque;

use dreamseed_kernels::KV_BLOCK;

use super::{
    Finish,
    blocks::{BlockId, Blocks, Found},
    sequence::Sequence,
};
use crate::{Error, Result};

/// The part of a pass that one sequence has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Index among the running ones.
    pub(super) sequence: usize,
    /// Pending tokens that it takes; a sequence that decodes takes its drafts too.
    pub(super) tokens: usize,
}

/// All sequences and the blocks they live in.
pub(super) struct Scheduler {
    waiting: VecDeque<Sequence>,
    pub(super) running: Vec<Sequence>,
    pub(super) blocks: Blocks,
    pub(super) draft_blocks: Blocks, // of the draft model's store
    most: usize,                     // running at once
    rows: usize,                     // of a pass
}

impl Scheduler {
    pub(super) fn new(blocks: Blocks, draft_blocks: Blocks, most: usize, rows: usize) -> Self {
        Self { waiting: VecDeque::new(), running: Vec::new(), blocks, draft_blocks, most, rows }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// A new sequence, behind those that wait.
    pub(super) fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Drops those whose callers went away and lets waiting ones begin as far as there is room. Calls `copy` for a block that goes on
    /// from another one's contents; where that fails the sequence does.
    pub(super) fn admit(&mut self, mut copy: impl FnMut(BlockId, BlockId) -> Result<()>) {
        for i in (0..self.running.len()).rev() {
            if self.running[i].is_cancelled() {
                self.end(i, Finish::Cancelled);
            }
        }
        self.waiting.iter_mut().filter(|s| s.is_cancelled()).for_each(|s| s.finish(Finish::Cancelled));
        self.waiting.retain(|s| !s.is_cancelled());
        while self.running.len() < self.most
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            if sequence.left() == 0 {
                sequence.finish(Finish::Length);
                continue;
            }
            // The last token runs in any case: its logits are wanted.
            let known = sequence.tokens.len() - 1;
            let Found { mut table, len, copy: copied } = self.find(&sequence, known);
            if let Some(Err(e)) = copied.map(|(from, to)| copy(from, to)) {
                self.blocks.give_up(table, &[]); // what the last block holds is not known
                sequence.fail(e);
                continue;
            }
            // A block to go on in for everyone who runs, or the next step would throw out who was just let in.
            let needed = sequence.tokens.len().div_ceil(KV_BLOCK).saturating_sub(table.blocks().len());
            let spare = if self.running.is_empty() { 0 } else { self.running.len() + 1 };
            if self.blocks.available() >= needed + spare && self.blocks.grow(&mut table, sequence.tokens.len()) {
                sequence.table = table;
                sequence.begins(len);
                self.running.push(sequence);
                continue;
            }
            self.blocks.give_up(table, &sequence.tokens[..len]);
            if self.running.is_empty() {
                let (tokens, room) = (sequence.tokens.len(), self.blocks.limit() * KV_BLOCK);
                sequence
                    .fail(Error::Usage(format!("{tokens} tokens, and the cache holds {room}; shorten the text or allow more")));
                continue;
            }
            self.waiting.push_front(sequence);
            break;
        }
    }

    /// What is known of the first `n` tokens of a sequence. Where that would end inside of a picture whose rows go into one pass, what
    /// is known before it.
    fn find(&mut self, sequence: &Sequence, n: usize) -> Found {
        let found = self.blocks.find(&sequence.tokens[..n], sequence.long);
        let whole = sequence.whole(found.len);
        if whole == found.len {
            return found;
        }
        self.blocks.give_up(found.table, &[]); // nothing was copied: nothing is known of a new block
        self.blocks.find(&sequence.tokens[..whole], sequence.long)
    }

    /// The next pass: at most `rows` tokens in all, and of prompts at most `beside` while others write.
    pub(super) fn plan(&mut self, beside: usize) -> Vec<Work> {
        let mut work = Vec::new();
        let mut left = self.rows;
        let mut i = 0;
        while i < self.running.len() {
            if self.running[i].decodes() && left > 0 {
                let s = &mut self.running[i];
                s.drafts.truncate((left - 1).min(s.left().saturating_sub(1)));
                if !self.make_room(i) {
                    continue; // it made room itself, or is over: another one stands at its place
                }
                let tokens = 1 + self.running[i].drafts.len();
                left -= tokens;
                work.push(Work { sequence: i, tokens });
            }
            i += 1;
        }
        let prompts = self.running.iter().filter(|s| !s.decodes()).count();
        let (mut most, mut left) = (left, if work.is_empty() { left } else { left.min(beside) });
        for (done, i) in (0..self.running.len()).filter(|&i| !self.running[i].decodes()).enumerate() {
            let share = left.div_ceil(prompts - done).min(self.running[i].pending());
            let share = self.running[i].takes(share, most);
            if share > 0 {
                most -= share;
                left = left.saturating_sub(share).min(most);
                work.push(Work { sequence: i, tokens: share });
            }
        }
        work
    }

    /// Blocks for the next token of sequence `i` and its drafts; without the drafts where they are short; then those of the sequence
    /// that came last. `false` when that was `i` itself.
    fn make_room(&mut self, i: usize) -> bool {
        loop {
            let s = &mut self.running[i];
            if self.blocks.grow(&mut s.table, s.tokens.len() + s.drafts.len()) {
                return true;
            }
            if !s.drafts.is_empty() {
                s.drafts.clear();
                continue;
            }
            let last = self.running.len() - 1;
            if last == 0 {
                self.end(0, Finish::Length);
                return false;
            }
            let mut youngest = self.remove(last);
            youngest.drafts.clear();
            self.waiting.push_front(youngest);
            if last == i {
                return false;
            }
        }
    }

    /// Sequence `i` is over: its blocks are free, its caller is told.
    pub(super) fn end(&mut self, i: usize, finish: Finish) {
        self.remove(i).finish(finish);
    }

    /// Sequence `i` failed.
    pub(super) fn fail(&mut self, i: usize, error: Error) {
        self.remove(i).fail(error);
    }

    /// Takes sequence `i` out; what it computed stays known while nobody needs the room.
    fn remove(&mut self, i: usize) -> Sequence {
        let mut s = self.running.remove(i);
        let (table, draft_table) = (std::mem::take(&mut s.table), std::mem::take(&mut s.draft_table));
        self.blocks.give_up(table, &s.tokens[..s.cached]);
        self.draft_blocks.give_up(draft_table, &s.tokens[..s.draft_cached.min(s.tokens.len())]);
        (s.cached, s.draft_cached) = (0, 0);
        s
    }
}
