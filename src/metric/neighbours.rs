//! Authenticity (Alaa et al. 2022) and memorization (Yoon et al. 2023): generated samples too near to training data.
//!
//! Where no training data are named, the reference is taken for them. That very set is what is copied or not, so both
//! standard errors are over generated samples alone, with it as it is.

use ndarray::{ArrayView1, ArrayView2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sample::Sample;
use super::{Role, Statistic, pairs};
use crate::num::key::Key;
use crate::num::stats::{self, Estimate};

/// The share of generated samples that lie farther from their nearest reference sample than that one from its
/// nearest other. AuthPct is 100 times it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authenticity {}

/// The share of generated samples whose nearest reference sample is nearer than `ratio` times the second nearest.
///
/// In D dimensions a smooth law gives ratio^D without any copying, which is next to nothing only for many.
/// A reference that holds a sample twice hides copies of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memorization {
    pub ratio: f64,
}

impl Default for Memorization {
    fn default() -> Self {
        Memorization { ratio: 1.0 / 3.0 }
    }
}

impl Statistic for Authenticity {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        enough("authenticity", generated, reference)
    }

    fn compared(&self) -> Role {
        Role::Train
    }

    fn compute(&self, generated: &Sample, reference: &Sample, _key: Key) -> Result<Estimate, String> {
        let (x, y) = (generated.all()?, reference.all()?);
        let own: Vec<f64> = two_nearest(y, y, true).into_iter().map(|n| n[0].0).collect();
        let authentic = two_nearest(x, y, false).into_iter().map(|[(distance, at), _]| own[at] < distance);
        Ok(share(authentic))
    }
}

impl Statistic for Memorization {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        enough("memorization", generated, reference)?;
        let fine = self.ratio > 0.0 && self.ratio <= 1.0;
        fine.then_some(()).ok_or_else(|| format!("memorization: ratio is {}, expected above 0 and up to 1", self.ratio))
    }

    fn compared(&self) -> Role {
        Role::Train
    }

    fn compute(&self, generated: &Sample, reference: &Sample, _key: Key) -> Result<Estimate, String> {
        let square = self.ratio * self.ratio;
        let nearest = two_nearest(generated.all()?, reference.all()?, false);
        Ok(share(nearest.into_iter().map(|[first, second]| first.0 < square * second.0)))
    }
}

fn enough(name: &str, generated: usize, reference: usize) -> Result<(), String> {
    let fine = generated >= 2 && reference >= 3;
    fine.then_some(()).ok_or_else(|| {
        format!(
            "{name}: {generated} generated and {reference} reference samples, expected at least 2 generated and 3 reference samples"
        )
    })
}

fn share(of: impl Iterator<Item = bool>) -> Estimate {
    let values: Vec<f64> = of.map(|yes| f64::from(u8::from(yes))).collect();
    stats::mean(&values).expect("at least two samples")
}

/// For each row of `x` the squared distances to the two nearest rows of `y`, and which they are; with `own`, where
/// both are one set, a row itself does not count.
fn two_nearest(x: ArrayView2<f64>, y: ArrayView2<f64>, own: bool) -> Vec<[(f64, usize); 2]> {
    let of_row = |row: ArrayView1<f64>, itself: usize| {
        let mut best = [(f64::INFINITY, 0); 2];
        for (j, d) in row.iter().enumerate().filter(|(j, _)| !own || *j != itself) {
            if *d < best[0].0 {
                best = [(*d, j), best[0]];
            } else if *d < best[1].0 {
                best[1] = (*d, j);
            }
        }
        best
    };
    let parts = pairs::by_rows(x, y, |first, distances| {
        let rows = distances.rows().into_iter().enumerate();
        rows.map(|(i, row)| of_row(row, first + i)).collect::<Vec<_>>()
    });
    parts.concat()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, concatenate};

    use super::*;
    use crate::metric::testing::{self, honest, normal};

    fn both(x: &Array2<f64>, y: &Array2<f64>) -> [f64; 2] {
        let authenticity = testing::compute(&Authenticity {}, x, y, 0).expect("fine").value;
        [authenticity, testing::compute(&Memorization::default(), x, y, 0).expect("fine").value]
    }

    #[test]
    fn copies_are_neither_authentic_nor_overlooked() {
        let (train, fresh) = (normal(1, 50, 8, 0.0, 1.0), normal(2, 30, 8, 9.0, 1.0));
        let copies = train.slice(ndarray::s![..30, ..]).to_owned() + 1e-3;
        assert_eq!(both(&copies, &train), [0.0, 1.0]);
        assert_eq!(both(&fresh, &train), [1.0, 0.0]);
        let half = concatenate![ndarray::Axis(0), copies, fresh];
        assert_eq!(both(&half, &train), [0.5, 0.5]);
    }

    #[test]
    fn for_a_smooth_law_memorization_is_the_ratio_to_the_dimension() {
        let (x, y) = (normal(1, 3000, 2, 0.0, 1.0), normal(2, 4000, 2, 0.0, 1.0));
        let got = testing::compute(&Memorization { ratio: 0.5 }, &x, &y, 0).expect("fine");
        assert!((got.value - 0.25).abs() < 4.0 * got.stderr.expect("many"), "{got:?}");
    }

    #[test]
    fn the_standard_error_is_the_spread_over_generated_samples() {
        let train = normal(1, 60, 2, 0.0, 1.0);
        honest(0.15, |i| {
            testing::compute(&Authenticity {}, &normal(i + 9, 100, 2, 0.0, 1.0), &train, 0).expect("fine")
        });
        let half = Memorization { ratio: 0.5 };
        honest(0.15, |i| testing::compute(&half, &normal(i + 9, 100, 2, 0.0, 1.0), &train, 0).expect("fine"));
    }
}
