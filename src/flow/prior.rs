//! The prior: the distribution N(0, std²·I) of the state at the prior end.

use ndarray::Axis;

use crate::num::Batch;

/// An isotropic normal distribution with mean zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// The prior's standard deviation.
    pub std: f64,
}

impl Prior {
    /// Returns the log-density of each row in nats.
    pub fn log_density(&self, x: &Batch) -> Vec<f64> {
        let d = x.ncols() as f64;
        let constant = -0.5 * d * (2.0 * std::f64::consts::PI).ln() - d * self.std.ln();
        x.map_axis(Axis(1), |row| {
            constant - 0.5 * row.dot(&row) / (self.std * self.std)
        })
        .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_normal_density() {
        let x = ndarray::array![[0.3, -1.0], [2.0, 0.5]];
        let prior = Prior { std: 2.0 };
        let one = |v: f64| (-v * v / 8.0).exp() / (2.0 * (2.0 * std::f64::consts::PI).sqrt());
        for (row, got) in x.rows().into_iter().zip(prior.log_density(&x)) {
            let want: f64 = row.iter().map(|v| one(*v).ln()).sum();
            assert!((got - want).abs() < 1e-14);
        }
    }
}
