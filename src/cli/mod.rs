//! The command line: one file per verb.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::ConfigFile;
use crate::execute::{ComputeOptions, choose_steps};
use crate::journal::read_plan;
use crate::model::onnx::{Provider, Runtime};
use crate::plan::{AutoStepsRequest, PreparedPlan};
use crate::progress::ProgressForm;
pub use crate::progress::print_error;
use crate::store::StoreBusy;

/// Prints a line on standard output, like `println!`. A reader that has closed the pipe is not an
/// error: `flowgauge list | head -1` succeeds.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::console::print_stdout(format_args!("{}\n", format_args!($($text)*))) };
}

mod card;
mod completions;
mod console;
mod differentiate;
mod doctor;
mod gate;
mod init;
mod inspect;
mod interrupt;
mod likelihood;
mod list;
mod man;
mod metrics;
mod opened_run;
mod plan;
mod readings;
mod report;
mod reweight;
mod run;
mod run_summary;
mod sample;
mod schema;
mod setting;
mod status;
mod verify;

/// Measures log-likelihoods and samples of diffusion and flow models given as ONNX files.
///
/// Exit status: 0 success; 1 a measurement failed, or a disk was full; 2 an input is wrong and
/// nothing was run; 3 inconclusive (`gate` only); 75 stopped by a signal or a time limit, or
/// an object store did not answer, and the same command resumes; 130 or 143 stopped by a signal, and the finished part is in a file that a message
/// names.
///
/// The last line on standard output says what was found and where it is; `--json` prints one document
/// instead. The environment variable FLOWGAUGE_LOG=debug prints each file that is opened and each piece
/// of work that is finished.
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
    /// Where colours are written; `auto` writes them on a terminal, and heeds NO_COLOR and CLICOLOR_FORCE
    #[arg(
        long,
        global = true,
        value_name = "auto|always|never",
        default_value = "auto",
        hide_possible_values = true
    )]
    color: ColorChoice,
}

impl Cli {
    /// Parses the command line of the process. Help and errors have the colours that it asks for.
    pub fn from_command_line() -> Cli {
        let color = color_of(std::env::args().skip(1)).unwrap_or_default();
        console::choose_color(color);
        let matches = Cli::command().color(color).get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// The value of `--color` among arguments that are not parsed yet; `None` if it is absent or wrong.
fn color_of(arguments: impl Iterator<Item = String>) -> Option<ColorChoice> {
    let mut arguments = arguments.take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        let value = match argument.split_once('=') {
            Some(("--color", value)) => Some(value.to_owned()),
            _ if argument == "--color" => arguments.next(),
            _ => None,
        };
        if let Some(value) = value {
            return value.parse().ok();
        }
    }
    None
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a config: likelihoods, samples, metrics; the same command resumes an interrupted run
    Run(run::RunArgs),
    /// Print the trials of a config with their cost, without running them
    ///
    /// The options for networks are those of `run`; they do not change the plan. Networks run only
    /// to find the number of steps for `steps: auto`.
    Plan(plan::PlanArgs),
    /// Print how far a run is: what is done, who is at work, what has failed, and the time left
    Status(status::StatusArgs),
    /// Rebuild the tables, plots and index.html of run directories; needs no ONNX Runtime
    Report(report::ReportArgs),
    /// Recompute a random part of a run's rows and report match, drift or mismatch per row
    Verify(verify::VerifyArgs),
    /// Compare a run with published numbers and report pass, fail or inconclusive per claim
    Gate(gate::GateArgs),
    /// Compute the log-likelihood of each sample of one array under one model
    Likelihood(likelihood::LikelihoodArgs),
    /// Draw samples from one model
    Sample(sample::SampleArgs),
    /// Reweight samples to an unnormalized density: effective sample size, log Z and means
    Reweight(reweight::ReweightArgs),
    /// Compare generated samples with reference samples by statistics such as the Fréchet distance
    Metrics(metrics::MetricsArgs),
    /// Write a config for a model with a comment on every key
    Init(init::InitArgs),
    /// Draft the card of a model from its exported files, and inspect it
    ///
    /// A comment on each line of the card says which file its value comes from, or that it was
    /// guessed. The card is checked and written; then `inspect` runs its networks.
    Card(card::CardArgs),
    /// Write an ONNX graph that also computes Jacobian products
    Differentiate(differentiate::DifferentiateArgs),
    /// Print a model's inputs, outputs, operators and differentiability; also run a card's network
    Inspect(inspect::InspectArgs),
    /// Check ONNX Runtime, the providers and the machine, and compute a likelihood that is known
    Doctor(doctor::DoctorArgs),
    /// List estimators, solvers, samplers, metrics and all other kinds, with their parameters
    List(list::ListArgs),
    /// Print the JSON Schema of the files that users write, for editors and validators
    Schema(schema::SchemaArgs),
    /// Print the completions of a shell: `flowgauge completions bash > ~/.local/share/bash-completion/completions/flowgauge`
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write that of every verb
    Man(man::ManArgs),
}

/// How a verb ended if its input was right. A wrong input is an error instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was computed.
    Success,
    /// A measurement failed.
    Failed,
    /// Nothing failed, but the standard errors are too large for a decision.
    Inconclusive,
    /// A signal stopped the verb, and the same command resumes the work.
    Resumable,
    /// A signal stopped the verb, and the same command starts the work again.
    Stopped,
}

