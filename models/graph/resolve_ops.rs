//! Shapes and attributes of the single operators.

use super::ir::{Op, SliceMasks};
use super::layer::{Kind, Simple, Weighted};
use super::resolve::{At, Resolver, strides, walk};
use crate::weights::Result;
use dreamseed_kernels::cpu::conv::{Padding, Window};
use dreamseed_kernels::cpu::elementwise::{Binary, Broadcast, Fold};
use dreamseed_kernels::cpu::movement::RANK;
use std::sync::Arc;

/// Weights that a depthwise convolution with several outputs an input may take once written out as a dense one.
const EXPANDED: usize = 1 << 22;

impl Resolver {
    /// Convolutions, pooling, resizing: a window over a picture.
    pub(super) fn windowed(&mut self, at: At) -> Result<()> {
        let (x, output) = (at.input(0)?, at.output()?);
        let (kind, [h, w, c]) = match &at.node.op {
            Op::FullyConnected { transposed, keep_dims } => return self.fully_connected(at, *transposed, *keep_dims),
            Op::Pool { reduce, window, stride, padding } => {
                let input = self.picture(at, x)?;
                let window = Window::new(input, input[2], *window, *stride, [1, 1], *padding).map_err(|e| at.window(e))?;
                let output = window.output;
                (Kind::Pooling(window, *reduce), output)
            }
            Op::Resize(centres) => {
                let (input, size) = (self.picture(at, x)?, self.integers(at, at.input(1)?)?);
                let size: Vec<usize> = size.iter().filter_map(|&v| usize::try_from(v).ok().filter(|&v| v > 0)).collect();
                let &[h, w] = size.as_slice() else { return Err(at.error("a size that is not two positive integers")) };
                (Kind::Resize { input, size: [h, w], centres: *centres }, [h, w, input[2]])
            }
            Op::Depthwise { .. } => self.depthwise(at)?,
            Op::Conv { stride, dilation, padding, hwio } => {
                let input = self.picture(at, x)?;
                let w = at.input(1)?;
                let &[a, b, c, d] = self.shape(at, w)? else { return Err(at.error("weights of other than four dimensions")) };
                let [n, kh, kw, ci] = if *hwio { [d, a, b, c] } else { [a, b, c, d] };
                if ci != input[2] {
                    return Err(at.error(format!(
                        "weights for {ci} channels, a picture of {} (grouped convolution is not run)",
                        input[2]
                    )));
                }
                let window = Window::new(input, n, [kh, kw], *stride, *dilation, *padding).map_err(|e| at.window(e))?;
                let mut weights = self.floats(at, w)?;
                self.spend(at, weights.len())?;
                if *hwio {
                    weights = Arc::new(transpose(&weights, n));
                }
                let output = window.output;
                (Kind::Conv(Weighted { window, weights, bias: self.bias(at, n)? }), output)
            }
            other => return Err(at.error(format!("{other:?} has no window"))),
        };
        self.layer(at, kind, x, output, vec![1, h, w, c])
    }

    /// Operand 2, where it is there: one value a channel.
    fn bias(&self, at: At, n: usize) -> Result<Vec<f32>> {
        let Some(&Some(bias)) = at.node.inputs.get(2) else { return Ok(Vec::new()) };
        let bias = self.floats(at, bias)?;
        if bias.len() != n {
            return Err(at.error(format!("{} biases for {n} channels", bias.len())));
        }
        Ok(bias.to_vec())
    }

