//! Who holds which block of the paged store, what a block is known to hold, and which may be given away. Integers only.
//!
//! A block that holds positions of a known prefix is published under the block before it: the published blocks are a tree of token
//! sequences. A new sequence walks down from the root, shares every whole block on its way, and copies the one of which only the
//! beginning agrees. Tokens are compared, not their hashes alone. A published block that nobody uses stays until room is needed;
//! the one unused for longest goes first, and of one sequence the end before the beginning.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
};

use dreamseed_kernels::KV_BLOCK;

/// Number of a block in the store.
pub(super) type BlockId = u32;

/// Serial number of what a published block holds; 0 stands for the empty prefix.
type Serial = u64;

/// The empty prefix of sequences whose keys are rotated as those of long ones: a tree of its own, for they agree with no others.
const LONG: Serial = Serial::MAX;

#[derive(Default)]
struct Block {
    users: u32,
    known: Option<Known>,
    idle_since: u64, // key among the idle; meaningful while there are no users and the contents are known
}

/// What a published block holds.
struct Known {
    serial: Serial,
    parent: Serial,
    tokens: Vec<u32>,
}

/// Accounting of all blocks.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    limit: usize,
    free: Vec<BlockId>,                      // no users, contents unknown
    idle: BTreeMap<u64, BlockId>,            // no users, contents known; oldest first
    whole: HashMap<(Serial, u64), BlockId>,  // published whole blocks by parent and hash of their tokens
    children: HashMap<Serial, Vec<BlockId>>, // all published blocks by parent
    hasher: RandomState,
    serial: Serial,
    clock: u64,
}

/// The blocks of one sequence.
#[derive(Debug, Default)]
pub(super) struct Table {
    blocks: Vec<BlockId>,
    published: usize, // leading blocks that are published, by this sequence or another
    last: Serial,     // of the last of them
}

impl Table {
    /// For the kernels.
    pub(super) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

/// What was found of a prompt.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its blocks; more can be appended.
    pub(super) table: Table,
    /// Positions that need not be computed.
    pub(super) len: usize,
    /// Contents to copy before anything is computed: from, to.
    pub(super) copy: Option<(BlockId, BlockId)>,
}

