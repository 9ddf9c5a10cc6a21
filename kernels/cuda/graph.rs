//! Launches that are captured once and replayed as one.

use super::device::{Device, Error};
use cudarc::driver::{result, sys};

type Result<T> = std::result::Result<T, Error>;

impl Device {
    /// Captures what `launches` puts on the stream; nothing runs. It must neither allocate, wait, read nor write.
    ///
    /// # Errors
    /// Those of `launches`, and [`Error::Driver`].
    pub fn capture(&self, launches: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mut graphs = Graph::capture(std::slice::from_ref(self), launches)?;
        graphs.pop().ok_or_else(|| Error::Shape("no device has a graph".into()))
    }

    fn begin_capture(&self) -> Result<()> {
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as LOCAL;
        self.bind()?;
        // SAFETY: the stream is the device's.
        unsafe { result::stream::begin_capture(self.stream(), LOCAL) }.map_err(|e| self.failed("begin a graph", e))
    }

    fn end_capture(&self) -> Result<Captured> {
        self.bind()?;
        // SAFETY: the stream is the device's, and is being captured; the graph is kept until it is dropped.
        unsafe { result::stream::end_capture(self.stream()) }.map(Captured).map_err(|e| self.failed("end a graph", e))
    }
}

/// What was captured, before it can be run.
struct Captured(sys::CUgraph);

impl Captured {
    fn instantiate(&self, device: &Device) -> Result<Graph> {
        let (mut exec, mut launches) = (std::ptr::null_mut(), 0);
        device.bind()?;
        // SAFETY: the graph lives; the driver writes a number and a handle, which is kept until the graph is dropped.
        let made = unsafe {
            let counted = sys::cuGraphGetNodes(self.0, std::ptr::null_mut(), &mut launches).result();
            counted.and_then(|()| sys::cuGraphInstantiateWithFlags(&mut exec, self.0, 0).result())
        };
        made.map_err(|e| device.failed("make a graph", e))?;
        Ok(Graph { exec, launches, device: device.clone() })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: nobody else has the graph.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}

/// Launches that are replayed as one.
pub struct Graph {
    exec: sys::CUgraphExec,
    launches: usize,
    device: Device,
}

// SAFETY: as the device.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `launches` puts on the streams of several devices, into a graph of each: what they do together has to be
    /// captured together. As [`Device::capture`] otherwise.
    ///
    /// # Errors
    /// As [`Device::capture`].
    pub fn capture(devices: &[Device], launches: impl FnOnce() -> Result<()>) -> Result<Vec<Self>> {
        let mut begun = Ok(());
        let of = devices.iter().take_while(|d| {
            begun = d.begin_capture();
            begun.is_ok()
        });
        let of: Vec<&Device> = of.collect();
        let launched = begun.and_then(|()| launches());
        // a capture that was begun is ended, whatever happened in it
        let captured: Vec<_> = of.iter().map(|d| d.end_capture()).collect();
        launched?;
        let captured: Vec<Captured> = captured.into_iter().collect::<Result<_>>()?;
        captured.iter().zip(devices).map(|(graph, device)| graph.instantiate(device)).collect()
    }

    /// Launches that it holds.
    pub fn launches(&self) -> usize {
        self.launches
    }

    /// Runs all that was captured.
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::Lost`].
    pub fn replay(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the graph and the stream are the device's. Who made the graph keeps its buffers.
        unsafe { result::graph::launch(self.exec, self.device.stream()) }.map_err(|e| self.device.failed("run a graph", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody else has the graph.
        unsafe {
            if self.device.bind().is_ok() {
                let _ = result::graph::exec_destroy(self.exec);
            }
        }
    }
}
