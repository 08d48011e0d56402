//! Log-likelihoods under a Gaussian mixture in eight dimensions whose density is known: by the exact trace and by
//! Hutchinson's estimator on one path, beside the closed form.
//!
//! `cargo run --release --example likelihood`

#![expect(clippy::print_stdout, reason = "an example prints its table")]

use std::error::Error;

use flowgauge::divergence::{DivergenceEstimator, ModelHandles};
use flowgauge::flow::path::ProbabilityPath;
use flowgauge::flow::prior::Prior;
use flowgauge::likelihood::{LikelihoodResult, LikelihoodTask, evaluate_likelihoods};
use flowgauge::model::analytic::{AnalyticMixture, example_mixture};
use flowgauge::num::Batch;
use flowgauge::num::key::{Purpose, RngKey, SampleId};
use flowgauge::solve::Solver;
use flowgauge::yaml::from_yaml_str;

const DIM: usize = 8;
const SAMPLES: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let path = ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max: 1.0,
    };
    let curve = path.curve()?;
    let model = example_mixture(curve.clone(), DIM);
    let estimators: Vec<DivergenceEstimator> =
        from_yaml_str("[exact, {hutchinson: {probes: 16}}]")?;
    let solver: Solver = from_yaml_str("{dopri5: {rtol: 1.0e-6, atol: 1.0e-6}}")?;
    let key = RngKey { seed: 1 };
    let task = LikelihoodTask {
        curve: &curve,
        prior: Prior::isotropic(1.0),
        solver: &solver,
        estimators: &estimators,
        key,
    };

    let x = draw(&model, key);
    let samples: Vec<SampleId> = (0..SAMPLES as SampleId).collect();
    let mut handles = ModelHandles {
        jacobian: Some(Box::new(model.clone())),
        ..ModelHandles::default()
    };
    let velocity = &mut model.clone();
    let rows = evaluate_likelihoods(velocity, &mut handles, &task, &samples, x.clone(), None)?;

    println!("sample  closed form  exact trace  Hutchinson, 16 probes");
    let (exact, hutchinson) = rows.split_at(SAMPLES);
    for (sample, (exact, hutchinson)) in exact.iter().zip(hutchinson).enumerate() {
        let known = model.log_density(curve.data_end(), x.row(sample));
        let (exact, hutchinson) = (nats(exact), nats(hutchinson));
        println!("{sample:>6}  {known:>11.4}  {exact:>11}  {hutchinson}");
    }
    Ok(())
}

/// Samples of the mixture, component after component.
fn draw(model: &AnalyticMixture, key: RngKey) -> Batch {
    let mut x = Batch::zeros((SAMPLES, DIM));
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        let component = i % model.weights.len();
        let noise = key.normal(Purpose::Noise, i as SampleId, 0, DIM);
        let std = model.variances[component].sqrt();
        row.assign(&(noise * std + model.means.row(component)));
    }
    x
}

/// A log-likelihood in nats with its standard error over probes, where it has one.
fn nats(row: &LikelihoodResult) -> String {
    match (row.log_likelihood, row.stderr) {
        (Some(value), Some(error)) => format!("{value:.4} ± {error:.4}"),
        (Some(value), None) => format!("{value:.4}"),
        (None, _) => row.status.as_str().to_owned(),
    }
}
