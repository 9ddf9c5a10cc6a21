//! Models that are loaded: by whoever needs one first, for everyone, until nobody has needed it for long or another one needs its room.

use std::{
    any::Any,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// What kind of model, and where it came from: the same file can be loaded for two uses.
type Key = (&'static str, PathBuf);

/// Loaded models within a budget of memory.
pub(super) struct Kept {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    budget: u64,          // bytes; 0: none
    pinned: Vec<PathBuf>, // folders and files whose models stay
    loading: Mutex<u64>,  // bytes of those that are being loaded; held while room is made
}

/// Locked while its model is loaded, so that two callers who want the same load it once.
#[derive(Default)]
struct Slot(Mutex<Option<Loaded>>);

struct Loaded {
    model: Arc<dyn Any + Send + Sync>,
    bytes: u64,
    used: Instant,
}

/// Bytes that are being loaded, until they are or have failed to be, by a panic too.
struct Loading<'a>(&'a Mutex<u64>, u64);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        *open(self.0) -= self.1;
    }
}

/// A model in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct InMemory {
    /// `llm`, `speech`, `pose`, `face`, `vision` or `draft`.
    pub kind: &'static str,
    /// Its file or folder.
    pub path: PathBuf,
    /// Of its files; keys, values and buffers come on top.
    pub bytes: u64,
    /// Since it was last asked for.
    pub idle: Duration,
    /// Whether somebody works with it.
    pub in_use: bool,
}

fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loaded {
    fn in_use(&self) -> bool {
        Arc::strong_count(&self.model) > 1
    }
}

impl Kept {
    /// Within `budget` bytes (0: no bound); models under `pinned` are never let go.
    pub(super) fn new(budget: u64, pinned: Vec<PathBuf>) -> Self {
        Self { slots: Mutex::default(), budget, pinned, loading: Mutex::new(0) }
    }

    /// The kept model, or a newly loaded one; its size is that of `files`.
    ///
    /// # Errors
    /// [`Error::Device`] where it has no room beside models that are at work; what `load` says.
    pub(super) fn get<T: Any + Send + Sync>(
        &self,
        kind: &'static str,
        (name, files): (&Path, &Path),
        load: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let slot = open(&self.slots).entry((kind, name.to_path_buf())).or_default().clone();
        let mut held = open(&slot.0);
        if let Some(loaded) = &mut *held {
            loaded.used = Instant::now();
            return loaded.model.clone().downcast().map_err(|_| Error::Internal(format!("{kind} is of another type")));
        }
        let bytes = size(files);
        let _loading = self.make_room(bytes, files)?;
        let model = Arc::new(load()?);
        *held = Some(Loaded { model: model.clone(), bytes, used: Instant::now() });
        Ok(model)
    }

    /// Counts `bytes` as being loaded, and lets the longest idle models go where they would be too many. Where even that would not do,
    /// none.
    fn make_room(&self, bytes: u64, files: &Path) -> Result<Loading<'_>> {
        let mut loading = open(&self.loading);
        if self.budget > 0 {
            let mut all = self.in_memory();
            all.sort_by_key(|m| std::cmp::Reverse(m.idle));
            let mut taken: u64 = *loading + all.iter().map(|m| m.bytes).sum::<u64>();
            let (goes, stays): (Vec<_>, Vec<_>) = all.iter().partition(|m| !m.in_use && !self.is_pinned(m));
            let least = *loading + stays.iter().map(|m| m.bytes).sum::<u64>();
            for model in goes.iter().filter(|_| least + bytes <= self.budget) {
                if taken + bytes <= self.budget {
                    break;
                }
                if self.let_go(model, Duration::ZERO) {
                    taken -= model.bytes;
                }
            }
            if taken + bytes > self.budget {
                let mb = |n: u64| n.div_ceil(1_000_000);
                let problem = format!(
                    "{} needs {} MB, and {} of the {} MB of models.memory_mb are at work or pinned: try again later, or raise it",
                    files.display(),
                    mb(bytes),
                    mb(least),
                    mb(self.budget)
                );
                return Err(Error::Device(problem));
            }
        }
        *loading += bytes;
        Ok(Loading(&self.loading, bytes))
    }

    fn is_pinned(&self, model: &InMemory) -> bool {
        self.pinned.iter().any(|p| model.path.starts_with(p))
    }

    /// Lets go what nobody works with and nobody has asked for in `after`. What was let go.
    pub(super) fn let_go_idle(&self, after: Duration) -> Vec<InMemory> {
        let idle = |m: &InMemory| m.idle >= after && !m.in_use && self.let_go(m, after);
        self.in_memory().into_iter().filter(idle).collect()
    }

    /// Lets go all that lies under `path`: who works with it goes on, who asks next loads it anew. Whether there was any.
    pub(super) fn forget(&self, path: &Path) -> bool {
        let mut slots = open(&self.slots);
        let before = slots.len();
        slots.retain(|(_, name), _| !name.starts_with(path));
        slots.len() < before
    }

    /// One that is still idle and not pinned.
    fn let_go(&self, model: &InMemory, after: Duration) -> bool {
        if self.is_pinned(model) {
            return false;
        }
        let Some(slot) = open(&self.slots).get(&(model.kind, model.path.clone())).cloned() else { return false };
        let mut held = match slot.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let idle = held.as_ref().is_some_and(|l| !l.in_use() && l.used.elapsed() >= after);
        if idle {
            *held = None;
        }
        idle
    }

    /// What is loaded now, without what is being loaded.
    pub(super) fn in_memory(&self) -> Vec<InMemory> {
        let slots: Vec<(Key, Arc<Slot>)> = open(&self.slots).iter().map(|(k, s)| (k.clone(), s.clone())).collect();
        let one = |((kind, path), slot): (Key, Arc<Slot>)| {
            let held = slot.0.try_lock().ok()?;
            let loaded = held.as_ref()?;
            Some(InMemory { kind, path, bytes: loaded.bytes, idle: loaded.used.elapsed(), in_use: loaded.in_use() })
        };
        slots.into_iter().filter_map(one).collect()
    }
}

