//! Checks of a flow map: identities that hold exactly for a true flow map, per sample, and the
//! total mass of the density that its few steps define.

use ndarray::{Array1, Array2, ArrayView1, Axis};

use crate::flow::field::{EvalError, FlowMap, JacobianOperator, Points};
use crate::flow::flow_map::{self, FlowMapStepRule};
use crate::flow::path::PathCurve;
use crate::flow::prior::Prior;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::{Batch, TangentBatch, linalg, stats};

/// The setting in which a map's identities are evaluated.
pub struct FlowMapCheckSetting<'a> {
    /// The probability path of the map.
    pub curve: &'a PathCurve,
    /// The times in the direction in which the map was trained. The midpoint of each step is
    /// included.
    pub times: &'a [f64],
    /// Whether the map was trained in both directions.
    pub both_ways: bool,
}

/// The residual of one identity for each sample; it is zero for a true flow map.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMapResidual {
    /// The name of the check.
    pub check: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// The residual of each sample.
    pub values: Vec<f64>,
}

/// The unit of log-determinants and divergence integrals.
const NATS: &str = "nats";
/// The unit of distances between states.
const STATE: &str = "state, rms over dimensions";
/// The unit of divergences.
const RATE: &str = "nats per unit of ln(alpha/sigma)";

/// The names of the checks, in the order of [`flow_map_residuals`], and last the normalization. The
/// page explains each.
pub const FLOW_MAP_CHECKS: [&str; 8] = [
    "log-determinant",
    "semigroup-divergence",
    "semigroup-state",
    "diagonal",
    "diagonal-velocity",
    "inverse-divergence",
    "inverse-state",
    "normalization",
];

/// Computes the residuals of every identity, along the setting's times from the states `x` of
/// `samples`.
///
/// The checks that need a separate velocity or the inverse direction are left out if `velocity` is
/// `None` or the map was trained in one direction only.
///
/// # Errors
/// Fails if the map or the velocity cannot be evaluated, or if the map gives no divergence.
pub fn flow_map_residuals(
    map: &mut dyn FlowMap,
    velocity: Option<&mut dyn JacobianOperator>,
    setting: &FlowMapCheckSetting,
    samples: &[SampleId],
    x: Batch,
) -> Result<Vec<FlowMapResidual>, EvalError> {
    let mut velocity = velocity;
    let (rows, mut sums) = (x.nrows(), ResidualSums::new(x.nrows()));
    let (mut x, steps) = (x, (setting.times.len() - 1) / 2);
    let share = 1.0 / steps as f64;
    for three in setting.times.windows(3).step_by(2) {
        let [t, r, s] = [three[0], three[1], three[2]];
        let (end, whole) = flow_map_step(map, t, s, samples, &x)?;
        let (half, first) = flow_map_step(map, t, r, samples, &x)?;
        let (halves, second) = flow_map_step(map, r, s, samples, &half)?;
        let volume = step_log_determinant(map, t, s, samples, &x)?;
        let here = vec![t; rows];
        let divergence = map
            .averages(Points::new(samples, &here, &x), &here)?
            .divergence
            .ok_or_else(no_divergence)?;
        let own = trace_from_products(&x, |z| map.jvp(Points::new(samples, &here, &x), &here, z))?;
        let time_per_lambda = time_per_half_log_snr(setting.curve, t);
        sums.add(
            "log-determinant",
            NATS,
            1.0,
            whole.iter().zip(&volume).map(|(w, v)| w - v),
        );
        let halves_sum = first.iter().zip(&second).map(|(a, b)| a + b);
        sums.add(
            "semigroup-divergence",
            NATS,
            1.0,
            whole.iter().zip(halves_sum).map(|(w, h)| w - h),
        );
        sums.add(
            "semigroup-state",
            STATE,
            share,
            rms_distances(&end, &halves).into_iter(),
        );
        sums.add(
            "diagonal",
            RATE,
            share,
            divergence
                .iter()
                .zip(&own)
                .map(|(d, o)| (d - o) * time_per_lambda),
        );
        if let Some(velocity) = velocity.as_deref_mut() {
            let velocity_trace =
                trace_from_products(&x, |z| velocity.jvp(Points::new(samples, &here, &x), z))?;
            sums.add(
                "diagonal-velocity",
                RATE,
                share,
                divergence
                    .iter()
                    .zip(&velocity_trace)
                    .map(|(d, o)| (d - o) * time_per_lambda),
            );
        }
        if setting.both_ways {
            let (returned, back) = flow_map_step(map, s, t, samples, &end)?;
            sums.add(
                "inverse-divergence",
                NATS,
                1.0,
                whole.iter().zip(&back).map(|(a, b)| a + b),
            );
            sums.add(
                "inverse-state",
                STATE,
                share,
                rms_distances(&x, &returned).into_iter(),
            );
        }
        x = end;
    }
    Ok(sums.residuals)
}

