//! Speech: pace, pauses, melody, rhythm, clarity, and the words against the expected ones.

use dreamseed_models::{prosody::Prosody, whisper::Word};

use super::{
    super::words::{self, Step},
    Finding, Input, Sheet, Topic, best_window, deviation, measure, measured, reading, spread,
};

/// Seconds of speech for full confidence in a claim about the manner of speaking.
const ENOUGH: f64 = 5.0;
/// Seconds of speech below which the manner is not judged at all.
const LEAST: f64 = 1.0;
/// Width of the stretches in which a habit is shown, seconds.
const SHOWN: f64 = 3.0;
/// A word below this probability counts as unclear.
const UNCLEAR: f32 = 0.5;

/// Speech that was found: its span, and the confidence that its length allows.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    pub(super) span: [f64; 2],
    pub(super) confidence: f64,
}

pub(super) fn examine(sheet: &mut Sheet, input: &Input) {
    let Some(heard) = find_speech(sheet, input) else { return };
    manner(sheet, input, heard);
    rhythm(sheet, input, heard);
    ending(sheet, input, heard);
    if !reading::goodness(sheet, input) {
        clarity(sheet, input, heard);
    }
    expected_words(sheet, input);
    reading::beside_teacher(sheet, input, heard);
}

/// The span of the speech, or a finding that there is none or too little.
pub(super) fn find_speech(sheet: &mut Sheet, input: &Input) -> Option<Heard> {
    let spoken: Vec<&Word> = spoken(input);
    let nuclei = input.tracks.prosody.as_ref().map_or(&[][..], |p| &p.nuclei);
    let whole = [0.0, input.tracks.duration];
    let span = match (spoken.as_slice(), nuclei, &input.tracks.speech) {
        ([first, .., last], ..) => Some([first.start, last.end]),
        ([only], ..) => Some([only.start, only.end]),
        // Segments without word times.
        ([], _, Some(speech)) if !speech.text.trim().is_empty() => {
            speech.segments.first().zip(speech.segments.last()).map(|(f, l)| [f.start, l.end])
        }
        // The recognizer looked and heard nothing: syllable-like noise is not speech.
        ([], _, Some(_)) => None,
        ([], [first, .., last], None) => Some([first - 0.1, last + 0.2]),
        _ => None,
    };
    let Some(span) = span.filter(|s| s[1] > s[0]) else {
        let seconds = input.tracks.speech.as_ref().map_or(whole[1], |s| s.duration);
        sheet.find(Finding::missing(Topic::NoSpeech, measure("audio_seconds", seconds, "s", None, whole)));
        return None;
    };
    let seconds = span[1] - span[0];
    if seconds < LEAST {
        sheet.find(Finding::missing(Topic::TooShort, measure("speech_seconds", seconds, "s", None, span)));
    }
    Some(Heard { span, confidence: if seconds < LEAST { 0.0 } else { (seconds / ENOUGH).clamp(0.2, 1.0) } })
}

fn spoken<'a>(input: &Input<'a>) -> Vec<&'a Word> {
    let segments = input.tracks.speech.as_ref().map_or(&[][..], |s| &s.segments);
    segments.iter().flat_map(|s| &s.words).filter(|w| !words::normal(&w.word).is_empty() && w.end >= w.start).collect()
}

/// Pace, pauses and melody: what the drama lab looks at too.
pub(super) fn manner(sheet: &mut Sheet, input: &Input, heard: Heard) {
    let Some(p) = input.tracks.prosody.as_ref().filter(|_| heard.confidence > 0.0) else { return };
    let teacher = input.reference.and_then(|r| r.tracks.prosody.as_ref());
    pace(sheet, p, teacher, heard, input);
    pauses(sheet, p, teacher, heard);
    melody(sheet, p, teacher, heard);
    let m = &p.measures;
    sheet.note("pitch_median", m.f0_median, "Hz", heard.span);
    sheet.note("pitch_deviation", m.f0_sd_semitones, "st", heard.span);
    sheet.note("voiced_ratio", Some(m.voiced_ratio), "1", heard.span);
    sheet.note("intensity_mean", m.intensity_mean, "dB", heard.span);
    // Soft signals: they depend on the microphone and the room as much as on the voice, so they are shown and never judged.
    sheet.note("jitter", m.jitter, "1", heard.span);
    sheet.note("shimmer", m.shimmer, "1", heard.span);
    sheet.note("hnr", m.hnr, "dB", heard.span);
}

