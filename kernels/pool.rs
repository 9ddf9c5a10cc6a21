//! The thread pool that all kernels run on: persistent workers that spin for a moment between regions, then park.
//!
//! [`Pool::keep_awake`] makes one region of a whole decode step: the workers stay in it from the first operation to the last, and
//! each operation ends with a barrier of those who took part in it.
//!
//! Each thread begins with a share of its own, a range of neighbouring tasks: it reads memory from front to back, as prefetching likes
//! it. Who is done takes what is left of the other shares.
//!
//! A region never waits for a worker that did not come: on a busy machine the threads that run do the work, and the caller
//! waits only for workers that took a task and have not finished it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks: longer than the serial code between two regions of a decode step, short
/// enough that an idle pool costs nothing.
const SPIN: Duration = Duration::from_micros(50);

/// Layout of `Shared::state`: region number << 32 | OPEN | workers inside.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

thread_local! {
    /// Whether this thread is inside a region (of any pool): a nested call then runs in place.
    static IN_REGION: Cell<bool> = const { Cell::new(false) };
}

/// A fixed number of threads, the caller's own among them.
pub struct Pool {
    threads: usize,
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    caller: AtomicBool, // true while a thread drives a region
}

struct Worker {
    handle: Option<JoinHandle<()>>,
    thread: Thread,
}

struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    shares: Vec<Share>, // one a thread, the caller's first
    parked: Vec<AtomicBool>,
    awake: AtomicUsize, // calls of keep_awake that have not ended
    quit: AtomicBool,
}

/// The next task of one thread's range; a cache line of its own (two, which processors fetch as a pair).
#[repr(align(128))]
struct Share(AtomicUsize);

/// One region; lives on the caller's stack for as long as the region is open or a worker is inside.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    count: usize,
    shares: &'a [Share],
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Job<'a> {
    fn new(task: &'a (dyn Fn(usize) + Sync), count: usize, shares: &'a [Share]) -> Self {
        let job = Self { task, count, shares: &shares[..count.min(shares.len())], panic: Mutex::new(None) };
        for (i, share) in job.shares.iter().enumerate() {
            share.0.store(job.begin(i), Ordering::Relaxed);
        }
        job
    }

    /// The first task of a share.
    fn begin(&self, share: usize) -> usize {
        (share as u128 * self.count as u128 / self.shares.len() as u128) as usize
    }

    /// Takes tasks of thread `me`'s share, then of the others', until none is left. The first panic is kept for the caller and ends
    /// the hand-out.
    fn work(&self, me: usize) {
        let outer = IN_REGION.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            for i in 0..self.shares.len() {
                let share = (me + i) % self.shares.len();
                let (next, end) = (&self.shares[share].0, self.begin(share + 1));
                while next.load(Ordering::Relaxed) < end {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= end {
                        break;
                    }
                    (self.task)(i);
                }
            }
        }));
        IN_REGION.set(outer);
        if let Err(payload) = result {
            self.shares.iter().for_each(|share| share.0.store(self.count, Ordering::Relaxed));
            if let Ok(mut slot) = self.panic.lock() {
                slot.get_or_insert(payload);
            }
        }
    }
}

