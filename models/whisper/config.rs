//! Shapes and special settings of a Whisper model, from its tensors and the JSON files beside it.

use serde::Deserialize;

use crate::weights::{Error, Result};

/// Shapes of a Whisper model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Mel bands, 80 or 128.
    pub n_mels: usize,
    /// Positions of the encoder, 1500 for 30 s.
    pub n_audio_ctx: usize,
    /// Encoder layers.
    pub n_audio_layer: usize,
    /// Heads of the encoder's attention.
    pub n_audio_head: usize,
    /// Positions of the decoder, 448.
    pub n_text_ctx: usize,
    /// Decoder layers.
    pub n_text_layer: usize,
    /// Heads of the decoder's attention.
    pub n_text_head: usize,
    /// Width of both halves.
    pub n_state: usize,
    /// Width of the hidden layers of the encoder's and the decoder's MLPs.
    pub n_ffn: [usize; 2],
    /// Tokens.
    pub n_vocab: usize,
}

impl Config {
    /// Refuses shapes that no Whisper has, so that nothing after this needs to check them.
    pub(super) fn check(&self) -> Result<()> {
        let ranges = [
            ("mel bands", self.n_mels, 1, 512),
            ("encoder positions", self.n_audio_ctx, 1, 1 << 14),
            ("encoder layers", self.n_audio_layer, 1, 256),
            ("encoder heads", self.n_audio_head, 1, 256),
            ("decoder positions", self.n_text_ctx, 8, 1 << 14),
            ("decoder layers", self.n_text_layer, 1, 256),
            ("decoder heads", self.n_text_head, 1, 256),
            ("state", self.n_state, 1, 1 << 14),
            ("encoder MLP units", self.n_ffn[0], 1, 1 << 17),
            ("decoder MLP units", self.n_ffn[1], 1, 1 << 17),
            ("tokens", self.n_vocab, 1, 1 << 20),
        ];
        for (what, seen, low, high) in ranges {
            if !(low..=high).contains(&seen) {
                return Err(Error::Unsupported(format!("Whisper with {seen} {what}; {low} to {high} are allowed")));
            }
        }
        for heads in [self.n_audio_head, self.n_text_head] {
            if !self.n_state.is_multiple_of(heads) {
                return Err(Error::Unsupported(format!(
                    "Whisper: a state of {} does not divide by {heads} heads",
                    self.n_state
                )));
            }
        }
        Ok(())
    }

    /// Mel frames of one window: 3000 for 30 s.
    pub fn window_frames(&self) -> usize {
        2 * self.n_audio_ctx
    }
}

/// What is used of `config.json` and `generation_config.json`, both CTranslate2's and the hub's.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Settings {
    /// (layer, head) pairs whose cross-attention follows the audio.
    pub(super) alignment_heads: Option<Vec<(usize, usize)>>,
    #[serde(alias = "suppress_tokens")]
    pub(super) suppress_ids: Option<Vec<i64>>,
    #[serde(alias = "begin_suppress_tokens")]
    pub(super) suppress_ids_begin: Option<Vec<i64>>,
    pub(super) encoder_attention_heads: Option<usize>,
    pub(super) decoder_attention_heads: Option<usize>,
    pub(super) activation_function: Option<String>,
}

impl Settings {
    /// Takes what this file lacks from another.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            alignment_heads: self.alignment_heads.or(other.alignment_heads),
            suppress_ids: self.suppress_ids.or(other.suppress_ids),
            suppress_ids_begin: self.suppress_ids_begin.or(other.suppress_ids_begin),
            encoder_attention_heads: self.encoder_attention_heads.or(other.encoder_attention_heads),
            decoder_attention_heads: self.decoder_attention_heads.or(other.decoder_attention_heads),
            activation_function: self.activation_function.or(other.activation_function),
        }
    }
}

/// The heads whose cross-attention follows the audio: what the settings say, else those published for the model of these
/// shapes (openai/whisper `__init__.py`), else all heads of the upper half of the decoder, as there.
pub(super) fn alignment_heads(config: &Config, settings: &Settings) -> Result<Vec<(usize, usize)>> {
    let Some(given) = &settings.alignment_heads else {
        return Ok(published_heads(config).map_or_else(|| upper_half(config), <[_]>::to_vec));
    };
    for (layer, head) in given {
        if *layer >= config.n_text_layer || *head >= config.n_text_head {
            let allowed = format!("{} layers and {} heads", config.n_text_layer, config.n_text_head);
            return Err(Error::Unsupported(format!("config.json: alignment head ({layer}, {head}); the model has {allowed}")));
        }
    }
    let mut heads = given.clone();
    heads.sort_unstable();
    heads.dedup();
    Ok(if heads.is_empty() { upper_half(config) } else { heads })
}

fn upper_half(config: &Config) -> Vec<(usize, usize)> {
    let layers = config.n_text_layer / 2..config.n_text_layer;
    layers.flat_map(|layer| (0..config.n_text_head).map(move |head| (layer, head))).collect()
}

#[rustfmt::skip]
fn published_heads(config: &Config) -> Option<&'static [(usize, usize)]> {
    const ENGLISH: usize = 51864;
    const V3: usize = 51866;
    Some(match (config.n_text_layer, config.n_audio_layer, config.n_state, config.n_vocab) {
        (4, 4, 384, ENGLISH) => &[(1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)],
        (4, 4, 384, _) => &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)],
        (6, 6, 512, ENGLISH) => &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)],
        (6, 6, 512, _) => &[(3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)],
        (12, 12, 768, ENGLISH) => &[
            (6, 6), (7, 0), (7, 3), (7, 8), (8, 2), (8, 5), (8, 7), (9, 0), (9, 4), (9, 8), (9, 10), (10, 0), (10, 1), (10, 2),
            (10, 3), (10, 6), (10, 11), (11, 2), (11, 4),
        ],
        (12, 12, 768, _) => &[(5, 3), (5, 9), (8, 0), (8, 4), (8, 7), (8, 8), (9, 0), (9, 7), (9, 9), (10, 5)],
        (24, 24, 1024, ENGLISH) => &[
            (11, 4), (14, 1), (14, 12), (14, 14), (15, 4), (16, 0), (16, 4), (16, 9), (17, 12), (17, 14), (18, 7), (18, 10),
            (18, 15), (20, 0), (20, 3), (20, 9), (20, 14), (21, 12),
        ],
        (24, 24, 1024, _) => &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)],
        (32, 32, 1280, V3) => &[
            (7, 0), (10, 17), (12, 18), (13, 12), (16, 1), (17, 14), (19, 11), (21, 4), (24, 1), (25, 6),
        ],
        // large-v1 and large-v2 have the same shapes; v2's heads, the one in use
        (32, 32, 1280, _) => &[
            (10, 12), (13, 17), (16, 11), (16, 12), (16, 13), (17, 15), (17, 16), (18, 4), (18, 11), (18, 19), (19, 11),
            (21, 2), (21, 3), (22, 3), (22, 9), (22, 12), (23, 5), (23, 7), (23, 13), (25, 5), (26, 1), (26, 12), (27, 15),
        ],
        (4, 32, 1280, _) => &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)],
        _ => return None,
    })
}
