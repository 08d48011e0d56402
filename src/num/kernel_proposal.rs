//! A proposal for importance sampling that is made from samples: kernels of a local width with heavy
//! tails.

use ndarray::{Array1, ArrayView1, Axis};

use super::Batch;
use super::key::{Purpose, RngKey};

/// A mixture of Student's t distributions, from which states are drawn where samples are.
///
/// Nine tenths are a kernel at each of at most [`MAX_KERNELS`] samples, whose width is 0.8 times the
/// root mean square per dimension of the distance to the √n-th nearest sample. The rest is one
/// distribution with twice the samples' standard deviations, which finds mass away from them. All
/// have 5 degrees of freedom, so that the weights of a density with normal tails are bounded.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelProposal {
    /// The samples in units of `scale`, kernels × dim.
    centres: Batch,
    /// The width of each kernel, in units of `scale`.
    widths: Vec<f64>,
    /// The mean of the samples, in units of `scale`.
    mean: Array1<f64>,
    /// The standard deviation of each dimension.
    scale: Array1<f64>,
}

/// The largest number of kernels. More samples would cost more than they improve.
pub const MAX_KERNELS: usize = 1024;

/// The share of draws that come from the wide distribution.
const WIDE_SHARE: f64 = 0.1;

/// The standard deviations of the wide distribution, in those of the samples.
const WIDE_FACTOR: f64 = 2.0;

/// The factor from the local distance to the width of a kernel.
const WIDTH_FACTOR: f64 = 0.8;

/// The degrees of freedom of every part.
const DEGREES: usize = 5;

impl KernelProposal {
    /// Makes the proposal from the first samples of `data`, rows × dim.
    ///
    /// # Errors
    /// Fails if there are fewer than 8 samples.
    pub fn new(data: &Batch) -> Result<KernelProposal, String> {
        let n = data.nrows().min(MAX_KERNELS);
        if n < 8 {
            return Err(format!("{n} samples, expected at least 8"));
        }
        let data = data.slice(ndarray::s![..n, ..]);
        let scale = data
            .std_axis(Axis(0), 1.0)
            .mapv(|std| if std > 0.0 { std } else { 1.0 });
        let centres = &data / &scale;
        let mean = centres.sum_axis(Axis(0)) / n as f64;
        let neighbour = (n as f64).sqrt() as usize;
        let dim = data.ncols() as f64;
        let width = |centre: ArrayView1<f64>| {
            let mut squares: Vec<f64> = centres
                .rows()
                .into_iter()
                .map(|other| squared_distance(centre, other))
                .collect();
            squares.sort_by(f64::total_cmp);
            // Equal samples must not make a kernel of no width.
            WIDTH_FACTOR * (squares[neighbour] / dim).sqrt().max(1e-3)
        };
        let widths = centres.rows().into_iter().map(width).collect();
        Ok(KernelProposal {
            centres,
            widths,
            mean,
            scale,
        })
    }

    /// Draws the state number `draw`. It depends only on the key and on this number.
    pub fn draw(&self, key: RngKey, draw: u64) -> Array1<f64> {
        let choice = key.uniform(Purpose::Proposal, draw, 0, 2);
        let normal = key.normal(Purpose::Proposal, draw, 1, self.mean.len());
        let chi = key.normal(Purpose::Proposal, draw, 2, DEGREES);
        let t = normal / (chi.dot(&chi) / DEGREES as f64).sqrt();
        let unscaled = if choice[0] < WIDE_SHARE {
            &self.mean + &(t * WIDE_FACTOR)
        } else {
            let kernel = (choice[1] * self.widths.len() as f64) as usize;
            &self.centres.row(kernel) + &(t * self.widths[kernel])
        };
        unscaled * &self.scale
    }

