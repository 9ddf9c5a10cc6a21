//! The operations of a part's plan, as launches on its device.

use dreamseed_kernels::cuda::{
    Attend, Buffer, Device, DeviceMatrix, Error as Refusal, Finish, Gate, GemvInput, HeadNorms, Part as Product, Quantized,
    RopeAppend, add_norm, attend, attend_rows, choose, embed, gated, gated_rows, gather, gemm, gemv, quantize, rms_norm,
    rope_append, softcap,
};

use super::{
    Decoder, Part, dense,
    state::{FEW, HeadRoom, Stage},
};
use crate::decoder::{Config, Op};

/// How a launch ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    /// Whether the rows wanted are gathered, or are the first ones.
    pub(super) gathered: bool,
    /// Whether tokens are chosen by the logits.
    pub(super) chosen: bool,
}

impl Ending {
    /// 0 to 3.
    pub(super) fn index(self) -> usize {
        usize::from(self.gathered) + 2 * usize::from(self.chosen)
    }
}

/// A matrix, its bias, and the norm of their product.
type Normed<'a> = (&'a DeviceMatrix, Option<&'a Buffer<f32>>, Option<&'a Buffer<f32>>);

/// Products of `n` rows: by the weights row by row, or matrix by matrix.
fn products(device: &Device, n: usize, input: &GemvInput, parts: &mut [Product], accumulate: bool) -> Result<(), Refusal> {
    match n {
        ..=FEW => gemv(device, n, input, parts, accumulate),
        _ => gemm(device, n, input, parts, Finish { accumulate, ..Finish::default() }),
    }
}

impl Decoder {
    /// Launches all of a part before the head, over `n` rows.
    pub(super) fn layers(&self, part: &Part, s: &mut Stage, n: usize) -> Result<(), Refusal> {
        part.plan.iter().try_for_each(|op| match *op {
            Op::Embed => match &part.embeddings {
                Some(table) => embed(&s.device, n, table, self.config.embedding_scale, &s.room.rows.inputs, &mut s.x),
                None => Ok(()), // who embeds has them
            },
            Op::NormQkv(layer) => self.norm_qkv(part, s, layer, n),
            Op::RopeAppend(layer) => self.rope_append(part, s, layer, n),
            Op::Attend(layer) => self.attend(part, s, layer, n),
            Op::Output(layer) => self.output(part, s, layer, n),
            Op::GateUp(layer) => self.gate_up(part, s, layer, n),
            Op::Down(layer) => self.down(part, s, layer, n),
            // models with experts are not opened, and without pictures there is nothing to add
            Op::Experts(_) | Op::Deep(_) => Ok(()),
            Op::Head => Ok(()), // see `head`
        })
    }

    /// Launches last norm, logits and the choice of tokens by them, over `n` rows.
    pub(super) fn head(&self, part: &Part, s: &mut Stage, n: usize, ending: Ending) -> Result<(), Refusal> {
        let (Some(head), Some(HeadRoom { wanted, x, logits, choices, chosen })) = (&part.head, &mut s.head) else {
            return Ok(()); // it is another part's
        };
        let Some(weights) = head.output.as_ref().or(part.embeddings.as_ref()) else { return Ok(()) };
        let Config { dim, vocab, logit_softcap, .. } = self.config;
        if ending.gathered {
            gather(&s.device, n, wanted, (&s.x, s.x.len() / dim, dim), x)?;
        }
        let x: &Buffer<f32> = if ending.gathered { x } else { &s.x };
        let input = self.normed((&s.device, n), (x, &head.norm), (&mut s.h, &mut s.codes.h))?;
        products(&s.device, n, &input, &mut [Product { weights, bias: None, out: logits }], false)?;
        if let Some(cap) = logit_softcap {
            softcap(&s.device, logits, n * vocab, cap)?;
        }
        if !ending.chosen {
            return Ok(());
        }
        // rows that were gathered are others than the first ones
        let on = (!ending.gathered).then_some(&mut s.room.rows);
        choose(&s.device, n, (logits, vocab), (choices, chosen), on)
    }

