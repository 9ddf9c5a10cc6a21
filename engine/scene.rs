//! How a film is cut, and what its pictures show: the track of scenes.

use dreamseed_kernels::Pool;
use dreamseed_models::image::Image;
use dreamseed_models::vision::shots::{self, Change, Histogram, Options};
use dreamseed_models::vision::{Session, Vision};

use crate::Result;

/// Pictures a second that are embedded.
pub const RATE: f64 = 2.0;
/// Seconds about a change found by colours in which one found by embeddings is the same.
const SAME: f64 = 1.0;

/// The cuts of a clip, and embeddings of its pictures.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Scene {
    /// Changes of shot, in order.
    pub changes: Vec<Change>,
    /// In order; empty without a vision model.
    pub embeddings: Vec<Embedding>,
}

/// What a picture shows, as a vector.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Embedding {
    /// Seconds.
    pub t: f64,
    /// Of unit length: the cosine of two is the sum of their products.
    pub values: Vec<f32>,
}

/// Watches pictures as they come.
pub(crate) struct Watch<'a> {
    model: Option<&'a Vision>,
    session: Session,
    times: Vec<f64>,
    colours: Vec<Histogram>,
    embeddings: Vec<Embedding>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(model: Option<&'a Vision>) -> Self {
        let (times, colours, embeddings) = (Vec::new(), Vec::new(), Vec::new());
        Self { model, session: Session::default(), times, colours, embeddings }
    }

    /// The picture at `t` seconds.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(crate) fn see(&mut self, pool: &Pool, image: &Image, t: f64) -> Result<()> {
        self.times.push(t);
        self.colours.push(Histogram::new(image));
        let due = self.embeddings.last().is_none_or(|e| t - e.t >= 1.0 / RATE - 1e-6);
        if let Some(model) = self.model.filter(|_| due) {
            self.embeddings.push(Embedding { t, values: model.embed(pool, image, &mut self.session)? });
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Scene {
        let Self { times, colours, embeddings, .. } = self;
        let mut changes = shots::changes(&times, |i, j| colours[i].distance(&colours[j]), &Options::COLOURS);
        let times: Vec<f64> = embeddings.iter().map(|e| e.t).collect();
        let apart = |i: usize, j: usize| 1.0 - cosine(&embeddings[i].values, &embeddings[j].values);
        let more = shots::changes(&times, apart, &Options::EMBEDDINGS).into_iter();
        let new: Vec<_> =
            more.filter(|m| !changes.iter().any(|c| m.start >= c.start - SAME && m.start <= c.end + SAME)).collect();
        changes.extend(new);
        changes.sort_by(|a, b| a.start.total_cmp(&b.start));
        Scene { changes, embeddings }
    }
}

impl Scene {
    /// The embedding nearest to `t` seconds, at most a step away.
    pub(crate) fn near(&self, t: f64) -> Option<&[f32]> {
        let nearest = self.embeddings.iter().min_by(|a, b| (a.t - t).abs().total_cmp(&(b.t - t).abs()))?;
        ((nearest.t - t).abs() <= 1.0 / RATE + 1e-6).then_some(&nearest.values)
    }

    /// The shots, (start, end) in seconds, of a clip of this length.
    pub fn shots(&self, duration: f64) -> Vec<[f64; 2]> {
        let starts = std::iter::once(0.0).chain(self.changes.iter().map(|c| c.end));
        let ends = self.changes.iter().map(|c| c.start).chain([duration]);
        starts.zip(ends).map(|(s, e)| [s, e.max(s)]).collect()
    }
}

/// Of two vectors of unit length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shots_lie_between_the_changes() {
        let change = |start, end| Change { start, end, distance: 0.9 };
        let scene = Scene { changes: vec![change(2.0, 2.0), change(5.0, 6.0)], embeddings: Vec::new() };
        assert_eq!(scene.shots(9.0), [[0.0, 2.0], [2.0, 5.0], [6.0, 9.0]]);
        assert_eq!(Scene::default().shots(3.0), [[0.0, 3.0]]);
        assert_eq!(scene.near(1.0), None);
    }

    #[test]
    fn a_picture_that_changes_is_a_change() {
        let (pool, mut watch) = (Pool::new(1), Watch::new(None));
        for i in 0..60 {
            let rgb = [if i < 30 { [200, 30, 30] } else { [20, 90, 200] }; 64].concat();
            watch.see(&pool, &Image::new(8, 8, &rgb).unwrap(), f64::from(i) / 15.0).unwrap();
        }
        let scene = watch.finish();
        assert_eq!(scene.changes.len(), 1);
        assert!((scene.changes[0].start - 2.0).abs() < 1e-9 && scene.embeddings.is_empty());
    }
}