impl Blocks {
    /// Accounting for at most `limit` blocks.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            blocks: Vec::new(),
            limit,
            free: Vec::new(),
            idle: BTreeMap::new(),
            whole: HashMap::new(),
            children: HashMap::new(),
            hasher: RandomState::new(),
            serial: 0,
            clock: 0,
        }
    }

    /// Most blocks there may be.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Allows at least `limit` blocks.
    pub(super) fn raise(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// Blocks that have existed so far: what the store must have room for.
    pub(super) fn touched(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that a sequence could still get.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len() + (self.limit - self.blocks.len())
    }

    /// The longest known beginning of `tokens`, now used by one sequence more; `long`: among those rotated as long sequences are.
    pub(super) fn find(&mut self, tokens: &[u32], long: bool) -> Found {
        let mut found = Found::default();
        found.table.last = if long { LONG } else { 0 };
        // 1. whole blocks are shared
        while let Some(chunk) = tokens.get(found.len..found.len + KV_BLOCK) {
            let Some(id) = self.whole_child(found.table.last, chunk) else { break };
            self.hold(id);
            found.table.push_known(id, self.serial_of(id));
            found.len += KV_BLOCK;
        }
        // 2. of the next one the part that agrees is copied, or taken over where nothing would be lost
        let rest = &tokens[found.len..];
        let common = |id: &BlockId| self.tokens_of(*id).iter().zip(rest).take_while(|(a, b)| a == b).count();
        let children = self.children.get(&found.table.last).into_iter().flatten();
        let best = children.map(|id| (common(id), *id)).max_by_key(|(n, id)| (*n, std::cmp::Reverse(*id)));
        let Some((n, id)) = best.filter(|(n, _)| *n > 0) else { return found };
        if self.blocks[id as usize].users == 0 && n == self.tokens_of(id).len() {
            self.hold(id);
            self.forget(id);
            found.table.blocks.push(id);
        } else {
            self.hold(id); // so that it is not the one given away
            let fresh = self.take();
            self.release(id);
            let Some(fresh) = fresh else { return found };
            found.table.blocks.push(fresh);
            found.copy = Some((id, fresh));
        }
        found.len += n;
        found
    }

    /// Appends blocks until the table covers `len` positions; whether there were enough (what was got stays).
    pub(super) fn grow(&mut self, table: &mut Table, len: usize) -> bool {
        while table.blocks.len() * KV_BLOCK < len {
            match self.take() {
                Some(id) => table.blocks.push(id),
                None => return false,
            }
        }
        true
    }

    /// Publishes the whole blocks among the first `tokens.len()` positions, which the store holds.
    pub(super) fn publish(&mut self, table: &mut Table, tokens: &[u32]) {
        while let Some(chunk) = tokens.get(table.published * KV_BLOCK..(table.published + 1) * KV_BLOCK) {
            self.publish_next(table, chunk);
        }
    }

    /// Gives up all blocks of a sequence. What they hold, `tokens`, stays known as long as there is room.
    pub(super) fn give_up(&mut self, mut table: Table, tokens: &[u32]) {
        self.publish(&mut table, tokens);
        let rest = &tokens[(table.published * KV_BLOCK).min(tokens.len())..];
        if !rest.is_empty() && table.published < table.blocks.len() {
            self.publish_next(&mut table, rest);
        }
        // The end becomes idle first, so that it is given away first.
        for id in table.blocks.into_iter().rev() {
            self.release(id);
        }
    }

    fn publish_next(&mut self, table: &mut Table, tokens: &[u32]) {
        let id = table.blocks[table.published];
        let parent = table.last;
        // Another sequence may have computed the same: that one stays known, this one is given up unnamed.
        let same = if tokens.len() == KV_BLOCK {
            self.whole_child(parent, tokens)
        } else {
            self.children.get(&parent).into_iter().flatten().copied().find(|id| self.tokens_of(*id).starts_with(tokens))
        };
        let serial = match same {
            Some(same) => self.serial_of(same),
            None => {
                self.serial += 1;
                let known = Known { serial: self.serial, parent, tokens: tokens.to_vec() };
                if tokens.len() == KV_BLOCK {
                    self.whole.insert((parent, self.hasher.hash_one(tokens)), id);
                }
                self.children.entry(parent).or_default().push(id);
                self.blocks[id as usize].known = Some(known);
                self.serial
            }
        };
        (table.last, table.published) = (serial, table.published + 1);
    }

    fn whole_child(&self, parent: Serial, tokens: &[u32]) -> Option<BlockId> {
        let id = *self.whole.get(&(parent, self.hasher.hash_one(tokens)))?;
        (self.tokens_of(id) == tokens).then_some(id)
    }

    fn tokens_of(&self, id: BlockId) -> &[u32] {
        self.blocks[id as usize].known.as_ref().map_or(&[], |k| &k.tokens)
    }

    fn serial_of(&self, id: BlockId) -> Serial {
        self.blocks[id as usize].known.as_ref().map_or(0, |k| k.serial)
    }

    /// One user more.
    fn hold(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.users == 0 {
            self.idle.remove(&block.idle_since);
        }
        block.users += 1;
    }

    /// One user less.
    fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        block.users -= 1;
        if block.users == 0 {
            if block.known.is_some() {
                self.clock += 1;
                block.idle_since = self.clock;
                self.idle.insert(self.clock, id);
            } else {
                self.free.push(id);
            }
        }
    }

    /// A block with one user whose contents nobody needs.
    fn take(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.blocks.len() < self.limit => {
                self.blocks.push(Block::default());
                self.blocks.len() as BlockId - 1
            }
            None => {
                let (_, id) = self.idle.pop_first()?;
                self.forget(id);
                id
            }
        };
        self.blocks[id as usize].users = 1;
        Some(id)
    }

    /// Unpublishes a block. Blocks published under it are found no more, and go when their time comes.
    fn forget(&mut self, id: BlockId) {
        let Some(known) = self.blocks[id as usize].known.take() else { return };
        if known.tokens.len() == KV_BLOCK {
            self.whole.remove(&(known.parent, self.hasher.hash_one(&known.tokens[..])));
        }
        if let Some(children) = self.children.get_mut(&known.parent) {
            children.retain(|&c| c != id);
            if children.is_empty() {
                self.children.remove(&known.parent);
            }
        }
    }
}

