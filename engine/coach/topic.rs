//! The rubric as data: what can be said, what it is held against, how wide it may miss, and where the numbers come from.

use serde::{Deserialize, Serialize};

/// Everything that a point can be about. The name in JSON is the name of its main measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Syllables a second without the pauses.
    ArticulationRate,
    /// Share of the speech that is pause.
    PauseRatio,
    /// The longest silence inside the speech.
    LongestPause,
    /// Range of pitch in semitones.
    PitchRange,
    /// Rise or fall of pitch at the end of a statement.
    FinalSlope,
    /// Contrast of long and short vowels (nPVI).
    RhythmContrast,
    /// How surely the recognizer heard the words.
    WordClarity,
    /// Share of the expected words that were said.
    WordAccuracy,
    /// Expected words that were not said.
    OmittedWords,
    /// Words that were not expected.
    AddedWords,
    /// Words said in place of others.
    ChangedWords,
    /// Share of the expected words that were said and came out as such, by their goodness of pronunciation.
    WordGoodness,
    /// How alike the pitch curves of learner and teacher are.
    MelodyMatch,
    /// How alike the lengths of their words are.
    WordTiming,
    /// Pauses where the teacher goes on.
    MisplacedPauses,
    /// Ups and downs of loudness.
    LoudnessVariation,
    /// Left against right range of motion.
    Symmetry,
    /// Evenness of the intervals between repetitions or beats.
    Regularity,
    /// How alike the depths of the repetitions are.
    RepetitionDepth,
    /// Bursts of speed in a repetition.
    Fluidity,
    /// Seconds behind or ahead of the teacher.
    Timing,
    /// Seconds behind or ahead of the beats of the music.
    BeatTiming,
    /// A joint's angle against the teacher's.
    JointAngle,
    /// A joint's range of motion against the teacher's.
    Amplitude,
    /// How much the face moves away from neutral.
    Expressiveness,
    /// Changes of the leading expression a minute.
    ExpressionChanges,
    /// Gestures a minute.
    GestureRate,
    /// Share of the gestures that meet a pitch accent.
    GestureSync,
    /// Whether body and voice grow and calm down together.
    Congruence,
    /// No speech was found.
    NoSpeech,
    /// No person was found.
    NoPerson,
    /// No face was found.
    NoFace,
    /// A person or speech was found, but too little of it to measure.
    TooShort,
}

/// A row of the rubric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Unit of the main measure, as in the timeline's columns; `count` for whole numbers of things.
    pub unit: &'static str,
    /// The score that it counts in.
    pub score: &'static str,
    /// Weight in the overall score and in the choice of points, 0..1; 0 is never scored.
    pub weight: f64,
    /// Points with the same family are about the same thing; at most one of them is said.
    pub family: &'static str,
    /// The range that earns 100, both ends included.
    pub range: [f64; 2],
    /// How far outside of the range, or how far from the teacher's value past `tolerance`, the score reaches 0.
    pub width: f64,
    /// How far from the teacher's value still earns 100.
    pub tolerance: f64,
    /// Whether being past the teacher's value in one direction is as good as meeting it.
    pub better: Better,
}

/// Which side of the teacher's value is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Neither: be like the teacher.
    Neither,
    /// More is at least as good: togetherness.
    More,
    /// Less is at least as good: unevenness.
    Less,
}

const fn row(unit: &'static str, score: &'static str, family: &'static str, weight: f64) -> Row {
    Row {
        unit,
        score,
        family,
        weight,
        range: [f64::NEG_INFINITY, f64::INFINITY],
        width: f64::INFINITY,
        tolerance: 0.0,
        better: Better::Neither,
    }
}

impl Row {
    const fn range(self, low: f64, high: f64, width: f64) -> Row {
        Row { range: [low, high], width, ..self }
    }

    const fn better(self, better: Better) -> Row {
        Row { better, ..self }
    }

    const fn tolerance(self, tolerance: f64) -> Row {
        Row { tolerance, ..self }
    }
}

impl Topic {
    /// Every topic, for tests and tables.
    #[rustfmt::skip]
    pub const ALL: [Topic; 33] = {
        use Topic::*;
        [ArticulationRate, PauseRatio, LongestPause, PitchRange, FinalSlope, RhythmContrast, WordClarity, WordAccuracy,
         OmittedWords, AddedWords, ChangedWords, WordGoodness, MelodyMatch, WordTiming, MisplacedPauses, LoudnessVariation, Symmetry,
         Regularity, RepetitionDepth, Fluidity, Timing, BeatTiming, JointAngle, Amplitude, Expressiveness, ExpressionChanges,
         GestureRate, GestureSync, Congruence, NoSpeech, NoPerson,
         NoFace, TooShort]
    };

