//! Tests that the standard error of every statistic agrees with its standard deviation over
//! repeated draws of all sets.

use ndarray::Array2;
use rayon::prelude::*;

use super::Metric;
use super::testing::{measure_three_sets, normal_samples};
use crate::num::stats::{self, Estimate};

/// The accepted range of the claimed standard error divided by the true one. Over R draws, the
/// ratio has a relative uncertainty of about 1/√(2R).
const CALIBRATED_RATIO: std::ops::Range<f64> = 0.85..1.25;

/// Normal distributions from which the sets are drawn. Data are drawn from N(0, I), generated
/// samples from a shifted and scaled distribution.
#[derive(Debug, Clone, Copy)]
struct CalibrationCase {
    /// The dimension of a sample.
    width: usize,
    /// The numbers of generated, training and held-out samples.
    counts: [usize; 3],
    /// The mean of each coordinate of generated samples.
    shift: f64,
    /// The standard deviation of each coordinate of generated samples.
    std: f64,
}

/// The cases that are tested.
const CASES: [CalibrationCase; 3] = [
    CalibrationCase {
        width: 3,
        counts: [140, 160, 120],
        shift: 0.3,
        std: 1.2,
    },
    CalibrationCase {
        width: 6,
        counts: [160, 200, 120],
        shift: 0.2,
        std: 1.1,
    },
    CalibrationCase {
        width: 8,
        counts: [200, 140, 120],
        shift: 0.4,
        std: 0.8,
    },
];

impl CalibrationCase {
    /// Draws generated samples, training data and held-out data.
    fn draw(&self, seed: u64) -> [Array2<f64>; 3] {
        let of = |set: u64, shift, std| {
            normal_samples(
                3 * seed + set,
                self.counts[set as usize],
                self.width,
                shift,
                std,
            )
        };
        [
            of(0, self.shift, self.std),
            of(1, 0.0, 1.0),
            of(2, 0.0, 1.0),
        ]
    }
}

/// The number of draws: 100, or the value of the environment variable FLOWGAUGE_DRAWS for a closer
/// look.
fn draw_count() -> u64 {
    std::env::var("FLOWGAUGE_DRAWS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100)
}

#[test]
fn every_stderr_matches_spread() {
    let mut wrong = Vec::new();
    for case in CASES {
        for metric in Metric::defaults() {
            let began = std::time::Instant::now();
            let one =
                |seed| measure_three_sets(&metric, case.draw(seed).each_ref(), seed).expect("fine");
            let found: Vec<Estimate> = (0..draw_count()).into_par_iter().map(one).collect();
            let values: Vec<f64> = found.iter().map(|e| e.value).collect();
            let mean = stats::mean_estimate(&values).expect("many");
            let spread = mean.stderr.expect("many") * (values.len() as f64).sqrt();
            let claimed = found
                .iter()
                .map(|e| e.stderr.expect("an error"))
                .collect::<Vec<_>>();
            let ratio = stats::rms(&claimed).expect("many") / spread;
            let (name, seconds) = (metric.name(), began.elapsed().as_secs_f64());
            println!(
                "D = {} {name:18} {:.4} ± {spread:.4} claimed/true {ratio:.3} {seconds:.1} s",
                case.width, mean.value
            );
            if !CALIBRATED_RATIO.contains(&ratio) {
                wrong.push(format!("{name} at D = {}: {ratio:.3}", case.width));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
