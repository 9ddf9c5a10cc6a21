//! What the layers of convolutional networks share: values that lie in one memory, windows and what happens at a layer's end.

use super::buffer::Buffer;
use super::device::{Device, Error, Gap};
use crate::cpu::conv::{Act, Finish, Window};
use std::ffi::c_void;
use std::ptr::from_mut;

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Threads of a block.
pub(super) const THREADS: usize = 256;
/// Most elements of a value: kernels count in 32 bits.
const MOST: usize = 1 << 30;

/// Where a value lies in a [`Buffer`]: elements. One that begins at a multiple of 4 can be loaded four elements at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub at: usize,
    /// How many.
    pub len: usize,
}

/// What a layer reads and writes: parts of one memory, so that a network's values need one allocation.
pub struct Operands<'a> {
    /// All values.
    pub memory: &'a mut Buffer<f32>,
    /// The first operand.
    pub a: Span,
    /// The second, of functions of two.
    pub b: Option<Span>,
    /// A picture that is added at the end, of the output's height and width and of so many channels.
    pub residual: Option<(Span, usize)>,
    /// The result. It overlaps no operand.
    pub out: Span,
}

impl Operands<'_> {
    fn place(&self, what: &str, span: Span, len: usize) -> Result<u64> {
        let end = span.at.checked_add(span.len).filter(|&end| end <= self.memory.len());
        if span.len != len || end.is_none() || len > MOST {
            let (held, Span { at, len: seen }) = (self.memory.len(), span);
            return Err(Error::Shape(format!("{what}: {seen} elements at {at} of {held}, and {len} are needed")));
        }
        Ok(self.memory.pointer() + (span.at * size_of::<f32>()) as u64)
    }

    fn source(&self, what: &str, span: Span, len: usize) -> Result<u64> {
        if span.at < self.out.at.saturating_add(self.out.len) && self.out.at < span.at.saturating_add(span.len) {
            return Err(Error::Shape(format!("{what} at {span:?} overlaps the result at {:?}", self.out)));
        }
        self.place(what, span, len)
    }

    /// The first operand, which has `len` elements.
    pub(super) fn a(&self, len: usize) -> Result<u64> {
        self.source("the operand", self.a, len)
    }

    /// The second operand, which has `len` elements.
    pub(super) fn b(&self, len: usize) -> Result<u64> {
        let b = self.b.ok_or_else(|| Error::Shape("the second operand is missing".into()))?;
        self.source("the second operand", b, len)
    }

    /// The result, which has `len` elements.
    pub(super) fn out(&self, len: usize) -> Result<u64> {
        self.place("the result", self.out, len)
    }

    /// What ends a layer that makes `pixels` of `channels`.
    pub(super) fn tail(&self, finish: &DeviceFinish, pixels: usize, channels: usize) -> Result<RawTail> {
        finish.fits(channels)?;
        let (mut residual, mut own) = (0, 0);
        if let Some((span, count)) = self.residual {
            if count > channels {
                return Err(Error::Shape(format!("a residual of {count} channels for a result of {channels}")));
            }
            (residual, own) = (self.source("the residual", span, pixels * count)?, count as i32);
        }
        Ok(RawTail { gap: 0, residual, channels: own, before: finish.before.raw(), after: finish.after.raw() })
    }
}

/// A [`Finish`] with its slopes on a device.
pub struct DeviceFinish {
    before: DeviceAct,
    after: DeviceAct,
}

struct DeviceAct {
    kind: i32,
    range: [f32; 2],
    slopes: Option<Buffer<f32>>,
}

impl DeviceAct {
    fn new(device: &Device, act: &Act) -> Result<Self> {
        Ok(match act {
            Act::None => Self { kind: 0, range: [0.0; 2], slopes: None },
            Act::Clamp(lo, hi) => Self { kind: 1, range: [*lo, *hi], slopes: None },
            Act::Prelu(slopes) => Self { kind: 2, range: [0.0; 2], slopes: Some(device.upload(slopes)?) },
        })
    }

    fn raw(&self) -> RawAct {
        let [lo, hi] = self.range;
        RawAct { gap: 0, kind: self.kind, lo, hi, slopes: self.slopes.as_ref().map_or(0, Buffer::pointer) }
    }
}

impl DeviceFinish {
    /// Copies slopes to the device.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, finish: &Finish) -> Result<Self> {
        Ok(Self { before: DeviceAct::new(device, &finish.before)?, after: DeviceAct::new(device, &finish.after)? })
    }

    /// Refuses slopes for another number of channels.
    pub(super) fn fits(&self, channels: usize) -> Result<()> {
        let slopes = [&self.before, &self.after].into_iter().filter_map(|act| act.slopes.as_ref());
        match slopes.map(Buffer::len).find(|&n| n != channels) {
            Some(n) => Err(Error::Shape(format!("{n} slopes for {channels} channels"))),
            None => Ok(()),
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawAct {
    kind: i32,
    lo: f32,
    hi: f32,
    gap: Gap,
    slopes: u64,
}

/// As in picture.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawTail {
    residual: u64,
    channels: i32,
    gap: Gap,
    before: RawAct,
    after: RawAct,
}

/// As in picture.cuh: input, output, kernel, stride, dilation, padding.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawWindow([i32; 14]);

impl RawWindow {
    /// Refuses pictures that kernels cannot count through.
    pub(super) fn new(w: &Window) -> Result<Self> {
        let count = |d: &[usize]| d.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST);
        let reach = |d: usize| w.kernel[d].checked_mul(w.dilation[d]);
        if count(&w.input).is_none() || count(&w.output).is_none() || count(&w.kernel).is_none() {
            let (input, output) = (w.input, w.output);
            return Err(Error::Shape(format!("pictures of {input:?} and {output:?} elements; at most 2^30 on a GPU")));
        }
        // a window's values are below 2^24 each, but for the padding and what they reach together
        let most = (0..2).map(|d| w.pad[d].saturating_add(reach(d).unwrap_or(usize::MAX)).saturating_add(w.input[d])).max();
        if most.is_none_or(|n| n >= 1 << 29) {
            return Err(Error::Shape(format!("{w:?} reaches over 2^29 pixels; fewer are allowed on a GPU")));
        }
        let all = [&w.input[..], &w.output, &w.kernel, &w.stride, &w.dilation, &w.pad];
        let mut raw = [0; 14];
        raw.iter_mut().zip(all.into_iter().flatten()).for_each(|(to, &v)| *to = v as i32);
        Ok(Self(raw))
    }
}

/// A kernel's argument.
pub(super) fn arg<T>(value: &mut T) -> *mut c_void {
    from_mut(value).cast()
}
