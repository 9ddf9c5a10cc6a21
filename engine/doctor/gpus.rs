//! GPUs, the driver and NCCL.

use std::{fs, path::Path};

use indicatif::HumanBytes;
use serde::Serialize;

use super::{Check, fail, ok, warn};
use crate::config::{Config, Device, Devices, Parallel};

/// What there is of them.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let together = gpus().ok().and_then(|gpus| nccl(config, &gpus, nccl_version()));
    Vec::from_iter(std::iter::once(cuda(config)).chain(together))
}

/// A CUDA device.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// As the driver names it.
    pub name: String,
    /// In bytes.
    pub memory: u64,
    /// Major and minor.
    pub compute_capability: (i32, i32),
}

/// The first CUDA device that the configuration lets be used, where this build has CUDA.
pub fn gpu(config: &Config) -> Option<Gpu> {
    let first = match &config.devices {
        _ if config.device == Device::Cpu => return None,
        Devices::Auto => 0,
        Devices::These(numbers) => *numbers.first()?,
    };
    gpus().ok()?.into_iter().nth(first)
}

/// All CUDA devices, or why there are none.
#[cfg(feature = "cuda")]
fn gpus() -> Result<Vec<Gpu>, String> {
    let gpu = |info: dreamseed_kernels::cuda::Info| Gpu {
        name: info.name,
        memory: info.memory as u64,
        compute_capability: info.capability,
    };
    let found = dreamseed_kernels::cuda::Device::list().map_err(|e| e.to_string())?;
    Ok(found.into_iter().map(gpu).collect())
}

/// All CUDA devices, or why there are none.
#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<Vec<Gpu>, String> {
    Err("not built in".into())
}

/// The kernel module's version, where an NVIDIA driver is loaded.
fn driver_version() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let version = text.and_then(|t| {
        t.split_whitespace().find(|w| w.contains('.') && w.starts_with(|c: char| c.is_ascii_digit())).map(String::from)
    });
    // In WSL the driver is Windows'.
    version.or_else(|| Path::new("/dev/dxg").exists().then(|| "of Windows".into()))
}

fn cuda(config: &Config) -> Check {
    let (built, driver) = (cfg!(feature = "cuda"), driver_version());
    let wanted = match config.device {
        Device::Cpu => false,
        Device::Auto => config.devices != Devices::Auto,
        Device::Cuda => true,
    };
    let check = match (built, driver, gpus()) {
        (true, _, Ok(gpus)) if !gpus.is_empty() => {
            let named = |(i, g): (usize, &Gpu)| {
                let (major, minor) = g.compute_capability;
                format!("{i}: {} ({}, sm_{major}{minor})", g.name, HumanBytes(g.memory))
            };
            let list: Vec<_> = gpus.iter().enumerate().map(named).collect();
            return usable(config, &list);
        }
        (true, _, Ok(_)) => warn("cuda", "built in, but there is no device", "the CPU is used; see nvidia-smi"),
        (true, _, Err(e)) => {
            warn("cuda", format!("built in, but {e}"), "the CPU is used; install the NVIDIA driver to use a GPU")
        }
        (false, Some(version), _) => warn(
            "cuda",
            format!("not built in, but there is an NVIDIA driver ({version})"),
            "to use the GPU build with `cargo build --release --features cuda` (needs nvcc)",
        ),
        (false, None, _) => ok("cuda", "not built in, and no NVIDIA driver: the CPU is used"),
    };
    match wanted {
        true => fail(
            "cuda",
            check.seen,
            "a GPU is asked for (`device`, `devices`), so nothing runs: set both to \"auto\", or put right what is said here",
        ),
        false => check,
    }
}

/// NCCL's version, or why it is of no use.
#[cfg(feature = "cuda")]
fn nccl_version() -> Result<String, String> {
    dreamseed_kernels::cuda::nccl_version().map_err(|e| e.to_string())
}

/// NCCL's version, or why it is of no use.
#[cfg(not(feature = "cuda"))]
fn nccl_version() -> Result<String, String> {
    Err("not built in".into())
}