fn pace(sheet: &mut Sheet, p: &Prosody, teacher: Option<&Prosody>, heard: Heard, input: &Input) {
    sheet.note("speech_rate", p.measures.speech_rate, "syll/s", heard.span);
    let Some(rate) = p.measures.articulation_rate.filter(|_| p.nuclei.len() >= 4) else { return };
    let teacher = teacher.and_then(|t| t.measures.articulation_rate).map(f64::from);
    let mut main = measured(Topic::ArticulationRate, f64::from(rate), teacher, heard.span);
    // Coupe et al. 2019: languages differ from about 4 to 9 syllables a second; the row's range is English's.
    let english = input.tracks.speech.as_ref().is_none_or(|s| s.language.is_empty() || s.language == "en");
    if teacher.is_none() && !english {
        main.target = Some(super::Target::Range(3.5, 7.5));
    }
    let mut finding = Finding { confidence: heard.confidence, ..Finding::new(Topic::ArticulationRate, main) };
    let sign = if finding.direction == super::Direction::Low { -1.0 } else { 1.0 };
    let intervals: Vec<(f64, f64)> =
        p.nuclei.windows(2).filter(|w| w[1] - w[0] < 0.6 && w[1] > w[0]).map(|w| (w[0], w[1] - w[0])).collect();
    let fastest = best_window(&intervals, SHOWN, 4, |d| Some(-sign * d.iter().sum::<f64>() / d.len() as f64));
    finding.span = fastest.unwrap_or(heard.span);
    sheet.find(finding);
}

fn pauses(sheet: &mut Sheet, p: &Prosody, teacher: Option<&Prosody>, heard: Heard) {
    let longest = p.pauses.iter().filter(|s| s[1] > s[0]).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0]))).copied();
    if let Some(ratio) = p.measures.pause_ratio {
        let teacher = teacher.and_then(|t| t.measures.pause_ratio).map(f64::from);
        let main = measured(Topic::PauseRatio, f64::from(ratio), teacher, heard.span);
        let mut finding = Finding { confidence: heard.confidence, ..Finding::new(Topic::PauseRatio, main) };
        finding.others.push(measure("pause_count", p.pauses.len() as f64, "count", None, heard.span));
        finding.span = match finding.direction {
            super::Direction::Low => longest_run(p, heard.span),
            _ => longest.unwrap_or(heard.span),
        };
        sheet.find(finding);
    }
    if let Some(span) = longest {
        let main = measured(Topic::LongestPause, span[1] - span[0], None, span);
        sheet.find(Finding { confidence: heard.confidence, ..Finding::new(Topic::LongestPause, main) });
    }
}

/// The longest stretch of speech without a pause.
fn longest_run(p: &Prosody, span: [f64; 2]) -> [f64; 2] {
    let ends = p.pauses.iter().map(|s| s[0]).chain([span[1]]);
    let starts = [span[0]].into_iter().chain(p.pauses.iter().map(|s| s[1]));
    starts
        .zip(ends)
        .map(|(a, b)| [a, b])
        .filter(|r| r[1] > r[0])
        .max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])))
        .unwrap_or(span)
}

fn melody(sheet: &mut Sheet, p: &Prosody, teacher: Option<&Prosody>, heard: Heard) {
    let semitones = semitones(p);
    let Some(range) = p.measures.f0_range_semitones.filter(|_| semitones.len() as f64 * p.hop >= 0.5) else { return };
    let teacher = teacher.and_then(|t| t.measures.f0_range_semitones).map(f64::from);
    let main = measured(Topic::PitchRange, f64::from(range), teacher, heard.span);
    let mut finding = Finding { confidence: heard.confidence, ..Finding::new(Topic::PitchRange, main) };
    let sign = if finding.direction == super::Direction::Low { -1.0 } else { 1.0 };
    let least = (0.3 * SHOWN / p.hop) as usize;
    finding.span = best_window(&semitones, SHOWN, least, |v| Some(sign * spread(v)?)).unwrap_or(heard.span);
    sheet.find(finding);
}