    /// The log-density of the proposal at `x`, in nats.
    pub fn log_density(&self, x: ArrayView1<f64>) -> f64 {
        let (y, dim) = (&x / &self.scale, x.len());
        let constant = log_t_constant(dim) - self.scale.mapv(f64::ln).sum();
        let part = |centre: ArrayView1<f64>, width: f64| {
            let square = squared_distance(y.view(), centre) / (width * width);
            let power = 0.5 * (DEGREES + dim) as f64;
            constant - dim as f64 * width.ln() - power * (square / DEGREES as f64).ln_1p()
        };
        let share = (1.0 - WIDE_SHARE) / self.widths.len() as f64;
        let kernels = self.centres.rows().into_iter().zip(&self.widths);
        let parts: Vec<f64> = kernels
            .map(|(centre, width)| share.ln() + part(centre, *width))
            .chain([WIDE_SHARE.ln() + part(self.mean.view(), WIDE_FACTOR)])
            .collect();
        let top = parts.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + parts.iter().map(|p| (p - top).exp()).sum::<f64>().ln()
    }
}

/// The squared distance of two points.
fn squared_distance(a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The logarithm of the density of Student's t in `dim` dimensions at its centre, for width 1.
fn log_t_constant(dim: usize) -> f64 {
    let normalizer = (DEGREES as f64 * std::f64::consts::PI).ln();
    log_gamma_of_half(DEGREES + dim) - log_gamma_of_half(DEGREES) - 0.5 * dim as f64 * normalizer
}

/// ln Γ(m/2) for m ≥ 1.
fn log_gamma_of_half(m: usize) -> f64 {
    let (mut at, mut value) = if m.is_multiple_of(2) {
        (1.0, 0.0)
    } else {
        (0.5, 0.5 * std::f64::consts::PI.ln())
    };
    while at < 0.5 * m as f64 - 0.25 {
        value += f64::ln(at);
        at += 1.0;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::importance_weights::WeightStatistics;

    fn normals(dim: usize, rows: usize) -> Batch {
        let key = RngKey { seed: 3 };
        let values = key.normal(Purpose::Check, 0, 0, rows * dim);
        values.into_shape_with_order((rows, dim)).expect("rows·dim")
    }

    /// The log-density integrates to one over the line.
    #[test]
    fn density_integrates_to_one() {
        let proposal = KernelProposal::new(&normals(1, 60)).expect("samples");
        let (n, half) = (400_000, 400.0);
        let at = |i: usize| half * (2.0 * (i as f64 + 0.5) / n as f64 - 1.0);
        let density = |i: usize| proposal.log_density(ndarray::array![at(i)].view()).exp();
        let sum: f64 = (0..n).map(density).sum::<f64>() * 2.0 * half / n as f64;
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert!((log_gamma_of_half(7) - 3.323_350_970_447_842_6f64.ln()).abs() < 1e-12);
        assert!((log_gamma_of_half(8) - 6.0f64.ln()).abs() < 1e-12);
    }

    /// The mass of a normal density is one within its error, in few and in more dimensions, also
    /// where the dimensions have other scales.
    #[test]
    fn mass_of_a_normal_density_is_one() {
        for (dim, least_share) in [(1, 0.8), (4, 0.6), (12, 0.1)] {
            let stretch = Array1::from_shape_fn(dim, |i| 10f64.powi(i as i32 % 5 - 2));
            let data = normals(dim, 400) * &stretch;
            let proposal = KernelProposal::new(&data).expect("samples");
            let log_p = |x: &Array1<f64>| {
                let z = x / &stretch;
                let unit = 0.5 * (2.0 * std::f64::consts::PI).ln();
                -0.5 * z.dot(&z) - dim as f64 * unit - stretch.mapv(f64::ln).sum()
            };
            let weights: Vec<f64> = (0..2000)
                .map(|draw| {
                    let x = proposal.draw(RngKey { seed: 1 }, draw);
                    log_p(&x) - proposal.log_density(x.view())
                })
                .collect();
            let found = WeightStatistics::new(&weights, None).expect("weights");
            let stderr = found.log_z.stderr.expect("finite");
            println!("{dim}: {:?}, share {:?}", found.log_z, found.ess.value);
            assert!(
                found.log_z.value.abs() < 4.0 * stderr,
                "{dim}: {:?}",
                found.log_z
            );
            assert!(
                stderr < 0.1 && found.ess.value > least_share,
                "{dim}: {found:?}"
            );
        }
        assert!(KernelProposal::new(&normals(2, 7)).is_err());
    }
}
