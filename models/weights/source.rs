//! Bytes at a position: what the readers of large weight files stand on.
//!
//! Positional reads instead of a memory map: a file that shrinks while it is read gives an error, not a signal, and nothing is
//! read before it is asked for. Every length is held against the real size of the file before memory is taken.

use std::path::{Path, PathBuf};

use super::{Error, Result};

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
        let file = std::fs::File::open(path).map_err(error)?;
        let meta = file.metadata().map_err(error)?;
        if !meta.is_file() {
            return Err(error(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
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
