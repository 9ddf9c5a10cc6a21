//! TensorFlow.js models.

use super::super::Network;
use super::{close, conv, run, steps};
use std::path::PathBuf;

/// A folder with a model of `nodes` (JSON) and float weights; gone when dropped.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(nodes: &str, manifest: &str, weights: &[f32]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let outputs = r#"{"y": {"name": "Identity:0"}}"#;
        let json = format!(
            r#"{{"modelTopology": {{"node": [{nodes}]}}, "weightsManifest": [{manifest}], "signature": {{"outputs": {outputs}}}}}"#
        );
        std::fs::write(folder.path().join("model.json"), json).expect("written");
        let bytes: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(folder.path().join("a.bin"), &bytes[..bytes.len() / 2]).expect("written");
        std::fs::write(folder.path().join("b.bin"), &bytes[bytes.len() / 2..]).expect("written");
        Self(folder)
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model.json")
    }

    fn refusal(&self) -> String {
        Network::open(&self.model()).err().expect("refused").to_string()
    }
}

const MANIFEST: &str = r#"{"paths": ["a.bin", "b.bin"], "weights": [{"name": "w", "shape": [3, 3, 2, 5], "dtype": "float32"},
    {"name": "b", "shape": [5], "dtype": "float32"}]}"#;

/// "BiasAdd", "Relu6", "SAME" are in base64; the nodes are not in order.
const NODES: &str = r#"
    {"name": "Identity", "op": "Identity", "input": ["conv"]},
    {"name": "conv", "op": "_FusedConv2D", "input": ["x", "w", "b", "^x"], "attr": {"strides": {"list": {"i": ["1", "2", "2", "1"]}},
        "padding": {"s": "U0FNRQ=="}, "fused_ops": {"list": {"s": ["Qmlhc0FkZA==", "UmVsdTY="]}}}},
    {"name": "w", "op": "Const"}, {"name": "b", "op": "Const"},
    {"name": "x", "op": "Placeholder", "attr": {"shape": {"shape": {"dim": [{"size": "-1"}, {"size": "6"}, {"size": 5}, {"size": "2"}]}}}}"#;

fn weights() -> Vec<f32> {
    [steps(90, 1), vec![0.5, 0.0, -0.5, 1.0, 2.0]].concat()
}

#[test]
fn a_convolution_equals_its_sums() {
    let folder = Folder::new(NODES, MANIFEST, &weights());
    let net = Network::open(&folder.model()).expect("sound");
    assert_eq!((net.inputs()[0].shape.as_slice(), net.outputs()[0].name.as_str()), (&[1, 6, 5, 2][..], "y"));
    let (x, w) = (steps(60, 2), steps(90, 1));
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    // (h, w, in, out) to (out, h, w, in)
    let turned: Vec<f32> = (0..90).map(|i| w[i % 18 * 5 + i / 18]).collect();
    let mut sums = conv(&wide, [6, 5, 2], &turned, 5, 3, 2);
    sums.iter_mut().enumerate().for_each(|(i, v)| *v = (*v + [0.5, 0.0, -0.5, 1.0, 2.0][i % 5]).clamp(0.0, 6.0));
    close(&run(&net, &[&x])[0], &sums);
}

#[test]
fn quantized_weights_are_scaled() {
    let manifest = r#"{"paths": ["a.bin", "b.bin"], "weights": [
        {"name": "w", "shape": [4], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0}}]}"#;
    let nodes = r#"{"name": "x", "op": "Placeholder", "attr": {"shape": {"shape": {"dim": [{"size": 4}]}}}}, {"name": "w", "op": "Const"},
        {"name": "Identity", "op": "AddV2", "input": ["x", "w"]}"#;
    let folder = Folder::new(nodes, manifest, &[f32::from_le_bytes([0, 1, 2, 255])]);
    let net = Network::open(&folder.model()).expect("sound");
    assert_eq!(run(&net, &[&[0.0; 4]])[0], [-1.0, -0.5, 0.0, 126.5]);
}

#[test]
fn wrong_models_are_refused() {
    let refusal = |nodes: &str, manifest: &str| Folder::new(nodes, manifest, &weights()).refusal();
    let cycle = NODES.replace(r#""input": ["x","#, r#""input": ["Identity","#);
    assert!(refusal(&cycle, MANIFEST).contains("cycle"));
    assert!(refusal(&NODES.replace("_FusedConv2D", "Switch"), MANIFEST).contains("Switch is not among"));
    assert!(refusal(&NODES.replace(r#"["x", "w""#, r#"["x", "q""#), MANIFEST).contains("not in the graph"));
    assert!(refusal(NODES, &MANIFEST.replace("b.bin", "../b.bin")).contains("plain file name"));
    assert!(refusal(NODES, &MANIFEST.replace("[5]", "[6]")).contains("shards end"));
    assert!(refusal(NODES, &MANIFEST.replace("[5]", "[4]")).contains("weights end here"));
    assert!(refusal(NODES, &MANIFEST.replace("[3, 3, 2, 5]", "[18446744073709551615, 9, 9, 9]")).contains("shape"));
    assert!(refusal(NODES, &MANIFEST.replace("\"b\"", "\"c\"")).contains("without weights"));
    assert!(refusal(&NODES.replace(r#"{"size": 5}"#, r#"{"size": -1}"#), MANIFEST).contains("fixed shape"));
    let deep = format!(r#"{{"name": "x", "op": "Placeholder", "attr": {{"a": {{"s": {}"#, "[".repeat(100_000));
    assert!(refusal(&deep, MANIFEST).contains("recursion limit"));
}

#[test]
fn damaged_models_are_refused_or_run() {
    let folder = Folder::new(NODES, MANIFEST, &weights());
    let json = std::fs::read(folder.model()).expect("readable");
    let mut state = 3u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let attempt = |bytes: &[u8]| {
        if let Ok(net) = crate::weights::tfjs::read(&folder.model(), bytes, &[]).and_then(Network::build)
            && net.macs() < 1 << 20
            && net.session_bytes() < 1 << 22
        {
            let x = vec![0.5; net.inputs().first().map_or(0, |i| i.shape.iter().product())];
            // A digit more in a shape is still a sound model, but another one.
            let _ = net.session().run(&dreamseed_kernels::Pool::new(1), &[&x]);
        }
    };
    for len in 0..json.len() {
        attempt(&json[..len]);
    }
    for _ in 0..3000 {
        let mut bytes = json.clone();
        for _ in 0..1 + next(3) {
            let at = next(bytes.len());
            bytes[at] = b"0123456789-,:[]{}\"aZ"[next(20)];
        }
        attempt(&bytes);
    }
}
