//! Damaged and malicious files: an error with a field, never a panic, a hang or a large allocation.

use super::flatfile::{FLOAT32, Model, Obj};
use super::{ADD, CONV_2D, DENSIFY, PAD, RESHAPE, network, options, small, sparsity, with_weights};
use crate::weights::Error;
use dreamseed_kernels::Pool;

/// Opens, and runs what opens and is small: a damaged file may still be a network.
fn survive(bytes: &[u8]) {
    let Ok(net) = network(bytes) else { return };
    if net.macs() < 1 << 20
        && net.session_bytes() < 1 << 22
        && net.inputs().iter().all(|i| i.shape.iter().product::<usize>() < 1 << 16)
    {
        let inputs: Vec<Vec<f32>> = net.inputs().iter().map(|i| vec![0.5; i.shape.iter().product()]).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        net.session().run(&Pool::new(1), &inputs).expect("inputs fit");
    }
}

/// Truncated everywhere, extreme words everywhere, random bytes.
fn damage(file: &[u8], stride: usize, random: usize) {
    for len in (0..file.len()).step_by(stride) {
        survive(&file[..len]);
    }
    let mut bytes = file.to_vec();
    for at in (0..file.len().saturating_sub(4)).step_by(stride) {
        for word in [0u32, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x00FF_FFFF, file.len() as u32] {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            survive(&bytes);
        }
        bytes[at..at + 4].copy_from_slice(&file[at..at + 4]);
    }
    let mut state = 7u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..random {
        let mut bytes = file.to_vec();
        for _ in 0..1 + next(4) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        survive(&bytes);
    }
}

#[test]
fn damaged_files_are_refused_or_run() {
    damage(&small(), 1, 4000);
    let stored: Vec<u8> = [2.0f32, -1.0, 3.0, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    damage(&with_weights(FLOAT32, &stored, sparsity(&[0, 2, 2, 4], &[1, 3, 0, 3]), Some(DENSIFY)), 1, 4000);
}

/// Real networks, where a folder of them is given in DREAMSEED_NETWORKS.
#[test]
fn damaged_real_files_are_refused_or_run() {
    let Some(folder) = std::env::var_os("DREAMSEED_NETWORKS") else {
        eprintln!("skipped: set DREAMSEED_NETWORKS to a folder of .tflite files");
        return;
    };
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "tflite") {
            let bytes = std::fs::read(&path).expect("readable");
            damage(&bytes, bytes.len() / 97, 40);
        }
    }
}

/// The message of the error that a file gives.
fn refusal(bytes: &[u8]) -> String {
    network(bytes).err().expect("refused").to_string()
}

#[test]
fn refusals_name_field_and_offset() {
    assert!(refusal(b"").contains("file_identifier"));
    let file = small();
    match network(&file[..file.len() / 2]).err() {
        Some(Error::Field { format: "tflite", offset, field, .. }) => assert!(!field.is_empty() && offset <= file.len() as u64),
        other => panic!("{other:?}"),
    }
    let mut m = Model::new();
    let (x, y) = (m.tensor("x", &[1, 2, 2, 1]), m.tensor("y", &[1, 2, 2, 1]));
    m.operator(119, &[x], y, vec![]);
    assert!(refusal(&m.bytes(&[x], &[y])).contains("WHILE"), "an operator is refused by its name");
}

#[test]
fn a_small_file_cannot_ask_for_much() {
    // A sparse constant of 2^28 elements with one value.
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 1, 1, 1]);
    let level = |n: i32| Obj::Table(vec![(0, Obj::U8(0)), (1, Obj::I32(n))]);
    let sparse = Obj::Table(vec![(0, Obj::Ints(vec![0])), (2, Obj::List(vec![level(1)]))]);
    let big = m.typed("big", &[1 << 28], FLOAT32, &[0; 4], vec![(6, sparse)]);
    let y = m.tensor("y", &[1 << 28]);
    m.operator(ADD, &[x, big], y, vec![]);
    assert!(refusal(&m.bytes(&[x], &[y])).contains("justifies"));

    // Activations of more than 2^30 bytes, by padding.
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 1, 1, 1]);
    let amounts = m.ints(&[4, 2], &[0, 0, 1 << 23, 0, 1 << 23, 0, 0, 0]);
    let y = m.tensor("y", &[1, 1, 1, 1]);
    m.operator(PAD, &[x, amounts], y, vec![]);
    assert!(refusal(&m.bytes(&[x], &[y])).contains("elements"));
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 1, 1, 1]);
    let mut outputs = vec![];
    for _ in 0..3 {
        let amounts = m.ints(&[4, 2], &[0, 0, 0, (1 << 14) - 1, 0, (1 << 13) - 1, 0, 0]);
        let y = m.tensor("y", &[1, 1, 1, 1]);
        m.operator(PAD, &[x, amounts], y, vec![]);
        outputs.push(y);
    }
    assert!(refusal(&m.bytes(&[x], &outputs)).contains("at most"));

    // A hundred thousand uses of one tensor of weights.
    let mut m = Model::new();
    let mut x = m.tensor("x", &[1, 1, 1, 256]);
    let weights = m.floats(&[256, 1, 1, 256], &vec![0.0; 1 << 16]);
    let input = x;
    for _ in 0..4000 {
        let y = m.tensor("y", &[1, 1, 1, 256]);
        m.operator(CONV_2D, &[x, weights], y, options(1, 0));
        x = y;
    }
    assert!(refusal(&m.bytes(&[input], &[x])).contains("too often"));
}

#[test]
fn wrong_graphs_are_refused() {
    // Used before computed: a cycle of two.
    let mut m = Model::new();
    let (x, a, b) = (m.tensor("x", &[2]), m.tensor("a", &[2]), m.tensor("b", &[2]));
    m.operator(ADD, &[x, b], a, vec![]);
    m.operator(ADD, &[x, a], b, vec![]);
    assert!(refusal(&m.bytes(&[x], &[b])).contains("before it is computed"));
    // Computed twice; an output that nothing computes; a reshape that does not fit; a missing operand; a negative dimension.
    let mut m = Model::new();
    let (x, a) = (m.tensor("x", &[2]), m.tensor("a", &[2]));
    m.operator(ADD, &[x, x], a, vec![]);
    m.operator(ADD, &[x, x], a, vec![]);
    assert!(refusal(&m.bytes(&[x], &[a])).contains("computed before"));
    let mut m = Model::new();
    let (x, a) = (m.tensor("x", &[2]), m.tensor("a", &[2]));
    assert!(refusal(&m.bytes(&[x], &[a])).contains("nothing computes"));
    let mut m = Model::new();
    let (x, shape) = (m.tensor("x", &[6]), m.ints(&[2], &[-1, 4]));
    let a = m.tensor("a", &[6]);
    m.operator(RESHAPE, &[x, shape], a, vec![]);
    assert!(refusal(&m.bytes(&[x], &[a])).contains("reshape"));
    let mut m = Model::new();
    let (x, a) = (m.tensor("x", &[2]), m.tensor("a", &[2]));
    m.operator(ADD, &[x, -1], a, vec![]);
    assert!(refusal(&m.bytes(&[x], &[a])).contains("missing"));
    let mut m = Model::new();
    let (x, a) = (m.tensor("x", &[-2]), m.tensor("a", &[2]));
    m.operator(ADD, &[x, x], a, vec![]);
    assert!(refusal(&m.bytes(&[x], &[a])).contains("Tensor.shape"));
}
