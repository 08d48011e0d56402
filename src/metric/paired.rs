//! The difference of one statistic between two sets of samples that belong together, row by row.
//!
//! Sample i of both sets began at the same noise, and both sets meet the same reference: what they share moves both
//! statistics alike and cancels in the difference. Its error is that of the differences of influences, over the
//! generated samples and over the reference, which are independent; of statistics that rest on neighbours, that of
//! the differences on random parts; and of others a jackknife's.

use ndarray::{Array2, Axis};

use super::feature_set::FeatureSet;
use super::random_groups::RandomDivisions;
use super::{Metric, measure};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// Blocks of the jackknife: samples that are left out together, the same of both sets.
const JACKKNIFE_BLOCKS: usize = 20;

/// Degrees of freedom of an error from random parts. Over repeated draws of 160 pairs and 120 reference samples the
/// variances of precision, recall and coverage vary as those of 3, 6 and 7 degrees do (2/CV²), those of density and
/// authenticity as of 23 and 55: theirs are intervals that are wider than they need be.
const PARTS_DEGREES_OF_FREEDOM: usize = 6;

/// Fewest samples of a side, two in each block.
pub const MIN_SAMPLES_PER_SIDE: usize = 2 * JACKKNIFE_BLOCKS;

/// How an error was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairedErrorMethod {
    /// From first-order influences.
    Influence,
    /// From random halves and quarters of the pairs and of the reference.
    Parts,
    /// By leaving out one in twenty samples at a time, of the pairs and then of the reference.
    Jackknife,
}

impl PairedErrorMethod {
    /// As tables print it.
    pub fn as_str(self) -> &'static str {
        match self {
            PairedErrorMethod::Influence => "influence",
            PairedErrorMethod::Parts => "parts",
            PairedErrorMethod::Jackknife => "jackknife",
        }
    }

    /// The method that a table's row names.
    pub fn from_name(name: &str) -> Option<PairedErrorMethod> {
        [
            PairedErrorMethod::Influence,
            PairedErrorMethod::Parts,
            PairedErrorMethod::Jackknife,
        ]
        .into_iter()
        .find(|method| method.as_str() == name)
    }

    /// Half the width of the 95 % interval of a difference, where `n` is the smaller number of pairs and reference
    /// samples: Student's t with the degrees of freedom that the standard error itself has.
    pub fn half_width(self, stderr: f64, n: usize) -> f64 {
        let values = match self {
            PairedErrorMethod::Influence => n,
            PairedErrorMethod::Parts => n.min(1 + PARTS_DEGREES_OF_FREEDOM),
            PairedErrorMethod::Jackknife => n.min(JACKKNIFE_BLOCKS),
        };
        stats::confidence_half_width(stderr, Some(values), 0.95)
    }
}

/// One side's rows, in the order in which they came.
#[derive(Clone, Copy)]
pub struct FeatureRows<'a> {
    pub features: &'a Array2<f64>,
    /// Where the extractor classifies.
    pub logits: Option<&'a Array2<f64>>,
}

impl<'a> FeatureRows<'a> {
    pub fn len(&self) -> usize {
        self.features.nrows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn feature_set(&self) -> Result<FeatureSet<'a>, String> {
        Ok(FeatureSet::new(self.features)?.with_logits(self.logits.map(|l| l.view())))
    }
}

/// The statistic of the one set less that of the other.
///
/// # Errors
/// What the statistic says, or a sentence about too few samples.
pub fn paired_difference(
    metric: &Metric,
    sets: [FeatureRows; 2],
    reference: FeatureRows,
    key: RngKey,
) -> Result<(Estimate, PairedErrorMethod), String> {
    let pairs = sets[0].len();
    if pairs < MIN_SAMPLES_PER_SIDE || reference.len() < MIN_SAMPLES_PER_SIDE {
        return Err(format!(
            "{pairs} pairs of finite samples and {} of the reference, expected at least {MIN_SAMPLES_PER_SIDE} of each",
            reference.len()
        ));
    }
    let y = reference.feature_set()?;
    if let Some(found) = difference_on_parts(metric, sets, &y, key)? {
        return Ok((found, PairedErrorMethod::Parts));
    }
    let of = |set: FeatureRows| -> Result<_, String> {
        let x = set.feature_set()?;
        Ok((
            measure(metric, &x, &y, key)?.value,
            metric.influences(&x, &y, key)?,
        ))
    };
    let [(one, of_one), (other, of_other)] = [of(sets[0])?, of(sets[1])?];
    let (variance, method) = match (of_one, of_other) {
        (Some(a), Some(b)) => {
            let shares = [(a.generated, b.generated), (a.reference, b.reference)];
            (
                shares
                    .iter()
                    .map(|(a, b)| squared_stderr_of_mean(a.iter().zip(b).map(|(a, b)| a - b)))
                    .sum(),
                PairedErrorMethod::Influence,
            )
        }
        _ => (
            jackknife_difference_variance(metric, sets, reference, key)?,
            PairedErrorMethod::Jackknife,
        ),
    };
    Ok((
        Estimate {
            value: one - other,
            stderr: Some(f64::sqrt(variance)),
            n: pairs,
        },
        method,
    ))
}