impl Shared {
    fn worker(&self, me: usize) {
        let mut seen = 0;
        while let Some(region) = self.wait(me, seen) {
            seen = region;
            let mut state = self.state.load(Ordering::Acquire);
            // Join only if the region is still open: afterwards its job may be gone.
            while state >> 32 == region && state & OPEN != 0 {
                match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        let job = self.job.load(Ordering::Acquire);
                        // SAFETY: the caller keeps the job alive until the count of workers inside is back to zero, and this
                        // worker was counted while the region was open.
                        unsafe { (*job).work(me + 1) };
                        self.state.fetch_sub(1, Ordering::AcqRel);
                        break;
                    }
                    Err(now) => state = now,
                }
            }
        }
    }

    /// Waits for a region later than `seen`; `None` when the pool is dropped.
    fn wait(&self, me: usize, seen: u64) -> Option<u64> {
        let fresh = || {
            let state = self.state.load(Ordering::SeqCst);
            (state >> 32 != seen && state & OPEN != 0).then_some(state >> 32)
        };
        loop {
            let start = Instant::now();
            loop {
                for _ in 0..64 {
                    if let Some(region) = fresh() {
                        return Some(region);
                    }
                    std::hint::spin_loop();
                }
                if start.elapsed() >= SPIN {
                    if self.awake.load(Ordering::Relaxed) == 0 {
                        break;
                    }
                    std::thread::yield_now(); // a long serial part, or another process: leave the core to who can use it
                }
                if self.quit.load(Ordering::Acquire) {
                    return None;
                }
            }
            self.parked[me].store(true, Ordering::SeqCst);
            // A region opened before `parked` was visible would not wake this thread: look once more.
            while self.parked[me].load(Ordering::SeqCst) && fresh().is_none() && !self.quit.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.parked[me].store(false, Ordering::SeqCst);
        }
    }
}

impl Pool {
    /// A pool of `threads` (at least one, at most 256). A worker that the system refuses to start is done without.
    pub fn new(threads: usize) -> Self {
        let wanted = threads.clamp(1, 256);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            shares: (0..wanted).map(|_| Share(AtomicUsize::new(0))).collect(),
            parked: (1..wanted).map(|_| AtomicBool::new(false)).collect(),
            awake: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
        });
        let workers: Vec<_> = (1..wanted)
            .map_while(|i| {
                let shared = shared.clone();
                let run = move || shared.worker(i - 1);
                let handle = std::thread::Builder::new().name(format!("kernels-{i}")).spawn(run).ok()?;
                Some(Worker { thread: handle.thread().clone(), handle: Some(handle) })
            })
            .collect();
        Self { threads: workers.len() + 1, shared, workers, caller: AtomicBool::new(false) }
    }

    /// One thread a physical core that the process may use: affinity mask and cgroup quota count, hyperthreads do not.
    pub fn default_threads() -> usize {
        let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
        physical_cores().map_or(allowed, |cores| allowed.min(cores)).max(1)
    }

    /// How many threads run a parallel region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `task(0..count)`, each index once, on all threads; returns when all are done. A nested call, and a call while
    /// another thread drives this pool, runs in place.
    ///
    /// # Panics
    /// With the first panic of a task, after all threads have left the region; the remaining tasks are not started.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync) {
        let alone = self.workers.is_empty() || count < 2 || IN_REGION.get();
        if alone || self.caller.swap(true, Ordering::Acquire) {
            (0..count).for_each(task);
            return;
        }
        let job = Job::new(&task, count, &self.shared.shares[..self.threads]);
        self.open(&job);
        job.work(0);
        self.close();
        self.caller.store(false, Ordering::Release);
        if let Some(payload) = job.panic.into_inner().unwrap_or_else(|e| e.into_inner()) {
            resume_unwind(payload);
        }
    }

    /// Runs `work`, whose regions follow each other closely (the operations of a step), without a worker parking between two of
    /// them: it stays in the step, spinning, and yields its core when the caller takes long.
    pub fn keep_awake<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Awake<'a>(&'a AtomicUsize);
        impl Drop for Awake<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.shared.awake.fetch_add(1, Ordering::Relaxed);
        let _awake = Awake(&self.shared.awake);
        work()
    }

    /// Publishes a job and wakes as many parked workers as have something to do.
    fn open(&self, job: &Job) {
        // The lifetime ends here: `close` is called before the job goes (nothing between the two can unwind).
        let pointer = std::ptr::from_ref(job).cast::<Job<'static>>().cast_mut();
        self.shared.job.store(pointer, Ordering::Release);
        let region = (self.shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) & 0xffff_ffff;
        self.shared.state.store(region << 32 | OPEN, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&self.shared.parked).take(job.count - 1) {
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
    }

    /// Shuts the region and waits for the workers inside.
    fn close(&self) {
        self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while self.shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < 4096 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now(); // the worker may have lost its core: leave it this one
            }
        }
    }

    /// Splits `data` into chunks of `size` (the last may be shorter) and calls `task(index, chunk)` for each, in parallel.
    pub fn for_each_chunk<T: Send>(&self, data: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let (len, size) = (data.len(), size.max(1));
        let base = Shareable(data.as_mut_ptr());
        self.for_each(len.div_ceil(size), |i| {
            let start = i * size;
            // SAFETY: chunks of different indices do not overlap, each index comes once, and `data` is borrowed meanwhile.
            let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), size.min(len - start)) };
            task(i, chunk);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// A pointer that tasks may share: each writes its own part of what it points to.
