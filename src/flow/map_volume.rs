//! The volume of flow maps: exact log-determinants of their steps, and their inverses.
//!
//! One step X(x) = x + (t' − t)·u(x, t, t') has the Jacobian J = I + (t' − t)·∂u/∂x, which takes a
//! product with every unit vector. ln|det J| comes from its LU factorization in f64. A map that was
//! trained from noise to data is inverted by Newton's method with the same Jacobian.

use ndarray::{Array2, ArrayView1, Axis};

use super::centred::CentredSystem;
use super::field::{EvalError, FlowMap, Points};
use crate::num::key::SampleId;
use crate::num::{Batch, TangentBatch, linalg};
use crate::rows::Status;

/// The most values of tangents in one call: 32 MB in f64.
const MAX_TANGENT_VALUES: usize = 1 << 22;

/// The most iterations of Newton's method for one step.
const MAX_ITERATIONS: usize = 50;

/// The most halvings of one Newton step.
const MAX_HALVINGS: usize = 12;

/// The largest residual of an inverse, as the root mean square over the components relative to one
/// plus that of the end state, under which a sample has a likelihood. A network in f32 reaches 1e-6.
pub const MAX_INVERSE_RESIDUAL: f64 = 1e-5;

/// The residual at which an iteration ends: rounding in f64.
const SMALL_RESIDUAL: f64 = 1e-14;

/// The result of a walk along the steps of a map, for each sample.
#[derive(Debug, Clone, PartialEq)]
pub struct MapVolumeWalk {
    /// The states at the end of the walk.
    pub x: Batch,
    /// Σ ln|det ∂X/∂x| over the steps of the map in its own direction, in nats.
    pub log_volume: Vec<f64>,
    /// `ok`, `not-orientable` where a determinant is negative, `not-inverted` where an inverse was not
    /// found, or `non-finite`.
    pub status: Vec<Status>,
    /// The largest residual of the inverses, as the root mean square over the components; `None` if
    /// the map was applied in its own direction.
    pub inverse_residual: Option<Vec<f64>>,
    /// The number of evaluations of the map.
    pub evaluations: Vec<u64>,
    /// The number of Jacobian products.
    pub products: Vec<u64>,
}

impl MapVolumeWalk {
    fn new(x: Batch, inverse: bool) -> MapVolumeWalk {
        let rows = x.nrows();
        MapVolumeWalk {
            x,
            log_volume: vec![0.0; rows],
            status: vec![Status::Ok; rows],
            inverse_residual: inverse.then(|| vec![0.0; rows]),
            evaluations: vec![0; rows],
            products: vec![0; rows],
        }
    }

    /// Adds the volume of one step, whose Jacobian on the states' space is given for a row.
    fn add_volume(&mut self, row: usize, jacobian: &Array2<f64>) {
        let (log, sign) = linalg::log_abs_det(jacobian.view());
        self.log_volume[row] += log;
        let status = &mut self.status[row];
        if *status != Status::Ok {
        } else if !log.is_finite() {
            *status = Status::NonFinite;
        } else if sign < 0.0 {
            *status = Status::NotOrientable;
        }
    }
}

/// Moves every row of `x`, the states of `samples`, along `times` in the direction in which the map
/// is applied, and adds the logarithms of the determinants, on the subspace of a `centred` system.
///
/// # Errors
/// Fails if the map cannot be evaluated or was opened without its Jacobian.
pub fn walk_with_volume(
    map: &mut dyn FlowMap,
    centred: Option<CentredSystem>,
    times: &[f64],
    samples: &[SampleId],
    x: Batch,
) -> Result<MapVolumeWalk, EvalError> {
    let mut walk = MapVolumeWalk::new(x, false);
    let dim = walk.x.ncols() as u64;
    for pair in times.windows(2) {
        let step = MapStep::new(centred, pair[0], pair[1]);
        let jacobians = step.jacobians(map, samples, &walk.x)?;
        for (row, jacobian) in jacobians.iter().enumerate() {
            walk.add_volume(row, jacobian);
        }
        walk.x = step.apply(map, samples, &walk.x)?;
        for row in 0..samples.len() {
            walk.evaluations[row] += 1;
            walk.products[row] += dim;
            if walk.x.row(row).iter().any(|v| !v.is_finite()) {
                walk.status[row] = Status::NonFinite;
            }
        }
    }
    Ok(walk)
}

