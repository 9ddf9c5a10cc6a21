//! Vision transformers: patches of a picture, their places, and the layers over them (Dosovitskiy et al. 2021).

use dreamseed_kernels::{Activation, Pool};

use super::encoder::{self, Encoder, Linear, State, Turn};
use super::load::{Loader, Part};
use super::resample::{self, Filter};
use crate::decoder::Place;
use crate::weights::{Error, Result};

/// Largest side of a patch, most patches a side of the position table, most registers that are believed.
const MAX_PATCH: usize = 256;
const MAX_GRID: usize = 1024;
const MAX_REGISTERS: usize = 1024;

/// Shapes of a vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Values of a pixel: 3.
    pub channels: usize,
    /// The layers.
    pub encoder: encoder::Config,
    /// A class token stands before the patches.
    pub cls: bool,
    /// Register tokens between the class token and the patches (Darcet et al. 2024).
    pub registers: usize,
    /// What is added to patches for their place.
    pub positions: Positions,
    /// How the patch embedding lies in the file.
    pub layout: Layout,
}

/// What is added to patches for their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Nothing (rotary embeddings come with each pass).
    None,
    /// A learned table.
    Learned {
        /// Patches it was trained for, (down, across).
        grid: [usize; 2],
        /// A first row is the class token's place.
        first: First,
        /// For other grids.
        filter: Filter,
    },
}

/// The row before those of the patches in a table of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// There is none.
    None,
    /// The class token's.
    Class,
    /// Added to every patch (ViTPose).
    All,
}

/// How the patch embedding lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A convolution: (width, channels, patch, patch).
    Convolution,
    /// A linear layer over (patch, patch, channels).
    Pixels,
}

/// How the file calls what is not in the layers; `.weight` and `.bias` are added to `patch` and `norm`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Patch embedding.
    pub patch: &'a str,
    /// Table of places, its whole name.
    pub positions: &'a str,
    /// Class token, its whole name.
    pub cls: &'a str,
    /// Register tokens, their whole name.
    pub registers: &'a str,
    /// Norm after the layers.
    pub norm: &'a str,
}

/// A vision transformer: immutable, any number of passes may run on it at once.
pub struct Vit<P: Place = Pool> {
    config: Config,
    pub(super) embed: Linear<P>, // (width, channels * patch * patch), channels outermost
    places: Vec<f32>,            // (grid, width)
    pub(super) before: Vec<f32>, // (cls + registers, width): the class token with its place, the registers
    pub(super) encoder: Encoder<P>,
}

