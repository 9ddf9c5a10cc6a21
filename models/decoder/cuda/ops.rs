//! The operations of a part's plan, as launches on its device.

use dreamseed_kernels::cuda::{
    Attend, Buffer, Communicator, Device, DeviceMatrix, Error as Refusal, Finish, Gate, GemvInput, HeadNorms, Part as Product,
    Quantized, RopeAppend, add_norm, attend, attend_rows, choose, embed, gated, gated_rows, gather, gemm, gemv, join, quantize,
    rms_norm, rope_append, softcap,
};

use super::{
    Decoder, Part, dense,
    state::{FEW, HeadRoom, Stage},
};
use crate::decoder::{Config, Op, weights::Layer};

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

/// Parts that go through a pass side by side: one, or all that have a part of every layer.
pub(super) struct Crew<'a> {
    pub(super) parts: &'a [Part],
    pub(super) stages: &'a mut [Stage],                // (parts)
    pub(super) together: Option<&'a mut Communicator>, // of parts of every layer
}

impl Crew<'_> {
    /// One launch on each device.
    fn each(&mut self, launch: impl Fn(&Part, &mut Stage) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.parts.iter().zip(&mut *self.stages).try_for_each(|(part, stage)| launch(part, stage))
    }
}

/// A matrix and its bias.
type Linear<'a> = (&'a DeviceMatrix, Option<&'a Buffer<f32>>);

/// Products of `n` rows: by the weights row by row, or matrix by matrix.
fn products(device: &Device, n: usize, input: &GemvInput, parts: &mut [Product], accumulate: bool) -> Result<(), Refusal> {
    match n {
        ..=FEW => gemv(device, n, input, parts, accumulate),
        _ => gemm(device, n, input, parts, Finish { accumulate, ..Finish::default() }),
    }
}

impl Decoder {
    /// Launches all before the head, over `n` rows.
    pub(super) fn layers(&self, crew: &mut Crew, n: usize) -> Result<(), Refusal> {
        let Some(first) = crew.parts.first() else { return Ok(()) };
        first.plan.iter().try_for_each(|&op| {
            crew.each(|part, stage| self.launch_op(part, stage, op, n))?;
            match op {
                Op::Output(layer) | Op::Down(layer) => self.add(crew, (op, layer), n),
                _ => Ok(()),
            }
        })
    }

    fn launch_op(&self, part: &Part, s: &mut Stage, op: Op, n: usize) -> Result<(), Refusal> {
        match op {
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
        }
    }

    /// Launches last norm, logits and the choice of tokens by them, over `n` rows.
    pub(super) fn head(&self, crew: &mut Crew, n: usize, ending: Ending) -> Result<(), Refusal> {
        // 1. logits, of each part's rows of the vocabulary
        crew.each(|part, stage| self.logits(part, stage, n, ending.gathered))?;
        // 2. those of all
        if let Some(together) = &mut crew.together {
            let heads = crew.stages.iter_mut().filter_map(|s| s.head.as_mut());
            let halves = heads.filter_map(|h| {
                let own = h.own.as_mut()?;
                // a row alone lies as it has to
                Some((&own.logits, if n == 1 { &mut h.logits } else { &mut own.gathered }, own.columns))
            });
            let mut halves: Vec<_> = halves.collect();
            let columns = halves.first().map_or(0, |h| h.2);
            together
                .all_gather(&mut halves.iter_mut().map(|(own, all, _)| (*own, &mut **all)).collect::<Vec<_>>(), n * columns)?;
        }
        // 3. tokens
        let (Config { vocab, logit_softcap, .. }, parts) = (&self.config, crew.parts.len());
        crew.each(|_, Stage { device, head, room, .. }| {
            let Some(HeadRoom { own, logits, choices, chosen, .. }) = head else { return Ok(()) };
            if let Some(own) = own.as_ref().filter(|_| n > 1) {
                join(device, n, (&own.gathered, parts, own.columns), *vocab, logits)?;
            }
            if let Some(cap) = *logit_softcap {
                softcap(device, logits, n * vocab, cap)?;
            }
            if !ending.chosen {
                return Ok(());
            }
            // rows that were gathered are others than the first ones
            let on = (!ending.gathered).then_some(&mut room.rows);
            choose(device, n, (logits, *vocab), (choices, chosen), on)
        })
    }

