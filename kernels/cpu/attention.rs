//! Attention: softmax(q k^T scale) v, blocked over the keys with a running softmax (flash attention).
//!
//! Keys are taken in chunks of 128 positions, each with its own maximum and sum; chunks are merged in order. One query
//! over a long context spreads its chunks over the threads, many queries spread over the threads themselves: both do the same
//! arithmetic, so a query's result depends neither on the threads nor on the queries beside it.

mod attend;
mod product;

use super::gemm_float::{Element, Pair};
use super::kv::{HeadLayout, KV_BLOCK, KvStore, KvType};
use super::vector::{LANES, Simd, Task, dispatch, dispatch_bf16};
use crate::Pool;
use crate::memory::with_scratch;
use crate::pool::Shareable;
use crate::simd::{self, Level};
use attend::Attend;
use half::{bf16, f16};
use std::marker::PhantomData;

/// Positions whose scores are held at once: a block of the paged store.
const CHUNK: usize = KV_BLOCK;
/// Largest head that is multiplied in bf16.
const MAX_PAIRED: usize = 256;
/// Query rows of a task.
const ROWS: usize = 24;

/// Attention over activations (encoders, cross attention). Strides are the elements between two tokens, so that slices of a
/// joined query-key-value product can be passed as they are.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the shapes above name the fields
pub struct Dense<'a> {
    /// (q_len, heads, head_dim), rows q_stride apart.
    pub q: &'a [f32],
    /// (kv_len, kv_heads, head_dim), rows kv_stride apart.
    pub k: &'a [f32],
    /// As `k`.
    pub v: &'a [f32],
    pub q_len: usize,
    pub kv_len: usize,
    pub q_stride: usize,
    pub kv_stride: usize,
    /// Query heads, a multiple of kv_heads.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// Query i then sees the keys up to i + kv_len - q_len.
    pub causal: bool,
}

/// The newest tokens of a sequence, whose keys and values the store holds already.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// How many; they stand at positions `len - tokens..len`.
    pub tokens: usize,
    /// Positions of the sequence, these among them.
    pub len: usize,
    /// The blocks of the store that hold the sequence, in order.
    pub blocks: &'a [u32],
    /// Whether a token sees those before it and itself alone; else those behind it in the span too (the rows of a picture).
    pub causal: bool,
}

/// Attention over one layer of a paged store.
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    /// Keys and values.
    pub store: &'a KvStore,
    /// Whose.
    pub layer: usize,
    /// Query heads, a multiple of the store's.
    pub heads: usize,
    /// Usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A token sees the last `window` positions, its own among them, and what is behind it where its span is not causal.
    pub window: Option<usize>,
}

/// Dense attention. `out`: (q_len, heads, head_dim), row-major.
///
/// # Panics
/// When the shapes do not fit.
pub fn attention_dense(pool: &Pool, a: &Dense, out: &mut [f32]) {
    attention_dense_at::<f32>(simd::level(), pool, a, out);
}

/// As [`attention_dense`], with both products in bf16 (queries, keys, weights and values rounded to 8 bits of mantissa, sums in f32)
/// where the processor has an instruction for them and head_dim is even and at most 256, in f32 elsewhere.
///
/// # Panics
/// When the shapes do not fit.
pub fn attention_dense_bf16(pool: &Pool, a: &Dense, out: &mut [f32]) {
    let level = simd::level();
    if simd::bf16(level) && a.head_dim.is_multiple_of(2) && a.head_dim <= MAX_PAIRED {
        attention_dense_at::<Pair>(level, pool, a, out);
    } else {
        attention_dense_at::<f32>(level, pool, a, out);
    }
}

/// How dense keys and values are packed as elements of a type.
trait Packed: Element + Default + Send {
    fn pack(a: &Dense, h: usize, first: usize, keys: &mut [Self], values: &mut [Self]);
}

