//! What a user of a [`Decoder`] has on its devices: keys and values, the buffers of a pass and its graphs.

use dreamseed_kernels::{
    KV_BLOCK, KvShape, KvType,
    cuda::{Buffer, Choice, Chosen, Communicator, Counters, Device, DeviceStore, Graph, Link, Quantized, Rows},
};

use super::{
    Decoder, Part,
    told::{Launch, Told},
};
use crate::{
    decoder::{Error, shards::vocab_rows},
    layers::rope::{Rotation, Table},
};

/// Rows of a launch that have graphs of their own.
pub(super) const BUCKETS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// Most rows of a launch.
pub(super) const ROWS: usize = BUCKETS[BUCKETS.len() - 1];
/// Most rows whose products are read from the weights one by one and whose contexts are shared by blocks of threads: more are products
/// of matrices, and rows of a sequence read its keys together.
pub(super) const FEW: usize = 8;
/// Most sequences of a launch.
pub(super) const SEQUENCES: usize = 64;
/// Most rows whose logits are computed together.
pub(super) const HEADS: usize = 32;
/// Blocks of threads that share a head's context, at most.
const SPLITS: usize = 64;

/// What a [`State`] has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks of [`KV_BLOCK`] positions.
    pub blocks: usize,
    /// How keys and values are stored.
    pub cache: KvType,
    /// Whether the launches of a pass are captured when it is first of its size, and replayed as one from then on.
    pub graphs: bool,
}

/// Keys and values of all sequences, the buffers of a pass and its graphs, with a stream of its own on each device. Only
/// [`Decoder::grow`] allocates on a device after it is made. Made by [`Decoder::state`].
pub struct State {
    pub(super) capacity: Capacity,
    pub(super) stages: Vec<Stage>,  // of each part
    pub(super) links: Vec<Link>,    // between neighbours that hold other layers
    pub(super) back: Vec<Link>,     // from the last of these to each before it
    pub(super) told: Told,          // what the devices know
    pub(super) launch: Launch,      // of a pass
    pub(super) pending: Vec<Row>,   // of a pass
    pub(super) logits: Vec<f32>,    // (rows wanted, vocab)
    pub(super) chosen: Vec<Chosen>, // (rows wanted)
    // of parts of every layer; `None` after a failure. It has to be dropped behind the graphs, which hold it
    pub(super) together: Option<Communicator>,
}

/// One row of a pass.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) slice: usize,
    pub(super) token: u32,
    pub(super) position: usize,
    pub(super) turn: usize,
    pub(super) wanted: bool,
}

/// What a part's device has for a state.
pub(super) struct Stage {
    pub(super) device: Device,
    pub(super) graphs: Option<Graphs>,
    pub(super) room: Room,
    pub(super) x: Buffer<f32>,        // (ROWS, dim) residual stream
    pub(super) h: Buffer<f32>,        // (ROWS, dim) normed
    pub(super) q: Buffer<f32>,        // (ROWS, heads, head_dim)
    pub(super) k: Buffer<f32>,        // (ROWS, kv_heads, head_dim)
    pub(super) v: Buffer<f32>,        // (ROWS, kv_heads, head_dim)
    pub(super) attended: Buffer<f32>, // (ROWS, heads, head_dim)
    pub(super) gate: Buffer<f32>,     // (ROWS, hidden)
    pub(super) codes: Codes,          // h, attended and gate in 8 bits
    pub(super) head: Option<HeadRoom>,
}

/// Buffers of the head.
pub(super) struct HeadRoom {
    pub(super) wanted: Buffer<i32>,     // (HEADS) rows whose logits are wanted
    pub(super) x: Buffer<f32>,          // (HEADS, dim) these rows of the residual stream
    pub(super) own: Option<OwnLogits>,  // where layers are cut
    pub(super) logits: Buffer<f32>,     // (HEADS, vocab)
    pub(super) choices: Buffer<Choice>, // (HEADS)
    pub(super) chosen: Buffer<Chosen>,  // (HEADS)
}

/// Logits of some rows of the head, before the others' are there too.
pub(super) struct OwnLogits {
    pub(super) logits: Buffer<f32>,   // (HEADS, columns)
    pub(super) gathered: Buffer<f32>, // (parts, HEADS, columns)
    pub(super) columns: usize,        // as many in each part, of the last one some are padding
}

