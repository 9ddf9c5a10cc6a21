//! The networks of dreamseed and the readers of their weights.
//!
//! Takes paths and tensors, gives numbers: no network, no clock, no environment, no async. Every file is treated as hostile:
//! see [`weights`].

pub mod chat;
pub mod decoder;
pub mod detection;
pub mod dtw;
pub mod face;
pub mod graph;
pub mod guard;
pub mod image;
pub mod layers;
pub mod music;
pub mod pose;
mod processor;
pub mod projector;
pub mod prosody;
pub mod tokenizer;
pub mod vision;
pub mod voice;
pub mod weights;
pub mod whisper;
pub mod words;

pub use processor::Processor;
