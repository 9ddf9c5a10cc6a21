use super::{fit::fit, gpu::find, memory::*, shape::Shape, *};
use crate::config::Cache;

/// Sequences of so many positions, in f16.
fn wish(sequences: u64, positions: u64) -> Wish {
    Wish { sequences, positions, cache: Cache::F16 }
}

fn place(name: &str) -> Place {
    let gpu = find(name).unwrap();
    Place { free: gpu.memory, gpu }
}

fn on(gpu: &str, model: &str, draft: Option<&Draft>) -> Plan {
    let (places, shape) = ([place(gpu)], Shape::published(model).unwrap());
    let wished = wish(1, 8192);
    plan(&fit().unwrap().costs, &Request { places: &places, shape: &shape, wish: wished, draft })
}

/// Buffers counted by hand for a small model: what the decoder's `State` allocates.
#[test]
fn the_workspace_is_that_of_the_decoder() {
    let mut config = Shape::published("llama3-8b-q4_k_m").unwrap().config;
    (config.dim, config.hidden, config.vocab, config.layers) = (64, 96, 100, 2);
    (config.heads, config.kv_heads, config.head_dim, config.rope.dims) = (4, 2, 16, 16);
    let floats = 512 * (64 + 64 + 64 + 64 + 32 + 32 + 96); // x h q attended k v gate
    let codes = 512 * ((64 + 64 + 96) + (2 + 2 + 3) * 8);
    let partial = 8 * 4 * 3 * (16 + 2) + 8 * 4; // 3 blocks: not more than 3 splits
    let inputs = 4 * 512 + 3 * 64 + 64 * 3; // of rows; spans and tables of sequences
    let turns = 2 * 3 * 128 * 8;
    let head = 32 * (64 + 100) + 32 + (6 + 2) * 32; // rows gathered, logits; which; how a token is chosen, and which
    let whole = Part::whole(&config);
    assert_eq!(workspace(&config, whole, 10, 3), 4 * (floats + partial + inputs + turns + head) + codes);
    assert_eq!(workspace(&config, Part { ends: false, ..whole }, 10, 3), 4 * (floats + partial + inputs + turns) + codes);
    // of a head over two GPUs: 64 columns, which are 50 up to the next 16, by itself and gathered of both
    let cut = workspace(&config, Part { over: 2, ..whole }, 10, 3) - workspace(&config, whole, 10, 3);
    assert_eq!(cut, 4 * 32 * 64 * 3);
    // a width that is no multiple of 32 has no codes, but for what attention gives
    config.dim = 60;
    let codes = 512 * ((64 + 96) + (2 + 3) * 8);
    let head = head - 32 * 4;
    assert_eq!(workspace(&config, whole, 10, 3), 4 * (floats - 512 * 8 + partial + inputs + turns + head) + codes);
}

#[test]
fn parts_of_every_layer_are_all_of_it_together() {
    for (model, parts) in [("qwen3-8b-q4_k_m", 2), ("qwen3-8b-q8_0", 4), ("llama3.3-70b-q4_k_m", 8)] {
        let Shape { config, weights, .. } = Shape::published(model).unwrap();
        let own = tensor::part(&config, parts).unwrap();
        let all: Vec<_> = (0..parts).map(|i| weights.part(&config, &own, (i, parts))).collect();
        let sum = |of: &dyn Fn(&shape::Weights) -> u64| all.iter().map(of).sum::<u64>();
        let more = parts as u64 - 1; // of what is whole on each
        let cut = weights.cut[0];
        assert_eq!(sum(&|w| w.layers[0]), weights.layers[0] + more * (weights.layers[0] - cut.heads - cut.hidden), "{model}");
        // rows of the head are even but for those that make 16s of them
        let head = weights.head + more * 4 * config.dim as u64;
        assert!(sum(&|w| w.head).abs_diff(head) <= parts as u64, "{model}");
        assert_eq!(sum(&|w| w.embeddings), parts as u64 * weights.embeddings, "{model}");
    }
    // a bias of what is summed is the first part's
    let mut weights = Shape::published("qwen3-8b-q8_0").unwrap().weights;
    let config = Shape::published("qwen3-8b-q8_0").unwrap().config;
    let own = tensor::part(&config, 2).unwrap();
    (weights.layers[3], weights.cut[3]) = (100, shape::Cut { heads: 40, hidden: 20, first: 8 });
    assert_eq!([0, 1].map(|i| weights.part(&config, &own, (i, 2)).layers[3]), [32 + 8 + 20 + 10, 32 + 20 + 10]);
}