/// By parts, where the statistic has them: pairs stay together, whatever their order.
fn difference_on_parts(
    metric: &Metric,
    sets: [FeatureRows; 2],
    y: &FeatureSet,
    key: RngKey,
) -> Result<Option<Estimate>, String> {
    let [one, other] = [sets[0].feature_set()?, sets[1].feature_set()?];
    let Some(mut parts) = RandomDivisions::draw(one.len(), y.len(), metric.min_part_size(), key)
    else {
        return Ok(None);
    };
    metric.check(one.len(), y.len())?;
    let Some(of_one) = metric.replicates_on_parts(&one, y, &parts)? else {
        return Ok(None);
    };
    parts.generated = other.in_hash_order(&one.in_input_order(&parts.generated));
    let Some(of_other) = metric.replicates_on_parts(&other, y, &parts)? else {
        return Ok(None);
    };
    let Some(difference) = of_one.minus(&of_other) else {
        return Ok(None);
    };
    Ok(Some(Estimate {
        value: difference.whole(),
        stderr: difference.stderr(),
        n: one.len(),
    }))
}

/// The squared standard error of a mean.
fn squared_stderr_of_mean(values: impl Iterator<Item = f64>) -> f64 {
    stats::mean_estimate(&values.collect::<Vec<_>>())
        .and_then(|m| m.stderr)
        .map_or(0.0, |e| e * e)
}

/// The variance of the difference that leaving out blocks of pairs, and then of the reference, shows.
fn jackknife_difference_variance(
    metric: &Metric,
    sets: [FeatureRows; 2],
    reference: FeatureRows,
    key: RngKey,
) -> Result<f64, String> {
    let difference = |sets: [FeatureRows; 2], reference: FeatureRows| -> Result<f64, String> {
        let y = reference.feature_set()?;
        let value =
            |set: FeatureRows| measure(metric, &set.feature_set()?, &y, key).map(|e| e.value);
        Ok(value(sets[0])? - value(sets[1])?)
    };
    let pairs = |block: usize| {
        let [one, other] = sets.map(|set| JackknifeRows::without_block(set, block));
        difference([one.rows(), other.rows()], reference)
    };
    let references =
        |block: usize| difference(sets, JackknifeRows::without_block(reference, block).rows());
    let pairs: Vec<f64> = (0..JACKKNIFE_BLOCKS).map(pairs).collect::<Result<_, _>>()?;
    let references: Vec<f64> = (0..JACKKNIFE_BLOCKS)
        .map(references)
        .collect::<Result<_, _>>()?;
    Ok(jackknife_variance(&pairs) + jackknife_variance(&references))
}

/// What is left of one side.
struct JackknifeRows {
    features: Array2<f64>,
    logits: Option<Array2<f64>>,
}

impl JackknifeRows {
    fn without_block(rows: FeatureRows, block: usize) -> JackknifeRows {
        let kept: Vec<usize> = (0..rows.len())
            .filter(|i| i % JACKKNIFE_BLOCKS != block)
            .collect();
        let of = |x: &Array2<f64>| x.select(Axis(0), &kept);
        JackknifeRows {
            features: of(rows.features),
            logits: rows.logits.map(of),
        }
    }

    fn rows(&self) -> FeatureRows<'_> {
        FeatureRows {
            features: &self.features,
            logits: self.logits.as_ref(),
        }
    }
}