pub(crate) struct Shareable<T>(*mut T);

impl<T> Shareable<T> {
    pub(crate) fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: only a pointer; every use is an unsafe block that argues why its part is its own.
unsafe impl<T: Send> Sync for Shareable<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shareable<T> {}

/// Distinct physical cores in this process's affinity mask; `None` where the system does not tell.
#[cfg(target_os = "linux")]
fn physical_cores() -> Option<usize> {
    // SAFETY: cpu_set_t is a plain bit array, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: pid 0 is this thread; the kernel writes at most the size passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return None;
    }
    let mut cores = std::collections::HashSet::new();
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: cpu is below CPU_SETSIZE.
        if unsafe { libc::CPU_ISSET(cpu, &set) } {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            cores.insert(std::fs::read_to_string(path).ok()?);
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_comes_once() {
        let pool = Pool::new(4);
        for count in [0, 1, 2, 3, 7, 100, 1000] {
            let seen: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(count, |i| {
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn who_is_done_takes_what_is_left_of_other_shares() {
        let (pool, count, done) = (Pool::new(2), 20, AtomicUsize::new(0));
        for slow in [0, 10] {
            done.store(0, Ordering::Relaxed);
            pool.for_each(count, |i| {
                let start = Instant::now();
                while i == slow && done.load(Ordering::Relaxed) < count - 1 {
                    assert!(start.elapsed() < Duration::from_secs(20), "nobody took the tasks behind a slow one");
                    std::thread::yield_now();
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    }

    #[test]
    fn regions_follow_each_other_spinning_and_parked() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..2000 {
            pool.for_each(5, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(sum.into_inner(), 20_000);
    }

    #[test]
    fn workers_stay_awake_through_a_step_and_park_after_it() {
        let pool = Pool::new(3);
        let all_parked = || pool.shared.parked.iter().all(|p| p.load(Ordering::SeqCst));
        let wait = |limit: Duration| {
            let start = Instant::now();
            while !all_parked() && start.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(1));
            }
            all_parked()
        };
        let step = catch_unwind(AssertUnwindSafe(|| {
            pool.keep_awake(|| {
                pool.for_each(3, |_| {});
                assert!(!wait(Duration::from_millis(20)), "parked within the step");
                panic!("a step that fails");
            })
        }));
        assert!(step.is_err() && wait(Duration::from_secs(5)), "parked after the step");
    }

    #[test]
    fn a_nested_call_runs_in_place() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        pool.for_each(8, |_| {
            let me = std::thread::current().id();
            pool.for_each(8, |_| {
                assert_eq!(me, std::thread::current().id());
                sum.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in 0..6 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.for_each(6, |i| assert_ne!(i, bad, "task {bad}"))));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.for_each(10, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn several_threads_may_call_at_once() {
        let pool = Pool::new(2);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..300 {
                        let sum = AtomicUsize::new(0);
                        pool.for_each(16, |i| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 120);
                    }
                });
            }
        });
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = Pool::new(3);
        let mut data = vec![0usize; 103];
        pool.for_each_chunk(&mut data, 10, |i, chunk| chunk.iter_mut().enumerate().for_each(|(j, v)| *v = i * 10 + j));
        assert!(data.iter().enumerate().all(|(i, &v)| i == v));
    }

    #[test]
    fn the_default_is_at_least_one_thread() {
        assert!((1..=4096).contains(&Pool::default_threads()));
    }
}
