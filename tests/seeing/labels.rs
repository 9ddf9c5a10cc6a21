//! `see --labels` with Gemma's vocabulary, which is SigLIP 2's: its file tokenizer.json is made of what a GGUF of Gemma 3 holds, as HF
//! transformers makes it of SentencePiece's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dreamseed_kernels::Pool;
use dreamseed_models::image::Image;
use dreamseed_models::tokenizer::{Specials, Tokenizer};
use dreamseed_models::vision::{Precision, Session, Vision};
use dreamseed_models::weights::gguf::Gguf;
use serde_json::{Value, json};

use crate::common::{dreamseed, engine, outcome};
use crate::model::{noise, save};
use crate::{picture, pixels};

/// Tokens of a text in SigLIP's training.
const LENGTH: usize = 64;
const WIDTH: usize = 16;

/// Gemma 3's file, where it was fetched.
pub(crate) fn gemma() -> Option<PathBuf> {
    let store = engine().store();
    let path = store.folder(store.manifest().find("gemma3-270m").unwrap()).join("gemma3-270m.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// A tokenizer.json of the vocabulary: its pieces merged in the order of their scores.
fn tokenizer_json(gguf: &Gguf) -> Value {
    let names: Vec<&str> = gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap().iter().collect();
    let (scores, types) = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type");
    let (scores, types) = (gguf.floats(scores).unwrap().unwrap(), gguf.integers(types).unwrap().unwrap());
    let ids: HashMap<&str, usize> = names.iter().copied().zip(0..).collect();
    let mut merges: Vec<(f32, usize, usize)> = Vec::new();
    for (id, name) in names.iter().enumerate().filter(|(id, _)| types[*id] == 1) {
        let halves = name.char_indices().skip(1).map(|(at, _)| name.split_at(at));
        let mut parts: Vec<_> = halves.filter_map(|(l, r)| Some((scores[id], *ids.get(l)?, *ids.get(r)?))).collect();
        parts.sort_by_key(|p| (p.1, p.2));
        merges.extend(parts);
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges: Vec<[&str; 2]> = merges.iter().map(|m| [names[m.1], names[m.2]]).collect();
    let named = names.iter().enumerate().filter(|(id, _)| matches!(types[*id], 2..=4));
    let added: Vec<Value> = named
        .map(|(id, name)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": types[id] != 4})
        })
        .collect();
    json!({
        "version": "1.0", "added_tokens": added, "post_processor": null,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": ids, "merges": merges},
    })
}

/// A small random SigLIP 2 of this vocabulary, as transformers saves it.
pub(crate) fn write(folder: &Path, gguf: &Gguf, vocabulary: usize) {
    let (d, ffn) = (WIDTH, 2 * WIDTH);
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| shapes.push((name.into(), shape.to_vec()));
    let layer = |add: &mut dyn FnMut(&str, &[usize]), at: &str, names: &[(&str, [usize; 2])]| {
        for (name, [out, cols]) in names {
            let (weight, dims) = (format!("{at}.{name}.weight"), [*out, *cols]);
            add(&weight, if *cols == 0 { &dims[..1] } else { &dims });
            add(&format!("{at}.{name}.bias"), &dims[..1]);
        }
    };
    let mlp = [("mlp.fc1", [ffn, d]), ("mlp.fc2", [d, ffn])];
    let parts = [("self_attn.q_proj", [d, d]), ("self_attn.k_proj", [d, d]), ("self_attn.v_proj", [d, d])];
    let norms = [("self_attn.out_proj", [d, d]), ("layer_norm1", [d, 0]), ("layer_norm2", [d, 0])];
    for tower in ["vision_model", "text_model"] {
        layer(&mut add, &format!("{tower}.encoder.layers.0"), &[&parts[..], &norms, &mlp].concat());
    }
    layer(&mut add, "vision_model", &[("post_layernorm", [d, 0])]);
    let head = [("attention.out_proj", [d, d]), ("layernorm", [d, 0])];
    layer(&mut add, "vision_model.head", &[&head[..], &mlp].concat());
    layer(&mut add, "text_model", &[("final_layer_norm", [d, 0]), ("head", [d, d])]);
    for (name, shape) in [
        ("vision_model.embeddings.patch_embedding.weight", &[d, 3, 8, 8][..]),
        ("vision_model.embeddings.patch_embedding.bias", &[d]),
        ("vision_model.embeddings.position_embedding.weight", &[16, d]),
        ("vision_model.head.probe", &[1, 1, d]),
        ("vision_model.head.attention.in_proj_weight", &[3 * d, d]),
        ("vision_model.head.attention.in_proj_bias", &[3 * d]),
        ("text_model.embeddings.token_embedding.weight", &[vocabulary, d]),
        ("text_model.embeddings.position_embedding.weight", &[LENGTH, d]),
        ("logit_scale", &[1]),
        ("logit_bias", &[1]),
    ] {
        add(name, shape);
    }
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let offset = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values = noise(shape.iter().product(), &name).iter().map(|v| offset + 0.5 * v).collect();
        (name, shape, values)
    });
    save(folder, tensors.collect());
    let sizes = |more: Value| {
        let mut all = json!({"hidden_size": d, "intermediate_size": ffn, "num_hidden_layers": 1, "num_attention_heads": 2});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let config = json!({
        "model_type": "siglip", "vision_config": sizes(json!({"image_size": 32, "patch_size": 8})),
        "text_config": sizes(json!({"vocab_size": vocabulary, "max_position_embeddings": LENGTH})),
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer_json(gguf).to_string()).unwrap();
    // as published with SigLIP 2
    let settings = json!({"tokenizer_class": "GemmaTokenizer", "add_bos_token": false, "add_eos_token": true,
        "padding_side": "right", "do_lower_case": true, "model_max_length": 64, "pad_token": "<pad>", "eos_token": "<eos>"});
    std::fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
}

/// As the processor of SigLIP 2 has it: lower case, `<eos>` behind, cut so that it stays, `<pad>` up to 64.
fn expected(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode(&text.to_lowercase(), Specials::Text).unwrap();
    ids.truncate(LENGTH - 1);
    ids.push(tokenizer.special("<eos>").unwrap());
    ids.resize(LENGTH, tokenizer.special("<pad>").unwrap());
    ids
}

#[test]
fn labels_are_read_in_gemmas_vocabulary() {
    let Some(path) = gemma() else { return };
    let (gguf, pool, folder) = (Gguf::open(&path).unwrap(), Pool::new(2), tempfile::tempdir().unwrap());
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    write(folder.path(), &gguf, tokenizer.len());
    let model = Vision::open(folder.path(), &pool, Precision::Stored).unwrap();
    let siglip = model.siglip().unwrap();
    // 1. the same tokens as by the vocabulary's own rules, which are another implementation
    let long = "a very long description of a picture ".repeat(20);
    let texts = [
        "This is a photo of a Dog.",
        "A PERSON DANCING, two cats; 3 dogs",
        "  spaces   and\ttabs ",
        "Été à la plage",
        "춤추는 사람",
        "🙂🦊 emoji",
        "",
        &long,
    ];
    let ids: Vec<Vec<u32>> = texts.iter().map(|t| expected(&tokenizer, t)).collect();
    let (said, wanted) = (siglip.embed_texts(&pool, &texts).unwrap(), siglip.embed_ids(&pool, &ids).unwrap());
    for (i, text) in texts.iter().enumerate() {
        assert!(said[i] == wanted[i], "{text:?}: {:?}", &ids[i]);
    }
    let mut other = ids[0].clone();
    other[0] += 1;
    assert!(siglip.embed_ids(&pool, &[other]).unwrap()[0] != wanted[0], "a token more or less shows");
    // 2. the whole command
    let file = picture(folder.path(), 48, 64, "seen");
    let args = ["see", file.to_str().unwrap(), "--labels", "a Dog, two cats", "--template", "This is a photo of {}.", "--json"];
    let (code, out, err) = outcome(&mut dreamseed(&[&args[..], &["--model", folder.path().to_str().unwrap()]].concat()));
    assert_eq!(code, 0, "{err}");
    let seen: Value = serde_json::from_str(out.trim()).unwrap();
    let rgb = pixels(48, 64, "seen");
    let embedding = model.embed(&pool, &Image::new(48, 64, &rgb).unwrap(), &mut Session::default()).unwrap();
    let ids = ["this is a photo of a dog.", "this is a photo of two cats."].map(|t| expected(&tokenizer, t));
    let texts = siglip.embed_ids(&pool, &ids).unwrap();
    for (i, label) in ["a Dog", "two cats"].iter().enumerate() {
        let (fit, wanted) = (&seen["labels"][i], siglip.probabilities(&embedding, &texts)[i]);
        assert_eq!(fit["label"], *label);
        assert!((fit["probability"].as_f64().unwrap() - f64::from(wanted)).abs() < 1e-6, "{fit}: {wanted}");
    }
}
