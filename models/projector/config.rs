//! What a file of vision tower and projector says of itself.

use dreamseed_kernels::Activation;

use crate::weights::{Error, Result, gguf::Gguf};

/// How the tower's output becomes a decoder's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Gemma 3: SigLIP over a square of one size; averages of patches, RMS norm, one matrix.
    Gemma3,
    /// Qwen3-VL: patches of any picture with rotary positions; squares of patches side by side, two matrices; features of inner layers
    /// too.
    Qwen3Vl,
}

impl Kind {
    const NAMES: [(&'static str, Self); 2] = [("gemma3", Self::Gemma3), ("qwen3vl_merger", Self::Qwen3Vl)];
}

/// Shape and kind of a tower and its projector.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Kind.
    pub kind: Kind,
    /// Side of the pictures that the positions are learnt for, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Width of the tower.
    pub dim: usize,
    /// Width of its feed-forward networks.
    pub hidden: usize,
    /// Its layers.
    pub layers: usize,
    /// Heads of its attention.
    pub heads: usize,
    /// Added to the variance in each norm.
    pub eps: f32,
    /// Of the tower's feed-forward networks.
    pub activation: Activation,
    /// Patches of an embedding, each way.
    pub merge: usize,
    /// Width of the decoder.
    pub out: usize,
    /// Layers whose output is projected too, in order.
    pub deepstack: Vec<usize>,
    /// Subtracted from red, green and blue in 0..1, before the division by `std`.
    pub mean: [f32; 3],
    /// See `mean`.
    pub std: [f32; 3],
    /// Fewest and most pixels that a picture of no fixed size is scaled to.
    pub pixels: [usize; 2],
}

/// Largest size of any kind that is believed: above every published tower, and products of three stay far below 2^64.
const MAX_SIZE: usize = 1 << 17;
/// Most layers that are believed.
const MAX_LAYERS: usize = 1 << 10;
/// Qwen3-VL's own bounds (its preprocessor_config.json), in pixels: 64 and 16,384 embeddings.
const QWEN_PIXELS: [usize; 2] = [1 << 16, MAX_PIXELS];
/// Most pixels that a file may ask for: memory grows with them, and the time of the tower's attention with their square.
const MAX_PIXELS: usize = 1 << 24;

impl Config {
    /// From the metadata of an mmproj file, as llama.cpp's converter writes them.
    ///
    /// # Errors
    /// [`Error::Field`] for missing or impossible values, [`Error::Unsupported`] for projectors that this version does not run.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        match gguf.str("general.architecture")? {
            Some("clip") => {}
            other => {
                let seen = other.unwrap_or("nothing");
                let problem = format!("the architecture is \"{seen}\", not \"clip\": this is no file of a projector (mmproj)");
                return Err(Error::Unsupported(problem));
            }
        }
        let kind = kind(gguf)?;
        let size = |name: &str| size(gguf, name);
        let [image_size, patch, dim] = [size("image_size")?, size("patch_size")?, size("embedding_length")?];
        let layers = size("block_count")?;
        let (merge, deepstack) = match kind {
            Kind::Gemma3 => (optional(gguf, "projector.scale_factor")?.unwrap_or(4), Vec::new()),
            Kind::Qwen3Vl => (optional(gguf, "spatial_merge_size")?.unwrap_or(2), deepstack(gguf, layers)?),
        };
        let bounds = [optional(gguf, "image_min_pixels")?, optional(gguf, "image_max_pixels")?];
        let config = Self {
            kind,
            image_size,
            patch,
            dim,
            hidden: size("feed_forward_length")?,
            layers,
            heads: size("attention.head_count")?,
            eps: gguf.f64("clip.vision.attention.layer_norm_epsilon")?.unwrap_or(1e-6) as f32,
            activation: activation(gguf)?,
            merge,
            out: size("projection_dim")?,
            deepstack,
            mean: colours(gguf, "image_mean")?,
            std: colours(gguf, "image_std")?,
            pixels: [bounds[0].unwrap_or(QWEN_PIXELS[0]), bounds[1].unwrap_or(QWEN_PIXELS[1])],
        };
        match config.problem() {
            Some((field, problem)) => Err(error(gguf, field, problem)),
            None => config.vit().check().map(|()| config).map_err(|problem| gguf.field_error("clip.vision", problem)),
        }
    }

    /// Patches on a side of the square that the positions are learnt for.
    pub fn side(&self) -> usize {
        self.image_size / self.patch
    }

    /// Pixels that a row or column of embeddings stands for.
    pub fn cell(&self) -> usize {
        self.patch * self.merge
    }

    /// What is wrong with the numbers, if anything.
    fn problem(&self) -> Option<(&'static str, String)> {
        let Self { image_size, patch, dim, heads, layers, merge, .. } = *self;
        if layers > MAX_LAYERS {
            return Some(("block_count", format!("{layers}; at most {MAX_LAYERS} are allowed")));
        }
        if merge > 16
            || image_size * image_size > MAX_PIXELS
            || !image_size.is_multiple_of(patch)
            || self.kind == Kind::Gemma3 && !self.side().is_multiple_of(merge)
        {
            let rule = "sides of whole patches, up to 4096 pixels, and up to 16 x 16 merged";
            return Some(("image_size", format!("{image_size} in patches of {patch}, {merge} x {merge} merged; {rule}")));
        }
        if !dim.is_multiple_of(heads) || self.kind == Kind::Qwen3Vl && !(dim / heads).is_multiple_of(4) {
            let rule = "heads divide the width; where patches turn, into multiples of 4";
            return Some(("attention.head_count", format!("{heads} heads of a width of {dim}: {rule}")));
        }
        if !(self.eps >= 0.0 && self.eps < 1.0) {
            return Some(("attention.layer_norm_epsilon", format!("{}; 0 to 1 is allowed", self.eps)));
        }
        if self.std.iter().any(|s| *s <= 0.0) {
            return Some(("image_std", format!("{:?}; positive numbers are needed", self.std)));
        }
        let ([least, most], cell) = (self.pixels, self.cell() * self.cell());
        if least > most || most < cell || most > MAX_PIXELS {
            let problem = format!("{least} to {most} pixels; from {cell}, one embedding, to {MAX_PIXELS} is allowed");
            return Some(("image_max_pixels", problem));
        }
        None
    }
}

