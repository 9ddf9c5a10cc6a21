use super::goodness::FLOOR;
use super::*;

#[test]
fn letters_name_their_language() {
    assert_eq!(language_of("오늘 날씨가 좋아요."), Some("ko"));
    assert_eq!(language_of("きょうは天気がいい"), Some("ja"));
    assert_eq!(language_of("And so, my fellow Americans"), None);
    assert_eq!(language_of(" 123 ?!"), None);
}

#[test]
fn goodness_is_a_mean_over_what_is_spoken() {
    let row = |own: Option<f32>, alternative: f32, next: f32| Predicted { own, alternative, next };
    let with = [row(Some(-0.5), -2.5, -4.0), row(None, 0.0, 0.0), row(Some(-1.5), -0.5, FLOOR)];
    let without = [row(Some(-3.0), 0.0, 0.0), row(None, 0.0, 0.0), row(Some(-2.0), 0.0, 0.0)];
    let g = goodness(&with, &without).unwrap();
    assert_eq!((g.logprob, g.word_gop, g.audio_gain, g.presence), (-1.0, 0.5, 1.5, 3.5));
    assert_eq!(goodness(&with[1..2], &without[1..2]), None);
}

#[test]
fn json_is_flat_and_comes_back() {
    let goodness = Some(Goodness { logprob: -0.5, word_gop: 2.0, audio_gain: 1.0, presence: 3.0 });
    let said =
        Pronounced { kind: Kind::Correct, expected: Some("a".into()), heard: Some("a".into()), start: 0.0, end: 1.0, goodness };
    let added = Pronounced { kind: Kind::Inserted, expected: None, goodness: None, ..said.clone() };
    for word in [said, added] {
        let json = serde_json::to_value(&word).unwrap();
        assert_eq!(json["kind"], word.kind.name());
        assert_eq!(json.get("word_gop").is_some(), word.goodness.is_some());
        assert_eq!(serde_json::from_value::<Pronounced>(json).unwrap(), word);
    }
}
