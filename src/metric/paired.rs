//! The difference of one statistic between two paired sets of generated samples.
//!
//! Sample i of both sets starts from the same noise, and both sets are compared with the same
//! reference. What they have in common changes both statistics alike and cancels in the difference.
//! The standard error of the difference comes from the differences of influences, over the pairs of
//! generated samples and over the reference samples; these two are independent. For statistics
//! based on nearest neighbours, it comes from the differences on random parts. For all other
//! statistics, it comes from a jackknife.

use ndarray::{Array2, Axis};

use super::feature_set::FeatureSet;
use super::random_groups::RandomDivisions;
use super::{Metric, measure};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// The number of blocks of the jackknife. The samples of one block are left out together, in both
/// sets.
const JACKKNIFE_BLOCKS: usize = 20;

/// The degrees of freedom of a standard error from random parts.
///
/// Over repeated draws of 160 pairs and 120 reference samples, the variance estimates of precision,
/// recall and coverage scatter as with 3, 6 and 7 degrees of freedom (2/CV²). Those of density and
/// authenticity scatter as with 23 and 55 degrees, so their intervals are wider than necessary.
const PARTS_DEGREES_OF_FREEDOM: usize = 6;

/// The smallest number of pairs and of reference samples: two in each block of the jackknife.
pub const MIN_SAMPLES_PER_SIDE: usize = 2 * JACKKNIFE_BLOCKS;

/// How the standard error of a paired difference was estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairedErrorMethod {
    /// From first-order influences.
    Influence,
    /// From random halves and quarters of the pairs and of the reference.
    Parts,
    /// From a jackknife that leaves out every twentieth sample at a time, first of the pairs and
    /// then of the reference.
    Jackknife,
}

impl PairedErrorMethod {
    /// The name of the method in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            PairedErrorMethod::Influence => "influence",
            PairedErrorMethod::Parts => "parts",
            PairedErrorMethod::Jackknife => "jackknife",
        }
    }

    /// The method with the given name in a table; `None` if the name is unknown.
    pub fn from_name(name: &str) -> Option<PairedErrorMethod> {
        [
            PairedErrorMethod::Influence,
            PairedErrorMethod::Parts,
            PairedErrorMethod::Jackknife,
        ]
        .into_iter()
        .find(|method| method.as_str() == name)
    }

    /// Half the width of the 95 % confidence interval of a difference. It uses Student's t with the
    /// degrees of freedom of the standard error. `n` is the number of pairs or of reference
    /// samples, whichever is smaller.
    pub fn half_width(self, stderr: f64, n: usize) -> f64 {
        let values = match self {
            PairedErrorMethod::Influence => n,
            PairedErrorMethod::Parts => n.min(1 + PARTS_DEGREES_OF_FREEDOM),
            PairedErrorMethod::Jackknife => n.min(JACKKNIFE_BLOCKS),
        };
        stats::confidence_half_width(stderr, Some(values), 0.95)
    }
}

/// The rows of one set, in input order.
#[derive(Clone, Copy)]
pub struct FeatureRows<'a> {
    /// The features, one row per sample.
    pub features: &'a Array2<f64>,
    /// The class logits of each sample, if the extractor provides them.
    pub logits: Option<&'a Array2<f64>>,
}

impl<'a> FeatureRows<'a> {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.features.nrows()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows as a set in hash order, with their logits.
    fn feature_set(&self) -> Result<FeatureSet<'a>, String> {
        Ok(FeatureSet::new(self.features)?.with_logits(self.logits.map(|l| l.view())))
    }
}

