//! The body as segments with mass: motion energy, and where the centre of mass is.

use super::{
    Column,
    series::{Grid, Series},
};

/// A part of the body between two points, each the middle of some landmarks.
struct Segment {
    limb: &'static str,
    /// Share of the body's mass.
    mass: f64,
    proximal: &'static [usize],
    distal: &'static [usize],
    /// Where its centre of mass lies, from 0 (proximal) to 1 (distal).
    centre: f64,
}

const fn segment(limb: &'static str, mass: f64, proximal: &'static [usize], distal: &'static [usize], centre: f64) -> Segment {
    Segment { limb, mass, proximal, distal, centre }
}

/// Masses and centres of Dempster's segments as in Winter (2009), "Biomechanics and Motor Control of Human Movement", table 4.1;
/// head and neck at the ears, the trunk from the hips to the shoulders.
const SEGMENTS: [Segment; 14] = [
    segment("trunk", 0.081, &[7, 8], &[7, 8], 0.0),
    segment("trunk", 0.497, &[11, 12], &[23, 24], 0.5),
    segment("left_arm", 0.028, &[11], &[13], 0.436),
    segment("left_arm", 0.016, &[13], &[15], 0.430),
    segment("left_arm", 0.006, &[15], &[19], 0.506),
    segment("right_arm", 0.028, &[12], &[14], 0.436),
    segment("right_arm", 0.016, &[14], &[16], 0.430),
    segment("right_arm", 0.006, &[16], &[20], 0.506),
    segment("left_leg", 0.100, &[23], &[25], 0.433),
    segment("left_leg", 0.0465, &[25], &[27], 0.433),
    segment("left_leg", 0.0145, &[29], &[31], 0.5),
    segment("right_leg", 0.100, &[24], &[26], 0.433),
    segment("right_leg", 0.0465, &[26], &[28], 0.433),
    segment("right_leg", 0.0145, &[30], &[32], 0.5),
];

/// Heels and toes: the lowest one seen is the floor.
const FEET: [usize; 4] = [29, 30, 31, 32];

/// Share of a limb's (or the body's) mass that must be seen for its energy or centre to be known.
const SEEN: f64 = 0.8;

/// Position of a landmark in the plane of the picture, metres, x right and y down. (frames) each
type Place = [Vec<Option<f64>>; 2];

/// Columns `pose.energy` and `pose.LIMB.energy` for `left_arm`, `right_arm`, `left_leg`, `right_leg`, `trunk` (m2/s2): the sum of
/// mass times squared speed of the segments' centres over the mass, which is twice the kinetic energy a kilogram (no rotation of
/// the segments). `pose.mass.height` (m): the body's centre of mass over the lowest heel or toe. `pose.mass.travel` (m): its way
/// to the right in the picture since it was first seen. `times` gives the instants of the frames.
pub(super) fn columns(times: &Series, place: &dyn Fn(usize) -> Place, grid: Grid) -> Vec<Column> {
    let landmarks: Vec<Place> = (0..33).map(place).collect();
    let centres: Vec<[Series; 2]> = SEGMENTS.iter().map(|s| s.centre(&landmarks, times)).collect();
    let squares: Vec<Series> = centres
        .iter()
        .map(|[x, y]| {
            let (x, y) = (x.slope(), y.slope());
            times.with(x.v.iter().zip(&y.v).map(|(x, y)| Some((*x)?.powi(2) + (*y)?.powi(2))).collect())
        })
        .collect();
    let mut columns = vec![grid.column("pose.energy", "m2/s2", weighted(times, &squares, |_| true).linear(grid))];
    for limb in ["left_arm", "right_arm", "left_leg", "right_leg", "trunk"] {
        let energy = weighted(times, &squares, |s| s.limb == limb).linear(grid);
        columns.push(grid.column(format!("pose.{limb}.energy"), "m2/s2", energy));
    }
    let along = |axis: usize| {
        let one: Vec<Series> = centres.iter().map(|c| c[axis].clone()).collect();
        weighted(times, &one, |_| true)
    };
    let (x, y) = (along(0), along(1));
    let floor = |i: usize| FEET.iter().filter_map(|&f| landmarks[f][1][i]).reduce(f64::max);
    let height = y.v.iter().enumerate().map(|(i, y)| Some(floor(i)? - (*y)?)).collect();
    let first = x.v.iter().flatten().next().copied();
    let travel = x.v.iter().map(|x| Some((*x)? - first?)).collect();
    columns.push(grid.column("pose.mass.height", "m", times.with(height).linear(grid)));
    columns.push(grid.column("pose.mass.travel", "m", times.with(travel).linear(grid)));
    columns
}

