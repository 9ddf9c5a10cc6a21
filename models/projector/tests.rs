//! Small random models that see, held against HF transformers (tests/golden/make_vlm.py), each from both forms of its decoder and from
//! the mmproj file that llama.cpp's converter would write; and files that lie.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use dreamseed_kernels::{BlockType, KvStore, KvType};
use serde_json::Value;

use super::*;
use crate::{
    decoder::{
        Decoder, Error as DecoderError, Logits, Picture, Slice,
        tests::{apart, argmax, noise, open, transformers::Case},
    },
    weights::{Error, gguf::writer::Writer, safetensors},
};

/// Largest difference over largest value, with keys and values in f32.
const ALLOWED: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Cases {
    gemma3: Model,
    qwen3vl: Model,
    scaled: Vec<Scaled>,
}

#[derive(serde::Deserialize)]
struct Model {
    #[serde(flatten)]
    case: Case,
    prompts: Vec<Prompt>,
}

#[derive(serde::Deserialize)]
struct Prompt {
    tokens: Vec<u32>,
    pictures: Vec<Part>,
    greedy: Vec<u32>,
}

#[derive(serde::Deserialize)]
struct Part {
    at: usize,
    size: [usize; 2],
    name: String,
}

#[derive(serde::Deserialize)]
struct Scaled {
    kind: String,
    size: [usize; 2],
    most: Option<usize>,
    shape: Vec<usize>,
}

fn cases() -> (Cases, safetensors::File) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/projector/golden"));
    let mut cases: Cases = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    cases.gemma3.case.prefix = "language_model.".into();
    cases.qwen3vl.case.prefix = "model.language_model.".into();
    (cases, safetensors::File::open(&folder.join("golden.safetensors")).unwrap())
}

fn pixels([height, width]: [usize; 2], name: &str) -> Vec<u8> {
    noise((height * width * 3) as u64, name).into_iter().map(|v| ((v + 1.0) * 128.0) as u8).collect()
}

/// The name that the converter gives a tensor of the tower or the projector.
fn converted(name: &str, deepstack: &[u64]) -> Option<String> {
    let name = name.replace("mm_input_projection_weight", "mm_input_projection.weight");
    let name = name.strip_prefix("vision_tower.").or(name.strip_prefix("model.visual.")).unwrap_or(&name);
    let (part, suffix) = name.rsplit_once('.')?;
    let whole = match part {
        "embeddings.patch_embedding" | "patch_embed.proj" => "v.patch_embd",
        "embeddings.position_embedding" | "pos_embed" => "v.position_embd",
        "post_layernorm" | "merger.norm" => "v.post_ln",
        "multi_modal_projector.mm_input_projection" => "mm.input_projection",
        "multi_modal_projector.mm_soft_emb_norm" => "mm.soft_emb_norm",
        "merger.linear_fc1" => "mm.0",
        "merger.linear_fc2" => "mm.2",
        _ => "",
    };
    if !whole.is_empty() {
        return Some(format!("{whole}.{suffix}"));
    }
    if let Some((i, part)) = part.strip_prefix("deepstack_merger_list.").and_then(|rest| rest.split_once('.')) {
        return Some(format!("v.deepstack.{}.{}.{suffix}", deepstack[i.parse::<usize>().ok()?], part.replace("linear_", "")));
    }
    let (layer, part) = part.strip_prefix("encoder.layers.").or(part.strip_prefix("blocks."))?.split_once('.')?;
    let part = match part {
        "layer_norm1" | "norm1" => "ln1",
        "layer_norm2" | "norm2" => "ln2",
        "mlp.fc1" | "mlp.linear_fc1" => "ffn_up",
        "mlp.fc2" | "mlp.linear_fc2" => "ffn_down",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.out_proj" | "attn.proj" => "attn_out",
        "attn.qkv" => "attn_qkv",
        other => panic!("{other}"),
    };
    Some(format!("v.blk.{layer}.{part}.{suffix}"))
}

