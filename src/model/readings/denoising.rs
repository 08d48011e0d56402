//! Denoising errors of a network on noised data, for every reading of its outputs from the same
//! calls.
//!
//! The data x₀ are noised as y = x₀ + r·ε, where r = σ/α is the noise level. Every path takes a
//! multiple of y as its state. A reading turns state and output F into the denoiser
//! D = a·y + b·F, so that six inner products per row determine the errors ‖D − x₀‖² of all readings.

use ndarray::{Array1, Array2, Axis};

use crate::flow::field::EvalError;
use crate::model::network::Network;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::{Batch, linalg};

/// The number of rows below which samples are noised several times.
const MIN_ROWS: usize = 16;

/// The number of components of all rows below which samples are noised several times.
const MIN_COMPONENTS: usize = 2048;

/// The largest number of rows of one sample, if there are not too few samples.
const MAX_REPEATS: usize = 4;

/// The number of samples over which the errors of the best linear denoiser are averaged.
const MAX_LEFT_OUT: usize = 16;

/// The number of noise draws of one sample and one noise level that have addresses of their own.
const DRAWS_PER_LEVEL: u64 = 64;

/// Clean samples, each with one or more rows that get noise of their own.
pub(super) struct CleanRows {
    /// The number of each row's sample; the samples follow each other, and then again.
    samples: Vec<SampleId>,
    /// The number of different samples.
    distinct: usize,
    /// The clean states, rows × dim.
    clean: Batch,
    /// The mean of the variances of all components.
    pub(super) variance: f64,
}

impl CleanRows {
    /// Repeats a few samples until there are [`MIN_ROWS`] rows, and samples of few dimensions up to
    /// [`MAX_REPEATS`] times, since their errors scatter more. There must be at least two samples.
    pub(super) fn new(samples: &[SampleId], clean: &Batch) -> CleanRows {
        let distinct = samples.len();
        let scatter = MIN_COMPONENTS.div_ceil(clean.len().max(1)).min(MAX_REPEATS);
        let repeats = MIN_ROWS.div_ceil(distinct).max(scatter);
        let rows: Vec<usize> = (0..repeats).flat_map(|_| 0..distinct).collect();
        let mean = clean.mean_axis(Axis(0)).expect("at least one sample");
        let spread = (clean - &mean).mapv(|v| v * v).sum();
        CleanRows {
            samples: rows.iter().map(|i| samples[*i]).collect(),
            distinct,
            variance: spread / ((distinct - 1).max(1) * clean.ncols()) as f64,
            clean: clean.select(Axis(0), &rows),
        }
    }

    /// The number of different samples.
    pub(super) fn distinct(&self) -> usize {
        self.distinct
    }

    /// The mean square of all components.
    pub(super) fn mean_square(&self) -> f64 {
        self.clean.mapv(|v| v * v).mean().unwrap_or_default()
    }

    /// The lowest and the highest component.
    pub(super) fn range(&self) -> [f64; 2] {
        self.clean
            .iter()
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| {
                [low.min(*v), high.max(*v)]
            })
    }

    /// The mean square error per component of the best constant predictor of each sample, the mean
    /// of the other samples.
    pub(super) fn constant_error(&self) -> f64 {
        let n = self.distinct as f64;
        self.variance * n / (n - 1.0)
    }

    /// The standard normal noise of every row at the noise level of this number.
    pub(super) fn noise(&self, level: usize) -> Batch {
        let mut noise = Batch::zeros(self.clean.raw_dim());
        for (i, mut row) in noise.rows_mut().into_iter().enumerate() {
            let draw = level as u64 * DRAWS_PER_LEVEL + (i / self.distinct) as u64;
            let dim = row.len();
            row.assign(&RngKey { seed: 0 }.normal(Purpose::Reading, self.samples[i], draw, dim));
        }
        noise
    }

    /// The mean square error per component of a denoiser that knows only the mean of the samples
    /// and this variance, on the same noised rows as the network.
    pub(super) fn baseline_error(&self, level: usize, ratio: f64, variance: f64) -> f64 {
        let mean = self.clean.mean_axis(Axis(0)).expect("at least one row");
        let gain = variance / (variance + ratio * ratio);
        let centred = &self.clean - &mean;
        let error = &centred * (gain - 1.0) + self.noise(level) * (ratio * gain);
        error.mapv(|e| e * e).mean().unwrap_or_default()
    }

    /// Averages values of rows over the rows of each sample.
    fn by_sample(&self, rows: &[f64]) -> Vec<f64> {
        let repeats = (rows.len() / self.distinct) as f64;
        (0..self.distinct)
            .map(|i| rows.iter().skip(i).step_by(self.distinct).sum::<f64>() / repeats)
            .collect()
    }
}