    fn depthwise(&mut self, at: At) -> Result<(Kind, [usize; 3])> {
        let &Op::Depthwise { stride, dilation, padding, hwio } = &at.node.op else { return Err(at.error("not depthwise")) };
        let (input, w) = (self.picture(at, at.input(0)?)?, at.input(1)?);
        let &[a, b, c, d] = self.shape(at, w)? else { return Err(at.error("weights of other than four dimensions")) };
        // TFLite: (1, h, w, in * multiplier); TensorFlow: (h, w, in, multiplier). The elements lie the same way.
        let (kernel, n) = if hwio { ([a, b], c.saturating_mul(d)) } else { ([b, c], d) };
        if !n.is_multiple_of(input[2]) {
            return Err(at.error(format!("{n} output channels of {} input channels", input[2])));
        }
        let window = Window::new(input, n, kernel, stride, dilation, padding).map_err(|e| at.window(e))?;
        let (output, weights, bias) = (window.output, self.floats(at, w)?, self.bias(at, n)?);
        self.spend(at, weights.len())?;
        if n == input[2] {
            return Ok((Kind::Depthwise(Weighted { window, weights, bias }), output));
        }
        // Several outputs an input: written out as a dense convolution, mostly zeros.
        let (taps, multiplier) = (window.taps(), n / input[2]);
        if n.saturating_mul(taps).saturating_mul(input[2]) > EXPANDED {
            return Err(at.error(format!("{n} outputs of {} channels over {taps} taps: too many to write out", input[2])));
        }
        self.spend(at, n * taps * input[2])?;
        let mut dense = vec![0.0; n * taps * input[2]];
        for o in 0..n {
            for tap in 0..taps {
                dense[(o * taps + tap) * input[2] + o / multiplier] = weights[tap * n + o];
            }
        }
        Ok((Kind::Conv(Weighted { window, weights: Arc::new(dense), bias }), output))
    }

    /// A matrix product over the innermost dimension: a 1x1 convolution over as many pixels as there are rows.
    fn fully_connected(&mut self, at: At, transposed: bool, keep_dims: bool) -> Result<()> {
        let (x, w, output) = (at.input(0)?, at.input(1)?, at.output()?);
        let shape = self.shape(at, x)?.to_vec();
        let &[a, b] = self.shape(at, w)? else { return Err(at.error("weights of other than two dimensions")) };
        let (n, k) = if transposed { (b, a) } else { (a, b) };
        let elements: usize = shape.iter().product();
        let last = shape.last().copied().unwrap_or(0);
        if !elements.is_multiple_of(k) || ((keep_dims || transposed) && last != k) {
            return Err(at.error(format!("a product of {shape:?} with weights for {k} values")));
        }
        let rows = elements / k;
        let window = Window::new([1, rows, k], n, [1, 1], [1, 1], [1, 1], Padding::Valid).map_err(|e| at.window(e))?;
        let mut weights = self.floats(at, w)?;
        self.spend(at, weights.len())?;
        if transposed {
            weights = Arc::new(transpose(&weights, n));
        }
        let kind = Kind::Conv(Weighted { window, weights, bias: self.bias(at, n)? });
        let mut shape = if keep_dims { shape } else { vec![rows, k] };
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        self.layer(at, kind, x, output, shape)
    }

