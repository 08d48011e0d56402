//! `flowgauge doctor`: checks the runtime and the machine, and a likelihood that is known.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::console::{Answer, JsonArgs};
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

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge doctor
  flowgauge doctor --provider openvino
  flowgauge doctor --json";

/// The arguments of `flowgauge doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

impl DoctorArgs {
    /// Prints the version, the runtime, the providers and the machine, and checks a known
    /// likelihood.
    ///
    /// # Errors
    /// Fails if no ONNX Runtime is found, or if it cannot run the check.
    pub(super) fn execute(self) -> Result<Exit> {
        let runtime = Runtime::get_with_provider(
            self.runtime_args.ort_lib.as_deref(),
            self.runtime_args.provider,
        )?;
        let library = &runtime.library;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let checked = self.check_known_answer()?;
        let verdict = match checked.is_fine() {
            true => "ok".to_owned(),
            false => format!("WRONG, expected at most {MAX_ERROR:.0e}"),
        };
        let mut answer = Answer::new(
            "doctor",
            format!(
                "known answer: log-likelihood of a mixture in 8 dimensions, largest error {:.1e} nats \
                 over {CHECKED_SAMPLES} samples: {verdict}",
                checked.worst
            ),
        );
        answer.say(format!("flowgauge {}", env!("CARGO_PKG_VERSION")));
        answer.say(format!(
            "ONNX Runtime {} from {} ({})",
            library.version,
            library.path.display(),
            library.origin
        ));
        let mut providers = serde_json::Map::new();
        for provider in Provider::ALL {
            let availability = runtime.availability(provider).to_string();
            answer.say(format!("provider {}: {availability}", provider.name()));
            providers.insert(provider.name().to_owned(), availability.into());
        }
        answer.say(format!(
            "processor {}, {threads} threads, {}",
            processor_name(),
            describe_memory()
        ));
        checked
            .placements
            .iter()
            .for_each(|line| answer.say(line.as_str()));
        answer.set(
            "onnx_runtime",
            json!({
                "version": library.version,
                "path": library.path.display().to_string(),
                "origin": library.origin.to_string(),
            }),
        );
        answer.set("providers", providers);
        answer.set("processor", processor_name());
        answer.set("threads", threads);
        answer.set("memory_gib", memory_gib());
        answer.set("placements", &checked.placements);
        answer.set(
            "known_answer",
            json!({
                "largest_error_nats": Some(checked.worst).filter(|worst| worst.is_finite()),
                "expected_at_most_nats": MAX_ERROR,
                "samples": CHECKED_SAMPLES,
                "ok": checked.is_fine(),
            }),
        );
        let exit = match checked.is_fine() {
            true => Exit::Success,
            false => Exit::Failed,
        };
        Ok(answer.show(self.json, None, exit))
    }

    /// Computes log-likelihoods of a Gaussian mixture by an exact trace along the path, and
    /// compares them with the closed form.
    ///
    /// # Errors
    /// Fails if the runtime cannot run the networks.
    fn check_known_answer(&self) -> Result<KnownAnswerCheck> {
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
        let samples: Vec<SampleId> = (0..CHECKED_SAMPLES).collect();
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
        let mut placements = Vec::new();
        for placement in runtime.placements() {
            let graph = placement
                .graph
                .strip_prefix(&format!("{}/", folder.path().display()))
                .unwrap_or(&placement.graph);
            placements.push(format!(
                "{graph}: {}",
                placement.describe(self.runtime_args.provider)
            ));
        }
        // `f64::max` would drop a NaN, which must count as the worst error.
        let worst = values(0)
            .zip(values(1))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |m: f64, v| if v > m || v.is_nan() { v } else { m });
        Ok(KnownAnswerCheck { worst, placements })
    }
}

/// The number of samples whose log-likelihood is compared with the closed form.
const CHECKED_SAMPLES: u64 = 8;
/// The largest error that is allowed, in nats.
const MAX_ERROR: f64 = 5e-3;

/// What the known likelihood gave.
struct KnownAnswerCheck {
    /// The largest error over the samples, in nats.
    worst: f64,
    /// Where the nodes of each graph ran.
    placements: Vec<String>,
}

impl KnownAnswerCheck {
    /// Whether the error is small enough. A NaN is not.
    fn is_fine(&self) -> bool {
        self.worst <= MAX_ERROR
    }
}

/// The size of the machine's memory in words.
fn describe_memory() -> String {
    memory_gib().map_or("memory unknown".to_owned(), |gib| {
        format!("{gib:.1} GiB of memory")
    })
}

/// The size of the machine's memory; only Linux says it in `/proc/meminfo`.
fn memory_gib() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = info.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .split(' ')
            .next()?
            .parse::<f64>()
            .ok()
    });
    kilobytes.map(|kilobytes| kilobytes / 1024.0 / 1024.0)
}
