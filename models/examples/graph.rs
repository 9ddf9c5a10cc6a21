//! Runs a network file on raw input and tells its outputs and where the time goes.
//!
//!     cargo run --release -p dreamseed-models --example graph -- FILE [--input F32_FILE]... [--dump DIR] [--runs N] [--threads N]
//!
//! Without `--input` the inputs are a fixed pseudo-random pattern in -1..1. `--dump` writes each output as raw little-endian floats.

use dreamseed_kernels::Pool;
use dreamseed_models::graph::Network;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let (mut file, mut inputs, mut dump, mut runs, mut threads) = (None, Vec::new(), None, 1usize, 2usize);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--input" => inputs.push(floats(Path::new(&value()?))?),
            "--dump" => dump = Some(PathBuf::from(value()?)),
            "--runs" => runs = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            _ => file = Some(PathBuf::from(arg)),
        }
    }
    let network = Network::open(&file.ok_or("which file?")?)?;
    println!("{:?}\n{:?}", network.inputs(), network.outputs());
    println!(
        "{:.1} M multiply-adds, {:.1} MB of activations",
        network.macs() as f64 / 1e6,
        network.session_bytes() as f64 / 1e6
    );
    for info in network.inputs().iter().skip(inputs.len()) {
        inputs.push(pattern(info.shape.iter().product()));
    }
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let (pool, mut session) = (Pool::new(threads), network.session());
    let names: Vec<String> = network.steps().collect();
    let mut spent = vec![Duration::MAX; names.len()];
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        let mut last = start;
        session.run_observed(&pool, &inputs, |i| {
            let now = Instant::now();
            spent[i] = spent[i].min(now - last);
            last = now;
        })?;
        best = best.min(start.elapsed());
    }
    if runs > 1 {
        for (name, spent) in names.iter().zip(&spent) {
            println!("{:9.1} us  {name}", spent.as_secs_f64() * 1e6);
        }
    }
    println!("best of {runs}: {:.3} ms", best.as_secs_f64() * 1e3);
    for (i, info) in network.outputs().iter().enumerate() {
        let out = session.output(i);
        println!(
            "{}: sum {:.6}, first {:?}",
            info.name,
            out.iter().map(|&v| f64::from(v)).sum::<f64>(),
            &out[..out.len().min(4)]
        );
        if let Some(dir) = &dump {
            let bytes: Vec<u8> = out.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(dir.join(format!("{i}.f32")), bytes)?;
        }
    }
    Ok(())
}

fn floats(path: &Path) -> Result<Vec<f32>, Failure> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn pattern(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
