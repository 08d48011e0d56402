//! The feature likelihood divergence and its parts (Jiralerspong et al. 2023): likelihoods under a law around each sample.
//!
//! A mixture of round normal laws stands at samples of one set, and its widths are fitted to the training data.
//! Where the generated samples lie near to training data the widths are small, and held-out data become unlikely: copies
//! make the value rise, as bad samples and missing ones do. All is measured in units of the held-out data's mean and
//! standard deviation (n − 1), in nats per dimension, times 100.
//!
//! The default is the authors' package (github.com/marcojira/fld) to the step: widths that begin at the nearest
//! training sample, up to 50 epochs of Adam that may end early, and while fitting one law more around the mean, which
//! is left out when likelihoods are taken. So few steps end near an optimum and not at it: `fit: converged` goes there, by
//! expectation maximization, and its values do not compare with published ones. Unlike the package, distances are
//! summed without cancellation, and what it draws at random is drawn by the seed: which half of the training data the
//! baseline stands at, which samples are centres where there are more than `centres`, and the batches of Adam for
//! more than 10,000 training samples.
//!
//! The standard error is the delta method's over the samples whose likelihood is taken and over the centres; for the
//! baseline the spread over random halves where that is larger. That the widths would be others with other training
//! data is left out, which counts where samples are few for their dimensions and Adam ends early: in simulations the
//! error is 0.8 to 1.2 times the true spread in 3 to 30 dimensions.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mixture::{Fit, Mixture, Scores};
use super::sample::Sample;
use super::{Role, Sets, Statistic, at_least, draws, notes};
use crate::num::key::Key;
use crate::num::stats::Estimate;

macro_rules! divergences {
    ($($(#[$meta:meta])* $Name:ident: $name:literal, $compute:expr;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            /// Samples that laws stand at, at most; the package's `gen_size`.
            pub centres: usize,
            pub fit: Fit,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { centres: 10_000, fit: Fit::Reference }
            }
        }

        impl Statistic for $Name {
            fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
                self.check_all(Sets::two(generated, reference))
            }

            fn check_all(&self, n: Sets<usize>) -> Result<(), String> {
                check($name, self.centres, n)
            }

            fn compared(&self) -> Role {
                Role::Test
            }

            fn biased(&self) -> bool {
                true
            }

            fn notes(&self, sets: Sets<&Sample>) -> Vec<String> {
                let copies = [("training", sets.of(Role::Train))];
                let what = "which the halves of the baseline share";
                let copies = notes::copies_on_both_sides(&copies, what).filter(|_| $name != "fld-gap");
                notes::not_held_out(sets).into_iter().chain(copies).collect()
            }

            fn compute(&self, _generated: &Sample, _reference: &Sample, _key: Key) -> Result<Estimate, String> {
                Err(three($name))
            }

            fn compute_all(&self, sets: Sets<&Sample>, key: Key) -> Result<Estimate, String> {
                Ok(self.of(&Normalized::of($name, sets, key)?))
            }
        }

        impl $Name {
            fn of(&self, sets: &Normalized) -> Estimate {
                let compute: fn(&Normalized, usize, Fit) -> Estimate = $compute;
                compute(sets, self.centres, self.fit)
            }
        }
    )+ };
}