/// The statistic of the first set minus that of the second, with its standard error and the method
/// that gave it.
///
/// Row i of both sets must belong together; both are compared with the same reference.
///
/// # Errors
/// Fails if there are fewer than [`MIN_SAMPLES_PER_SIDE`] pairs or reference samples, or if the
/// statistic cannot be computed.
pub fn paired_difference(
    metric: &Metric,
    sets: [FeatureRows; 2],
    reference: FeatureRows,
    key: RngKey,
) -> Result<(Estimate, PairedErrorMethod), String> {
    let pairs = sets[0].len();
    if pairs < MIN_SAMPLES_PER_SIDE || reference.len() < MIN_SAMPLES_PER_SIDE {
        return Err(format!(
            "{pairs} pairs of finite samples and {} reference samples, expected at least \
             {MIN_SAMPLES_PER_SIDE} of each",
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

/// The difference with a standard error from random parts; `None` if the statistic has no values on
/// parts or there are too few samples.
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
    // Both samples of a pair must be in the same quarter, but the two sets have different hash
    // orders.
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

/// The variance of the difference from two jackknifes: one leaves out blocks of pairs, the other
/// blocks of the reference.
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

/// The rows of one set without those of one block of the jackknife.
struct JackknifeRows {
    features: Array2<f64>,
    logits: Option<Array2<f64>>,
}

impl JackknifeRows {
    /// Copies all rows except those of one block, which are every twentieth row.
    fn without_block(rows: FeatureRows, block: usize) -> JackknifeRows {
        let remaining: Vec<usize> = (0..rows.len())
            .filter(|i| i % JACKKNIFE_BLOCKS != block)
            .collect();
        let of = |x: &Array2<f64>| x.select(Axis(0), &remaining);
        JackknifeRows {
            features: of(rows.features),
            logits: rows.logits.map(of),
        }
    }

    /// The remaining rows.
    fn rows(&self) -> FeatureRows<'_> {
        FeatureRows {
            features: &self.features,
            logits: self.logits.as_ref(),
        }
    }
}

/// The jackknife variance (B − 1)/B · Σ (θ_b − θ̄)², from estimates θ_b that each leave out one of
/// B blocks.
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

    /// Two sets of strongly correlated pairs, and a reference. Each seed gives new draws of
    /// everything.
    fn drawn(seed: u64, n: usize, m: usize, shift: f64) -> [Array2<f64>; 3] {
        let one = normal_samples(3 * seed + 1, n, 3, shift, 1.0);
        let other = &one * 1.1 + normal_samples(3 * seed + 2, n, 3, 0.05, 0.1);
        [one, other, normal_samples(3 * seed + 3, m, 3, 0.0, 1.2)]
    }

    /// For a mean and blocks of one sample, the jackknife gives the usual standard error.
    #[test]
    fn jackknife_of_mean_matches_stderr() {
        let values = [0.3, -1.2, 2.5, 0.7, 1.1, -0.4];
        let sum: f64 = values.iter().sum();
        let parts: Vec<f64> = values.iter().map(|v| (sum - v) / 5.0).collect();
        assert!(
            (jackknife_variance(&parts) - squared_stderr_of_mean(values.into_iter())).abs() < 1e-15
        );
    }

    /// Over many draws, the claimed standard error agrees with the spread of the difference, and 95
    /// % intervals contain its mean as often as they should, for every method.
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

    /// What both sets have in common cancels: the difference and its error are 0 for equal sets,
    /// and the error is small for similar sets.
    #[test]
    fn pairing_reduces_stderr() {
        let [x, near, y] = drawn(4, 100, 100, 0.2);
        let metric = Metric::Frechet(Default::default());
        let (none, _) = paired(&metric, &[x.clone(), x.clone(), y.clone()], 0).expect("fine");
        assert_eq!((none.value, none.stderr), (0.0, Some(0.0)));
        let unpaired = crate::metric::testing::measure_arrays(&metric, &x, &y)
            .expect("fine")
            .stderr
            .expect("known");
        let (close, _) = paired(&metric, &[x, near, y], 0).expect("fine");
        assert!(
            close.stderr.expect("known") < 0.5 * unpaired,
            "{close:?} {unpaired}"
        );
        assert!(paired(&metric, &drawn(1, 39, 100, 0.0), 0).is_err_and(|e| e.contains("39 pairs")));
    }
}
