//! Steps that go on by themselves: what they are told, and that they are what they are when they are told all of it.

use dreamseed_kernels::{
    KV_BLOCK,
    cuda::{Choice, Chosen},
};

use super::*;

/// Texts that go on step by step over the end of a block, greedy and drawn, as many as `texts`: (past, next token, blocks, choice) each.
struct Going {
    texts: Vec<(usize, u32, [u32; 2], Choice)>,
}

impl Going {
    fn new(texts: u32) -> Self {
        let drawn = Choice { random: 3, temperature: 0.9, top_p: 0.9, ln_min_p: 0.01f32.ln(), top_k: 30 };
        let choice = |i: u32| if i.is_multiple_of(2) { Choice { random: i.into(), ..drawn } } else { Choice::default() };
        Self { texts: (0..texts).map(|i| (118 + i as usize % 5, 3 * i % 50, [2 * i, 2 * i + 1], choice(i))).collect() }
    }

    /// One step of all: what was chosen.
    fn step(&mut self, gpu: &Decoder, state: &mut State) -> Vec<Chosen> {
        let slice = |t: &'_ (usize, u32, [u32; 2], Choice)| (t.0, [t.1], t.2);
        let parts: Vec<_> = self.texts.iter().map(slice).collect();
        let slices: Vec<Slice> = parts
            .iter()
            .map(|(past, token, blocks)| Slice {
                tokens: token,
                past: *past,
                context: 256,
                blocks,
                logits: Logits::Last,
                pictures: &[],
            })
            .collect();
        let choices: Vec<Choice> = self.texts.iter().map(|t| t.3).collect();
        let chosen = gpu.choose(state, &slices, &choices).unwrap().to_vec();
        for (t, c) in self.texts.iter_mut().zip(&chosen) {
            *t = (t.0 + 1, c.token as u32, t.2, t.3.after());
        }
        chosen
    }

    /// Whether a step begins a block.
    fn begins(&self) -> bool {
        self.texts.iter().any(|t| t.0 % KV_BLOCK == 0)
    }
}

#[test]
fn a_step_that_goes_on_by_itself_is_what_it_is_when_it_is_told() {
    let Some(device) = device() else { return };
    let pool = Pool::new(2);
    for (arch, texts, graphs) in
        [("llama", 1, true), ("gemma3", 3, true), ("qwen3", 7, false), ("phi3", 12, true), ("llama", 40, true)]
    {
        let (_dir, path) = model(arch, &WIDE).file();
        let gguf = Gguf::open(&path).unwrap();
        let gpu = Decoder::open(&device, &path, &pool).unwrap();
        let halves =
            Decoder::from_gguf_over(Layout::Layers(&shares(std::slice::from_ref(&device), &[1, 2])), &gguf, &pool).unwrap();
        let mut states =
            [&gpu, &gpu, &halves].map(|gpu| (gpu, gpu.state(capacity(2 * texts as usize, graphs)).unwrap(), Going::new(texts)));
        for step in 0..if texts < 30 { 16 } else { 3 } {
            // the second one is told all of it each time
            states[1].1.told.forget();
            let [going, told, over] = states.each_mut().map(|(gpu, state, texts)| texts.step(gpu, state));
            assert_eq!(going, told, "{arch}, {texts} texts, step {step}");
            assert_eq!(going, over, "{arch}, {texts} texts over two parts, step {step}");
        }
        // what the steps left in the store is the same too
        let logits = states.each_mut().map(|(gpu, state, texts)| {
            let (past, token, blocks, _) = texts.texts[0];
            let slice = Slice { tokens: &[token], past, context: 256, blocks: &blocks, logits: Logits::Last, pictures: &[] };
            gpu.run(state, &[slice]).unwrap().to_vec()
        });
        assert!(logits[0] == logits[1] && logits[0] == logits[2], "{arch}");
    }
    assert_eq!(device.used(), 0);
}

/// Copies that the driver's double counted: to devices, their bytes, from devices, their bytes.
fn copies() -> [u64; 4] {
    let file = std::env::var_os("DREAMSEED_DRIVER_COPIES").expect("DREAMSEED_DRIVER_COPIES names a file");
    let bytes = std::fs::read(file).unwrap();
    [0, 8, 16, 24].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

#[test]
#[ignore = "needs a driver that counts copies: tests/cuda.sh has one"]
fn a_step_that_goes_on_is_told_nothing_and_tells_its_tokens() {
    let devices: Vec<Device> = (0..Device::count().unwrap()).map(|i| Device::open(i).unwrap()).collect();
    let pool = Pool::new(1);
    let (_dir, path) = model("llama", &WIDE).file();
    let gguf = Gguf::open(&path).unwrap();
    let layers: &[usize] = if devices.len() > 1 { &[1, 2] } else { &[3] };
    let gpu = Decoder::from_gguf_over(Layout::Layers(&shares(&devices, layers)), &gguf, &pool).unwrap();
    for texts in [1, 4, 11, 32] {
        let (mut state, mut going) = (gpu.state(capacity(2 * texts as usize, true)).unwrap(), Going::new(texts));
        going.step(&gpu, &mut state);
        let mut blocks = 0;
        for step in 0..14 {
            let (before, begins) = (copies(), going.begins());
            going.step(&gpu, &mut state);
            let now = copies();
            let [to, to_bytes, from, from_bytes] = std::array::from_fn(|i| now[i] - before[i]);
            // the tokens and their log-probabilities
            assert_eq!((from, from_bytes), (1, 8 * u64::from(texts)), "{texts} texts, step {step}");
            // a block's entry in the table of each device
            assert_eq!(to, if begins { devices.len() as u64 } else { 0 }, "{texts} texts, step {step}");
            assert!(texts > 1 || to_bytes == 4 * to, "{to_bytes} bytes");
            blocks += u32::from(begins);
        }
        assert!(blocks > 0, "no text began a block");
    }
}