/// The mmproj file of a model, as the converter writes it: matrices in f16 if `half`.
fn mmproj(case: &Case, half: bool) -> Writer {
    let vision = &case.config["vision_config"];
    let field = |names: [&str; 2]| names.iter().find_map(|n| vision[*n].as_u64()).unwrap() as u32;
    let gemma = case.config["model_type"] == "gemma3";
    let mut w = Writer::default()
        .str("general.architecture", "clip")
        .str("clip.projector_type", if gemma { "gemma3" } else { "qwen3vl_merger" })
        .bool("clip.has_vision_encoder", true)
        .bool("clip.use_gelu", true)
        .f32("clip.vision.attention.layer_norm_epsilon", 1e-6)
        .f32s("clip.vision.image_mean", &[0.5; 3])
        .f32s("clip.vision.image_std", &[0.5; 3])
        .u32("clip.vision.projection_dim", 32)
        .u32("clip.vision.image_size", 48);
    for (key, names) in [
        ("patch_size", ["patch_size"; 2]),
        ("embedding_length", ["hidden_size"; 2]),
        ("feed_forward_length", ["intermediate_size"; 2]),
        ("block_count", ["num_hidden_layers", "depth"]),
        ("attention.head_count", ["num_attention_heads", "num_heads"]),
    ] {
        w = w.u32(&format!("clip.vision.{key}"), field(names));
    }
    let deepstack: Vec<u64> =
        vision["deepstack_visual_indexes"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    w = if gemma {
        w.u32("clip.vision.projector.scale_factor", 2)
    } else {
        let flags: Vec<bool> = (0..u64::from(field(["depth"; 2]))).map(|i| deepstack.contains(&i)).collect();
        w.u32("clip.vision.spatial_merge_size", 2)
            .u32("clip.vision.image_min_pixels", 256)
            .bools("clip.vision.is_deepstack_layers", &flags)
    };
    for (name, (shape, ..)) in case.tensors.iter().filter(|(name, _)| !name.contains("language_model.")) {
        let mut values = case.values(name);
        let gguf = converted(name, &deepstack).unwrap();
        if gguf.contains("soft_emb_norm") {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        let mut add = |name: &str, shape: &[usize], values: &[f32]| {
            let dims: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
            let writer = std::mem::take(&mut w);
            w = if half && shape.len() > 1 && !name.contains("_embd") {
                let bytes = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
                writer.blocks(name, &dims, BlockType::F16, bytes)
            } else {
                writer.tensor(name, &dims, values)
            };
        };
        if let [out, channels, 2, p, _] = shape[..] {
            for (time, name) in [(0, gguf.clone()), (1, format!("{gguf}.1"))] {
                let planes = values.chunks_exact(p * p).skip(time).step_by(2);
                add(&name, &[out, channels, p, p], &planes.flatten().copied().collect::<Vec<_>>());
            }
        } else {
            add(&gguf, shape, &values);
        }
    }
    w
}

fn projector(writer: &Writer) -> Result<Projector> {
    let (_dir, path) = writer.file();
    Projector::open(&path)
}

fn pictures(pool: &Pool, projector: &Projector, parts: &[Part]) -> Vec<Picture> {
    let picture = |part: &Part| {
        let ([height, width], rgb) = (part.size, pixels(part.size, &part.name));
        let image = Image::new(width as u32, height as u32, &rgb).unwrap();
        Picture { at: part.at, features: Arc::new(projector.encode(pool, &image, 4096).unwrap()) }
    };
    parts.iter().map(picture).collect()
}

/// How far the logits of a prompt are from the golden ones; the continuation must be the same.
fn compare(pool: &Pool, decoder: &Decoder, prompt: &Prompt, pictures: &[Picture], wanted: &[f32], what: &str) -> f32 {
    let mut state = decoder.new_state_in(KvType::F32, 128);
    let logits = decoder.forward_with(pool, &mut state, &prompt.tokens, pictures, Logits::All).unwrap();
    let error = apart(wanted, logits);
    let mut next = argmax(&logits[logits.len() - decoder.config().vocab..]);
    let mut greedy = vec![next];
    while greedy.len() < prompt.greedy.len() {
        next = argmax(decoder.forward(pool, &mut state, &[next], Logits::Last).unwrap());
        greedy.push(next);
    }
    assert!(greedy == prompt.greedy, "{what}: {error} apart, then {greedy:?}, not {:?}", prompt.greedy);
    error
}

#[test]
fn models_that_see_equal_transformers_from_both_forms() {
    let ((cases, golden), pool) = (cases(), Pool::new(2));
    let mut seen = Vec::new();
    for (name, model) in [("gemma3", &cases.gemma3), ("qwen3vl", &cases.qwen3vl)] {
        let folder = model.case.folder();
        let decoders =
            [("a folder", Decoder::open(folder.path(), &pool).unwrap()), ("GGUF", open(&model.case.gguf().unwrap()).unwrap())];
        let projector = projector(&mmproj(&model.case, false)).unwrap();
        for (i, prompt) in model.prompts.iter().enumerate() {
            let wanted = golden.tensor(&format!("{name}.{i}")).unwrap().values.into_f32();
            let pictures = pictures(&pool, &projector, &prompt.pictures);
            for (form, decoder) in &decoders {
                let what = format!("{name} from {form}, prompt {i}");
                seen.push((compare(&pool, decoder, prompt, &pictures, &wanted, &what), what));
            }
        }
    }
    seen.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert!(seen.len() == 14 && seen[0].0 < ALLOWED, "allowed are {ALLOWED}: {seen:#?}");
}

#[test]
fn towers_in_half_precision_and_swapped_names_are_read() {
    let ((cases, golden), pool) = (cases(), Pool::new(2));
    for (name, model) in [("gemma3", &cases.gemma3), ("qwen3vl", &cases.qwen3vl)] {
        let (decoder, prompt) = (open(&model.case.gguf().unwrap()).unwrap(), &model.prompts[1]);
        let wanted = golden.tensor(&format!("{name}.1")).unwrap().values.into_f32();
        let writer = mmproj(&model.case, true);
        let seen = pictures(&pool, &projector(&writer).unwrap(), &prompt.pictures);
        let error = compare(&pool, &decoder, prompt, &seen, &wanted, name);
        assert!(error < 5e-3, "{name}: {error}");
        let swap = |name: String| match (name.contains("ffn_up"), name.contains("ffn_down")) {
            (true, _) => name.replace("ffn_up", "ffn_down"),
            (_, true) => name.replace("ffn_down", "ffn_up"),
            _ => name,
        };
        assert_eq!(pictures(&pool, &projector(&writer.renamed(swap)).unwrap(), &prompt.pictures), seen, "{name}");
    }
}

/// What the goldens would not show: a model that takes its pictures' places, sight or inner features otherwise is far from them.
#[test]
fn what_makes_a_model_see_shows_in_the_logits() {
    let ((cases, golden), pool) = (cases(), Pool::new(2));
    for (name, model) in [("gemma3", &cases.gemma3), ("qwen3vl", &cases.qwen3vl)] {
        let prompt = &model.prompts[1];
        let wanted = golden.tensor(&format!("{name}.1")).unwrap().values.into_f32();
        let folder = model.case.folder();
        let projector = projector(&mmproj(&model.case, false)).unwrap();
        let right = pictures(&pool, &projector, &prompt.pictures);
        let run = |decoder: &Decoder, pictures: &[Picture]| {
            let mut state = decoder.new_state_in(KvType::F32, 128);
            apart(&wanted, decoder.forward_with(&pool, &mut state, &prompt.tokens, pictures, Logits::All).unwrap())
        };
        let decoder = Decoder::open(folder.path(), &pool).unwrap();
        let changed = |change: &dyn Fn(&mut Features)| {
            let mut all = right.clone();
            all.iter_mut().for_each(|p| change(Arc::make_mut(&mut p.features)));
            run(&decoder, &all)
        };
        let mut errors = vec![changed(&|f| f.rows.fill(0.0)), changed(&|f| f.rows.rotate_left(32))];
        if name == "qwen3vl" {
            errors.extend([
                changed(&|f| f.deep.fill(0.0)),
                changed(&|f| f.grid.swap(0, 1)),
                changed(&|f| f.grid = [f.rows.len() / 32, 1]),
            ]);
        }
        assert!(errors.iter().all(|e| *e > 10.0 * ALLOWED), "{name}: {errors:?}");
    }
}

#[test]
fn passes_may_cut_a_prompt_anywhere_but_through_whole_pictures() {
    let ((cases, _), pool) = (cases(), Pool::new(2));
    for model in [&cases.gemma3, &cases.qwen3vl] {
        let (decoder, prompt) = (open(&model.case.gguf().unwrap()).unwrap(), &model.prompts[1]);
        let seen = pictures(&pool, &projector(&mmproj(&model.case, false)).unwrap(), &prompt.pictures);
        let together = decoder.config().whole_pictures;
        let run = |cuts: &[usize]| {
            let mut store = KvStore::new(decoder.config().kv_shape(KvType::F32));
            store.reserve(1);
            let (mut workspace, mut past, mut logits) = (decoder.workspace(64), 0, Vec::new());
            for &end in cuts {
                let tokens = &prompt.tokens[past..end];
                let slice = Slice { tokens, past, context: 128, blocks: &[0], logits: Logits::All, pictures: &seen };
                logits.extend_from_slice(decoder.run(&pool, &mut workspace, &mut store, &[slice])?);
                past = end;
            }
            Ok::<_, DecoderError>(logits)
        };
        let n = prompt.tokens.len();
        let all = run(&[n]).unwrap();
        for cut in 1..n {
            let inside = seen.iter().any(|p| p.at < cut && cut < p.end());
            match run(&[cut, n]) {
                Ok(logits) => assert!(logits == all && !(together && inside), "{cut}"),
                Err(e) => assert!(matches!(e, DecoderError::Picture { .. }) && together && inside, "{cut}: {e}"),
            }
            assert_eq!(crate::decoder::whole(&seen, 0, cut) == cut, !inside);
        }
        let mut state = decoder.new_state_in(KvType::F32, 128);
        decoder.forward_with(&pool, &mut state, &prompt.tokens, &seen, Logits::None).unwrap();
        state.truncate(seen[1].end() - 1);
        assert_eq!(state.len(), seen[1].at);
        let rest = decoder.forward_with(&pool, &mut state, &prompt.tokens[seen[1].at..], &seen[1..], Logits::Last).unwrap();
        assert_eq!(rest, &all[all.len() - rest.len()..]);
    }
}

#[test]
fn features_of_another_model_are_refused() {
    let ((cases, _), pool) = (cases(), Pool::new(1));
    let decoder = open(&cases.qwen3vl.case.gguf().unwrap()).unwrap();
    let features = |grid, rows, deep| Arc::new(Features { grid, rows: vec![0.0; rows], deep: vec![0.0; deep] });
    let mut state = decoder.new_state(64);
    for pictures in [
        vec![Picture { at: 0, features: features([1, 2], 64, 64) }],
        vec![Picture { at: 0, features: features([1, 2], 63, 128) }],
        vec![Picture { at: 0, features: features([0, 2], 0, 0) }],
        vec![Picture { at: 0, features: features([usize::MAX, 2], 64, 128) }],
        vec![Picture { at: 1, features: features([1, 2], 64, 128) }, Picture { at: 2, features: features([1, 1], 32, 64) }],
    ] {
        let refused = decoder.forward_with(&pool, &mut state, &[1; 5], &pictures, Logits::Last);
        assert!(matches!(refused, Err(DecoderError::Picture { .. })), "{pictures:?}");
        assert!(state.is_empty());
    }
}

#[test]
fn pictures_are_scaled_as_the_models_preprocessors_do() {
    let ((cases, golden), pool) = (cases(), Pool::new(2));
    for (i, s) in cases.scaled.iter().enumerate() {
        let model = if s.kind == "gemma3" { &cases.gemma3 } else { &cases.qwen3vl };
        let mut config = projector(&mmproj(&model.case, false)).unwrap().config;
        config.pixels = [16 * 256, MAX_PIXELS_OF_TEST];
        let rgb = pixels(s.size, &format!("scaled {} [{}, {}]", s.kind, s.size[0], s.size[1]));
        let image = Image::new(s.size[1] as u32, s.size[0] as u32, &rgb).unwrap();
        let size = config.scaled(s.size, s.most.unwrap_or(usize::MAX)).unwrap();
        let patches = config.patches(&pool, &image, size);
        let wanted = golden.bytes(&format!("scaled.{i}")).unwrap();
        let p = config.patch;
        // As bytes, and in the preprocessor's order: it repeats each plane for two moments, Gemma's does not cut patches.
        let byte = |v: f32| ((v * 0.5 + 0.5) * 255.0).round() as i32;
        let got: Vec<i32> = if s.kind == "gemma3" {
            let at = |c: usize, y: usize, x: usize| {
                patches.values[(((y / p * patches.grid[1] + x / p) * 3 + c) * p + y % p) * p + x % p]
            };
            (0..3 * 48 * 48).map(|i| byte(at(i / (48 * 48), i / 48 % 48, i % 48))).collect()
        } else {
            patches.values.chunks_exact(p * p).flat_map(|plane| [plane, plane].concat()).map(byte).collect()
        };
        assert_eq!(got.len(), s.shape.iter().product::<usize>(), "{} {:?}: {:?}", s.kind, s.size, patches.grid);
        let apart: Vec<u32> = got.iter().zip(&wanted).map(|(a, b)| a.abs_diff(i32::from(*b))).collect();
        let (most, differ) = (apart.iter().max().unwrap(), apart.iter().filter(|d| **d > 0).count());
        assert!(
            *most <= 1 && differ * 10 < apart.len(),
            "{} {:?}: {most} at most, {differ} of {}",
            s.kind,
            s.size,
            apart.len()
        );
    }
}

/// No bound in the tests of scaling.
const MAX_PIXELS_OF_TEST: usize = 1 << 24;

#[test]
fn lines_are_no_pictures() {
    let (cases, _) = cases();
    let projector = projector(&mmproj(&cases.qwen3vl.case, false)).unwrap();
    assert!(projector.grid(1, 201, 100).unwrap_err().to_string().contains("200 times"));
    let [rows, columns] = projector.grid(3000, 4000, 100).unwrap();
    assert!(rows * columns <= 100 && rows * columns > 80, "{rows} x {columns}");
}

#[test]
fn files_that_lie_are_refused() {
    let (cases, _) = cases();
    let mut told = BTreeMap::new();
    for (kind, case) in [("gemma3", &cases.gemma3.case), ("qwen3vl", &cases.qwen3vl.case)] {
        let sound = mmproj(case, false);
        let refusal = |w: &Writer| projector(w).err().unwrap_or_else(|| panic!("{kind} is to be refused")).to_string();
        for (key, values) in [
            ("patch_size", &[0u32, 1, 7, u32::MAX][..]),
            ("image_size", &[0, 1, 4800, u32::MAX]),
            ("embedding_length", &[0, 8, 1 << 17, u32::MAX]),
            ("feed_forward_length", &[0, 39, u32::MAX]),
            ("block_count", &[0, 1, 5, 1 << 20, u32::MAX]),
            ("attention.head_count", &[0, 7, 1 << 17]),
            ("projection_dim", &[0, 33, u32::MAX]),
        ] {
            for v in values {
                told.insert(
                    format!("{kind} {key} {v}"),
                    refusal(&sound.clone().replaced_u32(&format!("clip.vision.{key}"), *v)),
                );
            }
        }
        for name in sound.f32_tensors().into_iter().map(|t| t.0) {
            let message = refusal(&sound.clone().without(&name));
            assert!(message.contains(&name) || message.contains("attn_q"), "{name}: {message}");
        }
        assert!(refusal(&sound.clone().tensor("v.class_embd", &[4], &[0.0; 4])).contains("v.class_embd"));
    }
    assert!(told.values().all(|m| m.contains("clip.vision") || m.contains("tensor")), "{told:#?}");
    let other = Writer::default().str("general.architecture", "clip").str("clip.projector_type", "ldpv2");
    assert!(matches!(projector(&other), Err(Error::Unsupported(e)) if e.contains("ldpv2") && e.contains("qwen3vl_merger")));
    let llm = Writer::default().str("general.architecture", "llama");
    assert!(matches!(projector(&llm), Err(Error::Unsupported(e)) if e.contains("mmproj")));
}
