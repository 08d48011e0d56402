//! The noise of random steps, as a function of an interval of noise levels.
//!
//! A random step from λ to λ' with λ = ln(α/σ) adds noise. In x/α, the exact solution of the
//! reverse SDE with a constant denoiser adds (σ'/α')² (M(λ') − M(λ)), where M is a Brownian motion
//! with the clock e^{2λ} = (α/σ)². One motion M for each sample therefore gives the noise of every
//! grid: two short steps add what one long step adds, and samplers with different numbers of steps
//! can be compared sample by sample.
//!
//! M is built by bisection of a fixed range of λ (a Brownian tree). Its value at the middle of an
//! interval is drawn conditionally on its values at the ends. The draw is addressed by the seed, the
//! sample, the level of the bisection and the index of the interval. No value depends on the grid,
//! on the batch, or on the order in which values are asked for.

use ndarray::{Array1, Array3, ArrayView1};

use crate::flow::field::EvalError;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId};

/// The range of λ = ln(α/σ) that is bisected goes from −`RANGE` to `RANGE`. Noise levels beyond it
/// differ from α = 0 or σ = 0 by less than rounding.
const RANGE: f64 = 20.0;

/// The number of bisections. Within the last intervals, of 2.4e-6 in λ, M is linear in its clock.
const LEVELS: u32 = 24;

/// The interval for which noise is drawn, and its place among the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NoiseInterval {
    /// The number of the step, from 0.
    pub(super) step: usize,
    /// The number of the draw within the step: 0 for the first, and 1 for the noise at the end of a
    /// step that adds noise before its second evaluation too.
    pub(super) stage: usize,
    /// The number of draws of every step.
    pub(super) stages: usize,
    /// λ at the beginning of the interval. It is −∞ if α is 0.
    pub(super) from: f64,
    /// λ at the end of the interval. It is ∞ if σ is 0.
    pub(super) to: f64,
}

/// A source of the noise of random steps.
pub(super) trait StepNoise {
    /// Standard normal noise for the interval, a row for each sample.
    ///
    /// # Errors
    /// Fails if the source has no noise for this interval.
    fn draw_for(&mut self, interval: &NoiseInterval) -> Result<Batch, EvalError>;
}

/// A point of the clock between two neighbouring nodes of the tree.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ClockPoint {
    /// λ at the lower node.
    low: f64,
    /// λ at the upper node.
    high: f64,
    /// Where the point lies between the nodes, from 0 to 1 in the clock.
    share: f64,
}

/// The increase of the clock e^{2λ} from `low` to `high`.
fn clock_increase(low: f64, high: f64) -> f64 {
    (2.0 * low).exp() * (2.0 * (high - low)).exp_m1()
}

impl ClockPoint {
    /// The variance of M(other) − M(self), for a point that is not before this one.
    fn increment_variance(&self, other: &ClockPoint) -> f64 {
        let cell = clock_increase(self.low, self.high);
        if self.low == other.low {
            return (other.share - self.share).powi(2) * cell;
        }
        (1.0 - self.share).powi(2) * cell
            + clock_increase(self.high, other.low)
            + other.share.powi(2) * clock_increase(other.low, other.high)
    }
}

/// The Brownian motions of some samples, addressed by the seed.
pub(super) struct BrownianNoise<'a> {
    key: RngKey,
    samples: &'a [SampleId],
    dim: usize,
    /// The values at the end of the last interval, at which the next one begins as a rule.
    last: Option<(f64, ClockPoint, Batch)>,
}

