//! `flowgauge plan CONFIG`: prints the trials of a config, and an estimate of their time.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::console::{Align, AlignedTable, Answer, Cell, JsonArgs};
use super::{Exit, RuntimeArgs};
use crate::config::ConfigFile;
use crate::execute::{Executor, TimeEstimate, WorkEstimate};
use crate::plan::PreparedPlan;
use crate::progress::format_duration;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge plan configs/quickstart.yaml
  flowgauge plan configs/quickstart.yaml --no-timing --set likelihood.0.samples=16
  flowgauge plan configs/few-step.yaml --threads 4 --json";

/// The arguments of `flowgauge plan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PlanArgs {
    /// The config file (YAML)
    config: PathBuf,
    /// Override the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Change a value of the config, such as `likelihood.0.samples=16`; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Do not call the networks to estimate the time
    #[arg(long)]
    no_timing: bool,
    #[command(flatten)]
    json: JsonArgs,
    // They are accepted so that the command line of a `run` can be planned unchanged. None of them
    // changes a plan; networks run for `steps: auto` and for the estimate of the time.
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

impl PlanArgs {
    /// The time that all trials may take. `None` if a network cannot be called, which a note says: the
    /// plan itself needs no network.
    fn estimate_time(&self, prepared: &PreparedPlan) -> Option<TimeEstimate> {
        let measure = || {
            let runtime = self.runtime_args.runtime()?;
            Executor::new(prepared, runtime, self.runtime_args.machine()).estimate_time()
        };
        measure()
            .inspect_err(|error| errln!("flowgauge: the time is not estimated: {error:#}"))
            .ok()
    }

    /// Prints each trial with its cost, and the time that all of them may take.
    ///
    /// # Errors
    /// Fails if the config, a card or the data are wrong.
    pub(super) fn execute(self) -> Result<Exit> {
        let config_file = ConfigFile::read(&self.config, &self.set)?;
        let prepared = self.runtime_args.prepare(&config_file, self.seed, None)?;
        if !self.runtime_args.quiet {
            prepared.print_notes();
        }
        let estimate = match self.no_timing {
            true => None,
            false => self.estimate_time(&prepared),
        };
        let plan = &prepared.plan;
        let mut answer = Answer::new("plan", "");
        for model in &plan.models {
            answer.say(format!("{}: {}", model.name, model.truncation));
            let given = model
                .constants
                .iter()
                .chain(&model.times)
                .chain(&model.kinks);
            given
                .for_each(|(input, value)| answer.say(format!("{}: {input}: {value}", model.name)));
        }
        prepared
            .steps
            .iter()
            .for_each(|found| answer.say(found.describe()));
        let (evaluations, products) = add_trials(&mut answer, &prepared, self.json);
        prepared
            .skipped
            .iter()
            .for_each(|what| answer.say(what.as_str()));
        let cost = format!(
            "{} trials, {evaluations} evaluations and {products} Jacobian products or head calls",
            plan.trials.len()
        );
        answer.set("name", &plan.name);
        answer.set("seed", plan.seed);
        answer.set("evaluations", evaluations);
        answer.set("jacobian_products_and_head_calls", products);
        answer.set("skipped", &prepared.skipped);
        let line = match &estimate {
            None => cost,
            Some(estimate) => {
                add_estimate(&mut answer, estimate);
                format!("{cost}; {}", describe_total(estimate))
            }
        };
        answer.set("time", estimate.as_ref().map(time_document));
        Ok(answer.ending_in(line).show(self.json, None, Exit::Success))
    }
}

