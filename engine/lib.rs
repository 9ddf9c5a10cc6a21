//! dreamseed: one process that listens, watches and coaches.
//!
//! The way of the data: [`media`] decodes a clip, [`extract`] runs the perception models in parallel, [`timeline`] fuses their
//! tracks on one clock, [`coach`] turns the timeline into measures, scores and points with evidence, [`router`] picks the LLM,
//! [`llm`] streams feedback, and [`composer`] checks what the LLM said against the evidence and sends events to the caller.

pub mod cli;
pub mod coach;
pub mod composer;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod extract;
pub mod fetch;
pub mod lesson;
pub mod live;
pub mod llm;
pub mod manifest;
pub mod media;
pub mod plan;
pub mod render;
pub mod router;
pub mod scene;
pub mod serve;
pub mod session;
pub mod subtitles;
pub mod timeline;

pub use error::{Error, Result};
pub use session::Engine;

/// The README's examples are compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
