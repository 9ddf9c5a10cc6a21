//! Weights of ViTPose++ as those of a plain ViTPose.

use super::super::load::Tensors;
use crate::weights::{Error, Result, Tensor, Values, safetensors};

/// A file of ViTPose++ (Xu et al. 2023): the last rows of each layer's second matrix are an expert's, one for each set of pictures
/// that it was trained with. Read here as one matrix, with the expert of COCO, the first.
pub(super) struct Experts<'a> {
    pub(super) file: &'a safetensors::File,
    pub(super) part: usize, // rows of an expert
}

impl Experts<'_> {
    /// What the file calls the rows of COCO's expert that belong under a tensor: in later and in earlier versions of transformers.
    fn below(&self, name: &str) -> Option<String> {
        let (layer, what) = name.split_once(".mlp.fc2.")?;
        let names = ["experts.0", "experts.experts.0"].map(|expert| format!("{layer}.mlp.{expert}.{what}"));
        names.into_iter().find(|name| self.file.info(name).is_some())
    }
}

impl Tensors for Experts<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let mut shape = Tensors::shape(self.file, name)?;
        if self.below(name).is_some() {
            shape[0] = shape.first()?.checked_add(self.part)?;
        }
        Some(shape)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let mut tensor = self.file.tensor(name)?;
        let Some(below) = self.below(name) else { return Ok(tensor) };
        let (mut values, rows) = (tensor.values.into_f32(), self.file.tensor(&below)?);
        let same = rows.shape.split_first().zip(tensor.shape.split_first_mut()).is_some_and(|(rows, whole)| {
            *whole.0 += self.part;
            *rows.0 == self.part && rows.1 == &*whole.1
        });
        if !same {
            let problem = format!("has shape {:?}: {} rows as of {name} are needed", rows.shape, self.part);
            return Err(Error::Tensor { name: below, problem });
        }
        values.extend(rows.values.into_f32());
        Ok(Tensor { shape: tensor.shape, values: Values::F32(values) })
    }
}