/// The residuals by their names, summed over the steps.
struct ResidualSums {
    rows: usize,
    residuals: Vec<FlowMapResidual>,
}

impl ResidualSums {
    fn new(rows: usize) -> ResidualSums {
        ResidualSums {
            rows,
            residuals: Vec::new(),
        }
    }

    /// Adds `weight` times the values to the residual of a check.
    fn add(
        &mut self,
        check: &'static str,
        unit: &'static str,
        weight: f64,
        values: impl Iterator<Item = f64>,
    ) {
        let known = self.residuals.iter().position(|r| r.check == check);
        let place = known.unwrap_or_else(|| {
            self.residuals.push(FlowMapResidual {
                check,
                unit,
                values: vec![0.0; self.rows],
            });
            self.residuals.len() - 1
        });
        self.residuals[place]
            .values
            .iter_mut()
            .zip(values)
            .for_each(|(sum, v)| *sum += weight * v);
    }
}

/// The error for a flow map without a divergence output.
fn no_divergence() -> EvalError {
    EvalError::Missing("this flow map gives no divergence".to_owned())
}

/// Takes one step of the map: the end states and ∫div.
fn flow_map_step(
    map: &mut dyn FlowMap,
    from: f64,
    to: f64,
    samples: &[SampleId],
    x: &Batch,
) -> Result<(Batch, Vec<f64>), EvalError> {
    let averages = map.averages(
        Points::new(samples, &vec![from; x.nrows()], x),
        &vec![to; x.nrows()],
    )?;
    let divergence = averages.divergence.ok_or_else(no_divergence)?;
    Ok((
        x + &(averages.velocity * (to - from)),
        divergence.iter().map(|d| d * (to - from)).collect(),
    ))
}

/// Every unit vector as a tangent of every row, dim × rows × dim.
fn unit_tangents(x: &Batch) -> TangentBatch {
    let dim = x.ncols();
    TangentBatch::from_shape_fn(
        (dim, x.nrows(), dim),
        |(k, _, j)| if k == j { 1.0 } else { 0.0 },
    )
}

/// The trace of each row's Jacobian, from products with all unit vectors.
fn trace_from_products(
    x: &Batch,
    products: impl FnOnce(&TangentBatch) -> Result<TangentBatch, EvalError>,
) -> Result<Vec<f64>, EvalError> {
    let columns = products(&unit_tangents(x))?;
    Ok((0..x.nrows())
        .map(|i| (0..x.ncols()).map(|k| columns[[k, i, k]]).sum())
        .collect())
}

