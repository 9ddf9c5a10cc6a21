//! Cuts as events, and how alike two clips look along their alignment.

use super::{Column, Event, EventKind, Timeline, align};
use crate::extract::Tracks;
use crate::scene::{Scene, cosine};

pub(super) fn changes(scene: &Scene, events: &mut Vec<Event>) {
    events.extend(scene.changes.iter().map(|c| Event {
        kind: EventKind::ShotChange,
        start: c.start,
        end: c.end,
        label: if c.end > c.start { "fade" } else { "cut" }.into(),
        value: c.distance,
    }));
}

/// Adds the column `vision.similarity`: the cosine of the learner's picture and the teacher's at the moment that goes with it. The
/// moments go together as [`align`] finds them; where it finds nothing, by their share of each clip. Nothing is added unless both
/// clips have embeddings of one model.
pub fn similarity(timeline: &mut Timeline, learner: &Tracks, (reference, teacher): (&Timeline, &Tracks)) {
    let (Some(ours), Some(theirs)) = (&learner.scene, &teacher.scene) else { return };
    let width = |s: &Scene| s.embeddings.first().map(|e| e.values.len());
    if width(ours).is_none() || width(ours) != width(theirs) {
        return;
    }
    let path = align(timeline, reference, None).map_or_else(Vec::new, |a| a.path);
    let share = if timeline.duration > 0.0 { reference.duration / timeline.duration } else { 1.0 };
    let partner = |t: f64| match path.get(path.partition_point(|p| p[0] < t - 1e-9)).or(path.last()) {
        Some(p) => p[1],
        None => t * share,
    };
    let at = |i: usize| {
        let t = i as f64 / timeline.rate;
        Some(cosine(ours.near(t)?, theirs.near(partner(t))?)).filter(|v| v.is_finite())
    };
    let values = (0..timeline.rows).map(at).collect();
    timeline.columns.push(Column { name: "vision.similarity".into(), unit: "1".into(), values });
}

#[cfg(test)]
mod tests {
    use super::super::fuse;
    use super::*;
    use crate::scene::Embedding;
    use dreamseed_models::vision::shots::Change;

    fn clip(seconds: f64, look: impl Fn(f64) -> f32) -> Tracks {
        let embed = |i: u32| {
            let t = f64::from(i) / 2.0;
            Embedding { t, values: vec![look(t).cos(), look(t).sin()] }
        };
        let scene = Scene { changes: Vec::new(), embeddings: (0..(seconds * 2.0) as u32).map(embed).collect() };
        Tracks { duration: seconds, scene: Some(scene), ..Tracks::default() }
    }

    #[test]
    fn similarity_follows_the_share_of_each_clip_and_needs_both() {
        // the teacher takes twice as long for the same
        let (ours, theirs) = (clip(6.0, |t| t as f32 / 4.0), clip(12.0, |t| t as f32 / 8.0));
        let (mut timeline, reference) = (fuse(&ours, 10.0), fuse(&theirs, 10.0));
        similarity(&mut timeline, &ours, (&reference, &Tracks::default()));
        assert!(timeline.column("vision.similarity").is_none());
        similarity(&mut timeline, &ours, (&reference, &theirs));
        let column = timeline.column("vision.similarity").unwrap();
        assert_eq!(column.values.len(), 60);
        assert!(column.values.iter().flatten().all(|v| *v > 0.97), "{:?}", column.values);
        assert!(column.values.iter().flatten().count() >= 55);
        let other = clip(12.0, |t| 1.5 + t as f32 / 8.0);
        timeline.columns.clear();
        similarity(&mut timeline, &ours, (&reference, &other));
        assert!(timeline.columns[0].values.iter().flatten().all(|v| v.abs() < 0.3));
    }

    #[test]
    fn a_change_is_an_event() {
        let change = |start, end| Change { start, end, distance: 0.8 };
        let scene = Scene { changes: vec![change(1.0, 1.0), change(3.0, 3.5)], embeddings: Vec::new() };
        let timeline = fuse(&Tracks { duration: 5.0, scene: Some(scene), ..Tracks::default() }, 25.0);
        let seen: Vec<_> = timeline.events(EventKind::ShotChange).map(|e| (e.start, e.end, e.label.as_str())).collect();
        assert_eq!(seen, [(1.0, 1.0, "cut"), (3.0, 3.5, "fade")]);
    }
}
