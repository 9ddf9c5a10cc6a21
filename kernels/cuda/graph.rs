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
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as LOCAL;
        self.bind()?;
        // SAFETY: the stream is the device's; the graph is kept until it is dropped.
        unsafe {
            result::stream::begin_capture(self.stream(), LOCAL).map_err(|e| self.failed("begin a graph", e))?;
            let launched = launches();
            let graph = result::stream::end_capture(self.stream()).map_err(|e| self.failed("end a graph", e));
            launched?;
            let graph = graph?;
            let (mut exec, mut launches) = (std::ptr::null_mut(), 0);
            let made = sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut launches).result();
            let made = made.and_then(|()| sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0).result());
            let _ = result::graph::destroy(graph);
            made.map_err(|e| self.failed("make a graph", e))?;
            Ok(Graph { exec, launches, device: self.clone() })
        }
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
