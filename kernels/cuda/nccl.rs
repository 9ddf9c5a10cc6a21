//! Sums over the GPUs of one machine, by NVIDIA's NCCL.
//!
//! The library is looked up when the first communicator is made; a machine without it does everything else. It has run against a
//! double of the library in an emulator (`tests/cuda.sh`). **It has not run on real GPUs yet.**

use super::buffer::Buffer;
use super::device::{Device, Error};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// Oldest version that works: the first whose sums can be captured into a graph, 2.9.6 (10000 * major + 100 * minor + patch).
const OLDEST: c_int = 20_906;
/// NCCL's number of f32.
const FLOAT: c_int = 7;
/// NCCL's number of the sum.
const SUM: c_int = 0;

/// What can go wrong between GPUs.
#[allow(missing_docs)] // the fields are what the messages name
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NcclError {
    /// There is no such library on this machine, or one without a function that is needed.
    #[error("NCCL is not usable ({0}); install libnccl2 2.9.6 or newer, or use one GPU")]
    Absent(String),
    /// The library is too old.
    #[error("NCCL says its version is {seen}, and {OLDEST} (2.9.6) or newer is needed; install libnccl2 anew, or use one GPU")]
    Old { seen: c_int },
    /// The library refuses.
    #[error("NCCL refuses to {what}: {why}")]
    Refused { what: &'static str, why: String },
    /// Devices or buffers that do not fit together, seen before anything is launched.
    #[error("{0}")]
    Shape(String),
    /// A GPU refuses.
    #[error(transparent)]
    Device(#[from] Error),
}

type Result<T> = std::result::Result<T, NcclError>;
type Handle = *mut c_void;

/// The functions that are used, as nccl.h of 2.9 and later declares them.
struct Library {
    init_all: unsafe extern "C" fn(*mut Handle, c_int, *const c_int) -> c_int,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    abort: unsafe extern "C" fn(Handle) -> c_int,
    async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Library {
    /// The library of this process, opened once.
    fn get() -> Result<&'static Self> {
        static LIBRARY: OnceLock<Result<Library>> = OnceLock::new();
        LIBRARY.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Self> {
        // SAFETY: the name is a C string. The library stays open as long as the process.
        let library = unsafe { libc::dlopen(c"libnccl.so.2".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: dlerror gives a C string or null.
            let why = unsafe { text(libc::dlerror()) };
            return Err(NcclError::Absent(why));
        }
        // SAFETY: each function is declared so in nccl.h.
        unsafe {
            let version: unsafe extern "C" fn(*mut c_int) -> c_int = symbol(library, c"ncclGetVersion")?;
            let found = Self {
                init_all: symbol(library, c"ncclCommInitAll")?,
                destroy: symbol(library, c"ncclCommDestroy")?,
                abort: symbol(library, c"ncclCommAbort")?,
                async_error: symbol(library, c"ncclCommGetAsyncError")?,
                all_reduce: symbol(library, c"ncclAllReduce")?,
                group_start: symbol(library, c"ncclGroupStart")?,
                group_end: symbol(library, c"ncclGroupEnd")?,
                error_string: symbol(library, c"ncclGetErrorString")?,
            };
            let mut seen = 0;
            found.done(version(&mut seen), "tell its version")?;
            if seen < OLDEST { Err(NcclError::Old { seen }) } else { Ok(found) }
        }
    }

    fn done(&self, code: c_int, what: &'static str) -> Result<()> {
        // SAFETY: the function takes every number and gives a C string.
        let why = || unsafe { text((self.error_string)(code)) };
        if code == 0 { Ok(()) } else { Err(NcclError::Refused { what, why: format!("{} ({code})", why()) }) }
    }
}

/// # Safety
/// `from` is null or a C string.
unsafe fn text(from: *const c_char) -> String {
    if from.is_null() {
        return "no reason is given".into();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

/// # Safety
/// `F` is the type of the library's function of this name.
unsafe fn symbol<F: Copy>(library: Handle, name: &CStr) -> Result<F> {
    const { assert!(size_of::<F>() == size_of::<Handle>()) };
    // SAFETY: the library is open; a function's address has the size of a pointer.
    unsafe {
        let found = libc::dlsym(library, name.as_ptr());
        if found.is_null() {
            return Err(NcclError::Absent(format!("libnccl.so.2 has no {}", name.to_string_lossy())));
        }
        Ok(std::mem::transmute_copy(&found))
    }
}

/// GPUs of this process that sum together.
pub struct Communicator {
    library: &'static Library,
    members: Vec<Handle>, // (devices)
    devices: Vec<Device>,
}

// SAFETY: NCCL allows a communicator to be used from any thread, by one at a time: a sum borrows it alone.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Connects devices, each once, in this order.
    ///
    /// # Errors
    /// [`NcclError`].
    pub fn new(devices: &[Device]) -> Result<Self> {
        let ordinals: Vec<c_int> = devices.iter().map(|d| d.ordinal() as c_int).collect();
        let twice = (1..ordinals.len()).any(|i| ordinals[..i].contains(&ordinals[i]));
        if ordinals.is_empty() || twice {
            return Err(NcclError::Shape(format!("GPUs {ordinals:?} are to sum together; at least one is needed, each once")));
        }
        let library = Library::get()?;
        let mut members = vec![null_mut(); ordinals.len()];
        // SAFETY: both lists have that many members.
        let made = unsafe { (library.init_all)(members.as_mut_ptr(), ordinals.len() as c_int, ordinals.as_ptr()) };
        library.done(made, "connect the GPUs")?;
        Ok(Self { library, members, devices: devices.to_vec() })
    }

    /// The devices, in order.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Replaces the first `len` elements of each device's buffer by their sums over the devices, in f32, on the devices' streams. Does
    /// not wait. The order of a sum is NCCL's; every device has the same result. May be captured into graphs, where the streams of
    /// all devices are being captured.
    ///
    /// # Errors
    /// [`NcclError::Shape`] for other than one long enough buffer of each device in order; [`NcclError::Refused`].
    pub fn all_reduce(&mut self, buffers: &mut [&mut Buffer<f32>], len: usize) -> Result<()> {
        let fits = |(b, d): (&&mut Buffer<f32>, &Device)| b.device().ordinal() == d.ordinal() && b.len() >= len;
        if buffers.len() != self.devices.len() || !buffers.iter().zip(&self.devices).all(fits) {
            let seen: Vec<_> = buffers.iter().map(|b| (b.device().ordinal(), b.len())).collect();
            let wanted: Vec<_> = self.devices.iter().map(Device::ordinal).collect();
            return Err(NcclError::Shape(format!("{len} elements of buffers (GPU, length) {seen:?} over GPUs {wanted:?}")));
        }
        let library = self.library;
        // SAFETY: takes nothing.
        library.done(unsafe { (library.group_start)() }, "begin a sum")?;
        let mut launched = Ok(());
        for ((buffer, device), &member) in buffers.iter().zip(&self.devices).zip(&self.members) {
            let at = buffer.pointer() as Handle;
            let one = device.bind().map_err(NcclError::from).and_then(|()| {
                // SAFETY: the buffer holds the elements and is this member's; the stream lives as long as the device.
                let code = unsafe { (library.all_reduce)(at, at, len, FLOAT, SUM, member, device.stream().cast()) };
                library.done(code, "sum")
            });
            launched = launched.and(one);
        }
        // a group that was begun is ended, whatever happened in it
        // SAFETY: takes nothing.
        let ended = library.done(unsafe { (library.group_end)() }, "sum");
        launched.and(ended)
    }

    /// What became of the sums that were launched: a connection that broke, a GPU that is gone.
    ///
    /// # Errors
    /// [`NcclError::Refused`].
    pub fn check(&self) -> Result<()> {
        self.members.iter().try_for_each(|&member| {
            let mut state = 0;
            // SAFETY: the member lives; the library writes one integer.
            self.library.done(unsafe { (self.library.async_error)(member, &mut state) }, "tell how it is")?;
            self.library.done(state, "go on")
        })
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // where something broke, others would be waited for without end
        let end = if self.check().is_ok() { self.library.destroy } else { self.library.abort };
        for (&member, device) in self.members.iter().zip(&self.devices) {
            let _ = device.bind();
            // SAFETY: nobody else has the member.
            let _ = unsafe { end(member) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All devices there are; at least two are needed.
    fn devices() -> Vec<Device> {
        (0..Device::count().unwrap()).map(|i| Device::open(i).unwrap()).collect()
    }

    #[test]
    #[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
    fn sums_are_those_of_the_members() {
        let devices = devices();
        assert!(devices.len() >= 2, "{} GPUs; at least two are needed", devices.len());
        let mut together = Communicator::new(&devices).unwrap();
        // lengths around NCCL's units, one of them less than the buffer
        for (room, len) in [(1, 1), (7, 5), (1000, 1000), (4099, 4096)] {
            let value = |member: usize, i: usize| ((member * 37 + i * 11) % 101) as f32 * 0.125 - 6.0;
            let filled = |(m, d): (usize, &Device)| d.upload(&(0..room).map(|i| value(m, i)).collect::<Vec<_>>()).unwrap();
            let mut buffers: Vec<_> = devices.iter().enumerate().map(filled).collect();
            // eighths: every order of the sum is exact. Twice, so that the second one takes up the first one's results
            for _ in 0..2 {
                together.all_reduce(&mut buffers.iter_mut().collect::<Vec<_>>(), len).unwrap();
            }
            for (m, buffer) in buffers.iter().enumerate() {
                let mut got = vec![0.0; room];
                buffer.read(0, &mut got).unwrap();
                for (i, got) in got.into_iter().enumerate() {
                    let sum: f32 = (0..devices.len()).map(|m| value(m, i)).sum();
                    let want = if i < len { sum * devices.len() as f32 } else { value(m, i) };
                    assert_eq!(got, want, "GPU {m}, element {i} of {len}");
                }
            }
        }
        together.check().unwrap();
    }

    #[test]
    #[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
    fn what_does_not_fit_is_refused() {
        let devices = devices();
        let shape = |r: Result<()>| assert!(matches!(r, Err(NcclError::Shape(_))), "{r:?}");
        shape(Communicator::new(&[]).map(drop));
        shape(Communicator::new(&[devices[0].clone(), devices[0].clone()]).map(drop));
        let mut together = Communicator::new(&devices[..2]).unwrap();
        let [mut a, mut b, mut c] = [0, 1, 1].map(|i: usize| devices[i].zeros::<f32>(8 >> i).unwrap());
        shape(together.all_reduce(&mut [&mut a], 4));
        shape(together.all_reduce(&mut [&mut b, &mut a], 4));
        shape(together.all_reduce(&mut [&mut a, &mut b], 5));
        shape(together.all_reduce(&mut [&mut a, &mut b, &mut c], 4));
        together.all_reduce(&mut [&mut a, &mut b], 4).unwrap();
    }

    /// `DREAMSEED_NCCL_REFUSAL`: a part of what is said, where the library is absent, too old or fails.
    #[test]
    #[ignore = "needs a faulty NCCL: tests/cuda.sh"]
    fn a_library_that_will_not_do_is_told() {
        let (devices, wanted) = (devices(), std::env::var("DREAMSEED_NCCL_REFUSAL").unwrap());
        let tried = Communicator::new(&devices).and_then(|mut together| {
            let mut buffers = devices.iter().map(|d| d.zeros(8)).collect::<std::result::Result<Vec<_>, _>>()?;
            together.all_reduce(&mut buffers.iter_mut().collect::<Vec<_>>(), 8)?;
            together.check()
        });
        let seen = tried.unwrap_err().to_string();
        assert!(seen.contains(&wanted), "{seen}");
    }
}
