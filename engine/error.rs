//! The engine's error: few variants, each with what was seen, what is allowed and what to do.

use std::path::PathBuf;

/// Result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's request cannot be met as it is: wrong value, unknown name, over a limit. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Audio, video, pictures or text that cannot be used.
    #[error("{path}: {problem}")]
    Media {
        /// The file.
        path: PathBuf,
        /// What was seen, what is allowed, what to do.
        problem: String,
    },
    /// A weight file that cannot be used.
    #[error(transparent)]
    Weights(#[from] dreamseed_models::weights::Error),
    /// A request that the speech model cannot meet, or weights of it that cannot be used.
    #[error("speech: {0}")]
    Speech(#[from] dreamseed_models::whisper::Error),
    /// Weights that are not there and could not be had.
    #[error("{0}")]
    Fetch(String),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A GPU has no room, refuses or is lost.
    #[error("{0}")]
    Device(String),
    /// The caller dropped the stream.
    #[error("cancelled")]
    Cancelled,
    /// A defect of dreamseed.
    #[error("internal error: {0}")]
    Internal(String),
}
