//! What the dance and the drama lab share: who was seen, how the joints moved, where a movement repeats.

use super::{
    super::{Part, Topic},
    Finding, Input, Sheet, measure, spread,
};
use crate::{extract::Observed, timeline::Timeline};

/// Seconds of a visible person below which the movement is not judged.
const LEAST: f64 = 2.0;
/// Seconds of a visible person for full confidence.
const ENOUGH: f64 = 6.0;
/// Degrees that a joint must move through to count as moving.
pub(super) const MOVING: f64 = 20.0;

/// Angle of a joint over time: (seconds, degrees).
pub(super) type Series = Vec<(f64, f64)>;

/// What was seen of the person.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) span: [f64; 2],
    /// Frames a second.
    pub(super) rate: f64,
    pub(super) confidence: f64,
}

/// Frames with something found in them, and where; or a finding that there are none or too few.
pub(super) fn find<T>(sheet: &mut Sheet, track: Option<&[Observed<T>]>, absent: Topic, duration: f64) -> Option<Seen> {
    let frames = track.unwrap_or(&[]);
    let times: Vec<f64> = frames.iter().filter(|o| !o.found.is_empty()).map(|o| o.t).collect();
    let whole = [0.0, duration];
    if times.len() < 3 || times.len() * 5 < frames.len() {
        let main = measure(
            if absent == Topic::NoFace { "frames_with_face" } else { "frames_with_person" },
            times.len() as f64,
            "count",
            None,
            whole,
        );
        let others = vec![measure("frames", frames.len() as f64, "count", None, whole)];
        sheet.find(Finding { others, ..Finding::missing(absent, main) });
        return None;
    }
    let span = [times[0], times[times.len() - 1]];
    let step = (frames[frames.len() - 1].t - frames[0].t) / (frames.len() - 1).max(1) as f64;
    let seconds = times.len() as f64 * step;
    if seconds.is_nan() || seconds < LEAST || step <= 0.0 {
        if absent == Topic::NoPerson {
            sheet.find(Finding::missing(Topic::TooShort, measure("person_seconds", seconds, "s", None, span)));
        }
        return None;
    }
    let share = times.len() as f64 / frames.len() as f64;
    Some(Seen { span, rate: 1.0 / step, confidence: (seconds / ENOUGH).min(1.0) * share })
}

/// The joint's angle where it was measured.
pub(super) fn angles(timeline: &Timeline, part: Part) -> Series {
    column(timeline, &format!("pose.{}.angle", part.name()))
}

/// A column where it is valid: (seconds, value).
pub(super) fn column(timeline: &Timeline, name: &str) -> Series {
    if timeline.rate.is_nan() || timeline.rate <= 0.0 {
        return Vec::new();
    }
    let values = timeline.column(name).map_or(&[][..], |c| &c.values);
    let at = |(i, v): (usize, &Option<f32>)| v.filter(|v| v.is_finite()).map(|v| (i as f64 / timeline.rate, f64::from(v)));
    values.iter().enumerate().filter_map(at).collect()
}

/// 5th to 95th percentile of the values, degrees; `None` under a second of them.
pub(super) fn range(series: &Series, rate: f64) -> Option<f64> {
    if (series.len() as f64) < rate { None } else { spread(&series.iter().map(|s| s.1).collect::<Vec<_>>()) }
}

/// Mean speed of the body over time, m/s.
pub(super) fn motion(timeline: &Timeline) -> Series {
    column(timeline, "pose.motion")
}

/// Turning points of a series: index, and whether it is a maximum. A turn counts when the value moves away from it by at least
/// `least` on both sides (zigzag), so the ends of the series are none.
pub(super) fn turns(series: &Series, least: f64) -> Vec<(usize, bool)> {
    let mut turns = Vec::new();
    let Some(mut pivot) = (!series.is_empty()).then_some((0, 0)) else { return turns }; // lowest and highest since the last turn
    let mut rising: Option<bool> = None;
    for (i, &(_, v)) in series.iter().enumerate() {
        if v < series[pivot.0].1 {
            pivot.0 = i;
        }
        if v > series[pivot.1].1 {
            pivot.1 = i;
        }
        match rising {
            None if v - series[pivot.0].1 >= least => {
                if pivot.0 > 0 {
                    turns.push((pivot.0, false));
                }
                (rising, pivot) = (Some(true), (i, i));
            }
            None if series[pivot.1].1 - v >= least => {
                if pivot.1 > 0 {
                    turns.push((pivot.1, true));
                }
                (rising, pivot) = (Some(false), (i, i));
            }
            Some(true) if series[pivot.1].1 - v >= least => {
                turns.push((pivot.1, true));
                (rising, pivot) = (Some(false), (i, i));
            }
            Some(false) if v - series[pivot.0].1 >= least => {
                turns.push((pivot.0, false));
                (rising, pivot) = (Some(true), (i, i));
            }
            _ => {}
        }
    }
    turns
}

/// Moving average over `seconds`.
pub(super) fn smooth(series: &Series, seconds: f64) -> Series {
    let (mut from, mut to, mut sum) = (0, 0, 0.0);
    series
        .iter()
        .map(|&(t, _)| {
            while to < series.len() && series[to].0 <= t + seconds / 2.0 {
                sum += series[to].1;
                to += 1;
            }
            while from < to && series[from].0 < t - seconds / 2.0 {
                sum -= series[from].1;
                from += 1;
            }
            (t, sum / (to - from).max(1) as f64)
        })
        .collect()
}

/// Finds the person for the labs that judge movement.
pub(super) fn find_person(sheet: &mut Sheet, input: &Input) -> Option<Seen> {
    find(sheet, input.tracks.pose.as_deref(), Topic::NoPerson, input.tracks.duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_points_are_found_and_the_ends_are_none() {
        let series: Series = (0..200)
            .map(|i| (f64::from(i) / 25.0, 120.0 + 40.0 * (f64::from(i) / 25.0 * std::f64::consts::TAU / 2.0).cos()))
            .collect();
        let turns = turns(&series, 30.0);
        let times: Vec<f64> = turns.iter().map(|t| series[t.0].0).collect();
        // cos: maxima at 0, 2, 4, 6 s, minima at 1, 3, 5, 7 s; the start is no turn.
        assert_eq!(times, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert!(turns.iter().enumerate().all(|(i, t)| t.1 == (i % 2 == 1)));
        assert!(super::turns(&vec![(0.0, 1.0); 9], 1.0).is_empty());
        assert!(super::turns(&Vec::new(), 1.0).is_empty());
    }

    #[test]
    fn a_moving_average_keeps_a_line() {
        let line: Series = (0..50).map(|i| (f64::from(i) * 0.04, f64::from(i))).collect();
        let smoothed = smooth(&line, 0.2);
        assert!(smoothed[5..45].iter().zip(&line[5..45]).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
    }
}
