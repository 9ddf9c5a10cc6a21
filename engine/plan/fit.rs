//! The constants of the speed, by least squares from published figures of llama.cpp's CUDA backend (figures.json names the source of
//! each). Some figures are held out: other sizes and other GPUs than the fit saw. **Nothing of this was measured with this engine.**

use serde::{Deserialize, Serialize};

use super::{
    gpu::{self, Ram},
    predict::{Costs, kv_read},
    shape::Shape,
};
use crate::{Error, Result, config::Cache};

const FIGURES: &str = include_str!("figures.json");
/// Kernels of a layer in llama.cpp of early 2024, from its graph of a llama model without flash attention: two norms and their scales
/// (4), seven products and the quantization of their inputs (14), rotation (2), copies to the cache (2), scores, softmax and values
/// (3), a copy (1), activation and its product (2), two additions (2).
const NODES: [f64; 2] = [30.0, 23.0]; // quantized; f16, whose inputs are not quantized
/// Columns of the fit: seconds of the bytes at the peak of GDDR, of HBM, nodes, launches outside a graph, passes.
const COLUMNS: usize = 5;

#[derive(Deserialize)]
struct Figures {
    decode: Vec<Figure>,
    batch: Batch,
}

/// A published speed of decoding a sequence alone.
#[derive(Clone, Debug, Deserialize)]
struct Figure {
    gpu: String,
    model: String,
    tokens_per_second: f64,
    /// Mean position of the tokens.
    depth: u64,
    /// Whether CUDA graphs were used.
    graphs: bool,
    /// Whether it is kept from the fit.
    held: bool,
    source: String,
}

/// Published rows a second for passes of 1, 2, 3 .. rows.
#[derive(Deserialize)]
struct Batch {
    rows_per_second: Vec<f64>,
}

/// A figure beside what the fitted constants say.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// Id of the GPU.
    pub gpu: String,
    /// The model and its type.
    pub model: String,
    /// Published.
    pub tokens_per_second: f64,
    /// By the constants, with llama.cpp's number of kernels.
    pub predicted: f64,
    /// Whether it was kept from the fit.
    pub held: bool,
    /// Where it was published, and what was measured.
    pub source: String,
}

impl Checked {
    /// Prediction over figure, less one.
    pub fn error(&self) -> f64 {
        self.predicted / self.tokens_per_second - 1.0
    }
}

/// Constants, and what they are worth.
#[derive(Clone, Debug, Serialize)]
pub struct Fitted {
    /// The constants.
    pub costs: Costs,
    /// Every figure.
    pub figures: Vec<Checked>,
}

impl Fitted {
    /// Mean and largest of the absolute relative errors, of the figures that were fitted or of those held out; and their number.
    pub fn errors(&self, held: bool) -> (f64, f64, usize) {
        let errors: Vec<f64> = self.figures.iter().filter(|f| f.held == held).map(|f| f.error().abs()).collect();
        let n = errors.len();
        (errors.iter().sum::<f64>() / n.max(1) as f64, errors.iter().fold(0.0, |a, &b| b.max(a)), n)
    }
}

/// What each constant is multiplied by in a figure.
fn columns(figure: &Figure) -> Result<[f64; COLUMNS]> {
    let (gpu, shape) = (gpu::find(&figure.gpu)?, Shape::published(&figure.model)?);
    let config = &shape.config;
    let bytes = shape.weights.per_token(config.tied) + kv_read(config, 0..config.layers, figure.depth, Cache::F16);
    let seconds = bytes as f64 / gpu.bandwidth;
    let nodes = NODES[usize::from(figure.model.ends_with("f16"))] * config.layers as f64;
    let (gddr, hbm) = if gpu.ram == Ram::Gddr { (seconds, 0.0) } else { (0.0, seconds) };
    Ok([gddr, hbm, nodes, if figure.graphs { 0.0 } else { nodes }, 1.0])
}

/// Fits the constants.
///
/// # Errors
/// [`Error::Internal`] when the embedded figures cannot be read or tell too little.
pub fn fit() -> Result<Fitted> {
    let figures: Figures = serde_json::from_str(FIGURES).map_err(|e| Error::Internal(format!("figures.json: {e}")))?;
    let rows = figures.decode.iter().map(columns).collect::<Result<Vec<_>>>()?;
    // relative errors of the time: each row over the measured seconds, and 1 to be reached
    let scaled = |(f, row): (&Figure, &[f64; COLUMNS])| row.map(|v| v * f.tokens_per_second);
    let fitted: Vec<_> = figures.decode.iter().zip(&rows).filter(|(f, _)| !f.held).map(scaled).collect();
    let x = nonnegative(&fitted).ok_or_else(|| Error::Internal("figures.json: too few figures for a fit".into()))?;
    let [gddr, hbm, node, launch, host] = x;
    let costs = Costs {
        gddr_share: gddr.recip(),
        hbm_share: hbm.recip(),
        node_us: node * 1e6,
        launch_us: launch * 1e6,
        host_us: host * 1e6,
        row: row_cost(&figures.batch.rows_per_second),
    };
    let checked = |(f, row): (Figure, [f64; COLUMNS])| Checked {
        predicted: row.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>().recip(),
        gpu: f.gpu,
        model: f.model,
        tokens_per_second: f.tokens_per_second,
        held: f.held,
        source: f.source,
    };
    Ok(Fitted { costs, figures: figures.decode.into_iter().zip(rows).map(checked).collect() })
}

