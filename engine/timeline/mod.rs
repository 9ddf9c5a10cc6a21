//! Fusion: one clock for everything seen and heard. A feature matrix at a fixed rate, and events with spans.

mod body;
mod compare;
mod events;
mod export;
mod fuse;
mod gaze;
mod head;
mod mass;
mod performance;
mod scene;
mod series;

use serde::{Deserialize, Serialize};

pub use compare::{Alignment, Followed, align, differences, follow};
pub use export::export;
pub use fuse::{RATE, fuse};
pub use performance::{JOINTS, Performance, performance};
pub use scene::similarity;

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
    /// `Hz`, `st` (semitones), `dB`, `deg`, `deg/s`, `m`, `m/s`, `1/min`, `m2/s2`, `1` (ratio or probability).
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
    /// The measured strength in the unit of its kind, see [`EventKind`].
    pub value: f32,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A spoken word; the label is the word, the value its probability.
    Word,
    /// A word that differs from the text that was given: label what became of it (`omitted`, `inserted`, `substituted`, `unclear`) and
    /// the word, value its word-level goodness of pronunciation (0 for inserted words).
    Misreading,
    /// A silence within speech; the value is its length in seconds.
    Pause,
    /// A prominent local maximum of pitch: label the word it falls on (if known), value its prominence in semitones, span the
    /// upper half of the rise and fall.
    PitchAccent,
    /// A local maximum of a limb's speed: label the limb (`left_wrist`), value metres a second, span while it is above half.
    GesturePeak,
    /// A beat of the movement (kinematic beat): the body's mean speed has a minimum; label `body`, value the prominence of the
    /// minimum in metres a second.
    Beat,
    /// A beat of the music, not of the movement; label empty, value the onset strength there in dB.
    MusicBeat,
    /// The face's leading expression changed: label the new one, value its mean probability, span while it leads.
    ExpressionChange,
    /// The turning point of a repeated bend, such as the bottom of a squat: label the joint (`left_knee`), value how many degrees
    /// the angle is from the straightest moment since the turning point before and until the next.
    Repetition,
    /// The film changes its shot: label `cut` or `fade`, value the distance of the two shots (0..1), span that of a fade.
    ShotChange,
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