#[test]
fn a_budget_fits_to_the_byte() {
    let shape = Shape::published("qwen3-8b-q4_k_m").unwrap();
    let (config, weights) = (&shape.config, shape.weights.total());
    let wished = wish(3, 1000);
    let exact = need(config, Part::whole(config), weights, 82, wished).total();
    let fit = budget(exact, config, weights, 82, wished).unwrap();
    assert_eq!((fit.blocks, fit.need.kv), (24, 24 * 36 * 8 * 2 * 128 * 128 * 2));
    assert_eq!((fit.most_positions, fit.most_sequences), (1024, 3)); // blocks are whole
    let Err(Refusal::Context { needed, free, most_positions, most_sequences, .. }) =
        budget(exact - 1, config, weights, 82, wished)
    else {
        panic!("a byte too few")
    };
    assert_eq!((needed, free, most_positions, most_sequences), (exact, exact - 1, 896, 2));
    let refused = budget(weights, config, weights, 82, wished).unwrap_err();
    assert!(matches!(refused, Refusal::Weights { .. }) && refused.to_string().contains("smaller model"), "{refused}");
}

#[test]
fn impossible_wishes_are_refused_and_nothing_overflows() {
    let shape = Shape::published("qwen3-8b-q4_k_m").unwrap();
    for (sequences, positions) in [(0, 1), (1, 0), (1, 40_961), (u64::MAX, u64::MAX)] {
        let refused = budget(1 << 40, &shape.config, 0, 82, wish(sequences, positions)).unwrap_err();
        assert!(matches!(refused, Refusal::Wish { context: 40_960, .. }), "{refused}");
    }
    let mut config = shape.config;
    let huge = 1 << 30;
    (config.dim, config.hidden, config.vocab, config.layers, config.context) = (huge, huge, huge, huge, huge);
    (config.heads, config.kv_heads, config.head_dim) = (huge, huge, huge);
    let wished = wish(u64::MAX, 1 << 30);
    assert!(budget(u64::MAX - 1, &config, u64::MAX, 170, wished).is_err());
}

#[test]
fn tiers_fit_where_their_profiles_say() {
    for (gpu, model, fits) in [
        ("rtx5090", "qwen3-8b-q8_0", true),
        ("rtx5090", "qwen3-32b-q4_k_m", true),
        ("rtx5090", "llama3.3-70b-q4_k_m", false),
        ("a100-40gb", "llama3.3-70b-q3_k_m", true),
        ("a100-40gb", "llama3.3-70b-q4_k_m", false),
        ("a100-80gb", "llama3.3-70b-q4_k_m", true),
        ("a2000", "qwen3-8b-q4_k_m", true),
        ("a2000", "qwen3-14b-q4_k_m", true),
        ("a2000", "qwen3-32b-q4_k_m", false),
    ] {
        let plan = on(gpu, model, None);
        assert_eq!(plan.fits(), fits, "{gpu} {model}: {:?}", plan.problem);
        assert!(plan.tokens_per_second[0] < plan.tokens_per_second[1] && plan.tokens_per_second[0] > 1.0);
    }
}

#[test]
fn good_guesses_help_and_bad_ones_do_not() {
    let draft = |acceptance| Draft { shape: Shape::published("qwen3-0.6b-q8_0").unwrap(), acceptance, guesses: 3 };
    let (good, bad) =
        (on("rtx5090", "qwen3-32b-q4_k_m", Some(&draft(0.9))), on("rtx5090", "qwen3-32b-q4_k_m", Some(&draft(0.0))));
    assert!(good.speculative.unwrap()[0] > good.tokens_per_second[0], "{good:?}");
    assert!(bad.speculative.unwrap()[1] < bad.tokens_per_second[1], "{bad:?}");
    assert!(good.devices[0].draft > 600_000_000);
}

#[test]
fn two_gpus_hold_what_one_cannot() {
    let (places, shape) = ([place("rtx5090"), place("rtx5090")], Shape::published("llama3.3-70b-q4_k_m").unwrap());
    let wished = wish(1, 8192);
    let two = plan(&fit().unwrap().costs, &Request { places: &places, shape: &shape, wish: wished, draft: None });
    assert!(two.fits() && two.devices.len() == 2, "{:?}", two.problem);
    assert_eq!((two.devices[0].layers[0], two.devices[1].layers[1]), (0, 80));
    assert_eq!(two.devices[0].layers[1], two.devices[1].layers[0]);
}