impl Exit {
    /// The exit status of the process.
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

/// The exit status for an error: 1 if a disk is full, 75 if an object store does not answer, else 2,
/// since an input is wrong.
pub fn error_status(error: &anyhow::Error) -> u8 {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let full = |e: &std::io::Error| matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge);
    if error.chain().filter_map(|e| e.downcast_ref()).any(full) {
        1
    } else if error.chain().any(|e| e.is::<StoreBusy>()) {
        RESUMABLE_STATUS
    } else {
        2
    }
}

/// The exit status of work that the same command resumes: `EX_TEMPFAIL` of sysexits.h.
const RESUMABLE_STATUS: u8 = 75;

/// The options of every verb that runs networks.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// The execution provider that runs the networks; nothing falls back to the CPU silently
    #[arg(
        long,
        default_value = "cpu",
        value_name = "cpu|openvino|cuda|tensorrt",
        value_parser = Provider::from_name
    )]
    provider: Provider,
    /// Samples per network call [default: depends on the network's size on a CPU, 32 on a GPU]
    #[arg(long, value_parser = parse_at_least_one)]
    batch: Option<usize>,
    /// The total number of threads, at most 1024 [default: one per logical processor]
    #[arg(long, value_parser = parse_thread_count)]
    threads: Option<usize>,
    /// The ONNX Runtime library to use [default: an installed one, else a download]
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// The form of progress on standard error: a bar, lines, JSON objects for programs, or nothing;
    /// `auto` is a bar on a terminal and lines elsewhere
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|bar|plain|json|none",
        value_parser = ProgressForm::from_name
    )]
    progress: ProgressForm,
    /// Print no progress and fewer notes on standard error
    #[arg(long)]
    quiet: bool,
}

impl RuntimeArgs {
    /// The provider, batch size and number of threads that the options give.
    fn machine(&self) -> ComputeOptions {
        let available = std::thread::available_parallelism().map_or(1, |n| n.get());
        ComputeOptions {
            provider: self.provider,
            batch_size: self.batch,
            threads: self.threads.unwrap_or(available),
        }
    }

    /// The resolved plan of a config, with a number of steps for each `steps: auto`.
    ///
    /// The numbers come from the plan of the run in `dir`, if there is one, so that a resumed run
    /// keeps them. Otherwise they are searched for now, which runs the networks.
    ///
    /// # Errors
    /// Fails if the config is wrong, or if no number of steps is found.
    fn prepare(
        &self,
        config_file: &ConfigFile,
        seed: Option<u64>,
        dir: Option<&Path>,
    ) -> Result<PreparedPlan> {
        let earlier_steps = dir
            .and_then(|dir| read_plan(dir).ok())
            .map(|file| file.steps)
            .unwrap_or_default();
        let choose =
            |wanted: &AutoStepsRequest| match earlier_steps.iter().find(|s| s.matches(wanted)) {
                Some(known) => Ok(known.clone()),
                None => choose_steps(wanted, self.runtime()?, self.machine()),
            };
        crate::plan::prepare_plan(config_file, seed, &choose)
    }

