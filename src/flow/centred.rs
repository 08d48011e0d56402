//! Systems of particles with their centre of mass at zero.
//!
//! The states of n particles in k dimensions with zero centre lie in a subspace of (n − 1)·k
//! dimensions. Densities are those on this subspace, divergences are traces of P J P with the
//! projector P onto it, and noise is projected.

use ndarray::{Array2, ArrayViewMut1, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::num::{Batch, TangentBatch};

/// Particles whose centre of mass is at zero. A state holds the coordinates of the first particle,
/// then those of the second one, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CentredSystem {
    /// The number of particles, at least 2.
    pub particles: usize,
    /// The number of dimensions in which they move.
    pub dims: usize,
}

impl CentredSystem {
    /// Checks that states with `values` numbers are such a system's.
    ///
    /// # Errors
    /// Fails if they are not. The message says what is expected.
    pub fn check(self, values: usize) -> Result<(), String> {
        if self.particles < 2 || self.dims < 1 {
            return Err(format!(
                "centred: {} particles in {} dimensions, expected at least 2 and 1",
                self.particles, self.dims
            ));
        }
        match self.particles.checked_mul(self.dims) == Some(values) {
            true => Ok(()),
            false => Err(format!(
                "centred: {} particles in {} dimensions have {} coordinates, but `shape` has {values}",
                self.particles,
                self.dims,
                self.particles.saturating_mul(self.dims)
            )),
        }
    }

    /// The number of dimensions of the subspace, (n − 1)·k.
    pub fn degrees_of_freedom(self) -> usize {
        (self.particles - 1) * self.dims
    }

    /// Subtracts the centre of mass of one state.
    fn center(self, mut row: ArrayViewMut1<f64>) {
        for axis in 0..self.dims {
            let particles = (0..self.particles).map(|i| i * self.dims + axis);
            let mean = particles.clone().map(|i| row[i]).sum::<f64>() / self.particles as f64;
            particles.for_each(|i| row[i] -= mean);
        }
    }

    /// Subtracts the centre of mass of every row.
    pub fn project(self, x: &mut Batch) {
        x.rows_mut().into_iter().for_each(|row| self.center(row));
    }

    /// Directions projected onto the subspace.
    pub fn project_tangents(self, z: &TangentBatch) -> TangentBatch {
        let mut projected = z.clone();
        for mut directions in projected.axis_iter_mut(Axis(0)) {
            for row in directions.rows_mut() {
                self.center(row);
            }
        }
        projected
    }

    /// The matrix P J P + I − P, whose determinant is that of J on the subspace.
    pub fn restricted_jacobian(self, jacobian: &Array2<f64>) -> Array2<f64> {
        // P J P is J with every column centred, and then every row.
        let mut restricted = jacobian.clone();
        restricted
            .columns_mut()
            .into_iter()
            .for_each(|column| self.center(column));
        restricted
            .rows_mut()
            .into_iter()
            .for_each(|row| self.center(row));
        for a in 0..self.particles {
            for b in 0..self.particles {
                for axis in 0..self.dims {
                    restricted[[a * self.dims + axis, b * self.dims + axis]] +=
                        1.0 / self.particles as f64;
                }
            }
        }
        restricted
    }

    /// The largest distance of a row's centre from zero, relative to the root mean square of the row.
    pub fn largest_offset(self, x: &Batch) -> f64 {
        let mut centred = x.clone();
        self.project(&mut centred);
        let gap = |i: usize| {
            let (row, centred) = (x.row(i), centred.row(i));
            let moved = &row - &centred;
            let scale = row.dot(&row).sqrt();
            if scale > 0.0 {
                moved.dot(&moved).sqrt() / scale
            } else {
                0.0
            }
        };
        (0..x.nrows()).map(gap).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::linalg;

    const SYSTEM: CentredSystem = CentredSystem {
        particles: 3,
        dims: 2,
    };

    #[test]
    fn centres_are_subtracted_along_every_axis() {
        let mut x = ndarray::array![[1.0, 2.0, 3.0, 5.0, 5.0, 8.0]];
        let moved = SYSTEM.largest_offset(&x);
        SYSTEM.project(&mut x);
        assert_eq!(x, ndarray::array![[-2.0, -3.0, 0.0, 0.0, 2.0, 3.0]]);
        assert!(moved > 0.5 && SYSTEM.largest_offset(&x) < 1e-15);
        assert_eq!(SYSTEM.degrees_of_freedom(), 4);
        assert!(SYSTEM.check(6).is_ok() && SYSTEM.check(5).is_err());
    }

    /// The determinant on the subspace is that in an orthonormal basis of it.
    #[test]
    fn determinants_are_those_on_the_subspace() {
        let jacobian = Array2::from_shape_fn((6, 6), |(i, j)| {
            f64::from(u8::from(i == j)) + 0.3 * ((3 * i + 5 * j) as f64).sin()
        });
        let mut spanning = Array2::from_shape_fn((4, 6), |(i, j)| {
            ((i * j + i * i) as f64 * 1.3 + j as f64).sin()
        });
        SYSTEM.project(&mut spanning);
        let basis = linalg::thin_q(spanning.t());
        let inside = basis.t().dot(&jacobian).dot(&basis);
        let want = linalg::log_abs_det(inside.view());
        let found = linalg::log_abs_det(SYSTEM.restricted_jacobian(&jacobian).view());
        assert!(
            (found.0 - want.0).abs() < 1e-12 && found.1 == want.1,
            "{found:?} {want:?}"
        );
    }
}