/// (time, semitones about the median) of the voiced frames.
fn semitones(p: &Prosody) -> Vec<(f64, f64)> {
    let Some(median) = p.measures.f0_median.filter(|m| *m > 0.0) else { return Vec::new() };
    let at = |(i, f0): (usize, &Option<f32>)| {
        let f0 = f0.filter(|f| f.is_finite() && *f > 0.0)?;
        Some((p.start + i as f64 * p.hop, 12.0 * f64::from(f0 / median).log2()))
    };
    p.f0.iter().enumerate().filter_map(at).collect()
}

fn rhythm(sheet: &mut Sheet, input: &Input, heard: Heard) {
    let Some(p) = input.tracks.prosody.as_ref().filter(|p| p.nuclei.len() >= 10) else { return };
    // The contrast is a trait of English (and German, Dutch); other languages have their own and are not judged.
    let english = input.tracks.speech.as_ref().is_some_and(|s| s.language == "en");
    let teacher = input.reference.and_then(|r| r.tracks.prosody.as_ref()).and_then(|t| t.measures.npvi).map(f64::from);
    match p.measures.npvi.filter(|_| heard.confidence > 0.5) {
        Some(npvi) if english || teacher.is_some() => {
            let main = measured(Topic::RhythmContrast, f64::from(npvi), teacher, heard.span);
            sheet.find(Finding { confidence: 0.6 * heard.confidence, ..Finding::new(Topic::RhythmContrast, main) });
        }
        npvi => sheet.note("rhythm_contrast", npvi, "npvi", heard.span),
    }
}

/// Rise or fall at the end: judged for statements (the transcript or the expected text ends in a full stop) and against the
/// teacher; a question may do either.
fn ending(sheet: &mut Sheet, input: &Input, heard: Heard) {
    let Some(p) = input.tracks.prosody.as_ref().filter(|_| heard.confidence > 0.0) else { return };
    let Some(slope) = p.measures.final_slope.map(f64::from).filter(|s| s.is_finite() && s.abs() <= 200.0) else { return };
    let text = input.expected.or(input.tracks.speech.as_ref().map(|s| s.text.as_str())).unwrap_or("").trim_end();
    let statement = text.trim_end_matches(['"', '\'', '”', '’', ')']).ends_with(['.', '!', '。']);
    let teacher = input.reference.and_then(|r| r.tracks.prosody.as_ref()).and_then(|t| t.measures.final_slope).map(f64::from);
    let Some(last) = p.f0.iter().rposition(Option::is_some) else { return };
    let first = p.f0[..last].iter().rposition(Option::is_none).map_or(0, |i| i + 1);
    let time = |i: usize| p.start + i as f64 * p.hop;
    let span = [time(first).max(time(last) - 0.6), time(last) + p.hop];
    match teacher.filter(|t| t.signum() != slope.signum() && t.abs() >= 3.0 && slope.abs() >= 3.0) {
        None if statement => {
            let main = measured(Topic::FinalSlope, slope, None, span);
            sheet.find(Finding { confidence: 0.7 * heard.confidence, ..Finding::new(Topic::FinalSlope, main) });
        }
        Some(_) => {
            let main = measured(Topic::FinalSlope, slope, teacher, span);
            sheet.find(Finding { confidence: 0.7 * heard.confidence, ..Finding::new(Topic::FinalSlope, main) });
        }
        None => sheet.note("final_slope", Some(slope as f32), "st/s", span),
    }
}

fn clarity(sheet: &mut Sheet, input: &Input, heard: Heard) {
    let spoken = spoken(input);
    if spoken.len() < 3 {
        return;
    }
    let mut unclear: Vec<&&Word> = spoken.iter().filter(|w| w.probability < UNCLEAR).collect();
    unclear.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    let share = 1.0 - unclear.len() as f64 / spoken.len() as f64;
    let main = measured(Topic::WordClarity, share, None, heard.span);
    let mut finding = Finding { confidence: (spoken.len() as f64 / 8.0).min(1.0), ..Finding::new(Topic::WordClarity, main) };
    finding.others = vec![
        measure("clear_words", (spoken.len() - unclear.len()) as f64, "count", None, heard.span),
        measure("unclear_words", unclear.len() as f64, "count", None, heard.span),
        measure("words", spoken.len() as f64, "count", None, heard.span),
    ];
    if let Some(worst) = unclear.first() {
        finding.span = [worst.start, worst.end];
    }
    finding.words = unclear.iter().take(3).map(|w| shown(&w.word)).collect();
    sheet.find(finding);
    let probabilities: Vec<f64> = spoken.iter().map(|w| f64::from(w.probability)).collect();
    sheet.note("word_probability", super::mean(&probabilities).map(|v| v as f32), "1", heard.span);
    sheet.note("word_probability_deviation", deviation(&probabilities).map(|v| v as f32), "1", heard.span);
}

