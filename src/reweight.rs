//! Reweighting of samples to an unnormalized density exp(−u(x)): from the samples' log-densities,
//! energies and observables to rows.

use crate::num::importance_weights::{
    FINITE_VARIANCE_SHAPE, IntervalEstimate, MAX_NOISE_VARIANCE, MAX_RELIABLE_SHAPE,
    WeightStatistics, weighted_mean, without_noise_bias,
};
use crate::num::stats::Z95;

/// Samples whose log-densities are known, with what is computed on them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReweightedSamples {
    /// log q(x) of each sample under the model, in nats.
    pub log_densities: Vec<f64>,
    /// The standard error of each log-density over probes, in nats; 0 if it has none.
    pub stderrs: Vec<f64>,
    /// u(x) of each sample: minus the unnormalized log-density of the target.
    pub energies: Vec<f64>,
    /// The names of the observables, with a value for each sample.
    pub observables: Vec<(String, Vec<f64>)>,
}

/// What reweighting says of one quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct ReweightedQuantity {
    /// The name in tables: `ess`, `log_z`, … or `mean_` with the name of an observable.
    pub name: String,
    /// The estimate, with its 95 % interval.
    pub estimate: IntervalEstimate,
}

/// The quantities, with remarks for the reader.
#[derive(Debug, Clone, PartialEq)]
pub struct Reweighting {
    /// All quantities, in the order of tables.
    pub quantities: Vec<ReweightedQuantity>,
    /// What the numbers can and cannot say, in sentences.
    pub remarks: Vec<String>,
}

impl ReweightedSamples {
    /// log w = −u(x) − log q(x) of each sample.
    pub fn log_weights(&self) -> Vec<f64> {
        self.log_densities
            .iter()
            .zip(&self.energies)
            .map(|(log_q, u)| -u - log_q)
            .collect()
    }

    /// The effective sample size, log Z, the free energy, k̂ and the means of the observables.
    ///
    /// # Errors
    /// Fails if there are fewer than two samples, or if all weights are 0.
    pub fn reweight(&self) -> Result<Reweighting, String> {
        let log_weights = self.log_weights();
        let variances: Vec<f64> = self.stderrs.iter().map(|e| e * e).collect();
        let statistics = WeightStatistics::new(&log_weights, Some(&variances))?;
        let mut quantities = Vec::new();
        let mut add = |name: &str, estimate: Option<IntervalEstimate>| {
            quantities.extend(estimate.map(|estimate| ReweightedQuantity {
                name: name.to_owned(),
                estimate,
            }));
        };
        add("ess", Some(statistics.ess));
        add("ess_corrected", statistics.corrected_ess);
        add("log_z", Some(statistics.log_z));
        add("log_z_naive", statistics.naive_log_z);
        add("free_energy", Some(statistics.log_z.negated()));
        add("khat", statistics.shape);
        let noise = statistics.noise_variance.map(|value| IntervalEstimate {
            value,
            stderr: None,
            low: None,
            high: None,
            n: variances.len(),
        });
        add("noise_variance", noise);
        let weights = without_noise_bias(&log_weights, &variances);
        for (name, values) in &self.observables {
            let mean = weighted_mean(&weights, values).map(|mean| {
                let half = mean.stderr.map(|e| Z95 * e);
                IntervalEstimate {
                    value: mean.value,
                    stderr: mean.stderr,
                    low: half.map(|half| mean.value - half),
                    high: half.map(|half| mean.value + half),
                    n: mean.n,
                }
            });
            add(&format!("mean_{name}"), mean);
        }
        Ok(Reweighting {
            quantities,
            remarks: remarks_on(&statistics),
        })
    }
}

impl Reweighting {
    /// The estimate of the quantity of this name.
    pub fn estimate(&self, name: &str) -> Option<&IntervalEstimate> {
        self.quantities
            .iter()
            .find(|quantity| quantity.name == name)
            .map(|quantity| &quantity.estimate)
    }
}

