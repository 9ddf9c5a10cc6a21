//! What the GPUs of one machine do together, by NVIDIA's NCCL: sums, and rows that each has a part of.
//!
//! The library is looked up when the first communicator is made; a machine without it does everything else. It has run against a
//! double of the library in an emulator (`tests/cuda.sh`). **It has not run on real GPUs yet.**

use super::buffer::Buffer;
use super::device::{Device, Error};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Oldest version that works: the first whose sums can be captured into a graph, 2.9.6 (10000 * major + 100 * minor + patch).
const OLDEST: c_int = 20_906;
/// NCCL's number of f32.
const FLOAT: c_int = 7;
/// NCCL's number of the sum.
const SUM: c_int = 0;

/// What can go wrong with the library.
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
}

type Result<T> = std::result::Result<T, Error>;
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
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, *mut c_void) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    version: c_int,
}

impl Library {
    /// The library of this process, opened once.
    fn get() -> std::result::Result<&'static Self, NcclError> {
        static LIBRARY: OnceLock<std::result::Result<Library, NcclError>> = OnceLock::new();
        LIBRARY.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> std::result::Result<Self, NcclError> {
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
            let mut found = Self {
                init_all: symbol(library, c"ncclCommInitAll")?,
                destroy: symbol(library, c"ncclCommDestroy")?,
                abort: symbol(library, c"ncclCommAbort")?,
                async_error: symbol(library, c"ncclCommGetAsyncError")?,
                all_reduce: symbol(library, c"ncclAllReduce")?,
                group_start: symbol(library, c"ncclGroupStart")?,
                group_end: symbol(library, c"ncclGroupEnd")?,
                all_gather: symbol(library, c"ncclAllGather")?,
                error_string: symbol(library, c"ncclGetErrorString")?,
                version: 0,
            };
            let told = version(&mut found.version);
            found.done(told, "tell its version")?;
            if found.version < OLDEST { Err(NcclError::Old { seen: found.version }) } else { Ok(found) }
        }
    }

    fn done(&self, code: c_int, what: &'static str) -> std::result::Result<(), NcclError> {
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
unsafe fn symbol<F: Copy>(library: Handle, name: &CStr) -> std::result::Result<F, NcclError> {
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

/// The version of the library that this machine has, as `2.27.3`.
///
/// # Errors
/// [`NcclError`]: there is none, or it is too old.
pub fn nccl_version() -> std::result::Result<String, NcclError> {
    let v = Library::get()?.version;
    Ok(format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100))
}

/// Held by who launches what several GPUs do together, until that is done: what two communicators launch on the same GPUs in different
/// orders can wait for each other without end (NCCL user guide, "Using multiple NCCL communicators concurrently").
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// GPUs of this process that do things together. Graphs in which they do have to be dropped before it: NCCL waits for them.
pub struct Communicator {
    library: &'static Library,
    members: Vec<Handle>, // (devices)
    devices: Vec<Device>,
    broken: bool,
}

// SAFETY: NCCL allows a communicator to be used from any thread, by one at a time: a sum borrows it alone.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Connects devices, each once, in this order.
    ///
    /// # Errors
    /// [`Error::Shape`] for no device or one twice, [`Error::Nccl`].
    pub fn new(devices: &[Device]) -> Result<Self> {
        let ordinals: Vec<c_int> = devices.iter().map(|d| d.ordinal() as c_int).collect();
        let twice = (1..ordinals.len()).any(|i| ordinals[..i].contains(&ordinals[i]));
        if ordinals.is_empty() || twice {
            return Err(Error::Shape(format!("GPUs {ordinals:?} are to sum together; at least one is needed, each once")));
        }
        let library = Library::get()?;
        let mut members = vec![null_mut(); ordinals.len()];
        // SAFETY: both lists have that many members.
        let made = unsafe { (library.init_all)(members.as_mut_ptr(), ordinals.len() as c_int, ordinals.as_ptr()) };
        library.done(made, "connect the GPUs")?;
        Ok(Self { library, members, devices: devices.to_vec(), broken: false })
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
    /// [`Error::Shape`] for other than one long enough buffer of each device in order; [`Error::Nccl`].
    pub fn all_reduce(&mut self, buffers: &mut [&mut Buffer<f32>], len: usize) -> Result<()> {
        self.fit(len, buffers.iter().map(|b| (b.device(), b.len())))?;
        self.together("sum", |i, member, stream| {
            let at = buffers[i].pointer() as Handle;
            // SAFETY: the buffer holds the elements and is this member's; the stream lives as long as the device.
            unsafe { (self.library.all_reduce)(at, at, len, FLOAT, SUM, member, stream) }
        })
    }

    /// Puts the first `len` elements of each device's first buffer behind each other, in the order of the devices, into the second one
    /// of all of them. As [`Communicator::all_reduce`] otherwise.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce`].
    pub fn all_gather(&mut self, buffers: &mut [(&Buffer<f32>, &mut Buffer<f32>)], len: usize) -> Result<()> {
        self.fit(len, buffers.iter().map(|(own, _)| (own.device(), own.len())))?;
        self.fit(len.saturating_mul(buffers.len()), buffers.iter().map(|(_, all)| (all.device(), all.len())))?;
        self.together("gather", |i, member, stream| {
            let (own, all) = &buffers[i];
            // SAFETY: as above, and all devices' elements fit the second buffer.
            unsafe { (self.library.all_gather)(own.pointer() as Handle, all.pointer() as Handle, len, FLOAT, member, stream) }
        })
    }

    /// Refuses other than one buffer of at least `len` elements of each device in order.
    fn fit<'a>(&self, len: usize, buffers: impl Iterator<Item = (&'a Device, usize)>) -> Result<()> {
        let seen: Vec<_> = buffers.map(|(device, room)| (device.ordinal(), room)).collect();
        let wanted: Vec<_> = self.devices.iter().map(Device::ordinal).collect();
        let fits = |(&(gpu, room), &wanted): (&(usize, usize), &usize)| gpu == wanted && room >= len;
        if seen.len() == wanted.len() && seen.iter().zip(&wanted).all(fits) {
            return Ok(());
        }
        Err(Error::Shape(format!("{len} elements of buffers (GPU, length) {seen:?} over GPUs {wanted:?}")))
    }

    /// One call for each member, as a group: NCCL begins when all are there.
    fn together(&self, what: &'static str, call: impl Fn(usize, Handle, Handle) -> c_int) -> Result<()> {
        let library = self.library;
        // SAFETY: takes nothing.
        library.done(unsafe { (library.group_start)() }, what)?;
        let mut launched = Ok(());
        for (i, (device, &member)) in self.devices.iter().zip(&self.members).enumerate() {
            let one = device.bind().and_then(|()| Ok(library.done(call(i, member, device.stream().cast()), what)?));
            launched = launched.and(one);
        }
        // a group that was begun is ended, whatever happened in it
        // SAFETY: takes nothing.
        let ended = library.done(unsafe { (library.group_end)() }, what);
        launched.and(ended.map_err(Error::from))
    }

    /// Waits until all is done that was launched on the devices' streams. Who waits for one of them alone waits without end where
    /// another one fails: it comes to no sum any more. After an error the communicator is to be dropped by [`Communicator::abort`].
    ///
    /// # Errors
    /// What the first that failed met, or what NCCL did.
    pub fn wait(&self) -> Result<()> {
        loop {
            let mut idle = true;
            for device in &self.devices {
                idle &= device.is_idle()?;
            }
            self.check()?;
            if idle {
                return Ok(());
            }
            std::thread::yield_now();
        }
    }

    /// Ends what is under way, after a failure: devices that wait for one that does not come go on, with what they have.
    pub fn abort(mut self) {
        self.broken = true;
    }

    /// What became of what was launched: a connection that broke, a GPU that is gone.
    ///
    /// # Errors
    /// [`NcclError::Refused`].
    pub fn check(&self) -> Result<()> {
        self.members.iter().try_for_each(|&member| {
            let mut state = 0;
            // SAFETY: the member lives; the library writes one integer.
            self.library.done(unsafe { (self.library.async_error)(member, &mut state) }, "tell how it is")?;
            Ok(self.library.done(state, "go on")?)
        })
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // where something broke, others would be waited for without end
        let whole = !self.broken && self.check().is_ok();
        let end = if whole { self.library.destroy } else { self.library.abort };
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
    use crate::cuda::Graph;

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

    /// Each has all parts in order, also by graphs, whose second run takes up what the buffers hold then.
    #[test]
    #[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
    fn parts_are_gathered_and_graphs_of_all_run_together() {
        let devices = devices();
        let (n, len) = (devices.len(), 37);
        let mut together = Communicator::new(&devices).unwrap();
        let part = |member: usize, add: usize| (0..len).map(|i| (member * len + i + add) as f32).collect::<Vec<_>>();
        let mut own: Vec<_> = devices.iter().enumerate().map(|(m, d)| d.upload(&part(m, 0)).unwrap()).collect();
        let mut all: Vec<_> = devices.iter().map(|d| d.zeros::<f32>(n * len).unwrap()).collect();
        let graphs = Graph::capture(&devices, || {
            together.all_gather(&mut own.iter().zip(&mut all).collect::<Vec<_>>(), len)?;
            together.all_reduce(&mut all.iter_mut().collect::<Vec<_>>(), n * len)
        })
        .unwrap();
        assert!(graphs.iter().all(|g| g.launches() == 2));
        for add in [0, 5] {
            own.iter_mut().enumerate().for_each(|(m, own)| own.write(0, &part(m, add)).unwrap());
            graphs.iter().try_for_each(Graph::replay).unwrap();
            together.wait().unwrap();
            for all in &all {
                let want: Vec<_> = (0..n * len).map(|i| ((i + add) * n) as f32).collect();
                let mut got = vec![0.0; n * len];
                all.read(0, &mut got).unwrap();
                assert_eq!(got, want);
            }
        }
        // a member that does not come is waited for, until those who wait are told to go on
        graphs[0].replay().unwrap();
        assert!(!devices[0].is_idle().unwrap());
        drop(graphs);
        together.abort();
        assert!(devices[0].is_idle().unwrap());
    }

    #[test]
    #[ignore = "needs two GPUs and NCCL, or the doubles of tests/cuda.sh"]
    fn what_does_not_fit_is_refused() {
        let devices = devices();
        let shape = |r: Result<()>| assert!(matches!(r, Err(Error::Shape(_))), "{r:?}");
        shape(Communicator::new(&[]).map(drop));
        shape(Communicator::new(&[devices[0].clone(), devices[0].clone()]).map(drop));
        let mut together = Communicator::new(&devices[..2]).unwrap();
        let [mut a, mut b, mut c] = [0, 1, 1].map(|i: usize| devices[i].zeros::<f32>(8 >> i).unwrap());
        shape(together.all_reduce(&mut [&mut a], 4));
        shape(together.all_reduce(&mut [&mut b, &mut a], 4));
        shape(together.all_reduce(&mut [&mut a, &mut b], 5));
        shape(together.all_reduce(&mut [&mut a, &mut b, &mut c], 4));
        shape(together.all_gather(&mut [(&c, &mut a), (&c, &mut b)], 1));
        let mut d = devices[0].zeros::<f32>(3).unwrap();
        shape(together.all_gather(&mut [(&a, &mut d), (&c, &mut b)], 2));
        together.all_reduce(&mut [&mut a, &mut b], 4).unwrap();
    }

    /// `DREAMSEED_NCCL_REFUSAL`: a part of what is said, where the library is absent, too old or fails.
    #[test]
    #[ignore = "needs a faulty NCCL: tests/cuda.sh"]
    fn a_library_that_will_not_do_is_told() {
        let (devices, wanted) = (devices(), std::env::var("DREAMSEED_NCCL_REFUSAL").unwrap());
        let tried = Communicator::new(&devices).and_then(|mut together| {
            let mut buffers = devices.iter().map(|d| d.zeros(8)).collect::<Result<Vec<_>>>()?;
            together.all_reduce(&mut buffers.iter_mut().collect::<Vec<_>>(), 8)?;
            together.check()
        });
        let seen = tried.unwrap_err().to_string();
        assert!(seen.contains(&wanted), "{seen}");
    }
}