fn attention_dense_at<E: Packed>(level: Level, pool: &Pool, a: &Dense, out: &mut [f32]) {
    let (hd, padded) = (a.head_dim, a.head_dim.next_multiple_of(LANES));
    assert!(hd > 0 && a.kv_heads > 0 && a.heads.is_multiple_of(a.kv_heads), "{} query heads over {}", a.heads, a.kv_heads);
    assert_eq!(out.len(), a.q_len * a.heads * hd, "the output of {} queries of {} heads of {hd}", a.q_len, a.heads);
    let spans =
        |len: usize, stride: usize, row: usize, held: usize| len == 0 || (stride >= row && (len - 1) * stride + row <= held);
    let held = a.k.len().min(a.v.len());
    assert!(spans(a.q_len, a.q_stride, a.heads * hd, a.q.len()), "{} queries in {} elements", a.q_len, a.q.len());
    assert!(spans(a.kv_len, a.kv_stride, a.kv_heads * hd, held), "{} keys in {held} elements", a.kv_len);
    assert!(!a.causal || a.q_len <= a.kv_len, "{} causal queries of {} keys", a.q_len, a.kv_len);
    assert!(!E::PAIRED || hd.is_multiple_of(2) && hd <= MAX_PAIRED, "heads of {hd} in pairs");
    let positions = a.kv_len.next_multiple_of(LANES);
    let (key, value) = (positions * hd, positions * padded);
    with_scratch(a.kv_heads * (key + value) * size_of::<E>(), |scratch| {
        let base = Shareable::new(scratch.cast::<E>());
        pool.for_each(a.kv_heads * positions / LANES, |i| {
            let (h, first) = (i / (positions / LANES), i % (positions / LANES) * LANES);
            // SAFETY: scratch holds the packed heads; each task writes its own 16 positions.
            let (keys, values) = unsafe {
                let head = base.get().add(h * (key + value));
                let keys = std::slice::from_raw_parts_mut(head.add(first * hd), LANES * hd);
                (keys, std::slice::from_raw_parts_mut(head.add(key + first * padded), LANES * padded))
            };
            E::pack(a, h, first, keys, values);
        });
        let heads: Vec<_> = (0..a.kv_heads)
            .map(|h| Head {
                q: a.q.as_ptr().wrapping_add(h * a.heads / a.kv_heads * hd),
                q_stride: a.q_stride,
                out: out.as_mut_ptr().wrapping_add(h * a.heads / a.kv_heads * hd),
                out_stride: a.heads * hd,
                source: Source::Dense {
                    keys: base.get().wrapping_add(h * (key + value)).cast(),
                    values: base.get().wrapping_add(h * (key + value) + key).cast(),
                },
                group: a.heads / a.kv_heads,
                head_dim: hd,
                tokens: a.q_len,
                len: a.kv_len,
                causal: a.causal,
                window: usize::MAX,
                scale: a.scale,
            })
            .collect();
        run::<E>(level, pool, &mut AttentionPlan { heads, ..AttentionPlan::default() });
    });
}

impl Packed for f32 {
    /// Packs 16 positions from `first` on of head `h`: keys as a panel (head_dim, 16), values as rows.
    fn pack(a: &Dense, h: usize, first: usize, keys: &mut [f32], values: &mut [f32]) {
        let (hd, padded) = (a.head_dim, a.head_dim.next_multiple_of(LANES));
        keys.fill(0.0);
        values.fill(0.0);
        for p in 0..LANES.min(a.kv_len - first) {
            let from = (first + p) * a.kv_stride + h * hd;
            for (i, &k) in a.k[from..from + hd].iter().enumerate() {
                keys[i * LANES + p] = k;
            }
            values[p * padded..][..hd].copy_from_slice(&a.v[from..from + hd]);
        }
    }
}

impl Packed for Pair {
    /// Packs 16 positions: keys as a panel (head_dim / 2, 16, 2), values as pairs of positions (8, padded, 2).
    fn pack(a: &Dense, h: usize, first: usize, keys: &mut [Pair], values: &mut [Pair]) {
        dispatch_bf16(simd::level(), PackPairs { a, h, first, keys, values });
    }
}

struct PackPairs<'a> {
    a: &'a Dense<'a>,
    h: usize,
    first: usize,
    keys: &'a mut [Pair],
    values: &'a mut [Pair],
}

