//! Smoothing of landmarks over time by the One-Euro filter (Casiez, Roussel, Vogel 2012).

/// Constants of a One-Euro filter; frequencies in Hz.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneEuro {
    /// Cut-off at rest.
    pub min_cutoff: f32,
    /// How fast the cut-off grows with speed.
    pub beta: f32,
    /// Cut-off of the speed itself.
    pub derivate_cutoff: f32,
}

/// MediaPipe's constants for landmarks in the picture, for the two that place the next region, and for metres.
pub(super) const PICTURE: OneEuro = OneEuro { min_cutoff: 0.05, beta: 80.0, derivate_cutoff: 1.0 };
pub(super) const REGION: OneEuro = OneEuro { min_cutoff: 0.01, beta: 10.0, derivate_cutoff: 1.0 };
pub(super) const METRES: OneEuro = OneEuro { min_cutoff: 0.1, beta: 40.0, derivate_cutoff: 1.0 };

#[derive(Clone, Copy, Debug)]
struct State {
    raw: f32,
    value: f32,
    speed: f32,
}

/// A set of values that are filtered together.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    constants: OneEuro,
    last: Option<f64>,
    states: Vec<State>,
}

impl Filter {
    pub(super) fn new(constants: OneEuro) -> Self {
        Self { constants, last: None, states: Vec::new() }
    }

    /// Filters `values` at time `t` (seconds) in place. `scale` makes speeds independent of the object's size (1 / size).
    /// The first call, a change of the number of values, and time that does not move on start anew.
    pub(super) fn apply(&mut self, t: f64, scale: f32, values: &mut [f32]) {
        let step = self.last.map(|last| (t - last) as f32).filter(|&dt| dt > 0.0 && self.states.len() == values.len());
        self.last = Some(t);
        let Some(dt) = step else {
            self.states = values.iter().map(|&v| State { raw: v, value: v, speed: 0.0 }).collect();
            return;
        };
        let alpha = |cutoff: f32| 1.0 / (1.0 + 1.0 / (std::f32::consts::TAU * cutoff * dt));
        let mix = |new: f32, old: f32, a: f32| a * new + (1.0 - a) * old;
        let c = self.constants;
        for (state, value) in self.states.iter_mut().zip(values) {
            let speed = (*value - state.raw) * scale / dt;
            state.speed = mix(speed, state.speed, alpha(c.derivate_cutoff));
            state.raw = *value;
            state.value = mix(*value, state.value, alpha(c.min_cutoff + c.beta * state.speed.abs()));
            *value = state.value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stillness_is_smoothed_and_movement_followed() {
        let (mut still, mut moving) = (Filter::new(PICTURE), Filter::new(PICTURE));
        let (mut noise, mut lag) = (0.0f32, 0.0f32);
        for i in 0..200 {
            let t = f64::from(i) / 30.0;
            let jitter = if i % 2 == 0 { 0.5 } else { -0.5 };
            let mut v = [100.0 + jitter];
            still.apply(t, 1.0 / 300.0, &mut v);
            let mut m = [i as f32 * 10.0];
            moving.apply(t, 1.0 / 300.0, &mut m);
            if i > 50 {
                noise = noise.max((v[0] - 100.0).abs());
                lag = lag.max((m[0] - i as f32 * 10.0).abs());
            }
        }
        assert!(noise < 0.45, "jitter of 0.5 comes through as {noise}");
        assert!(lag < 5.0, "a point at 10 px a frame is followed within {lag} px");
    }

    #[test]
    fn time_that_stands_still_starts_anew() {
        let mut f = Filter::new(METRES);
        for t in [1.0, 1.0, 0.5] {
            let mut v = [t as f32];
            f.apply(t, 1.0, &mut v);
            assert_eq!(v[0], t as f32);
        }
    }
}
