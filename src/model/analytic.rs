//! Analytic models with known answers, for tests and for `flowgauge doctor`.

use std::f64::consts::TAU;

use ndarray::{Array1, Array2, ArrayView1, Axis};

use crate::flow::field::{
    EvalError, FlowMap, FlowMapAverages, JacobianOperator, Points, ScalarField, VectorField,
};
use crate::flow::network_velocity::{
    ForwardNetwork, NetworkJacobianOperator, NetworkVelocity, Parameterization,
};
use crate::flow::path::{PathCoefficients, PathCurve};
use crate::flow::preconditioning::{Preconditioning, PreconditioningScales};
use crate::flow::prediction::Prediction;
use crate::num::{Batch, TangentBatch};

/// A Gaussian mixture with isotropic components, moved along any path. Its score, velocity,
/// Jacobian and log-density have closed forms at all times (T5 of the project's test cases).
///
/// At time t component k is N(α m_k, V_k I) with V_k = α² c_k + σ².
#[derive(Debug, Clone)]
pub struct AnalyticMixture {
    /// The path.
    pub curve: PathCurve,
    /// The weights of the components; their sum is 1.
    pub weights: Vec<f64>,
    /// The means m_k of the components, components × dimension.
    pub means: Array2<f64>,
    /// The variances c_k of the components.
    pub variances: Vec<f64>,
}

impl AnalyticMixture {
    /// Returns the quantities of every component at time `t` and state `x`.
    fn component_terms(&self, t: f64, x: ArrayView1<f64>) -> AnalyticMixtureTerms {
        let PathCoefficients { alpha, sigma, .. } = self.curve.at(t);
        let d = x.len() as f64;
        let v: Vec<f64> = self
            .variances
            .iter()
            .map(|c| alpha * alpha * c + sigma * sigma)
            .collect();
        let gain: Vec<f64> = self
            .variances
            .iter()
            .zip(&v)
            .map(|(c, v)| alpha * c / v)
            .collect();
        let mut scores = Array2::zeros(self.means.raw_dim());
        let mut denoised = Array2::zeros(self.means.raw_dim());
        let mut logs = Vec::with_capacity(v.len());
        for k in 0..v.len() {
            let mean = self.means.row(k);
            let gap = &x - &(&mean * alpha);
            logs.push(
                self.weights[k].ln() - 0.5 * d * (TAU * v[k]).ln() - 0.5 * gap.dot(&gap) / v[k],
            );
            denoised.row_mut(k).assign(&(&gap * gain[k] + mean));
            scores.row_mut(k).assign(&(gap / -v[k]));
        }
        let top = logs.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let log_density = top + logs.iter().map(|l| (l - top).exp()).sum::<f64>().ln();
        let r: Array1<f64> = logs.iter().map(|l| (l - log_density).exp()).collect();
        AnalyticMixtureTerms {
            variances: v,
            gains: gain,
            score: r.dot(&scores),
            scores,
            denoised,
            responsibilities: r,
            log_density,
        }
    }

    /// Returns log p_t(x) in nats.
    pub fn log_density(&self, t: f64, x: ArrayView1<f64>) -> f64 {
        self.component_terms(t, x).log_density
    }
}

/// The quantities of a mixture's components at one time and state.
struct AnalyticMixtureTerms {
    /// The posterior probabilities r_k of the components.
    responsibilities: Array1<f64>,
    /// The variances V_k.
    variances: Vec<f64>,
    /// The gains α c_k / V_k.
    gains: Vec<f64>,
    /// The components' scores g_k, components × dimension.
    scores: Array2<f64>,
    /// The components' denoised means D_k, components × dimension.
    denoised: Array2<f64>,
    /// The score s = Σ r_k g_k of the mixture.
    score: Array1<f64>,
    /// log p_t(x) in nats.
    log_density: f64,
}

/// The weights of a quantity p_d·D + p_s·s of the denoiser D and the score s. Every prediction is
/// of this form.
#[derive(Debug, Clone, Copy)]
struct PredictionWeights {
    /// The weight p_d of the denoiser.
    denoised: f64,
    /// The weight p_s of the score.
    score: f64,
}