impl Table {
    fn push_known(&mut self, id: BlockId, serial: Serial) {
        self.blocks.push(id);
        (self.published, self.last) = (self.published + 1, serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of the store: what each block really holds, position by position.
    struct World {
        blocks: Blocks,
        store: Vec<Vec<u32>>, // (blocks, up to KV_BLOCK) hash of the prefix up to each position
        live: Vec<(Table, Vec<u32>)>,
    }

    /// A position's key depends on all tokens up to it.
    fn contents(tokens: &[u32]) -> Vec<u32> {
        tokens
            .iter()
            .scan(17u32, |h, t| {
                *h = h.wrapping_mul(31).wrapping_add(*t + 1);
                Some(*h)
            })
            .collect()
    }

    impl World {
        fn new(limit: usize) -> Self {
            Self { blocks: Blocks::new(limit), store: vec![vec![0; KV_BLOCK]; limit], live: Vec::new() }
        }

        /// Begins a sequence of `tokens`; how many positions it did not compute, `None`: no room.
        fn begin(&mut self, tokens: &[u32]) -> Option<usize> {
            let Found { mut table, len, copy } = self.blocks.find(tokens, false);
            if let Some((from, to)) = copy {
                self.store[to as usize] = self.store[from as usize].clone();
            }
            if !self.blocks.grow(&mut table, tokens.len()) {
                self.blocks.give_up(table, &tokens[..len]);
                return None;
            }
            self.live.push((table, tokens[..len].to_vec()));
            self.extend(self.live.len() - 1, &tokens[len..]);
            Some(len)
        }

        /// Computes more positions of a sequence that has the room.
        fn extend(&mut self, i: usize, more: &[u32]) {
            let (table, tokens) = &mut self.live[i];
            tokens.extend(more);
            for (at, value) in contents(tokens).into_iter().enumerate().skip(tokens.len() - more.len()) {
                self.store[table.blocks[at / KV_BLOCK] as usize][at % KV_BLOCK] = value;
            }
            self.blocks.publish(table, tokens);
        }

        fn end(&mut self, i: usize) {
            let (table, tokens) = self.live.swap_remove(i);
            self.blocks.give_up(table, &tokens);
        }

        /// Every sequence reads what it wrote; every block is accounted for once.
        fn check(&self) {
            for (table, tokens) in &self.live {
                for (at, want) in contents(tokens).into_iter().enumerate() {
                    assert_eq!(self.store[table.blocks[at / KV_BLOCK] as usize][at % KV_BLOCK], want, "position {at}");
                }
            }
            let b = &self.blocks;
            let mut users = vec![0; b.blocks.len()];
            self.live.iter().flat_map(|(t, _)| &t.blocks).for_each(|&id| users[id as usize] += 1);
            for (id, block) in b.blocks.iter().enumerate() {
                let id = id as BlockId;
                assert_eq!(block.users, users[id as usize], "users of {id}");
                let free = b.free.iter().filter(|&&f| f == id).count();
                let idle = b.idle.values().filter(|&&f| f == id).count();
                let known = usize::from(block.known.is_some());
                assert_eq!((free, idle), if block.users > 0 { (0, 0) } else { (1 - known, known) }, "place of {id}");
                let listed = b.children.values().flatten().filter(|&&c| c == id).count();
                assert_eq!(listed, known, "published once: {id}");
            }
            assert!(b.whole.len() <= b.blocks.len() && b.blocks.len() <= b.limit);
            let used = b.blocks.iter().filter(|b| b.users > 0).count();
            assert_eq!(b.available() + used, b.limit);
        }
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }
    }

    #[test]
    fn random_schedules_leak_nothing_and_never_mix_sequences() {
        for seed in 0..40 {
            let mut random = Random(seed);
            let mut world = World::new(1 + random.below(12));
            let limit = world.blocks.limit();
            for _ in 0..150 {
                match random.below(4) {
                    0 | 1 => {
                        // few distinct beginnings, so that they are shared
                        let (kind, len) = (random.below(3) as u32, 1 + random.below(3 * KV_BLOCK));
                        let turn = random.below(len);
                        let tokens: Vec<u32> = (0..len).map(|i| if i < turn { kind } else { kind + 5 }).collect();
                        let available = world.blocks.available();
                        if world.begin(&tokens).is_none() {
                            assert!(available < len.div_ceil(KV_BLOCK) + 1, "refused with {available} blocks to have");
                        }
                    }
                    2 if !world.live.is_empty() => {
                        let i = random.below(world.live.len());
                        let more: Vec<u32> = (0..random.below(200)).map(|_| random.below(3) as u32).collect();
                        let len = world.live[i].1.len() + more.len();
                        if world.blocks.grow(&mut world.live[i].0, len) {
                            world.extend(i, &more);
                        }
                    }
                    _ if !world.live.is_empty() => {
                        let i = random.below(world.live.len());
                        world.end(i);
                    }
                    _ => {}
                }
                world.check();
            }
            (0..world.live.len()).for_each(|_| world.end(0));
            world.check();
            assert_eq!(world.blocks.available(), limit);
        }
    }

    #[test]
    fn a_prefix_is_shared_by_blocks_and_copied_within_one() {
        let mut world = World::new(16);
        let a: Vec<u32> = (0..300).collect();
        assert_eq!(world.begin(&a), Some(0));
        // while the first still runs: its two whole blocks, nothing of the third, which is not published yet
        let b = [&a[..280], &[7, 7][..]].concat();
        assert_eq!(world.begin(&b), Some(256));
        assert_eq!(world.live[0].0.blocks[..2], world.live[1].0.blocks[..2]);
        world.end(0);
        // after it: every position that agrees
        assert_eq!(world.begin(&[&a[..290], &[9][..]].concat()), Some(290));
        world.check();
        // going on where it ended takes the block over
        (0..world.live.len()).for_each(|_| world.end(0));
        assert_eq!(world.begin(&[&b[..], &[1, 2, 3]].concat()), Some(282));
        assert_eq!(world.begin(&a[5..]), Some(0));
        world.check();
    }

    #[test]
    fn long_sequences_share_nothing_with_short_ones() {
        let mut blocks = Blocks::new(8);
        let tokens: Vec<u32> = (0..200).collect();
        for long in [true, false] {
            let mut found = blocks.find(&tokens, long);
            assert_eq!(found.len, 0);
            assert!(blocks.grow(&mut found.table, tokens.len()));
            blocks.give_up(found.table, &tokens);
            let again = blocks.find(&tokens, long);
            assert_eq!(again.len, 200);
            blocks.give_up(again.table, &tokens);
        }
    }

    #[test]
    fn the_end_of_what_was_unused_longest_goes_first() {
        let mut world = World::new(4);
        let (a, b): (Vec<u32>, Vec<u32>) = ((0..256).collect(), (1000..1256).collect());
        world.begin(&a);
        world.end(0);
        world.begin(&b);
        world.end(0);
        world.begin(&[5; 100]);
        assert_eq!(world.begin(&a), Some(128), "the end of the first made room");
        assert_eq!(world.begin(&b), None, "what is in use is not given away");
        world.check();
    }
}
