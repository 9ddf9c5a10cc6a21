//! Compiles the CUDA kernels where the feature `cuda` is on: `cuda/*.cu`, each to one image for all devices.
//!
//! The compiler is `$NVCC`, `$CUDA_HOME/bin/nvcc` or `nvcc`. `DREAMSEED_CUDA_CODE=ptx` embeds PTX alone, which an emulator of the
//! driver can read.

use std::{env, fmt::Write, fs, path::Path, process::Command};

/// Files of kernels.
const FILES: [&str; 12] = [
    "attention",
    "attention_dense",
    "attention_rows",
    "beams",
    "conv",
    "gemm",
    "gemv",
    "mel",
    "rows",
    "sample",
    "tensor",
    "transformer",
];
/// Devices with machine code of their own: A100, A2000 and RTX 30, RTX 40, H100, RTX 50.
const REAL: [u32; 5] = [80, 86, 89, 90, 120];
/// Virtual devices whose code the driver compiles for newer ones.
const VIRTUAL: [u32; 2] = [80, 120];

fn main() {
    println!("cargo:rerun-if-changed=cuda");
    ["NVCC", "CUDA_HOME", "DREAMSEED_CUDA_CODE"].iter().for_each(|v| println!("cargo:rerun-if-env-changed={v}"));
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let home = env::var("CUDA_HOME").map(|home| format!("{home}/bin/nvcc")).ok().filter(|nvcc| Path::new(nvcc).exists());
    let nvcc = env::var("NVCC").ok().or(home).unwrap_or_else(|| "nvcc".into());
    let version = version(&nvcc);
    let out = env::var("OUT_DIR").unwrap();
    let ptx = env::var("DREAMSEED_CUDA_CODE").is_ok_and(|code| code == "ptx");
    let mut images = String::from("&[");
    for file in FILES {
        let source = format!("cuda/{file}.cu");
        if ptx {
            for device in VIRTUAL {
                let image = format!("{out}/{file}.{device}.ptx");
                compile(&nvcc, &source, &image, &["--ptx".into(), format!("-arch=compute_{device}")]);
                // the driver reads text up to a zero
                let mut text = fs::read(&image).unwrap();
                text.push(0);
                fs::write(&image, text).unwrap();
                writeln!(images, "({device}, include_bytes!({image:?})),").unwrap();
            }
        } else {
            let image = format!("{out}/{file}.fatbin");
            let mut options = vec!["-fatbin".to_owned()];
            options.extend(REAL.map(|d| format!("-gencode=arch=compute_{d},code=sm_{d}")));
            options.extend(VIRTUAL.map(|d| format!("-gencode=arch=compute_{d},code=compute_{d}")));
            compile(&nvcc, &source, &image, &options);
            writeln!(images, "(0, include_bytes!({image:?})),").unwrap();
        }
    }
    fs::write(format!("{out}/images.rs"), images + "]").unwrap();
    println!("cargo:rustc-env=DREAMSEED_CUDA_TOOLKIT={version}");
}

/// The toolkit's version as the driver counts: 1000 * major + 10 * minor.
fn version(nvcc: &str) -> u32 {
    let how = "install the CUDA toolkit 12.8 or newer and set CUDA_HOME, or run kernels/cuda/toolkit.sh, which makes one from Python wheels";
    let output = Command::new(nvcc).arg("--version").output().unwrap_or_else(|e| panic!("{nvcc} does not run ({e}): {how}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    let mut parts = release.trim().split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let version = 1000 * parts.next().unwrap_or(0) + 10 * parts.next().unwrap_or(0);
    assert!(version >= 12080, "{nvcc} is of CUDA {release:?}, too old for RTX 50 (sm_120): {how}");
    version
}

fn compile(nvcc: &str, source: &str, image: &str, options: &[String]) {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++20", "-O3", "-lineinfo", "-o", image]).args(options).arg(source);
    let output = command.output().unwrap_or_else(|e| panic!("{nvcc}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
