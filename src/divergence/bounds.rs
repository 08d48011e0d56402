//! The settings of variational bounds, which need neither a solver nor a divergence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::registry;

/// How the times of a continuous bound are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum BoundTimes {
    /// The log-SNR is divided into equal parts, and each part has the same number of draws.
    #[default]
    Stratified,
    /// The log-SNR of every draw is independent and uniform.
    Uniform,
    /// A quarter of the draws is stratified. The others are drawn where these differ most from a
    /// normal distribution, with weights that keep the estimate unbiased.
    Importance,
}

/// The continuous variational lower bound of the log-density, from denoising errors at random times
/// (Kingma et al. 2021, "Variational Diffusion Models").
///
/// −log p(x₀) ≤ KL(q(x_T|x₀) ‖ π) + ½∫ E‖ε − ε̂(x_t, t)‖² dλ + E\[−log p(x₀|x_t₀)\], with the log-SNR
/// λ = ln(α²/σ²). The bound is tight for the exact score if the prior is the true distribution at
/// the prior end. Only the difference from a normal distribution as large as the sample is
/// estimated; the rest is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContinuousBound {
    /// The number of evaluations of the network per sample, a multiple of 4. Default: 32. Pairs of
    /// them have opposite noise at the same time.
    pub draws: usize,
    /// How the times are drawn. Default: `stratified`.
    pub times: BoundTimes,
}

impl Default for ContinuousBound {
    fn default() -> Self {
        ContinuousBound {
            draws: 32,
            times: BoundTimes::default(),
        }
    }
}

impl ContinuousBound {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Fails if the number of draws is invalid. The message says what is expected.
    pub(super) fn check(&self) -> Result<(), String> {
        let least = match self.times {
            BoundTimes::Importance => 8,
            _ => 4,
        };
        registry::check_bounds("nelbo: draws", self.draws, least, 1 << 20)?;
        match self.draws % 4 {
            0 => Ok(()),
            _ => Err(format!(
                "nelbo: draws is {}, expected a multiple of 4: two pairs of opposite noise in every \
                 part of the log-SNR",
                self.draws
            )),
        }
    }
}

/// The variance of the reverse steps under a discrete bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum ReverseVariance {
    /// β̃, the variance of the true reverse step for a known x₀.
    #[default]
    FixedSmall,
    /// β, the variance of the forward step.
    FixedLarge,
    /// exp(f ln β + (1 − f) ln β̃) with f = (output + 1)/2 from the card's
    /// `network.variance_channels`, as improved-diffusion learns it.
    Learned,
}

/// The probability of the data given the last step of a discrete bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum BoundDecoder {
    /// The mass of a normal distribution between the midpoints to the neighbouring levels, with the
    /// approximate distribution function of the DDPM and improved-diffusion codes. For integers.
    #[default]
    Discretized,
    /// The same with the exact distribution function.
    DiscretizedExact,
    /// The normal density. The bound is one of the log-density of floats or dequantized integers.
    Continuous,
}

/// The discrete variational lower bound of DDPM and improved-diffusion (Ho et al. 2020, Nichol &
/// Dhariwal 2021): KL(q(x_T|x₀) ‖ π) + Σ KL(q(x_{t−1}|x_t, x₀) ‖ p(x_{t−1}|x_t)) − ln p(x₀|x₁).
///
/// With a discretized decoder it bounds the log-probability of the integers themselves, so that
/// bits per dimension have no offset. The path must be `discrete`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscreteBound {
    /// The variance of the reverse steps. Default: `fixed-small`.
    pub variance: ReverseVariance,
    /// The probability of the data given the last step. Default: `discretized`.
    pub decoder: BoundDecoder,
    /// The number of evaluations, an even number: two of the last step, and a stratified subset of the
    /// others. Default: every step of the path once, and the last one twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Whether the estimate of x₀ is limited to the range of the card's data, as in both codes.
    /// Default: true where the card says a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<bool>,
}

impl DiscreteBound {
    /// Whether the bound is one of the probability of integers.
    pub fn is_discretized(&self) -> bool {
        self.decoder != BoundDecoder::Continuous
    }

    /// The number of calls of the network for one sample: two for every step with a learned variance,
    /// because the variances are read by a call of their own. 0 if the path is not discrete.
    pub fn evaluations(&self, curve: &PathCurve) -> u64 {
        let ProbabilityPath::Discrete { steps, .. } = curve.path() else {
            return 0;
        };
        let calls = 1 + u64::from(self.variance == ReverseVariance::Learned);
        self.steps.unwrap_or(*steps + 1) as u64 * calls
    }

    /// Checks the parameters that depend on no path.
    ///
    /// # Errors
    /// Fails if the number of steps is invalid for every path. The message says what is expected.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_steps(1 << 20)
    }

    /// Checks the number of steps for a path with `all` steps.
    ///
    /// # Errors
    /// Fails if the number is invalid. The message says what is expected.
    pub fn check_steps(&self, all: usize) -> Result<(), String> {
        let Some(steps) = self.steps else {
            return Ok(());
        };
        registry::check_bounds("vlb: steps", steps, 4, all + 1)?;
        match steps % 2 {
            0 => Ok(()),
            _ => Err(format!(
                "vlb: steps is {steps}, expected an even number: two of the last step, and two in \
                 every part of the others"
            )),
        }
    }
}