divergences! {
    /// How much less likely held-out data are under laws at generated samples than under laws at half of the
    /// training data, both fitted to training data. 0 is what fresh data reach, and more is worse.
    Fld: "fld", |sets, centres, fit| {
        let generated = sets.some(&sets.generated, centres);
        let got = Mixture::fit(generated.view(), sets.train.view(), fit).score(sets.test.view());
        let (base, spread) = sets.baseline(centres, |base, rest| {
            Mixture::fit(base, rest, fit).score(sets.test.view())
        });
        let gaps: Vec<f64> = base.log_densities.iter().zip(&got.log_densities).map(|(b, g)| b - g).collect();
        sets.estimate(&[&gaps], over_centres(&[&got]) + over_centres(&[&base]).max(spread))
    };
    /// How much less likely training data are than held-out data under laws at generated samples: the more negative,
    /// the more the training data were copied.
    FldGap: "fld-gap", |sets, centres, fit| {
        let generated = sets.some(&sets.generated, centres);
        let mixture = Mixture::fit(generated.view(), sets.train.view(), fit);
        let [seen, unseen] = [&sets.train, &sets.test].map(|set| mixture.score(set.view()));
        sets.estimate(&[&negated(&seen), &unseen.log_densities], over_centres(&[&seen, &unseen]))
    };
    /// How much less likely generated samples are than training data under laws at held-out data, which are fitted to
    /// the (other) training data: their quality alone.
    FldPrecision: "fld-precision", |sets, centres, fit| {
        let (held, generated) = (sets.some(&sets.test, centres), sets.some(&sets.generated, centres));
        let got = Mixture::fit(held.view(), sets.train.view(), fit).score(generated.view());
        let (base, spread) = sets.baseline(centres, |base, rest| Mixture::fit(held.view(), rest, fit).score(base));
        sets.estimate(&[&negated(&got), &base.log_densities], over_centres(&[&got, &base]).max(spread))
    };
}

/// Distances that fit in memory, eight bytes each.
const MOST: usize = 1 << 30;

fn check(name: &str, centres: usize, n: Sets<usize>) -> Result<(), String> {
    if n.train.is_none() && n.test.is_none() {
        return Err(three(name));
    }
    let (train, test) = (n.of(Role::Train), n.of(Role::Test));
    if train < 4 || test < 2 || n.generated < 2 {
        return Err(format!(
            "{name}: {} generated, {train} training and {test} held-out samples, expected at least 2, 4 and 2",
            n.generated
        ));
    }
    if centres < 2 {
        return Err(format!("{name}: centres is {centres}, expected at least 2"));
    }
    let at = centres.min(n.generated.max(test));
    if train.saturating_mul(at) > MOST {
        return Err(format!(
            "{name}: {train} training samples and {at} centres are more distances than {MOST}; expected fewer training \
             samples, or `centres` of at most {}",
            MOST / train
        ));
    }
    Ok(())
}

fn three(name: &str) -> String {
    format!(
        "{name}: it needs training data and data that the model has not seen; beside the reference, name the training \
         data (`train`) or the unseen data (`test`), and the reference is the other"
    )
}

fn negated(scores: &Scores) -> Vec<f64> {
    scores.log_densities.iter().map(|l| -l).collect()
}

/// The three sets in units of the held-out data.
struct Normalized {
    train: Array2<f64>,
    test: Array2<f64>,
    generated: Array2<f64>,
    key: Key,
}

impl Normalized {
    fn of(name: &str, sets: Sets<&Sample>, key: Key) -> Result<Normalized, String> {
        let (train, test) = (sets.of(Role::Train).all()?, sets.of(Role::Test).all()?);
        if train == test {
            return Err(format!(
                "{name}: the training data and the held-out data are the same samples"
            ));
        }
        let constant = test.ncols() - sets.of(Role::Test).varying().len();
        if constant > 0 {
            return Err(format!(
                "{name}: {constant} of {} numbers are the same in all held-out samples, and by their standard deviation \
                 it divides; expected more held-out samples, or other features",
                test.ncols()
            ));
        }
        let train = train.select(Axis(0), &draws::order(train.nrows(), key, 2));
        Ok(Normalized::new(
            train.view(),
            test,
            sets.generated.all()?,
            key,
        ))
    }

    /// In units of the held-out data; the baseline takes the first half of the training data.
    fn new(
        train: ArrayView2<f64>,
        test: ArrayView2<f64>,
        generated: ArrayView2<f64>,
        key: Key,
    ) -> Normalized {
        let (mean, std) = (
            test.mean_axis(Axis(0)).expect("samples"),
            test.std_axis(Axis(0), 1.0),
        );
        let units = |x: ArrayView2<f64>| (&x - &mean) / &std;
        Normalized {
            train: units(train),
            test: units(test),
            generated: units(generated),
            key,
        }
    }

