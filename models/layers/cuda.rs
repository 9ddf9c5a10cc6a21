//! Activations of a transformer on a GPU, and what they are multiplied by.

use dreamseed_kernels::{
    Activation,
    cuda::{
        Buffer, Device, DeviceMatrix, Error, Finish, GemvInput, LayerNorm, Part, Quantized, activate, gemm, gemv, layer_norm,
        quantize,
    },
};

type Result<T> = std::result::Result<T, Error>;

/// Rows that a buffer has room for at least: fewer are multiplied as 1, 2, 4 or 8.
pub const FEW: usize = 8;

/// Rows of activations in floats, and in 8 bits where quantized weights multiply them.
pub struct Activations {
    /// (rows, width)
    pub floats: Buffer<f32>,
    /// The same.
    pub codes: Option<Quantized>,
}

impl Activations {
    /// Room for `len` elements.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, len: usize, quantized: bool) -> Result<Self> {
        let codes = quantized.then(|| Quantized::new(device, 1, len.next_multiple_of(32))).transpose()?;
        Ok(Self { floats: device.zeros(len)?, codes })
    }

    /// Where the 8 bits of rows of `k` elements go, if they are of any use.
    pub fn codes(&mut self, k: usize) -> Option<&mut Quantized> {
        self.codes.as_mut().filter(|_| k.is_multiple_of(32))
    }

    /// Brings the 8 bits up to what the floats are.
    ///
    /// # Errors
    /// [`Error`].
    pub fn quantize(&mut self, device: &Device, (rows, k): (usize, usize)) -> Result<()> {
        match self.codes.as_mut().filter(|_| k.is_multiple_of(32)) {
            Some(codes) => quantize(device, (rows, k), &self.floats, codes),
            None => Ok(()),
        }
    }

    /// The norm of `rows` rows of `x`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn norm(&mut self, device: &Device, rows: usize, x: &Buffer<f32>, norm: LayerNorm) -> Result<()> {
        let codes = self.codes.as_mut().filter(|_| norm.gamma.len().is_multiple_of(32));
        layer_norm(device, rows, x, norm, &mut self.floats, codes)
    }

    /// `activation`, in place.
    ///
    /// # Errors
    /// [`Error`].
    pub fn activate(&mut self, device: &Device, (rows, k): (usize, usize), activation: Activation) -> Result<()> {
        let codes = self.codes.as_mut().filter(|_| k.is_multiple_of(32));
        activate(device, (rows, k), activation, &mut self.floats, None, codes)
    }

    fn input(&self, k: usize) -> GemvInput<'_> {
        GemvInput::Plain { x: &self.floats, quantized: self.codes.as_ref().filter(|_| k.is_multiple_of(32)) }
    }
}

/// Products of `rows` rows, any number: by a matrix-vector kernel where there are few. `out` has room for [`FEW`] rows at least.
///
/// # Errors
/// [`Error`].
pub fn multiply(device: &Device, rows: usize, x: &Activations, parts: &mut [Part], finish: Finish) -> Result<()> {
    let k = parts.first().map_or(0, |p| p.weights.cols());
    match rows {
        ..=FEW if finish.activation == Activation::None => {
            gemv(device, rows.next_power_of_two(), &x.input(k), parts, finish.accumulate)
        }
        _ => gemm(device, rows, &x.input(k), parts, finish),
    }
}

/// Whether products by these weights take 8 bits.
pub fn is_quantized(weights: &DeviceMatrix) -> bool {
    weights.kind().block().0 > 1
}