impl Config {
    /// Names the first field that no model has.
    ///
    /// # Errors
    /// The field, what it is and what is allowed.
    pub fn check(&self) -> std::result::Result<(), String> {
        self.encoder.check()?;
        let [down, across] = match self.positions {
            Positions::Learned { grid, .. } => grid,
            Positions::None => [1, 1],
        };
        for (name, value, least, most) in [
            ("patch_size", self.patch, 1, MAX_PATCH),
            ("num_channels", self.channels, 1, 16),
            ("num_register_tokens", self.registers, 0, MAX_REGISTERS),
            ("image_size / patch_size", down, 1, MAX_GRID),
            ("image_size / patch_size", across, 1, MAX_GRID),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value}: {least} to {most} is allowed"));
            }
        }
        Ok(())
    }

    /// Values of a patch.
    pub fn patch_len(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

impl<P: Place> Vit<P> {
    /// Reads and packs the weights. `part(i, part)` is what the file calls a part of layer i.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a config that no model has; [`Error::Tensor`] by name for what is missing or has another shape.
    pub fn load(
        loader: &Loader<P>,
        config: Config,
        names: Names,
        part: &(dyn Fn(usize, Part) -> String + Sync),
    ) -> Result<Self> {
        config.check().map_err(Error::Unsupported)?;
        let d = config.encoder.width;
        let (places, first) = table(loader, &config, names.positions)?;
        let mut before = Vec::new();
        if config.cls {
            before.extend(loader.floats(names.cls, &[1, 1, d])?);
            before.iter_mut().zip(&first).for_each(|(x, p)| *x += p);
        }
        if config.registers > 0 {
            before.extend(loader.floats(names.registers, &[1, config.registers, d])?);
        }
        let embed = embedding(loader, &config, names.patch)?;
        let encoder = loader.encoder(config.encoder.clone(), part, names.norm)?;
        Ok(Self { config, embed, places, before, encoder })
    }

    /// Its shapes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The layers.
    pub fn encoder(&self) -> &Encoder<P> {
        &self.encoder
    }

    /// Tokens before those of the patches.
    pub fn first_patch(&self) -> usize {
        self.before.len() / self.config.encoder.width
    }

    /// What is added to the patches of a grid (down, across): (down * across, width); empty where nothing is. To be made once a
    /// grid.
    pub fn places(&self, to: [usize; 2]) -> Vec<f32> {
        match self.config.positions {
            Positions::None => Vec::new(),
            Positions::Learned { grid, .. } if grid == to => self.places.clone(),
            Positions::Learned { grid, filter, .. } => resample::grid(&self.places, grid, to, filter),
        }
    }
}

impl Vit {
    /// Tokens of patches, before the layers: into `state.x`, (first_patch + n, width). `patches`: (n, channels * patch * patch),
    /// channels outermost; `places`: (n, width) or empty.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn embed(&self, pool: &Pool, patches: &[f32], places: &[f32], state: &mut State) {
        let (d, n) = (self.config.encoder.width, patches.len() / self.config.patch_len());
        assert!(places.is_empty() || places.len() == n * d, "{} values of places for {n} patches of width {d}", places.len());
        state.x.resize(self.before.len() + n * d, 0.0);
        let (before, x) = state.x.split_at_mut(self.before.len());
        before.copy_from_slice(&self.before);
        match places.is_empty() {
            true => self.embed.apply(pool, patches, Activation::None, x),
            false => {
                x.copy_from_slice(places);
                self.embed.add(pool, patches, x);
            }
        }
    }

    /// The hidden states after the last norm: `state.x`, (first_patch + n, width). Arguments as of [`Vit::embed`]; `turn` where the
    /// model has rotary embeddings, for all tokens.
    pub fn forward(&self, pool: &Pool, patches: &[f32], places: &[f32], turn: Option<Turn>, state: &mut State) {
        self.embed(pool, patches, places, state);
        self.encoder.forward(pool, turn, state);
    }
}

/// The table of places of the patches, and the class token's.
fn table<P: Place>(loader: &Loader<P>, config: &Config, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
    let d = config.encoder.width;
    let Positions::Learned { grid: [down, across], first, .. } = config.positions else { return Ok((Vec::new(), Vec::new())) };
    if first == First::None {
        return Ok((loader.floats(name, &[down * across, d])?, Vec::new()));
    }
    let mut rows = loader.floats(name, &[1, 1 + down * across, d])?;
    let mut places = rows.split_off(d);
    if first == First::All {
        places.chunks_exact_mut(d).for_each(|place| place.iter_mut().zip(&rows).for_each(|(p, r)| *p += r));
        rows.clear();
    }
    Ok((places, rows))
}

/// The patch embedding over patches with channels outermost.
fn embedding<P: Place>(loader: &Loader<P>, config: &Config, name: &str) -> Result<Linear<P>> {
    let (d, c, area) = (config.encoder.width, config.channels, config.patch * config.patch);
    if config.layout == Layout::Convolution {
        return loader.reshaped(name, d, &[d, c, config.patch, config.patch]);
    }
    let weight = format!("{name}.weight");
    let w = loader.floats(&weight, &[d, area * c])?;
    let turned: Vec<f32> = (0..w.len()).map(|i| w[i / (area * c) * area * c + i % area * c + i / area % c]).collect();
    let b = Some(loader.place.vector(loader.floats(&format!("{name}.bias"), &[d])?)?);
    Ok(Linear { w: loader.matrix(&weight, d, area * c, &turned)?, b })
}
