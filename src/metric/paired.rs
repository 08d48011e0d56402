//! The difference of one statistic between two sets of samples that belong together, row by row.
//!
//! Sample i of both sets began at the same noise, and both sets meet the same reference: what they share moves both
//! statistics alike and cancels in the difference. Its error is that of the differences of influences, over the
//! generated samples and over the reference, which are independent; of statistics that rest on neighbours, that of
//! the differences on random parts; and of others a jackknife's.

use ndarray::{Array2, Axis};

use super::parts::Parts;
use super::sample::Sample;
use super::{Metric, measure};
use crate::num::key::Key;
use crate::num::stats::{self, Estimate};

/// Blocks of the jackknife: samples that are left out together, the same of both sets.
const BLOCKS: usize = 20;

/// Degrees of freedom of an error from random parts. Over repeated draws of 160 pairs and 120 reference samples the
/// variances of precision, recall and coverage vary as those of 3, 6 and 7 degrees do (2/CV²), those of density and
/// authenticity as of 23 and 55: theirs are intervals that are wider than they need be.
const PARTS_DEGREES: usize = 6;

/// Fewest samples of a side, two in each block.
pub const LEAST: usize = 2 * BLOCKS;

/// How an error was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// From first-order influences.
    Influence,
    /// From random halves and quarters of the pairs and of the reference.
    Parts,
    /// By leaving out one in twenty samples at a time, of the pairs and then of the reference.
    Jackknife,
}

impl Method {
    /// As tables print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Influence => "influence",
            Method::Parts => "parts",
            Method::Jackknife => "jackknife",
        }
    }

    /// The method that a table's row names.
    pub fn named(name: &str) -> Option<Method> {
        [Method::Influence, Method::Parts, Method::Jackknife]
            .into_iter()
            .find(|method| method.as_str() == name)
    }

    /// Half the width of the 95 % interval of a difference, where `n` is the smaller number of pairs and reference
    /// samples: Student's t with the degrees of freedom that the standard error itself has.
    pub fn half_width(self, stderr: f64, n: usize) -> f64 {
        let values = match self {
            Method::Influence => n,
            Method::Parts => n.min(1 + PARTS_DEGREES),
            Method::Jackknife => n.min(BLOCKS),
        };
        stats::half_width(stderr, Some(values), 0.95)
    }
}

/// One side's rows, in the order in which they came.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub features: &'a Array2<f64>,
    /// Where the extractor classifies.
    pub logits: Option<&'a Array2<f64>>,
}

impl<'a> Rows<'a> {
    pub fn len(&self) -> usize {
        self.features.nrows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sample(&self) -> Result<Sample<'a>, String> {
        Ok(Sample::new(self.features)?.with_logits(self.logits.map(|l| l.view())))
    }
}

/// The statistic of the one set less that of the other.
///
/// # Errors
/// What the statistic says, or a sentence about too few samples.
pub fn difference(
    metric: &Metric,
    sets: [Rows; 2],
    reference: Rows,
    key: Key,
) -> Result<(Estimate, Method), String> {
    let pairs = sets[0].len();
    if pairs < LEAST || reference.len() < LEAST {
        return Err(format!(
            "{pairs} pairs of finite samples and {} of the reference, expected at least {LEAST} of each",
            reference.len()
        ));
    }
    let y = reference.sample()?;
    if let Some(found) = on_parts(metric, sets, &y, key)? {
        return Ok((found, Method::Parts));
    }
    let of = |set: Rows| -> Result<_, String> {
        let x = set.sample()?;
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
                    .map(|(a, b)| of_mean(a.iter().zip(b).map(|(a, b)| a - b)))
                    .sum(),
                Method::Influence,
            )
        }
        _ => (left_out(metric, sets, reference, key)?, Method::Jackknife),
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
fn on_parts(
    metric: &Metric,
    sets: [Rows; 2],
    y: &Sample,
    key: Key,
) -> Result<Option<Estimate>, String> {
    let [one, other] = [sets[0].sample()?, sets[1].sample()?];
    let Some(mut parts) = Parts::drawn(one.len(), y.len(), metric.least_part(), key) else {
        return Ok(None);
    };
    metric.check(one.len(), y.len())?;
    let Some(of_one) = metric.on_parts(&one, y, &parts)? else {
        return Ok(None);
    };
    parts.generated = other.in_order(&one.as_they_came(&parts.generated));
    let Some(of_other) = metric.on_parts(&other, y, &parts)? else {
        return Ok(None);
    };
    let Some(difference) = of_one.less(&of_other) else {
        return Ok(None);
    };
    Ok(Some(Estimate {
        value: difference.whole(),
        stderr: difference.stderr(),
        n: one.len(),
    }))
}

/// The squared standard error of a mean.
fn of_mean(values: impl Iterator<Item = f64>) -> f64 {
    stats::mean(&values.collect::<Vec<_>>())
        .and_then(|m| m.stderr)
        .map_or(0.0, |e| e * e)
}