    /// At most so many samples, drawn by the seed where there are more.
    fn some(&self, of: &Array2<f64>, most: usize) -> Array2<f64> {
        match of.nrows() <= most {
            true => of.clone(),
            false => of.select(Axis(0), &draws::subset(of.nrows(), most, self.key, 0)),
        }
    }

    /// What the training data's own law gives: for a half of them and the rest, and its variance over random halves.
    fn baseline(
        &self,
        centres: usize,
        of: impl Fn(ArrayView2<f64>, ArrayView2<f64>) -> Scores,
    ) -> (Scores, f64) {
        let n = self.train.nrows();
        let half = centres.min(self.generated.nrows()).min(n / 2);
        let split =
            |train: ArrayView2<f64>| of(train.slice(s![..half, ..]), train.slice(s![half.., ..]));
        let first = split(self.train.view());
        let mut means = vec![mean(&first.log_densities)];
        for again in 1..SPLITS {
            let order = draws::order(n, self.key, 2 + again);
            means.push(mean(
                &split(self.train.select(Axis(0), &order).view()).log_densities,
            ));
        }
        (first, variance(&means))
    }

    /// 100/dim · Σ of the means of `terms`, with their error over samples and the variance that centres add.
    fn estimate(&self, terms: &[&[f64]], over_centres: f64) -> Estimate {
        let value: f64 = terms.iter().map(|term| mean(term)).sum();
        let over_samples: f64 = terms
            .iter()
            .map(|term| variance(term) / term.len() as f64)
            .sum();
        let scale = 100.0 / self.test.ncols() as f64;
        let stderr = scale * (over_samples + at_least(over_centres, 0.0)).sqrt();
        Estimate {
            value: scale * value,
            stderr: Some(stderr),
            n: self.generated.nrows(),
        }
    }
}