    /// Its row of the rubric. Ranges are for a general audience; where a source is named the range brackets its values, where
    /// none is, the range is the rubric's own and deliberately wide.
    pub const fn row(self) -> Row {
        match self {
            // Jacewicz et al. 2009, American English: 3.4 read to 5.1 spoken; Goldman-Eisler 1968: 4.4 to 5.9 syllables a
            // second. Automatic nuclei miss some unstressed syllables (de Jong and Wempe 2009), hence the low end of 3.0.
            Topic::ArticulationRate => row("syll/s", "fluency", "pace", 1.0).range(3.0, 5.9, 2.5).tolerance(0.4),
            // Goldman-Eisler 1968: pauses take up to 40 to 50% of spontaneous speech; Campione and Veronis 2002: less read.
            Topic::PauseRatio => row("1", "fluency", "pauses", 0.9).range(0.06, 0.40, 0.30).tolerance(0.06),
            // Campione and Veronis 2002: pauses over 2 s are rare and are heard as hesitation.
            Topic::LongestPause => row("s", "fluency", "pauses", 0.6).range(0.0, 2.0, 2.0),
            // Traunmueller and Eriksson 1995: standard deviation about 2 (neutral) to 4 semitones (lively); 5th to 95th
            // percentile of a normal distribution is 3.3 of them.
            Topic::PitchRange => row("st", "intonation", "melody", 1.0).range(6.0, 18.0, 6.0).tolerance(2.0),
            // Cruttenden 1997: statements end in a fall; a rising end is heard as a question or as unsure.
            Topic::FinalSlope => row("st/s", "intonation", "ending", 0.7).range(-200.0, -1.0, 20.0).tolerance(8.0),
            // Grabe and Low 2002: vocalic nPVI 57 for British English, 30 for Spanish; intervals found without a transcript
            // spread more widely.
            Topic::RhythmContrast => row("npvi", "rhythm", "rhythm", 0.4).range(42.0, 80.0, 40.0).tolerance(10.0),
            // The rubric's own: the share of words that the recognizer gives a probability of at least 0.5; on clear speech nearly
            // all. A proxy of how easily a listener understands, not a judgement of the accent.
            Topic::WordClarity => row("1", "pronunciation", "clarity", 0.8).range(0.90, 1.0, 0.50),
            // Share of the expected words; the recognizer itself misses a few per cent.
            Topic::WordAccuracy => row("1", "pronunciation", "accuracy", 1.0).range(0.95, 1.0, 0.50),
            Topic::OmittedWords => row("count", "", "omitted", 1.0).range(0.0, 0.0, 4.0),
            Topic::AddedWords => row("count", "", "added", 0.5).range(0.0, 0.0, 6.0),
            Topic::ChangedWords => row("count", "", "changed", 0.9).range(0.0, 0.0, 4.0),
            // The rubric's own: nearly every word that is said as written is the likeliest one at its place.
            Topic::WordGoodness => row("1", "pronunciation", "clarity", 0.9).range(0.90, 1.0, 0.50),
            // Hermes 1998 measures how alike two contours sound by this correlation; the range is the rubric's own.
            Topic::MelodyMatch => row("r", "intonation", "melody", 0.9).range(0.60, 1.0, 0.60),
            // The rubric's own: readers of one text keep each other's proportions within about a quarter.
            Topic::WordTiming => row("1", "rhythm", "rhythm", 0.7).range(0.75, 1.0, 0.40),
            Topic::MisplacedPauses => row("count", "fluency", "pauses", 0.7).range(0.0, 0.0, 4.0),
            // The rubric's own: read speech varies by about 5 to 10 dB about its mean over the speech frames.
            Topic::LoudnessVariation => row("dB", "voice", "loudness", 0.6).range(4.0, 14.0, 4.0).tolerance(2.0),
            // Limb symmetry index of 0.90, usual in rehabilitation (Grindem et al. 2016); 0.85 leaves room for the camera.
            Topic::Symmetry => row("1", "symmetry", "symmetry", 0.8).range(0.85, 1.0, 0.50),
            // Repp 2005: tapping varies by 2 to 6% of the interval; whole-body movement by more.
            Topic::Regularity => {
                row("1", "timing", "regularity", 0.9).range(0.0, 0.12, 0.40).tolerance(0.05).better(Better::Less)
            }
            // The rubric's own: spread (standard deviation) of the depths of the repetitions.
            Topic::RepetitionDepth => {
                row("deg", "form", "depth", 0.8).range(0.0, 7.0, 20.0).tolerance(4.0).better(Better::Less)
            }
            // Rohrer et al. 2002: fewer peaks of speed is smoother; down and up are two.
            Topic::Fluidity => row("count", "flow", "flow", 0.6).range(0.0, 3.0, 4.0).tolerance(0.5).better(Better::Less),
            // Under about 0.1 s movement and music are felt as one (Repp 2005, thresholds of asynchrony).
            Topic::Timing => row("s", "timing", "timing", 1.0).range(-0.10, 0.10, 0.60).tolerance(0.10),
            // The same threshold; at most half a beat is possible.
            Topic::BeatTiming => row("s", "timing", "beat", 0.9).range(-0.10, 0.10, 0.30),
            // Pose landmarks of one camera are good to about 10 degrees at a joint.
            Topic::JointAngle => row("deg", "form", "joint", 1.0).range(-12.0, 12.0, 45.0).tolerance(12.0),
            Topic::Amplitude => row("deg", "range", "joint", 0.6).range(-15.0, 15.0, 50.0).tolerance(15.0),
            // The rubric's own: mean probability of any expression but neutral.
            Topic::Expressiveness => row("1", "face", "expression", 0.8).range(0.30, 1.0, 0.30).tolerance(0.15),
            Topic::ExpressionChanges => row("1/min", "face", "expression", 0.5).range(4.0, 40.0, 4.0).tolerance(4.0),
            // McNeill 1992: about one gesture a clause in narration; wide on both sides.
            Topic::GestureRate => row("1/min", "body", "gestures", 0.6).range(8.0, 60.0, 12.0).tolerance(8.0),
            // Loehr 2012: apexes of gestures fall on pitch accents within about 0.3 s.
            Topic::GestureSync => row("1", "harmony", "sync", 0.8).range(0.50, 1.0, 0.50).tolerance(0.15).better(Better::More),
            // Pearson's r of loudness and body speed over a second; the rubric's own range.
            Topic::Congruence => {
                row("r", "harmony", "congruence", 0.6).range(0.20, 1.0, 0.60).tolerance(0.2).better(Better::More)
            }
            Topic::NoSpeech => row("s", "", "no_speech", 1.0),
            Topic::NoPerson => row("count", "", "no_person", 1.0),
            Topic::NoFace => row("count", "", "no_face", 0.6),
            Topic::TooShort => row("s", "", "too_short", 0.7),
        }
    }

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Topic::ArticulationRate => "articulation_rate",
            Topic::PauseRatio => "pause_ratio",
            Topic::LongestPause => "longest_pause",
            Topic::PitchRange => "pitch_range",
            Topic::FinalSlope => "final_slope",
            Topic::RhythmContrast => "rhythm_contrast",
            Topic::WordClarity => "word_clarity",
            Topic::WordAccuracy => "word_accuracy",
            Topic::OmittedWords => "omitted_words",
            Topic::AddedWords => "added_words",
            Topic::ChangedWords => "changed_words",
            Topic::WordGoodness => "word_goodness",
            Topic::MelodyMatch => "melody_match",
            Topic::WordTiming => "word_timing",
            Topic::MisplacedPauses => "misplaced_pauses",
            Topic::LoudnessVariation => "loudness_variation",
            Topic::Symmetry => "symmetry",
            Topic::Regularity => "regularity",
            Topic::RepetitionDepth => "repetition_depth",
            Topic::Fluidity => "fluidity",
            Topic::Timing => "timing",
            Topic::BeatTiming => "beat_timing",
            Topic::JointAngle => "joint_angle",
            Topic::Amplitude => "amplitude",
            Topic::Expressiveness => "expressiveness",
            Topic::ExpressionChanges => "expression_changes",
            Topic::GestureRate => "gesture_rate",
            Topic::GestureSync => "gesture_sync",
            Topic::Congruence => "congruence",
            Topic::NoSpeech => "no_speech",
            Topic::NoPerson => "no_person",
            Topic::NoFace => "no_face",
            Topic::TooShort => "too_short",
        }
    }
}