/// How the network is called for one reading of its inputs at one noise level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct InputValues {
    /// The noise level σ/α of the card's data.
    pub(super) ratio: f64,
    /// The factor of y in the network's input.
    pub(super) factor: f64,
    /// The value of the time input.
    pub(super) fed: f64,
    /// The scale and the shift that turn the data into those of the network.
    pub(super) data: [f64; 2],
}

/// The inner products of the output F, the noised state y and the clean state x₀ of one row.
#[derive(Debug, Clone, Copy)]
struct RowProducts {
    ff: f64,
    fy: f64,
    fx: f64,
    yy: f64,
    yx: f64,
    xx: f64,
}

impl RowProducts {
    /// ‖a·y + b·F − x₀‖².
    fn square_error(&self, a: f64, b: f64) -> f64 {
        let output = b * (b * self.ff + 2.0 * (a * self.fy - self.fx));
        let error = a * (a * self.yy - 2.0 * self.yx) + self.xx + output;
        // Rounding may leave a small negative number; an output that is not finite leaves NaN.
        if error < 0.0 { 0.0 } else { error }
    }
}

/// What one evaluation of the network tells of every reading of its output.
pub(super) struct OutputProducts {
    /// The products of each row with its own output.
    own: Vec<RowProducts>,
    /// The products of each row with the output of another sample's row.
    shuffled: Vec<RowProducts>,
    /// The square of the scale of the data, times the dimension.
    unit: f64,
}

impl OutputProducts {
    /// Evaluates the network on the noised rows. The calls have at most `batch` rows.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    pub(super) fn evaluate(
        network: &mut Network,
        batch: usize,
        rows: &CleanRows,
        noise: &Batch,
        at: InputValues,
    ) -> Result<OutputProducts, EvalError> {
        let [scale, shift] = at.data;
        let clean = rows.clean.mapv(|v| scale * v + shift);
        let noised = &clean + &(noise * (scale * at.ratio));
        let state = &noised * at.factor;
        let mut output = Batch::zeros(state.raw_dim());
        let all: Vec<usize> = (0..state.nrows()).collect();
        for part in all.chunks(batch.max(1)) {
            let samples: Vec<SampleId> = part.iter().map(|i| rows.samples[*i]).collect();
            let found =
                network.output_at_time_value(&samples, at.fed, &state.select(Axis(0), part))?;
            part.iter()
                .zip(found.rows())
                .for_each(|(i, row)| output.row_mut(*i).assign(&row));
        }
        let products = |offset: usize| {
            let n = output.nrows();
            (0..n)
                .map(|i| {
                    let (f, y, x) = (output.row((i + offset) % n), noised.row(i), clean.row(i));
                    RowProducts {
                        ff: f.dot(&f),
                        fy: f.dot(&y),
                        fx: f.dot(&x),
                        yy: y.dot(&y),
                        yx: y.dot(&x),
                        xx: x.dot(&x),
                    }
                })
                .collect()
        };
        Ok(OutputProducts {
            own: products(0),
            shuffled: products(1),
            unit: scale * scale * clean.ncols() as f64,
        })
    }

    /// The errors per component of the denoiser a·y + b·F, in the units of the card's data.
    pub(super) fn errors(&self, rows: &CleanRows, a: f64, b: f64, cap: f64) -> LevelErrors {
        let square = |products: &RowProducts| {
            let error = products.square_error(a, b) / self.unit;
            if error.is_finite() {
                error
            } else {
                f64::INFINITY
            }
        };
        let plain: Vec<f64> = self.own.iter().map(square).collect();
        let capped: Vec<f64> = plain.iter().map(|e| e.min(cap)).collect();
        let shuffled = self.shuffled.iter().map(|row| square(row).min(cap));
        LevelErrors {
            mean: plain.iter().sum::<f64>() / plain.len() as f64,
            shuffled: shuffled.sum::<f64>() / plain.len() as f64,
            samples: rows.by_sample(&capped),
        }
    }
}

