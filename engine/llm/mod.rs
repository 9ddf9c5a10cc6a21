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

mod chat;
mod generate;
mod sampling;

pub use chat::Chat;
pub use generate::{Finish, Generation, Llm, Options, Session, raw};
pub use sampling::{Sampler, Sampling};

#[cfg(test)]
mod tests;