/// Returns the weights of a prediction, from ε = −σs and v = α'D − σ'σs.
///
/// They are finite at both ends of every path. A conversion from one prediction to another would
/// divide by zero there.
fn prediction_weights(prediction: Prediction, s: &PathCoefficients) -> PredictionWeights {
    let (denoised, score) = match prediction {
        Prediction::Denoised => (1.0, 0.0),
        Prediction::Noise => (0.0, -s.sigma),
        Prediction::Velocity => (s.alpha_dot, -s.sigma_dot * s.sigma),
        Prediction::Score => (0.0, 1.0),
        Prediction::V => (-s.sigma, -s.alpha * s.sigma),
    };
    PredictionWeights { denoised, score }
}

impl AnalyticMixture {
    /// Returns a prediction for each row, rows × dim.
    fn predict(&self, prediction: Prediction, t: &[f64], x: &Batch) -> Batch {
        let mut out = Batch::zeros(x.raw_dim());
        for (i, row) in x.rows().into_iter().enumerate() {
            let (mix, parts) = (
                prediction_weights(prediction, &self.curve.at(t[i])),
                self.component_terms(t[i], row),
            );
            out.row_mut(i).assign(
                &(parts.responsibilities.dot(&parts.denoised) * mix.denoised
                    + &parts.score * mix.score),
            );
        }
        out
    }

    /// Returns products with the Jacobian of a prediction, k × rows × dim.
    ///
    /// With dr_k = r_k (g_k − s)·z the products are dD = Σ r_k gain_k z + Σ dr_k D_k and
    /// ds = −Σ r_k/V_k z + Σ dr_k g_k.
    fn prediction_jvp(
        &self,
        prediction: Prediction,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> TangentBatch {
        let mut out = TangentBatch::zeros(z.raw_dim());
        for (i, row) in x.rows().into_iter().enumerate() {
            let (mix, p) = (
                prediction_weights(prediction, &self.curve.at(t[i])),
                self.component_terms(t[i], row),
            );
            let flat: f64 = (0..p.variances.len())
                .map(|k| {
                    p.responsibilities[k] * (mix.denoised * p.gains[k] - mix.score / p.variances[k])
                })
                .sum();
            for (block, mut target) in z.outer_iter().zip(out.outer_iter_mut()) {
                let z = block.row(i);
                let mut product = &z * flat;
                for k in 0..p.variances.len() {
                    let dr = p.responsibilities[k] * (&p.scores.row(k) - &p.score).dot(&z);
                    product.scaled_add(dr * mix.denoised, &p.denoised.row(k));
                    product.scaled_add(dr * mix.score, &p.scores.row(k));
                }
                target.row_mut(i).assign(&product);
            }
        }
        out
    }
}

impl VectorField for AnalyticMixture {
    fn is_smooth(&self) -> bool {
        true
    }

    fn dim(&self) -> usize {
        self.means.ncols()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        Ok(self.predict(Prediction::Velocity, t, x))
    }
}

impl JacobianOperator for AnalyticMixture {
    fn dim(&self) -> usize {
        self.means.ncols()
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, x, .. } = at;
        Ok(self.prediction_jvp(Prediction::Velocity, t, x, z))
    }

    /// Returns Jᵀ·w = J·w: the velocity is a gradient, so its Jacobian is symmetric.
    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.jvp(at, w).map(Some)
    }
}

/// The mixture as a network F. Its prediction is P(x) = skip·x + out·F(input·x), with the scalings
/// of the parameterization.
#[derive(Debug, Clone)]
pub struct AnalyticNetwork {
    /// The mixture.
    pub mixture: AnalyticMixture,
    /// The prediction of the network and the scalings around it.
    pub parameterization: Parameterization,
}

impl AnalyticNetwork {
    /// Returns the velocity of a network with the given prediction and scalings.
    pub fn as_velocity(
        mixture: AnalyticMixture,
        prediction: Prediction,
        preconditioning: Option<Preconditioning>,
    ) -> NetworkVelocity<AnalyticNetwork> {
        let form = Parameterization {
            centred: None,
            curve: mixture.curve.clone(),
            prediction,
            preconditioning,
        };
        NetworkVelocity {
            network: AnalyticNetwork {
                mixture,
                parameterization: form.clone(),
            },
            parameterization: form,
        }
    }