/// ln |det ∂X/∂x| of one step X = x + (to − from)·u, from the QR decomposition of its exact
/// Jacobian.
fn step_log_determinant(
    map: &mut dyn FlowMap,
    from: f64,
    to: f64,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<f64>, EvalError> {
    let columns = map.jvp(
        Points::new(samples, &vec![from; x.nrows()], x),
        &vec![to; x.nrows()],
        &unit_tangents(x),
    )?;
    let one = |i: usize| {
        let jacobian = Array2::eye(x.ncols()) + &columns.index_axis(Axis(1), i).t() * (to - from);
        linalg::qr_r(jacobian.view())
            .diag()
            .iter()
            .map(|r| r.abs().ln())
            .sum()
    };
    Ok((0..x.nrows()).map(one).collect())
}

/// The distance of each pair of rows: the root mean square over dimensions.
fn rms_distances(a: &Batch, b: &Batch) -> Vec<f64> {
    (a - b)
        .map_axis(Axis(1), |row| (row.dot(&row) / row.len() as f64).sqrt())
        .to_vec()
}

/// |dt/dλ| with λ = ln(α/σ). It converts a rate in the card's time into one that is comparable
/// between paths.
fn time_per_half_log_snr(curve: &PathCurve, t: f64) -> f64 {
    let s = curve.at(t);
    // λ' = (α' σ − σ' α)/(α σ) is infinite where α or σ is 0; its inverse, in this form, is finite.
    (s.alpha * s.sigma / (s.alpha_dot * s.sigma - s.sigma_dot * s.alpha)).abs()
}

/// The total mass of a few-step density: E_q\[p/q\], with the effective number of draws (Σw)²/Σw².
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DensityMass {
    /// The mean of the importance weights, with its standard error.
    pub estimate: stats::Estimate,
    /// The effective number of draws.
    pub effective_draws: f64,
}

/// The proposal distribution for [`density_mass`]. Half of it is a kernel density of the data, with
/// Gaussian kernels of Silverman's width. The other half is a normal distribution with twice the
/// data's standard deviations, which finds mass away from the data.
pub struct MassProposal {
    /// The centres of the kernels, samples × dim.
    data: Batch,
    mean: Array1<f64>,
    /// The standard deviation of each dimension.
    std: Array1<f64>,
    /// The standard deviation of the kernels in each dimension.
    kernel_width: Array1<f64>,
}

impl MassProposal {
    /// Builds the proposal from at least two samples.
    pub fn new(data: Batch) -> MassProposal {
        let (n, d) = (data.nrows() as f64, data.ncols() as f64);
        let spread = data.std_axis(Axis(0), 1.0).mapv(|s| s.max(1e-6));
        let width = (4.0 / ((d + 2.0) * n)).powf(1.0 / (d + 4.0));
        let mean = data
            .mean_axis(Axis(0))
            .unwrap_or_else(|| Array1::zeros(data.ncols()));
        MassProposal {
            kernel_width: &spread * width,
            std: spread,
            mean,
            data,
        }
    }

    /// Draws states, rows × dim. Each draw depends only on the key and its number.
    pub fn draw(&self, key: RngKey, draws: std::ops::Range<u64>) -> Batch {
        let mut x = Batch::zeros(((draws.end - draws.start) as usize, self.data.ncols()));
        for (mut row, draw) in x.rows_mut().into_iter().zip(draws) {
            let choice = key.uniform(Purpose::Proposal, draw, 0, 2);
            let z = key.normal(Purpose::Proposal, draw, 1, self.data.ncols());
            if choice[0] < 0.5 {
                let centre = (choice[1] * self.data.nrows() as f64) as usize;
                row.assign(&(&self.data.row(centre) + &(z * &self.kernel_width)));
            } else {
                row.assign(&(&self.mean + &(z * &self.std * 2.0)));
            }
        }
        x
    }

    /// The log-density of the proposal at `x`.
    pub fn log_density(&self, x: ArrayView1<f64>) -> f64 {
        let constant = -0.5 * x.len() as f64 * std::f64::consts::TAU.ln();
        let normal = |centre: ArrayView1<f64>, width: &Array1<f64>| -> f64 {
            let parts = x.iter().zip(centre).zip(width);
            constant
                + parts
                    .map(|((x, c), w)| -0.5 * ((x - c) / w).powi(2) - w.ln())
                    .sum::<f64>()
        };
        let kernels: Vec<f64> = self
            .data
            .rows()
            .into_iter()
            .map(|c| normal(c, &self.kernel_width))
            .collect();
        let top = kernels.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let sum: f64 = kernels.iter().map(|l| (l - top).exp()).sum();
        let kernel = top + (sum / kernels.len() as f64).ln();
        let wide = normal(self.mean.view(), &(&self.std * 2.0));
        let most = kernel.max(wide);
        most + (0.5 * ((kernel - most).exp() + (wide - most).exp())).ln()
    }
}

/// Computes the importance weights p/q of the draws `x` for `samples`, with p the few-step density along `times`
/// from data to noise.
///
/// # Errors
/// Fails if the map cannot be evaluated or gives no divergence.
pub fn importance_weights(
    map: &mut dyn FlowMap,
    curve: &PathCurve,
    prior: Prior,
    times: &[f64],
    proposal: &MassProposal,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<f64>, EvalError> {
    let end = flow_map::apply_flow_map_steps(
        map,
        curve,
        times,
        FlowMapStepRule::TwoTime,
        samples,
        x.clone(),
    )?;
    let (prior, integral) = (
        prior.log_density(&end.x),
        end.divergence_integral.ok_or_else(no_divergence)?,
    );
    let weight = |i: usize| (prior[i] + integral[i] - proposal.log_density(x.row(i))).exp();
    Ok((0..x.nrows()).map(weight).collect())
}

/// The mean of the weights with its standard error; `None` without weights. A weight that is not
/// finite counts as zero, because the map cannot carry that state to the prior.
pub fn density_mass(weights: &[f64]) -> Option<DensityMass> {
    let finite_weights: Vec<f64> = weights
        .iter()
        .map(|w| if w.is_finite() { *w } else { 0.0 })
        .collect();
    let (sum, squares) = (
        finite_weights.iter().sum::<f64>(),
        finite_weights.iter().map(|w| w * w).sum::<f64>(),
    );
    stats::mean_estimate(&finite_weights).map(|estimate| DensityMass {
        estimate,
        effective_draws: sum * sum / squares,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::FlowMapAverages;
    use crate::flow::path::ProbabilityPath;
    use crate::model::analytic::{self, AnalyticGaussian};

    /// The flow map of a Gaussian with a scaled divergence; its states are still right.
    struct Scaled(AnalyticGaussian, f64);

    impl FlowMap for Scaled {
        fn dim(&self) -> usize {
            self.0.dim()
        }
        fn averages(&mut self, at: Points, to: &[f64]) -> Result<FlowMapAverages, EvalError> {
            let mut averages = self.0.averages(at, to)?;
            averages
                .divergence
                .iter_mut()
                .flatten()
                .for_each(|d| *d *= self.1);
            Ok(averages)
        }
        fn divergence_gradient(
            &mut self,
            _: Points,
            _: &[f64],
        ) -> Result<(Vec<f64>, Batch), EvalError> {
            Err(no_divergence())
        }
        fn jvp(
            &mut self,
            at: Points,
            to: &[f64],
            z: &TangentBatch,
        ) -> Result<TangentBatch, EvalError> {
            self.0.jvp(at, to, z)
        }
    }

    fn points(model: &AnalyticGaussian, n: u64) -> Batch {
        let s = model.curve.at(model.curve.data_end());
        let std = (&model.variance * s.alpha.powi(2) + s.sigma.powi(2)).mapv(f64::sqrt);
        let mut x = Batch::zeros((n as usize, 3));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            let z = RngKey { seed: 2 }.normal(Purpose::Check, i as u64, 0, 3);
            row.assign(&(&model.mean * s.alpha + z * &std));
        }
        x
    }

    fn of<'a>(residuals: &'a [FlowMapResidual], check: &str) -> &'a [f64] {
        &residuals
            .iter()
            .find(|r| r.check == check)
            .unwrap_or_else(|| panic!("no {check}"))
            .values
    }

    #[test]
    fn exact_flow_map_satisfies_every_identity() {
        for path in ProbabilityPath::defaults() {
            let model = analytic::example_gaussian(path.curve().expect("right"));
            let x = points(&model, 4);
            for (steps, back) in [(1, false), (3, false), (3, true)] {
                let mut times =
                    flow_map::flow_map_times(&model.curve, None, 2 * steps).expect("right");
                let mut start = x.clone();
                if back {
                    start = flow_map::apply_flow_map_steps(
                        &mut model.clone(),
                        &model.curve,
                        &times,
                        FlowMapStepRule::TwoTime,
                        &[0, 1, 2, 3],
                        x.clone(),
                    )
                    .expect("analytic")
                    .x;
                    times.reverse();
                }
                let setting = FlowMapCheckSetting {
                    curve: &model.curve,
                    times: &times,
                    both_ways: true,
                };
                let all =
                    flow_map_residuals(&mut model.clone(), None, &setting, &[0, 1, 2, 3], start)
                        .expect("analytic");
                assert_eq!(all.len(), 6);
                for residual in all {
                    let worst = residual.values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                    assert!(
                        worst < 1e-9,
                        "{path:?} {steps} {back} {}: {worst}",
                        residual.check
                    );
                }
            }
        }
    }

    /// The checks find a divergence that is a tenth too large, and by how much.
    #[test]
    fn wrong_divergence_shows_in_the_residuals() {
        let curve = ProbabilityPath::FlowMatching {
            data_at: 1,
            t_min: 0.3,
            t_max: 1.0,
        }
        .curve()
        .expect("right");
        let model = analytic::example_gaussian(curve.clone());
        let times = flow_map::flow_map_times(&curve, None, 6).expect("right");
        let setting = FlowMapCheckSetting {
            curve: &curve,
            times: &times,
            both_ways: true,
        };
        let all = flow_map_residuals(
            &mut Scaled(model.clone(), 1.1),
            None,
            &setting,
            &[0, 1, 2],
            points(&model, 3),
        )
        .expect("analytic");
        let mut total = [0.0; 3];
        let mut x = points(&model, 3);
        for pair in times.windows(3).step_by(2) {
            let (end, whole) = flow_map_step(&mut model.clone(), pair[0], pair[2], &[0, 1, 2], &x)
                .expect("analytic");
            total.iter_mut().zip(whole).for_each(|(t, w)| *t += 0.1 * w);
            x = end;
        }
        for (got, want) in of(&all, "log-determinant").iter().zip(total) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert!(
            of(&all, "semigroup-divergence")
                .iter()
                .all(|v| v.abs() < 1e-12),
            "it is still additive"
        );
        let rate = model
            .clone()
            .averages(Points::new(&[0], &[1.0], &points(&model, 1)), &[1.0])
            .expect("analytic")
            .divergence
            .expect("given");
        assert!(rate[0].abs() > 1.0 && of(&all, "diagonal").iter().any(|v| v.abs() > 1e-3));
    }

    /// An exact few-step density has mass one. With a divergence integral that is off by a constant
    /// c, it has mass e^c.
    #[test]
    fn density_mass_is_one_for_an_exact_map() {
        let curve = ProbabilityPath::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 0.6,
        }
        .curve()
        .expect("right");
        let model = analytic::example_gaussian(curve.clone());
        let at = curve.at(0.6);
        // The distribution at the prior end is not standard normal, so the density is that of the
        // pull-back, which still has mass one.
        let proposal = MassProposal::new(points(&model, 400));
        let x = proposal.draw(RngKey { seed: 9 }, 0..4000);
        let times = flow_map::flow_map_times(&curve, None, 2).expect("right");
        let total: f64 = (&model.variance * at.alpha.powi(2) + at.sigma.powi(2))
            .mapv(f64::ln)
            .sum()
            * 0.5
            - 0.5 * model.variance.mapv(f64::ln).sum();
        for (scale, want) in [(1.0, 1.0), (1.5, (0.5 * total).exp())] {
            let mut map = Scaled(model.clone(), scale);
            let samples: Vec<SampleId> = (0..4000).collect();
            let found = importance_weights(
                &mut map,
                &curve,
                Prior::isotropic(1.0),
                &times,
                &proposal,
                &samples,
                &x,
            )
            .expect("analytic");
            let mass = density_mass(&found).expect("draws");
            let error = mass.estimate.stderr.expect("many");
            assert!(
                (mass.estimate.value - want).abs() < 4.0 * error,
                "{scale}: {mass:?}, expected {want}"
            );
            assert!(
                error < 0.05 * want && mass.effective_draws > 400.0,
                "{mass:?}"
            );
        }
    }

    #[test]
    fn flow_map_checks_are_listed_in_order() {
        let model =
            analytic::example_gaussian(ProbabilityPath::defaults()[5].curve().expect("right"));
        let times = flow_map::flow_map_times(&model.curve, None, 2).expect("right");
        let setting = FlowMapCheckSetting {
            curve: &model.curve,
            times: &times,
            both_ways: true,
        };
        let example = analytic::example_mixture(model.curve.clone(), 3);
        let mut velocity: Box<dyn JacobianOperator> = Box::new(example);
        let found = flow_map_residuals(
            &mut model.clone(),
            Some(&mut *velocity),
            &setting,
            &[0, 1],
            points(&model, 2),
        )
        .expect("analytic");
        let named: Vec<&str> = found
            .iter()
            .map(|r| r.check)
            .chain(["normalization"])
            .collect();
        assert_eq!(named, FLOW_MAP_CHECKS);
    }
}