/// A joint whose angle the timeline carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Upper arm to forearm.
    LeftElbow,
    /// Upper arm to forearm.
    RightElbow,
    /// Trunk to upper arm: larger is a higher arm.
    LeftShoulder,
    /// Trunk to upper arm: larger is a higher arm.
    RightShoulder,
    /// Trunk to thigh.
    LeftHip,
    /// Trunk to thigh.
    RightHip,
    /// Thigh to shin.
    LeftKnee,
    /// Thigh to shin.
    RightKnee,
}

impl Part {
    /// All, left before right.
    #[rustfmt::skip]
    pub const ALL: [Part; 8] = [Part::LeftElbow, Part::RightElbow, Part::LeftShoulder, Part::RightShoulder,
                                Part::LeftHip, Part::RightHip, Part::LeftKnee, Part::RightKnee];

    /// As in the timeline's columns: `left_knee`.
    pub fn name(self) -> &'static str {
        match self {
            Part::LeftElbow => "left_elbow",
            Part::RightElbow => "right_elbow",
            Part::LeftShoulder => "left_shoulder",
            Part::RightShoulder => "right_shoulder",
            Part::LeftHip => "left_hip",
            Part::RightHip => "right_hip",
            Part::LeftKnee => "left_knee",
            Part::RightKnee => "right_knee",
        }
    }

    /// The joint without its side: `knee`.
    pub fn joint(self) -> &'static str {
        self.name().split_once('_').map_or("", |(_, joint)| joint)
    }

    /// Whether it is on the person's left.
    pub fn is_left(self) -> bool {
        self.name().starts_with("left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_names_in_json_and_rows_hold_together() {
        for topic in Topic::ALL {
            assert_eq!(serde_json::to_value(topic).unwrap(), topic.name());
            let row = topic.row();
            assert!(row.range[0] <= row.range[1] && row.width > 0.0 && row.tolerance >= 0.0, "{topic:?}");
            assert!((0.0..=1.0).contains(&row.weight));
        }
        for part in Part::ALL {
            assert_eq!(serde_json::to_value(part).unwrap(), part.name());
        }
    }
}
