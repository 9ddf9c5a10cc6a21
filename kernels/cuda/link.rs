//! Copies from one device to another, in the order of their streams.

use super::buffer::{Buffer, Element};
use super::device::{Device, Error};
use cudarc::driver::sys;
use std::ptr::null_mut;

type Result<T> = std::result::Result<T, Error>;

/// What a device says that already reaches another's memory.
const ALREADY: u32 = 704;

/// The way from one device to another, or from one stream to another of the same device. Where the devices reach each other's memory a
/// copy goes straight; elsewhere the driver takes it through the host.
pub struct Link {
    from: Device,
    to: Device,
    free: Event, // on the target: what was launched there does not need the old values any more
    sent: Event, // on the source: the new ones are there
}

struct Event {
    handle: sys::CUevent,
    device: Device,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs, and every use makes it so.
unsafe impl Send for Event {}

impl Link {
    /// The way from `from`'s stream to `to`'s.
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::Lost`].
    pub fn new(from: &Device, to: &Device) -> Result<Self> {
        let link = Self { free: Event::new(to)?, sent: Event::new(from)?, from: from.clone(), to: to.clone() };
        if from.ordinal() != to.ordinal() {
            link.reach()?;
        }
        Ok(link)
    }

    /// Lets the source write to the target's memory, where the machine can.
    fn reach(&self) -> Result<()> {
        let mut can = 0;
        // SAFETY: the driver writes one integer.
        unsafe { sys::cuDeviceCanAccessPeer(&mut can, self.from.handle(), self.to.handle()).result() }
            .map_err(|e| self.from.failed("tell whom it reaches", e))?;
        if can == 0 {
            return Ok(());
        }
        self.from.bind()?;
        // SAFETY: both contexts are kept as long as their devices.
        match unsafe { sys::cuCtxEnablePeerAccess(self.to.context(), 0).result() } {
            Err(e) if e.0 as u32 != ALREADY => Err(self.from.failed("reach another GPU", e)),
            _ => Ok(()),
        }
    }

    /// Copies the first `len` elements, once both streams are there; what is launched on either stream later finds them copied. Does
    /// not wait. `source` is the source device's, `target` the target's.
    ///
    /// # Errors
    /// [`Error::Shape`] past an end or for buffers of other devices, [`Error::Driver`], [`Error::Lost`].
    pub fn copy<T: Element>(&self, source: &Buffer<T>, target: &mut Buffer<T>, len: usize) -> Result<()> {
        let places = [source.device().ordinal(), target.device().ordinal()];
        if places != [self.from.ordinal(), self.to.ordinal()] || len > source.len().min(target.len()) {
            return Err(Error::Shape(format!(
                "{len} elements of a buffer of {} on GPU {} to one of {} on GPU {}, over a way from GPU {} to GPU {}",
                source.len(),
                places[0],
                target.len(),
                places[1],
                self.from.ordinal(),
                self.to.ordinal()
            )));
        }
        self.free.record()?;
        self.free.hold(&self.from)?;
        let (bytes, stream) = (len * size_of::<T>(), self.from.stream());
        // SAFETY: both buffers are at least so long, of these contexts, and apart, for the target is borrowed alone. Freeing either of
        // them waits for the copy.
        let copied = unsafe {
            let (to, from) = (self.to.context(), self.from.context());
            sys::cuMemcpyPeerAsync(target.pointer(), to, source.pointer(), from, bytes, stream).result()
        };
        copied.map_err(|e| self.from.failed("send data to another GPU", e))?;
        self.sent.record()?;
        self.sent.hold(&self.to)
    }
}

impl Event {
    fn new(device: &Device) -> Result<Self> {
        let mut handle = null_mut();
        device.bind()?;
        let untimed = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the driver writes one handle, which is kept until the event is dropped.
        unsafe { sys::cuEventCreate(&mut handle, untimed).result() }.map_err(|e| device.failed("make an event", e))?;
        Ok(Self { handle, device: device.clone() })
    }

    /// It happens when all is done that was launched on its device so far.
    fn record(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: event and stream are of one context.
        unsafe { sys::cuEventRecord(self.handle, self.device.stream()).result() }
            .map_err(|e| self.device.failed("record an event", e))
    }

    /// What is launched on `device` from now on waits for it.
    fn hold(&self, device: &Device) -> Result<()> {
        device.bind()?;
        // SAFETY: both handles live.
        unsafe { sys::cuStreamWaitEvent(device.stream(), self.handle, 0).result() }
            .map_err(|e| device.failed("wait for an event", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nobody else has the event.
        unsafe {
            if self.device.bind().is_ok() {
                let _ = sys::cuEventDestroy_v2(self.handle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::gather;
    use crate::cuda::tests::{device, read};
    use crate::linear::tests::noise;

    /// Rows go to another stream, and to another device where there is one, between launches that make and use them.
    #[test]
    fn rows_arrive_between_what_makes_and_what_uses_them() {
        let Some(first) = device() else { return };
        let count = Device::count().unwrap();
        let second = if count > 1 { Device::open(1).unwrap() } else { first.fork().unwrap() };
        let link = Link::new(&first, &second).unwrap();
        let (rows, k) = (5, 67);
        let x = noise(3, rows * k);
        let wanted = |order: &[i32]| -> Vec<f32> {
            let row = |&i: &i32| x[i.clamp(0, rows as i32 - 1) as usize * k..][..k].to_vec();
            order.iter().flat_map(row).collect()
        };
        let there = first.upload(&x).unwrap();
        let mut sent = first.zeros::<f32>(rows * k).unwrap();
        let (mut arrived, mut used) = (second.zeros::<f32>(rows * k).unwrap(), second.zeros::<f32>(rows * k).unwrap());
        let same = second.upload(&[0, 1, 2, 3, 4]).unwrap();
        for order in [[4, 0, -1, 2, 2], [1, 5, 0, 3, i32::MAX]] {
            let index = first.upload(&order).unwrap();
            gather(&first, rows, &index, (&there, rows, k), &mut sent).unwrap();
            link.copy(&sent, &mut arrived, rows * k).unwrap();
            gather(&second, rows, &same, (&arrived, rows, k), &mut used).unwrap();
            // what comes after it does not reach what was sent
            gather(&first, rows, &index, (&there, rows, k), &mut sent).unwrap();
            assert_eq!(read(&used, rows * k), wanted(&order), "{order:?}");
        }
        let long = link.copy(&sent, &mut arrived, rows * k + 1);
        assert!(matches!(&long, Err(Error::Shape(m)) if m.contains("336 elements")), "{long:?}");
        if count > 1 {
            let mut back = first.zeros::<f32>(rows * k).unwrap();
            assert!(matches!(link.copy(&arrived, &mut back, 1), Err(Error::Shape(_))));
        }
    }
}
