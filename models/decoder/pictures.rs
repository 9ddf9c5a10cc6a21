//! Pictures among a sequence's tokens: rows of embeddings, what of them a pass takes, and at which positions they stand.

use std::{ops::Range, sync::Arc};

use dreamseed_kernels::{Span, add_in_place};

use super::{Config, Decoder, Error, Slice, Workspace};
use crate::layers::rope::{Frequencies, Table};

/// A picture as a decoder takes it: rows of embeddings in place of tokens, from the top left, row by row. Made by
/// [`crate::projector::Projector`].
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Rows and columns; their product is the number of embeddings.
    pub grid: [usize; 2],
    /// (grid, dim)
    pub rows: Vec<f32>,
    /// (levels, grid, dim): what is added to the residual stream after each of the first layers (DeepStack, Meng et al. 2024).
    pub deep: Vec<f32>,
}

impl Features {
    /// Number of embeddings: positions of the cache that it takes.
    pub fn len(&self) -> usize {
        self.grid[0].saturating_mul(self.grid[1])
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A picture's place in a sequence. The tokens that stand there are not read.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Its first row, counted from the beginning of the sequence.
    pub at: usize,
    /// What stands there.
    pub features: Arc<Features>,
}

impl Picture {
    /// One past its last row.
    pub fn end(&self) -> usize {
        self.at.saturating_add(self.features.len())
    }

    /// Rows that it takes without moving the positions on, where rows and columns are positions of their own.
    fn beside(&self) -> usize {
        self.features.len() - self.features.grid[0].max(self.features.grid[1])
    }
}

/// The most of `len` tokens after the first `past` that end inside of no picture; 0 where one begins there that is longer.
pub fn whole(pictures: &[Picture], past: usize, len: usize) -> usize {
    let end = past + len;
    pictures.iter().find(|p| p.at < end && end < p.end()).map_or(len, |p| p.at.saturating_sub(past))
}

/// Rows of a pass that are either tokens or of one picture; counted from the beginning of the sequence.
struct Piece<'a> {
    rows: Range<usize>,
    picture: Option<&'a Picture>,
}

impl Piece<'_> {
    /// Its part of rows of `width` that begin with the picture's first one.
    fn of<'f>(&self, picture: &Picture, rows: &'f [f32], width: usize) -> &'f [f32] {
        &rows[(self.rows.start - picture.at) * width..(self.rows.end - picture.at) * width]
    }
}

impl<'a> Slice<'a> {
    fn end(&self) -> usize {
        self.past + self.tokens.len()
    }

    /// Its rows in order.
    fn pieces(&self) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (mut at, end) = (self.past, self.end());
        let mut left = &self.pictures[self.pictures.partition_point(|p| p.end() <= at)..];
        std::iter::from_fn(move || {
            let (stop, picture) = match left.first() {
                Some(p) if p.at <= at => {
                    left = &left[1..];
                    (p.end().min(end), Some(p))
                }
                Some(p) => (p.at.min(end), None),
                None => (end, None),
            };
            let rows = at..stop;
            at = stop;
            (!rows.is_empty()).then_some(Piece { rows, picture })
        })
    }

    /// What sees what: all rows those before them, and where pictures are whole, each of its rows all of its own.
    pub(super) fn spans(&self, whole: bool) -> impl Iterator<Item = Span<'a>> + use<'a> {
        let blocks = self.blocks;
        let alone = (!whole || self.pictures.is_empty()).then(|| Piece { rows: self.past..self.end(), picture: None });
        let pieces = alone.is_none().then(|| self.pieces());
        alone.into_iter().chain(pieces.into_iter().flatten()).map(move |piece| Span {
            tokens: piece.rows.len(),
            len: piece.rows.end,
            blocks,
            causal: piece.picture.is_none(),
        })
    }
}

