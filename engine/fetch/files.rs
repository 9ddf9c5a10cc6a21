//! Files that appear whole or not at all: written beside their place, summed on the way, flushed, renamed; and the record of what
//! was checked, so that a start need not read gigabytes again.

use crate::{Error, manifest};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Why a file could not be had from a source.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another source may have it.
    Source(String),
    /// No source helps: the disk is full, or it refuses.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Final(e)
    }
}

/// An error of this machine's own disk.
pub(super) fn disk(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Fetch(format!(
            "{}: the disk is full; make room, or keep weights elsewhere with --home DIR (DREAMSEED_HOME); what was downloaded is kept",
            path.display()
        )),
        _ => Error::Io { path: path.into(), source: e },
    }
}

/// A file on its way: `NAME.part` beside its place, with the sum of what it holds.
pub(super) struct Part {
    file: fs::File,
    path: PathBuf,
    target: PathBuf,
    sum: Sha256,
    len: u64,
}

impl Part {
    /// An empty one; what an earlier run left is dropped.
    pub(super) fn create(target: &Path) -> Result<Self, Error> {
        let mut part = Self::open(target)?;
        part.restart()?;
        Ok(part)
    }

    /// With what an earlier run left.
    pub(super) fn resume(target: &Path) -> Result<Self, Error> {
        let mut part = Self::open(target)?;
        part.len = sum_into(&mut part.file, &mut part.sum, &mut |_| ()).map_err(|e| disk(&part.path, e))?;
        Ok(part)
    }

    fn open(target: &Path) -> Result<Self, Error> {
        let path = part_path(target);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(|e| disk(folder, e))?;
        }
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| disk(&path, e))?;
        Ok(Self { file, path, target: target.into(), sum: Sha256::new(), len: 0 })
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Back to nothing.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|e| disk(&self.path, e))?;
        (self.sum, self.len) = (Sha256::new(), 0);
        Ok(())
    }

    /// Appends `from` to its end; `at` is told the length. More than `limit` in all is refused: a package may lie about sizes.
    pub(super) fn append(&mut self, from: &mut dyn Read, limit: u64, at: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let mut block = vec![0; 1 << 18];
        loop {
            let n = match from.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::Source(format!("after {} bytes: {e}", self.len))),
            };
            if self.len + n as u64 > limit {
                return Err(Failure::Source(format!("{} is longer than the {limit} bytes it should have", self.name())));
            }
            self.file.write_all(&block[..n]).map_err(|e| disk(&self.path, e))?;
            self.sum.update(&block[..n]);
            self.len += n as u64;
            at(self.len);
        }
    }

    /// Checks size and sum, flushes and renames: the file is there, whole. On a wrong sum the part is removed.
    pub(super) fn keep(self, bytes: Option<u64>, sha256: Option<&str>) -> Result<String, Failure> {
        let seen = hex(&self.sum.clone().finalize());
        let mut problem = None;
        if bytes.is_some_and(|n| n != self.len) {
            problem = Some(format!("{} has {} bytes, {} wanted", self.name(), self.len, bytes.unwrap_or(0)));
        } else if sha256.is_some_and(|want| want != seen) {
            problem = Some(format!("{} has the sha256 {seen}, {} wanted", self.name(), sha256.unwrap_or("")));
        }
        if let Some(problem) = problem {
            fs::remove_file(&self.path).map_err(|e| disk(&self.path, e))?;
            return Err(Failure::Source(problem));
        }
        self.file.sync_all().map_err(|e| disk(&self.path, e))?;
        fs::rename(&self.path, &self.target).map_err(|e| disk(&self.target, e))?;
        sync_folder(&self.target)?;
        Ok(seen)
    }

    fn name(&self) -> String {
        self.target.file_name().map_or_else(|| self.target.display().to_string(), |n| n.to_string_lossy().into_owned())
    }
}

impl Drop for Part {
    /// A part that holds nothing is nothing to go on from.
    fn drop(&mut self) {
        if self.len == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a file is written before it is whole.
pub(super) fn part_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Makes a rename in the folder of `path` last through a power cut.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(folder) => fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| disk(folder, e)),
        None => Ok(()),
    }
}