impl<'a> BrownianNoise<'a> {
    /// The motions of `samples` with `dim` components each.
    pub(super) fn new(key: RngKey, samples: &'a [SampleId], dim: usize) -> BrownianNoise<'a> {
        BrownianNoise {
            key,
            samples,
            dim,
            last: None,
        }
    }

    /// One draw of the tree.
    fn node_draw(&self, sample: SampleId, level: u32, index: u64) -> Array1<f64> {
        self.key
            .normal_at(Purpose::Brownian, sample, u64::from(level), index, self.dim)
    }

    /// M of one sample at λ.
    fn value(&self, sample: SampleId, lambda: f64) -> (ClockPoint, Array1<f64>) {
        let (mut low, mut high, mut index) = (-RANGE, RANGE, 0u64);
        let mut at_low = Array1::zeros(self.dim);
        let mut at_high = self.node_draw(sample, 0, 0) * clock_increase(low, high).sqrt();
        for level in 1..=LEVELS {
            let middle = 0.5 * (low + high);
            let (before, after) = (clock_increase(low, middle), clock_increase(middle, high));
            let all = before + after;
            let mut at_middle = self.node_draw(sample, level, index);
            at_middle *= (before * (after / all)).sqrt();
            at_middle.scaled_add(after / all, &at_low);
            at_middle.scaled_add(before / all, &at_high);
            index *= 2;
            if lambda < middle {
                (high, at_high) = (middle, at_middle);
            } else {
                (low, at_low) = (middle, at_middle);
                index += 1;
            }
        }
        let share = clock_increase(low, lambda) / clock_increase(low, high);
        at_low *= 1.0 - share;
        at_low.scaled_add(share, &at_high);
        (ClockPoint { low, high, share }, at_low)
    }

    /// M of every sample at λ.
    fn values(&mut self, lambda: f64) -> (ClockPoint, Batch) {
        let lambda = lambda.clamp(-RANGE, RANGE);
        if let Some((at, point, values)) = &self.last
            && *at == lambda
        {
            return (*point, values.clone());
        }
        let mut point = ClockPoint {
            low: lambda,
            high: lambda,
            share: 0.0,
        };
        let mut values = Batch::zeros((self.samples.len(), self.dim));
        for (mut row, sample) in values.rows_mut().into_iter().zip(self.samples) {
            let (at, value) = self.value(*sample, lambda);
            point = at;
            row.assign(&value);
        }
        (point, values)
    }
}

impl StepNoise for BrownianNoise<'_> {
    fn draw_for(&mut self, interval: &NoiseInterval) -> Result<Batch, EvalError> {
        let (from, before) = self.values(interval.from);
        let (to, after) = self.values(interval.to);
        let std = from.increment_variance(&to).sqrt();
        let noise = (&after - &before) / std;
        // An interval without length has no increment of its own.
        let noise = if std > 0.0 && interval.from < interval.to {
            noise
        } else {
            let mut fresh = Batch::zeros(noise.raw_dim());
            let draw = (interval.step * interval.stages + interval.stage) as u64;
            for (mut row, sample) in fresh.rows_mut().into_iter().zip(self.samples) {
                row.assign(&self.key.normal(Purpose::Churn, *sample, draw, self.dim));
            }
            fresh
        };
        // The first of two draws of a step begins where the second one begins.
        self.last = if interval.stage + 1 == interval.stages {
            Some((interval.to.clamp(-RANGE, RANGE), to, after))
        } else {
            Some((interval.from.clamp(-RANGE, RANGE), from, before))
        };
        Ok(noise)
    }
}

/// Noise that a caller gives, such as the noise that another program used.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayedNoise {
    /// Standard normal noise, draws × samples × dim. Step i takes draw i, or the draws 2i and
    /// 2i + 1 if the sampler draws twice in every step. Row i belongs to sample i.
    pub draws: Array3<f64>,
}

impl ReplayedNoise {
    /// The noise of some samples.
    pub(super) fn for_samples<'a>(&'a self, samples: &'a [SampleId]) -> ReplayedRows<'a> {
        ReplayedRows {
            noise: self,
            samples,
        }
    }
}

/// The rows of given noise that belong to some samples.
pub(super) struct ReplayedRows<'a> {
    noise: &'a ReplayedNoise,
    samples: &'a [SampleId],
}