impl Decoder {
    /// What is wrong with the pictures of a slice, if anything.
    pub(super) fn check_pictures(&self, slice: &Slice) -> Result<(), Error> {
        let Config { dim, deepstack, whole_pictures, .. } = self.config;
        let (mut from, begins, end) = (0, slice.past, slice.end());
        for p in slice.pictures {
            let (n, f) = (p.features.len(), &p.features);
            let sizes = n.checked_mul(dim).and_then(|rows| Some((rows, rows.checked_mul(deepstack)?)));
            let problem = if n == 0 || sizes != Some((f.rows.len(), f.deep.len())) {
                let (rows, deep) = (f.rows.len(), f.deep.len());
                format!("{:?} of {rows} and {deep} numbers; this model takes {dim} and {deepstack} times {dim} a row", f.grid)
            } else if p.at < from {
                format!("begins before row {from}, where the picture before it ends")
            } else if whole_pictures && (p.at < begins && begins < p.end() || p.at < end && end < p.end()) {
                format!("is cut by a pass over {begins}..{end}, and its rows see each other: all of them go into one pass")
            } else {
                from = p.end();
                continue;
            };
            return Err(Error::Picture { at: p.at, problem });
        }
        let text = slice.pieces().filter(|p| p.picture.is_none());
        text.into_iter().try_for_each(|p| self.check(&slice.tokens[p.rows.start - slice.past..p.rows.end - slice.past]))
    }

    /// Embeddings of tokens and pictures.
    pub(super) fn embed_rows(&self, workspace: &mut Workspace, slices: &[Slice]) {
        let Config { dim, embedding_scale: scale, .. } = self.config;
        let mut left = &mut workspace.x[..];
        for slice in slices {
            for piece in slice.pieces() {
                let (x, rest) = std::mem::take(&mut left).split_at_mut(piece.rows.len() * dim);
                left = rest;
                if let Some(p) = piece.picture {
                    x.copy_from_slice(piece.of(p, &p.features.rows, dim)); // they come in the scale that the layers expect
                    continue;
                }
                for (&token, x) in slice.tokens[piece.rows.start - slice.past..].iter().zip(x.chunks_exact_mut(dim)) {
                    self.weights.embeddings.row(token as usize, x);
                    if scale != 1.0 {
                        x.iter_mut().for_each(|x| *x *= scale);
                    }
                }
            }
        }
    }

    /// Adds a level of the pictures' deep features to their rows.
    pub(super) fn add_deep(&self, workspace: &mut Workspace, slices: &[Slice], level: usize) {
        let (dim, mut row) = (self.config.dim, 0);
        for slice in slices {
            for piece in slice.pieces() {
                let rows = row * dim..(row + piece.rows.len()) * dim;
                row += piece.rows.len();
                if let Some(p) = piece.picture {
                    let deep = &p.features.deep[level * p.features.len() * dim..];
                    add_in_place(&mut workspace.x[rows], piece.of(p, deep, dim));
                }
            }
        }
    }

    /// Appends the rotations of a slice's rows. With sections, a picture's rows stand at the position where it begins, plus their row
    /// and column in the picture, and the text after it goes on behind the larger of the two (Qwen2-VL, Wang et al. 2024, 2.1).
    pub(super) fn append_positions(&self, slice: &Slice, frequencies: &Frequencies, table: &mut Table) {
        let Some(sections) = self.config.sections.filter(|_| !slice.pictures.is_empty()) else {
            return frequencies.append(slice.past..slice.end(), table);
        };
        let before = slice.pictures.iter().take_while(|p| p.end() <= slice.past);
        let mut beside: usize = before.map(Picture::beside).sum();
        for piece in slice.pieces() {
            let Some(p) = piece.picture else {
                frequencies.append(piece.rows.start - beside..piece.rows.end - beside, table);
                continue;
            };
            let (start, columns) = (p.at - beside, p.features.grid[1]);
            let rows = piece.rows.start - p.at..piece.rows.end - p.at;
            frequencies.append_sections(rows.map(|r| [start, start + r / columns, start + r % columns]), sections, table);
            beside += p.beside();
        }
    }
}