/// The variance of the difference that leaving out blocks of pairs, and then of the reference, shows.
fn left_out(metric: &Metric, sets: [Rows; 2], reference: Rows, key: Key) -> Result<f64, String> {
    let difference = |sets: [Rows; 2], reference: Rows| -> Result<f64, String> {
        let y = reference.sample()?;
        let value = |set: Rows| measure(metric, &set.sample()?, &y, key).map(|e| e.value);
        Ok(value(sets[0])? - value(sets[1])?)
    };
    let pairs = |block: usize| {
        let [one, other] = sets.map(|set| Kept::without(set, block));
        difference([one.rows(), other.rows()], reference)
    };
    let references = |block: usize| difference(sets, Kept::without(reference, block).rows());
    let pairs: Vec<f64> = (0..BLOCKS).map(pairs).collect::<Result<_, _>>()?;
    let references: Vec<f64> = (0..BLOCKS).map(references).collect::<Result<_, _>>()?;
    Ok(jackknife(&pairs) + jackknife(&references))
}

/// What is left of one side.
struct Kept {
    features: Array2<f64>,
    logits: Option<Array2<f64>>,
}

impl Kept {
    fn without(rows: Rows, block: usize) -> Kept {
        let kept: Vec<usize> = (0..rows.len()).filter(|i| i % BLOCKS != block).collect();
        let of = |x: &Array2<f64>| x.select(Axis(0), &kept);
        Kept {
            features: of(rows.features),
            logits: rows.logits.map(of),
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows {
            features: &self.features,
            logits: self.logits.as_ref(),
        }
    }
}

/// The variance from estimates that each leave one of B blocks out: (B − 1)/B · Σ (θ_b − θ̄)².
fn jackknife(parts: &[f64]) -> f64 {
    let count = parts.len() as f64;
    let mean = parts.iter().sum::<f64>() / count;
    (count - 1.0) / count * parts.iter().map(|p| (p - mean).powi(2)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal;

    fn paired(
        metric: &Metric,
        [one, other, y]: &[Array2<f64>; 3],
        seed: u64,
    ) -> Result<(Estimate, Method), String> {
        let rows = |x| Rows {
            features: x,
            logits: Some(x),
        };
        difference(metric, [rows(one), rows(other)], rows(y), Key { seed })
    }

    /// Pairs that have most in common, and a reference, everything drawn anew for each seed.
    fn drawn(seed: u64, n: usize, m: usize, shift: f64) -> [Array2<f64>; 3] {
        let one = normal(3 * seed + 1, n, 3, shift, 1.0);
        let other = &one * 1.1 + normal(3 * seed + 2, n, 3, 0.05, 0.1);
        [one, other, normal(3 * seed + 3, m, 3, 0.0, 1.2)]
    }

    /// Of a mean over blocks of one, the jackknife is the usual standard error.
    #[test]
    fn the_jackknife_of_a_mean_is_its_standard_error() {
        let values = [0.3, -1.2, 2.5, 0.7, 1.1, -0.4];
        let sum: f64 = values.iter().sum();
        let parts: Vec<f64> = values.iter().map(|v| (sum - v) / 5.0).collect();
        assert!((jackknife(&parts) - of_mean(values.into_iter())).abs() < 1e-15);
    }

    /// 95 % intervals of the difference hold its mean over many draws of everything, by either way.
    #[test]
    fn the_error_of_a_difference_is_the_spread_over_repeated_draws() {
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
            let found: Vec<(Estimate, Method)> = (0..repeats)
                .map(|seed| paired(&metric, &drawn(seed, 160, 120, 0.3), seed).expect("fine"))
                .collect();
            let method = match metric {
                Metric::Frechet(_) | Metric::Kernel(_) | Metric::Energy(_) => Method::Influence,
                Metric::SlicedWasserstein(_) => Method::Jackknife,
                _ => Method::Parts,
            };
            assert!(found.iter().all(|(_, found)| *found == method));
            let values: Vec<f64> = found.iter().map(|(e, _)| e.value).collect();
            let errors: Vec<f64> = found.iter().filter_map(|(e, _)| e.stderr).collect();
            let mean = stats::mean(&values).expect("many");
            let spread = mean.stderr.expect("many") * (repeats as f64).sqrt();
            let claimed = stats::rms(&errors).expect("many");
            let half = |e: &Estimate| method.half_width(e.stderr.unwrap_or(0.0), 120);
            let inside = |(e, _): &&(Estimate, Method)| (e.value - mean.value).abs() <= half(e);
            let share = found.iter().filter(inside).count() as f64 / repeats as f64;
            // Four binomial standard errors below 95 %.
            let least = 0.95 - 4.0 * (0.95 * 0.05 / repeats as f64).sqrt();
            let variances: Vec<f64> = errors.iter().map(|e| e * e).collect();
            let variance = stats::mean(&variances).expect("many");
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
    fn pairs_are_closer_than_two_sets() {
        let [x, near, y] = drawn(4, 100, 100, 0.2);
        let metric = Metric::Frechet(Default::default());
        let (none, _) = paired(&metric, &[x.clone(), x.clone(), y.clone()], 0).expect("fine");
        assert_eq!((none.value, none.stderr), (0.0, Some(0.0)));
        let alone = crate::metric::testing::measured(&metric, &x, &y)
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
