//! A tensor of floats as a file holds it: half precision stays half precision.

use half::{bf16, f16};

/// Values of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// Truncated floats.
    Bf16(Vec<bf16>),
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::Bf16(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them in single precision.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(v) => v,
            Self::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Self::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
        }
    }

    pub(crate) fn f32_le(bytes: &[u8]) -> Self {
        Self::F32(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    pub(crate) fn f16_le(bytes: &[u8]) -> Self {
        Self::F16(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect())
    }

    pub(crate) fn bf16_le(bytes: &[u8]) -> Self {
        Self::Bf16(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b)).collect())
    }
}

/// A tensor read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// As many as the product of the shape.
    pub values: Values,
}
