//! Real transforms of one length, and what correlation needs of them.

use std::sync::Arc;

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex, num_complex::Complex};

/// Plans for one length; shared by threads.
pub(crate) struct Fft {
    forward: Arc<dyn RealToComplex<f64>>,
    inverse: Arc<dyn ComplexToReal<f64>>,
}

/// Buffers of one thread.
pub(crate) struct Buffers {
    pub(crate) samples: Vec<f64>,           // (n)
    pub(crate) spectrum: Vec<Complex<f64>>, // (n / 2 + 1)
    scratch: Vec<Complex<f64>>,
}

impl Fft {
    /// Transforms of at least `n` samples: the next length 2^a * 3^b (a >= 1, b <= 2), for which they are fast.
    pub(crate) fn new(n: usize) -> Self {
        let length = [1, 3, 9].map(|odd| odd * n.div_ceil(odd).next_power_of_two().max(2));
        let length = length.into_iter().fold(usize::MAX, usize::min);
        let mut planner = RealFftPlanner::new();
        Self { forward: planner.plan_fft_forward(length), inverse: planner.plan_fft_inverse(length) }
    }

    pub(crate) fn buffers(&self) -> Buffers {
        let scratch = self.forward.get_scratch_len().max(self.inverse.get_scratch_len());
        Buffers {
            samples: self.forward.make_input_vec(),
            spectrum: self.forward.make_output_vec(),
            scratch: vec![Complex::default(); scratch],
        }
    }

    /// Spectrum of the samples, which are lost.
    pub(crate) fn forward(&self, b: &mut Buffers) {
        let scratch = &mut b.scratch[..self.forward.get_scratch_len()];
        self.forward.process_with_scratch(&mut b.samples, &mut b.spectrum, scratch).expect("buffers are the plan's own");
    }

    /// Samples of the spectrum, which is lost.
    pub(crate) fn inverse(&self, b: &mut Buffers) {
        // The first and last bins of a real signal are real: what rounding left there is dropped.
        b.spectrum[0].im = 0.0;
        if let Some(last) = b.spectrum.last_mut() {
            last.im = 0.0;
        }
        let scratch = &mut b.scratch[..self.inverse.get_scratch_len()];
        self.inverse.process_with_scratch(&mut b.spectrum, &mut b.samples, scratch).expect("buffers are the plan's own");
        let scale = 1.0 / b.samples.len() as f64;
        b.samples.iter_mut().for_each(|x| *x *= scale);
    }

    /// The samples become their own circular autocorrelation.
    pub(crate) fn autocorrelate(&self, b: &mut Buffers) {
        self.forward(b);
        for c in &mut b.spectrum {
            *c = Complex::new(c.norm_sqr(), 0.0);
        }
        self.inverse(b);
    }
}
