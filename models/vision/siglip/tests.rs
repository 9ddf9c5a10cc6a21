use super::super::preprocess::cut;
use super::super::tests::{Case, Golden, golden, noise, picture, relative_error};
use super::*;
use crate::image::Image;

#[test]
fn both_towers_equal_transformers() {
    let Some(folder) = golden("siglip") else { return };
    let (pool, golden) = (Pool::new(2), Golden::open(&folder));
    // 8 bits round a weight and an activation by up to 0.4% of the largest beside it
    for (precision, bound) in [(Precision::Stored, 1e-4), (Precision::Int8, 0.05)] {
        let model = SigLip::open(&folder, &pool, precision).unwrap();
        let (mut hidden, mut pictures, mut state) = (Vec::new(), Vec::new(), State::default());
        for pixels in golden.floats("in.pixel_values").chunks_exact(3 * 32 * 32) {
            let patches = cut(pixels, [32, 32], 8);
            pictures.push(unit(model.pool(&pool, &patches, &model.vit.places(patches.grid), &mut state).unwrap()));
            hidden.extend_from_slice(&state.x);
        }
        let ids: Vec<Vec<u32>> = golden.integers("in.input_ids").chunks_exact(16).map(<[u32]>::to_vec).collect();
        let texts = model.embed_ids(&pool, &ids).unwrap();
        let logits: Vec<f32> = pictures.iter().flat_map(|p| texts.iter().map(|t| model.logit(p, t))).collect();
        let all = [
            (hidden, "out.vision_hidden"),
            (pictures.concat(), "out.image_embeds"),
            (texts.concat(), "out.text_embeds"),
            (logits, "out.logits_per_image"),
        ];
        let errors = all.map(|(x, name)| (name, relative_error(&x, &golden.floats(name))));
        println!("SigLIP {precision:?}: {errors:?}");
        assert!(errors.iter().all(|e| e.1 < bound), "{precision:?}: {errors:?}");
        let shares = model.shares(&pictures[0], &texts);
        assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn pictures_of_any_shape_and_size_equal_transformers() {
    let (pool, mut state) = (Pool::new(2), State::default());
    let ids: Vec<u32> = noise(8, "ids").iter().map(|v| ((f64::from(*v) + 1.0) * 29.9) as u32).collect();
    for name in ["siglip", "siglip2"] {
        let case = Case::open(name);
        let mut model = SigLip::open(case.folder().path(), &pool, Precision::Stored).unwrap();
        let text = model.embed_ids(&pool, std::slice::from_ref(&ids)).unwrap().remove(0);
        let mut errors = vec![relative_error(&text, &unit(case.output("text")))];
        let mut run = |patches: &Patches, name: String| {
            let seen = model.pool(&pool, patches, &model.vit.places(patches.grid), &mut state).unwrap();
            errors.push(relative_error(&seen, &case.output(&name)));
        };
        if name == "siglip" {
            [32, 48].iter().for_each(|s| run(&cut(&noise(3 * s * s, "pixels"), [*s, *s], 8), s.to_string()));
        } else {
            // the whole way of a picture
            let preprocess = Preprocess { size: Size::Patches(24), ..model.preprocess.clone() };
            for (h, w) in [(40, 25), (13, 90)] {
                let patches = preprocess.patches(&Image::new(w as u32, h as u32, &picture(h, w)).unwrap(), 4);
                assert_eq!(patches.grid.map(|g| g as f32)[..], case.output(&format!("{h}x{w}.grid")));
                run(&patches, format!("{h}x{w}"));
            }
        }
        println!("{name}: {errors:?}");
        assert!(errors.iter().all(|e| *e < 1e-4), "{name}: {errors:?}");
        (model.scale, model.bias) = (10.0, -5.0);
        let probability = model.probabilities(&[1.0, 0.0], &[vec![1.0, 0.0], vec![0.0, 1.0], vec![0.5, 0.0]]);
        assert!(
            (probability[0] - 0.993_307).abs() < 1e-5 && (probability[1] - 0.006_693).abs() < 1e-5 && probability[2] == 0.5
        );
    }
}

#[test]
fn a_text_is_lower_case_cut_and_padded() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = r#"{"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}"#;
    let model = format!(r#"{{"type": "BPE", "vocab": {vocabulary}, "merges": []}}"#);
    let json = format!(r#"{{"version": "1.0", "added_tokens": [], "model": {model}}}"#);
    let settings = |text: &str| std::fs::write(folder.path().join("tokenizer_config.json"), text).unwrap();
    assert!(Words::open(folder.path(), 4).unwrap().is_none());
    std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let ids = |text: &str| Words::open(folder.path(), 4).unwrap().unwrap().ids(text, 4).unwrap();
    assert_eq!(ids("AB"), [2, 3, 0, 0]);
    settings(r#"{"add_eos_token": true}"#);
    assert_eq!((ids("AB"), ids("abab"), ids("")), (vec![2, 3, 1, 0], vec![2, 3, 2, 1], vec![1, 0, 0, 0]));
    settings(r#"{"add_eos_token": true, "padding_side": "left"}"#);
    assert_eq!(ids("b"), [0, 0, 3, 1]);
    assert!(Words::open(folder.path(), 1).err().unwrap().to_string().contains("the model has 1"));
}

#[test]
fn a_lying_config_is_refused_with_its_field() {
    let of = |text: &str| {
        let settings: Settings = serde_json::from_str(text).unwrap();
        settings.vision().map(|_| ()).and_then(|()| settings.text().map(|_| ())).err().unwrap_or_default()
    };
    assert_eq!(of(r#"{"model_type": "siglip"}"#), "");
    for (text, want) in [
        (r#"{"model_type": "siglip", "vision_config": {"num_attention_heads": 0}}"#, "vision_config.num_attention_heads is 0"),
        (r#"{"model_type": "siglip", "vision_config": {"num_attention_heads": 7}}"#, "768 is no multiple"),
        (r#"{"model_type": "siglip2", "vision_config": {"num_patches": 255}}"#, "num_patches is 255"),
        (r#"{"model_type": "siglip", "text_config": {"vocab_size": 99999999}}"#, "text_config.vocab_size is 99999999"),
        (r#"{"model_type": "siglip", "text_config": {"projection_size": 5}}"#, "projection_size is 5"),
        (r#"{"model_type": "siglip", "vision_config": {"vision_use_head": false}}"#, "vision_use_head"),
    ] {
        assert!(of(text).contains(want), "{text}: {}", of(text));
    }
}