    /// Last norm and the logits of the part's rows of the vocabulary.
    fn logits(&self, part: &Part, s: &mut Stage, n: usize, gathered: bool) -> Result<(), Refusal> {
        let (Some(head), Some(HeadRoom { wanted, x, own, logits, .. })) = (&part.head, &mut s.head) else {
            return Ok(()); // it is another part's
        };
        let tied = part.embeddings.as_ref().map(|table| table.some(head.rows.clone())).transpose()?;
        let Some(weights) = head.output.as_ref().or(tied.as_ref()) else { return Ok(()) };
        let dim = self.config.dim;
        if gathered {
            gather(&s.device, n, wanted, (&s.x, s.x.len() / dim, dim), x)?;
        }
        let x: &Buffer<f32> = if gathered { x } else { &s.x };
        let input = self.normed((&s.device, n), (x, &head.norm), (&mut s.h, &mut s.codes.h))?;
        let out = own.as_mut().map_or(logits, |own| &mut own.logits);
        products(&s.device, n, &input, &mut [Product { weights, bias: None, out }], false)
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
            heads: part.config.heads,
        };
        rope_append(&s.device, n, &s.room.rows, a, (&mut s.room.store, layer - part.first))
    }

    fn attend(&self, part: &Part, s: &mut Stage, layer: usize, n: usize) -> Result<(), Refusal> {
        let Config { heads, head_dim, attention_scale: scale, .. } = part.config;
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
        let whole = (part.config.heads * part.config.head_dim).is_multiple_of(32);
        let input = GemvInput::Plain { x: &s.attended, quantized: whole.then_some(&s.codes.attended) };
        let normed = w.post_attn_norm.is_some();
        product((&s.device, n), &input, (&w.wo, w.bo.as_ref()), target(part, normed, (&mut s.h, &mut s.x)))
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
        let normed = w.post_ffn_norm.is_some();
        product((&s.device, n), &input, (&mlp.down, mlp.biases.down.as_ref()), target(part, normed, (&mut s.h, &mut s.x)))
    }

    /// What follows output and down: the sum over parts of every layer, and the norm that some families have there.
    fn add(&self, crew: &mut Crew, (op, layer): (Op, usize), n: usize) -> Result<(), Refusal> {
        let normed = crew.parts.iter().any(|p| after(p.layer(layer), op).is_some());
        if let Some(together) = &mut crew.together {
            let sums = crew.stages.iter_mut().map(|s| if normed { &mut s.h } else { &mut s.x });
            together.all_reduce(&mut sums.collect::<Vec<_>>(), n * self.config.dim)?;
        }
        crew.each(|part, s| match after(part.layer(layer), op) {
            Some(norm) => add_norm(&s.device, n, &s.h, (norm, self.config.eps), &mut s.x),
            None => Ok(()),
        })
    }
}

/// The norm behind output or down.
fn after(layer: &Layer<Device>, op: Op) -> Option<&Buffer<f32>> {
    if matches!(op, Op::Output(_)) { layer.post_attn_norm.as_ref() } else { layer.post_ffn_norm.as_ref() }
}

/// Where a product goes that is added to the residual stream, and whether it adds itself: it does where no norm comes between. Of parts
/// that sum, which all have the stream, one adds and the others begin anew, so that the sum of theirs is the stream.
fn target<'a>(
    part: &Part,
    normed: bool,
    (scratch, x): (&'a mut Buffer<f32>, &'a mut Buffer<f32>),
) -> (&'a mut Buffer<f32>, bool) {
    if normed { (scratch, false) } else { (x, part.adds) }
}

/// `out = input w^T + bias`, or added to `out`.
fn product(
    (device, n): (&Device, usize),
    input: &GemvInput,
    (weights, bias): Linear,
    (out, accumulate): (&mut Buffer<f32>, bool),
) -> Result<(), Refusal> {
    products(device, n, input, &mut [Product { weights, bias, out }], accumulate)
}
