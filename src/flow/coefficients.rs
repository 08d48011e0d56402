//! The coefficients of a probability path at one time.

/// The coefficients of a path at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathCoefficients {
    /// α, the scale of the data.
    pub alpha: f64,
    /// σ, the standard deviation of the noise.
    pub sigma: f64,
    /// dα/dt in the card's time.
    pub alpha_dot: f64,
    /// dσ/dt in the card's time.
    pub sigma_dot: f64,
}

impl PathCoefficients {
    /// Returns λ = ln(α/σ), half the logarithm of the signal-to-noise ratio.
    pub fn half_log_snr(&self) -> f64 {
        (self.alpha / self.sigma).ln()
    }
}

/// Returns the coefficients with α² + σ² = 1; `exp_m1` keeps σ accurate near the data end.
pub(super) fn variance_preserving(log_alpha: f64, slope: f64) -> PathCoefficients {
    let alpha = log_alpha.exp();
    let sigma = (-(2.0 * log_alpha).exp_m1()).sqrt();
    PathCoefficients {
        alpha,
        sigma,
        alpha_dot: slope * alpha,
        sigma_dot: -slope * alpha * alpha / sigma,
    }
}
