//! `flowgauge doctor`: checks the runtime and the machine, and a likelihood that is known.

use anyhow::{Context, Result};
use clap::Args;

use super::{Exit, RuntimeArgs};
use crate::divergence::DivergenceEstimator;
use crate::execute::WorkerPool;
use crate::host::processor_name;
use crate::likelihood::LikelihoodTask;
use crate::model::loaded::Model;
use crate::model::onnx::{Provider, Runtime};
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::solve::Solver;

/// The card of the model whose log-likelihood is known. The model is part of the program, so that
/// the check needs no other file.
const KNOWN_ANSWER_CARD: &str = include_str!("../../models/mixture/card.yaml");
/// The ONNX files of that model, by name.
const KNOWN_ANSWER_FILES: [(&str, &[u8]); 3] = [
    (
        "denoiser.onnx",
        include_bytes!("../../models/mixture/denoiser.onnx"),
    ),
    (
        "divergence.onnx",
        include_bytes!("../../models/mixture/divergence.onnx"),
    ),
    (
        "log_density.onnx",
        include_bytes!("../../models/mixture/log_density.onnx"),
    ),
];

/// The arguments of `flowgauge doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    runtime_args: RuntimeArgs,
}

impl DoctorArgs {
    /// Prints the version, the runtime, the providers and the machine, and checks a known
    /// likelihood.
    ///
    /// # Errors
    /// Fails if no ONNX Runtime is found, or if it cannot run the check.
    pub(super) fn execute(self) -> Result<Exit> {
        outln!("flowgauge {}", env!("CARGO_PKG_VERSION"));
        let runtime = Runtime::get_with_provider(
            self.runtime_args.ort_lib.as_deref(),
            self.runtime_args.provider,
        )?;
        let library = &runtime.library;
        outln!(
            "ONNX Runtime {} from {} ({})",
            library.version,
            library.path.display(),
            library.origin
        );
        for provider in Provider::ALL {
            outln!(
                "provider {}: {}",
                provider.name(),
                runtime.availability(provider)
            );
        }
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        outln!(
            "processor {}, {threads} threads, {}",
            processor_name(),
            describe_memory()
        );
        self.check_known_answer()
    }

    /// Computes log-likelihoods of a Gaussian mixture by an exact trace along the path, and
    /// compares them with the closed form.
    fn check_known_answer(&self) -> Result<Exit> {
        let folder = tempfile::tempdir()?;
        let card = folder.path().join("card.yaml");
        std::fs::write(&card, KNOWN_ANSWER_CARD)?;
        for (name, bytes) in KNOWN_ANSWER_FILES {
            std::fs::write(folder.path().join(name), bytes)?;
        }
        let model = Model::open(&card)?;
        let solver: Solver = super::parse_spec("--solver", "{dopri5: {rtol: 1e-6, atol: 1e-6}}")?;
        let estimators: Vec<DivergenceEstimator> =
            super::parse_spec("--divergence", "[exact, closed-form]")?;
        let task = LikelihoodTask {
            curve: &model.curve,
            prior: model.prior,
            solver: &solver,
            estimators: &estimators,
            key: RngKey { seed: 0 },
        };
        let samples: Vec<SampleId> = (0..8).collect();
        let states = |batch: &[SampleId]| {
            let mut x = Batch::zeros((batch.len(), model.dim()));
            for (mut row, sample) in x.rows_mut().into_iter().zip(batch) {
                row.assign(&RngKey { seed: 0 }.normal(Purpose::Check, *sample, 0, model.dim()));
            }
            x
        };
        let runtime = self.runtime_args.runtime()?;
        let pool = WorkerPool::new(&model, runtime, self.runtime_args.machine());
        let (rows, _) = pool
            .log_likelihoods(&task, &samples, false, states)
            .context("the known-answer likelihood")?;
        let values = |e: usize| {
            rows.iter()
                .filter(move |r| r.estimator == e)
                .map(|r| r.log_likelihood.unwrap_or(f64::NAN))
        };
        for placement in runtime.placements() {
            let graph = placement
                .graph
                .strip_prefix(&format!("{}/", folder.path().display()))
                .unwrap_or(&placement.graph);
            outln!(
                "{graph}: {}",
                placement.describe(self.runtime_args.provider)
            );
        }
        // `f64::max` would drop a NaN, which must count as the worst error.
        let worst = values(0)
            .zip(values(1))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |m: f64, v| if v > m || v.is_nan() { v } else { m });
        let fine = worst <= 5e-3;
        outln!(
            "known answer: log-likelihood of a mixture in 8 dimensions, \
             largest error {worst:.1e} nats over 8 samples: {}",
            if fine {
                "ok"
            } else {
                "WRONG, expected at most 5e-3"
            }
        );
        Ok(if fine { Exit::Success } else { Exit::Failed })
    }
}

/// The size of the machine's memory in words; only Linux says it in `/proc/meminfo`.
fn describe_memory() -> String {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = info.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .split(' ')
            .next()?
            .parse::<f64>()
            .ok()
    });
    kilobytes.map_or("memory unknown".to_owned(), |k| {
        format!("{:.1} GiB of memory", k / 1024.0 / 1024.0)
    })
}