    /// The ONNX Runtime library, with the requested provider.
    ///
    /// # Errors
    /// Fails if no library is found, or if it cannot use the provider.
    fn runtime(&self) -> Result<&'static Runtime> {
        let runtime = Runtime::get_with_provider(self.ort_lib.as_deref(), self.provider)?;
        runtime.check(self.provider)?;
        Ok(runtime)
    }
}

/// Parses a number of threads from 1 to 1024. More threads than any machine has would only keep the
/// program from starting.
fn parse_thread_count(text: &str) -> Result<usize, String> {
    parse_at_least_one(text)
        .ok()
        .filter(|n| *n <= 1024)
        .ok_or_else(|| "expected a whole number of at least 1 and at most 1024".to_owned())
}

/// Parses a whole number from 1 to 2²⁰.
fn parse_at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=1 << 20).contains(&n) => Ok(n),
        _ => Err(format!(
            "expected a whole number of at least 1 and at most {}",
            1 << 20
        )),
    }
}

/// Parses the value of an option that takes a SPEC: the YAML of one entry, or a bare name.
///
/// # Errors
/// Fails if the text is not a valid entry. The message begins with `flag` and the text.
fn parse_spec<T: schemars::JsonSchema + serde::de::DeserializeOwned>(
    flag: &str,
    text: &str,
) -> Result<T> {
    crate::yaml::from_yaml_str(text).map_err(|e| anyhow::anyhow!("{flag} {text}: {e}"))
}

/// Runs one command line.
///
/// # Errors
/// Fails if an input is wrong or a result cannot be written.
pub fn execute(cli: Cli) -> Result<Exit> {
    console::choose_color(cli.color);
    if let Some(runtime_args) = cli.verb.runtime_args() {
        runtime_args.progress.choose();
    }
    cli.verb.execute()
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    /// Fails if an input is wrong or a result cannot be written.
    fn execute(self) -> Result<Exit> {
        match self {
            Verb::Run(args) => args.execute(),
            Verb::Plan(args) => args.execute(),
            Verb::Status(args) => args.execute(),
            Verb::Report(args) => args.execute(),
            Verb::Verify(args) => args.execute(),
            Verb::Gate(args) => args.execute(),
            Verb::Likelihood(args) => args.execute(),
            Verb::Sample(args) => args.execute(),
            Verb::Reweight(args) => args.execute(),
            Verb::Metrics(args) => args.execute(),
            Verb::Init(args) => args.execute(),
            Verb::Card(args) => args.execute(),
            Verb::Differentiate(args) => args.execute(),
            Verb::Inspect(args) => args.execute(),
            Verb::Doctor(args) => args.execute(),
            Verb::List(args) => args.execute(),
            Verb::Schema(args) => args.execute(),
            Verb::Completions(args) => args.execute(),
            Verb::Man(args) => args.execute(),
        }
    }

    /// The options for networks, if the verb has them.
    fn runtime_args(&self) -> Option<&RuntimeArgs> {
        match self {
            Verb::Run(args) => Some(&args.runtime_args),
            Verb::Plan(args) => Some(&args.runtime_args),
            Verb::Verify(args) => Some(&args.runtime_args),
            Verb::Likelihood(args) => Some(&args.runtime_args),
            Verb::Sample(args) => Some(&args.runtime_args),
            Verb::Reweight(args) => Some(&args.runtime_args),
            Verb::Metrics(args) => Some(&args.runtime_args),
            Verb::Card(args) => Some(&args.runtime_args),
            Verb::Inspect(args) => Some(&args.runtime_args),
            Verb::Doctor(args) => Some(&args.runtime_args),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_color_is_known_before_the_command_line_is_parsed() {
        let of = |line: &str| color_of(line.split(' ').map(str::to_owned));
        assert_eq!(of("list --color never"), Some(ColorChoice::Never));
        assert_eq!(of("--color=always list"), Some(ColorChoice::Always));
        assert_eq!(of("list --color=blue"), None);
        assert_eq!(of("list -- --color=always"), None);
    }
}