/// A word as it is quoted: no punctuation around it, no control characters, at most 24 characters. Whatever a transcript or a
/// text says, no more than three such words of it reach a sentence.
pub(super) fn shown(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric())
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '\'' | '’' | '-'))
        .take(24)
        .collect()
}

/// Omissions, additions and changes against the expected text.
pub(super) fn expected_words(sheet: &mut Sheet, input: &Input) {
    if let Some(pronunciation) = &input.tracks.pronunciation {
        return reading::words(sheet, pronunciation);
    }
    let Some(text) = input.expected else { return };
    let expected = words::split(text);
    let spoken = spoken(input);
    let heard: Vec<(String, &Word)> =
        spoken.iter().flat_map(|w| words::split(&w.word).into_iter().map(move |part| (part, *w))).collect();
    let normal: Vec<String> = heard.iter().map(|(part, _)| part.clone()).collect();
    if expected.is_empty() || heard.is_empty() {
        return;
    }
    let Some(steps) = words::align(&expected, &normal) else { return };
    let whole = [heard[0].1.start, heard[heard.len() - 1].1.end];
    let same = steps.iter().filter(|s| matches!(s, Step::Same { .. })).count();
    let main = measured(Topic::WordAccuracy, same as f64 / expected.len() as f64, None, whole);
    let mut accuracy = Finding::new(Topic::WordAccuracy, main);
    accuracy.others = vec![
        measure("words_as_expected", same as f64, "count", None, whole),
        measure("expected_words", expected.len() as f64, "count", None, whole),
    ];
    sheet.find(accuracy);
    let at = |h: usize| [heard[h].1.start, heard[h].1.end];
    let run = longest_run_of(&steps, |s| matches!(s, Step::Omitted { .. }));
    if let [Step::Omitted { h, .. }, ..] = run {
        let span = [at(h.saturating_sub(1))[0], at((*h).min(heard.len() - 1))[1]];
        let quoted = run.iter().filter_map(|s| if let Step::Omitted { e, .. } = s { Some(shown(&expected[*e])) } else { None });
        count(sheet, Topic::OmittedWords, &steps, |s| matches!(s, Step::Omitted { .. }), quoted.collect(), span);
    }
    let run = longest_run_of(&steps, |s| matches!(s, Step::Added { .. }));
    if let [Step::Added { h }, .., Step::Added { h: last }] | [Step::Added { h: last @ h }] = run {
        let quoted = (*h..=*last).map(|h| shown(&heard[h].0));
        count(
            sheet,
            Topic::AddedWords,
            &steps,
            |s| matches!(s, Step::Added { .. }),
            quoted.collect(),
            [at(*h)[0], at(*last)[1]],
        );
    }
    // The change heard most surely is the least likely to be the recognizer's own slip.
    let changed = steps.iter().filter_map(|s| if let Step::Changed { e, h } = *s { Some((e, h)) } else { None });
    if let Some((e, h)) = changed.max_by(|a, b| heard[a.1].1.probability.total_cmp(&heard[b.1].1.probability)) {
        let quoted = vec![shown(&heard[h].0), shown(&expected[e])];
        count(sheet, Topic::ChangedWords, &steps, |s| matches!(s, Step::Changed { .. }), quoted, at(h));
    }
}

fn longest_run_of(steps: &[Step], of: impl Fn(&Step) -> bool) -> &[Step] {
    steps.chunk_by(|a, b| of(a) == of(b)).filter(|run| of(&run[0])).max_by_key(|run| run.len()).unwrap_or(&[])
}

fn count(sheet: &mut Sheet, topic: Topic, steps: &[Step], of: impl Fn(&Step) -> bool, mut quoted: Vec<String>, span: [f64; 2]) {
    let n = steps.iter().filter(|s| of(s)).count();
    quoted.truncate(3);
    sheet.find(Finding { words: quoted, ..Finding::new(topic, measured(topic, n as f64, None, span)) });
}
