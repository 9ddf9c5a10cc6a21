//! What the parts of a Whisper are called: by CTranslate2, by the hub's transformers, and by openai/whisper itself.

/// One linear layer or a part of one: name without `weight` or `bias`, and its rows.
pub(super) type Part = (String, usize);

/// How a format calls the parts.
pub(super) struct Names {
    pub(super) side: fn(&str, usize) -> String, // prefix of a layer
    pub(super) conv: fn(usize) -> String,
    pub(super) gamma: &'static str,
    pub(super) beta: &'static str,
    pub(super) qkv: &'static [&'static str],
    pub(super) self_norm: &'static str,
    pub(super) self_out: &'static str,
    pub(super) cross_norm: &'static str,
    pub(super) cross_q: &'static str,
    pub(super) cross_kv: &'static [&'static str],
    pub(super) cross_out: &'static str,
    pub(super) mlp_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) encoder_norm: &'static str,
    pub(super) decoder_norm: &'static str,
    pub(super) embedding: &'static str,
    pub(super) audio_positions: &'static str,
    pub(super) text_positions: &'static str,
}

impl Names {
    pub(super) fn layer(&self, side: &str, i: usize, name: &str) -> String {
        format!("{}{name}", (self.side)(side, i))
    }

    pub(super) fn norm(&self, side: &str, i: usize, name: &str) -> String {
        self.layer(side, i, name)
    }

    pub(super) fn conv(&self, i: usize) -> String {
        (self.conv)(i)
    }

    /// The parts of a joined projection: one of all rows, or one for each of queries, keys and values.
    pub(super) fn parts(&self, side: &str, i: usize, names: &[&str], d: usize) -> Vec<Part> {
        let joined = if names == self.qkv { 3 } else { 2 };
        names.iter().map(|name| (self.layer(side, i, name), d * joined / names.len())).collect()
    }
}

pub(super) const CT2: Names = Names {
    side: |side, i| format!("{side}/layer_{i}/"),
    conv: |i| format!("encoder/conv{i}/"),
    gamma: "gamma",
    beta: "beta",
    qkv: &["self_attention/linear_0/"],
    self_norm: "self_attention/layer_norm/",
    self_out: "self_attention/linear_1/",
    cross_norm: "attention/layer_norm/",
    cross_q: "attention/linear_0/",
    cross_kv: &["attention/linear_1/"],
    cross_out: "attention/linear_2/",
    mlp_norm: "ffn/layer_norm/",
    up: "ffn/linear_0/",
    down: "ffn/linear_1/",
    encoder_norm: "encoder/layer_norm/",
    decoder_norm: "decoder/layer_norm/",
    embedding: "decoder/embeddings/weight",
    audio_positions: "encoder/position_encodings/encodings",
    text_positions: "decoder/position_encodings/encodings",
};

pub(super) const HUB: Names = Names {
    side: |side, i| format!("model.{side}.layers.{i}."),
    conv: |i| format!("model.encoder.conv{i}."),
    gamma: "weight",
    beta: "bias",
    qkv: &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."],
    self_norm: "self_attn_layer_norm.",
    self_out: "self_attn.out_proj.",
    cross_norm: "encoder_attn_layer_norm.",
    cross_q: "encoder_attn.q_proj.",
    cross_kv: &["encoder_attn.k_proj.", "encoder_attn.v_proj."],
    cross_out: "encoder_attn.out_proj.",
    mlp_norm: "final_layer_norm.",
    up: "fc1.",
    down: "fc2.",
    encoder_norm: "model.encoder.layer_norm.",
    decoder_norm: "model.decoder.layer_norm.",
    embedding: "model.decoder.embed_tokens.weight",
    audio_positions: "model.encoder.embed_positions.weight",
    text_positions: "model.decoder.embed_positions.weight",
};

/// The hub's names as `WhisperModel` alone saves them.
pub(super) const HUB_BARE: Names = Names {
    side: |side, i| format!("{side}.layers.{i}."),
    conv: |i| format!("encoder.conv{i}."),
    encoder_norm: "encoder.layer_norm.",
    decoder_norm: "decoder.layer_norm.",
    embedding: "decoder.embed_tokens.weight",
    audio_positions: "encoder.embed_positions.weight",
    text_positions: "decoder.embed_positions.weight",
    ..HUB
};

/// openai/whisper's own names, which converters keep.
pub(super) const OPENAI: Names = Names {
    side: |side, i| format!("{side}.blocks.{i}."),
    conv: |i| format!("encoder.conv{i}."),
    gamma: "weight",
    beta: "bias",
    qkv: &["attn.query.", "attn.key.", "attn.value."],
    self_norm: "attn_ln.",
    self_out: "attn.out.",
    cross_norm: "cross_attn_ln.",
    cross_q: "cross_attn.query.",
    cross_kv: &["cross_attn.key.", "cross_attn.value."],
    cross_out: "cross_attn.out.",
    mlp_norm: "mlp_ln.",
    up: "mlp.0.",
    down: "mlp.2.",
    encoder_norm: "encoder.ln_post.",
    decoder_norm: "decoder.ln.",
    embedding: "decoder.token_embedding.weight",
    audio_positions: "encoder.positional_embedding",
    text_positions: "decoder.positional_embedding",
};
