//! Random draws by address.
//!
//! Every draw is a function of its address `(seed, purpose, sample, probe, node)` and of nothing
//! else. A counter-based generator computes it. Batch size, threads, shards, resuming and the order
//! of trials therefore change no draw, and the estimators of one run use common random numbers.

use ndarray::{Array1, ArrayViewMut1};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{StandardNormal, Uniform};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The index of a sample in its array, which is part of the address of all its draws.
pub type SampleId = u64;

/// The bit of an address above the sample's index, at which the number of the draw begins.
const DRAW_SHIFT: u32 = 40;

/// The address of one dequantization draw of a sample, which has noise and probes of its own.
///
/// Draw 0 has the address of the sample itself.
pub fn pack_draw(sample: SampleId, draw: u64) -> SampleId {
    sample | draw << DRAW_SHIFT
}

/// The sample's index and the number of the draw in an address.
pub fn unpack_draw(address: SampleId) -> (SampleId, u64) {
    (address & ((1 << DRAW_SHIFT) - 1), address >> DRAW_SHIFT)
}

/// The bit of an address that marks an evaluation without the sample's conditions.
const UNCONDITIONAL_BIT: SampleId = 1 << 63;

/// The address of a sample at which a model is evaluated without the sample's conditions, as
/// guidance does. It addresses no random draws.
pub fn without_conditions(sample: SampleId) -> SampleId {
    sample | UNCONDITIONAL_BIT
}

/// Whether a model is evaluated with the sample's conditions at this address.
pub fn has_conditions(sample: SampleId) -> bool {
    sample & UNCONDITIONAL_BIT == 0
}

/// The purpose of a draw. The numbers are part of every result and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Uniform noise that turns integers into real numbers.
    Dequantization = 1,
    /// Probes of trace estimators.
    Probe = 2,
    /// Directions of the sketches of trace estimators.
    Sketch = 3,
    /// The initial states of samplers.
    Noise = 4,
    /// Random subsets of samples.
    Subset = 5,
    /// Directions of projections.
    Projection = 6,
    /// Random orders of samples, for splits into groups.
    Split = 7,
    /// Draws for tests and for checks of a model.
    Check = 8,
    /// The signs of perturbations as large as a rounding error.
    Rounding = 9,
    /// Probes of SteinDiff.
    Stein = 10,
    /// Fresh noise between the steps of a sampler.
    Churn = 11,
    /// Proposals of importance sampling, in the checks of flow maps and of the mass of densities.
    Proposal = 12,
    /// The random classes of conditional models.
    Condition = 13,
    /// The draws of an encoder's distribution of latents.
    Encoding = 14,
    /// Times and noise of variational bounds.
    Bound = 15,
    /// The nodes of a path at which a debiased head is checked.
    Node = 21,
    /// States, times and test functions of Stein tests.
    SteinTest = 22,
    /// The rows of a run that are recomputed.
    Verification = 31,
    /// The Brownian motions that drive random steps of samplers.
    Brownian = 41,
    /// Directions of the Jacobian products that control adaptive steps.
    Control = 51,
    /// The noise that is added to data to check what a card says of its network.
    Reading = 61,
    /// The first directions of the iterations that find the largest singular values.
    Lanczos = 65,
    /// The places of ranks among equal draws.
    RankTie = 71,
    /// The reference points of TARP.
    ReferencePoint = 72,
    /// Resamples of observations with replacement.
    Resample = 73,
    /// The pairs of a true parameter and a draw that change places.
    PairSwap = 74,
}

/// The distribution of a probe z. Every distribution satisfies `E[z zᵀ] = I`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("gaussian", &["normal"]), ("sphere", &["spherical"])]))]
pub enum Distribution {
    /// Independent entries of ±1 with equal probability.
    #[default]
    Rademacher,
    /// Independent standard normal entries.
    Gaussian,
    /// Uniform on the sphere of radius √d.
    Sphere,
}

/// The root of all random draws of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngKey {
    /// The seed that the user chose.
    pub seed: u64,
}

