//! A device, its memory, its stream and the kernels on it.

use cudarc::driver::{result, sys};
use half::f16;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Compiled kernels: (compute capability that they are PTX for, or 0 for machine code of all devices, image).
static IMAGES: &[(u32, &[u8])] = include!(concat!(env!("OUT_DIR"), "/images.rs"));
/// The toolkit that they were compiled with: 1000 * major + 10 * minor.
const TOOLKIT: &str = env!("DREAMSEED_CUDA_TOOLKIT");

/// What can go wrong with a device.
#[allow(missing_docs)] // the fields are what the messages name
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// There is no driver on this machine.
    #[error("the NVIDIA driver's library libcuda.so.1 is not found; install the driver, or use the CPU")]
    NoDriver,
    /// The driver is older than what the kernels were compiled for.
    #[error("the NVIDIA driver is for CUDA {seen}, and this program for CUDA {needed}; update the driver, or use the CPU")]
    OldDriver { seen: String, needed: String },
    /// There is no such device.
    #[error("there is no CUDA device {ordinal}: {count} found; see nvidia-smi")]
    NoDevice { ordinal: usize, count: usize },
    /// The device is of a kind that the program was not compiled for.
    #[error("this program has no kernels for a GPU of compute capability {major}.{minor}; it needs 8.0 or newer")]
    NoCode { major: i32, minor: i32 },
    /// No room.
    #[error("{wanted} bytes are wanted on the GPU, and {free} are free; use a smaller model, context or number of sequences")]
    OutOfMemory { wanted: usize, free: usize },
    /// The driver refuses; the device can be used further.
    #[error("the GPU refuses to {what}: {code}")]
    Driver { what: &'static str, code: String },
    /// A kernel failed or the device is gone: what is on it is lost, and it has to be opened anew, mostly by a new process.
    #[error("the GPU is lost ({code} seen in: {what}); start the program anew, and see dmesg for Xid messages")]
    Lost { what: &'static str, code: String },
    /// Shapes that do not fit, seen before anything is launched.
    #[error("{0}")]
    Shape(String),
}

type Result<T> = std::result::Result<T, Error>;

/// After these the context is unusable.
const LOST: [u32; 9] = [46, 214, 700, 702, 710, 714, 715, 716, 719];

fn failed(what: &'static str, e: result::DriverError) -> Error {
    let code = e.error_name().map_or_else(|_| format!("error {}", e.0 as u32), |name| name.to_string_lossy().into_owned());
    if LOST.contains(&(e.0 as u32)) { Error::Lost { what, code } } else { Error::Driver { what, code } }
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct Info {
    /// As the driver names it.
    pub name: String,
    /// Compute capability: (major, minor).
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Most bytes of shared memory that a block of threads can have.
    pub shared: usize,
}

/// A GPU and a stream on it: what it is told runs in that order. Clones share the stream.
#[derive(Clone)]
pub struct Device {
    gpu: Arc<Inner>,
    stream: Arc<Stream>,
}

struct Inner {
    ordinal: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<&'static str, (Function, usize)>>, // and the dynamic shared memory that it is allowed
    info: Info,
    used: AtomicUsize,
}

struct Stream {
    handle: sys::CUstream,
    gpu: Arc<Inner>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: the driver's handles may be used from any thread whose current context is theirs, and every use makes it so.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver serialises calls on one stream.
unsafe impl Sync for Inner {}
// SAFETY: as above.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Function {}

impl Device {
    /// How many devices there are.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::OldDriver`], [`Error::Driver`].
    pub fn count() -> Result<usize> {
        // SAFETY: only looks whether the library can be opened.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        match result::init() {
            Err(e) if e.0 as u32 == 100 => return Ok(0),
            other => other.map_err(|e| failed("start the driver", e))?,
        }
        let mut seen = 0;
        // SAFETY: the driver writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut seen).result() }.map_err(|e| failed("tell the driver's version", e))?;
        let needed: i32 = TOOLKIT.parse().unwrap_or(i32::MAX);
        // machine code runs on every driver of the same major version
        if seen / 1000 < needed / 1000 {
            let text = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
            return Err(Error::OldDriver { seen: text(seen), needed: text(needed / 1000 * 1000) });
        }
        result::device::get_count().map(|n| n as usize).map_err(|e| failed("count devices", e))
    }

    /// Opens a device and loads the kernels.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let device = result::device::get(ordinal as i32).map_err(|e| failed("open the device", e))?;
        let info = info(device)?;
        // SAFETY: the device exists; every handle is kept until the device is dropped.
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(|e| failed("make a context", e))?;
            let (modules, functions, used) = (Vec::new(), Mutex::default(), AtomicUsize::new(0));
            let mut inner = Inner { ordinal, device, context, modules, functions, info, used };
            inner.bind()?;
            inner.load()?;
            let gpu = Arc::new(inner);
            Ok(Self { stream: Stream::new(&gpu)?.into(), gpu })
        }
    }

    /// What devices there are, in the driver's order, without opening one.
    ///
    /// # Errors
    /// As [`Device::count`].
    pub fn list() -> Result<Vec<Info>> {
        let device = |i: usize| info(result::device::get(i as i32).map_err(|e| failed("open the device", e))?);
        (0..Self::count()?).map(device).collect()
    }

    /// The same device with a stream of its own: who captures graphs must not meet another's launches. Buffers that are written
    /// on one stream may be read on the other from then on, for writing waits.
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::Lost`].
    pub fn fork(&self) -> Result<Self> {
        Ok(Self { gpu: self.gpu.clone(), stream: Stream::new(&self.gpu)?.into() })
    }

    /// What it is.
    pub fn info(&self) -> &Info {
        &self.gpu.info
    }

    /// Free bytes, as the driver sees them: other processes have their share.
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::Lost`].
    pub fn free(&self) -> Result<usize> {
        self.gpu.bind()?;
        result::mem_get_info().map(|(free, _)| free).map_err(|e| failed("tell its free memory", e))
    }

    /// Bytes of all buffers that live.
    pub fn used(&self) -> usize {
        self.gpu.used.load(Ordering::Relaxed)
    }

    /// Its number in the driver's order.
    pub fn ordinal(&self) -> usize {
        self.gpu.ordinal
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream.handle
    }

    /// Makes its context the thread's.
    pub(super) fn bind(&self) -> Result<()> {
        self.gpu.bind()
    }

    /// A buffer of zeros. Waits for the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`], [`Error::Lost`].
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let free = self.free()?;
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or(Error::OutOfMemory { wanted: usize::MAX, free })?;
        // kernels copy 16 bytes at a time; drivers give whole 256s anyway
        let whole = bytes.checked_next_multiple_of(16).unwrap_or(usize::MAX).max(16);
        // SAFETY: the memory is this buffer's alone; it is set before anybody reads it.
        let pointer = unsafe {
            let pointer = result::malloc_sync(whole).map_err(|e| match e.0 as u32 {
                2 => Error::OutOfMemory { wanted: bytes, free },
                _ => failed("give memory", e),
            })?;
            self.gpu.used.fetch_add(bytes, Ordering::Relaxed);
            Buffer { pointer, len, device: self.clone(), kind: PhantomData }
        };
        // SAFETY: as long as the buffer is.
        unsafe { result::memset_d8_async(pointer.pointer, 0, whole, self.stream.handle) }
            .map_err(|e| failed("clear memory", e))?;
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

    /// Waits until all that was launched is done.
    ///
    /// # Errors
    /// What the kernels met: [`Error::Lost`].
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::synchronize(self.stream.handle) }.map_err(|e| failed("finish its work", e))
    }

    /// Captures what `launches` puts on the stream; nothing runs. It must neither allocate, wait, read nor write.
    ///
    /// # Errors
    /// Those of `launches`, and [`Error::Driver`].
    pub fn capture(&self, launches: impl FnOnce() -> Result<()>) -> Result<Graph> {
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as LOCAL;
        self.gpu.bind()?;
        // SAFETY: the stream is the device's; the graph is kept until it is dropped.
        unsafe {
            result::stream::begin_capture(self.stream.handle, LOCAL).map_err(|e| failed("begin a graph", e))?;
            let launched = launches();
            let graph = result::stream::end_capture(self.stream.handle).map_err(|e| failed("end a graph", e));
            launched?;
            let graph = graph?;
            let (mut exec, mut launches) = (std::ptr::null_mut(), 0);
            let made = sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut launches).result();
            let made = made.and_then(|()| sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0).result());
            let _ = result::graph::destroy(graph);
            made.map_err(|e| failed("make a graph", e))?;
            Ok(Graph { exec, launches, device: self.clone() })
        }
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `args` point at what the kernel declares, in order, and the kernel stays within its buffers.
    pub(super) unsafe fn launch(
        &self,
        name: &'static str,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        let function = self.function(name, shared)?;
        let [x, y, z] = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        if x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 {
            return Err(Error::Shape(format!("{name} over a grid of {grid:?} blocks")));
        }
        self.gpu.bind()?;
        // SAFETY: the caller vouches for the arguments.
        unsafe { result::launch_kernel(function.0, (x, y, z), (threads as u32, 1, 1), shared as u32, self.stream.handle, args) }
            .map_err(|e| failed(name, e))
    }

    /// Looks a kernel up, and allows it the shared memory.
    fn function(&self, name: &'static str, shared: usize) -> Result<Function> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC;
        self.gpu.bind()?;
        let mut functions = self.gpu.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = functions.get(name).copied();
        let (function, allowed) = match known {
            Some(known) => known,
            None => (self.gpu.find(name)?, 48 << 10),
        };
        if shared > allowed {
            // SAFETY: the function is loaded.
            unsafe { result::function::set_function_attribute(function.0, DYNAMIC, shared as i32) }
                .map_err(|_| Error::Shape(format!("{name} needs {shared} bytes of shared memory: more than this GPU has")))?;
        }
        if known.is_none() || shared > allowed {
            functions.insert(name, (function, allowed.max(shared)));
        }
        Ok(function)
    }
}