/// What k̂ and the noise of the log-densities allow to say, in sentences.
fn remarks_on(statistics: &WeightStatistics) -> Vec<String> {
    let mut remarks = Vec::new();
    let shape = statistics.shape.map(|shape| shape.value);
    match shape {
        None if statistics.ess.value < 1.0 => remarks.push(
            "there are too few samples for the tail of the weights: no lower end of the effective \
             sample size is claimed"
                .to_owned(),
        ),
        Some(k) if k > MAX_RELIABLE_SHAPE => remarks.push(format!(
            "k-hat is {k:.2}, above {MAX_RELIABLE_SHAPE}: larger weights than any of these samples \
             have may take the effective sample size to any value below its upper end, so that no \
             lower end is claimed, and no upper end of log Z; errors of means are too small"
        )),
        Some(k) if k > FINITE_VARIANCE_SHAPE => remarks.push(format!(
            "k-hat is {k:.2}, between {FINITE_VARIANCE_SHAPE} and {MAX_RELIABLE_SHAPE}: the \
             interval of the effective sample size is widened by the tail that these samples do \
             not show; errors of means are too small"
        )),
        _ => {}
    }
    if let Some(v) = statistics
        .noise_variance
        .filter(|v| *v > MAX_NOISE_VARIANCE)
    {
        remarks.push(format!(
            "the mean variance of the log-densities' error is {v:.3}, above {MAX_NOISE_VARIANCE}: \
             it takes a share of about {:.0} % of the effective sample size; take {:.0} times as \
             many probes, or an estimator without noise, such as `exact`",
            100.0 * (1.0 - (-v).exp()),
            (v / MAX_NOISE_VARIANCE).ceil()
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};

    /// Samples of N(0, s²) for the energy x²/2, with noise in log q.
    fn samples(n: usize, s: f64, noise: f64) -> ReweightedSamples {
        let key = RngKey { seed: 8 };
        let z = key.normal(Purpose::Check, 0, 0, n);
        let e = key.normal(Purpose::Check, 1, 0, n);
        let log_q = |z: f64| -0.5 * z * z - s.ln() - 0.5 * (2.0 * std::f64::consts::PI).ln();
        ReweightedSamples {
            log_densities: (0..n).map(|i| log_q(z[i]) + noise * e[i]).collect(),
            stderrs: vec![noise; n],
            energies: z.iter().map(|z| 0.5 * s * s * z * z).collect(),
            observables: vec![(
                "square".to_owned(),
                z.iter().map(|z| s * s * z * z).collect(),
            )],
        }
    }

    /// log Z of exp(−x²/2) is ln √(2π), and the mean of x² is 1, with and without noise.
    #[test]
    fn quantities_agree_with_closed_forms() {
        let truth = 0.5 * (2.0 * std::f64::consts::PI).ln();
        for noise in [0.0, 0.6] {
            let found = samples(20_000, 1.2, noise).reweight().expect("samples");
            let names: Vec<&str> = found.quantities.iter().map(|q| &q.name[..]).collect();
            let expected: &[&str] = if noise > 0.0 {
                &[
                    "ess",
                    "ess_corrected",
                    "log_z",
                    "log_z_naive",
                    "free_energy",
                    "khat",
                    "noise_variance",
                    "mean_square",
                ]
            } else {
                &["ess", "log_z", "free_energy", "khat", "mean_square"]
            };
            assert_eq!(names, expected);
            let within = |name: &str, truth: f64| {
                let found = found.estimate(name).expect(name);
                let stderr = found.stderr.expect(name);
                assert!(
                    (found.value - truth).abs() < 4.0 * stderr,
                    "{name}: {found:?}"
                );
                assert!(stderr < 0.02, "{name}: {found:?}");
            };
            within("log_z", truth);
            within("free_energy", -truth);
            within("mean_square", 1.0);
            let warned = found.remarks.iter().any(|r| r.contains("4 times as many"));
            assert_eq!(warned, noise > 0.0, "{:?}", found.remarks);
        }
    }

    #[test]
    fn remarks_follow_the_tail() {
        let remarks = |power: f64| {
            let samples = ReweightedSamples {
                log_densities: (1..=1000)
                    .map(|i| power * (f64::from(i) / 1001.0).ln())
                    .collect(),
                stderrs: vec![0.0; 1000],
                energies: vec![0.0; 1000],
                observables: Vec::new(),
            };
            samples.reweight().expect("samples").remarks.join(" ")
        };
        assert_eq!(remarks(0.2), "");
        assert!(remarks(0.6).contains("between 0.5 and 0.7"));
        assert!(remarks(0.9).contains("above 0.7"));
    }
}