    /// What a product of the normed residual stream takes: of one row the norm is part of the product.
    fn normed<'a>(
        &self,
        (device, n): (&Device, usize),
        (x, weight): (&'a Buffer<f32>, &'a Buffer<f32>),
        (h, codes): (&'a mut Buffer<f32>, &'a mut Option<Quantized>),
    ) -> Result<GemvInput<'a>, Refusal> {
        let eps = self.config.eps;
        if n == 1 {
            return Ok(GemvInput::Normed { x, weight, eps });
        }
        rms_norm(device, n, x, (weight, eps), h, codes.as_mut())?;
        Ok(GemvInput::Plain { x: h, quantized: codes.as_ref() })
    }

    fn norm_qkv(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = part.layer(layer);
        let input = self.normed((&s.device, n), (&s.x, &w.attn_norm), (&mut s.h, &mut s.codes.h))?;
        let mut parts = [(&w.wq, &w.bq, &mut s.q), (&w.wk, &w.bk, &mut s.k), (&w.wv, &w.bv, &mut s.v)]
            .map(|(weights, bias, out)| Product { weights, bias: bias.as_ref(), out });
        products(&s.device, n, &input, &mut parts, false)
    }

    fn rope_append(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = part.layer(layer);
        let local = s.room.local.as_ref().filter(|_| self.config.local(layer).is_some());
        let (cos, sin) = local.unwrap_or(&s.room.global);
        let a = RopeAppend {
            q: &mut s.q,
            k: &s.k,
            v: &s.v,
            norms: HeadNorms { q: w.q_norm.as_ref(), k: w.k_norm.as_ref(), eps: self.config.eps },
            turns: (cos, sin),
            rotary: self.config.rope.dims,
            kind: self.config.rope.kind,
            heads: self.config.heads,
        };
        rope_append(&s.device, n, &s.room.rows, a, (&mut s.room.store, layer - part.first))
    }

    fn attend(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let Config { heads, head_dim, attention_scale: scale, .. } = self.config;
        let window = self.config.local(layer).map(|l| l.window);
        let a = Attend { q: &s.q, heads, scale, window, out: &mut s.attended, quantized: &mut s.codes.attended };
        let store = (&s.room.store, layer - part.first);
        match n {
            ..=FEW => attend(&s.device, n, &s.room.rows, a, store, &mut s.room.counters)?,
            _ => attend_rows(&s.device, n, &s.room.rows, a, store)?,
        }
        // heads that are no multiple of 32 are not put into 8 bits by the kernel
        let floats = part.layer(layer).wo.kind().block().0 == 1;
        if !floats && !head_dim.is_multiple_of(32) && (heads * head_dim).is_multiple_of(32) {
            quantize(&s.device, (n, heads * head_dim), &s.attended, &mut s.codes.attended)?;
        }
        Ok(())
    }

    fn output(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = part.layer(layer);
        let whole = (self.config.heads * self.config.head_dim).is_multiple_of(32);
        let input = GemvInput::Plain { x: &s.attended, quantized: whole.then_some(&s.codes.attended) };
        self.add_product((&s.device, n), &input, (&w.wo, w.bo.as_ref(), w.post_attn_norm.as_ref()), (&mut s.h, &mut s.x))
    }

    fn gate_up(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = part.layer(layer);
        let Some(mlp) = dense(w) else { return Ok(()) };
        let input = self.normed((&s.device, n), (&s.x, &w.ffn_norm), (&mut s.h, &mut s.codes.h))?;
        let gate = Gate {
            gate: (&mlp.gate, mlp.biases.gate.as_ref()),
            up: (&mlp.up, mlp.biases.up.as_ref()),
            activation: self.config.activation,
            out: &mut s.gate,
            quantized: s.codes.gate.as_mut(),
        };
        if n <= FEW { gated(&s.device, n, &input, gate) } else { gated_rows(&s.device, n, &input, gate) }
    }

    fn down(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = part.layer(layer);
        let Some(mlp) = dense(w) else { return Ok(()) };
        let input = GemvInput::Plain { x: &s.gate, quantized: s.codes.gate.as_ref() };
        let product = (&mlp.down, mlp.biases.down.as_ref(), w.post_ffn_norm.as_ref());
        self.add_product((&s.device, n), &input, product, (&mut s.h, &mut s.x))
    }

    /// `residual += norm(input w^T + bias)`; without a norm in one launch. `scratch`: as `residual`.
    fn add_product(
        &self,
        (device, n): (&Device, usize),
        input: &GemvInput,
        (weights, bias, norm): Normed,
        (scratch, residual): (&mut Buffer<f32>, &mut Buffer<f32>),
    ) -> Result<(), Refusal> {
        let Some(norm) = norm else {
            return products(device, n, input, &mut [Product { weights, bias, out: residual }], true);
        };
        products(device, n, input, &mut [Product { weights, bias, out: scratch }], false)?;
        add_norm(device, n, scratch, (norm, self.config.eps), residual)
    }
}