/// Random halves of the training data that the baseline is taken of, the first of which counts.
const SPLITS: u64 = 4;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// The variance of a mean log-density over the centres: the influence of centre j is N times its mean share.
///
/// Its square is high by the noise of a mean over few points, which is there already in the variance over points.
fn over_centres(scores: &[&Scores]) -> f64 {
    let n = scores[0].shares.len() as f64;
    let mut influence = Array1::<f64>::zeros(scores[0].shares.len());
    let mut noise = 0.0;
    for (scores, sign) in scores.iter().zip([1.0, -1.0]) {
        let points = scores.log_densities.len() as f64;
        influence.scaled_add(sign * n / points, &scores.shares);
        let squares = (scores.squares.iter())
            .zip(&scores.shares)
            .map(|(square, share)| square - share * share / points);
        noise += n * squares.sum::<f64>() / (points * (points - 1.0));
    }
    let mean = influence.sum() / n;
    (influence.mapv(|v| (v - mean).powi(2)).sum() / (n - 1.0) - noise) / n
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray_npy::NpzReader;

    use super::*;
    use crate::metric::Metric;
    use crate::metric::testing::{normal, of_three, repeated};

    fn metric(name: &str, fit: Fit) -> Metric {
        match name {
            "fld" => Metric::Fld(Fld {
                fit,
                ..Fld::default()
            }),
            "fld-gap" => Metric::FldGap(FldGap {
                fit,
                ..FldGap::default()
            }),
            _ => Metric::FldPrecision(FldPrecision {
                fit,
                ..FldPrecision::default()
            }),
        }
    }

    #[test]
    fn values_are_those_of_the_authors_package() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/fld.npz");
        let mut archive = NpzReader::new(File::open(path).expect(path)).expect("an archive");
        for name in ["full", "wide", "copies"] {
            let mut rows = |part: &str| -> Array2<f64> {
                archive.by_name(&format!("{name}_{part}")).expect(part)
            };
            let [generated, train, test] = ["generated", "train", "test"].map(&mut rows);
            let sets =
                Normalized::new(train.view(), test.view(), generated.view(), Key { seed: 0 });
            let got = [
                Fld::default().of(&sets),
                FldGap::default().of(&sets),
                FldPrecision::default().of(&sets),
            ];
            for (metric, got) in ["fld", "fld-gap", "fld-precision"].into_iter().zip(got) {
                let want: Array1<f64> = archive.by_name(&format!("{name}_{metric}")).expect(metric);
                println!(
                    "{name} {metric} {} {:.1e} ± {:?}",
                    want[0],
                    (got.value - want[0]).abs(),
                    got.stderr
                );
                assert!(
                    (got.value - want[0]).abs() < 1e-5,
                    "{name} {metric}: {} {}",
                    got.value,
                    want[0]
                );
            }
        }
    }

    #[test]
    fn the_standard_error_is_the_spread_over_repeated_draws() {
        let sets = |i, d| {
            [
                normal(3 * i, 60, d, 0.2, 1.0),
                normal(3 * i + 1, 120, d, 0.0, 1.0),
                normal(3 * i + 2, 60, d, 0.0, 1.0),
            ]
        };
        for (name, d) in [
            ("fld", 3),
            ("fld-gap", 3),
            ("fld-precision", 3),
            ("fld", 10),
        ] {
            let ratio = repeated(100, |i| {
                of_three(&metric(name, Fit::Reference), sets(i, d).each_ref(), i).expect("fine")
            });
            assert!((0.7..1.3).contains(&ratio), "{name} {d}: {ratio}");
        }
    }

    #[test]
    fn copies_are_worse_than_fresh_samples_and_bad_ones_too() {
        let (train, test, fresh) = (
            normal(1, 200, 5, 0.0, 1.0),
            normal(2, 100, 5, 0.0, 1.0),
            normal(3, 100, 5, 0.0, 1.0),
        );
        let copies = &train.slice(s![..100, ..]) + 1e-3;
        let bad = normal(4, 100, 5, 1.5, 1.0);
        for fit in [Fit::Reference, Fit::Converged] {
            let of = |name, x| {
                let got = of_three(&metric(name, fit), [x, &train, &test], 0).expect("fine");
                (got.value, got.stderr.expect("an error"))
            };
            let (fld, error) = of("fld", &fresh);
            assert!(fld.abs() < 4.0 * error, "{fld} {error}");
            assert!(
                of("fld", &copies).0 > fld + 5.0 * error && of("fld", &bad).0 > fld + 5.0 * error
            );
            // Copies are good samples, and the gap alone says what is wrong with them.
            assert!(of("fld-precision", &copies).0.abs() < 4.0 * of("fld-precision", &copies).1);
            assert!(of("fld-precision", &bad).0 > 5.0 * of("fld-precision", &bad).1);
            assert!(of("fld-gap", &copies).0 < 4.0 * of("fld-gap", &fresh).0 - 20.0);
        }
    }

    #[test]
    fn what_the_definition_does_not_allow_is_refused() {
        let (x, y, z) = (
            normal(1, 20, 3, 0.0, 1.0),
            normal(2, 20, 3, 0.0, 1.0),
            normal(3, 20, 3, 0.0, 1.0),
        );
        let refused = |sets: [&Array2<f64>; 3]| {
            of_three(&metric("fld", Fit::Reference), sets, 0).expect_err("refused")
        };
        assert!(refused([&x, &y, &y]).contains("same samples"));
        let mut constant = z.clone();
        constant.column_mut(1).fill(0.1);
        assert!(refused([&x, &y, &constant]).contains("1 of 3 numbers"));
        let few = y.slice(s![..3, ..]).to_owned();
        assert!(refused([&x, &few, &z]).contains("3 training"));
        let two = crate::metric::testing::measured(&metric("fld", Fit::Reference), &x, &y)
            .expect_err("two sets");
        assert!(two.contains("`train`") && two.contains("`test`"), "{two}");
        let many = Sets {
            generated: 20_000,
            reference: 2_000_000,
            train: None,
            test: Some(9),
        };
        assert!(
            Fld::default()
                .check_all(many)
                .is_err_and(|e| e.contains("at most 536"))
        );
        assert!(
            Fld {
                centres: 1,
                ..Fld::default()
            }
            .check_all(Sets {
                test: Some(9),
                ..Sets::two(9, 9)
            })
            .is_err()
        );
    }
}