/// Graphs of what is captured together, by its size.
#[derive(Default)]
pub(super) struct Graphs {
    pub(super) layers: [Option<Graph>; BUCKETS.len()],
    pub(super) head: [[Option<Graph>; 4]; BUCKETS.len()], // by `Ending`
}

/// What grows with the number of blocks.
pub(super) struct Room {
    pub(super) store: DeviceStore,
    pub(super) rows: Rows,
    pub(super) counters: Counters,
    pub(super) global: Turns, // rotation of all positions; behind them, that of long sequences where it is another one
    pub(super) local: Option<Turns>, // the same for local layers
}

/// Cosines and sines: (positions, dims / 2) each.
pub(super) type Turns = (Buffer<f32>, Buffer<f32>);

/// Activations in 8 bits, where their rows are a multiple of 32.
pub(super) struct Codes {
    pub(super) h: Option<Quantized>,
    pub(super) attended: Quantized,
    pub(super) gate: Option<Quantized>,
}

impl Decoder {
    /// Keys and values, and the buffers of a pass.
    ///
    /// # Errors
    /// [`Error::Device`]: no room, or keys and values of a kind that no kernel has.
    pub fn state(&self, capacity: Capacity) -> Result<State, Error> {
        let stages = self.parts.iter().map(|p| self.stage(p, capacity)).collect::<Result<Vec<_>, _>>()?;
        let pairs = stages.windows(2).filter(|_| !self.cut);
        let links = pairs.map(|s| Link::new(&s[0].device, &s[1].device)).collect::<Result<_, _>>()?;
        // parts of every layer choose the same tokens, each on its own device
        let back = match &stages[..] {
            [before @ .., last] if !self.cut => {
                before.iter().map(|s| Link::new(&last.device, &s.device)).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let mut state = State {
            capacity,
            stages,
            links,
            back,
            together: None,
            told: Told::new(capacity.blocks),
            launch: Launch::new(),
            pending: Vec::new(),
            logits: Vec::new(),
            chosen: Vec::new(),
        };
        self.connect(&mut state)?;
        Ok(state)
    }

    /// Connects the devices of parts of every layer, where they are not.
    pub(super) fn connect(&self, state: &mut State) -> Result<(), Error> {
        if self.cut && state.together.is_none() {
            let devices: Vec<Device> = state.stages.iter().map(|s| s.device.clone()).collect();
            state.together = Some(Communicator::new(&devices)?);
        }
        Ok(())
    }

    fn stage(&self, part: &Part, capacity: Capacity) -> Result<Stage, Error> {
        let config = &part.config;
        let (device, q_dim, kv_dim) = (part.device.fork()?, config.heads * config.head_dim, config.kv_dim());
        let zeros = |width: usize| device.zeros::<f32>(ROWS * width);
        let codes = |width: usize| width.is_multiple_of(32).then(|| Quantized::new(&device, ROWS, width)).transpose();
        let own = || -> Result<OwnLogits, Error> {
            let (parts, columns) = (self.parts.len(), vocab_rows(config.vocab, self.parts.len(), 0).len());
            let room = HEADS * columns;
            Ok(OwnLogits { logits: device.zeros(room)?, gathered: device.zeros(parts * room)?, columns })
        };
        let head = || -> Result<HeadRoom, Error> {
            Ok(HeadRoom {
                own: self.cut.then(own).transpose()?,
                wanted: device.zeros(HEADS)?,
                x: device.zeros(HEADS * config.dim)?,
                logits: device.zeros(HEADS * config.vocab)?,
                choices: device.zeros(HEADS)?,
                chosen: device.zeros(HEADS)?,
            })
        };
        Ok(Stage {
            graphs: capacity.graphs.then(Default::default),
            room: self.room(part, &device, capacity)?,
            x: zeros(config.dim)?,
            h: zeros(config.dim)?,
            q: zeros(q_dim)?,
            k: zeros(kv_dim)?,
            v: zeros(kv_dim)?,
            attended: zeros(q_dim)?,
            gate: zeros(config.hidden)?,
            codes: Codes {
                h: codes(config.dim)?,
                attended: Quantized::new(&device, ROWS, q_dim)?,
                gate: codes(config.hidden)?,
            },
            head: part.head.is_some().then(head).transpose()?,
            device,
        })
    }

    fn room(&self, part: &Part, device: &Device, Capacity { blocks, cache, .. }: Capacity) -> Result<Room, Error> {
        let shape = KvShape { layers: part.layers.len(), ..part.config.kv_shape(cache) };
        let positions = blocks.saturating_mul(KV_BLOCK);
        let splits = (2 * device.info().multiprocessors).div_ceil(shape.kv_heads).clamp(1, blocks.clamp(1, SPLITS));
        Ok(Room {
            store: DeviceStore::new(device, shape, blocks)?,
            rows: Rows::new(device, ROWS, SEQUENCES, blocks)?,
            counters: Counters::new(device, FEW, part.config.heads, &shape, splits)?,
            global: self.turns(device, &self.global, positions)?,
            local: self.config.local.is_some().then(|| self.turns(device, &self.local, positions)).transpose()?,
        })
    }

    /// Makes room for `blocks` blocks in all, where there are fewer; what they hold stays. Graphs are captured anew.
    ///
    /// # Errors
    /// [`Error::Device`] where the old and the new store do not fit beside each other; the state is as before then.
    pub fn grow(&self, state: &mut State, blocks: usize) -> Result<(), Error> {
        if blocks <= state.blocks() {
            return Ok(());
        }
        let capacity = Capacity { blocks, ..state.capacity };
        let grown = |(part, stage): (&Part, &Stage)| {
            let mut room = self.room(part, &stage.device, capacity)?;
            room.store.copy_from(&stage.room.store)?;
            Ok::<_, Error>(room)
        };
        let rooms = self.parts.iter().zip(&state.stages).map(grown).collect::<Result<Vec<_>, _>>()?;
        for (stage, room) in state.stages.iter_mut().zip(rooms) {
            stage.graphs = capacity.graphs.then(Default::default); // they know the old places
            stage.room = room;
        }
        state.capacity = capacity;
        state.told = Told::new(blocks);
        Ok(())
    }

    /// The angles of positions up to `positions`, and where the model has others for long sequences, those behind them.
    fn turns(&self, device: &Device, rotation: &Rotation, positions: usize) -> Result<Turns, Error> {
        let mut table = Table::default();
        rotation.within(0).append(0..positions, &mut table);
        if self.is_long(usize::MAX) {
            rotation.within(usize::MAX).append(0..positions, &mut table);
        }
        Ok((device.upload(&table.cos)?, device.upload(&table.sin)?))
    }
}

impl State {
    /// Ends what devices do together, after one of them failed: the others wait for it, and so would every call that waits for them.
    /// Graphs hold NCCL's members and go first; both are made anew for the next pass.
    pub(super) fn disconnect(&mut self) {
        let Some(together) = self.together.take() else { return };
        for graphs in self.stages.iter_mut().filter_map(|s| s.graphs.as_mut()) {
            *graphs = Graphs::default();
        }
        together.abort();
    }

    /// What it has room for.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Blocks of its store.
    pub fn blocks(&self) -> usize {
        self.capacity.blocks
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Errors
    /// [`Error::Device`] when one of them is not there.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<(), Error> {
        Ok(self.stages.iter_mut().try_for_each(|s| s.room.store.copy(from, to))?)
    }

    /// Launches over `rows` rows as they were captured, on all devices together: of the layers, and of the head over `wanted` of them.
    /// `None` before the first launches of these sizes.
    pub fn launches(&self, rows: usize, wanted: usize) -> Option<[usize; 2]> {
        let [rows, wanted] = [rows, wanted].map(|n| BUCKETS.iter().position(|&b| b >= n));
        let graphs = || self.stages.iter().map(|s| s.graphs.as_ref());
        let layers = graphs().map(|g| Some(g?.layers[rows?].as_ref()?.launches())).sum::<Option<usize>>()?;
        let head = graphs().next_back().flatten()?.head[wanted?].iter().flatten().next()?;
        Some([layers, head.launches()])
    }

    /// What the last [`Decoder::run`] gave: (rows wanted, vocab).
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// What the last [`Decoder::choose`] gave: one for each row that was wanted.
    pub fn chosen(&self) -> &[Chosen] {
        &self.chosen
    }
}
