//! The command line: one file per verb.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::config::ConfigFile;
use crate::execute::{ComputeOptions, choose_steps};
use crate::journal::read_plan;
use crate::model::onnx::{Provider, Runtime};
use crate::output::Output;
use crate::plan::{AutoStepsRequest, PreparedPlan};

/// A line on standard output, as `println!`, but a reader that has gone away is no error: `flowgauge list | head -1`.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::print_stdout(format_args!("{}\n", format_args!($($text)*))) };
}

mod differentiate;
mod doctor;
mod gate;
mod inspect;
mod interrupt;
mod likelihood;
mod list;
mod metrics;
mod plan;
mod report;
mod run;
mod sample;
mod schema;
mod verify;

/// Measures log-likelihoods and samples of diffusion and flow models given as ONNX files.
///
/// Exit status: 0 done and well; 1 something measured failed, or a disk was full; 2 the input is at fault and nothing was run;
/// 3 inconclusive (`gate` only); 75 stopped by a signal, the same command goes on; 130 or 143 stopped by a signal, what
/// is done is kept in a file that is named.
///
/// FLOWGAUGE_LOG=debug in the environment prints what is opened and what is finished.
#[derive(Debug, Parser)]
#[command(
    name = "flowgauge",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Carry out a config: likelihoods, samples, metrics; run again to resume
    Run(run::RunArgs),
    /// Print the trials that `run` would carry out, with their cost, and run nothing
    Plan(plan::PlanArgs),
    /// Rebuild tables, plots and index.html of run directories; needs no ONNX Runtime
    Report(report::ReportArgs),
    /// Recompute a random part of a run's rows: match, drift or mismatch per row
    Verify(verify::VerifyArgs),
    /// Hold a run against published numbers with tolerances: pass, fail or inconclusive per claim
    Gate(gate::GateArgs),
    /// Log-likelihood per sample of one array under one model
    Likelihood(likelihood::LikelihoodArgs),
    /// Draw samples of one model
    Sample(sample::SampleArgs),
    /// Statistics of generated samples against reference samples
    Metrics(metrics::MetricsArgs),
    /// Write the ONNX graph that also computes Jacobian products
    Differentiate(differentiate::DifferentiateArgs),
    /// Inputs, outputs, operators and differentiability of a model; for a card also how it runs
    Inspect(inspect::InspectArgs),
    /// ONNX Runtime, providers, machine, and a likelihood whose answer is known
    Doctor(doctor::DoctorArgs),
    /// Estimators, solvers, samplers, metrics, predictions and paths, each with its parameters
    List(list::ListArgs),
    /// JSON Schema of the files that users write, for editors and validators
    Schema(schema::SchemaArgs),
}

/// How a verb ended, apart from errors of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// Something measured failed.
    Failed,
    /// Nothing failed, but the errors are too large to tell.
    Inconclusive,
    /// A signal stopped it, and the same command goes on from there.
    Resumable,
    /// A signal stopped it, and the same command begins anew.
    Stopped,
}

impl Exit {
    /// The process's status.
    pub fn status(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Inconclusive => 3,
            Exit::Resumable => RESUMABLE_STATUS,
            Exit::Stopped => crate::stop::signal_exit_status(),
        }
    }
}

/// The status of an error: 1 where a disk filled up while something ran, else 2, since the input is at fault.
pub fn error_status(error: &anyhow::Error) -> u8 {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let full = |e: &std::io::Error| matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge);
    if error.chain().filter_map(|e| e.downcast_ref()).any(full) {
        1
    } else {
        2
    }
}

/// The status of work that the same command goes on with: `EX_TEMPFAIL` of sysexits.h.
const RESUMABLE_STATUS: u8 = 75;