impl Task for PackPairs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, h, first, keys, values } = self;
        let (hd, padded) = (a.head_dim, a.head_dim.next_multiple_of(LANES));
        let count = LANES.min(a.kv_len - first);
        // Two rows at a time; what is missing at the end counts as zeros.
        let mut rows = [[bf16::ZERO; MAX_PAIRED]; 2];
        for p in (0..LANES).step_by(2) {
            for (half, row) in rows.iter_mut().enumerate() {
                // SAFETY: the caller has the features of S; `row` is as long as a padded head.
                unsafe { narrow_row::<S>(row_of(a.k, a, (first + p + half, h), p + half < count), row) };
            }
            for i in 0..hd / 2 {
                for (half, row) in rows.iter().enumerate() {
                    let to = (i * LANES + p + half) * 2;
                    (keys[to], keys[to + 1]) = (Pair(row[2 * i]), Pair(row[2 * i + 1]));
                }
            }
            for (half, row) in rows.iter_mut().enumerate() {
                // SAFETY: as above.
                unsafe { narrow_row::<S>(row_of(a.v, a, (first + p + half, h), p + half < count), row) };
            }
            let to = values[p * padded..][..2 * padded].as_chunks_mut::<2>().0;
            for (i, to) in to.iter_mut().enumerate() {
                *to = [Pair(rows[0][i]), Pair(rows[1][i])];
            }
        }
    }
}

/// The elements of head `h` at `position`; none where there is no such position.
fn row_of<'a>(from: &'a [f32], a: &Dense, (position, h): (usize, usize), there: bool) -> &'a [f32] {
    if there { &from[position * a.kv_stride + h * a.head_dim..][..a.head_dim] } else { &[] }
}

/// A row as bf16, zeros after its end.
#[inline(always)]
unsafe fn narrow_row<S: Simd>(row: &[f32], out: &mut [bf16; MAX_PAIRED]) {
    for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
        let rest = row.len().saturating_sub(i * LANES).min(LANES);
        // SAFETY: `rest` elements are left of the row, `out` has 16.
        unsafe { S::store_bf16(out.as_mut_ptr(), S::load_part(row.as_ptr().wrapping_add(i * LANES), rest, 0.0)) };
        if rest < LANES {
            out[rest..].fill(bf16::ZERO);
        }
    }
}

/// The tasks of one attention, kept from call to call so that a step allocates nothing.
#[derive(Default)]
pub struct AttentionPlan {
    heads: Vec<Head>,
    units: Vec<Unit>,
    merges: Vec<(usize, usize)>, // (head, place of its first partial result)
}

/// Attention over a paged store, of one sequence or several, with grouped queries: prefill and decode. `q` and `out`: (tokens
/// of all spans, heads, head_dim), one span after the other.
///
/// # Panics
/// When the shapes do not fit, or a table ends before its span.
pub fn attention_paged<'s>(
    pool: &Pool,
    plan: &mut AttentionPlan,
    a: Paged,
    spans: impl Iterator<Item = Span<'s>>,
    (q, out): (&[f32], &mut [f32]),
) {
    attention_paged_at(simd::level(), pool, plan, a, spans, (q, out));
}

