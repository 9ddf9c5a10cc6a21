//! The weights of a decoder, from GGUF or from HF's safetensors, held against its [`Config`].

use std::ops::Range;

use dreamseed_kernels::{BlockType, Matrix, Pool};

use super::{
    Config, Experts, Family,
    experts::{Biases, FeedForward, Mixture, Mlp},
    files::Files,
};
use crate::weights::{Error, Result};

/// Where weights lie and who computes with them: the processor, or a GPU.
pub trait Place: Sync {
    /// (rows, cols) weights.
    type Matrix: Send;
    /// Norms and biases.
    type Vector: Send;

    /// Takes rows of ggml's blocks, or of little-endian floats. `name`: the tensor's, for errors.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the bytes do not fit the shape; where memory runs out, the place's own.
    fn matrix(&self, name: &str, kind: BlockType, shape: (usize, usize), bytes: &[u8]) -> Result<Self::Matrix>;

    /// Takes rows of floats that may be rounded to what the place multiplies them in.
    ///
    /// # Errors
    /// As [`Place::matrix`].
    fn rounded(&self, name: &str, shape: (usize, usize), values: &[f32]) -> Result<Self::Matrix> {
        self.matrix(name, BlockType::F32, shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Takes floats.
    ///
    /// # Errors
    /// Where memory runs out, the place's own.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
}

/// The processor's memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Place for Cpu {
    type Matrix = Matrix;
    type Vector = Vec<f32>;

    fn matrix(&self, name: &str, kind: BlockType, (rows, cols): (usize, usize), bytes: &[u8]) -> Result<Matrix> {
        let matrix = Matrix::from_blocks(kind, rows, cols, bytes);
        matrix.map_err(|e| Error::Tensor { name: name.into(), problem: e.to_string() })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// The processor's memory, as [`Cpu`], packed by all threads.
impl Place for Pool {
    type Matrix = Matrix;
    type Vector = Vec<f32>;

    fn matrix(&self, name: &str, kind: BlockType, (rows, cols): (usize, usize), bytes: &[u8]) -> Result<Matrix> {
        let matrix = Matrix::from_blocks_on(self, kind, rows, cols, bytes);
        matrix.map_err(|e| Error::Tensor { name: name.into(), problem: e.to_string() })
    }

    fn rounded(&self, name: &str, (rows, cols): (usize, usize), values: &[f32]) -> Result<Matrix> {
        let matrix = Matrix::from_f32(rows, cols, values);
        matrix.map_err(|e| Error::Tensor { name: name.into(), problem: e.to_string() })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// One layer. Vectors that the family does not have are `None`.
pub(super) struct Layer<P: Place = Cpu> {
    pub(super) attn_norm: P::Vector,              // (dim)
    pub(super) wq: P::Matrix,                     // (heads * head_dim, dim)
    pub(super) wk: P::Matrix,                     // (kv_dim, dim)
    pub(super) wv: P::Matrix,                     // (kv_dim, dim)
    pub(super) bq: Option<P::Vector>,             // (heads * head_dim)
    pub(super) bk: Option<P::Vector>,             // (kv_dim)
    pub(super) bv: Option<P::Vector>,             // (kv_dim)
    pub(super) q_norm: Option<P::Vector>,         // (head_dim)
    pub(super) k_norm: Option<P::Vector>,         // (head_dim)
    pub(super) wo: P::Matrix,                     // (dim, heads * head_dim)
    pub(super) bo: Option<P::Vector>,             // (dim)
    pub(super) post_attn_norm: Option<P::Vector>, // (dim)
    pub(super) ffn_norm: P::Vector,               // (dim)
    pub(super) feed_forward: FeedForward<P>,
    pub(super) post_ffn_norm: Option<P::Vector>, // (dim)
}

/// All weights. Immutable, shared by every state.
pub struct Weights<P: Place = Cpu> {
    pub(super) embeddings: P::Matrix,     // (vocab, dim)
    pub(super) layers: Vec<Layer<P>>,     // (layers)
    pub(super) output_norm: P::Vector,    // (dim)
    pub(super) output: Option<P::Matrix>, // (vocab, dim); `None`: the embeddings serve
}

/// A matrix and its bias.
type Linear<P> = (<P as Place>::Matrix, Option<<P as Place>::Vector>);

/// Reads the tensors of one layer.
struct Loader<'a, P> {
    files: &'a Files<'a>,
    config: &'a Config,
    place: &'a P,
    layer: usize,
}

impl<P: Place> Loader<'_, P> {
    fn name(&self, part: &str, suffix: &str) -> String {
        format!("blk.{}.{part}.{suffix}", self.layer)
    }

    fn matrix(&self, part: &str, rows: usize, cols: usize) -> Result<P::Matrix> {
        self.files.matrix(self.place, &self.name(part, "weight"), (rows, cols), self.config)
    }

    fn bias_values(&self, part: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let name = self.name(part, "bias");
        let has = self.files.has(&name, self.config);
        has.then(|| self.files.vector(&name, len, self.config)).transpose()
    }

    fn bias(&self, part: &str, len: usize) -> Result<Option<P::Vector>> {
        self.bias_values(part, len)?.map(|values| self.place.vector(values)).transpose()
    }

    fn norm(&self, part: &str, len: usize) -> Result<P::Vector> {
        self.place.vector(norm(self.files, &self.name(part, "weight"), len, self.config)?)
    }

    fn optional_norm(&self, part: &str, len: usize, needed: bool) -> Result<Option<P::Vector>> {
        let has = needed || self.files.has(&self.name(part, "weight"), self.config);
        has.then(|| self.norm(part, len)).transpose()
    }

    fn load(&self) -> Result<Layer<P>> {
        let Config { family, dim, heads, head_dim, .. } = *self.config;
        let (q_dim, gemma) = (heads * head_dim, family == Family::Gemma3);
        let [(wq, bq), (wk, bk), (wv, bv)] = self.query_key_value()?;
        Ok(Layer {
            attn_norm: self.norm("attn_norm", dim)?,
            wq,
            wk,
            wv,
            bq,
            bk,
            bv,
            q_norm: self.optional_norm("attn_q_norm", head_dim, family.has_head_norms())?,
            k_norm: self.optional_norm("attn_k_norm", head_dim, family.has_head_norms())?,
            wo: self.matrix("attn_output", dim, q_dim)?,
            bo: self.bias("attn_output", dim)?,
            post_attn_norm: self.optional_norm("post_attention_norm", dim, gemma)?,
            ffn_norm: self.norm("ffn_norm", dim)?,
            feed_forward: match self.config.experts(self.layer) {
                None => FeedForward::Dense(self.dense()?),
                Some(experts) => FeedForward::Mixture(self.mixture(experts)?),
            },
            post_ffn_norm: self.optional_norm("post_ffw_norm", dim, gemma)?,
        })
    }

    /// Query, key and value: three tensors, or one with all their rows (Phi 3).
    fn query_key_value(&self) -> Result<[Linear<P>; 3]> {
        let (dim, kv_dim) = (self.config.dim, self.config.kv_dim());
        let rows = [self.config.heads * self.config.head_dim, kv_dim, kv_dim];
        let joined = self.name("attn_qkv", "weight");
        if !self.files.has(&joined, self.config) {
            let linear = |part, rows| -> Result<Linear<P>> { Ok((self.matrix(part, rows, dim)?, self.bias(part, rows)?)) };
            return Ok([linear("attn_q", rows[0])?, linear("attn_k", rows[1])?, linear("attn_v", rows[2])?]);
        }
        let [wq, wk, wv] = self.cut(&joined, rows, dim)?;
        let mut bq = self.bias_values("attn_qkv", rows.iter().sum())?;
        let bv = bq.as_mut().map(|all| all.split_off(rows[0] + rows[1]));
        let bk = bq.as_mut().map(|all| all.split_off(rows[0]));
        let place = |bias: Option<Vec<f32>>| bias.map(|values| self.place.vector(values)).transpose();
        Ok([(wq, place(bq)?), (wk, place(bk)?), (wv, place(bv)?)])
    }

    fn dense(&self) -> Result<Mlp<P>> {
        let Config { family, dim, hidden, .. } = *self.config;
        let joined = [self.name("ffn_gate_up", "weight"), self.name("ffn_up", "weight")];
        let joined = joined.iter().find(|name| self.files.has(name, self.config));
        let joined =
            joined.filter(|_| family == Family::Phi3 && !self.files.has(&self.name("ffn_gate", "weight"), self.config));
        let [gate, up] = match joined {
            Some(name) => self.cut(name, [hidden, hidden], dim)?,
            None => [self.matrix("ffn_gate", hidden, dim)?, self.matrix("ffn_up", hidden, dim)?],
        };
        let biases = Biases {
            gate: self.bias("ffn_gate", hidden)?,
            up: self.bias("ffn_up", hidden)?,
            down: self.bias("ffn_down", dim)?,
        };
        Ok(Mlp { gate, up, down: self.matrix("ffn_down", dim, hidden)?, biases })
    }

    fn mixture(&self, experts: &Experts) -> Result<Mixture<P>> {
        let (dim, &Experts { count, used, hidden, renormalise, .. }) = (self.config.dim, experts);
        // The router first: a lying count is found before anything is allocated for it.
        let router = self.matrix("ffn_gate_inp", count, dim)?;
        let [gate, up] = ["ffn_gate_exps", "ffn_up_exps"].map(|part| self.stacked(part, count, hidden, dim));
        let down = self.stacked("ffn_down_exps", count, dim, hidden)?;
        let experts = gate?.into_iter().zip(up?).zip(down);
        let experts = experts.map(|((gate, up), down)| Mlp { gate, up, down, biases: Biases::default() });
        Ok(Mixture { router, experts: experts.collect(), used, renormalise })
    }

    /// One matrix of each expert: a tensor with all of them one below the other (GGUF), or a tensor for each.
    fn stacked(&self, part: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<P::Matrix>> {
        let name = self.name(part, "weight");
        match self.files {
            Files::Gguf(_) => self.files.matrices(self.place, &name, (&vec![rows; count], cols), self.config),
            Files::Hf { .. } | Files::Part(_) => {
                (0..count).map(|expert| self.matrix(&format!("{part}.{expert}"), rows, cols)).collect()
            }
        }
    }

    /// A tensor cut along its rows.
    fn cut<const N: usize>(&self, name: &str, rows: [usize; N], cols: usize) -> Result<[P::Matrix; N]> {
        let matrices = self.files.matrices(self.place, name, (&rows, cols), self.config)?;
        matrices.try_into().map_err(|_| Error::Tensor { name: name.into(), problem: format!("does not hold {N} matrices") })
    }
}

fn norm(files: &Files, name: &str, len: usize, config: &Config) -> Result<Vec<f32>> {
    let mut weight = files.vector(name, len, config)?;
    weight.iter_mut().for_each(|w| *w += config.norm_offset);
    Ok(weight)
}

/// What a model's files hold, read piece by piece to where each piece is to lie.
pub(super) struct Reader<'a> {
    files: &'a Files<'a>,
    config: &'a Config,
    pool: &'a Pool,
}

impl<'a> Reader<'a> {
    /// Holds the names of the tensors against the configuration. Nothing is read yet.
    pub(super) fn new(files: &'a Files, config: &'a Config, pool: &'a Pool) -> Result<Self> {
        let layers = config.layers;
        // The last layer's first tensor: a lying count is found before anything is allocated for it.
        let last = format!("blk.{}.attn_norm.weight", layers - 1);
        if !files.has(&last, config) {
            return Err(Error::Tensor {
                name: last,
                problem: format!("is missing, but the model says it has {layers} layers"),
            });
        }
        if let Some(name) = files.unknown(layers) {
            let why = format!(
                "no part of a model of {layers} layers that this version runs: its share in the result would be missing"
            );
            return Err(Error::Unsupported(format!("the tensor {name}, which is {why}")));
        }
        Ok(Self { files, config, pool })
    }

    /// (vocab, dim)
    pub(super) fn embeddings<P: Place>(&self, place: &P) -> Result<P::Matrix> {
        self.files.matrix(place, "token_embd.weight", (self.config.vocab, self.config.dim), self.config)
    }

    /// The last norm, (dim), and some rows of the output matrix, (vocab, dim); `None`: the embeddings serve.
    pub(super) fn head<P: Place>(&self, place: &P, rows: Range<usize>) -> Result<(P::Vector, Option<P::Matrix>)> {
        let Config { vocab, dim, tied, .. } = *self.config;
        let output = (!tied).then(|| self.files.rows(place, "output.weight", (rows, vocab, dim), self.config)).transpose()?;
        Ok((place.vector(norm(self.files, "output_norm.weight", dim, self.config)?)?, output))
    }

    /// Some of the layers, in parallel.
    pub(super) fn layers<P: Place>(&self, place: &P, layers: Range<usize>) -> Result<Vec<Layer<P>>> {
        let (files, config, first) = (self.files, self.config, layers.start);
        let mut loaded: Vec<Option<Result<Layer<P>>>> = layers.map(|_| None).collect();
        self.pool.for_each_chunk(&mut loaded, 1, |i, slot| {
            slot[0] = Some(Loader { files, config, place, layer: first + i }.load());
        });
        loaded.into_iter().flatten().collect()
    }
}

impl<P: Place> Weights<P> {
    /// Reads and packs everything.
    pub(super) fn load(files: &Files, config: &Config, place: &P, pool: &Pool) -> Result<Self> {
        let reader = Reader::new(files, config, pool)?;
        let embeddings = reader.embeddings(place)?;
        let layers = reader.layers(place, 0..config.layers)?;
        let (output_norm, output) = reader.head(place, 0..config.vocab)?;
        Ok(Self { embeddings, layers, output_norm, output })
    }
}

impl Weights {
    /// Number of weights in the matrices, all experts among them, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        let count = |m: &Matrix| m.rows() as u64 * m.cols() as u64;
        let layers = self.layers.iter().flat_map(|l| l.attention().into_iter().chain(l.feed_forward.matrices()));
        layers.map(count).sum::<u64>() + count(&self.embeddings) + self.output.as_ref().map_or(0, count)
    }

    /// Bytes of matrices that one decoded token reads, as they lie packed in memory: all but those of the experts it is not routed
    /// to, and the embeddings where they are not the output too.
    pub fn bytes_per_token(&self) -> usize {
        let bytes = |m: &Matrix| m.bytes() as u64;
        (self.layers.iter().map(|l| l.per_token(bytes)).sum::<u64>() + bytes(self.head())) as usize
    }

    /// Integer multiply-adds of a pass over `tokens` that wants the logits of `rows` of them: those of the quantized matrices.
    pub fn integer_products(&self, tokens: u64, rows: u64) -> u64 {
        let products = |m: &Matrix| if m.kind().block().0 > 1 { m.rows() as u64 * m.cols() as u64 } else { 0 };
        tokens * self.layers.iter().map(|l| l.per_token(products)).sum::<u64>() + rows * products(self.head())
    }

    fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embeddings)
    }
}

impl Layer {
    fn attention(&self) -> [&Matrix; 4] {
        [&self.wq, &self.wk, &self.wv, &self.wo]
    }

    /// The sum of `of` over the matrices that one token needs.
    fn per_token(&self, of: impl Fn(&Matrix) -> u64) -> u64 {
        self.attention().into_iter().map(&of).sum::<u64>() + self.feed_forward.per_token(&of)
    }
}
