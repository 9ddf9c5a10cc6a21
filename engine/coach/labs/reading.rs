//! Reading a text: the words against what should have been said, melody and timing against a teacher's reading of the same.

use dreamseed_models::whisper::{Kind, Pronounced, Pronunciation};

use super::{Finding, Input, Sheet, Topic, measure, measured, speech::Heard, speech::shown};

/// Words below which their goodness is not judged as a habit.
const LEAST_WORDS: usize = 3;
/// Words for full confidence.
const ENOUGH_WORDS: f64 = 8.0;

fn is_said(word: &Pronounced) -> bool {
    matches!(word.kind, Kind::Correct | Kind::Unclear)
}

/// How the expected words that were said came out; false where no text was given or too little of it was said.
pub(super) fn goodness(sheet: &mut Sheet, input: &Input) -> bool {
    let Some(pronunciation) = &input.tracks.pronunciation else { return false };
    let said: Vec<&Pronounced> = pronunciation.words.iter().filter(|w| is_said(w) && w.goodness.is_some()).collect();
    let ([first, ..], [.., last]) = (said.as_slice(), said.as_slice()) else { return false };
    if said.len() < LEAST_WORDS {
        return false;
    }
    let whole = [first.start, last.end.max(first.start)];
    let gop = |w: &Pronounced| w.goodness.map_or(0.0, |g| f64::from(g.word_gop));
    let mut unclear: Vec<&&Pronounced> = said.iter().filter(|w| w.kind == Kind::Unclear).collect();
    unclear.sort_by(|a, b| gop(a).total_cmp(&gop(b)));
    let clear = said.len() - unclear.len();
    let main = measured(Topic::WordGoodness, clear as f64 / said.len() as f64, None, whole);
    let confidence = (said.len() as f64 / ENOUGH_WORDS).min(1.0);
    let mut finding = Finding { confidence, ..Finding::new(Topic::WordGoodness, main) };
    finding.others = vec![
        measure("clear_words", clear as f64, "count", None, whole),
        measure("unclear_words", unclear.len() as f64, "count", None, whole),
        measure("words", said.len() as f64, "count", None, whole),
    ];
    let worst = unclear.first().copied().or(said.iter().min_by(|a, b| gop(a).total_cmp(&gop(b))));
    if let Some((worst, g)) = worst.and_then(|w| Some((w, w.goodness?))) {
        let span = [worst.start, worst.end];
        finding.others.push(measure("worst_word_gop", f64::from(g.word_gop), "nat", None, span));
        finding.others.push(measure("worst_word_logprob", f64::from(g.logprob), "nat", None, span));
        finding.others.push(measure("worst_word_audio_gain", f64::from(g.audio_gain), "nat", None, span));
    }
    if let Some(worst) = unclear.first() {
        finding.span = [worst.start, worst.end];
    }
    finding.words = unclear.iter().take(3).filter_map(|w| Some(shown(w.expected.as_ref()?))).collect();
    sheet.find(finding);
    sheet.note("word_gop", pronunciation.word_gop, "nat", whole);
    true
}

/// Accuracy, omissions, additions and changes.
pub(super) fn words(sheet: &mut Sheet, pronunciation: &Pronunciation) {
    let all = &pronunciation.words;
    let heard: Vec<&Pronounced> = all.iter().filter(|w| w.heard.is_some()).collect();
    let ([first, ..], [.., last]) = (heard.as_slice(), heard.as_slice()) else { return };
    let whole = [first.start, last.end.max(first.start)];
    let expected = all.iter().filter(|w| w.expected.is_some()).count();
    let same = all.iter().filter(|w| is_said(w)).count();
    let main = measured(Topic::WordAccuracy, same as f64 / expected.max(1) as f64, None, whole);
    let mut accuracy = Finding::new(Topic::WordAccuracy, main);
    accuracy.others = vec![
        measure("words_as_expected", same as f64, "count", None, whole),
        measure("expected_words", expected as f64, "count", None, whole),
    ];
    sheet.find(accuracy);
    let quoted = |word: &Option<String>| word.as_deref().map(shown);
    for (kind, topic) in [(Kind::Omitted, Topic::OmittedWords), (Kind::Inserted, Topic::AddedWords)] {
        let runs = all.chunk_by(|a, b| (a.kind == kind) == (b.kind == kind)).filter(|run| run[0].kind == kind);
        let Some(run) = runs.max_by_key(|run| run.len()) else { continue };
        let words = run.iter().filter_map(|w| quoted(if kind == Kind::Omitted { &w.expected } else { &w.heard }));
        count(sheet, topic, (all, kind), words.collect(), [run[0].start, run[run.len() - 1].end]);
    }
    // The change that the sound speaks against most surely is the least likely to be the recognizer's own slip.
    let changed = all.iter().filter(|w| w.kind == Kind::Substituted);
    let gop = |w: &Pronounced| w.goodness.map_or(0.0, |g| g.word_gop);
    if let Some(word) = changed.min_by(|a, b| gop(a).total_cmp(&gop(b))) {
        let words = [quoted(&word.heard), quoted(&word.expected)].into_iter().flatten().collect();
        count(sheet, Topic::ChangedWords, (all, Kind::Substituted), words, [word.start, word.end]);
    }
}