pub(crate) fn attention_paged_at<'s>(
    level: Level,
    pool: &Pool,
    plan: &mut AttentionPlan,
    a: Paged,
    spans: impl Iterator<Item = Span<'s>>,
    (q, out): (&[f32], &mut [f32]),
) {
    let shape = *a.store.shape();
    let (hd, kv_heads, layout) = (shape.head_dim, shape.kv_heads, shape.layout());
    let (row, group) = (a.heads * hd, a.heads / kv_heads.max(1));
    assert!(row > 0 && a.heads == group * kv_heads && a.layer < shape.layers, "{} query heads over {shape:?}", a.heads);
    assert_eq!(q.len(), out.len(), "queries and outputs");
    plan.heads.clear();
    let mut from = 0;
    for span in spans {
        let Span { tokens, len, blocks, causal } = span;
        assert!(tokens <= len && (from + tokens) * row <= q.len(), "{span:?} at token {from} of {}", q.len() / row);
        let held = blocks.iter().take(len.div_ceil(KV_BLOCK)).filter(|b| (**b as usize) < a.store.blocks()).count();
        assert_eq!(held, len.div_ceil(KV_BLOCK), "usable blocks of {span:?}");
        plan.heads.extend((0..kv_heads).map(|h| {
            let at = from * row + h * group * hd;
            Head {
                q: q.as_ptr().wrapping_add(at),
                q_stride: row,
                out: out.as_mut_ptr().wrapping_add(at),
                out_stride: row,
                source: Source::Paged {
                    store: a.store,
                    table: blocks.as_ptr(),
                    offset: a.store.head_offset(a.layer, h),
                    layout,
                },
                group,
                head_dim: hd,
                tokens,
                len,
                causal,
                window: a.window.unwrap_or(usize::MAX),
                scale: a.scale,
            }
        }));
        from += tokens;
    }
    assert_eq!(from * row, q.len(), "the tokens of all spans");
    match shape.kind {
        KvType::F32 => run::<f32>(level, pool, plan),
        KvType::F16 => run::<f16>(level, pool, plan),
        KvType::Q8_0 => run::<i8>(level, pool, plan),
    }
    plan.heads.clear();
}

/// One key-value head and the query heads that share it. Row i is token i / group, query head i % group.
#[derive(Clone, Copy)]
struct Head {
    q: *const f32,
    q_stride: usize,
    out: *mut f32,
    out_stride: usize,
    source: Source,
    group: usize,
    head_dim: usize,
    tokens: usize,
    len: usize,
    causal: bool,
    window: usize,
    scale: f32,
}

/// Where keys and values lie.
#[derive(Clone, Copy)]
enum Source {
    /// All positions one after the other: keys (len / 16 rounded up, head_dim, 16), values (len rounded up to 16, padded); in pairs
    /// (len / 16 rounded up, head_dim / 2, 16, 2) and (len rounded up to 16 / 2, padded, 2).
    Dense { keys: *const u8, values: *const u8 },
    /// Chunk i in block table[i], `offset` bytes from its start.
    Paged { store: *const KvStore, table: *const u32, offset: usize, layout: HeadLayout },
}

/// Keys and values of one chunk; the scales are null where elements have none.
struct Chunk<E> {
    keys: *const E,           // (panels, head_dim, 16)
    key_scales: *const f16,   // (panels, subs, 16)
    values: *const E,         // (positions, padded)
    value_scales: *const f16, // (subs, 128)
}

// SAFETY: tasks write disjoint rows of `out`; who builds a Head vouches for its pointers while the region runs. Between calls a plan
// holds no heads.
unsafe impl Sync for Head {}
// SAFETY: as above.
unsafe impl Send for Head {}

impl Head {
    fn rows(&self) -> usize {
        self.tokens * self.group
    }

    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// The keys that row i sees: first, one past the last.
    #[inline(always)]
    fn seen(&self, row: usize) -> (usize, usize) {
        let own = (self.len.saturating_sub(self.tokens) + row / self.group).min(self.len - 1);
        ((own + 1).saturating_sub(self.window), if self.causal { own + 1 } else { self.len })
    }

    /// The chunks that rows row..row + rows see.
    fn chunks(&self, row: usize, rows: usize) -> std::ops::Range<usize> {
        self.seen(row).0 / CHUNK..self.seen(row + rows - 1).1.div_ceil(CHUNK)
    }

    /// Whether the chunks of its rows (one block of them) are worth spreading over the threads.
    fn spread(&self) -> bool {
        let rows = self.rows();
        (1..=ROWS).contains(&rows) && self.chunks(0, rows).len() > 1
    }

    /// Floats of the partial result of a chunk: sums, then maximum and sum of each row.
    fn partial(&self) -> usize {
        ROWS * (self.padded() + 2)
    }

    /// Floats of scratch of a task: queries, scores, scaled scores, a partial result and a running one.
    fn scratch(&self) -> usize {
        ROWS * (self.padded() + 2 * CHUNK) + 2 * self.partial()
    }