impl RngKey {
    /// The random generator at one address.
    pub fn generator(
        self,
        purpose: Purpose,
        sample: SampleId,
        probe: u64,
        node: u64,
    ) -> ChaCha8Rng {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
        key[16..24].copy_from_slice(&sample.to_le_bytes());
        key[24..].copy_from_slice(&probe.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(node);
        rng
    }

    /// `len` uniform draws in \[0, 1).
    pub fn uniform(
        self,
        purpose: Purpose,
        sample: SampleId,
        probe: u64,
        len: usize,
    ) -> Array1<f64> {
        let unit = Uniform::new(0.0, 1.0).expect("0 < 1");
        Array1::random_using(len, unit, &mut self.generator(purpose, sample, probe, 0))
    }

    /// One uniform draw in \[0, 1).
    pub fn uniform_at(self, purpose: Purpose, sample: SampleId, probe: u64, node: u64) -> f64 {
        // A double has 53 significant bits, so these are all multiples of 2⁻⁵³ below 1.
        (self.generator(purpose, sample, probe, node).next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `len` standard normal draws.
    pub fn normal(self, purpose: Purpose, sample: SampleId, probe: u64, len: usize) -> Array1<f64> {
        self.normal_at(purpose, sample, probe, 0, len)
    }

    /// `len` standard normal draws at a node.
    pub fn normal_at(
        self,
        purpose: Purpose,
        sample: SampleId,
        probe: u64,
        node: u64,
        len: usize,
    ) -> Array1<f64> {
        Array1::random_using(
            len,
            StandardNormal,
            &mut self.generator(purpose, sample, probe, node),
        )
    }

    /// Fills `row` with one probe.
    pub fn probe(
        self,
        distribution: Distribution,
        address: (Purpose, SampleId, u64, u64),
        mut row: ArrayViewMut1<f64>,
    ) {
        let mut rng = self.generator(address.0, address.1, address.2, address.3);
        match distribution {
            Distribution::Rademacher => fill_rademacher(&mut rng, row),
            Distribution::Gaussian => {
                let draws = Array1::random_using(row.len(), StandardNormal, &mut rng);
                row.assign(&draws);
            }
            Distribution::Sphere => {
                let draws = Array1::random_using(row.len(), StandardNormal, &mut rng);
                row.assign(&draws);
                let norm = row.dot(&row).sqrt();
                row *= (row.len() as f64).sqrt() / norm;
            }
        }
    }
}

/// Fills `row` with ±1, each from one random bit.
fn fill_rademacher(rng: &mut ChaCha8Rng, mut row: ArrayViewMut1<f64>) {
    let mut bits = 0u64;
    for (i, z) in row.iter_mut().enumerate() {
        if i % 64 == 0 {
            bits = rng.next_u64();
        }
        *z = if bits & 1 == 1 { 1.0 } else { -1.0 };
        bits >>= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_draws_match_recorded_values() {
        let key = RngKey { seed: 7 };
        let u = key.uniform(Purpose::Dequantization, 3, 1, 3);
        let z = key.normal(Purpose::Noise, 3, 0, 3);
        assert_eq!(
            format!("{u:.12}"),
            "[0.948330195416, 0.897550813574, 0.327133871727]"
        );
        assert_eq!(
            format!("{z:.12}"),
            "[0.290318372178, 1.038690755658, -1.317180321735]"
        );
    }

    #[test]
    fn draws_at_neighbouring_addresses_are_uncorrelated() {
        let key = RngKey { seed: 0 };
        let n = 4096;
        let base = key.normal(Purpose::Probe, 5, 2, n);
        for other in [
            RngKey { seed: 1 }.normal(Purpose::Probe, 5, 2, n),
            key.normal(Purpose::Sketch, 5, 2, n),
            key.normal(Purpose::Probe, 6, 2, n),
            key.normal(Purpose::Probe, 5, 3, n),
        ] {
            let correlation = base.dot(&other) / n as f64;
            assert!(correlation.abs() < 4.5 / (n as f64).sqrt(), "{correlation}");
        }
    }

    #[test]
    fn probes_have_unit_covariance() {
        let (key, d, n) = (RngKey { seed: 11 }, 5, 20_000);
        for law in [
            Distribution::Rademacher,
            Distribution::Gaussian,
            Distribution::Sphere,
        ] {
            let mut second = ndarray::Array2::<f64>::zeros((d, d));
            let mut z = Array1::zeros(d);
            for sample in 0..n {
                key.probe(law, (Purpose::Probe, sample, 0, 0), z.view_mut());
                let column = z.view().insert_axis(ndarray::Axis(1));
                second += &column.dot(&column.t());
            }
            second /= n as f64;
            let error = (&second - &ndarray::Array2::<f64>::eye(d)).mapv(f64::abs);
            assert!(error.iter().all(|e| *e < 0.05), "{law:?} {second}");
        }
    }
}
