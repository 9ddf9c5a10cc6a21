//! The language model at work: sampling, streaming generation, conversations.
//!
//! ```no_run
//! # fn main() -> dreamseed::Result<()> {
//! use std::{ops::ControlFlow, sync::Arc};
//! use dreamseed::llm::{Chat, Llm, Options};
//!
//! let pool = Arc::new(dreamseed_kernels::Pool::new(dreamseed_kernels::Pool::default_threads()));
//! let llm = Arc::new(Llm::open("model.gguf".as_ref(), pool)?);
//! let mut chat = Chat::new(llm, None, Some("You are a kind teacher."))?;
//! chat.say("How do I stress 'photographer'?", &Options::default(), |text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```

mod blocks;
mod chat;
mod constrain;
mod executor;
mod generate;
#[cfg(feature = "cuda")]
mod gpus;
mod model;
mod runner;
mod sampling;
mod scheduler;
mod sequence;
mod sight;
mod speculate;
mod text;

pub use chat::Chat;
pub use constrain::{Constraint, Grammar, Mask};
pub use executor::Placement;
pub use generate::{Finish, Generation, Options, Session, Speculated, raw};
#[cfg(feature = "cuda")]
pub use gpus::Gpus;
pub use model::{Llm, Settings, Speculation};
pub use sampling::{Sampler, Sampling};
pub(crate) use sequence::log_probability;
pub use sight::{Prompt, Seen};

#[cfg(test)]
mod tests;