fn error(gguf: &Gguf, name: &str, problem: impl Into<String>) -> Error {
    gguf.field_error(&format!("clip.vision.{name}"), problem)
}

fn kind(gguf: &Gguf) -> Result<Kind> {
    let name = gguf.str("clip.vision.projector_type")?.or(gguf.str("clip.projector_type")?);
    let name = name.ok_or_else(|| gguf.field_error("clip.projector_type", "is missing"))?;
    let found = Kind::NAMES.iter().find(|(n, _)| *n == name);
    found.map(|f| f.1).ok_or_else(|| {
        let runs = "gemma3 and qwen3vl_merger";
        Error::Unsupported(format!("the projector is \"{name}\"; this version runs {runs}"))
    })
}

fn optional(gguf: &Gguf, name: &str) -> Result<Option<usize>> {
    let value = gguf.u64(&format!("clip.vision.{name}"))?;
    value
        .map(|v| match usize::try_from(v) {
            Ok(v) if v > 0 => Ok(v),
            _ => Err(error(gguf, name, format!("{v}; a positive number is needed"))),
        })
        .transpose()
}

fn size(gguf: &Gguf, name: &str) -> Result<usize> {
    match optional(gguf, name)? {
        Some(v) if v <= MAX_SIZE => Ok(v),
        Some(v) => Err(error(gguf, name, format!("{v}; at most {MAX_SIZE} is allowed"))),
        None => Err(error(gguf, name, "is missing")),
    }
}

fn deepstack(gguf: &Gguf, layers: usize) -> Result<Vec<usize>> {
    const NAME: &str = "is_deepstack_layers";
    let Some(flags) = gguf.integers(&format!("clip.vision.{NAME}"))? else { return Ok(Vec::new()) };
    if flags.len() != layers {
        return Err(error(gguf, NAME, format!("tells {} layers of {layers}", flags.len())));
    }
    Ok((0..layers).filter(|&i| flags[i] != 0).collect())
}

fn activation(gguf: &Gguf) -> Result<Activation> {
    let [gelu, silu] = [gguf.bool("clip.use_gelu")?, gguf.bool("clip.use_silu")?].map(|f| f == Some(true));
    match (gelu, silu) {
        (true, false) => Ok(Activation::GeluTanh),
        (false, true) => Ok(Activation::Silu),
        _ => {
            let problem =
                format!("clip.use_gelu is {gelu} and clip.use_silu {silu}; this version runs towers with one of them");
            Err(Error::Unsupported(problem))
        }
    }
}

fn colours(gguf: &Gguf, name: &str) -> Result<[f32; 3]> {
    let seen = gguf.floats(&format!("clip.vision.{name}"))?.ok_or_else(|| error(gguf, name, "is missing"))?;
    let three = <[f32; 3]>::try_from(&seen[..]).ok().filter(|c| c.iter().all(|v| v.is_finite()));
    three.ok_or_else(|| error(gguf, name, format!("{} numbers; three finite ones are needed", seen.len())))
}