    /// Where chunk `i` lies.
    ///
    /// # Safety
    /// The head has that chunk, in elements of type `E`.
    #[inline(always)]
    unsafe fn chunk<E>(&self, i: usize) -> Chunk<E> {
        match self.source {
            Source::Dense { keys, values } => Chunk {
                keys: keys.cast::<E>().wrapping_add(i * CHUNK * self.head_dim),
                key_scales: std::ptr::null(),
                values: values.cast::<E>().wrapping_add(i * CHUNK * self.padded()),
                value_scales: std::ptr::null(),
            },
            Source::Paged { store, table, offset, layout } => {
                // SAFETY: the store and the table are borrowed while the region runs, and the table covers the head's positions.
                let head = unsafe { (*store).block(*table.add(i)).as_ptr().add(offset) };
                Chunk {
                    keys: head.cast(),
                    key_scales: head.wrapping_add(layout.key_scales).cast(),
                    values: head.wrapping_add(layout.values).cast(),
                    value_scales: head.wrapping_add(layout.value_scales).cast(),
                }
            }
        }
    }
}

/// A task of [`run`].
struct Unit {
    head: usize,
    row: usize,
    chunk: Option<(usize, usize)>, // (chunk, its place among the partial results)
}

/// All heads of the plan: blocks of rows, or for few rows chunks of keys and a second region that merges them.
fn run<E: Element>(level: Level, pool: &Pool, plan: &mut AttentionPlan) {
    let AttentionPlan { heads, units, merges } = plan;
    units.clear();
    merges.clear();
    let (mut scratch, mut size, mut partials) = (0, 0, 0);
    for (head, h) in heads.iter().enumerate() {
        (scratch, size) = (h.scratch().max(scratch), h.partial().max(size));
        if h.spread() {
            merges.push((head, partials));
            for chunk in h.chunks(0, h.rows()) {
                units.push(Unit { head, row: 0, chunk: Some((chunk, partials)) });
                partials += 1;
            }
        } else {
            // The last rows see the most keys: they go first.
            units.extend((0..h.rows()).step_by(ROWS).rev().map(|row| Unit { head, row, chunk: None }));
        }
    }
    // Room for twice as many when it grows, so that a text that gets longer allocates seldom.
    with_scratch(partials.next_power_of_two() * size * size_of::<f32>(), |stored| {
        let stored = Shareable::new(stored.cast::<f32>());
        let task = |head: usize, row: usize, stage: Stage, next: *const u8| {
            let head = &heads[head];
            with_scratch(scratch * size_of::<f32>(), |scratch| {
                let rows = ROWS.min(head.rows() - row);
                let scratch = scratch.cast();
                let task = Attend { head, row, rows, stage, next, scratch, element: PhantomData::<E> };
                if E::PAIRED { dispatch_bf16(level, task) } else { dispatch(level, task) }
            });
        };
        pool.for_each(units.len(), |i| {
            let unit = &units[i];
            let stage = match unit.chunk {
                Some((chunk, place)) => Stage::Chunk(chunk, stored.get().wrapping_add(place * size)),
                None => Stage::Whole,
            };
            // A thread's tasks follow each other: it can ask for the next one's keys.
            let next = units.get(i + 1).map_or(std::ptr::null(), |next| {
                let head = &heads[next.head];
                let chunk = next.chunk.map_or_else(|| head.chunks(next.row, 1).start, |(chunk, _)| chunk);
                // SAFETY: the unit was made from a chunk that the head has.
                unsafe { head.chunk::<E>(chunk) }.keys.cast()
            });
            task(unit.head, unit.row, stage, next);
        });
        pool.for_each(merges.len(), |i| {
            let (head, place) = merges[i];
            task(head, 0, Stage::Merge(stored.get().wrapping_add(place * size), size), std::ptr::null());
        });
    });
}

/// What a task does with its rows.
enum Stage {
    /// All chunks, one after the other.
    Whole,
    /// One chunk, stored as a partial result.
    Chunk(usize, *mut f32),
    /// Merges the partial results of all chunks: the first, and the floats between two.
    Merge(*const f32, usize),
}

#[cfg(test)]
mod tests;
