//! The thread pool that all kernels run on. (First version: scoped threads; same interface as the persistent pool.)

use std::sync::atomic::{AtomicUsize, Ordering};

/// A fixed number of threads, the caller's own among them.
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` (at least one; at most the cores that the process may use).
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }

    /// One thread a core that the process may use.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get())
    }

    /// How many threads run a parallel region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `task(0..count)`, each index once, on all threads; returns when all are done. A nested call runs in place.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                task(i);
            }
        };
        std::thread::scope(|s| {
            for _ in 1..self.threads.min(count) {
                s.spawn(work);
            }
            work();
        });
    }

    /// Splits `data` into chunks of `size` (the last may be shorter) and calls `task(index, chunk)` for each, in parallel.
    pub fn for_each_chunk<T: Send>(&self, data: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let chunks: Vec<_> = data.chunks_mut(size.max(1)).map(|c| std::sync::Mutex::new(Some(c))).collect();
        self.for_each(chunks.len(), |i| {
            if let Some(chunk) = chunks[i].lock().ok().and_then(|mut c| c.take()) {
                task(i, chunk);
            }
        });
    }
}