impl StepNoise for ReplayedRows<'_> {
    fn draw_for(&mut self, interval: &NoiseInterval) -> Result<Batch, EvalError> {
        let draw = interval.step * interval.stages + interval.stage;
        let (draws, rows, dim) = self.noise.draws.dim();
        if draw >= draws {
            return Err(EvalError::Missing(format!(
                "the noise of the steps has {draws} draws, but step {} takes draw {}; expected \
                 {} for every step",
                interval.step + 1,
                draw + 1,
                interval.stages
            )));
        }
        let mut noise = Batch::zeros((self.samples.len(), dim));
        for (mut row, sample) in noise.rows_mut().into_iter().zip(self.samples) {
            let index = *sample as usize;
            if index >= rows {
                return Err(EvalError::Missing(format!(
                    "the noise of the steps has {rows} rows, but sample {index} is drawn"
                )));
            }
            let given: ArrayView1<f64> = self.noise.draws.slice(ndarray::s![draw, index, ..]);
            row.assign(&given);
        }
        Ok(noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(from: f64, to: f64) -> NoiseInterval {
        NoiseInterval {
            step: 0,
            stage: 0,
            stages: 1,
            from,
            to,
        }
    }

    fn increment(from: f64, to: f64, samples: &[SampleId], dim: usize) -> Batch {
        let mut noise = BrownianNoise::new(RngKey { seed: 4 }, samples, dim);
        let drawn = noise.draw_for(&interval(from, to)).expect("right");
        drawn * clock_increase(from, to).sqrt()
    }

    /// The increments over two parts sum to the increment over the whole.
    #[test]
    fn increments_add_up_whatever_the_grid() {
        let whole = increment(-3.1, 2.4, &[0, 7], 3);
        let sum: Batch = [-3.1, -1.0, 0.25, 1.7, 2.4]
            .windows(2)
            .map(|w| increment(w[0], w[1], &[0, 7], 3))
            .fold(Batch::zeros((2, 3)), |a, b| a + b);
        for (a, b) in whole.iter().zip(&sum) {
            // Inside the smallest intervals M is linear, which changes variances by 1e-6.
            assert!((a - b).abs() < 1e-4 * clock_increase(-3.1, 2.4).sqrt());
        }
        let mut along = BrownianNoise::new(RngKey { seed: 4 }, &[0, 7], 3);
        let first = along.draw_for(&interval(-3.1, -1.0)).expect("right");
        let second = along.draw_for(&interval(-1.0, 2.4)).expect("right");
        let mut alone = BrownianNoise::new(RngKey { seed: 4 }, &[7], 3);
        let direct = alone.draw_for(&interval(-1.0, 2.4)).expect("right");
        assert_eq!(second.row(1), direct.row(0));
        assert_ne!(first.row(1), second.row(1));
    }

    #[test]
    fn increments_are_standard_normal_and_independent() {
        let samples: Vec<SampleId> = (0..60).collect();
        let mut noise = BrownianNoise::new(RngKey { seed: 9 }, &samples, 100);
        let ends = [f64::NEG_INFINITY, -4.0, 0.01, 0.02, 5.0, f64::INFINITY];
        let draws: Vec<Batch> = ends
            .windows(2)
            .map(|w| noise.draw_for(&interval(w[0], w[1])).expect("right"))
            .collect();
        let n = 6000.0f64;
        for (i, a) in draws.iter().enumerate() {
            let mean = a.sum() / n;
            let variance = a.iter().map(|z| z * z).sum::<f64>() / n;
            assert!(mean.abs() < 4.0 / n.sqrt(), "{i}: {mean}");
            assert!(
                (variance - 1.0).abs() < 4.0 * (2.0 / n).sqrt(),
                "{i}: {variance}"
            );
            for b in &draws[..i] {
                let product = (a * b).sum() / n;
                assert!(product.abs() < 4.0 / n.sqrt(), "{i}: {product}");
            }
        }
    }

    #[test]
    fn replayed_noise_is_taken_by_step_and_sample() {
        let draws = Array3::from_shape_fn((4, 3, 2), |(k, i, j)| (100 * k + 10 * i + j) as f64);
        let given = ReplayedNoise { draws };
        let at = |step, stage, stages| NoiseInterval {
            step,
            stage,
            stages,
            from: 0.0,
            to: 1.0,
        };
        let samples = [2, 0];
        let mut rows = given.for_samples(&samples);
        let drawn = rows.draw_for(&at(1, 1, 2)).expect("there");
        assert_eq!(drawn, ndarray::array![[320.0, 321.0], [300.0, 301.0]]);
        let refused = rows.draw_for(&at(4, 0, 1)).expect_err("none").to_string();
        assert!(refused.contains("4 draws"), "{refused}");
        let refused = given.for_samples(&[3]).draw_for(&at(0, 0, 1));
        assert!(refused.expect_err("none").to_string().contains("3 rows"));
    }
}