    /// Returns the scalings at time `t`.
    fn scales(&self, t: f64) -> PreconditioningScales {
        let plain = PreconditioningScales {
            skip: 0.0,
            out: 1.0,
            input: 1.0,
        };
        self.parameterization
            .preconditioning
            .map_or(plain, |p| p.at(&self.mixture.curve.at(t)))
    }

    /// Returns the states whose scaled values are `fed`.
    fn unscaled_state(&self, t: &[f64], fed: &Batch) -> Batch {
        let mut x = fed.clone();
        x.rows_mut()
            .into_iter()
            .zip(t)
            .for_each(|(mut row, t)| row /= self.scales(*t).input);
        x
    }
}

impl ForwardNetwork for AnalyticNetwork {
    fn is_smooth(&self) -> bool {
        true
    }

    fn dim(&self) -> usize {
        self.mixture.means.ncols()
    }

    fn forward(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x: fed, .. } = at;
        let x = self.unscaled_state(t, fed);
        let mut f = self
            .mixture
            .predict(self.parameterization.prediction, t, &x);
        for (i, mut row) in f.rows_mut().into_iter().enumerate() {
            let scales = self.scales(t[i]);
            row.scaled_add(-scales.skip, &x.row(i));
            row /= scales.out;
        }
        Ok(f)
    }
}

impl NetworkJacobianOperator for AnalyticNetwork {
    fn dim(&self) -> usize {
        self.mixture.means.ncols()
    }

    /// Returns J_F·z with J_F = (J_P − skip·I)/(out·input).
    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, x: fed, .. } = at;
        let mut products = self.mixture.prediction_jvp(
            self.parameterization.prediction,
            t,
            &self.unscaled_state(t, fed),
            z,
        );
        for (i, t) in t.iter().enumerate() {
            let scales = self.scales(*t);
            let mut row = products.index_axis_mut(Axis(1), i);
            row.scaled_add(-scales.skip, &z.index_axis(Axis(1), i));
            row /= scales.out * scales.input;
        }
        Ok(products)
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.jvp(at, w).map(Some)
    }
}

/// The exact log-density at any time, as a scalar field.
impl ScalarField for AnalyticMixture {
    fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
        let Points { t, x, .. } = at;
        Ok(x.rows()
            .into_iter()
            .zip(t)
            .map(|(row, t)| self.log_density(*t, row))
            .collect())
    }
}

/// Gaussian data N(m, diag c) moved along any path, with the flow map in closed form (T1, T2 and
/// T13 of the project's test cases).
///
/// X(x, t, s) = α_s m + (S_s/S_t)^½ (x − α_t m) and ∫div = ½ ln(det S_s/det S_t), with
/// S = α² c + σ².
#[derive(Debug, Clone)]
pub struct AnalyticGaussian {
    /// The path.
    pub curve: PathCurve,
    /// The mean m of the data.
    pub mean: Array1<f64>,
    /// The variances c of the data's components.
    pub variance: Array1<f64>,
}

impl AnalyticGaussian {
    /// Returns the diagonal of S for the given α and σ.
    fn variance_at(&self, s: &PathCoefficients) -> Array1<f64> {
        &self.variance * (s.alpha * s.alpha) + s.sigma * s.sigma
    }

    /// Returns the diagonal of ∂u/∂x. The matrix is diagonal and does not depend on x.
    fn jacobian_diagonal(&self, from: f64, to: f64) -> Array1<f64> {
        let (a, b) = (self.curve.at(from), self.curve.at(to));
        let (first, last) = (self.variance_at(&a), self.variance_at(&b));
        if from == to {
            let rate = &self.variance * (a.alpha * a.alpha_dot) + a.sigma * a.sigma_dot;
            return rate / first;
        }
        let stretch = (&last / &first).mapv(f64::sqrt);
        // The form (S_s − S_t)/(S_t(√(S_s/S_t) + 1)) avoids the cancellation of √(S_s/S_t) − 1 for
        // times that are close to each other.
        (last - &first) / (first * (stretch + 1.0)) / (to - from)
    }
}