/// The variance from estimates that each leave one of B blocks out: (B − 1)/B · Σ (θ_b − θ̄)².
fn jackknife_variance(parts: &[f64]) -> f64 {
    let count = parts.len() as f64;
    let mean = parts.iter().sum::<f64>() / count;
    (count - 1.0) / count * parts.iter().map(|p| (p - mean).powi(2)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal_samples;

    fn paired(
        metric: &Metric,
        [one, other, y]: &[Array2<f64>; 3],
        seed: u64,
    ) -> Result<(Estimate, PairedErrorMethod), String> {
        let rows = |x| FeatureRows {
            features: x,
            logits: Some(x),
        };
        paired_difference(metric, [rows(one), rows(other)], rows(y), RngKey { seed })
    }

    /// Pairs that have most in common, and a reference, everything drawn anew for each seed.
    fn drawn(seed: u64, n: usize, m: usize, shift: f64) -> [Array2<f64>; 3] {
        let one = normal_samples(3 * seed + 1, n, 3, shift, 1.0);
        let other = &one * 1.1 + normal_samples(3 * seed + 2, n, 3, 0.05, 0.1);
        [one, other, normal_samples(3 * seed + 3, m, 3, 0.0, 1.2)]
    }

    /// Of a mean over blocks of one, the jackknife is the usual standard error.
    #[test]
    fn jackknife_of_mean_matches_stderr() {
        let values = [0.3, -1.2, 2.5, 0.7, 1.1, -0.4];
        let sum: f64 = values.iter().sum();
        let parts: Vec<f64> = values.iter().map(|v| (sum - v) / 5.0).collect();
        assert!(
            (jackknife_variance(&parts) - squared_stderr_of_mean(values.into_iter())).abs() < 1e-15
        );
    }

    /// 95 % intervals of the difference hold its mean over many draws of everything, by either way.
    #[test]
    fn paired_difference_stderr_matches_spread() {
        let sliced = crate::metric::sliced_wasserstein::SlicedWasserstein {
            projections: 16,
            p: 2.0,
        };
        for (metric, repeats) in [
            (Metric::Frechet(Default::default()), 300),
            (Metric::Kernel(Default::default()), 300),
            (Metric::Energy(Default::default()), 300),
            (Metric::SlicedWasserstein(sliced), 60),
            (Metric::Precision(Default::default()), 200),
            (Metric::Recall(Default::default()), 200),
            (Metric::Density(Default::default()), 200),
            (Metric::Coverage(Default::default()), 200),
            (Metric::Authenticity(Default::default()), 200),
        ] {
            let found: Vec<(Estimate, PairedErrorMethod)> = (0..repeats)
                .map(|seed| paired(&metric, &drawn(seed, 160, 120, 0.3), seed).expect("fine"))
                .collect();
            let method = match metric {
                Metric::Frechet(_) | Metric::Kernel(_) | Metric::Energy(_) => {
                    PairedErrorMethod::Influence
                }
                Metric::SlicedWasserstein(_) => PairedErrorMethod::Jackknife,
                _ => PairedErrorMethod::Parts,
            };
            assert!(found.iter().all(|(_, found)| *found == method));
            let values: Vec<f64> = found.iter().map(|(e, _)| e.value).collect();
            let errors: Vec<f64> = found.iter().filter_map(|(e, _)| e.stderr).collect();
            let mean = stats::mean_estimate(&values).expect("many");
            let spread = mean.stderr.expect("many") * (repeats as f64).sqrt();
            let claimed = stats::rms(&errors).expect("many");
            let half = |e: &Estimate| method.half_width(e.stderr.unwrap_or(0.0), 120);
            let inside =
                |(e, _): &&(Estimate, PairedErrorMethod)| (e.value - mean.value).abs() <= half(e);
            let share = found.iter().filter(inside).count() as f64 / repeats as f64;
            // Four binomial standard errors below 95 %.
            let least = 0.95 - 4.0 * (0.95 * 0.05 / repeats as f64).sqrt();
            let variances: Vec<f64> = errors.iter().map(|e| e * e).collect();
            let variance = stats::mean_estimate(&variances).expect("many");
            let relative =
                variance.stderr.expect("many") * (repeats as f64).sqrt() / variance.value;
            println!(
                "{}: claimed / spread {:.3}, coverage {share:.3}, degrees of freedom {:.0}",
                metric.name(),
                claimed / spread,
                2.0 / relative.powi(2)
            );
            assert!(
                (claimed / spread - 1.0).abs() < 0.25 && share > least,
                "{}: {claimed} {spread} {share}",
                metric.name()
            );
        }
    }

    /// What is common to both sets cancels: of equal sets nothing is left, and of close ones little.
    #[test]
    fn pairing_reduces_stderr() {
        let [x, near, y] = drawn(4, 100, 100, 0.2);
        let metric = Metric::Frechet(Default::default());
        let (none, _) = paired(&metric, &[x.clone(), x.clone(), y.clone()], 0).expect("fine");
        assert_eq!((none.value, none.stderr), (0.0, Some(0.0)));
        let alone = crate::metric::testing::measure_arrays(&metric, &x, &y)
            .expect("fine")
            .stderr
            .expect("known");
        let (close, _) = paired(&metric, &[x, near, y], 0).expect("fine");
        assert!(
            close.stderr.expect("known") < 0.5 * alone,
            "{close:?} {alone}"
        );
        assert!(paired(&metric, &drawn(1, 39, 100, 0.0), 0).is_err_and(|e| e.contains("39 pairs")));
    }
}
