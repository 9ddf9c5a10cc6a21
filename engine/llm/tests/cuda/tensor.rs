//! Every layer cut over all devices there are. They need NCCL beside the driver: `tests/cuda.sh` has a double of it.

use dreamseed_kernels::KV_BLOCK;
use dreamseed_models::weights::gguf::Gguf;

use super::*;
use crate::{
    config::{Cache, Parallel},
    plan::{
        Way,
        memory::{Part, Wish, need},
        shape::Weights,
    },
};

fn cut(devices: &[Device]) -> Settings {
    let gpus = Gpus::of(devices, true).parallel(Parallel::Tensor);
    Settings { placement: Placement::Gpu { gpus, required: true }, cache_tokens: 512, sequences: 4, ..Settings::default() }
}

/// What each device holds of a model whose parts need so many bytes of weights.
fn holds(devices: &[Device], decoder: &dreamseed_models::decoder::cuda::Decoder, weights: impl Fn(usize) -> u64, blocks: u64) {
    let wish = Wish { sequences: blocks, positions: KV_BLOCK as u64, cache: Cache::F16 };
    for (i, (device, config)) in devices.iter().zip(decoder.configs()).enumerate() {
        let part = Part { over: devices.len() as u64, ..Part::whole(config) };
        let counted = need(config, part, weights(i), device.info().multiprocessors as u64, wish);
        assert_eq!(device.used() as u64, counted.total(), "GPU {i}: {counted:?}");
    }
}

#[test]
#[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
fn gpus_that_share_each_layer_write_what_one_processor_writes() {
    let (devices, cpu) = (devices(), llm(TEMPLATE).expect("the reference material"));
    assert!(!devices.is_empty());
    let prompts = prompts(6);
    let gpu = llm_with(TEMPLATE, &cut(&devices)).expect("the reference material");
    assert_eq!((gpu.way(), gpu.devices().unwrap().len()), (Some(Way::Tensor), devices.len()));
    assert_eq!((gpu.parameters(), gpu.config()), (cpu.parameters(), cpu.config()));
    // halves of the layers and of the head, the embeddings and norms on each
    let (executor::Executor::Gpu(decoder), config) = (&gpu.core().executor, gpu.config()) else { panic!("it runs on the CPU") };
    let norms = 4 * config.dim * (2 * config.layers + 1);
    let embeddings = 4 * config.dim * config.vocab;
    let own = (decoder.bytes() - devices.len() * embeddings) / devices.len();
    holds(&devices, decoder, |_| (own + embeddings + norms) as u64, 4);
    let alone: Vec<_> = (0..6).map(|i| write(&gpu, &prompts[i], &choose(i)).unwrap()).collect();
    for (i, got) in alone.iter().enumerate() {
        check(&cpu, KvType::F16, (i, &prompts[i]), got);
    }
    for (i, got) in together(&gpu, &prompts).into_iter().map(Result::unwrap).enumerate() {
        check(&cpu, KvType::F16, (i, &prompts[i]), &got);
    }
    // the greedy texts are those of one device, token by token
    let one = llm_with(TEMPLATE, &on(&devices[0])).expect("the reference material");
    for i in [0, 2, 4] {
        assert_eq!(write(&one, &prompts[i], &choose(i)).unwrap(), alone[i], "text {i}");
    }
    drop((gpu, one));
    assert!(devices.iter().all(|d| d.used() == 0), "what was unloaded leaves nothing behind");
    // of GPUs that the plan does not know nothing is predicted: by layers
    let settings = Settings { placement: Placement::Gpu { gpus: Gpus::of(&devices, true), required: true }, ..cut(&devices) };
    assert_eq!(llm_with(TEMPLATE, &settings).expect("the reference material").way(), Some(Way::Layers));
}

/// `DREAMSEED_CUDA_REFUSAL`: a part of what is said, where devices or the library will not do.
#[test]
#[ignore = "needs devices or a library that will not do: tests/cuda.sh has them"]
fn what_cannot_be_cut_over_gpus_is_an_error() {
    let wanted = std::env::var("DREAMSEED_CUDA_REFUSAL").expect("DREAMSEED_CUDA_REFUSAL is a part of the message");
    let devices: Vec<_> = (0..Device::count().unwrap()).map(|i| Device::open(i).unwrap()).collect();
    let folder = folder(TEMPLATE).expect("the reference material");
    // also where the CPU could take over: it was asked for
    let Placement::Gpu { gpus, .. } = cut(&devices).placement else { panic!("GPUs") };
    let settings = Settings { placement: Placement::Gpu { gpus, required: false }, ..Settings::default() };
    let refused = Llm::open_with(folder.path(), Arc::new(Pool::new(1)), &settings).map(drop);
    assert!(matches!(&refused, Err(Error::Device(e)) if e.contains(&wanted)), "{refused:?}");
    assert!(devices.iter().all(|d| d.used() == 0));
}

/// Texts at once while one of the devices fails: who is met hears of it, a device that is lost ends all, and nothing is left.
#[test]
#[ignore = "needs a driver or NCCL that fails: tests/cuda.sh has them"]
fn a_part_that_fails_is_told_and_leaves_nothing_behind() {
    let (devices, cpu) = (devices(), llm(TEMPLATE).expect("the reference material"));
    let lost = std::env::var("DREAMSEED_DRIVER_FAULT").is_ok_and(|fault| fault.ends_with(":700"));
    let gpu = llm_with(TEMPLATE, &cut(&devices)).expect("the reference material");
    let (prompts, mut told) = (prompts(3), Vec::new());
    for _ in 0..2 {
        for (i, got) in together(&gpu, &prompts).into_iter().enumerate() {
            match got {
                Ok(got) => check(&cpu, KvType::F16, (i, &prompts[i]), &got),
                Err(Error::Device(e)) => told.push(e),
                Err(e) => panic!("{e}"),
            }
        }
    }
    match lost {
        true => assert!(told.len() >= 3 && told.iter().all(|e| e.contains("GPU 1 is lost")), "{told:?}"),
        false => assert!(told.len() <= 1, "{told:?}"), // the others are tried again
    }
    drop(gpu);
    assert!(devices.iter().all(|d| d.used() == 0));
}

/// A real model in quantized blocks: what its header says that the parts take is taken, to the byte.
#[test]
#[ignore = "loads a real model"]
fn a_real_model_takes_what_its_header_says() {
    let path = std::env::var_os("DREAMSEED_CUDA_MODEL").expect("DREAMSEED_CUDA_MODEL names a GGUF file");
    let devices = devices();
    let gpu = Llm::open_with(path.as_ref(), Arc::new(Pool::new(2)), &cut(&devices)).unwrap();
    let executor::Executor::Gpu(decoder) = &gpu.core().executor else { panic!("it runs on the CPU") };
    let gguf = Gguf::open(path.as_ref()).unwrap();
    let (config, configs) = (gpu.config(), decoder.configs().cloned().collect::<Vec<_>>());
    let weights = Weights::of_gguf(&gguf, config).unwrap();
    holds(&devices, decoder, |i| weights.part(config, &configs[i], (i, devices.len())).total(), 4);
    drop(gpu);
    assert!(devices.iter().all(|d| d.used() == 0));
}