fn count(sheet: &mut Sheet, topic: Topic, of: (&[Pronounced], Kind), mut quoted: Vec<String>, span: [f64; 2]) {
    let n = of.0.iter().filter(|w| w.kind == of.1).count();
    quoted.truncate(3);
    let span = [span[0], span[1].max(span[0])];
    sheet.find(Finding { words: quoted, ..Finding::new(topic, measured(topic, n as f64, None, span)) });
}

/// Melody, lengths of words and pauses against the teacher's reading of the same text.
pub(super) fn beside_teacher(sheet: &mut Sheet, input: &Input, heard: Heard) {
    let Some(c) = input.reference.and_then(|r| r.reading).filter(|_| heard.confidence > 0.0) else { return };
    let note = |sheet: &mut Sheet, name: &str, value: Option<f64>, unit: &str| {
        sheet.note(name, value.map(|v| v as f32), unit, heard.span);
    };
    note(sheet, "tempo_to_teacher", Some(c.tempo), "1");
    note(sheet, "energy_correlation", c.energy_correlation, "r");
    note(sheet, "rhythm_contrast_difference", c.npvi_difference, "npvi");
    if let Some(agreement) = c.pitch_concordance {
        let main = measured(Topic::MelodyMatch, agreement, None, heard.span);
        let mut finding = Finding { confidence: 0.9 * heard.confidence, ..Finding::new(Topic::MelodyMatch, main) };
        finding.others.extend(c.pitch_rmse.map(|v| measure("pitch_rmse", v, "st", None, heard.span)));
        finding.others.extend(c.pitch_range_ratio.map(|v| measure("pitch_range_ratio", v, "1", None, heard.span)));
        if let Some(d) = c.pitch_difference {
            finding.others.push(measure("pitch_difference", d.semitones, "st", None, d.span));
            finding.span = d.span;
        }
        sheet.find(finding);
    } else {
        note(sheet, "pitch_range_ratio", c.pitch_range_ratio, "1");
    }
    if let Some(rhythm) = c.rhythm {
        let main = measured(Topic::WordTiming, rhythm, None, heard.span);
        let mut finding = Finding { confidence: 0.8 * heard.confidence, ..Finding::new(Topic::WordTiming, main) };
        let off = |w: &&dreamseed_models::prosody::WordTiming| w.relative.max(0.25).log2().abs();
        if let Some(worst) = c.words.iter().max_by(|a, b| off(a).total_cmp(&off(b))) {
            finding.span = [worst.start, worst.end];
            finding.others.push(measure("word_length_ratio", worst.relative, "1", None, finding.span));
            finding.words = vec![shown(&worst.word)];
        }
        sheet.find(finding);
    }
    let longest = c.pauses_added.iter().max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    if let Some(span) = longest {
        let main = measured(Topic::MisplacedPauses, c.pauses_added.len() as f64, None, *span);
        let mut finding = Finding { confidence: heard.confidence, ..Finding::new(Topic::MisplacedPauses, main) };
        finding.others.push(measure("missing_pauses", c.pauses_missing.len() as f64, "count", None, heard.span));
        sheet.find(finding);
    }
}
