//! The smallest Fréchet distance of several parts of the generated samples, as published tables quote
//! it (Karras et al. 2022 take the smallest of three sets).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::frechet::{self, FrechetInfluence, GaussianFit};
use super::{SampleSets, Statistic, permutation};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// The smallest of the Fréchet distances of `parts` random disjoint parts of the generated samples to
/// the whole reference: min-of-3, as published tables of FIDs quote it.
///
/// It is no estimate of the distance: it lies below the mean of the parts, which a note gives. To
/// repeat a published number of 3 sets of 50,000, draw 150,000 samples.
///
/// The parts share the reference, whose contribution to the error is that of `frechet`. Their own
/// noise is smaller for the smallest of them: by the share that draws from the fitted normal
/// distribution show in up to 64 dimensions, and by that of normal noise beyond, which is too
/// large where few samples make distances skewed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FrechetMin {
    /// The number of parts, from 2 to 100. The default is 3.
    pub parts: usize,
}

impl Default for FrechetMin {
    fn default() -> Self {
        FrechetMin { parts: 3 }
    }
}

/// The distances of all parts, and their variances.
struct PartDistances {
    /// One distance per part.
    distances: Vec<f64>,
    /// The variance of one distance due to the generated samples of its part.
    generated_variance: f64,
    /// The variance due to the reference, which all parts share.
    reference_variance: f64,
}

impl FrechetMin {
    fn distances(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<PartDistances, String> {
        let (n, parts) = (generated.len(), self.parts);
        let order = permutation::random_permutation(n, key, 2000);
        let r = GaussianFit::fit_all_rows(reference)?;
        let g = GaussianFit::fit_all_rows(generated)?;
        let coupling = FrechetInfluence::between_fits(&g, &r)?;
        let mut found = PartDistances {
            distances: Vec::new(),
            // A part has so many times fewer samples.
            generated_variance: coupling.variance(generated, &g, 0, key)? * parts as f64,
            reference_variance: coupling.variance(reference, &r, 1, key)?,
        };
        for part in 0..parts {
            let positions = &order[part * n / parts..(part + 1) * n / parts];
            let fit = GaussianFit::fit_rows(generated, positions)?;
            found.distances.push(frechet::frechet_distance(&fit, &r)?);
        }
        Ok(found)
    }
}

impl Statistic for FrechetMin {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        frechet::check_covariance_counts("frechet-min", generated, reference)?;
        let fine = (2..=100).contains(&self.parts) && generated >= 2 * self.parts;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "frechet-min: parts is {} for {generated} generated samples, expected 2 to {}",
                self.parts,
                (generated / 2).min(100)
            )
        })
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let found = self.distances(generated, reference, key)?;
        let share = match generated.varying_columns().len() <= MAX_BOOTSTRAP_DIM {
            true => bootstrap_share_of_minimum(self.parts, generated, reference, key)?,
            false => variance_of_minimum(self.parts),
        };
        let variance = found.reference_variance + share * found.generated_variance;
        Ok(Estimate {
            value: found
                .distances
                .iter()
                .copied()
                .fold(f64::INFINITY, f64::min),
            stderr: Some(variance.sqrt()),
            n: generated.len(),
        })
    }

    fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
        vec![format!(
            "the smallest of {} distances, of {} generated samples each: it lies below their mean, \
             which is what `frechet` of so many samples estimates",
            self.parts,
            sets.generated.len() / self.parts
        )]
    }
}

/// The most dimensions in which the share of the noise that the smallest distance keeps is found by
/// draws.
const MAX_BOOTSTRAP_DIM: usize = 64;
/// The number of such draws.
const BOOTSTRAP_DRAWS: u64 = 200;

/// The variance of the smallest of `parts` distances, relative to that of one distance, of fits to
/// draws from the normal distribution that is fitted to all generated samples.
fn bootstrap_share_of_minimum(
    parts: usize,
    generated: &FeatureSet,
    reference: &FeatureSet,
    key: RngKey,
) -> Result<f64, String> {
    let g = GaussianFit::fit_all_rows(generated)?;
    let r = GaussianFit::fit_all_rows(reference)?;
    let count = generated.len() / parts;
    let (mut every, mut smallest) = (Vec::new(), Vec::new());
    for draw in 0..BOOTSTRAP_DRAWS {
        let distance = |part: usize| {
            let number = draw * parts as u64 + part as u64;
            frechet::frechet_distance(&g.redrawn(count, key, number), &r)
        };
        let found = (0..parts)
            .map(distance)
            .collect::<Result<Vec<f64>, String>>()?;
        smallest.push(found.iter().copied().fold(f64::INFINITY, f64::min));
        every.extend(found);
    }
    let variance = |values: &[f64]| {
        let stderr = stats::mean_estimate(values).and_then(|e| e.stderr);
        stderr.map_or(0.0, |e| e * e * values.len() as f64)
    };
    let whole = variance(&every);
    Ok(match whole > 0.0 && whole.is_finite() {
        true => variance(&smallest) / whole,
        false => variance_of_minimum(parts),
    })
}

/// The variance of the smallest of `count` independent standard normal variables, by Simpson's rule
/// for the moments of its density `count`·φ(z)·(1 − Φ(z))^(count − 1).
fn variance_of_minimum(count: usize) -> f64 {
    const STEPS: usize = 4000;
    let (low, high) = (-12.0, 12.0);
    let width = (high - low) / STEPS as f64;
    let mut moments = [0.0; 2];
    for i in 0..=STEPS {
        let weight = match i {
            0 | STEPS => 1.0,
            i if i % 2 == 1 => 4.0,
            _ => 2.0,
        };
        let z = low + i as f64 * width;
        let normal = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
        let density = count as f64 * normal * stats::normal_cdf(-z).powi(count as i32 - 1);
        moments[0] += weight * width / 3.0 * density * z;
        moments[1] += weight * width / 3.0 * density * z * z;
    }
    moments[1] - moments[0] * moments[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, normal_samples};

    #[test]
    fn variance_of_minimum_matches_known_values() {
        let pi = std::f64::consts::PI;
        for (count, known) in [
            (1, 1.0),
            (2, 1.0 - 1.0 / pi),
            (3, 1.0 + 3f64.sqrt() / (2.0 * pi) - 9.0 / (4.0 * pi)),
        ] {
            let got = variance_of_minimum(count);
            assert!((got - known).abs() < 1e-9, "{count}: {got} {known}");
        }
    }

    /// The value is the smallest distance of disjoint parts: below their mean, and close to it for
    /// many samples.
    #[test]
    fn frechet_min_is_the_smallest_of_its_parts() {
        let (x, y) = (
            normal_samples(1, 900, 3, 0.5, 1.3),
            normal_samples(2, 700, 3, 0.0, 1.0),
        );
        let (generated, reference) = (
            FeatureSet::new(&x).expect("finite"),
            FeatureSet::new(&y).expect("finite"),
        );
        let key = RngKey { seed: 4 };
        for parts in [2, 3, 5] {
            let statistic = FrechetMin { parts };
            let found = statistic
                .distances(&generated, &reference, key)
                .expect("finite");
            assert_eq!(found.distances.len(), parts);
            let value = testing::compute(&statistic, &x, &y, 4)
                .expect("finite")
                .value;
            assert!(
                found.distances.iter().all(|d| *d >= value),
                "{:?}",
                found.distances
            );
            assert!(found.distances.contains(&value));
        }
    }
}