/// What a row more adds to the time of a pass, as a part of the time of one row: a line through (1 row, 1), by least squares.
fn row_cost(rows_per_second: &[f64]) -> f64 {
    let Some(first) = rows_per_second.first() else { return 0.0 };
    let points = rows_per_second.iter().enumerate().map(|(more, r)| (more as f64, (more + 1) as f64 * first / r - 1.0));
    let (xy, xx) = points.fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + x * y, xx + x * x));
    if xx > 0.0 { (xy / xx).max(0.0) } else { 0.0 }
}

/// The `x >= 0` that makes `sum (row x - 1)^2` least: of every choice of columns that may be above 0, the best whose solution is. The
/// first two (bytes) always are.
fn nonnegative(rows: &[[f64; COLUMNS]]) -> Option<[f64; COLUMNS]> {
    let loss = |x: &[f64; COLUMNS]| {
        rows.iter().map(|r| r.iter().zip(x).map(|(a, b)| a * b).sum::<f64>() - 1.0).map(|e| e * e).sum::<f64>()
    };
    let choices = (0..1u32 << (COLUMNS - 2)).map(|rest| 0b11 | rest << 2);
    let solved = choices.filter_map(|choice| least_squares(rows, choice)).filter(|x| x.iter().all(|v| *v >= 0.0));
    solved.min_by(|a, b| loss(a).total_cmp(&loss(b)))
}

/// Least squares over some columns, by the normal equations with pivoting; `None` where they are singular.
fn least_squares(rows: &[[f64; COLUMNS]], choice: u32) -> Option<[f64; COLUMNS]> {
    let used: Vec<usize> = (0..COLUMNS).filter(|c| choice >> c & 1 == 1).collect();
    let n = used.len();
    // columns are scaled to a length of 1: seconds and counts are many magnitudes apart
    let length = |c: usize| rows.iter().map(|r| r[c] * r[c]).sum::<f64>().sqrt();
    let lengths: Vec<f64> = used.iter().map(|&c| length(c)).collect();
    if lengths.contains(&0.0) {
        return None;
    }
    let mut a = vec![vec![0.0; n + 1]; n]; // (n, n + 1), the right side last
    for row in rows {
        let scaled: Vec<f64> = used.iter().zip(&lengths).map(|(&c, l)| row[c] / l).collect();
        for i in 0..n {
            for j in 0..n {
                a[i][j] += scaled[i] * scaled[j];
            }
            a[i][n] += scaled[i];
        }
    }
    for i in 0..n {
        let pivot = (i..n).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs()))?;
        a.swap(i, pivot);
        if a[i][i].abs() < 1e-12 {
            return None;
        }
        for k in (0..n).filter(|&k| k != i) {
            let factor = a[k][i] / a[i][i];
            for j in i..=n {
                a[k][j] -= factor * a[i][j];
            }
        }
    }
    let mut x = [0.0; COLUMNS];
    used.iter().enumerate().for_each(|(i, &c)| x[c] = a[i][n] / a[i][i] / lengths[i]);
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_squares_finds_what_made_the_data() {
        let truth = [1.3, 2.0, 3e-6, 0.0, 4e-4];
        let rows: Vec<[f64; COLUMNS]> = (1..20)
            .map(|i| {
                let f = f64::from(i);
                let bytes = 0.002 + 0.001 * (f * 1.7).sin().abs();
                let row = [
                    if i % 2 == 0 { bytes } else { 0.0 },
                    if i % 2 == 1 { bytes } else { 0.0 },
                    700.0 + 90.0 * (f * 2.3).cos(),
                    f64::from(i % 3) * 50.0,
                    1.0,
                ];
                let seconds: f64 = row.iter().zip(&truth).map(|(a, b)| a * b).sum();
                row.map(|v| v / seconds)
            })
            .collect();
        let x = nonnegative(&rows).unwrap();
        for (seen, wanted) in x.iter().zip(&truth) {
            assert!((seen - wanted).abs() < 1e-6 * wanted.max(1.0), "{x:?}");
        }
        assert!(nonnegative(&rows[..1]).is_none());
    }

    #[test]
    fn the_constants_are_possible_and_the_held_figures_are_met() {
        let fitted = fit().unwrap();
        let c = fitted.costs;
        for figure in &fitted.figures {
            let held = if figure.held { "held" } else { "fitted" };
            println!(
                "{:10} {:20} {held:6} {:7.1} {:7.1} {:+.1}%",
                figure.gpu,
                figure.model,
                figure.tokens_per_second,
                figure.predicted,
                100.0 * figure.error()
            );
        }
        println!("{c:?} {:?} {:?}", fitted.errors(false), fitted.errors(true));
        assert!((0.5..1.0).contains(&c.gddr_share) && (0.3..1.0).contains(&c.hbm_share), "{c:?}");
        assert!((0.0..10.0).contains(&c.node_us) && (0.05..0.12).contains(&c.row), "{c:?}");
        let ((mean, worst, n), (held_mean, held_worst, held)) = (fitted.errors(false), fitted.errors(true));
        assert!(n >= 20 && mean < 0.06 && worst < 0.2, "{n} fitted figures: {mean:.3}, at worst {worst:.3}");
        assert!(
            held >= 15 && held_mean < 0.12 && held_worst < 0.35,
            "{held} held figures: {held_mean:.3}, at worst {held_worst:.3}"
        );
    }
}