/// What models need that are cut over several GPUs, where there are several.
fn nccl(config: &Config, gpus: &[Gpu], found: Result<String, String>) -> Option<Check> {
    let used: Vec<&Gpu> = match &config.devices {
        _ if config.device == Device::Cpu => Vec::new(),
        Devices::Auto => gpus.iter().collect(),
        Devices::These(numbers) => numbers.iter().filter_map(|&n| gpus.get(n)).collect(),
    };
    let (wanted, first) = (config.llm.parallel == Parallel::Tensor, *used.first()?);
    let kind = |g: &Gpu| (g.name.clone(), g.memory, g.compute_capability);
    let equal = used.iter().all(|g| kind(g) == kind(first));
    let back = "set `llm.parallel = \"auto\"`, or put right what is said here";
    Some(match found {
        _ if used.len() < 2 && !wanted => return None,
        Ok(version) if used.len() < 2 || !equal => {
            let seen =
                format!("{version}; {} GPU(s) may be used{}", used.len(), if equal { "" } else { ", which are not equal" });
            match wanted {
                true => fail("nccl", format!("{seen}, and layers are to be cut over two equal ones or more"), back),
                false => ok("nccl", format!("{seen}: models lie on them by layers")),
            }
        }
        Ok(version) => ok("nccl", format!("{version}: layers can be cut over {} equal GPUs (llm.parallel)", used.len())),
        Err(why) if wanted => fail("nccl", why, back),
        Err(why) => {
            let todo = "models lie on several GPUs by layers; to cut layers over equal ones: apt-get install libnccl2";
            if equal { warn("nccl", why, todo) } else { ok("nccl", format!("{why}; GPUs that are not equal need none")) }
        }
    })
}

/// GPUs that are there, beside those that the configuration names.
fn usable(config: &Config, list: &[String]) -> Check {
    let seen = format!("built in; {}", list.join(", "));
    let runs: String = match &config.devices {
        _ if config.device == Device::Cpu => "`device = \"cpu\"` is set, so everything runs on the CPU".into(),
        Devices::Auto if list.len() == 1 => "language models run there, everything else on the CPU".into(),
        Devices::Auto => {
            "language models run on one of them, or over several where one is too small; everything else on the CPU".into()
        }
        Devices::These(numbers) => match numbers.iter().find(|n| **n >= list.len()) {
            Some(missing) => {
                let do_what = format!("`devices` names GPU {missing}: name some of these, or set it to \"auto\"");
                return fail("cuda", seen, do_what);
            }
            None => format!("language models run on {numbers:?}, divided over them; everything else on the CPU"),
        },
    };
    ok("cuda", format!("{seen}; {runs}"))
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn nccl_is_looked_at_where_several_gpus_are() {
        let gpu = |name: &str| Gpu { name: name.into(), memory: 32 << 30, compute_capability: (12, 0) };
        let (pair, mixed) = ([gpu("RTX 5090"), gpu("RTX 5090")], [gpu("RTX 5090"), gpu("RTX 4090")]);
        let (there, absent) = (Ok::<_, String>("2.27.3".to_owned()), Err("NCCL is not usable".to_owned()));
        let mut config = Config::with_home("/nowhere".into());
        let status = |config: &Config, gpus: &[Gpu], found| nccl(config, gpus, found).map(|c| c.status);
        assert_eq!(status(&config, &pair[..1], absent.clone()), None);
        assert_eq!(status(&config, &pair, there.clone()), Some(Status::Ok));
        assert_eq!(status(&config, &pair, absent.clone()), Some(Status::Warn));
        assert_eq!(status(&config, &mixed, absent.clone()), Some(Status::Ok));
        config.llm.parallel = Parallel::Tensor;
        assert_eq!(status(&config, &pair, there.clone()), Some(Status::Ok));
        for (gpus, found) in [(&pair[..], absent), (&mixed[..], there.clone()), (&pair[..1], there)] {
            assert_eq!(status(&config, gpus, found), Some(Status::Fail));
        }
    }
}
