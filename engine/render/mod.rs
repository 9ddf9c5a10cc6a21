//! Pictures for people: what was seen and heard on one time axis as a PNG, and small ones for the terminal.
//!
//! The bitmap font holds ASCII and Latin-1. What it cannot write (Korean words, say) is not transliterated: a word shows as a box
//! over its span, a point of the coach by its number and topic.

mod canvas;
mod overview;
mod skeleton;
mod terminal;
#[cfg(test)]
mod tests;

pub use overview::overview_png;
pub use terminal::{pitch_line, terminal};
