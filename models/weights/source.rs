//! Bytes at a position: what the readers of large weight files stand on.
//!
//! Positional reads instead of a memory map: a file that shrinks while it is read gives an error, not a signal, and nothing is
//! read before it is asked for. Every length is held against the real size of the file before memory is taken.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::{Error, Result};

/// Most bytes of a text file beside weights or in a home: settings, indices, manifests, vocabularies.
pub const TEXT: u64 = 256 << 20;

/// All of a file that is small by nature.
///
/// # Errors
/// Those of the operating system; `InvalidInput` for a pipe or a device, which could hold the caller for ever or never end, and
/// for more than `limit` bytes.
pub fn read_whole(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let refused = |problem: String| Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, problem));
    let meta = std::fs::metadata(path)?; // before it is opened: opening a pipe waits for its writer
    if !meta.is_file() {
        return refused("not a regular file; pipes, devices and folders are not read".into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(limit)).unwrap_or(0));
    let read = std::fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match read as u64 > limit {
        true => refused(format!("more than {limit} bytes, which are the most that are read here")),
        false => Ok(bytes),
    }
}

/// A file, or bytes in memory, with its real size.
pub(crate) struct Source {
    path: PathBuf,
    len: u64,
    kind: Kind,
}

enum Kind {
    File(std::fs::File),
    #[cfg(test)]
    Memory(Vec<u8>),
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let error = |source| Error::Io { path: path.to_path_buf(), source };
        if !std::fs::metadata(path).map_err(error)?.is_file() {
            return Err(error(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"))); // may never open
        }
        let file = std::fs::File::open(path).map_err(error)?;
        let meta = file.metadata().map_err(error)?;
        Ok(Self { path: path.to_path_buf(), len: meta.len(), kind: Kind::File(file) })
    }

    #[cfg(test)]
    pub(crate) fn memory(bytes: Vec<u8>) -> Self {
        Self { path: PathBuf::from("memory"), len: bytes.len() as u64, kind: Kind::Memory(bytes) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The size when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let read = match &self.kind {
            Kind::File(file) => read_exact_at(file, offset, out),
            #[cfg(test)]
            Kind::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                match start.checked_add(out.len()).and_then(|end| bytes.get(start..end)) {
                    Some(part) => {
                        out.copy_from_slice(part);
                        Ok(())
                    }
                    None => Err(std::io::ErrorKind::UnexpectedEof.into()),
                }
            }
        };
        read.map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    /// `count` bytes from `offset` on; `None` where the file does not hold them (nothing is allocated then).
    pub(crate) fn take(&self, offset: u64, count: u64) -> Result<Option<Vec<u8>>> {
        let Ok(size) = usize::try_from(count) else { return Ok(None) };
        if offset.checked_add(count).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let mut out = vec![0; size];
        self.read(offset, &mut out)?;
        Ok(Some(out))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &std::fs::File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &std::fs::File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                offset += n as u64;
                out = &mut out[n..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_are_regular_and_of_the_size_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_whole(&path, 5).unwrap(), b"12345");
        for refused in [read_whole(&path, 4), read_whole(dir.path(), 9), read_whole(Path::new("/dev/zero"), 9)] {
            let kind = refused.unwrap_err().kind();
            assert!(matches!(kind, std::io::ErrorKind::InvalidInput | std::io::ErrorKind::NotFound), "{kind}");
        }
    }
}
