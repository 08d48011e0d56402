//! The prior: the distribution N(0, std²·I) of the state at the prior end, on the subspace of zero
//! centre of mass where the model is one of a centred system.

use ndarray::Axis;

use super::centred::CentredSystem;
use crate::num::Batch;

/// An isotropic normal distribution with mean zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// The prior's standard deviation.
    pub std: f64,
    /// The system of particles on whose subspace the prior is defined; `None` for the whole space.
    pub centred: Option<CentredSystem>,
}

impl Prior {
    /// The prior N(0, std²·I) on the whole space.
    pub const fn isotropic(std: f64) -> Prior {
        Prior { std, centred: None }
    }

    /// The number of dimensions in which states with `values` numbers have a density.
    pub fn degrees_of_freedom(&self, values: usize) -> usize {
        self.centred
            .map_or(values, CentredSystem::degrees_of_freedom)
    }

    /// Returns noise on the prior's space: its projection onto the subspace of a centred system.
    pub fn project(&self, mut noise: Batch) -> Batch {
        if let Some(system) = self.centred {
            system.project(&mut noise);
        }
        noise
    }

    /// Returns the log-density of each row in nats.
    pub fn log_density(&self, x: &Batch) -> Vec<f64> {
        let d = self.degrees_of_freedom(x.ncols()) as f64;
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
        let prior = Prior::isotropic(2.0);
        let one = |v: f64| (-v * v / 8.0).exp() / (2.0 * (2.0 * std::f64::consts::PI).sqrt());
        for (row, got) in x.rows().into_iter().zip(prior.log_density(&x)) {
            let want: f64 = row.iter().map(|v| one(*v).ln()).sum();
            assert!((got - want).abs() < 1e-14);
        }
    }

    #[test]
    fn centred_systems_have_the_density_of_their_subspace() {
        let system = CentredSystem {
            particles: 2,
            dims: 1,
        };
        let prior = Prior {
            std: 1.5,
            centred: Some(system),
        };
        // The subspace of two particles on a line is spanned by (1, −1)/√2.
        let x = ndarray::array![[0.8, -0.8]];
        let along = 0.8 * 2f64.sqrt() / 1.5;
        let want = -0.5 * along * along - (1.5 * std::f64::consts::TAU.sqrt()).ln();
        assert!((prior.log_density(&x)[0] - want).abs() < 1e-14);
        assert_eq!(
            prior.project(ndarray::array![[3.0, 1.0]]),
            ndarray::array![[1.0, -1.0]]
        );
    }
}