impl FlowMap for AnalyticGaussian {
    fn dim(&self) -> usize {
        self.mean.len()
    }

    fn averages(&mut self, at: Points, to: &[f64]) -> Result<FlowMapAverages, EvalError> {
        let Points { t: from, x, .. } = at;
        let mut velocity = Batch::zeros(x.raw_dim());
        let mut divergence = Vec::with_capacity(x.nrows());
        for (i, row) in x.rows().into_iter().enumerate() {
            let (t, s) = (from[i], to[i]);
            let (a, b) = (self.curve.at(t), self.curve.at(s));
            let slope = self.jacobian_diagonal(t, s);
            let drift = if t == s {
                a.alpha_dot
            } else {
                (b.alpha - a.alpha) / (s - t)
            };
            let u = &self.mean * drift + &slope * (&row - &(&self.mean * a.alpha));
            velocity.row_mut(i).assign(&u);
            divergence.push(match t == s {
                true => slope.sum(),
                // ½ ln(S_s/S_t) = ln(1 + (s − t)·slope).
                false => slope.mapv(|k| (k * (s - t)).ln_1p()).sum() / (s - t),
            });
        }
        Ok(FlowMapAverages {
            velocity,
            divergence: Some(divergence),
        })
    }

    /// Returns D and a gradient of zero, because the divergence does not depend on x.
    fn divergence_gradient(
        &mut self,
        at: Points,
        to: &[f64],
    ) -> Result<(Vec<f64>, Batch), EvalError> {
        let x = at.x;
        let divergence = self.averages(at, to)?.divergence.unwrap_or_default();
        Ok((divergence, Batch::zeros(x.raw_dim())))
    }

    fn jvp(&mut self, at: Points, to: &[f64], z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t: from, .. } = at;
        let mut out = z.clone();
        for (i, mut rows) in out.axis_iter_mut(ndarray::Axis(1)).enumerate() {
            rows *= &self.jacobian_diagonal(from[i], to[i]);
        }
        Ok(out)
    }
}

/// Returns T2 of the project's test cases: data N(m, C) with m = (.5, −1, 0) and
/// C = diag(.25, 1, 4).
pub fn example_gaussian(curve: PathCurve) -> AnalyticGaussian {
    let (mean, variance) = (
        ndarray::array![0.5, -1.0, 0.0],
        ndarray::array![0.25, 1.0, 4.0],
    );
    AnalyticGaussian {
        curve,
        mean,
        variance,
    }
}

/// Returns a mixture of three components in `d` dimensions.
pub fn example_mixture(curve: PathCurve, d: usize) -> AnalyticMixture {
    let means = Array2::from_shape_fn((3, d), |(k, j)| {
        ((k as f64 + 1.0) * (j as f64 + 0.7)).sin() * 1.2
    });
    AnalyticMixture {
        curve,
        weights: vec![0.5, 0.3, 0.2],
        means,
        variances: vec![0.05, 0.12, 0.3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;

    #[test]
    fn jvp_matches_central_differences() {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("defaults are right");
            let t = curve.data_end() + 0.3 * (curve.prior_end() - curve.data_end());
            let mut model = example_mixture(curve, 4);
            let x = ndarray::array![[0.3, -0.5, 1.0, 0.1]];
            let z = ndarray::array![[[0.7, -0.2, 0.4, 1.1]]];
            let direction = z.index_axis(Axis(0), 0).to_owned();
            let h = 1e-5;
            let ahead = model
                .velocity(Points::of_first_samples(&[t], &(&x + &(&direction * h))))
                .expect("analytic");
            let behind = model
                .velocity(Points::of_first_samples(&[t], &(&x - &(&direction * h))))
                .expect("analytic");
            let expected = (ahead - behind) / (2.0 * h);
            let got = model
                .jvp(Points::of_first_samples(&[t], &x), &z)
                .expect("analytic");
            for (g, e) in got.iter().zip(expected.iter()) {
                assert!((g - e).abs() < 1e-6 * (1.0 + e.abs()), "{path:?} {g} {e}");
            }
        }
    }
}
