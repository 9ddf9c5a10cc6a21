//! How long models stay loaded.

use serde::{Deserialize, Serialize};

/// How long models stay loaded. One that is needed is loaded when it is first asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// Room for loaded models, by the size of their files, in millions of bytes: the longest idle ones make room. 0: no bound.
    pub memory_mb: u64,
    /// Seconds after which `serve` lets a model go that nobody asks for. 0: it stays.
    pub idle_seconds: u64,
    /// Ids of models that stay in any case.
    pub pinned: Vec<String>,
}
