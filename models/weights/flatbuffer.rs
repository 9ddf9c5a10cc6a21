//! A bounds-checked reader of FlatBuffers: tables, scalars, vectors and strings, nothing followed that does not lie in the file.

use super::{Error, Result};

/// The whole file.
#[derive(Clone, Copy)]
pub(crate) struct Buffer<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) format: &'static str,
}

impl<'a> Buffer<'a> {
    pub(crate) fn error(&self, field: &str, offset: usize, problem: impl Into<String>) -> Error {
        Error::Field { format: self.format, field: field.to_owned(), offset: offset as u64, problem: problem.into() }
    }

    pub(crate) fn slice(&self, field: &str, at: usize, len: usize) -> Result<&'a [u8]> {
        let end = at.checked_add(len);
        end.and_then(|end| self.bytes.get(at..end)).ok_or_else(|| {
            self.error(
                field,
                at,
                format!("{len} bytes wanted, but the file ends at {}: it is cut off or damaged", self.bytes.len()),
            )
        })
    }

    fn array<const N: usize>(&self, field: &str, at: usize) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(field, at, N)?);
        Ok(out)
    }

    pub(crate) fn u32(&self, field: &str, at: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field, at)?))
    }

    /// Where the offset stored at `at` leads.
    fn follow(&self, field: &str, at: usize) -> Result<usize> {
        at.checked_add(self.u32(field, at)? as usize).ok_or_else(|| self.error(field, at, "offset overflows"))
    }

    /// `len` bytes at `pos`.
    pub(crate) fn vector(&self, field: &str, pos: usize, len: usize) -> Result<Vector<'a>> {
        Ok(Vector { buffer: *self, pos, bytes: self.slice(field, pos, len)? })
    }

    /// The table whose offset is stored at `at`.
    pub(crate) fn table(&self, field: &str, at: usize) -> Result<Table<'a>> {
        let pos = self.follow(field, at)?;
        let back = i64::from(i32::from_le_bytes(self.array(field, pos)?));
        let vtable =
            usize::try_from(pos as i64 - back).map_err(|_| self.error(field, pos, "vtable before the file's start"))?;
        let size = usize::from(u16::from_le_bytes(self.array(field, vtable)?));
        if size < 4 || size % 2 != 0 {
            return Err(self.error(field, vtable, format!("a vtable of {size} bytes; at least 4, an even number")));
        }
        let slots = self.slice(field, vtable, size)?.get(4..).unwrap_or_default();
        Ok(Table { buffer: *self, pos, slots })
    }
}

/// A table: fields are looked up by their number in the schema.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    buffer: Buffer<'a>,
    pos: usize,
    slots: &'a [u8],
}

/// A vector of fixed-size elements or offsets that lies wholly in the file.
#[derive(Clone, Copy)]
pub(crate) struct Vector<'a> {
    buffer: Buffer<'a>,
    /// Of the first element.
    pub(crate) pos: usize,
    /// Its bytes.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Table<'a> {
    /// A table here whose fields all have their defaults.
    pub(crate) fn empty(&self) -> Self {
        Self { slots: &[], ..*self }
    }

    /// Where the table lies in the file.
    pub(crate) fn offset(&self) -> usize {
        self.pos
    }

    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        self.buffer.error(field, self.pos, problem)
    }

    /// Where field `id` lies; `None` when it has its default.
    fn at(&self, id: usize) -> Option<usize> {
        match self.slots.get(id * 2..id * 2 + 2) {
            Some(&[lo, hi]) if lo != 0 || hi != 0 => self.pos.checked_add(usize::from(u16::from_le_bytes([lo, hi]))),
            _ => None,
        }
    }

    pub(crate) fn u8(&self, field: &str, id: usize) -> Result<u8> {
        self.at(id).map_or(Ok(0), |at| Ok(self.buffer.array::<1>(field, at)?[0]))
    }

    pub(crate) fn bool(&self, field: &str, id: usize) -> Result<bool> {
        Ok(self.u8(field, id)? != 0)
    }

    pub(crate) fn u32(&self, field: &str, id: usize) -> Result<u32> {
        self.at(id).map_or(Ok(0), |at| self.buffer.u32(field, at))
    }

    pub(crate) fn i32(&self, field: &str, id: usize, default: i32) -> Result<i32> {
        self.at(id).map_or(Ok(default), |at| Ok(self.buffer.u32(field, at)? as i32))
    }

    pub(crate) fn u64(&self, field: &str, id: usize) -> Result<u64> {
        self.at(id).map_or(Ok(0), |at| Ok(u64::from_le_bytes(self.buffer.array(field, at)?)))
    }

    pub(crate) fn f32(&self, field: &str, id: usize) -> Result<f32> {
        Ok(f32::from_bits(self.u32(field, id)?))
    }

    pub(crate) fn table(&self, field: &str, id: usize) -> Result<Option<Table<'a>>> {
        self.at(id).map(|at| self.buffer.table(field, at)).transpose()
    }

    /// A vector of elements of `size` bytes; empty when absent.
    pub(crate) fn vector(&self, field: &str, id: usize, size: usize) -> Result<Vector<'a>> {
        let Some(at) = self.at(id) else { return Ok(Vector { buffer: self.buffer, pos: self.pos, bytes: &[] }) };
        let pos = self.buffer.follow(field, at)?;
        let count = self.buffer.u32(field, pos)? as usize;
        let len = count.checked_mul(size).ok_or_else(|| self.buffer.error(field, pos, format!("{count} elements overflow")))?;
        let start = pos.checked_add(4).ok_or_else(|| self.buffer.error(field, pos, "offset overflows"))?;
        Ok(Vector { buffer: self.buffer, pos: start, bytes: self.buffer.slice(field, start, len)? })
    }

    /// A vector of tables.
    pub(crate) fn tables(&self, field: &str, id: usize, most: usize) -> Result<Vec<Table<'a>>> {
        let v = self.vector(field, id, 4)?;
        let count = v.bytes.len() / 4;
        if count > most {
            return Err(self.buffer.error(field, v.pos, format!("{count} entries; at most {most} are read")));
        }
        (0..count).map(|i| self.buffer.table(field, v.pos + i * 4)).collect()
    }

    pub(crate) fn i32s(&self, field: &str, id: usize) -> Result<Vec<i32>> {
        Ok(self.vector(field, id, 4)?.i32s().collect())
    }

    /// A string of at most `most` bytes; invalid UTF-8 is replaced.
    pub(crate) fn string(&self, field: &str, id: usize, most: usize) -> Result<String> {
        let v = self.vector(field, id, 1)?;
        if v.bytes.len() > most {
            return Err(self.buffer.error(
                field,
                v.pos,
                format!("a string of {} bytes; at most {most} are read", v.bytes.len()),
            ));
        }
        Ok(String::from_utf8_lossy(v.bytes).into_owned())
    }
}

impl<'a> Vector<'a> {
    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        self.buffer.error(field, self.pos, problem)
    }

    pub(crate) fn i32s(&self) -> impl Iterator<Item = i32> + 'a {
        self.bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}