/// Bytes of a file, or of the files of a folder; 0 where that cannot be told.
fn size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return path.metadata().map_or(0, |m| m.len()) };
    entries.filter_map(|e| e.ok()?.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, bytes: usize) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, vec![0; bytes]).unwrap();
        path
    }

    fn names(kept: &Kept) -> Vec<String> {
        let mut names: Vec<String> =
            kept.in_memory().iter().map(|m| m.path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_longest_idle_makes_room_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b", "c", "d"].map(|n| file(folder.path(), n, 40));
        let kept = Kept::new(100, vec![files[3].clone()]);
        let get = |i: usize| kept.get("llm", (&files[i], &files[i]), || Ok(i));
        drop((get(0).unwrap(), get(1).unwrap()));
        std::thread::sleep(Duration::from_millis(2));
        drop(get(0).unwrap());
        let third = get(2).unwrap(); // b was idle for longer than a
        assert_eq!(names(&kept), ["a", "c"]);
        drop(get(3).unwrap());
        assert_eq!(names(&kept), ["c", "d"]);
        // one at work, the other pinned: no room, and what was there stays
        let error = get(0).unwrap_err().to_string();
        assert!(error.contains("models.memory_mb"), "{error}");
        assert_eq!((names(&kept), *third), (vec!["c".into(), "d".into()], 2));
        drop(third);
        assert_eq!(*get(0).unwrap(), 0);
        assert_eq!(names(&kept), ["a", "d"]);
        // where even all that is idle would not be room enough nothing is let go
        let large = file(folder.path(), "large", 90);
        assert!(kept.get("llm", (&large, &large), || Ok(9_usize)).is_err());
        assert_eq!(names(&kept), ["a", "d"]);
    }

    #[test]
    fn what_is_idle_is_let_go_and_what_works_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|n| file(folder.path(), n, 40));
        let kept = Kept::new(0, Vec::new());
        let get = |i: usize| kept.get("llm", (&files[i], &files[i]), || Ok(i + 7));
        let held = get(0).unwrap();
        drop(get(1).unwrap());
        assert!(kept.let_go_idle(Duration::from_secs(60)).is_empty());
        assert_eq!(kept.let_go_idle(Duration::ZERO).len(), 1);
        assert_eq!(names(&kept), ["a"]);
        assert!(kept.forget(&files[0]) && !kept.forget(&files[0]));
        assert_eq!((*held, names(&kept).len()), (7, 0));
        assert!(!Arc::ptr_eq(&held, &get(0).unwrap()));
    }

    #[test]
    fn a_model_is_loaded_once_and_a_failure_is_no_model() {
        let kept = Kept::new(0, Vec::new());
        let name = Path::new("x");
        let failed = kept.get::<usize>("llm", (name, name), || Err(Error::Cancelled));
        assert!(failed.is_err() && kept.in_memory().is_empty());
        let panics = || kept.get::<usize>("llm", (file!().as_ref(), file!().as_ref()), || panic!("on purpose"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(*open(&kept.loading), 0, "what failed to load takes no room");
        let loads = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    kept.get("llm", (name, name), || {
                        std::thread::sleep(Duration::from_millis(5));
                        Ok(loads.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    })
                    .unwrap()
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
        assert_eq!(*kept.get("draft", (name, name), || Ok(9_usize)).unwrap(), 9);
    }
}
