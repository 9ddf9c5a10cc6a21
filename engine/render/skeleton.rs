//! The 33 landmarks as a figure: which are joined, and in which colour.

use dreamseed_models::pose::{Landmark, Person};

use super::canvas::{Area, Canvas, Rgba, fade};

/// The person's left side, right side, and middle.
pub(super) const LEFT: Rgba = [255, 159, 67, 255];
pub(super) const RIGHT: Rgba = [72, 202, 228, 255];
pub(super) const MIDDLE: Rgba = [244, 244, 250, 255];

/// Landmarks less visible than this are not drawn.
const HIDDEN: f32 = 0.15;

/// Pairs of landmarks that are joined: face, trunk, arms with hands, legs with feet (MediaPipe's numbering: odd is left).
#[rustfmt::skip]
const BONES: [(usize, usize); 35] = [
    (0, 1), (1, 2), (2, 3), (3, 7), (0, 4), (4, 5), (5, 6), (6, 8), (9, 10),
    (11, 12), (11, 23), (12, 24), (23, 24),
    (11, 13), (13, 15), (15, 17), (15, 19), (15, 21), (17, 19), (12, 14), (14, 16), (16, 18), (16, 20), (16, 22), (18, 20),
    (23, 25), (25, 27), (27, 29), (27, 31), (29, 31), (24, 26), (26, 28), (28, 30), (28, 32), (30, 32),
];

/// First landmark below the face.
const BODY: usize = 11;

/// A bone between two points of the picture (0..1).
pub(super) struct Bone {
    pub(super) from: (f32, f32),
    pub(super) to: (f32, f32),
    pub(super) color: Rgba,
    /// Whether it belongs to the face, where thinner lines do.
    pub(super) face: bool,
}

/// The bones to draw, faint where their ends are hardly visible; none for a person without 33 finite landmarks.
pub(super) fn bones(person: &Person) -> impl Iterator<Item = Bone> {
    let points: &[Landmark] = if person.landmarks.len() == 33 { &person.landmarks } else { &[] };
    BONES.iter().filter_map(move |&(a, b)| {
        let (p, q) = (points.get(a)?, points.get(b)?);
        let seen = p.visibility.min(q.visibility);
        let finite = [p.x, p.y, q.x, q.y].iter().all(|v| v.is_finite() && v.abs() < 10.0);
        let color = if a % 2 != b % 2 || a == 0 { MIDDLE } else { side(a) };
        let face = a < BODY;
        let color = if face { MIDDLE } else { color };
        (finite && seen > HIDDEN).then(|| Bone { from: (p.x, p.y), to: (q.x, q.y), color: fade(color, seen), face })
    })
}

fn side(landmark: usize) -> Rgba {
    if landmark % 2 == 1 { LEFT } else { RIGHT }
}

/// Colours that tell people apart, by id.
const PEOPLE: [Rgba; 6] = [
    [255, 159, 67, 255],
    [72, 202, 228, 255],
    [144, 224, 96, 255],
    [240, 98, 146, 255],
    [179, 136, 255, 255],
    [255, 221, 87, 255],
];

/// The figure over the picture that fills `area`; bones that leave the picture are cut off at its edge. With `several` people each
/// id has its own colour, otherwise the sides of the body have.
pub(super) fn draw(canvas: &mut Canvas, person: &Person, area: Area, several: bool) {
    let own = several.then(|| PEOPLE[person.id as usize % PEOPLE.len()]);
    let scale = area.w.min(area.h) / 200.0;
    let place = |(x, y): (f32, f32)| (area.x + x * area.w, area.y + y * area.h);
    for bone in bones(person) {
        let Some((from, to)) = clipped(bone.from, bone.to) else { continue };
        let (from, to) = (place(from), place(to));
        let width = scale * if bone.face { 1.6 } else { 3.2 };
        let alpha = f32::from(bone.color[3]) / 255.0;
        canvas.line(from, to, width + 2.0, [8, 12, 20, (130.0 * alpha) as u8]);
        canvas.line(from, to, width, own.map_or(bone.color, |c| fade(c, alpha)));
    }
    if person.landmarks.len() != 33 {
        return;
    }
    for (i, p) in person.landmarks.iter().enumerate().skip(BODY) {
        let inside = (0.0..=1.0).contains(&p.x) && (0.0..=1.0).contains(&p.y);
        if inside && p.visibility > HIDDEN {
            let (x, y) = place((p.x, p.y));
            let radius = scale * if (15..23).contains(&i) || i > 28 { 1.8 } else { 3.4 };
            canvas.circle(x, y, radius + 1.0, fade([8, 12, 20, 160], p.visibility));
            canvas.circle(x, y, radius, fade(own.unwrap_or_else(|| side(i)), p.visibility));
        }
    }
}

/// The part of a segment inside of the unit square (Liang and Barsky 1984).
fn clipped(from: (f32, f32), to: (f32, f32)) -> Option<((f32, f32), (f32, f32))> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut enter, mut leave) = (0.0f32, 1.0f32);
    for (step, room) in [(-dx, from.0), (dx, 1.0 - from.0), (-dy, from.1), (dy, 1.0 - from.1)] {
        if step == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if step < 0.0 {
            enter = enter.max(room / step);
        } else {
            leave = leave.min(room / step);
        }
    }
    let at = |s: f32| (from.0 + s * dx, from.1 + s * dy);
    (enter <= leave).then(|| (at(enter), at(leave)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_beside_each_other_have_their_own_colours() {
        let painted = |id: u32| {
            let mut canvas = Canvas::new(100, 100, [0, 0, 0, 255]).expect("a small canvas");
            let point = |i: usize| Landmark { x: 0.2 + 0.02 * i as f32, y: 0.3 + 0.01 * i as f32, z: 0.0, visibility: 1.0 };
            let person = Person { id, score: 1.0, landmarks: (0..33).map(point).collect(), world: Vec::new() };
            draw(&mut canvas, &person, Area { x: 0.0, y: 0.0, w: 100.0, h: 100.0 }, true);
            canvas.png().expect("a picture")
        };
        assert!((1..6).all(|id| painted(id) != painted(0)));
        assert_eq!(painted(6), painted(0), "six colours");
    }
}
