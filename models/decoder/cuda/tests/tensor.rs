//! Every layer cut over all devices there are. They need NCCL beside the driver: `tests/cuda.sh` has a double of it.

use dreamseed_kernels::cuda::Chosen;

use super::*;
use crate::decoder::shards::tests::quantized;
use candle_core::quantized::GgmlDType;

/// Of four heads of keys and values; a feed-forward width of five 32s, which are not divided evenly; a vocabulary of which the last part
/// has less.
const EVEN: Size = Size { dim: 64, hidden: 160, heads: 8, kv_heads: 4, head_dim: 16, vocab: 50, layers: 3 };

/// At least two.
fn several() -> Vec<Device> {
    let devices = devices();
    assert!(devices.len() >= 2, "{} devices; at least two are needed", devices.len());
    devices
}

fn slice<'a>(tokens: &'a [u32], past: usize, blocks: &'a [u32], logits: Logits) -> Slice<'a> {
    Slice { tokens, past, context: 256, blocks, logits, pictures: &[] }
}

/// Prompts of two sequences in pieces, tokens of both, more rows than a head takes, and a fork.
fn passes(tokens: &[u32]) -> Vec<Vec<Slice<'_>>> {
    vec![
        vec![slice(&tokens[..50], 0, &[3, 1], Logits::None), slice(&tokens[..7], 0, &[2], Logits::Last)],
        vec![slice(&tokens[7..8], 7, &[2], Logits::Last), slice(&tokens[50..120], 50, &[3, 1], Logits::All)],
        vec![slice(&tokens[120..121], 120, &[3, 1], Logits::Last), slice(&tokens[8..12], 8, &[2], Logits::All)],
        vec![slice(&tokens[121..122], 121, &[3, 1], Logits::Last)],
        vec![slice(&tokens[130..132], 60, &[3], Logits::Last)],
    ]
}

/// The same passes on the processor, on one device and over all: logits, and tokens chosen by them. `bound`: of what is apart from one
/// device.
fn held_to_one(arch: &str, path: &Path, devices: &[Device], bound: f32) {
    let pool = Pool::new(2);
    let (cpu, gguf) = (decoder::Decoder::open(path, &pool).unwrap(), Gguf::open(path).unwrap());
    let one = Decoder::open(&devices[0], path, &pool).unwrap();
    let all = Decoder::from_gguf_over(Layout::Tensor(devices), &gguf, &pool).unwrap();
    assert_eq!((all.parameters(), all.devices().len(), all.is_cut()), (one.parameters(), devices.len(), true));
    let (mut store, mut workspace) = (KvStore::new(cpu.config().kv_shape(KvType::F16)), cpu.workspace(128));
    store.reserve(4);
    let (mut alone, mut state) = (one.state(capacity(4, true)).unwrap(), all.state(capacity(1, true)).unwrap());
    let [mut plain, mut choosing] = [false, true].map(|graphs| all.state(capacity(4, graphs)).unwrap());
    all.grow(&mut state, 4).unwrap();
    let (vocab, n) = (cpu.config().vocab, cpu.config().vocab as u32);
    let tokens: Vec<u32> = (0..150).map(|i| i * 13 % n.min(50)).collect();
    for (i, pass) in passes(&tokens).iter().enumerate() {
        let want = cpu.run(&pool, &mut workspace, &mut store, pass).unwrap();
        let got = all.run(&mut state, pass).unwrap();
        let single = one.run(&mut alone, pass).unwrap();
        assert_eq!(single.len(), got.len());
        // from the processor as far as one device is, where that is farther
        let (rounding, apart_one, apart_cpu) = (apart(want, single), apart(single, got), apart(want, got));
        let near = apart_one < bound && apart_cpu < bound.max(2.0 * rounding);
        assert!(near || got.is_empty(), "{arch} pass {i}: {apart_one} from one device, {apart_cpu} from the CPU, {rounding}");
        // a replayed graph gives what the launches themselves give, and all have the logits of all
        assert_eq!(all.run(&mut plain, pass).unwrap(), got, "{arch} pass {i}");
        let best: Vec<i32> = got.chunks(vocab).map(|l| argmax(l) as i32).collect();
        let chosen = all.choose(&mut choosing, pass, &vec![Choice::default(); best.len()]).unwrap();
        assert_eq!(chosen.iter().map(|c| c.token).collect::<Vec<_>>(), best, "{arch} pass {i}");
        if pass.len() == 2 && i == 2 {
            for stage in &choosing.stages {
                let mut each = vec![Chosen::default(); best.len()];
                stage.head.as_ref().unwrap().chosen.read(0, &mut each).unwrap();
                assert_eq!(each.iter().map(|c| c.token).collect::<Vec<_>>(), best, "{arch} GPU {}", stage.device.ordinal());
            }
        }
    }
    state.copy(3, 0).unwrap();
    alone.copy(3, 0).unwrap();
    let fork = [slice(&tokens[90..92], 60, &[0], Logits::Last)];
    let got = all.run(&mut state, &fork).unwrap();
    assert!(apart(one.run(&mut alone, &fork).unwrap(), got) < bound, "{arch} fork");
    // a layer alone: what it has on one device, and two sums; the logits are gathered
    let layers = cpu.config().layers;
    let [own, head] = alone.launches(1, 1).unwrap();
    let want = [(own + 2 * layers) * devices.len(), head + 1];
    assert_eq!(state.launches(1, 1), Some(want), "{arch}");
    drop((one, all, alone, state, plain, choosing));
    assert!(devices.iter().all(|d| d.used() == 0), "{arch}");
}

