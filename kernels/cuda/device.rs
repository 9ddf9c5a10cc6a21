//! A device, its stream and the kernels on it.

use super::nccl::NcclError;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
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
    #[error("{wanted} bytes are wanted on GPU {gpu}, and {free} are free; use a smaller model, context or number of sequences")]
    OutOfMemory { gpu: usize, wanted: usize, free: usize },
    /// The driver refuses; the device can be used further.
    #[error("the GPU refuses to {what}: {code}")]
    Driver { what: &'static str, code: String },
    /// A kernel failed or the device is gone: what is on it is lost, and it has to be opened anew, mostly by a new process.
    #[error("GPU {gpu} is lost ({code} seen in: {what}); start the program anew, and see dmesg for Xid messages")]
    Lost { gpu: usize, what: &'static str, code: String },
    /// Shapes that do not fit, seen before anything is launched.
    #[error("{0}")]
    Shape(String),
    /// GPUs that are to share each layer of a model are not alike.
    #[error("each layer can be cut over equal GPUs alone, and {0}; name equal ones, or divide the layers over them")]
    Unequal(String),
    /// NCCL does not do it.
    #[error(transparent)]
    Nccl(#[from] NcclError),
}

type Result<T> = std::result::Result<T, Error>;

/// What C leaves open between the fields of an argument. It is written, as 0: what happened to lie there could look like an address.
pub(super) type Gap = i32;

/// What a stream says that has something to do yet.
const NOT_READY: u32 = 600;
/// After these the context is unusable.
const LOST: [u32; 9] = [46, 214, 700, 702, 710, 714, 715, 716, 719];

fn name(e: result::DriverError) -> String {
    e.error_name().map_or_else(|_| format!("error {}", e.0 as u32), |name| name.to_string_lossy().into_owned())
}

/// The driver refuses before there is a device.
fn refused(what: &'static str, e: result::DriverError) -> Error {
    Error::Driver { what, code: name(e) }
}

fn failed(gpu: usize, what: &'static str, e: result::DriverError) -> Error {
    if LOST.contains(&(e.0 as u32)) { Error::Lost { gpu, what, code: name(e) } } else { refused(what, e) }
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
            other => other.map_err(|e| refused("start the driver", e))?,
        }
        let mut seen = 0;
        // SAFETY: the driver writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut seen).result() }.map_err(|e| refused("tell the driver's version", e))?;
        let needed: i32 = TOOLKIT.parse().unwrap_or(i32::MAX);
        // machine code runs on every driver of the same major version
        if seen / 1000 < needed / 1000 {
            let text = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
            return Err(Error::OldDriver { seen: text(seen), needed: text(needed / 1000 * 1000) });
        }
        result::device::get_count().map(|n| n as usize).map_err(|e| refused("count devices", e))
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
        let failed = |what| move |e| failed(ordinal, what, e);
        let device = result::device::get(ordinal as i32).map_err(failed("open the device"))?;
        let info = info(ordinal, device)?;
        // SAFETY: the device exists; every handle is kept until the device is dropped.
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(failed("make a context"))?;
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
        let device = |i: usize| info(i, result::device::get(i as i32).map_err(|e| failed(i, "open the device", e))?);
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
        self.bind()?;
        result::mem_get_info().map(|(free, _)| free).map_err(|e| self.failed("tell its free memory", e))
    }

    /// Bytes of all buffers that live.
    pub fn used(&self) -> usize {
        self.gpu.used.load(Ordering::Relaxed)
    }

    /// Its number in the driver's order.
    pub fn ordinal(&self) -> usize {
        self.gpu.ordinal
    }

    /// Its driver's handle.
    pub(super) fn handle(&self) -> sys::CUdevice {
        self.gpu.device
    }

    pub(super) fn context(&self) -> sys::CUcontext {
        self.gpu.context
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream.handle
    }

    /// Bytes of all buffers that live.
    pub(super) fn counter(&self) -> &AtomicUsize {
        &self.gpu.used
    }

    /// Makes its context the thread's.
    pub(super) fn bind(&self) -> Result<()> {
        self.gpu.bind()
    }

    /// What the driver's refusal to do something on it means.
    pub(super) fn failed(&self, what: &'static str, e: result::DriverError) -> Error {
        failed(self.gpu.ordinal, what, e)
    }

    /// Whether all is done that was launched on it. Does not wait.
    ///
    /// # Errors
    /// What the kernels met: [`Error::Lost`].
    pub(super) fn is_idle(&self) -> Result<bool> {
        self.bind()?;
        // SAFETY: the stream lives as long as the device.
        match unsafe { sys::cuStreamQuery(self.stream.handle).result() } {
            Err(e) if e.0 as u32 == NOT_READY => Ok(false),
            other => other.map(|()| true).map_err(|e| self.failed("tell whether it is done", e)),
        }
    }

    /// Waits until all that was launched is done.
    ///
    /// # Errors
    /// What the kernels met: [`Error::Lost`].
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::synchronize(self.stream.handle) }.map_err(|e| self.failed("finish its work", e))
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
        self.bind()?;
        // SAFETY: the caller vouches for the arguments.
        unsafe { result::launch_kernel(function.0, (x, y, z), (threads as u32, 1, 1), shared as u32, self.stream.handle, args) }
            .map_err(|e| self.failed(name, e))
    }

    /// Looks a kernel up, and allows it the shared memory.
    fn function(&self, name: &'static str, shared: usize) -> Result<Function> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC;
        self.bind()?;
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

fn info(ordinal: usize, device: sys::CUdevice) -> Result<Info> {
    use sys::CUdevice_attribute_enum as A;
    // SAFETY: the device exists.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map_err(|e| failed(ordinal, "tell what it is", e));
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.map_err(|e| failed(ordinal, "tell its memory", e))?;
    Ok(Info {
        name: result::device::get_name(device).map_err(|e| failed(ordinal, "tell its name", e))?,
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
        let made = result::stream::create(result::stream::StreamKind::NonBlocking);
        let handle = made.map_err(|e| failed(gpu.ordinal, "make a stream", e))?;
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
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed(self.ordinal, "become current", e))
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
                _ => failed(self.ordinal, "load kernels", e),
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