/// How networks are run.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// Where networks run; strict, with no silent fallback
    #[arg(long, default_value = "cpu", value_name = "cpu|openvino|cuda|tensorrt", value_parser = Provider::from_name)]
    provider: Provider,
    /// Samples per network call [default: by the network's size on a processor, 32 on a GPU]
    #[arg(long, value_parser = parse_at_least_one)]
    batch: Option<usize>,
    /// All threads together [default: the machine's]
    #[arg(long, value_parser = parse_thread_count)]
    threads: Option<usize>,
    /// The ONNX Runtime library to use
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

impl RuntimeArgs {
    fn machine(&self) -> ComputeOptions {
        let available = std::thread::available_parallelism().map_or(1, |n| n.get());
        ComputeOptions {
            provider: self.provider,
            batch_size: self.batch,
            threads: self.threads.unwrap_or(available),
        }
    }

    /// A config resolved, with the numbers of steps of `steps: auto`: as a run in that directory was begun with, or found
    /// now.
    fn prepare(
        &self,
        written: &ConfigFile,
        seed: Option<u64>,
        dir: Option<&Path>,
    ) -> Result<PreparedPlan> {
        let begun = dir
            .and_then(|dir| read_plan(dir).ok())
            .map(|file| file.steps)
            .unwrap_or_default();
        let choose =
            |wanted: &AutoStepsRequest| match begun.iter().find(|known| known.matches(wanted)) {
                Some(known) => Ok(known.clone()),
                None => choose_steps(wanted, self.runtime()?, self.machine()),
            };
        crate::plan::prepare_plan(written, seed, &choose)
    }

    /// A runtime that has the provider asked for, and can use it.
    fn runtime(&self) -> Result<&'static Runtime> {
        let runtime = Runtime::get_with_provider(self.ort_lib.as_deref(), self.provider)?;
        runtime.check(self.provider)?;
        Ok(runtime)
    }
}

/// More threads than any machine has would only keep it from starting.
fn parse_thread_count(text: &str) -> Result<usize, String> {
    parse_at_least_one(text)
        .ok()
        .filter(|n| *n <= 1024)
        .ok_or_else(|| "expected a whole number of at least 1 and at most 1024".to_owned())
}

fn parse_at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=1 << 20).contains(&n) => Ok(n),
        _ => Err(format!(
            "expected a whole number of at least 1 and at most {}",
            1 << 20
        )),
    }
}

fn print_stdout(text: std::fmt::Arguments) {
    use std::io::{ErrorKind, Write};
    if let Err(error) = std::io::stdout().write_fmt(text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        errln!("flowgauge: standard output: {error}");
        std::process::exit(2);
    }
}

/// A line of what came out, on standard output; on standard error where the table takes that.
fn print_summary(out: Option<&Output>, text: std::fmt::Arguments) {
    match out.is_some_and(Output::is_stdout) {
        true => errln!("flowgauge: {text}"),
        false => outln!("{text}"),
    }
}

/// Reads a SPEC: the YAML of one entry, or its bare name.
fn parse_spec<T: schemars::JsonSchema + serde::de::DeserializeOwned>(
    flag: &str,
    text: &str,
) -> Result<T> {
    crate::yaml::from_yaml_str(text).map_err(|e| anyhow::anyhow!("{flag} {text}: {e}"))
}

/// Carries out one command line.
///
/// # Errors
/// Where an input is at fault.
pub fn execute(cli: Cli) -> Result<Exit> {
    match cli.verb {
        Verb::Run(verb) => verb.execute(),
        Verb::Plan(verb) => verb.execute(),
        Verb::Report(verb) => verb.execute(),
        Verb::Verify(verb) => verb.execute(),
        Verb::Gate(verb) => verb.execute(),
        Verb::Likelihood(verb) => verb.execute(),
        Verb::Sample(verb) => verb.execute(),
        Verb::Metrics(verb) => verb.execute(),
        Verb::Differentiate(verb) => verb.execute(),
        Verb::Inspect(verb) => verb.execute(),
        Verb::Doctor(verb) => verb.execute(),
        Verb::List(verb) => verb.execute(),
        Verb::Schema(verb) => verb.execute(),
    }
}
