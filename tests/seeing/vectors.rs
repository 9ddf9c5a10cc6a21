//! POST /v1/embeddings with a small random SigLIP 2.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dreamseed_kernels::Pool;
use dreamseed_models::image::Image;
use dreamseed_models::tokenizer::Tokenizer;
use dreamseed_models::vision::{Precision, Session, Vision};
use dreamseed_models::weights::gguf::Gguf;
use serde_json::{Value, json};

use crate::common::server::{Server, parsed};
use crate::labels::{gemma, write};
use crate::{picture, pixels};

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn texts_and_pictures_become_vectors() {
    let Some(path) = gemma() else { return };
    let (gguf, folder, home) = (Gguf::open(&path).unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(folder.path(), &gguf, Tokenizer::from_gguf(&gguf).unwrap().len());
    let manifest = folder.path().join("weights.toml");
    let files = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"];
    let files: Vec<String> = files.iter().map(|f| format!("{{path='{f}'}}")).collect();
    let text = format!(
        "[[model]]\nid='small'\nname='x'\nrole='vision'\nformat='safetensors'\nlicence='x'\nlicence_url='x'\nnotice='x'\n\
         verified=false\nmemory_mb=1\nfiles=[{}]\nsources=[{{kind='local', path='{}'}}]\n\
         [[profile]]\nid='seeing'\nabout='x'\nmodels=['small']\n",
        files.join(", "),
        folder.path().display()
    );
    std::fs::write(&manifest, text).unwrap();
    let server = Server::start(&[
        ("DREAMSEED_WEIGHTS", manifest.to_str().unwrap()),
        ("DREAMSEED_PROFILE", "seeing"),
        ("DREAMSEED_HOME", home.path().to_str().unwrap()),
    ]);
    let ask = |body: Value| {
        let (status, text) = server.post("/v1/embeddings", &body);
        (status, parsed(&text))
    };
    // 1. the model's own vectors
    let file = picture(folder.path(), 48, 64, "seen");
    let uri = format!("data:image/png;base64,{}", STANDARD.encode(std::fs::read(file).unwrap()));
    let (status, answer) = ask(json!({ "model": "small", "input": ["a dog", uri] }));
    assert_eq!(status, 200, "{answer}");
    let pool = Pool::new(2);
    let model = Vision::open(folder.path(), &pool, Precision::Stored).unwrap();
    let said = model.siglip().unwrap().embed_texts(&pool, &["a dog"]).unwrap().remove(0);
    let rgb = pixels(48, 64, "seen");
    let seen = model.embed(&pool, &Image::new(48, 64, &rgb).unwrap(), &mut Session::default()).unwrap();
    let of = |i: usize| numbers(&answer["data"][i]["embedding"]);
    assert!(near(&of(0), &said) && near(&of(1), &seen), "{answer}");
    assert_eq!((&answer["data"][1]["index"], &answer["model"]), (&json!(1), &json!("small")));
    // two words and the end mark; a picture of 32 x 32 in patches of 8
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 3 + 16, "total_tokens": 3 + 16 }));
    // 2. fewer numbers, of unit length again; in base64
    let (_, answer) = ask(json!({ "input": "a dog", "dimensions": 4, "encoding_format": "base64" }));
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let short: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let length = said[..4].iter().map(|v| v * v).sum::<f32>().sqrt();
    assert!(near(&short, &said[..4].iter().map(|v| v / length).collect::<Vec<_>>()), "{short:?} {said:?}");
    // 3. what is wrong
    for (body, param) in [
        (json!({ "input": "a", "dimensions": 17 }), "dimensions"),
        (json!({ "input": "a", "dimensions": 0 }), "dimensions"),
        (json!({ "input": ["a", ""] }), "input[1]"),
        (json!({ "input": "data:image/png;base64,AAAA" }), "input[0]"),
        (json!({ "input": vec!["a"; 257] }), "input"),
    ] {
        let (status, answer) = ask(body);
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
    }
}
