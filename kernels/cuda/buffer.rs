//! Memory on a device.

use super::device::{Device, Error};
use cudarc::driver::{result, sys};
use half::f16;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

type Result<T> = std::result::Result<T, Error>;

/// What a [`Buffer`] can hold: plain numbers, of which all zeros are one.
pub trait Element: Copy + sealed::Sealed + 'static {}
mod sealed {
    pub trait Sealed {}
}
macro_rules! elements {
    ($($t:ty),*) => { $(impl sealed::Sealed for $t {} impl Element for $t {})* };
}
elements!(f32, [f32; 2], f16, i8, u8, i32, u32, super::sample::Choice, super::sample::Chosen);

/// Memory on a device.
pub struct Buffer<T: Element> {
    pointer: sys::CUdeviceptr,
    len: usize,
    device: Device,
    kind: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lies on the device.
    pub(super) fn pointer(&self) -> sys::CUdeviceptr {
        self.pointer
    }

    /// Where it lies.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    fn check(&self, at: usize, len: usize) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Error::Shape(format!("{len} elements at {at} of a buffer of {}", self.len))),
        }
    }

    /// Overwrites elements from `at` on. Returns when the source may be changed; launches after it see the values.
    ///
    /// # Errors
    /// [`Error::Shape`] past the end, [`Error::Driver`], [`Error::Lost`].
    pub fn write(&mut self, at: usize, values: &[T]) -> Result<()> {
        self.check(at, values.len())?;
        self.device.bind()?;
        // SAFETY: the range is the buffer's; waiting keeps the source alive until it is read.
        unsafe {
            result::memcpy_htod_async(self.pointer + (at * size_of::<T>()) as u64, values, self.device.stream())
                .map_err(|e| self.device.failed("take data", e))?;
            result::stream::synchronize(self.device.stream()).map_err(|e| self.device.failed("take data", e))
        }
    }

    /// Reads elements from `at` on, after all that was launched before. Waits.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn read(&self, at: usize, values: &mut [T]) -> Result<()> {
        self.check(at, values.len())?;
        self.device.bind()?;
        // SAFETY: the range is the buffer's; waiting keeps the target alive until it is written.
        unsafe {
            result::memcpy_dtoh_async(values, self.pointer + (at * size_of::<T>()) as u64, self.device.stream())
                .map_err(|e| self.device.failed("give data", e))?;
            result::stream::synchronize(self.device.stream()).map_err(|e| self.device.failed("give data", e))
        }
    }

    /// Copies elements within the buffer; the ranges must not overlap.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn copy_within(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        self.check(from, len)?;
        self.check(to, len)?;
        if from.abs_diff(to) < len {
            return Err(Error::Shape(format!("{len} elements from {from} to {to} overlap")));
        }
        self.device.bind()?;
        let at = |i: usize| self.pointer + (i * size_of::<T>()) as u64;
        // SAFETY: both ranges are the buffer's, and apart.
        unsafe { result::memcpy_dtod_async(at(to), at(from), len * size_of::<T>(), self.device.stream()) }
            .map_err(|e| self.device.failed("copy data", e))
    }
}

impl<T: Element> Buffer<T> {
    /// Overwrites its beginning with all of `source`.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn copy_from(&mut self, source: &Self) -> Result<()> {
        self.copy_at(0, source, source.len)
    }

    /// Overwrites elements from `at` on with the first `len` of `source`, on this buffer's stream.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn copy_at(&mut self, at: usize, source: &Self, len: usize) -> Result<()> {
        self.check(at, len)?;
        source.check(0, len)?;
        self.device.bind()?;
        let (to, bytes) = (self.pointer + (at * size_of::<T>()) as u64, len * size_of::<T>());
        // SAFETY: both ranges are the buffers', and these are apart.
        unsafe { result::memcpy_dtod_async(to, source.pointer, bytes, self.device.stream()) }
            .map_err(|e| self.device.failed("copy data", e))
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: nobody else has the memory. Freeing waits for what was launched; what fails here fails because the device is lost.
        unsafe {
            if self.device.bind().is_ok() {
                let _ = result::free_sync(self.pointer);
            }
        }
        self.device.counter().fetch_sub(self.len * size_of::<T>(), Ordering::Relaxed);
    }
}

impl Device {
    /// A buffer of zeros. Waits for the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`], [`Error::Lost`].
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let free = self.free()?;
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or(Error::OutOfMemory { gpu: self.ordinal(), wanted: usize::MAX, free })?;
        // kernels copy 16 bytes at a time; drivers give whole 256s anyway
        let whole = bytes.checked_next_multiple_of(16).unwrap_or(usize::MAX).max(16);
        // SAFETY: the memory is this buffer's alone; it is set before anybody reads it.
        let pointer = unsafe {
            let pointer = result::malloc_sync(whole).map_err(|e| match e.0 as u32 {
                2 => Error::OutOfMemory { gpu: self.ordinal(), wanted: bytes, free },
                _ => self.failed("give memory", e),
            })?;
            self.counter().fetch_add(bytes, Ordering::Relaxed);
            Buffer { pointer, len, device: self.clone(), kind: PhantomData }
        };
        // SAFETY: as long as the buffer is.
        unsafe { result::memset_d8_async(pointer.pointer, 0, whole, self.stream()) }
            .map_err(|e| self.failed("clear memory", e))?;
        Ok(pointer)
    }

    /// A buffer with these values. Waits for the device.
    ///
    /// # Errors
    /// As [`Device::zeros`].
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.zeros(values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }
}
