//! Transcripts as subtitles.

use dreamseed_models::whisper::{Segment, Transcript};

/// `00:01:02.345`
pub(crate) fn clock(seconds: f64, point: char) -> String {
    let ms = (seconds.max(0.0) * 1000.0).round() as u64;
    format!("{:02}:{:02}:{:02}{point}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// SubRip.
pub fn srt(t: &Transcript) -> String {
    let cue = |(i, s): (usize, &Segment)| {
        format!("{}\n{} --> {}\n{}\n\n", i + 1, clock(s.start, ','), clock(s.end, ','), s.text.trim())
    };
    t.segments.iter().enumerate().map(cue).collect()
}

/// WebVTT.
pub fn vtt(t: &Transcript) -> String {
    let cue = |s: &Segment| {
        // "-->" inside a cue's text would end the cue
        format!("{} --> {}\n{}\n\n", clock(s.start, '.'), clock(s.end, '.'), s.text.trim().replace("-->", "->"))
    };
    "WEBVTT\n\n".to_string() + &t.segments.iter().map(cue).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtitles_carry_times_and_text() {
        let segment = Segment { start: 3661.0, end: 3662.5, text: " And so --> on.".into(), ..Segment::default() };
        let t = Transcript { segments: vec![segment], ..Transcript::default() };
        assert_eq!(srt(&t), "1\n01:01:01,000 --> 01:01:02,500\nAnd so --> on.\n\n");
        assert_eq!(vtt(&t), "WEBVTT\n\n01:01:01.000 --> 01:01:02.500\nAnd so -> on.\n\n");
    }
}