impl Segment {
    /// Its centre of mass over time, x and y; unknown where a landmark is.
    fn centre(&self, landmarks: &[Place], times: &Series) -> [Series; 2] {
        [0, 1].map(|axis| {
            let middle = |points: &[usize], i: usize| {
                let sum = points.iter().map(|&p| landmarks[p][axis][i]).sum::<Option<f64>>()?;
                Some(sum / points.len() as f64)
            };
            let at = |i: usize| Some(middle(self.proximal, i)? * (1.0 - self.centre) + middle(self.distal, i)? * self.centre);
            times.with((0..times.t.len()).map(at).collect())
        })
    }
}

/// Mean of the segments' values weighted by their mass.
fn weighted(times: &Series, values: &[Series], takes: impl Fn(&Segment) -> bool) -> Series {
    let whole: f64 = SEGMENTS.iter().filter(|s| takes(s)).map(|s| s.mass).sum();
    let at = |i: usize| {
        let known = SEGMENTS.iter().zip(values).filter(|(s, _)| takes(s)).filter_map(|(s, v)| Some((s.mass, v.v[i]?)));
        let (sum, mass) = known.fold((0.0, 0.0), |(sum, mass), (m, v)| (sum + m * v, mass + m));
        (mass >= SEEN * whole).then(|| sum / mass)
    };
    times.with((0..times.t.len()).map(at).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(columns: &[Column], name: &str, row: usize) -> Option<f64> {
        columns.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("{name}")).values[row].map(f64::from)
    }

    #[test]
    fn the_segments_are_a_whole_body() {
        assert!((SEGMENTS.iter().map(|s| s.mass).sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_pendulum_and_a_walk_have_the_energy_of_mechanics() {
        // All walks at 0.5 m/s; the left arm, straight and 0.6 m long, swings about the shoulder as a pendulum of 0.5 rad at 0.5 Hz.
        let time = |i: usize| i as f64 / 60.0;
        let omega = std::f64::consts::PI;
        let place = |landmark: usize| -> Place {
            let along = match landmark {
                13 => 0.25,
                15 => 0.5,
                19 => 0.6,
                _ => 0.0,
            };
            let y = if FEET.contains(&landmark) { 1.5 } else { 0.5 };
            let swing = |i: usize| 0.5 * (omega * time(i)).sin();
            [
                (0..121).map(|i| Some(0.5 * time(i) + along * swing(i).sin())).collect(),
                (0..121).map(|i| Some(y + along * swing(i).cos())).collect(),
            ]
        };
        let times = Series::new((0..121).map(|i| (time(i), None)));
        let columns = columns(&times, &place, Grid { rate: 60.0, rows: 121 });
        for row in [15, 30, 60, 90] {
            let (t, angle) = (time(row), 0.5 * (omega * time(row)).sin());
            let turn = 0.5 * omega * (omega * t).cos(); // rad/s
            let mut energy = 0.0;
            for (mass, r) in [(0.028, 0.436 * 0.25), (0.016, 0.25 + 0.43 * 0.25), (0.006, 0.5 + 0.506 * 0.1)] {
                let (vx, vy) = (0.5 + r * turn * angle.cos(), -r * turn * angle.sin());
                energy += mass * (vx * vx + vy * vy);
            }
            let arm = at(&columns, "pose.left_arm.energy", row).unwrap();
            assert!((arm / (energy / 0.05) - 1.0).abs() < 0.01, "{arm} at {t}");
            let whole = at(&columns, "pose.energy", row).unwrap();
            assert!((whole - (0.95 * 0.25 + energy)).abs() < 0.003, "{whole} at {t}");
            assert!((at(&columns, "pose.right_leg.energy", row).unwrap() - 0.25).abs() < 1e-6);
            assert!((at(&columns, "pose.mass.travel", row).unwrap() - 0.5 * t).abs() < 0.02);
        }
        let height = at(&columns, "pose.mass.height", 0).unwrap();
        // 2.9% of the mass (the feet) at 0, the arm hanging 0.25 m down on average, the rest 1 m up
        assert!((0.95..1.0).contains(&height), "{height}");
    }

    #[test]
    fn a_limb_that_is_not_seen_has_no_energy() {
        let place = |landmark: usize| -> Place {
            let seen = |v: f64| (landmark != 15).then_some(v);
            [(0..30).map(|i| seen(f64::from(i))).collect(), vec![seen(0.0); 30]]
        };
        let times = Series::new((0..30).map(|i| (f64::from(i) / 30.0, None)));
        let columns = columns(&times, &place, Grid { rate: 30.0, rows: 30 });
        assert_eq!(at(&columns, "pose.left_arm.energy", 9), None, "forearm and hand are 44% of the arm");
        assert!(at(&columns, "pose.right_arm.energy", 9).is_some() && at(&columns, "pose.energy", 9).is_some());
    }
}
