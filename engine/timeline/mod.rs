//! Fusion: one clock for everything seen and heard. A feature matrix at a fixed rate, and events with spans.

use serde::{Deserialize, Serialize};

/// Everything perceived, on one clock that starts at 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Rows a second.
    pub rate: f64,
    /// Rows of the feature matrix; row i is at time i / rate.
    pub rows: usize,
    /// Columns, each named and with a unit.
    pub columns: Vec<Column>,
    /// In order of start.
    pub events: Vec<Event>,
    /// Seconds.
    pub duration: f64,
}

/// One feature over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Dotted: `prosody.f0`, `pose.left_knee.angle`, `face.happy`.
    pub name: String,
    /// `Hz`, `dB`, `deg`, `deg/s`, `m/s`, `1` (ratio or probability).
    pub unit: String,
    /// One a row; `None` where there is nothing to measure (the validity mask of the exports).
    pub values: Vec<Option<f32>>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What kind of thing.
    pub kind: EventKind,
    /// Seconds.
    pub start: f64,
    /// Seconds; equal to `start` for a moment.
    pub end: f64,
    /// The word, the limb, the expression: what the kind needs to be understood.
    pub label: String,
    /// The measured strength in the kind's own unit (probability of a word, degrees a second of a gesture, semitones of an accent).
    pub value: f32,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A spoken word.
    Word,
    /// A silence within speech.
    Pause,
    /// A prominent local maximum of pitch.
    PitchAccent,
    /// A local maximum of a limb's speed.
    GesturePeak,
    /// A beat: of the music or, without music, of the movement (kinematic beat).
    Beat,
    /// The face's leading expression changed.
    ExpressionChange,
}

impl Timeline {
    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Events of one kind, in order.
    pub fn events(&self, kind: EventKind) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |e| e.kind == kind)
    }
}
