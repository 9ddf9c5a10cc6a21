//! The Rust API: a whole lesson on the demo's clip, its order of events, its evidence, and cancelling it.

mod common;

use std::time::{Duration, Instant};

use common::engine;
use dreamseed::coach::events::{Event, Source};
use dreamseed::coach::{Lab, Language};
use dreamseed::lesson::{Request, Voice};
use dreamseed::live::{self, Listening};
use dreamseed::{demo, media};

fn demo_clip() -> media::Clip {
    demo::open(engine()).expect("the demo's material")
}

#[test]
fn the_demo_is_a_lesson_with_evidence() {
    let clip = demo_clip();
    let duration = clip.duration();
    let events: Vec<Event> = engine().coach(Request::new(Lab::Drama, clip)).map(|e| e.expect("an event")).collect();
    // 1. what was perceived is what is there
    let Some(Event::Features(f)) = events.first() else { panic!("first {:?}", events.first()) };
    assert!(f.text.contains("ask not what your country can do for you"), "{}", f.text);
    assert!(f.people == 1 && f.faces > f.frames / 2, "{f:?}");
    // 2. order: features, scores, then tokens and their point, then done
    let rank = |e: &Event| match e {
        Event::Features(_) => 0,
        Event::Score(_) => 1,
        Event::Token { .. } | Event::Point(_) => 2,
        Event::Done(_) => 3,
    };
    assert!(events.windows(2).all(|w| rank(&w[0]) <= rank(&w[1])));
    let scores: Vec<_> = events.iter().filter_map(|e| if let Event::Score(s) = e { Some(s) } else { None }).collect();
    assert_eq!(scores[0].name, "overall");
    assert!(scores.iter().all(|s| (0.0..=100.0).contains(&s.value)));
    // 3. each point has evidence inside the clip, and text that is the planner's or was checked
    let points: Vec<_> = events.iter().filter_map(|e| if let Event::Point(p) = e { Some(p) } else { None }).collect();
    assert!((2..=5).contains(&points.len()), "{} points", points.len());
    for p in &points {
        let [from, to] = p.point.span;
        assert!(!p.point.evidence.is_empty() && 0.0 <= from && from <= to && to <= duration + 0.1, "{p:?}");
        match p.source {
            Source::Planner => assert_eq!(p.text, p.point.sentence),
            Source::Llm => assert!(dreamseed::composer::check(Language::English, &p.point, &p.text).is_empty(), "{p:?}"),
        }
    }
    let Some(Event::Done(done)) = events.last() else { panic!("last {:?}", events.last()) };
    assert_eq!(done.model.as_deref(), Some("smollm2-135m"));
    assert!(done.seconds.iter().any(|(s, _)| s == "first_token"));
}

/// A tutor app records, and asks for the lesson when the learner has ended: what was said is known by then.
#[test]
fn a_lesson_on_what_was_listened_to_writes_nothing_down_again() {
    let pcm = demo_clip().pcm;
    let (sender, events) = std::sync::mpsc::channel();
    let mut live = engine().listen(Listening::default(), move |event| drop(sender.send(event))).expect("a listener");
    pcm.chunks(1600).for_each(|piece| live.push(piece).expect("sound"));
    let heard = live.finish().expect("a transcript");
    assert_eq!(heard.pcm, pcm);
    let words: usize = heard.transcript.segments.iter().map(|s| s.words.len()).sum();
    let finals: usize = events.iter().map(|e| if let live::Event::Final { words } = e { words.len() } else { 0 }).sum();
    assert!(words > 20 && words == finals, "{words} {finals}");
    let text = heard.transcript.text.clone();
    // a speech model that is not there shows that none is asked
    let speech = Some("/no/such/model".into());
    let request = Request { voice: Voice::Planner, speech, ..Request::heard(Lab::Speech, heard) };
    let events: Vec<Event> = engine().coach(request).map(|e| e.expect("an event")).collect();
    assert!(matches!(&events[0], Event::Features(f) if f.text == text && f.words == words), "{:?}", events[0]);
    // a listener that nobody waits for ends
    drop(engine().listen(Listening::default(), |_| {}).expect("a listener"));
    let wrong = Listening { model: Some("/no/such/model".into()), ..Listening::default() };
    assert!(engine().listen(wrong, |_| {}).is_err());
}

#[test]
fn the_same_lesson_twice_has_the_same_plan() {
    let clip = demo_clip();
    let lesson = || {
        let request = Request { voice: Voice::Planner, language: Language::Korean, ..Request::new(Lab::Speech, clip.clone()) };
        let mut events = engine().coach(request).map(|e| e.expect("an event")).collect::<Vec<_>>();
        events.pop(); // `done` tells seconds
        events
    };
    assert_eq!(lesson(), lesson());
}

#[test]
fn dropping_the_stream_cancels() {
    let clip = demo_clip();
    let begin = Instant::now();
    drop(engine().coach(Request::new(Lab::Drama, clip.clone())));
    assert!(begin.elapsed() < Duration::from_millis(200), "dropping does not wait");
    // the engine is free again: a lesson after it goes on as ever
    let request = Request { voice: Voice::Planner, ..Request::new(Lab::Dance, clip) };
    assert!(engine().coach(request).any(|e| matches!(e, Ok(Event::Done(_)))));
}

#[test]
fn clips_with_nothing_in_them_still_get_an_answer() {
    for (lab, clip) in [
        (Lab::Speech, media::Clip { pcm: vec![0.0; 16_000], ..Default::default() }),
        (
            Lab::Dance,
            media::Clip {
                frames: vec![media::Frame { t: 0.0, width: 64, height: 48, rgb: vec![90; 64 * 48 * 3] }],
                ..Default::default()
            },
        ),
        (Lab::Drama, media::Clip::default()),
    ] {
        let events: Vec<_> = engine().coach(Request { voice: Voice::Planner, ..Request::new(lab, clip) }).collect();
        assert!(events.iter().all(Result::is_ok), "{lab:?}: {events:?}");
        assert!(events.iter().any(|e| matches!(e, Ok(Event::Point(_)))), "{lab:?}: it says what is missing");
    }
}