#[test]
#[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
fn cut_layers_decode_as_on_one_device() {
    let devices = several();
    let all = std::env::var("DREAMSEED_CUDA_FAMILIES").is_ok_and(|v| !v.is_empty());
    let families = ["gemma3", "llama", "qwen2", "qwen3", "phi3"];
    for arch in &families[..if all { 5 } else { 1 }] {
        let (_dir, path) = model(arch, &EVEN).file();
        held_to_one(arch, &path, &devices, MANY);
    }
}

/// Blocks keep their bits; activations in 8 bits move over the edge of a step now and then, as in `shards`.
#[test]
#[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
fn cut_layers_of_quantized_models_decode_as_on_one_device() {
    let devices = several();
    for (arch, kind, theirs) in [("llama", BlockType::Q4K, GgmlDType::Q4K), ("phi3", BlockType::Q8_0, GgmlDType::Q8_0)] {
        let (_dir, path) = quantized(arch, kind, theirs).file();
        held_to_one(arch, &path, &devices[..2], 2e-2);
    }
}

/// `DREAMSEED_CUDA_REFUSAL`: a part of what is said, where devices are not equal or there is no NCCL.
#[test]
#[ignore = "needs devices or a library that will not do: tests/cuda.sh has them"]
fn what_cannot_be_cut_over_devices_is_refused() {
    let (devices, pool) = (several(), Pool::new(1));
    // what is said; nothing where it runs
    let refused = |size: &Size, devices: &[Device]| {
        let (_dir, path) = model("llama", size).file();
        let opened = Decoder::from_gguf_over(Layout::Tensor(devices), &Gguf::open(&path).unwrap(), &pool);
        let state = opened.map(|gpu| gpu.state(capacity(1, true)).map(drop));
        state.map_or_else(|e| e.to_string(), |state| state.map_or_else(|e| e.to_string(), |()| String::new()))
    };
    match std::env::var("DREAMSEED_CUDA_REFUSAL") {
        Ok(wanted) => {
            let seen = refused(&EVEN, &devices);
            assert!(seen.contains(&wanted), "{seen}");
        }
        Err(_) => {
            let odd = Size { heads: 3, kv_heads: 1, ..EVEN };
            let seen = refused(&odd, &devices);
            let wanted = format!("1 heads of keys and values cannot be divided evenly over {} parts", devices.len());
            assert!(seen.contains(&wanted), "{seen}");
            let few = Size { vocab: 9, ..EVEN };
            let seen = refused(&few, &devices);
            assert!(seen.contains("a vocabulary of 9 cannot be divided over"), "{seen}");
            let twice = [devices[0].clone(), devices[0].clone()];
            let seen = refused(&EVEN, &twice);
            assert!(seen.contains("each once"), "{seen}");
            assert!(refused(&EVEN, &[]).contains("no GPU"));
        }
    }
    assert!(devices.iter().all(|d| d.used() == 0));
}

/// A part that fails while the others wait for it: all end with an error, the next pass works unless a device is lost, and nothing is
/// left. Launch by launch and by graphs in turns, until a fault of the doubles is met.
#[test]
#[ignore = "needs a driver or NCCL that fails: tests/cuda.sh has them"]
fn a_fault_of_one_part_ends_all_and_leaves_nothing_behind() {
    let fault = ["DREAMSEED_DRIVER_FAULT", "DREAMSEED_NCCL_FAULT"].iter().find_map(|name| std::env::var(name).ok());
    let fault = fault.expect("DREAMSEED_DRIVER_FAULT or DREAMSEED_NCCL_FAULT names a fault");
    let (devices, pool) = (several(), Pool::new(1));
    let (_dir, path) = model("llama", &EVEN).file();
    let (cpu, gguf) = (decoder::Decoder::open(&path, &pool).unwrap(), Gguf::open(&path).unwrap());
    let want = cpu.forward(&pool, &mut cpu.new_state(16), &[7, 8, 9], Logits::Last).unwrap().to_vec();
    let mut told = Vec::new();
    let mut attempt = |graphs: bool| -> Result<(), String> {
        let gpu = Decoder::from_gguf_over(Layout::Tensor(&devices), &gguf, &pool).map_err(|e| e.to_string())?;
        let mut state = gpu.state(capacity(1, graphs)).map_err(|e| e.to_string())?;
        let mut last = Vec::new();
        for (tokens, past) in [(&[7, 8][..], 0), (&[9], 2)] {
            let pass = [slice(tokens, past, &[0], Logits::Last)];
            // a pass that failed is tried again
            let first = gpu.run(&mut state, &pass).map(<[f32]>::to_vec);
            last = match first {
                Ok(logits) => logits,
                Err(e) => {
                    told.push(e.to_string());
                    gpu.run(&mut state, &pass).map(<[f32]>::to_vec).map_err(|e| e.to_string())?
                }
            };
        }
        assert!(apart(&want, &last) < 2e-3);
        Ok(())
    };
    let mut ended = Vec::new();
    for graphs in [false, true, false, true] {
        ended.extend(attempt(graphs).err());
        assert!(devices.iter().all(|d| d.used() == 0), "{ended:?}");
    }
    told.append(&mut ended);
    match std::env::var("DREAMSEED_CUDA_REFUSAL") {
        Ok(wanted) => assert!(!told.is_empty() && told.iter().all(|e| e.contains(&wanted)), "{fault}: {told:?}"),
        Err(_) => assert_eq!(told.len(), 1, "{fault}: {told:?}"),
    }
    println!("{fault}: {told:?}");
}