    /// Two operands, one of them repeated where it is smaller.
    pub(super) fn binary(&mut self, at: At, f: Binary) -> Result<()> {
        let (a, b, output) = (at.input(0)?, at.input(1)?, at.output()?);
        let (sa, sb) = (self.shape(at, a)?.to_vec(), self.shape(at, b)?.to_vec());
        let rank = sa.len().max(sb.len());
        let dim = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |d| s[d]);
        let mut shape = Vec::with_capacity(rank);
        for d in 0..rank {
            match (dim(&sa, d), dim(&sb, d)) {
                (m, n) if m == n || n == 1 => shape.push(m),
                (1, n) => shape.push(n),
                _ => return Err(at.error(format!("shapes {sa:?} and {sb:?} do not go together"))),
            }
        }
        let elements: usize = shape.iter().product();
        let is_full = |s: &[usize]| s.iter().product::<usize>() == elements;
        let (mut full, mut small, swapped) = if is_full(&sa) { (a, b, false) } else { (b, a, true) };
        if !is_full(&sa) && !is_full(&sb) {
            full = self.repeated(at, full, &shape)?;
        }
        let lay = match broadcast(&shape, if swapped { &sa } else { &sb }) {
            Some(lay) => lay,
            None => {
                small = self.repeated(at, small, &shape)?;
                Broadcast { inner: 1, period: elements }
            }
        };
        self.simple(at, vec![(Simple::Binary { f, lay, swapped }, vec![full, small])], output, shape)
    }

    /// `x` written out in a larger shape.
    fn repeated(&mut self, at: At, x: usize, shape: &[usize]) -> Result<usize> {
        let from = self.shape(at, x)?.to_vec();
        let own = strides(&from);
        let skip = shape.len() - from.len();
        let step = |d: usize| if d < skip || from[d - skip] == 1 { 0 } else { own[d - skip] };
        let walk = walk(shape, &(0..shape.len()).map(step).collect::<Vec<_>>(), 0);
        self.values.push(super::ir::Value { name: format!("inside {}", at.node.name), ..Default::default() });
        let output = self.values.len() - 1;
        self.simple(at, vec![(Simple::Walk(walk), vec![x])], output, shape.to_vec())?;
        Ok(output)
    }

    /// A reduction over neighbouring axes.
    pub(super) fn reduced(&mut self, at: At, fold: Fold, keep_dims: bool) -> Result<()> {
        let (x, output) = (at.input(0)?, at.output()?);
        let shape = self.shape(at, x)?.to_vec();
        let axes = self.integers(at, at.input(1)?)?;
        let mut axes = axes.into_iter().map(|a| self.axis(at, a, shape.len())).collect::<Result<Vec<_>>>()?;
        axes.sort_unstable();
        axes.dedup();
        let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
            return self.simple(at, vec![(Simple::Copy, vec![x])], output, shape);
        };
        if last - first + 1 != axes.len() {
            return Err(at.error(format!("a reduction over axes {axes:?}, which are not neighbours")));
        }
        let op = Simple::Fold { fold, len: shape[first..=last].iter().product(), inner: shape[last + 1..].iter().product() };
        let kept = |(d, &n): (usize, &usize)| if (first..=last).contains(&d) { keep_dims.then_some(1) } else { Some(n) };
        let shape = shape.iter().enumerate().filter_map(kept).collect();
        self.simple(at, vec![(op, vec![x])], output, shape)
    }

    /// Operators that copy elements to other places.
    pub(super) fn moved(&mut self, at: At) -> Result<()> {
        match &at.node.op {
            Op::Concat(axis) => self.concat(at, *axis),
            Op::Pack(axis) => self.pack(at, *axis),
            Op::Unpack(axis) => self.unpack(at, *axis),
            Op::StridedSlice(masks) => self.strided_slice(at, *masks),
            Op::Pad => self.pad(at),
            Op::DepthToSpace(block) => {
                let (x, output) = (at.input(0)?, at.output()?);
                let [h, w, c] = self.picture(at, x)?;
                let square = block.saturating_mul(*block);
                if !c.is_multiple_of(square) {
                    return Err(at.error(format!("{c} channels are no multiple of {square}")));
                }
                let (b, n) = (*block, c / square);
                let [row, col] = [(w * c) as isize, c as isize];
                let walk = walk(&[h, b, w, b, n], &[row, (b * n) as isize, col, n as isize, 1], 0);
                self.simple(at, vec![(Simple::Walk(walk), vec![x])], output, vec![1, h * b, w * b, n])
            }
            _ => {
                let (x, output) = (at.input(0)?, at.output()?);
                let (shape, order) = (self.shape(at, x)?.to_vec(), self.integers(at, at.input(1)?)?);
                let order = order.into_iter().map(|a| self.axis(at, a, shape.len())).collect::<Result<Vec<_>>>()?;
                let mut sorted = order.clone();
                sorted.sort_unstable();
                if sorted != (0..shape.len()).collect::<Vec<_>>() {
                    return Err(at.error(format!("{order:?} is no order of {} dimensions", shape.len())));
                }
                let own = strides(&shape);
                let to: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
                let walk = walk(&to, &order.iter().map(|&d| own[d]).collect::<Vec<_>>(), 0);
                self.simple(at, vec![(Simple::Walk(walk), vec![x])], output, to)
            }
        }
    }

    fn pad(&mut self, at: At) -> Result<()> {
        let (x, output) = (at.input(0)?, at.output()?);
        let (shape, amounts) = (self.shape(at, x)?.to_vec(), self.integers(at, at.input(1)?)?);
        let value = match at.node.inputs.get(2) {
            Some(&Some(v)) => self.floats(at, v)?.first().copied().unwrap_or(0.0),
            _ => 0.0,
        };
        let most = 1 << 24;
        if shape.len() > 4 || amounts.len() != shape.len() * 2 || amounts.iter().any(|a| !(0..=most).contains(a)) {
            return Err(at.error(format!(
                "amounts {amounts:?} around {shape:?}: two of 0..={most} a dimension, at most four dimensions"
            )));
        }
        let (mut from, mut to, mut before) = ([1; 4], [1; 4], [0; 4]);
        let skip = 4 - shape.len();
        for (d, pair) in amounts.chunks_exact(2).enumerate() {
            (from[skip + d], before[skip + d]) = (shape[d], pair[0] as usize);
            to[skip + d] = shape[d] + pair[0] as usize + pair[1] as usize;
        }
        let shape = to[skip..].to_vec();
        self.simple(at, vec![(Simple::Pad { from, to, before, value }, vec![x])], output, shape)
    }

    fn concat(&mut self, at: At, axis: Option<i64>) -> Result<()> {
        let count = at.node.inputs.len() - usize::from(axis.is_none() && !at.node.inputs.is_empty());
        let operands = (0..count).map(|i| at.input(i)).collect::<Result<Vec<_>>>()?;
        let axis = match axis {
            Some(axis) => axis,
            None => self.integers(at, at.input(count)?)?.first().copied().unwrap_or(0),
        };
        let first = self.shape(at, at.input(0)?)?.to_vec();
        let axis = self.axis(at, axis, first.len())?;
        let inner: usize = first[axis + 1..].iter().product();
        let mut shape = first.clone();
        shape[axis] = 0;
        for &i in &operands {
            let other = self.shape(at, i)?;
            let same = other.len() == first.len() && (0..first.len()).all(|d| d == axis || other[d] == first[d]);
            if !same {
                return Err(at.error(format!("shapes {first:?} and {other:?} do not join along dimension {axis}")));
            }
            shape[axis] = shape[axis].saturating_add(other[axis]);
        }
        let (mut parts, mut from) = (Vec::with_capacity(count), 0);
        for &i in &operands {
            let len = self.shape(at, i)?[axis] * inner;
            parts.push((Simple::ConcatPart { len, total: shape[axis].saturating_mul(inner), from }, vec![i]));
            from += len;
        }
        self.simple(at, parts, at.output()?, shape)
    }

    fn pack(&mut self, at: At, axis: i64) -> Result<()> {
        let operands = (0..at.node.inputs.len()).map(|i| at.input(i)).collect::<Result<Vec<_>>>()?;
        let mut shape = self.shape(at, at.input(0)?)?.to_vec();
        let axis = self.axis(at, axis, shape.len() + 1)?;
        let len: usize = shape[axis..].iter().product();
        for &i in &operands {
            if self.shape(at, i)? != shape {
                return Err(at.error(format!("operands of shapes {shape:?} and {:?}", self.shape(at, i)?)));
            }
        }
        let total = len.saturating_mul(operands.len());
        let part = |(n, &i): (usize, &usize)| (Simple::ConcatPart { len, total, from: n * len }, vec![i]);
        let parts = operands.iter().enumerate().map(part).collect();
        shape.insert(axis, operands.len());
        self.simple(at, parts, at.output()?, shape)
    }

    fn unpack(&mut self, at: At, axis: i64) -> Result<()> {
        let x = at.input(0)?;
        let mut shape = self.shape(at, x)?.to_vec();
        let axis = self.axis(at, axis, shape.len())?;
        let count = shape.remove(axis);
        if at.node.outputs.len() > count {
            return Err(at.error(format!("{} outputs of {count} slices", at.node.outputs.len())));
        }
        let mut step = strides(self.shape(at, x)?);
        let slice = step.remove(axis);
        for (i, &output) in at.node.outputs.iter().enumerate() {
            let walk = walk(&shape, &step, i * slice as usize);
            self.simple(at, vec![(Simple::Walk(walk), vec![x])], output, shape.clone())?;
        }
        Ok(())
    }

    fn strided_slice(&mut self, at: At, masks: SliceMasks) -> Result<()> {
        let (x, output) = (at.input(0)?, at.output()?);
        let from = self.shape(at, x)?.to_vec();
        let [begin, end, stride] = [1, 2, 3].map(|i| at.input(i).and_then(|i| self.integers(at, i)));
        let (begin, end, stride) = (begin?, end?, stride?);
        let fits = begin.len() == end.len() && begin.len() == stride.len() && begin.len() <= from.len();
        if masks.ellipsis != 0 || masks.new_axis != 0 || !fits {
            return Err(
                at.error(format!("a slice {begin:?} to {end:?} by {stride:?} of {from:?}; ellipsis and new axes are not run"))
            );
        }
        let own = strides(&from);
        let (mut base, mut shape, mut step) = (0usize, Vec::new(), Vec::new());
        for d in 0..from.len() {
            let n = from[d] as i64;
            let bit = |mask: u32| d < begin.len() && mask >> d & 1 == 1;
            let by = stride.get(d).copied().unwrap_or(1);
            let place = |v: i64, lo: i64, hi: i64| (if v < 0 { v + n } else { v }).clamp(lo, hi);
            let (lo, hi) = if by > 0 { (0, n) } else { (-1, n - 1) };
            let whole = |mask: u32| d >= begin.len() || bit(mask);
            let start = if whole(masks.begin) { if by > 0 { 0 } else { n - 1 } } else { place(begin[d], lo, hi) };
            let stop = if whole(masks.end) { if by > 0 { n } else { -1 } } else { place(end[d], lo, hi) };
            let count = match by {
                _ if bit(masks.shrink) => i64::from((0..n).contains(&start)),
                1.. => (stop - start).max(0).div_euclid(by) + i64::from((stop - start).max(0).rem_euclid(by) > 0),
                i64::MIN..=-1 => (start - stop).max(0).div_euclid(-by) + i64::from((start - stop).max(0).rem_euclid(-by) > 0),
                0 => 0,
            };
            if count == 0 {
                return Err(at.error(format!("an empty slice {begin:?} to {end:?} by {stride:?} of {from:?}")));
            }
            base += start as usize * own[d] as usize;
            if !bit(masks.shrink) {
                shape.push(count as usize);
                step.push(own[d] * by as isize);
            }
        }
        let walk = walk(&shape, &step, base);
        if shape.len() > RANK || !walk.fits(from.iter().product()) {
            return Err(at.error("a slice that leaves its operand"));
        }
        self.simple(at, vec![(Simple::Walk(walk), vec![x])], output, shape)
    }
}

/// (.., n) to (n, ..): the innermost dimension becomes the outermost.
fn transpose(x: &[f32], n: usize) -> Vec<f32> {
    let k = x.len() / n;
    (0..x.len()).map(|i| x[i % k * n + i / k]).collect()
}

/// How `small` lies over `shape`, where its dimensions other than 1 are neighbours.
fn broadcast(shape: &[usize], small: &[usize]) -> Option<Broadcast> {
    let skip = shape.len().checked_sub(small.len())?;
    let equal: Vec<usize> = (0..small.len()).filter(|&d| small[d] != 1).map(|d| d + skip).collect();
    let (Some(&first), Some(&last)) = (equal.first(), equal.last()) else {
        return Some(Broadcast { inner: shape.iter().product::<usize>().max(1), period: 1 });
    };
    let same = (first..=last).all(|d| small[d - skip] == shape[d]);
    same.then(|| Broadcast { inner: shape[last + 1..].iter().product(), period: shape[first..=last].iter().product() })
}