/// The denoising errors of one reading at one noise level, per component.
#[derive(Debug, Clone)]
pub(super) struct LevelErrors {
    /// The mean over all rows.
    pub(super) mean: f64,
    /// The mean error of each sample, in which no row counts more than the cap.
    pub(super) samples: Vec<f64>,
    /// The mean error with the outputs of other rows, in which no row counts more than the cap.
    pub(super) shuffled: f64,
}

/// The mean square errors per component of the best linear denoiser, by noise level: for each
/// sample the posterior mean under a normal distribution with the mean and the covariance of the
/// other samples.
pub(super) fn linear_denoiser_errors(rows: &CleanRows, ratios: &[f64]) -> Vec<f64> {
    let n = rows.distinct;
    let clean = rows.clean.slice(ndarray::s![..n, ..]);
    let mean = clean.mean_axis(Axis(0)).expect("at least one sample");
    // Inner products of data less one common vector are enough: the means are subtracted below.
    let clean = &clean - &mean;
    let gram = linalg::matmul(clean.view(), clean.t());
    let left_out: Vec<usize> = (0..n).step_by(n.div_ceil(MAX_LEFT_OUT)).collect();
    let by_level = |(level, ratio): (usize, &f64)| {
        let noise = rows.noise(level);
        let noised = &clean + &(&noise.slice(ndarray::s![..n, ..]) * *ratio);
        let with_noised = linalg::matmul(clean.view(), noised.t());
        let errors = left_out
            .iter()
            .map(|i| left_out_error(*i, &gram, &with_noised, *ratio));
        errors.sum::<f64>() / (left_out.len() * clean.ncols()) as f64
    };
    ratios.iter().enumerate().map(by_level).collect()
}

/// ‖D − x₀‖² of sample `i` for the normal distribution of the other samples. `gram` has the inner
/// products of the clean samples, and `with_noised` those of clean with noised ones.
fn left_out_error(i: usize, gram: &Array2<f64>, with_noised: &Array2<f64>, ratio: f64) -> f64 {
    let others: Vec<usize> = (0..gram.nrows()).filter(|j| *j != i).collect();
    let m = others.len() as f64;
    let gram_of = gram.select(Axis(0), &others).select(Axis(1), &others);
    let row_mean = gram_of.mean_axis(Axis(1)).expect("other samples");
    let all_mean = row_mean.mean().unwrap_or_default();
    // The products of the centred others Z with each other, and with sample i less their mean.
    let centred = &gram_of - &row_mean - row_mean.view().insert_axis(Axis(1)) + all_mean;
    let against = |products: Array1<f64>| {
        let mean = products.mean().unwrap_or_default();
        products - &row_mean - mean + all_mean
    };
    let clean = against(gram.column(i).select(Axis(0), &others));
    let noised = against(with_noised.column(i).select(Axis(0), &others));
    let own = gram[[i, i]]
        - 2.0
            * gram
                .column(i)
                .select(Axis(0), &others)
                .mean()
                .unwrap_or(0.0)
        + all_mean;
    let mut system = &centred / (m - 1.0).max(1.0);
    system.diag_mut().mapv_inplace(|v| v + ratio * ratio);
    let weights = linalg::solve_lu(system.view(), noised.view()) / (m - 1.0).max(1.0);
    (own - 2.0 * weights.dot(&clean) + weights.dot(&centred.dot(&weights))).max(0.0)
}