/// Adds the table of the trials; returns the evaluations, and the Jacobian products and head calls, of
/// all of them.
fn add_trials(answer: &mut Answer, prepared: &PreparedPlan, json: JsonArgs) -> (u64, u64) {
    let plan = &prepared.plan;
    let mut table = AlignedTable::new([
        ("trial", Align::Right),
        ("evaluations", Align::Right),
        ("products", Align::Right),
        ("work", Align::Left),
    ]);
    let mut documents = Vec::new();
    let (mut evaluations, mut products, mut is_guessed) = (0, 0, false);
    for trial in &plan.trials {
        let cost = trial.work.cost(prepared);
        let mark = if cost.guessed { "~" } else { "" };
        let work = trial.work.describe(plan);
        table.row([
            Cell::from(trial.id.as_str()),
            format!("{mark}{}", cost.evaluations).into(),
            format!("{mark}{}", cost.products).into(),
            work.as_str().into(),
        ]);
        // The documents of many trials take far more memory than their plan.
        if json.json {
            documents.push(json!({
                "trial": trial.id,
                "kind": trial.work.kind_name(),
                "work": work,
                "evaluations": cost.evaluations,
                "jacobian_products_and_head_calls": cost.products,
                "guessed": cost.guessed,
            }));
        }
        evaluations += cost.evaluations;
        products += cost.products;
        is_guessed |= cost.guessed;
    }
    answer.table(table);
    if is_guessed {
        answer.say(
            "~ an estimate: adaptive solvers choose their own steps; for SteinDiff an upper bound, \
             since UniPC predicts once more at some steps only",
        );
    }
    answer.set("trials", documents);
    (evaluations, products)
}

/// Adds the table of the estimated time by kind of work.
fn add_estimate(answer: &mut Answer, estimate: &TimeEstimate) {
    answer.heading(format!(
        "estimated time with {} threads, from measured calls of the networks ({:.1} s)",
        estimate.threads, estimate.measuring_seconds
    ));
    let mut table = AlignedTable::new([
        ("model", Align::Left),
        ("work", Align::Left),
        ("trials", Align::Right),
        ("calls", Align::Right),
        ("ms per call", Align::Right),
        ("time", Align::Right),
        ("from", Align::Right),
        ("to", Align::Right),
        ("share", Align::Right),
    ]);
    for work in &estimate.works {
        let milliseconds = match work.calls {
            0 => "–".to_owned(),
            calls => format!("{:.3}", 1e3 * work.seconds / calls as f64),
        };
        table.row([
            Cell::from(work.model.as_str()),
            work.kind.into(),
            work.trials.to_string().into(),
            work.calls.to_string().into(),
            milliseconds.into(),
            format_duration(work.seconds).into(),
            format_duration(work.range[0]).into(),
            format_duration(work.range[1]).into(),
            format!("{:.0} %", 100.0 * work.seconds / estimate.seconds).into(),
        ]);
    }
    answer.table(table);
}

/// `about 40 s (20 s to 2 min), most of it likelihood of digits`.
fn describe_total(estimate: &TimeEstimate) -> String {
    let most = estimate
        .works
        .iter()
        .max_by(|a, b| a.seconds.total_cmp(&b.seconds))
        .map_or(String::new(), |work| {
            format!(", most of it {} of {}", work.kind, work.model)
        });
    format!(
        "about {} ({} to {}) with {} threads{most}",
        format_duration(estimate.seconds),
        format_duration(estimate.range[0]),
        format_duration(estimate.range[1]),
        estimate.threads
    )
}

fn time_document(estimate: &TimeEstimate) -> serde_json::Value {
    let work = |work: &WorkEstimate| {
        json!({
            "model": work.model,
            "kind": work.kind,
            "trials": work.trials,
            "calls": work.calls,
            "seconds": work.seconds,
            "seconds_from": work.range[0],
            "seconds_to": work.range[1],
        })
    };
    json!({
        "threads": estimate.threads,
        "measuring_seconds": estimate.measuring_seconds,
        "seconds": estimate.seconds,
        "seconds_from": estimate.range[0],
        "seconds_to": estimate.range[1],
        "works": estimate.works.iter().map(work).collect::<Vec<_>>(),
    })
}