/// The file's sha256 in hex; `at` is told how far it is.
pub(super) fn sha256_of(path: &Path, at: &mut dyn FnMut(u64)) -> Result<String, Error> {
    let mut sum = Sha256::new();
    fs::File::open(path).and_then(|mut f| sum_into(&mut f, &mut sum, at)).map_err(|e| disk(path, e))?;
    Ok(hex(&sum.finalize()))
}

fn sum_into(from: &mut fs::File, sum: &mut Sha256, at: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let (mut block, mut len) = (vec![0; 1 << 18], 0);
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(len),
            Ok(n) => {
                sum.update(&block[..n]);
                len += n as u64;
                at(len);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What an earlier run found out about a model's files.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Record {
    files: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Entry {
    path: String,
    bytes: u64,
    /// Time of last change, nanoseconds since 1970: a file that was touched since is summed again.
    changed: u64,
    sha256: String,
    /// Who vouches for the sum.
    checked: Checked,
    /// Where the file came from.
    source: String,
}

/// Who vouches for a file's sum.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Checked {
    /// The manifest.
    Manifest,
    /// The hub that served it.
    Hub,
    /// Nobody: there is no sum to compare with.
    No,
}

/// How a file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Missing,
    /// As it was when it was checked.
    Good(Checked),
    /// There, of a possible size, but never summed or changed since.
    Unsure,
    Bad {
        seen: String,
        wanted: String,
    },
}

const RECORD: &str = ".dreamseed.json";

