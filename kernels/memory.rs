//! Buffers aligned for the widest vector, and scratch that each thread keeps from call to call.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const LINE: usize = 64;
/// A large page: weights that span several are aligned to it, so that the system can map them with few TLB entries.
const HUGE: usize = 2 << 20;

/// Zeroed bytes on a cache line boundary (large ones on large pages where the system gives them).
pub(crate) struct Aligned {
    pointer: NonNull<u8>,
    layout: Layout,
}

impl Aligned {
    pub(crate) fn zeroed(len: usize) -> Self {
        let align = if len >= 2 * HUGE { HUGE } else { LINE };
        // 64 bytes more than asked: kernels may read a whole vector at the last element.
        let layout = len.checked_add(LINE).and_then(|size| Layout::from_size_align(size, align).ok());
        let Some(layout) = layout else { panic!("a buffer of {len} bytes does not fit the address space") };
        // SAFETY: the size is at least LINE, not zero.
        let Some(pointer) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if align == HUGE {
            // SAFETY: the range was just allocated; the advice changes how it is mapped, not what it holds.
            unsafe { libc::madvise(pointer.as_ptr().cast(), len / HUGE * HUGE, libc::MADV_HUGEPAGE) };
        }
        Self { pointer, layout }
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.layout.size() - LINE
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.pointer.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated, zeroed, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) }
    }
}

// SAFETY: plain owned bytes.
unsafe impl Send for Aligned {}
// SAFETY: shared access only reads.
unsafe impl Sync for Aligned {}

thread_local! {
    /// Buffers not in use; a nested call takes the next one, so that each depth finds its own again.
    static SCRATCH: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Scratch larger than this is given back to the system after use.
const KEEP: usize = 64 << 20;

/// Runs `f` with at least `len` bytes of this thread's scratch (contents arbitrary; a nested call gets its own).
pub(crate) fn with_scratch<T>(len: usize, f: impl FnOnce(*mut u8) -> T) -> T {
    let kept = SCRATCH.with_borrow_mut(Vec::pop).filter(|b| b.len() >= len);
    let mut buffer = kept.unwrap_or_else(|| Aligned::zeroed(len.next_multiple_of(4096)));
    let result = f(buffer.as_mut_ptr());
    if buffer.len() <= KEEP {
        SCRATCH.with_borrow_mut(|all| all.push(buffer));
    }
    result
}