/// Inverts the walk along `times`: finds the states at the first time that the map takes to the rows
/// of `x` at the last time, step by step. The volumes are those of the map's own steps, so that
/// the log-density at `x` is that at the found states minus the sum.
///
/// # Errors
/// Fails if the map cannot be evaluated or was opened without its Jacobian.
pub fn invert_with_volume(
    map: &mut dyn FlowMap,
    centred: Option<CentredSystem>,
    times: &[f64],
    samples: &[SampleId],
    x: Batch,
) -> Result<MapVolumeWalk, EvalError> {
    let mut walk = MapVolumeWalk::new(x, true);
    for pair in times.windows(2).rev() {
        let step = MapStep::new(centred, pair[0], pair[1]);
        invert_step(map, step, samples, &mut walk)?;
    }
    Ok(walk)
}

/// One step of a map.
#[derive(Debug, Clone, Copy)]
struct MapStep {
    from: f64,
    to: f64,
    /// The system of particles on whose subspace the map is taken.
    centred: Option<CentredSystem>,
}

impl MapStep {
    fn new(centred: Option<CentredSystem>, from: f64, to: f64) -> MapStep {
        MapStep { from, to, centred }
    }

    /// The states at the end of the step.
    fn apply(
        self,
        map: &mut dyn FlowMap,
        samples: &[SampleId],
        x: &Batch,
    ) -> Result<Batch, EvalError> {
        let rows = x.nrows();
        let averages = map.averages(
            Points::new(samples, &vec![self.from; rows], x),
            &vec![self.to; rows],
        )?;
        let mut end = x + &(averages.velocity * (self.to - self.from));
        if let Some(system) = self.centred {
            system.project(&mut end);
        }
        Ok(end)
    }

    /// The Jacobian ∂X/∂x of every row, restricted to the subspace of a centred system.
    fn jacobians(
        self,
        map: &mut dyn FlowMap,
        samples: &[SampleId],
        x: &Batch,
    ) -> Result<Vec<Array2<f64>>, EvalError> {
        let (rows, dim) = x.dim();
        let mut found = vec![Array2::<f64>::eye(dim); rows];
        let chunk = (MAX_TANGENT_VALUES / (rows * dim).max(1)).clamp(1, dim.max(1));
        let (from, to) = (vec![self.from; rows], vec![self.to; rows]);
        let mut first = 0;
        while first < dim {
            let count = chunk.min(dim - first);
            let unit = |(k, _, j): (usize, usize, usize)| f64::from(u8::from(first + k == j));
            let tangents = TangentBatch::from_shape_fn((count, rows, dim), unit);
            let columns = map.jvp(Points::new(samples, &from, x), &to, &tangents)?;
            for (row, jacobian) in found.iter_mut().enumerate() {
                for k in 0..count {
                    let column = columns.index_axis(Axis(0), k);
                    jacobian
                        .column_mut(first + k)
                        .scaled_add(self.to - self.from, &column.row(row));
                }
            }
            first += count;
        }
        if let Some(system) = self.centred {
            for jacobian in &mut found {
                *jacobian = system.restricted_jacobian(jacobian);
            }
        }
        Ok(found)
    }
}

fn root_mean_square(values: ArrayView1<f64>) -> f64 {
    (values.dot(&values) / values.len().max(1) as f64).sqrt()
}

/// The search for the inverse of one step, for one row.
struct InverseSearch {
    /// The row in the batch.
    row: usize,
    /// The present guess, and its residual X(y) − x.
    guess: ndarray::Array1<f64>,
    residual: ndarray::Array1<f64>,
    size: f64,
    /// The Newton step and the share of it that is tried next.
    newton: ndarray::Array1<f64>,
    share: f64,
    halvings: usize,
}