impl Record {
    /// The record in a model's folder; an empty one where there is none or it cannot be read.
    pub(super) fn load(folder: &Path) -> Self {
        let mut text = String::new();
        let read = fs::File::open(folder.join(RECORD)).and_then(|f| f.take(1 << 20).read_to_string(&mut text));
        read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Writes it, whole or not at all.
    pub(super) fn save(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(RECORD);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        let mut part = Part::create(&path)?;
        match part.append(&mut text.as_slice(), u64::MAX, &mut |_| ()).and_then(|()| part.keep(None, None)) {
            Ok(_) => Ok(()),
            Err(Failure::Final(e)) => Err(e),
            Err(Failure::Source(problem)) => Err(Error::Internal(problem)),
        }
    }

    /// Notes that `file` has this sum now.
    pub(super) fn note(
        &mut self,
        folder: &Path,
        file: &manifest::File,
        sha256: String,
        checked: Checked,
        source: &str,
    ) -> Result<(), Error> {
        let path = folder.join(&file.path);
        let (bytes, changed) = stamp(&path).map_err(|e| disk(&path, e))?;
        self.files.retain(|e| e.path != file.path);
        self.files.push(Entry { path: file.path.clone(), bytes, changed, sha256, checked, source: source.into() });
        Ok(())
    }

    /// Where a file came from.
    pub(super) fn source(&self, file: &manifest::File) -> Option<&str> {
        self.files.iter().find(|e| e.path == file.path).map(|e| e.source.as_str())
    }

    /// The recorded sum, and who vouches for it.
    pub(super) fn sum(&self, file: &manifest::File) -> Option<(&str, Checked)> {
        self.files.iter().find(|e| e.path == file.path).map(|e| (e.sha256.as_str(), e.checked))
    }

    /// How `file` stands, without reading it.
    pub(super) fn look(&self, folder: &Path, file: &manifest::File) -> Look {
        let Ok((bytes, changed)) = stamp(&folder.join(&file.path)) else {
            return Look::Missing;
        };
        if let Some(want) = file.bytes.filter(|n| *n != bytes) {
            return Look::Bad { seen: format!("{bytes} bytes"), wanted: format!("{want} bytes") };
        }
        match self.files.iter().find(|e| e.path == file.path) {
            Some(e) if e.bytes == bytes && e.changed == changed => match &file.sha256 {
                Some(want) if *want != e.sha256 => {
                    Look::Bad { seen: format!("sha256 {}", e.sha256), wanted: format!("sha256 {want}") }
                }
                Some(_) => Look::Good(Checked::Manifest),
                None => Look::Good(e.checked),
            },
            Some(e) if file.bytes.is_none() && e.bytes != bytes => {
                Look::Bad { seen: format!("{bytes} bytes"), wanted: format!("{} bytes, as it was when it came", e.bytes) }
            }
            _ => Look::Unsure,
        }
    }
}

/// Size and time of last change of a plain file.
fn stamp(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok((meta.len(), u64::try_from(changed).unwrap_or(u64::MAX)))
}

/// Bytes that this user may still write to the disk of `path`, which or a parent of which exists.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    let here = path.ancestors().find(|p| p.exists())?;
    let stat = rustix::fs::statvfs(here).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Takes the lock file `path`; waits, and says so once, while another process holds it. Dropping the file gives it back, and so
/// does the end of the process, however it ends.
pub(super) fn lock(path: &Path, waiting: impl FnOnce()) -> Result<fs::File, Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| disk(folder, e))?;
    }
    let file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(|e| disk(path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            waiting();
            file.lock().map_err(|e| disk(path, e))?;
            Ok(file)
        }
        // Some network file systems have no locks: then nothing can be waited for.
        Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(fs::TryLockError::Error(e)) => Err(disk(path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: Option<u64>, sha256: Option<&str>) -> manifest::File {
        manifest::File { path: "f".into(), bytes, sha256: sha256.map(String::from) }
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_part_becomes_the_file_only_when_size_and_sum_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("sub/f");
        for (data, bytes, want) in [("abd", 3, "ba7816bf"), ("ab", 3, "2 bytes, 3 wanted"), ("abcd", 3, "longer than the 3")] {
            let mut part = Part::create(&target).unwrap();
            let kept = part.append(&mut data.as_bytes(), bytes, &mut |_| ()).and_then(|()| part.keep(Some(bytes), Some(ABC)));
            assert!(matches!(kept, Err(Failure::Source(e)) if e.contains(want)), "{data}");
            assert!(!target.exists());
        }
        // An earlier run left a beginning.
        fs::write(part_path(&target), "ab").unwrap();
        let mut part = Part::resume(&target).unwrap();
        assert_eq!(part.len(), 2);
        part.append(&mut "c".as_bytes(), 3, &mut |_| ()).unwrap();
        assert_eq!(part.keep(Some(3), Some(ABC)).unwrap(), ABC);
        assert!(target.exists() && !part_path(&target).exists());
    }

    #[test]
    fn a_full_disk_is_final_and_says_what_to_do() {
        let mut part = Part::create(&tempfile::tempdir().unwrap().path().join("f")).unwrap();
        let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
            return eprintln!("skipped: no /dev/full here");
        };
        part.file = full;
        let e = part.append(&mut "abc".as_bytes(), 3, &mut |_| ());
        assert!(matches!(e, Err(Failure::Final(Error::Fetch(e))) if e.contains("disk is full") && e.contains("--home")));
    }

    #[test]
    fn the_record_tells_good_from_changed_and_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::default();
        assert_eq!(record.look(dir.path(), &file(None, None)), Look::Missing);
        fs::write(dir.path().join("f"), "abc").unwrap();
        assert_eq!(record.look(dir.path(), &file(Some(3), Some(ABC))), Look::Unsure);
        assert!(matches!(record.look(dir.path(), &file(Some(4), None)), Look::Bad { .. }));
        record.note(dir.path(), &file(None, None), ABC.into(), Checked::Hub, "test").unwrap();
        record.save(dir.path()).unwrap();
        let record = Record::load(dir.path());
        assert_eq!(record.look(dir.path(), &file(Some(3), Some(ABC))), Look::Good(Checked::Manifest));
        assert_eq!(record.look(dir.path(), &file(None, None)), Look::Good(Checked::Hub));
        let other = "0".repeat(64);
        assert!(matches!(record.look(dir.path(), &file(Some(3), Some(&other))), Look::Bad { .. }));
        fs::write(dir.path().join("f"), "abd").unwrap();
        fs::File::open(dir.path().join("f")).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(record.look(dir.path(), &file(Some(3), Some(ABC))), Look::Unsure);
        fs::write(dir.path().join("f"), "abdd").unwrap();
        assert!(matches!(record.look(dir.path(), &file(None, None)), Look::Bad { .. }));
    }
}