fn info(device: sys::CUdevice) -> Result<Info> {
    use sys::CUdevice_attribute_enum as A;
    // SAFETY: the device exists.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map_err(|e| failed("tell what it is", e));
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.map_err(|e| failed("tell its memory", e))?;
    Ok(Info {
        name: result::device::get_name(device).map_err(|e| failed("tell its name", e))?,
        capability: (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory,
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize,
        shared: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(48 << 10) as usize,
    })
}

impl Stream {
    fn new(gpu: &Arc<Inner>) -> Result<Self> {
        gpu.bind()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(|e| failed("make a stream", e))?;
        Ok(Self { handle, gpu: gpu.clone() })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: nobody else has the stream.
        unsafe {
            if self.gpu.bind().is_ok() {
                let _ = result::stream::destroy(self.handle);
            }
        }
    }
}

impl Inner {
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is kept until the device is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("become current", e))
    }

    /// Loads the newest image of each file that the device can run.
    fn load(&mut self) -> Result<()> {
        let (major, minor) = self.info.capability;
        let capability = (10 * major + minor) as u32;
        let newest = IMAGES.iter().map(|i| i.0).filter(|&cc| cc <= capability).max();
        let none = Error::NoCode { major, minor };
        if capability < 80 {
            return Err(none);
        }
        for (_, image) in IMAGES.iter().filter(|i| Some(i.0) == newest && !i.1.is_empty()) {
            // SAFETY: the image is whole, and PTX among them ends with a zero.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            self.modules.push(module.map_err(|e| match e.0 as u32 {
                200 | 209 | 218 | 222 => none.clone(),
                _ => failed("load kernels", e),
            })?);
        }
        if self.modules.is_empty() { Err(none) } else { Ok(()) }
    }

    fn find(&self, name: &'static str) -> Result<Function> {
        let text = CString::new(name).map_err(|e| Error::Shape(e.to_string()))?;
        // SAFETY: the modules are loaded.
        let found = self.modules.iter().find_map(|&m| unsafe { result::module::get_function(m, text.clone()) }.ok());
        found.map(Function).ok_or(Error::Driver { what: name, code: "no such kernel".into() })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: nobody else has the device any more. What cannot be released now goes with the process.
        unsafe {
            if self.bind().is_ok() {
                for &module in &self.modules {
                    let _ = result::module::unload(module);
                }
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

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

    /// Where it lies.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Where it lies on the device.
    pub(super) fn pointer(&self) -> sys::CUdeviceptr {
        self.pointer
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
        self.device.gpu.bind()?;
        // SAFETY: the range is the buffer's; waiting keeps the source alive until it is read.
        unsafe {
            result::memcpy_htod_async(self.pointer + (at * size_of::<T>()) as u64, values, self.device.stream.handle)
                .map_err(|e| failed("take data", e))?;
            result::stream::synchronize(self.device.stream.handle).map_err(|e| failed("take data", e))
        }
    }

    /// Reads elements from `at` on, after all that was launched before. Waits.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn read(&self, at: usize, values: &mut [T]) -> Result<()> {
        self.check(at, values.len())?;
        self.device.gpu.bind()?;
        // SAFETY: the range is the buffer's; waiting keeps the target alive until it is written.
        unsafe {
            result::memcpy_dtoh_async(values, self.pointer + (at * size_of::<T>()) as u64, self.device.stream.handle)
                .map_err(|e| failed("give data", e))?;
            result::stream::synchronize(self.device.stream.handle).map_err(|e| failed("give data", e))
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
        self.device.gpu.bind()?;
        let at = |i: usize| self.pointer + (i * size_of::<T>()) as u64;
        // SAFETY: both ranges are the buffer's, and apart.
        unsafe { result::memcpy_dtod_async(at(to), at(from), len * size_of::<T>(), self.device.stream.handle) }
            .map_err(|e| failed("copy data", e))
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
        self.device.gpu.bind()?;
        let (to, bytes) = (self.pointer + (at * size_of::<T>()) as u64, len * size_of::<T>());
        // SAFETY: both ranges are the buffers', and these are apart.
        unsafe { result::memcpy_dtod_async(to, source.pointer, bytes, self.device.stream.handle) }
            .map_err(|e| failed("copy data", e))
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: nobody else has the memory. Freeing waits for what was launched; what fails here fails because the device is lost.
        unsafe {
            if self.device.gpu.bind().is_ok() {
                let _ = result::free_sync(self.pointer);
            }
        }
        self.device.gpu.used.fetch_sub(self.len * size_of::<T>(), Ordering::Relaxed);
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
        self.device.gpu.bind()?;
        // SAFETY: the graph and the stream are the device's. Who made the graph keeps its buffers.
        unsafe { result::graph::launch(self.exec, self.device.stream.handle) }.map_err(|e| failed("run a graph", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody else has the graph.
        unsafe {
            if self.device.gpu.bind().is_ok() {
                let _ = result::graph::exec_destroy(self.exec);
            }
        }
    }
}