/// Replaces the states of the walk by those that one step takes to them.
///
/// Newton's method starts at y = x − (t' − t)·u(x, t, t'). A Newton step that does not make the
/// residual smaller is halved. An iteration ends when no step makes it smaller: it has then reached
/// rounding, or it has failed, which its residual tells.
fn invert_step(
    map: &mut dyn FlowMap,
    step: MapStep,
    samples: &[SampleId],
    walk: &mut MapVolumeWalk,
) -> Result<(), EvalError> {
    let target = walk.x.clone();
    let dim = target.ncols();
    let alive: Vec<usize> = (0..samples.len())
        .filter(|row| walk.status[*row] == Status::Ok)
        .collect();
    if alive.is_empty() {
        return Ok(());
    }
    let ids = |rows: &[usize]| -> Vec<SampleId> { rows.iter().map(|row| samples[*row]).collect() };
    let begin = target.select(Axis(0), &alive);
    let guesses = &begin * 2.0 - step.apply(map, &ids(&alive), &begin)?;
    let ends = step.apply(map, &ids(&alive), &guesses)?;
    let mut searches: Vec<InverseSearch> = Vec::new();
    for (i, row) in alive.iter().enumerate() {
        walk.evaluations[*row] += 2;
        let residual = &ends.row(i) - &target.row(*row);
        let start = begin.row(i).to_owned();
        let usable = residual.iter().all(|v| v.is_finite());
        searches.push(InverseSearch {
            row: *row,
            size: if usable {
                root_mean_square(residual.view())
            } else {
                f64::INFINITY
            },
            guess: if usable {
                guesses.row(i).to_owned()
            } else {
                start
            },
            residual,
            newton: ndarray::Array1::zeros(dim),
            share: 0.0,
            halvings: 0,
        });
    }
    let mut jacobians: Vec<Option<Array2<f64>>> = vec![None; samples.len()];
    let scale: Vec<f64> = target
        .rows()
        .into_iter()
        .map(|row| 1.0 + root_mean_square(row))
        .collect();
    let mut active: Vec<usize> = (0..searches.len()).collect();
    for _ in 0..MAX_ITERATIONS {
        let rows: Vec<usize> = active.iter().map(|i| searches[*i].row).collect();
        let mut at = Batch::zeros((active.len(), dim));
        for (mut row, i) in at.rows_mut().into_iter().zip(&active) {
            row.assign(&searches[*i].guess);
        }
        let found = step.jacobians(map, &ids(&rows), &at)?;
        for (i, jacobian) in active.iter().zip(found) {
            let search = &mut searches[*i];
            walk.products[search.row] += dim as u64;
            search.newton = linalg::solve_lu(jacobian.view(), search.residual.view());
            search.share = 1.0;
            search.halvings = 0;
            jacobians[search.row] = Some(jacobian);
        }
        active.retain(|i| searches[*i].size > SMALL_RESIDUAL * scale[searches[*i].row]);
        // Every search tries its step, and halves it until the residual is smaller.
        let mut trying = active.clone();
        let mut moved = Vec::new();
        while !trying.is_empty() {
            let rows: Vec<usize> = trying.iter().map(|i| searches[*i].row).collect();
            let mut tried = Batch::zeros((trying.len(), dim));
            for (mut row, i) in tried.rows_mut().into_iter().zip(&trying) {
                let search = &searches[*i];
                row.assign(&(&search.guess - &(&search.newton * search.share)));
            }
            let ends = step.apply(map, &ids(&rows), &tried)?;
            let mut again = Vec::new();
            for (place, i) in trying.iter().enumerate() {
                let search = &mut searches[*i];
                walk.evaluations[search.row] += 1;
                let residual = &ends.row(place) - &target.row(search.row);
                let size = root_mean_square(residual.view());
                // Below the tolerance, a step that gains little is one of rounding.
                let settled = search.size <= MAX_INVERSE_RESIDUAL * scale[search.row];
                if size < search.size * if settled { 0.5 } else { 1.0 } {
                    search.guess = tried.row(place).to_owned();
                    search.residual = residual;
                    search.size = size;
                    moved.push(*i);
                } else if search.halvings < MAX_HALVINGS && !settled {
                    search.share *= 0.5;
                    search.halvings += 1;
                    again.push(*i);
                }
            }
            trying = again;
        }
        moved.sort_unstable();
        active = moved;
        if active.is_empty() {
            break;
        }
    }
    for search in searches {
        let row = search.row;
        walk.x.row_mut(row).assign(&search.guess);
        if let Some(residuals) = &mut walk.inverse_residual {
            residuals[row] = residuals[row].max(search.size);
        }
        if !search.size.is_finite() {
            walk.status[row] = Status::NonFinite;
        } else if search.size > MAX_INVERSE_RESIDUAL * scale[row] {
            walk.status[row] = Status::NotInverted;
        } else if let Some(jacobian) = &jacobians[row] {
            walk.add_volume(row, jacobian);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;

    use super::*;
    use crate::flow::field::FlowMapAverages;
    use crate::num::key::{Purpose, RngKey};

    /// A map whose whole step is Q·g(Qᵀx) with an orthogonal Q and g(y) = a·y + b·tanh(y) in every
    /// component. A part of the span has that part of the change.
    struct RotatedMap {
        rotation: Array2<f64>,
        slope: f64,
        bend: f64,
    }

    impl RotatedMap {
        fn new(dim: usize, slope: f64, bend: f64) -> RotatedMap {
            let noise = RngKey { seed: 8 }.normal(Purpose::Check, 1, 0, dim * dim);
            let square = noise
                .into_shape_with_order((dim, dim))
                .expect("dim² values");
            RotatedMap {
                rotation: linalg::thin_q(square.view()),
                slope,
                bend,
            }
        }

        /// The change of one component over a whole step, and its derivative.
        fn change(&self, y: f64) -> [f64; 2] {
            [
                (self.slope - 1.0) * y + self.bend * y.tanh(),
                self.slope - 1.0 + self.bend * (1.0 - y.tanh().powi(2)),
            ]
        }
    }

    impl FlowMap for RotatedMap {
        fn dim(&self) -> usize {
            self.rotation.nrows()
        }

        fn averages(&mut self, at: Points, _: &[f64]) -> Result<FlowMapAverages, EvalError> {
            let y = at.x.dot(&self.rotation);
            Ok(FlowMapAverages {
                velocity: y.mapv(|y| self.change(y)[0]).dot(&self.rotation.t()),
                divergence: None,
            })
        }

        fn divergence_gradient(
            &mut self,
            _: Points,
            _: &[f64],
        ) -> Result<(Vec<f64>, Batch), EvalError> {
            Err(EvalError::Missing("no divergence".to_owned()))
        }

        fn jvp(
            &mut self,
            at: Points,
            _: &[f64],
            z: &TangentBatch,
        ) -> Result<TangentBatch, EvalError> {
            let y = at.x.dot(&self.rotation);
            let mut out = z.clone();
            for (k, mut tangents) in out.axis_iter_mut(Axis(0)).enumerate() {
                let turned = z.index_axis(Axis(0), k).dot(&self.rotation);
                let scaled = turned * y.mapv(|y| self.change(y)[1]);
                tangents.assign(&scaled.dot(&self.rotation.t()));
            }
            Ok(out)
        }
    }

    fn states(rows: usize, dim: usize) -> (Vec<SampleId>, Batch) {
        let mut x = Batch::zeros((rows, dim));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row.assign(&RngKey { seed: 3 }.normal(Purpose::Check, i as u64, 0, dim));
        }
        ((0..rows as SampleId).collect(), x)
    }

    /// The volume is that of the known derivative, and the inverse finds the states again.
    #[test]
    fn volumes_and_inverses_of_nonlinear_maps_are_known() {
        for dim in [1, 2, 8, 39, 66] {
            let mut map = RotatedMap::new(dim, 0.7, 0.9);
            let (samples, x) = states(5, dim);
            let times = [1.0, 0.4, 0.0];
            let walk =
                walk_with_volume(&mut map, None, &times, &samples, x.clone()).expect("a walk");
            assert_eq!(walk.status, vec![Status::Ok; 5]);
            assert_eq!((walk.evaluations[0], walk.products[0]), (2, 2 * dim as u64));
            let mut want = Array1::<f64>::zeros(5);
            let mut y = x.dot(&map.rotation);
            for step in [-0.6, -0.4] {
                want += &y
                    .mapv(|y| (1.0 + step * map.change(y)[1]).abs().ln())
                    .sum_axis(Axis(1));
                y = y.mapv(|y| y + step * map.change(y)[0]);
            }
            for (found, want) in walk.log_volume.iter().zip(&want) {
                assert!((found - want).abs() < 1e-9, "{dim}: {found} {want}");
            }
            let back =
                invert_with_volume(&mut map, None, &times, &samples, walk.x).expect("an inverse");
            assert_eq!(back.status, vec![Status::Ok; 5]);
            let gap = (&back.x - &x).iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert!(gap < 1e-9, "{dim}: {gap}");
            for (found, want) in back.log_volume.iter().zip(&want) {
                assert!((found - want).abs() < 1e-8, "{dim}: {found} {want}");
            }
            let residuals = back.inverse_residual.expect("inverted");
            assert!(residuals.iter().all(|r| *r < 1e-12), "{residuals:?}");
        }
    }

    /// A reflection turns the orientation of an odd number of dimensions, which no flow does.
    #[test]
    fn reflections_are_named_and_folds_are_not_inverted() {
        let (samples, x) = states(3, 3);
        let times = [0.0, 1.0];
        let mut reflection = RotatedMap::new(3, -1.0, 0.0);
        let walk =
            walk_with_volume(&mut reflection, None, &times, &samples, x.clone()).expect("a walk");
        assert_eq!(walk.status, vec![Status::NotOrientable; 3]);
        // y − 3 tanh(y) reaches every value. 3 tanh(y) does not reach 4.
        let mut bounded = RotatedMap::new(3, 0.0, 3.0);
        let target = Batch::from_elem((1, 3), 4.0).dot(&bounded.rotation.t());
        let back =
            invert_with_volume(&mut bounded, None, &times, &samples[..1], target).expect("a walk");
        assert_ne!(back.status, vec![Status::Ok]);
    }
}
